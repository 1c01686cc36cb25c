"""What parents must have in common to be fused, checked from headers first and from values where they are at hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kzoo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]
#: So many differing tensors are named.
_NAMED = 3
#: A classifier has a weight and a bias, and a few networks have two of them.
_OF_CLASSIFIERS = 4


@dataclass(frozen=True)
class Header:
    """What a file's header tells of a tensor: its shape, and its type as text."""

    shape: tuple[int, ...]
    dtype: str


def header_of(state: State, heads: Collection[str] = ()) -> dict[str, Header]:
    """The headers of a state dict; without the number of outputs, the first axis, of the tensors ``heads``."""
    return {
        name: Header(tuple(tensor.shape[name in heads :]), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }


def check_parents(names: Sequence[str], parents: Sequence[State], heads: Collection[str] = ()) -> None:
    """Refuse parents in memory that cannot be fused; ``names`` are what people call them.

    ``heads`` are tensors of classifiers that are joined: their numbers of outputs may differ.

    Raises:
        InputError: there is one parent only, one is given twice, architectures or types differ, or a value is NaN or
            infinite.
    """
    import torch

    check_headers(names, [header_of(parent, heads) for parent in parents])
    for number, parent in enumerate(parents):
        for before in range(number):
            if all(torch.equal(parents[before][name], tensor) for name, tensor in parent.items()):
                raise twice(names[before], names[number])
    for parent_name, parent in zip(names, parents, strict=True):
        for name, tensor in parent.items():
            check_finite(parent_name, name, tensor)


def check_headers(names: Sequence[str], headers: Sequence[Mapping[str, Header]]) -> None:
    """Refuse parents that differ in tensors, shapes or types, from headers alone.

    Raises:
        InputError: they do, or there is one parent only.
    """
    if len(headers) < 2:
        raise InputError("one network cannot be fused: expected two or more; add another parent")
    for name, header in zip(names[1:], headers[1:], strict=True):
        differing = differing_tensors(headers[0], header)
        if differing:
            way_out = (
                "if these are classifiers of other classes, put them side by side (--heads joined, and --classes once for each)"
                if _only_outputs(headers[0], header, differing)
                else "carry one over to the other with kzoo transfer, or amalgamate them into a student with --method cfl"
            )
            raise InputError(
                f"{names[0]} and {name} have different architectures: {_listed(names[0], name, headers[0], header, differing)}; "
                f"expected the same tensors: {way_out}"
            )
        mixed = next((key for key in headers[0] if headers[0][key].dtype != header[key].dtype), None)
        if mixed is not None:
            raise InputError(
                f"{mixed} is {headers[0][mixed].dtype} in {names[0]} and {header[mixed].dtype} in {name}: expected one type; "
                "convert one of them first"
            )


def differing_tensors(one: Mapping[str, Header], other: Mapping[str, Header]) -> list[str]:
    """The tensors that only one has, or whose shapes differ, in the order of the first; single values, as counters, come last."""
    names = dict.fromkeys((*one, *other))
    found = [name for name in names if name not in one or name not in other or one[name].shape != other[name].shape]
    return sorted(found, key=lambda name: not (one.get(name) or other[name]).shape)


def _only_outputs(one: Mapping[str, Header], other: Mapping[str, Header], names: Sequence[str]) -> bool:
    """Whether tensors differ as a classifier and its bias do for other numbers of classes."""
    pairs = [(one[name].shape, other[name].shape) for name in names if name in one and name in other]
    return len(pairs) == len(names) <= _OF_CLASSIFIERS and all(
        first[1:] == second[1:]
        and len(first) == len(second) > 0
        and (first[0], second[0]) == (pairs[0][0][0], pairs[0][1][0])
        for first, second in pairs
    )


def _listed(
    first: str, second: str, one: Mapping[str, Header], other: Mapping[str, Header], names: Sequence[str]
) -> str:
    def told(header: Mapping[str, Header], name: str) -> str:
        return "x".join(map(str, header[name].shape)) or "a single value"

    texts = []
    for name in names[:_NAMED]:
        if name in one and name in other:
            texts.append(f"{name} is {told(one, name)} and {told(other, name)}")
        else:
            owner, header = (first, one) if name in one else (second, other)
            texts.append(f"only {owner} has {name} ({told(header, name)})")
    more = len(names) - _NAMED
    return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")


def check_digests(names: Sequence[str], digests: Sequence[str]) -> None:
    """Refuse a parent that is given twice, by the sha256 of weights.

    Raises:
        InputError: two digests are equal.
    """
    first: dict[str, str] = {}
    for name, digest in zip(names, digests, strict=True):
        if digest in first:
            raise twice(first[digest], name)
        first[digest] = name


def twice(one: str, other: str) -> InputError:
    """What is said of a parent that is given a second time."""
    same = f"{one} is given twice" if one == other else f"{one} and {other} have the same weights"
    return InputError(f"{same}: expected different networks; leave one out")


def check_finite(parent: str, name: str, values: Tensor) -> None:
    """Refuse entries of a parent's tensor that are NaN or infinite.

    Raises:
        InputError: there are such.
    """
    import torch

    if values.is_floating_point() and not torch.isfinite(values).all():
        raise not_finite(parent, name, "NaN" if torch.isnan(values).any() else "infinite")


def not_finite(parent: str, name: str, what: str) -> InputError:
    """What is said of a parent's tensor that holds values that are ``NaN`` or ``infinite``."""
    return InputError(
        f"{name} of {parent} holds values that are {what}: expected finite weights; leave this parent out"
    )


def check_fused(name: str, values: Tensor) -> None:
    """Refuse entries of a fused tensor that are NaN or infinite, though those of the parents were finite.

    Raises:
        InputError: there are such.
    """
    if values.is_floating_point() and not values.isfinite().all():
        raise not_fused(name, str(values.dtype).removeprefix("torch."))


def not_fused(name: str, dtype: str) -> InputError:
    """What is said of a fused tensor that is not finite."""
    return InputError(
        f"{name:.80} of the fused network would hold values that {dtype} does not have (infinite or NaN): its sum is too large, or "
        "the images hold such values; choose the average, other images, or convert the networks to float32 first"
    )


def check_start(start: State, like: State, heads: Collection[str] = ()) -> None:
    """Refuse a common start that is another network's than the parents'; classifiers that are joined may be of any size.

    Raises:
        InputError: a tensor is missing in it, or differs in shape.
    """
    for name, tensor in like.items():
        if name not in heads and (name not in start or start[name].shape != tensor.shape):
            raise InputError(
                f"the start is no network like the parents: its {name:.80} "
                f"{'differs in shape' if name in start else 'is missing'}; give the weights that all of them began with"
            )


def check_classes(names: Sequence[str], classes: Sequence[Sequence[str]]) -> None:
    """Refuse parents that share one classifier and do not mean the same by its outputs.

    Raises:
        InputError: their lists of classes differ.
    """
    for name, known in zip(names[1:], classes[1:], strict=True):
        first = list(classes[0])
        if list(known) != first:
            place = next(
                (at for at, (one, other) in enumerate(zip(first, known, strict=False)) if one != other),
                min(len(first), len(known)),
            )
            raise InputError(
                f"{names[0]} and {name} name the outputs of their shared classifier differently (output {place} is "
                f"{_class(first, place)} and {_class(known, place)}): expected one list of classes; give each its own outputs (--heads joined)"
            )


def _class(classes: Sequence[str], place: int) -> str:
    return repr(classes[place])[:80] if place < len(classes) else "missing"

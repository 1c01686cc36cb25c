"""Classifiers of parents that know different classes: one over the union of what they know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kzoo.errors import InputError
from kzoo.methods.fusion.rules import mean

State = Mapping[str, Tensor]


def union_of_classes(classes: Sequence[Sequence[str]]) -> list[str]:
    """All classes in the order in which they are first named.

    Raises:
        InputError: a parent names a class twice, or none.
    """
    for number, names in enumerate(classes, start=1):
        if not names:
            raise InputError(f"parent {number} has no classes: name what its outputs stand for, in order")
        twice = next((name for name in names if list(names).count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"parent {number} names the class {twice!r:.80} twice: every output needs a name of its own"
            )
    return list(dict.fromkeys(name for names in classes for name in names))


def split_classifier(state: State, classifier: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict's trunk, and the tensors of its classifier by their own names (``weight``, ``bias``).

    Raises:
        InputError: there is no such layer.
    """
    prefix = f"{classifier}."
    head = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if "weight" not in head or head.keys() - {"weight", "bias"}:
        raise InputError(
            f"{classifier!r:.80} is not a layer with a weight and a bias: name the last layer of the parents"
        )
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}, head


def join_classifiers(heads: Sequence[State], classes: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """One classifier over the union of classes: the rows of each class, their mean where several parents know it.

    Raises:
        InputError: heads and classes do not fit each other, or only some heads have a bias.
    """
    union = union_of_classes(classes)
    if len(heads) != len(classes):
        raise InputError(
            f"there are {len(heads)} parents and {len(classes)} lists of classes: give those of each parent"
        )
    for number, (head, names) in enumerate(zip(heads, classes, strict=True), start=1):
        if len(head["weight"]) != len(names):
            raise InputError(
                f"the classifier of parent {number} has {len(head['weight'])} outputs and {len(names)} classes: name each output"
            )
        if head["weight"].shape[1:] != heads[0]["weight"].shape[1:] or head.keys() != heads[0].keys():
            raise InputError(
                f"the classifier of parent {number} takes {tuple(head['weight'].shape[1:])} "
                f"{'with' if 'bias' in head else 'without'} a bias, that of parent 1 "
                f"{tuple(heads[0]['weight'].shape[1:])} {'with' if 'bias' in heads[0] else 'without'} one: expected the same"
            )
    joined: dict[str, Tensor] = {}
    for part, like in heads[0].items():
        rows = [
            mean([head[part][names.index(name)] for head, names in _knowing(heads, classes, name)]) for name in union
        ]
        joined[part] = torch.stack(rows).to(like.dtype)
    return joined


def _knowing(heads: Sequence[State], classes: Sequence[Sequence[str]], name: str) -> list[tuple[State, list[str]]]:
    return [(head, list(names)) for head, names in zip(heads, classes, strict=True) if name in names]


def fuse_private(
    parents: Sequence[State],
    classes: Sequence[Sequence[str]],
    classifier: str,
    fuse_trunks: Callable[[Sequence[State]], State],
) -> tuple[dict[str, Tensor], list[str]]:
    """Parents with a classifier each: the trunks fused, the classifiers joined over the union of classes, which is given too.

    Raises:
        InputError: there is no such classifier, or the classes do not fit.
    """
    parts = [split_classifier(parent, classifier) for parent in parents]
    joined = join_classifiers([head for _, head in parts], classes)
    trunk = fuse_trunks([trunk for trunk, _ in parts])
    named = {f"{classifier}.{name}": tensor for name, tensor in joined.items()}
    return {name: named.get(name, trunk.get(name)) for name in parents[0]}, union_of_classes(classes)  # type: ignore[misc]

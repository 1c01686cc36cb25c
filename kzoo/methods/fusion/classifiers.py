"""Classifiers of parents that know different classes: one over the union of what they know.

A parent's classifier is first brought to the union's outputs, with zeros for what the parent does not know, so that all
parents are of one architecture; behind the fused trunk each class then gets the rows of the parents that know it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.rules import mean
from kzoo.training.evaluation import evaluation_mode

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


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


def expanded(head: Tensor, names: Sequence[str], union: Sequence[str]) -> Tensor:
    """A classifier's weight or bias (outputs first) with the outputs of the union: zeros where the parent knows nothing.

    Raises:
        InputError: it has not as many outputs as names.
    """
    check_outputs("a network", [head], names)
    wide = head.new_zeros(len(union), *head.shape[1:])
    wide[[union.index(name) for name in names]] = head
    return wide


def check_outputs(parent: str, heads: Sequence[Tensor], names: Sequence[str]) -> None:
    """Refuse names that are not as many as the outputs of a parent's classifiers.

    Raises:
        InputError: they are more or fewer.
    """
    odd = next((head for head in heads if len(head) != len(names)), None)
    if odd is not None:
        raise InputError(
            f"the classifier of {parent} has {len(odd)} outputs, and {len(names)} classes are named: name each output, in order"
        )


def joined(heads: Sequence[Tensor], classes: Sequence[Sequence[str]]) -> Tensor:
    """One classifier's weight or bias of several over the union's outputs: of each class what the parents that know it have.

    Where several know it, that is their mean.
    """
    union = union_of_classes(classes)
    rows = [
        mean([head[place] for head, names in zip(heads, classes, strict=True) if name in names])
        for place, name in enumerate(union)
    ]
    return torch.stack(rows).to(heads[0].dtype)


def output_layer(module: nn.Module, example: Tensor) -> str:
    """The name of the layer whose outputs are the network's.

    Raises:
        InputError: no single layer gives them.
    """
    found: dict[str, Tensor] = {}
    handles = [
        part.register_forward_hook(lambda _part, _taken, output, name=name: found.__setitem__(name, output))
        for name, part in module.named_modules()
        if isinstance(part, _LAYERS)
    ]
    try:
        with torch.no_grad(), evaluation_mode(module):
            given = module(example)
    finally:
        for handle in handles:
            handle.remove()
    same = [name for name, output in found.items() if output.numel() == given.numel() and _same(output, given)]
    if not same:
        raise InputError(
            f"no single layer of {type(module).__name__} gives its outputs, so its classifier cannot be told from its trunk: "
            "fuse networks whose last layer is their classifier, or files of networks that kzoo knows (kzoo fuse)"
        )
    return same[-1]


def _same(output: Tensor, given: Tensor) -> bool:
    return torch.equal(output.reshape(-1), given.reshape(-1))


def widened(module: nn.Module, name: str, names: Sequence[str], union: Sequence[str]) -> None:
    """Give a network's classifier the outputs of the union, in place.

    Raises:
        InputError: it has not as many outputs as names.
    """
    layer = module.get_submodule(name)
    for part, tensor in layer.named_parameters(recurse=False):
        setattr(layer, part, nn.Parameter(expanded(tensor.detach(), names, union), requires_grad=tensor.requires_grad))
    for size in ("out_features", "out_channels"):
        if hasattr(layer, size):
            setattr(layer, size, len(union))


def expanded_state(
    state: Mapping[str, Tensor], heads: Sequence[str], names: Sequence[str], union: Sequence[str]
) -> dict[str, Tensor]:
    """Tensors by name, those of ``heads`` with the outputs of the union."""
    return {name: expanded(tensor, names, union) if name in heads else tensor for name, tensor in state.items()}

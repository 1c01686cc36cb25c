"""Batch normalisation before fusion: folded into the layer before it, so that all of a parent lies in weights and biases.

Scales and variances cannot be summed; once they are part of the weights, every variant of weight summation applies. Instead
of that `fuse_states` averages them, and `kzoo.training.evaluation.recalibrate` measures the statistics anew on images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kzoo.edits import copied
from kzoo.graph.program import Operation, Program, Value, example_copy, traced
from kzoo.methods.probing import example_images

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_OPERATIONS = frozenset(
    {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
)


def fold_batchnorm(
    module: nn.Module,
    example: Tensor | Sequence[Any] | None = None,
    *,
    keep_norms: bool = False,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> nn.Module:
    """A copy of a network that gives the same in evaluation mode, without the batch normalisations that `foldable` lists.

    The layer before takes the scale, and a bias for the shift. With ``keep_norms`` the network keeps its structure and the
    names of its tensors: a normalisation remains whose statistics are mean 0 and variance 1, whose scale is 1, and whose
    shift is the bias. Normalisations of a kind that does more than normalise remain like that in any case. ``pairs`` are what
    `foldable` found of a network of this architecture, which then is not traced again.

    Raises:
        InputError: the network cannot be traced on ``example`` (noise where it is not given).
    """
    folded = copied(module)
    with torch.no_grad():
        for layer, norm in foldable(module, example) if pairs is None else pairs:
            _fold(folded, layer, norm, keep_norms)
    return folded


def foldable(module: nn.Module, example: Tensor | Sequence[Any] | None = None) -> list[tuple[str, str]]:
    """The layers whose outputs nothing but a batch normalisation takes, each with that one: paths in the network.

    A normalisation that comes before its convolution, as in DenseNet, is behind no layer.

    Raises:
        InputError: the network cannot be traced.
    """
    given = example_images(module) if example is None else example
    inputs = (given,) if isinstance(given, Tensor) else tuple(given)
    return list(_pairs(module, traced(module, example_copy(inputs))))


def _pairs(module: nn.Module, program: Program) -> Iterator[tuple[str, str]]:
    made = {operation.result: operation for operation in program.operations}
    uses = Counter(value for operation in program.operations for value in operation.inputs)
    uses.update(program.outputs)
    parts = dict(module.named_modules(remove_duplicate=False))
    for operation in program.operations:
        if operation.name != "batch_norm" or operation.arguments.get("running_mean") is None:
            continue
        before = made.get(operation.arguments["input"])
        if before is None or before.name not in _OPERATIONS or uses[before.result] != 1:
            continue
        layer = _owner(before.arguments["weight"], uses)
        norm = _owner(operation.arguments["running_mean"], uses)
        if layer is None or norm is None or not _fits(before):
            continue
        if isinstance(parts.get(layer), _LAYERS) and isinstance(parts.get(norm), _BatchNorm):
            yield layer, norm


def _owner(value: Value, uses: Counter[Value]) -> str | None:
    """The path of the module that alone uses a tensor of its own."""
    return None if value.name is None or uses[value] != 1 else value.name.rpartition(".")[0]


def _fits(operation: Operation) -> bool:
    """Whether the features of a layer are the channels that batch normalisation sees."""
    return operation.name != "linear" or len(operation.result.shape or ()) == 2


def _fold(module: nn.Module, path: str, norm_path: str, keep: bool) -> None:
    layer, norm = module.get_submodule(path), module.get_submodule(norm_path)
    assert isinstance(layer, _LAYERS) and isinstance(norm, _BatchNorm)
    rest = None if keep else _without_norm(norm)
    if rest is None and not norm.affine:
        return
    scale, shift = _affine(norm)
    if layer.bias is not None:
        shift = shift + scale * layer.bias.double()
    layer.weight.copy_(_scaled(layer, scale))
    if rest is not None:
        layer.bias = nn.Parameter(shift.to(layer.weight.dtype), layer.weight.requires_grad)
        parent, _, name = norm_path.rpartition(".")
        setattr(module.get_submodule(parent), name, rest.train(norm.training))
        return
    if layer.bias is not None:
        layer.bias.zero_()
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.fill_(1)
    norm.bias.copy_(shift)


def _without_norm(norm: _BatchNorm) -> nn.Module | None:
    """What a batch normalisation does beside normalising; None where that is not known."""
    if type(norm) in _PLAIN:
        return nn.Identity()
    # timm's come with an activation.
    rest = [getattr(norm, name, None) for name in ("drop", "act")]
    known = [part for part in rest if isinstance(part, nn.Module)]
    return nn.Sequential(*known) if len(known) == len(rest) else None


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch normalisation multiplies with and adds, in evaluation mode, in double precision."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


def _scaled(layer: Any, scale: Tensor) -> Tensor:
    """A layer's weight with every output channel multiplied."""
    weight: Tensor = layer.weight.double()
    if not isinstance(layer, _TRANSPOSED):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    # Inputs x outputs of a group: the outputs of one group after the other.
    parts = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return (parts * scale.reshape(layer.groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)

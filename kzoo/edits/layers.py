"""Layers that edits insert, made from a description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.edits.values import MOST_CHANNELS, MOST_KERNEL, count_of, flag_of, require_keys, require_size
from kzoo.errors import InputError

#: What the description of an inserted layer may hold. ``kind`` is ``linear`` or ``conv1d`` to ``conv3d``; ``inputs`` and
#: ``outputs`` count features or channels; ``activation`` is one of `ACTIVATIONS`; ``norm`` is the epsilon of a batch
#: normalisation between layer and activation; ``residual`` makes it a shortcut around two layers; ``last`` says that
#: channels lie on the last axis.
LAYER_KEYS = ("kind", "inputs", "outputs", "kernel", "groups", "bias", "norm", "activation", "residual", "last")
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
}
_CONVOLUTIONS = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
_NORMS = {"linear": nn.BatchNorm1d, "conv1d": nn.BatchNorm1d, "conv2d": nn.BatchNorm2d, "conv3d": nn.BatchNorm3d}


def layer_parts(layer: object) -> dict[str, nn.Module]:
    """The modules of a described layer in their order: ``layer``, and ``norm``, ``act``, ``out`` where it has them.

    Raises:
        InputError: the description is malformed or asks for something too large.
    """
    if not isinstance(layer, Mapping):
        raise InputError(f"layer is {layer!r:.80}: expected a mapping with kind, inputs, outputs and activation")
    require_keys(layer, {"kind", "inputs", "outputs", "activation"}, set(LAYER_KEYS))
    kind, activation = layer["kind"], layer["activation"]
    if not isinstance(kind, str) or kind not in _NORMS:
        raise InputError(f"layer kind {kind!r:.80} is not possible: expected one of {', '.join(_NORMS)}")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(f"activation {activation!r:.80} is not possible: expected one of {', '.join(ACTIVATIONS)}")
    inputs, outputs = (count_of(layer, key, MOST_CHANNELS) for key in ("inputs", "outputs"))
    norm = layer.get("norm")
    if norm is not None and (isinstance(norm, bool) or not isinstance(norm, (int, float)) or not 0 < norm <= 1):
        raise InputError(f"norm={norm!r:.80} is not possible: expected the epsilon of a batch normalisation, 0 to 1")
    residual = flag_of(layer, "residual")
    if residual and inputs != outputs:
        raise InputError(f"a residual layer of {inputs} inputs and {outputs} outputs is not possible: expected as many")
    parts: dict[str, nn.Module] = {"layer": _affine(layer, kind, inputs, outputs)}
    if norm is not None:
        parts["norm"] = _NORMS[kind](outputs, eps=float(norm))
    if activation != "identity":
        parts["act"] = ACTIVATIONS[activation]()
    if residual:
        parts["out"] = _affine(layer, kind, outputs, outputs)
    return parts


def _affine(layer: Mapping[str, Any], kind: str, inputs: int, outputs: int) -> nn.Module:
    bias = flag_of(layer, "bias", True)
    if kind == "linear":
        require_size(inputs * outputs)
        return nn.Linear(inputs, outputs, bias=bias)
    kernel = count_of(layer, "kernel", MOST_KERNEL) if "kernel" in layer else 3
    groups = count_of(layer, "groups", MOST_CHANNELS) if "groups" in layer else 1
    if kernel % 2 == 0:
        raise InputError(f"a kernel of {kernel} has no middle: expected an odd number")
    if inputs % groups or outputs % groups:
        raise InputError(f"{groups} groups do not divide {inputs} inputs and {outputs} outputs: give another number")
    axes = int(kind[4])
    require_size(inputs // groups * outputs * kernel**axes)
    found: nn.Module = _CONVOLUTIONS[kind](inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)
    return found


def take_inputs(there: nn.Module, layer: Mapping[str, Any], name: str) -> None:
    """Let the layer behind an inserted one take that one's outputs; a new weight, if they are not as many as before."""
    found = layer_inputs(there)
    inputs, outputs = layer["inputs"], layer["outputs"]
    if found is None or found != inputs:
        has = "no inputs that can be counted" if found is None else f"{found} inputs"
        raise InputError(
            f"{name!r:.120} is a {type(there).__name__} with {has}, not {inputs}: expected a layer with as many"
        )
    if inputs == outputs:
        return
    weight = there.weight
    assert isinstance(weight, Tensor)
    if isinstance(there, nn.Linear):
        there.in_features = outputs
    elif isinstance(there, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if there.groups != 1:
            raise InputError(
                f"{name!r:.120} has {there.groups} groups: a layer before it must keep its {inputs} inputs"
            )
        there.in_channels = outputs
    require_size(weight.numel() // inputs * outputs)
    shape = (weight.shape[0], outputs, *weight.shape[2:])
    there.weight = nn.Parameter(torch.empty(shape, dtype=weight.dtype, device=weight.device), weight.requires_grad)
    if not there.weight.is_meta:
        nn.init.kaiming_uniform_(there.weight, a=5**0.5)


def add_bias(layer: nn.Module) -> None:
    """Give a layer that has none a bias of zeros."""
    assert isinstance(layer.weight, Tensor)
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.detach().new_zeros(len(layer.weight)))


def layer_inputs(layer: nn.Module) -> int | None:
    """How many features or channels a layer takes; None for what is neither linear nor a convolution."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None

"""Activations by name: their values, slopes and inverses, and from where on they hand their input on."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from kzoo.edits import ACTIVATIONS

#: Bisection halves an interval of 100 so often.
_HALVINGS = 60
# Where the activations that first fall and then rise are lowest: to the right of it they have an inverse.
_LOWEST = {"gelu": -0.7517915, "gelu_tanh": -0.7524614, "silu": -1.2784645, "mish": -1.1924320, "hardswish": -1.5}
#: How nearly an activation must give its input back to count as linear, how far that is looked for, and in what steps.
_LINEAR, _FARTHEST, _STEP = 1e-6, 40.0, 0.125


def apply_activation(name: str, values: Tensor) -> Tensor:
    """The activation of that name (see `kzoo.edits.ACTIVATIONS`) at every value."""
    found: Tensor = ACTIVATIONS[name]()(values)
    return found


def inverse(name: str, outputs: Tensor, clamp: float) -> Tensor:
    """Pre-activations that give ``outputs``, as nearly as there are any; always finite.

    ReLU takes its outputs for its inputs. Bounded activations are clamped ``clamp`` away from their bounds. Those that first
    fall and then rise (GELU, SiLU, ...) are inverted where they rise.
    """
    outputs = outputs.double()
    if name in ("identity", "relu", "relu6"):
        return outputs
    if name == "sigmoid":
        return torch.logit(outputs.clamp(clamp, 1 - clamp))
    if name == "tanh":
        return torch.atanh(outputs.clamp(-1 + clamp, 1 - clamp))
    if name == "leaky_relu":
        slope = nn.LeakyReLU().negative_slope
        return torch.where(outputs < 0, outputs / slope, outputs)
    if name == "elu":
        return torch.where(outputs < 0, torch.log1p(outputs.clamp(min=-1 + clamp)), outputs)
    if name == "softplus":
        low = outputs.clamp(min=clamp)
        return low + torch.log(-torch.expm1(-low))
    return _bisected(name, outputs)


def _bisected(name: str, outputs: Tensor) -> Tensor:
    low = torch.full_like(outputs, _LOWEST[name])
    high = outputs.abs() + 3.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = apply_activation(name, middle) > outputs
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def slope(name: str, values: Tensor) -> Tensor:
    """The derivative of an activation at every value."""
    with torch.enable_grad():
        leaf = values.detach().double().requires_grad_()
        (found,) = torch.autograd.grad(apply_activation(name, leaf).sum(), leaf)
    return found


@cache
def linear_from(name: str) -> float | None:
    """The value from which on an activation gives its input back, up to a millionth; None for those that never do."""
    values = torch.arange(-_STEP, _FARTHEST, _STEP, dtype=torch.float64)
    missed = (apply_activation(name, values) - values).abs() > _LINEAR * values.abs().clamp(min=1)
    if missed[-1]:
        return None
    return float(values[missed.nonzero().max() + 1]) if missed.any() else float("-inf")

"""Weights as training leaves them: fresh initialisation hides errors, since much of it is zero, one or the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_FEW = 1e-4


@torch.no_grad()
def make_realistic(module: nn.Module, images: Tensor | None = None, seed: int = 0) -> nn.Module:
    """Change the weights and statistics of ``module`` in place, so that no two channels are alike and none is silent.

    Matrices get noise of a third of their standard deviation, scales are spread around one, shifts around zero. The
    statistics of batch normalisation are those of ``images``, where there are some, and are moved a little.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).clamp(-2, 2).to(tensor)

    for parameter in module.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        if parameter.ndim > 1 and spread > _FEW:
            parameter.add_(drawn(parameter) * spread / 3)
        elif float(parameter.abs().mean()) > 0.5:
            parameter.mul_(1 + 0.3 * drawn(parameter))
        else:
            # Zeros, and the near zeros of a fresh layer scale.
            parameter.add_(drawn(parameter) * (0.02 if parameter.ndim > 1 else 0.2))
    if images is not None:
        _calibrate(module, images)
    for part in _with_statistics(module):
        part.running_mean.add_(0.2 * drawn(part.running_mean) * part.running_var.sqrt())
        part.running_var.mul_(torch.exp(0.3 * drawn(part.running_var)))
    return module


def _with_statistics(module: nn.Module) -> list[Any]:
    kinds = ("running_mean", "running_var")
    return [part for part in module.modules() if all(isinstance(getattr(part, kind, None), Tensor) for kind in kinds)]


def _calibrate(module: nn.Module, images: Tensor) -> None:
    """Statistics of other data than a network's own let its numbers grow until single precision cannot hold them."""
    norms = _with_statistics(module)
    momenta, training = [norm.momentum for norm in norms], module.training
    for norm in norms:
        norm.momentum = 1.0
    module.train()(images)
    module.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        # Few images leave some channels next to no variance.
        norm.running_var.add_(0.1 * norm.running_var.mean())


def without_chance(module: nn.Module) -> nn.Module:
    """Turn off dropout and stochastic depth, in place."""
    for part in module.modules():
        kind = type(part).__name__.lower()
        for name in ("p", "drop_prob", "drop_rate", "attn_drop", "attn_drop_rate", "attn_dropout", "dropout"):
            is_chance = name != "p" or "drop" in kind or "stochastic" in kind
            if is_chance and isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return module

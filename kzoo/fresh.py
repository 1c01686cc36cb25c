"""Fresh values for the layers of a network whose structure was changed."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def reset(module: nn.Module) -> None:
    """Fresh values for a module's layers, in place, from torch's generator.

    Convolutions get He et al.'s (fan out), linear layers a truncated normal of 0.02, as most networks of timm do; other
    layers reset themselves, and normalisations become those of a new network. A parameter that no layer resets, such as a
    table of positions or a temperature, keeps its value.
    """
    for part in module.modules():
        if isinstance(part, _CONVOLUTIONS):
            fan_out = part.out_channels // part.groups * math.prod(part.kernel_size)
            part.weight.normal_(0, math.sqrt(2 / fan_out))
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding, _BatchNorm)):
            part.reset_parameters()

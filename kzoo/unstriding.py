"""A block that keeps the shape of its input, made from one that begins a stage: no stride, as many inputs as outputs."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kzoo.errors import InputError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: What libraries call the way around the branches of a block, where it changes the shape.
_SHORTCUTS = ("downsample", "shortcut", "shortcut_conv", "proj")
#: What they call the switch that tells whether a block has such a way at all.
_SWITCHES = ("has_skip", "has_residual", "use_res_connect", "use_res", "use_shortcut", "add_identity", "residual")
#: How the way around looks afterwards: a module that does nothing, or no module.
FORMS = ("identity", "none")


def unstride(block: nn.Module, inputs: int, outputs: int, form: str) -> nn.Module:
    """Change a block of ``inputs`` to ``outputs`` channels, in place, into one of ``outputs`` to ``outputs``, without stride.

    Whether what comes out can be run depends on the block; try it. New weights are not initialised.

    Raises:
        InputError: it has no convolution of that many inputs.
    """
    for name, part in block.named_modules():
        if isinstance(part, _CONVOLUTIONS):
            part.stride = (1,) * len(part.stride)
        elif type(vars(part).get("stride")) is int:
            # Blocks remember it without using it again.
            part.stride = 1
        for switch in _SWITCHES:
            if isinstance(getattr(part, switch, None), bool):
                setattr(part, switch, True)
        if name.count(".") == 0:
            for shortcut in _SHORTCUTS:
                if isinstance(part._modules.get(shortcut), nn.Module):
                    setattr(part, shortcut, nn.Identity() if form == "identity" else None)
    for name, part in list(block.named_modules()):
        if "pool" in type(part).__name__.lower() and getattr(part, "stride", 1) not in (1, (1, 1), [1, 1]):
            parent, _, child = name.rpartition(".")
            block.get_submodule(parent).add_module(child, nn.Identity())
    if inputs != outputs:
        _widen_inputs(block, inputs, outputs)
    return block


def _widen_inputs(block: nn.Module, inputs: int, outputs: int) -> None:
    """Let the first layers, up to the first that mixes channels, take as many channels as the block gives."""
    for part in block.modules():
        if isinstance(part, _BatchNorm) and part.num_features == inputs:
            part.__dict__["num_features"] = outputs
            _resize(part, inputs, outputs)
        elif isinstance(part, (nn.LayerNorm, nn.GroupNorm)) and part.weight is not None and len(part.weight) == inputs:
            if isinstance(part, nn.LayerNorm):
                part.normalized_shape = (outputs,)
            else:
                part.num_channels = outputs
            _resize(part, inputs, outputs)
        elif isinstance(part, _CONVOLUTIONS) and part.in_channels == inputs:
            depthwise = part.groups == part.in_channels == part.out_channels
            groups = part.groups
            part.in_channels = outputs
            if depthwise:
                part.groups = part.out_channels = outputs
                _resize(part, inputs, outputs)
                continue
            if outputs % groups:
                break
            shape = (part.weight.shape[0], outputs // groups, *part.weight.shape[2:])
            part.weight = nn.Parameter(part.weight.detach().new_zeros(shape))
            return
    raise InputError(f"its block has no convolution of {inputs} inputs that could take {outputs}")


def _resize(part: nn.Module, inputs: int, outputs: int) -> None:
    """Vectors and tensors of ``inputs`` entries along their first axis get ``outputs``."""
    for name, value in list(part.named_parameters(recurse=False)):
        if value.ndim and value.shape[0] == inputs:
            setattr(part, name, nn.Parameter(value.detach().new_ones((outputs, *value.shape[1:]))))
    for name, buffer in list(part.named_buffers(recurse=False)):
        if buffer.ndim and buffer.shape[0] == inputs:
            setattr(part, name, buffer.new_ones((outputs, *buffer.shape[1:])))

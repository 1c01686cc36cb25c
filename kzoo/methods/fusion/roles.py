"""What a tensor of a state dict is to fusion: a weight or bias, a part of a normalisation, another buffer, or no number."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Protocol

_STATISTICS = ("running_mean", "running_var")
#: Names of scales and shifts of single channels, of normalisations, residual branches (layer scale), attention and weights.
_SCALES = re.compile(r"(?:gamma|scale|layer_scale|logit_scale|ls|gain|alpha|temperature|beta)_?\d*", re.ASCII)


class Type(Protocol):
    """What a tensor's entries are: a ``torch.dtype``, or something that knows the same."""

    @property
    def is_floating_point(self) -> bool:
        """Whether they are floating-point numbers."""

    @property
    def is_complex(self) -> bool:
        """Whether they are complex numbers."""


class Role(Enum):
    """What a tensor is.

    Weights and biases are what a method fuses. Scales and shifts of normalisations, and buffers, are averaged whatever the
    method: their sum means nothing. Running statistics have a formula of their own, and what holds no fractions, as
    counters and masks, is the first parent's.
    """

    WEIGHT = "weight"
    BIAS = "bias"
    SCALE = "scale"
    SHIFT = "shift"
    MEAN = "running_mean"
    VARIANCE = "running_var"
    BUFFER = "buffer"
    WHOLE = "whole"


#: The roles that methods fuse; all others are treated alike by every method.
LEARNED = frozenset({Role.WEIGHT, Role.BIAS})


def roles_of(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, Type], buffers: Collection[str] = ()
) -> dict[str, Role]:
    """The role of each tensor, told from names, shapes and types alone, as a file's header has them.

    ``buffers`` names those that are known to be no parameters. A ``weight`` of one axis is a normalisation's scale,
    and the ``bias`` beside it its shift.
    """
    return {name: _role(name, shape, dtypes[name], shapes, buffers) for name, shape in shapes.items()}


def _role(
    name: str,
    shape: tuple[int, ...],
    dtype: Type,
    shapes: Mapping[str, tuple[int, ...]],
    buffers: Collection[str],
) -> Role:
    prefix, _, last = name.rpartition(".")
    beside = f"{prefix}." if prefix else ""
    if not (dtype.is_floating_point or dtype.is_complex):
        return Role.WHOLE
    if last in _STATISTICS:
        return Role.MEAN if last == "running_mean" else Role.VARIANCE
    if name in buffers:
        return Role.BUFFER
    single = sum(size > 1 for size in shape) <= 1
    if (last == "weight" and len(shape) == 1) or (single and _SCALES.fullmatch(last)):
        return Role.SCALE
    if last == "bias":
        return Role.SHIFT if len(shapes.get(f"{beside}weight", (0, 0))) == 1 else Role.BIAS
    return Role.WEIGHT


def mean_beside(name: str) -> str:
    """The name of the running mean that belongs to a running variance."""
    return name.removesuffix("running_var") + "running_mean"

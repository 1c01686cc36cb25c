"""Tensors as boxes whose sides are sets of channels: what permutations, and the search for them, work on.

An axis that joins or merges channels (concatenation, heads x width) falls into boxes: every box is a part of the tensor that
is read with strides, and each of its sides is one set of channels or none. Nothing is copied to look at a box.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from kzoo.graph import Axis, Fixed, Group, Sum


@dataclass(frozen=True)
class Side:
    """One side of a box: the set of channels along it (None: none), its length, its step in its axis, and that axis."""

    group: int | None
    size: int
    step: int
    axis: int


@dataclass(frozen=True)
class Box:
    """A part of a tensor: where it starts in each axis, and its sides in the order of the axes."""

    starts: tuple[int, ...]
    sides: tuple[Side, ...]

    def view(self, tensor: Tensor) -> Tensor:
        """The box in a contiguous tensor, one dimension for each side; writing to it writes to the tensor."""
        strides = tensor.stride()
        first = tensor.storage_offset() + sum(
            start * stride for start, stride in zip(self.starts, strides, strict=True)
        )
        return tensor.as_strided(
            [side.size for side in self.sides], [side.step * strides[side.axis] for side in self.sides], first
        )

    def places(self, group: int) -> list[int]:
        """The sides along which a set of channels lies."""
        return [place for place, side in enumerate(self.sides) if side.group == group]

    def outer(self, place: int, group: int) -> int | None:
        """The side of ``group`` that tells in which of its channels an entry of another side is: of its own axis first."""
        found = self.places(group)
        own = [other for other in found if self.sides[other].axis == self.sides[place].axis]
        return next(iter(own or found), None)


def boxes(axes: Sequence[Axis]) -> Iterator[Box]:
    """The boxes of a tensor with these axes; every entry is in one of them."""
    for parts in product(*(list(_runs(axis)) for axis in axes)):
        sides = tuple(
            Side(group, size, step, axis)
            for axis, (_, run) in enumerate(parts)
            for group, size, step in run
            if size > 1 or group is not None
        )
        yield Box(tuple(start for start, _ in parts), sides)


_Run = tuple[int, tuple[tuple[int | None, int, int], ...]]


def _runs(axis: Axis) -> Iterator[_Run]:
    """The parts of an axis that are products of sets: their start, and group, size and step of each factor."""
    if isinstance(axis, Fixed):
        yield 0, ((None, axis.size, 1),)
    elif isinstance(axis, Group):
        yield 0, ((axis.index, axis.size, 1),)
    elif isinstance(axis, Sum):
        start = 0
        for part in axis.parts:
            for first, run in _runs(part):
                yield start + first, run
            start += part.size
    else:
        for parts in product(*(list(_runs(part)) for part in axis.parts)):
            steps = [math.prod(part.size for part in axis.parts[place + 1 :]) for place in range(len(parts))]
            start = sum(first * step for (first, _), step in zip(parts, steps, strict=True))
            yield (
                start,
                tuple(
                    (group, size, inner * step)
                    for (_, run), step in zip(parts, steps, strict=True)
                    for group, size, inner in run
                ),
            )


def permuted(
    box: Box,
    view: Tensor,
    permutation: Mapping[int, Tensor],
    within: Mapping[int, int | None],
    kept: Collection[int] = (),
) -> Tensor:
    """A box with its channels permuted: entry i along a side is what was at ``permutation[group][i]``.

    A set ``within`` another one has a permutation for each channel of that one (a row each): they are taken after that one
    is permuted. The sides ``kept`` stay as they are.
    """
    nested = []
    for place, side in enumerate(box.sides):
        if place in kept or side.group is None or side.group not in permutation:
            continue
        if within.get(side.group) is None:
            view = view.index_select(place, permutation[side.group])
        else:
            nested.append(place)
    for place in nested:
        group = box.sides[place].group
        assert group is not None
        outer = box.outer(place, within[group] or 0)
        assert outer is not None
        view = take(view, permutation[group], outer, place)
    return view


def take(view: Tensor, index: Tensor, outer: int, place: int) -> Tensor:
    """Entries along ``place``, chosen for each index along ``outer`` by a row of ``index``."""
    shape = [1] * view.ndim
    shape[outer], shape[place] = index.shape
    index = index if outer < place else index.T
    return torch.take_along_dim(view, index.reshape(shape), place)

"""What becomes of axes when groups are widened: their sizes, and where each entry comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from kzoo.graph.axes import Axis, Fixed, Group, Product, Sum, product


def new_size(axis: Axis, sizes: Mapping[int, int]) -> int:
    """The number of entries of an axis once its groups have the new ``sizes``; groups without one stay."""
    if isinstance(axis, Fixed):
        return axis.size
    if isinstance(axis, Group):
        return sizes.get(axis.index, axis.size)
    parts = [new_size(part, sizes) for part in axis.parts]
    if isinstance(axis, Sum):
        return sum(parts)
    found = 1
    for size in parts:
        found *= size
    return found


def sources(axis: Axis, maps: Mapping[int, Tensor]) -> Tensor:
    """For each entry of the widened axis, the entry of the old one that it copies."""
    if isinstance(axis, Group) and axis.index in maps:
        return maps[axis.index]
    if isinstance(axis, (Fixed, Group)):
        return torch.arange(axis.size)
    if isinstance(axis, Sum):
        starts = [0]
        for part in axis.parts:
            starts.append(starts[-1] + part.size)
        return torch.cat([sources(part, maps) + start for part, start in zip(axis.parts, starts, strict=False)])
    found = torch.zeros(1, dtype=torch.long)
    for part in axis.parts:
        found = (found[:, None] * part.size + sources(part, maps)[None, :]).flatten()
    return found


def positions(axis: Axis, group: int, sizes: Mapping[int, int]) -> Tensor:
    """For each entry of the widened axis, the channel of ``group`` that it belongs to; -1 where it is outside."""
    if isinstance(axis, Group) and axis.index == group:
        return torch.arange(new_size(axis, sizes))
    if isinstance(axis, Sum):
        return torch.cat([positions(part, group, sizes) for part in axis.parts])
    if isinstance(axis, Product):
        found = torch.full((1,), -1)
        for part in axis.parts:
            inner = positions(part, group, sizes)
            found = torch.maximum(found[:, None], inner[None, :]).flatten()
        return found
    return torch.full((new_size(axis, sizes),), -1)


def pieces(axis: Axis) -> Iterator[Axis]:
    """The axis and everything that a reshape or a split can make of it."""
    yield axis
    if isinstance(axis, Product):
        count = len(axis.parts)
        for start in range(count):
            for end in range(start + 1, count + 1):
                if end - start < count:
                    yield product(axis.parts[start:end])
    if isinstance(axis, (Product, Sum)):
        for part in axis.parts:
            yield from pieces(part)


def leading(axis: Axis, size: int) -> Axis | None:
    """The slow part of an axis with ``size`` entries, where its structure has one."""
    if size == 1:
        return Fixed(1)
    if axis.size == size:
        return axis
    parts = axis.parts if isinstance(axis, Product) else (axis,)
    found = 1
    for place, part in enumerate(parts):
        if size == found * part.size:
            return product(parts[: place + 1])
        if size % (found * part.size):
            rest = size // found
            is_cut = isinstance(part, Fixed) and size % found == 0 and part.size % rest == 0
            return product((*parts[:place], Fixed(rest))) if is_cut else None
        found *= part.size
    return None

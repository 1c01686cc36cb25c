"""How the entries of one weight are laid over those of another: DPIAT's transfer operators (notes, section 1.6).

An operator decides per axis which source entries are taken and where in the target they go. ``clip`` is the paper's;
``full`` and ``magnitude`` are ablations of its code, rebuilt from their descriptions. A bias takes the choice of its
weight's output axis, so that a channel keeps its own; the paper's code, which looks at weight and bias one by one, gives
the same for ``clip``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

Operator = Literal["clip", "full", "magnitude"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)


@dataclass(frozen=True)
class Placement:
    """One axis: ``source`` picks entries (a range, or indices in order), ``target`` is the range that they fill."""

    source: slice | Tensor
    target: slice


@lru_cache(maxsize=4096)
def centred(source: int, target: int) -> Placement:
    """Centre crop or centre paste of an axis of ``source`` entries to one of ``target``: offsets are rounded down."""
    overlap = min(source, target)
    theirs, ours = (source - overlap) // 2, (target - overlap) // 2
    return Placement(slice(theirs, theirs + overlap), slice(ours, ours + overlap))


def evenly(source: int, target: int) -> Placement:
    """Entries at even distances where the axis shrinks: the uniform selection of weight selection (arXiv 2311.18823)."""
    if source <= target:
        return Placement(slice(0, source), slice(0, source))
    return Placement(torch.arange(target) * source // target, slice(0, target))


def axis_placements(
    operator: Operator, weight: Tensor, shape: tuple[int, ...], channels: tuple[int, ...], seed: int, name: str
) -> tuple[Placement, ...]:
    """The placement of every axis of ``weight`` in a target of ``shape``.

    ``channels`` are the axes of channels or features, the others are spatial. ``seed`` and the target's ``name`` decide
    what ``full`` draws.
    """
    if operator == "magnitude":
        return tuple(
            _largest(weight, axis, size) if axis in channels else centred(weight.shape[axis], size)
            for axis, size in enumerate(shape)
        )
    if operator == "full":
        generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
        return tuple(_filled(theirs, ours, generator) for theirs, ours in zip(weight.shape, shape, strict=True))
    return tuple(centred(theirs, ours) for theirs, ours in zip(weight.shape, shape, strict=True))


def _largest(weight: Tensor, axis: int, size: int) -> Placement:
    """The ``size`` channels with the largest sum of magnitudes, in their order; all, from the start, where it grows."""
    theirs = weight.shape[axis]
    if size >= theirs:
        return Placement(slice(0, theirs), slice(0, theirs))
    others = [other for other in range(weight.ndim) if other != axis]
    # In double precision the order does not depend on how many threads add; torch sums over no axes as over all.
    magnitudes = weight.double().abs()
    magnitudes = magnitudes.sum(others) if others else magnitudes
    kept = torch.argsort(magnitudes, descending=True, stable=True)[:size]
    return Placement(kept.sort().values, slice(0, size))


def _filled(source: int, target: int, generator: torch.Generator) -> Placement:
    """Every target entry gets one: the source in the centre, random source entries on both sides of it."""
    if target <= source:
        return centred(source, target)
    indices = torch.randint(source, (target,), generator=generator)
    indices[centred(source, target).target] = torch.arange(source)
    return Placement(indices, slice(0, target))


def lay(source: Tensor, target: Tensor, placements: Sequence[Placement], factor: float = 1.0) -> None:
    """Write the chosen entries of ``source``, times ``factor``, into ``target`` in place."""
    if target.is_meta:
        # Without values there is nothing to write, and placements fit by the way they are made.
        return
    taken, there = source, target
    for axis, place in enumerate(placements):
        taken, there = _cut(taken, axis, place.source), _cut(there, axis, place.target)
    if factor == 1.0:
        there.copy_(taken)
    else:
        # In the target's number format: a product in half precision could overflow, and would be rounded twice.
        torch.mul(taken.to(there.dtype), factor, out=there)


def _cut(tensor: Tensor, axis: int, entries: slice | Tensor) -> Tensor:
    if isinstance(entries, Tensor):
        return tensor.index_select(axis, entries.to(tensor.device))
    count = entries.stop - entries.start
    # Most axes of related networks are taken whole; a view of nothing less would cost as much as a small copy.
    return tensor if count == tensor.shape[axis] else tensor.narrow(axis, entries.start, count)

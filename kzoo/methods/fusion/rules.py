"""How versions of one tensor become one: functions of entries, so that they work on any piece of a tensor.

Weight summation and the change of nonessential weights are two methods of Leontev, Islenteva and Sukhov (arXiv 1809.09399;
Neural Processing Letters, 2020) for fusing networks without training. Only the abstract was at hand: what follows is a
reconstruction from it, its variants are switches, and which of them is the paper's is not known here.

Every rule takes `Entries`: the same entries of each parent, of the common start and of each importance, and gives the fused
ones, in double precision. Nothing depends on other entries, but for the threshold, which is found for a whole tensor before.
The arithmetic is NumPy's, so that files can be fused without torch, and every operation is rounded for itself: what is made of
a piece are the bytes that are made of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kzoo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Doubles = NDArray[np.float64]
#: A tensor of torch, or an array: what is made of tensors is a tensor, on their device.
Values = TypeVar("Values", "Tensor", NDArray[Any])

#: Importances below it count as it: what no parent needs becomes the mean, never 0/0.
FLOOR = 1e-6


@dataclass(frozen=True)
class Entries:
    """The same entries of one tensor: of the ``parents`` (all of one shape), of the common ``start``, and how important
    each is to each parent; ``threshold`` is that of the whole tensor. All are tensors, or all are arrays.
    """

    parents: Sequence[Any]
    start: Any = None
    importance: Sequence[Any] | None = None
    threshold: float | None = None

    @property
    def in_doubles(self) -> Entries:
        """The same as arrays in double precision; they may be those that were given, so nothing may be written to them."""
        return replace(
            self,
            parents=[doubles(one) for one in self.parents],
            start=None if self.start is None else doubles(self.start),
            importance=None if self.importance is None else [doubles(one) for one in self.importance],
        )


@dataclass(frozen=True)
class Rule:
    """How entries are fused, and what that needs.

    ``formula`` takes entries in double precision. ``quantile`` is the share of a tensor's importances that the threshold is
    to be above, where the rule has one. With ``pairs_only`` the rule is one for two parents, the first of which is protected.
    """

    name: str
    formula: Callable[[Entries], Doubles]
    needs_start: bool = False
    needs_importance: bool = False
    quantile: float | None = None
    pairs_only: bool = False

    def fuse(self, entries: Entries) -> Any:
        """The fused entries in double precision: a tensor of tensors, an array of arrays."""
        return _like(entries.parents[0], self.formula(entries.in_doubles))

    def check(self, parents: int, has_start: bool, has_importance: bool) -> None:
        """Refuse what the rule cannot do.

        Raises:
            InputError: there are too many parents, or something that the rule needs is missing.
        """
        if self.pairs_only and parents != 2:
            raise InputError(
                f"{self.name} fuses two networks, the first of which is protected, not {parents}: choose winner, quadratic "
                "or tempered for more, or fuse two at a time"
            )
        if self.needs_start and not has_start:
            raise InputError(
                f"{self.name} needs the weights that the parents started from: give them, or choose sum or average"
            )
        if self.needs_importance and not has_importance:
            raise InputError(f"{self.name} needs to know which weights each parent needs: give an importance of each")


# Weight summation


def literal_sum() -> Rule:
    """S1: the sum of the weights, as the abstract says."""
    return Rule("sum", lambda entries: _total(entries.parents))


def average() -> Rule:
    """S2: the mean of the weights."""
    return Rule("average", lambda entries: _mean(entries.parents))


def delta_sum() -> Rule:
    """S3: the common start plus what each parent learnt since, as in task arithmetic."""
    return Rule("delta_sum", lambda entries: _moved(entries, 1.0), needs_start=True)


def scaled_delta(scale: float) -> Rule:
    """S4: the same with what was learnt times ``scale``; with one over the number of parents it is the average.

    Raises:
        InputError: the scale is no finite number.
    """
    if not math.isfinite(scale):
        raise InputError(f"scale={scale:g} is not possible: expected a finite number, as 0.3, 0.5, 0.7 or 1")
    return Rule("scaled_delta", lambda entries: _moved(entries, scale), needs_start=True)


def mean(parents: Sequence[Values]) -> Values:
    """The mean of versions, in double precision."""
    found: Values = _like(parents[0], _mean([doubles(parent) for parent in parents]))
    return found


def _total(parents: Sequence[Doubles]) -> Doubles:
    if len(parents) == 1:
        return parents[0].copy()
    # Single values are no arrays, which only arrays can be added to.
    total: Doubles = np.asarray(parents[0] + parents[1])
    for parent in parents[2:]:
        total += parent
    return total


def _mean(parents: Sequence[Doubles]) -> Doubles:
    total = _total(parents)
    total /= len(parents)
    return total


def _moved(entries: Entries, scale: float) -> Doubles:
    start: Doubles = entries.start
    learnt = np.zeros_like(start)
    for parent in entries.parents:
        learnt += parent - start
    learnt *= scale
    learnt += start
    return learnt


# Normalisation


def pooled_variance(variances: Sequence[Values], means: Sequence[Values]) -> Values:
    """The variance of equal shares of all parents' features: the mean of variances plus the variance of the means."""
    centres = [doubles(one) for one in means]
    middle = _mean(centres)
    apart = [np.square(one - middle) for one in centres]
    found: Values = _like(variances[0], _mean([doubles(one) for one in variances]) + _mean(apart))
    return found


# Nonessential weights


def threshold_replace(quantile: float) -> Rule:
    """2a: where the first parent's importance is at most the tensor's quantile, the second one's weight.

    Raises:
        InputError: the quantile is not from 0 to 1.
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile={quantile:g} is not possible: expected 0 to 1, as 0.5 to 0.85")

    def formula(entries: Entries) -> Doubles:
        assert entries.importance is not None and entries.threshold is not None
        first, second = entries.parents
        found: Doubles = np.where(entries.importance[0] <= entries.threshold, second, first)
        return found

    return Rule("threshold", formula, needs_importance=True, quantile=quantile, pairs_only=True)


def threshold_of(importance: Tensor | NDArray[Any], quantile: float) -> float:
    """The importance that a share ``quantile`` of a whole tensor's entries does not exceed (the nearest entry above)."""
    values = doubles(importance).reshape(-1)
    place = rank_of(values.size, quantile)
    return -math.inf if place is None else float(np.partition(values, place)[place])


def rank_of(count: int, quantile: float) -> int | None:
    """The place of the threshold among so many importances in their order, from 0; None where all are above it."""
    if count == 0 or quantile <= 0:
        return None
    return min(max(math.ceil(quantile * count), 1), count) - 1


def winner(ratio: float = 1.0) -> Rule:
    """2b: each weight of the parent to which it is most important; that of all but the first counts ``ratio`` times.

    Between equals the first parent wins; where none has any importance, it is the mean.

    Raises:
        InputError: the ratio is not above 0.
    """
    _positive("ratio", ratio)

    def formula(entries: Entries) -> Doubles:
        assert entries.importance is not None
        first, *others = entries.importance
        chosen, best, needed = entries.parents[0], first, first > 0
        for parent, known in zip(entries.parents[1:], others, strict=True):
            scaled = ratio * known
            ahead = scaled > best
            chosen, best = np.where(ahead, parent, chosen), np.where(ahead, scaled, best)
            needed |= known > 0
        found: Doubles = np.where(needed, chosen, _mean(entries.parents))
        return found

    return Rule("winner", formula, needs_importance=True)


def quadratic(weight: float = 1.0, floor: float = FLOOR) -> Rule:
    """2c: the mean of the weights by importance, that of all but the first times ``weight`` (Fisher merging).

    Raises:
        InputError: the weight is not above 0.
    """
    _positive("weight", weight)
    return Rule("quadratic", lambda entries: _weighted(entries, weight, 1.0, floor), needs_importance=True)


def tempered(power: float, weight: float = 1.0, floor: float = FLOOR) -> Rule:
    """2d: the same with every importance to the ``power``: 1 is quadratic, 0 the average.

    Raises:
        InputError: the power is not from 0 to 1, or the weight not above 0.
    """
    _positive("weight", weight)
    if not 0 <= power <= 1:
        raise InputError(f"power={power:g} is not possible: expected 0 (the average) to 1 (quadratic)")
    return Rule("tempered", lambda entries: _weighted(entries, weight, power, floor), needs_importance=True)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{name}={value:g} is not possible: expected a number above 0")


def _weighted(entries: Entries, weight: float, power: float, floor: float) -> Doubles:
    assert entries.importance is not None
    # Parent by parent, about the first: the order of sums is one for all pieces of a tensor, and where all parents agree
    # the result is theirs to the last bit.
    first, *others = entries.parents
    total = _strength(entries.importance[0], power, floor)
    moved: Doubles = np.zeros_like(first)
    for other, importance in zip(others, entries.importance[1:], strict=True):
        share = _strength(importance, power, floor)
        share *= weight
        total += share
        share *= other - first
        moved += share
    moved /= total
    moved += first
    return moved


def _strength(importance: Doubles, power: float, floor: float) -> Doubles:
    # A view of a single value is no array, which only arrays can be written to.
    least: Doubles = np.asarray(np.maximum(importance, floor))
    if power != 1:
        least = np.asarray(np.power(least, power))
    return least


# Arrays and tensors


def doubles(values: Any) -> Doubles:
    """A tensor or an array as an array in double precision, without a copy where it is one."""
    array = values if isinstance(values, np.ndarray) else values.detach().double().cpu().numpy()
    found: Doubles = array.astype(np.float64, copy=False)
    return found


def _like(given: Any, found: Doubles) -> Any:
    if isinstance(given, np.ndarray):
        return found
    import torch

    return torch.from_numpy(np.asarray(found)).to(given.device)

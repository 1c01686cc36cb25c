"""How versions of one tensor become one: functions of entries, so that they work on any piece of a tensor.

Weight summation and the change of nonessential weights are two methods of Leontev, Islenteva and Sukhov (arXiv 1809.09399;
Neural Processing Letters, 2020) for fusing networks without training. Only the abstract was at hand: what follows is a
reconstruction from it, its variants are switches, and which of them is the paper's is not known here.

Every rule takes `Entries`: the same entries of each parent, of the common start and of each importance, and gives the fused
ones, in double precision. Nothing depends on other entries, but for the threshold, which is found for a whole tensor before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kzoo.errors import InputError

#: Importances below it count as it: what no parent needs becomes the mean, never 0/0.
FLOOR = 1e-6


@dataclass(frozen=True)
class Entries:
    """The same entries of one tensor: of the ``parents`` (all of one shape), of the common ``start``, and how important
    each is to each parent; ``threshold`` is that of the whole tensor.
    """

    parents: Sequence[Tensor]
    start: Tensor | None = None
    importance: Sequence[Tensor] | None = None
    threshold: float | None = None

    @property
    def doubles(self) -> list[Tensor]:
        """The parents' entries in double precision."""
        return [parent.double() for parent in self.parents]


@dataclass(frozen=True)
class Rule:
    """How entries are fused, and what that needs.

    ``quantile`` is the share of a tensor's importances that the threshold is to be above, where the rule has one. With
    ``pairs_only`` the rule is one for two parents, the first of which is protected.
    """

    name: str
    fuse: Callable[[Entries], Tensor]
    needs_start: bool = False
    needs_importance: bool = False
    quantile: float | None = None
    pairs_only: bool = False

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
    return Rule("sum", lambda entries: sum(entries.doubles[1:], entries.doubles[0]))


def average() -> Rule:
    """S2: the mean of the weights."""
    return Rule("average", lambda entries: mean(entries.parents))


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


def mean(parents: Sequence[Tensor]) -> Tensor:
    """The mean of versions, in double precision."""
    doubles = [parent.double() for parent in parents]
    return sum(doubles[1:], doubles[0]) / len(doubles)


def _moved(entries: Entries, scale: float) -> Tensor:
    assert entries.start is not None
    start = entries.start.double()
    return start + scale * sum((parent - start for parent in entries.doubles), torch.zeros_like(start))


# Normalisation


def pooled_variance(variances: Sequence[Tensor], means: Sequence[Tensor]) -> Tensor:
    """The variance of equal shares of all parents' features: the mean of variances plus the variance of the means."""
    middle = mean(means)
    apart = [(one.double() - middle).square() for one in means]
    return mean(variances) + mean(apart)


# Nonessential weights


def threshold_replace(quantile: float) -> Rule:
    """2a: where the first parent's importance is at most the tensor's quantile, the second one's weight.

    Raises:
        InputError: the quantile is not from 0 to 1.
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile={quantile:g} is not possible: expected 0 to 1, as 0.5 to 0.85")

    def fuse(entries: Entries) -> Tensor:
        assert entries.importance is not None and entries.threshold is not None
        first, second = entries.doubles
        return torch.where(entries.importance[0].double() <= entries.threshold, second, first)

    return Rule("threshold", fuse, needs_importance=True, quantile=quantile, pairs_only=True)


def threshold_of(importance: Tensor, quantile: float) -> float:
    """The importance that a share ``quantile`` of a whole tensor's entries does not exceed (the nearest entry above)."""
    values = importance.double().flatten()
    if not values.numel():
        return 0.0
    # torch.quantile takes 16 million entries at most.
    rank = min(max(math.ceil(quantile * values.numel()), 1), values.numel())
    return float(values.kthvalue(rank).values) if quantile > 0 else -math.inf


def winner(ratio: float = 1.0) -> Rule:
    """2b: each weight of the parent to which it is most important; that of all but the first counts ``ratio`` times.

    Between equals the first parent wins; where none has any importance, it is the mean.

    Raises:
        InputError: the ratio is not above 0.
    """
    _positive("ratio", ratio)

    def fuse(entries: Entries) -> Tensor:
        parents, known = torch.stack(entries.doubles), _importances(entries)
        scaled = torch.cat([known[:1], ratio * known[1:]])
        chosen = parents.gather(0, scaled.argmax(0, keepdim=True))[0]
        return torch.where((known <= 0).all(0), mean(entries.parents), chosen)

    return Rule("winner", fuse, needs_importance=True)


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


def _importances(entries: Entries) -> Tensor:
    assert entries.importance is not None
    return torch.stack([one.double() for one in entries.importance])


def _weighted(entries: Entries, weight: float, power: float, floor: float) -> Tensor:
    strength = _power(_importances(entries).clamp(min=floor), power)
    # Parent by parent, about the first: the order of sums is one for all pieces of a tensor, and where all parents agree
    # the result is theirs to the last bit.
    first, *others = entries.doubles
    moved, total = torch.zeros_like(first), strength[0]
    for other, share in zip(others, weight * strength[1:], strict=True):
        moved, total = moved + share * (other - first), total + share
    return first + moved / total


def _power(values: Tensor, power: float) -> Tensor:
    """Powers by NumPy: torch's of the last few entries of a piece differ from those of all others in the last bit."""
    if power == 1:
        return values
    return torch.from_numpy(np.power(values.cpu().numpy(), power)).to(values.device)

"""The metrics of the claims on growth, with their intervals: over seeds, of means over the teachers of a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.growth.design import TEACHER, Way
from kzoo.studies.growth.results import Results, Use
from kzoo.studies.metrics import (
    ArmOptions,
    ChangeOptions,
    DifferenceOptions,
    LostOptions,
    ReachedOptions,
    ResidualOptions,
    StepsOptions,
    metric_kinds,
)
from kzoo.studies.statistics import Array, over_seeds


class _Measured(NamedTuple):
    """A number for each teacher and seed, or for each seed; how much it comes from, and the table that holds that."""

    values: Array
    counts: dict[str, int]
    table: str = "train.json"


def measured(results: Results, claim: Claim) -> dict[str, Any]:
    """A claim's metric, as ``metrics.json`` has it.

    Raises:
        InputError: the profile has not what the claim is about.
    """
    values, counts, table = _METRICS[claim.metric](results, claim)
    interval = over_seeds(values if values.ndim == 1 else values.mean(axis=0))
    return {
        "value": _rounded(interval["mean"]),
        "low": _rounded(interval["low"]),
        "high": _rounded(interval["high"]),
        "unit": metric_kinds("growth")[claim.metric].unit,
        "counts": counts,
        "file": f"{results.folder}/{table}",
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _counts(results: Results, ways: list[Way]) -> dict[str, int]:
    return {"teachers": len(ways), "seeds": len(results.seeds)}


def _diverged(results: Results, use: Use, *ways: Way) -> dict[str, int]:
    count = results.diverged(*ways, use=use)
    return {"diverged runs": count} if count else {}


def _difference(results: Results, claim: Claim) -> _Measured:
    of = DifferenceOptions.model_validate(claim.of)
    others = () if of.against == TEACHER else (of.against,)
    results.require(claim, of.case, of.teachers, of.arm, *others)
    rows = []
    ways = results.ways(of.case, of.arm, of.teachers)
    theirs = [way._replace(arm=other) for way in ways for other in others]
    for way in ways:
        other = way._replace(arm=of.against)
        against = results.accuracy(other, of.epoch, of.rate) if others else results.teacher(way, "accuracy")
        rows.append(100 * (results.accuracy(way, of.epoch, of.rate) - against))
    return _Measured(np.stack(rows), _counts(results, ways) | _diverged(results, of.rate, *ways, *theirs))


def _share_of_steps(results: Results, claim: Claim) -> _Measured:
    """Quotients within each teacher and seed; where neither run has the accuracy, of the whole trainings."""
    of = StepsOptions.model_validate(claim.of)
    results.require(claim, of.case, of.teachers, of.arm, of.against)
    if of.level not in results.profile.levels:
        levels = ", ".join(results.profile.levels)
        raise InputError(f"claim {claim.id} names the level {of.level!r}, but the profile has {levels}")
    ways = results.ways(of.case, of.arm, of.teachers)
    theirs = [way._replace(arm=of.against) for way in ways]
    if any(results.is_loop(way) for way in (*ways, *theirs)):
        raise InputError(f"claim {claim.id} counts steps of a loop, which is tested at its end alone: name another arm")
    rows, without, without_theirs = [], 0, 0
    for way, other in zip(ways, theirs, strict=True):
        ours, others = results.steps(way, of.level, of.rate), results.steps(other, of.level, of.rate)
        # One that is there from the start needs no step, of which no share can be taken.
        rows.append(ours.counts / np.maximum(others.counts, 1))
        without, without_theirs = without + int(ours.without.sum()), without_theirs + int(others.without.sum())
    counts = _counts(results, ways) | {f"{of.arm} without it": without, f"{of.against} without it": without_theirs}
    return _Measured(np.stack(rows), counts | _diverged(results, of.rate, *ways, *theirs))


def _reached(results: Results, claim: Claim) -> _Measured:
    of = ReachedOptions.model_validate(claim.of)
    ways = _ways(results, claim, of)
    return _Measured(np.stack([100 * results.accuracy(way, None) for way in ways]), _counts(results, ways))


def _change_of_the_loss(results: Results, claim: Claim) -> _Measured:
    """Of each seed the largest over its teachers."""
    of = ChangeOptions.model_validate(claim.of)
    ways = _ways(results, claim, of)
    rows = [np.abs(results.loss_at_start(way) - results.teacher(way, "loss")) for way in ways]
    return _Measured(np.stack(rows).max(axis=0), _counts(results, ways), "grow.json")


def _residual(results: Results, claim: Claim) -> _Measured:
    of = ResidualOptions.model_validate(claim.of)
    ways = _ways(results, claim, of)
    rows = []
    for way in ways:
        inserted = [row["insertions"] for row in results.starts(way)]
        if not inserted or not all(layers and all(each["identity_error"] for each in layers) for layers in inserted):
            raise InputError(
                f"claim {claim.id} needs layers of {way.arm} where an identity is not exact: name other teachers"
            )
        rows.append([np.mean([each["error"] / each["identity_error"] for each in layers]) for layers in inserted])
    return _Measured(np.array(rows), _counts(results, ways), "grow.json")


def _lost(results: Results, claim: Claim) -> _Measured:
    """Of each teacher and seed the most that an insertion cost, those that were taken back included."""
    of = LostOptions.model_validate(claim.of)
    ways = _ways(results, claim, of)
    rows = []
    for way in ways:
        loops = [row.get("loop") for row in results.rows(way, "own")]
        if not all(loops):
            raise InputError(f"claim {claim.id} is about insertions with training between them: name such an arm")
        rows.append(
            [
                max(100 * (step["accuracy_before"] - step["accuracy_inherited"]) for step in loop)
                for loop in loops
                if loop
            ]
        )
    return _Measured(np.array(rows).max(axis=0), _counts(results, ways))


def _ways(results: Results, claim: Claim, of: ArmOptions) -> list[Way]:
    results.require(claim, of.case, of.teachers, of.arm)
    return results.ways(of.case, of.arm, of.teachers)


_METRICS: dict[str, Callable[[Results, Claim], _Measured]] = {
    "difference in accuracy": _difference,
    "share of steps": _share_of_steps,
    "accuracy at the end": _reached,
    "change of the loss": _change_of_the_loss,
    "error by identity's": _residual,
    "lost at an insertion": _lost,
}

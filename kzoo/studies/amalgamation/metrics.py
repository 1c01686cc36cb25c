"""The metrics of the claims on amalgamation, with their intervals: over seeds, of means over settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kzoo.claims import Claim
from kzoo.studies.amalgamation.results import Results
from kzoo.studies.metrics import (
    GainOptions,
    HarderOptions,
    JointOptions,
    MatchedOptions,
    UnlikeOptions,
    metric_kinds,
)
from kzoo.studies.statistics import Array, over_seeds


def measured(results: Results, claim: Claim) -> dict[str, Any]:
    """A claim's metric, as ``metrics.json`` has it.

    Raises:
        InputError: the profile has not what the claim is about.
    """
    values, settings = _METRICS[claim.metric](results, claim)
    interval = over_seeds(values)
    return {
        **{
            name: None if (found := interval[key]) is None else round(found, 6)
            for name, key in (("value", "mean"), ("low", "low"), ("high", "high"))
        },
        "unit": metric_kinds("amalgamation")[claim.metric].unit,
        "counts": {"settings": settings, "seeds": len(results.seeds)},
        "file": f"{results.folder}/train.json",
    }


def _joint(results: Results, claim: Claim) -> tuple[Array, int]:
    of = JointOptions.model_validate(claim.of)
    settings = _settings(results, claim, of, of.arm)
    return _mean([100 * results.accuracy(setting, of.arm) for setting in settings]), len(settings)


def _gain(results: Results, claim: Claim) -> tuple[Array, int]:
    of = GainOptions.model_validate(claim.of)
    settings = _settings(results, claim, of, of.arm, of.against)
    return _mean([_points(results, setting, of) for setting in settings]), len(settings)


def _unlike(results: Results, claim: Claim) -> tuple[Array, int]:
    of = UnlikeOptions.model_validate(claim.of)
    settings = _settings(results, claim, of, of.arm, of.against)
    apart: Array = np.max([np.abs(_points(results, setting, of)) for setting in settings], axis=0)
    return apart, len(settings)


def _matched(results: Results, claim: Claim) -> tuple[Array, int]:
    of = MatchedOptions.model_validate(claim.of)
    settings = _settings(results, claim, of, of.arm)
    rows = []
    for setting in settings:
        above = 100 * (results.own(setting, of.arm) - results.teachers(setting))
        rows.append(above.min(axis=0) if of.teachers == "worst" else above.mean(axis=0))
    return _mean(rows), len(settings)


def _harder(results: Results, claim: Claim) -> tuple[Array, int]:
    of = HarderOptions.model_validate(claim.of)
    results.require(claim, (of.arm, of.against), (of.first, of.second))
    return _points(results, of.first, of) - _points(results, of.second, of), 2


def _points(results: Results, setting: str, of: GainOptions) -> Array:
    return 100 * (results.accuracy(setting, of.arm) - results.accuracy(setting, of.against))


def _mean(rows: list[Array]) -> Array:
    found: Array = np.mean(rows, axis=0)
    return found


def _settings(results: Results, claim: Claim, of: JointOptions, *rows: str) -> list[str]:
    """The settings of a claim."""
    settings = of.settings or list(results.profile.settings)
    results.require(claim, rows, settings)
    return settings


_METRICS: dict[str, Callable[[Results, Claim], tuple[Array, int]]] = {
    "accuracy over all classes": _joint,
    "points gained": _gain,
    "points unlike": _unlike,
    "points beside teachers": _matched,
    "points between settings": _harder,
}

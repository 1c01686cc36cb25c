"""The metrics of the claims on fusion, with their intervals: over seeds, of means over cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.fusion.design import Case
from kzoo.studies.fusion.results import Results
from kzoo.studies.metrics import AboveOptions, ApartOptions, FusedOptions, FusionOptions, metric_kinds
from kzoo.studies.statistics import Array, over_seeds


def measured(results: Results, claim: Claim) -> dict[str, Any]:
    """A claim's metric, as ``metrics.json`` has it.

    Raises:
        InputError: the profile has not what the claim is about.
    """
    values, cases = _METRICS[claim.metric](results, claim)
    interval = over_seeds(values)
    return {
        **{
            name: None if (found := interval[key]) is None else round(found, 6)
            for name, key in (("value", "mean"), ("low", "low"), ("high", "high"))
        },
        "unit": metric_kinds("fusion")[claim.metric].unit,
        "counts": {"cases": cases, "seeds": len(results.seeds)},
        "file": f"{results.folder}/fuse.json",
    }


def _fused(results: Results, claim: Claim) -> tuple[Array, int]:
    of = FusedOptions.model_validate(claim.of)
    cases = _cases(results, claim, of, of.arm)
    return _mean([100 * results.accuracy(case, of.arm) for case in cases]), len(cases)


def _above(results: Results, claim: Claim) -> tuple[Array, int]:
    of = AboveOptions.model_validate(claim.of)
    cases = _cases(results, claim, of, of.arm, of.against)
    return _mean([_points(results, case, of) for case in cases]), len(cases)


def _apart(results: Results, claim: Claim) -> tuple[Array, int]:
    of = ApartOptions.model_validate(claim.of)
    results.require(claim, (), [("network", (of.first, of.second), list(results.profile.networks))])
    cases = _cases(results, claim, of, of.arm, of.against)
    ours, theirs = ([case for case in cases if case.network == name] for name in (of.first, of.second))
    difference = _mean([_points(results, case, of) for case in ours])
    return difference - _mean([_points(results, case, of) for case in theirs]), len(ours) + len(theirs)


def _points(results: Results, case: Case, of: AboveOptions) -> Array:
    return 100 * (results.accuracy(case, of.arm) - results.accuracy(case, of.against))


def _mean(rows: list[Array]) -> Array:
    found: Array = np.mean(rows, axis=0)
    return found


def _cases(results: Results, claim: Claim, of: FusionOptions, *rows: str) -> list[Case]:
    """The cases of a claim that have what it is about; without any it cannot be judged."""
    profile = results.profile
    known = (
        ("data", of.data, list(profile.data)),
        ("network", of.networks, list(profile.networks)),
        ("start", of.starts, list(profile.starts)),
    )
    results.require(claim, rows, known)
    cases = results.cases(of.data, of.networks, of.starts)
    lacking = next(((case, row) for case in cases for row in rows if not results.has(case, row)), None)
    if lacking is not None:
        raise InputError(
            f"claim {claim.id} is about {lacking[1]}, which {' '.join(lacking[0])} has not: name other cases"
        )
    return cases


_METRICS: dict[str, Callable[[Results, Claim], tuple[Array, int]]] = {
    "accuracy when fused": _fused,
    "points above": _above,
    "points apart": _apart,
}

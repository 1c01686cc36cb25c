"""The metrics of the DPIAT study's claims, with their intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.dpiat.design import Pair
from kzoo.studies.dpiat.results import Results
from kzoo.studies.metrics import CorrelationOptions, GroupsOptions, RatesOptions, RatioOptions, metric_kinds
from kzoo.studies.sections import RANDOM
from kzoo.studies.statistics import Array, Interval, bootstrap, geometric, over_pairs, pearson, spearman

_Indices = NDArray[np.int64]


class _Measured(NamedTuple):
    """A metric, how much it comes from, and the table that holds that."""

    interval: Interval
    counts: dict[str, int]
    table: str = "train.json"


def measured(results: Results, claim: Claim) -> dict[str, Any]:
    """A claim's metric, as ``metrics.json`` has it.

    Raises:
        InputError: the profile has not what the claim is about.
    """
    interval, counts, table = _METRICS[claim.metric](results, claim)
    return {
        "value": _rounded(interval["mean"]),
        "low": _rounded(interval["low"]),
        "high": _rounded(interval["high"]),
        "unit": metric_kinds()[claim.metric].unit,
        "counts": counts,
        "file": f"{results.folder}/{table}",
    }


def _counts(rows: Array) -> dict[str, int]:
    return {"pairs": len(rows), "seeds": rows.shape[1]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _ratio(results: Results, claim: Claim) -> _Measured:
    of = RatioOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm, of.against)
    results.require_groups(claim, of.groups or ())
    pairs = [pair for pair in results.pairs_of(of.arm, of.against) if _wanted(results, pair, of)]
    if not pairs:
        raise InputError(f"claim {claim.id} is about pairs that the profile does not have: change its options")
    rows = results.rows(pairs, of.arm, of.against, of.epoch)
    counts = _counts(rows)
    if diverged := results.diverged(pairs, of.arm, of.against):
        counts["diverged runs"] = diverged
    return _Measured(over_pairs([row[None] for row in rows], geometric), counts)


def _wanted(results: Results, pair: Pair, of: RatioOptions) -> bool:
    directed = results.matched[pair.source, pair.target]["directed"]
    in_groups = of.groups is None or pair.group in of.groups
    alike = of.most_directed is None or directed <= of.most_directed
    # Where both arms give the same bytes, as operators do where nothing is cropped, there is nothing to compare.
    return in_groups and alike and not results.same(pair, of.arm, of.against)


def _ratio_at_every_rate(results: Results, claim: Claim) -> _Measured:
    """The smallest ratio over the rates of the sweep; pairs and seeds are drawn anew, rates are not."""
    of = RatesOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm, of.against)
    swept = {RANDOM, *(row["arm"] for row in results.sweep["runs"])}
    if odd := {of.arm, of.against} - swept:
        raise InputError(f"claim {claim.id} needs runs of {min(odd)} in the sweep: add it to sweep.arms in params.yaml")
    rates = results.log_ratios_by_rate(of.arm, of.against, of.epoch)

    def smallest(pairs: _Indices, seeds: _Indices) -> float:
        return min(float(geometric(rows[pairs][:, seeds]).mean()) for rows in rates.values())

    rows = next(iter(rates.values()))
    return _Measured(
        bootstrap([len(rows)], rows.shape[1], smallest), _counts(rows) | {"rates": len(rates)}, "sweep.json"
    )


def _correlation(results: Results, claim: Claim) -> _Measured:
    of = CorrelationOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm)
    measure: Callable[[Array, Array], float] = {"spearman": spearman, "pearson": pearson}[of.kind]
    pairs_of = results.pairs_of(of.arm)
    similarities = results.similarities(pairs_of, of.measure)
    rows = results.rows(pairs_of, of.arm, RANDOM, of.epoch)

    def correlation(pairs: _Indices, seeds: _Indices) -> float:
        return measure(similarities[pairs], geometric(rows[pairs][:, seeds]))

    return _Measured(bootstrap([len(rows)], rows.shape[1], correlation), _counts(rows))


def _ratio_of_groups(results: Results, claim: Claim) -> _Measured:
    """Pairs are drawn anew within each group, seeds for both alike."""
    of = GroupsOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm)
    results.require_groups(claim, (of.first, of.second))
    sides = []
    for group in (of.first, of.second):
        pairs = [pair for pair in results.pairs_of(of.arm) if pair.group == group]
        if not pairs:
            raise InputError(f"claim {claim.id} names the group {group!r}, but {of.arm} is run on none of its pairs")
        sides.append(results.rows(pairs, of.arm, RANDOM, of.epoch))
    first, second = sides

    def quotient(ours: _Indices, theirs: _Indices, seeds: _Indices) -> float:
        return float(geometric(first[ours][:, seeds]).mean() / geometric(second[theirs][:, seeds]).mean())

    interval = bootstrap([len(first), len(second)], first.shape[1], quotient)
    return _Measured(interval, _counts(np.concatenate(sides)))


_METRICS: dict[str, Callable[[Results, Claim], _Measured]] = {
    "ratio": _ratio,
    "ratio at every rate": _ratio_at_every_rate,
    "correlation": _correlation,
    "ratio of groups": _ratio_of_groups,
}

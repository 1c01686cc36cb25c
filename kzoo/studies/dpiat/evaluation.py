"""The stage ``evaluate``: the claims' metrics with their intervals, tables and figures.

A *ratio* is the accuracy of an arm by that of another with the same seed: of fresh weights and of the images' order.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kzoo.claims import Claim, read_claims
from kzoo.errors import InputError
from kzoo.studies.design import CLAIMS, Run
from kzoo.studies.dpiat.design import Pair, Profile, all_pairs, carrying_arms
from kzoo.studies.metrics import CorrelationOptions, GroupsOptions, RatesOptions, RatioOptions, metric_kinds
from kzoo.studies.records import accuracy_after
from kzoo.studies.sections import RANDOM
from kzoo.studies.statistics import (
    Array,
    Interval,
    bootstrap,
    geometric,
    log_ratio,
    over_pairs,
    over_seeds,
    pearson,
    spearman,
)

TABLE = "metrics.json"
_Indices = NDArray[np.int64]


def carry_out(run: Run) -> None:
    """Write what the report shows of this run; see `kzoo.studies.stages`."""
    results = Results(run)
    claims = read_claims(run.base / CLAIMS, metric_kinds()).claims
    found = {claim.id: _measured(results, claim) for claim in claims if run.profile_name in claim.profiles}
    told = {
        "paper": run.paper,
        "profile": run.profile_name,
        "environment": run.table("train.json")["environment"],
        "claims": found,
        "figures": [_scatter(results), _curves(results), _groups(results)],
        "tables": [_pairs_table(results), _rates_table(results)],
    }
    run.write_table(TABLE, told)


class Results:
    """The study's tables, by what a metric asks for."""

    def __init__(self, run: Run) -> None:
        profile: Profile = run.profile
        self.folder = run.name_of_results
        self.pairs = list(all_pairs(profile))
        self.arms = carrying_arms(profile)
        self.groups = list(profile.pairs)
        self.matched = {(row["source"], row["target"]): row for row in run.table("match.json")["pairs"]}
        transfers = run.table("transfer.json")["transfers"]
        self.overwritten = {(row["source"], row["target"], row["arm"]): row["overwritten"] for row in transfers}
        self.sweep = run.table("sweep.json")
        self._runs: dict[tuple[str | None, str, str], list[dict[str, Any]]] = {}
        for row in run.table("train.json")["runs"]:
            self._runs.setdefault((row["source"], row["target"], row["arm"]), []).append(row)
        self.seeds = len(next(iter(self._runs.values())))
        self.epochs = max(len(row["epochs"]) for rows in self._runs.values() for row in rows)
        self.runs = sum(map(len, self._runs.values()))

    def accuracies(self, pair: Pair, arm: str, epoch: int) -> Array:
        """Test accuracies after so many epochs, by seed."""
        source = None if arm == RANDOM else pair.source
        return np.array([accuracy_after(row, epoch) for row in self._runs[source, pair.target, arm]])

    def log_ratios(self, pair: Pair, arm: str, against: str, epoch: int) -> Array:
        """Logarithms of an arm's accuracy by another's, by seed."""
        return log_ratio(self.accuracies(pair, arm, epoch), self.accuracies(pair, against, epoch))

    def rows(self, pairs: Sequence[Pair], arm: str, against: str, epoch: int) -> Array:
        """The same for several pairs: pairs x seeds."""
        return np.stack([self.log_ratios(pair, arm, against, epoch) for pair in pairs])

    def similarities(self, measure: str) -> Array:
        """The similarity of every pair."""
        return np.array([self.matched[pair.source, pair.target][measure] for pair in self.pairs])

    def require(self, claim: Claim, epoch: int, *arms: str) -> None:
        """Refuse a claim whose arms or epoch this profile does not have.

        Raises:
            InputError: it is one.
        """
        for arm in arms:
            if arm not in (RANDOM, *self.arms):
                raise InputError(f"claim {claim.id} names the arm {arm!r}, but the profile has {', '.join(self.arms)}")
        if epoch > self.epochs:
            raise InputError(f"claim {claim.id} asks for epoch {epoch}, but the profile trains for {self.epochs}")


# The claims' metrics


def _measured(results: Results, claim: Claim) -> dict[str, Any]:
    interval, pairs = _METRICS[claim.metric](results, claim)
    return {
        "value": _rounded(interval["mean"]),
        "low": _rounded(interval["low"]),
        "high": _rounded(interval["high"]),
        "unit": metric_kinds()[claim.metric].unit,
        "counts": {"pairs": pairs, "seeds": results.seeds, "runs": results.runs},
        "file": f"{results.folder}/train.json",
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _ratio(results: Results, claim: Claim) -> tuple[Interval, int]:
    of = RatioOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm, of.against)
    pairs = [pair for pair in results.pairs if _wanted(results, pair, of)]
    if not pairs:
        raise InputError(f"claim {claim.id} is about pairs that the profile does not have: change its options")
    rows = results.rows(pairs, of.arm, of.against, of.epoch)
    return over_pairs([row[None] for row in rows], geometric), len(pairs)


def _wanted(results: Results, pair: Pair, of: RatioOptions) -> bool:
    directed = results.matched[pair.source, pair.target]["directed"]
    in_groups = of.groups is None or pair.group in of.groups
    return in_groups and (of.most_directed is None or directed <= of.most_directed)


def _ratio_at_every_rate(results: Results, claim: Claim) -> tuple[Interval, int]:
    """The smallest ratio over the rates of the sweep; pairs and seeds are drawn anew, rates are not."""
    of = RatesOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm, of.against)
    swept = {RANDOM, *(row["arm"] for row in results.sweep["runs"])}
    if odd := {of.arm, of.against} - swept:
        raise InputError(f"claim {claim.id} needs runs of {min(odd)} in the sweep: add it to sweep.arms in params.yaml")
    rates = _ratios_by_rate(results, of.arm, of.against, of.epoch)

    def smallest(pairs: _Indices, seeds: _Indices) -> float:
        return min(float(geometric(rows[pairs][:, seeds]).mean()) for rows in rates.values())

    pairs, seeds = next(iter(rates.values())).shape
    if seeds > 1:
        return bootstrap([pairs, seeds], smallest), pairs
    return bootstrap([pairs], lambda chosen: smallest(chosen, np.zeros(1, dtype=np.int64))), pairs


def _ratios_by_rate(results: Results, arm: str, against: str, epoch: int) -> dict[float, Array]:
    """Logarithms of ratios in the sweep, pairs x seeds, for every rate."""
    runs: dict[tuple[Any, ...], list[float]] = {}
    for row in results.sweep["runs"]:
        key = (row["lr"], row["source"], row["target"], row["arm"])
        runs.setdefault(key, []).append(accuracy_after(row, epoch))

    def accuracies(rate: float, pair: Pair, which: str) -> Array:
        key = (rate, None if which == RANDOM else pair.source, pair.target, which)
        return np.array(runs[key])

    return {
        rate: np.stack(
            [log_ratio(accuracies(rate, pair, arm), accuracies(rate, pair, against)) for pair in results.pairs]
        )
        for rate in dict.fromkeys(row["lr"] for row in results.sweep["runs"])
    }


def _correlation(results: Results, claim: Claim) -> tuple[Interval, int]:
    of = CorrelationOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm)
    measure: Callable[[Array, Array], float] = {"spearman": spearman, "pearson": pearson}[of.kind]
    similarities = results.similarities(of.measure)
    rows = results.rows(results.pairs, of.arm, RANDOM, of.epoch)

    def correlation(pairs: _Indices, seeds: _Indices) -> float:
        return measure(similarities[pairs], geometric(rows[pairs][:, seeds]))

    return bootstrap(list(rows.shape), correlation), len(results.pairs)


def _ratio_of_groups(results: Results, claim: Claim) -> tuple[Interval, int]:
    """Pairs are drawn anew within each group, seeds for both alike."""
    of = GroupsOptions.model_validate(claim.of)
    results.require(claim, of.epoch, of.arm)
    sides = []
    for group in (of.first, of.second):
        pairs = [pair for pair in results.pairs if pair.group == group]
        if not pairs:
            raise InputError(f"claim {claim.id} names the group {group!r}, but pairs has {', '.join(results.groups)}")
        sides.append(results.rows(pairs, of.arm, RANDOM, of.epoch))
    first, second = sides

    def quotient(ours: _Indices, theirs: _Indices, seeds: _Indices) -> float:
        return float(geometric(first[ours][:, seeds]).mean() / geometric(second[theirs][:, seeds]).mean())

    return bootstrap([len(first), len(second), first.shape[1]], quotient), len(first) + len(second)


_METRICS: dict[str, Callable[[Results, Claim], tuple[Interval, int]]] = {
    "ratio": _ratio,
    "ratio at every rate": _ratio_at_every_rate,
    "correlation": _correlation,
    "ratio of groups": _ratio_of_groups,
}


# What a report shows


def _ratio_of_pair(results: Results, pair: Pair, arm: str) -> dict[str, float | None]:
    found = over_seeds(results.log_ratios(pair, arm, RANDOM, results.epochs))
    return {name: None if value is None else round(float(np.exp(value)), 4) for name, value in found.items()}


def _scatter(results: Results) -> dict[str, Any]:
    """Ratio against similarity, every pair and arm."""
    series = []
    for arm in results.arms:
        points = []
        for pair in results.pairs:
            ratio = _ratio_of_pair(results, pair, arm)
            points.append(
                {
                    "x": results.matched[pair.source, pair.target]["symmetric"],
                    "y": ratio["mean"],
                    "low": ratio["low"],
                    "high": ratio["high"],
                    "label": f"{pair.source} -> {pair.target}",
                }
            )
        series.append({"name": arm, "points": points})
    return {
        "kind": "scatter",
        "title": "Gain and similarity",
        "caption": f"Accuracy after {results.epochs} epochs by that of the random start, for every pair of networks; "
        "95 % intervals over seeds.",
        "x": {"label": "similarity of source and target (the paper's)"},
        "y": {"label": "ratio to random", "log": True},
        "lines": [{"at": 1.0, "axis": "y", "label": "random"}],
        "series": series,
    }


def _curves(results: Results) -> dict[str, Any]:
    """Mean accuracy by epoch, every arm."""
    series = []
    for arm in (*results.arms, RANDOM):
        points = []
        for epoch in range(1, results.epochs + 1):
            values = [float(results.accuracies(pair, arm, epoch).mean()) for pair in results.pairs]
            points.append({"x": epoch, "y": round(statistics.mean(values), 4)})
        series.append({"name": arm, "points": points})
    return {
        "kind": "lines",
        "title": "Accuracy by epoch",
        "caption": f"Mean test accuracy over {len(results.pairs)} pairs and {results.seeds} seeds, equal rates for all arms.",
        "x": {"label": "epoch"},
        "y": {"label": "test accuracy", "log": False},
        "lines": [],
        "series": series,
    }


def _groups(results: Results) -> dict[str, Any]:
    """Mean ratio by what differs between source and target."""
    series = []
    for arm in results.arms:
        points = []
        for group in results.groups:
            pairs = [pair for pair in results.pairs if pair.group == group]
            ratio = over_pairs([row[None] for row in results.rows(pairs, arm, RANDOM, results.epochs)], geometric)
            points.append(
                {
                    "x": group,
                    "y": _rounded(ratio["mean"]),
                    "low": _rounded(ratio["low"]),
                    "high": _rounded(ratio["high"]),
                }
            )
        series.append({"name": arm, "points": points})
    return {
        "kind": "bars",
        "title": "Gain by what differs",
        "caption": f"Mean ratio to the random start after {results.epochs} epochs, by what differs between source and target.",
        "x": {"label": "what differs"},
        "y": {"label": "ratio to random", "log": False},
        "lines": [{"at": 1.0, "axis": "y", "label": "random"}],
        "series": series,
    }


def _pairs_table(results: Results) -> dict[str, Any]:
    columns = ["source", "target", "differs in", "symmetric", "directed", "random", *results.arms]
    rows = []
    for pair in results.pairs:
        matched = results.matched[pair.source, pair.target]
        row = [pair.source, pair.target, pair.group, f"{matched['symmetric']:.2f}", f"{matched['directed']:.2f}"]
        row.append(f"{float(results.accuracies(pair, RANDOM, results.epochs).mean()):.1%}")
        for arm in results.arms:
            share = results.overwritten[pair.source, pair.target, arm]
            row.append(f"{_ratio_of_pair(results, pair, arm)['mean']:.2f} ({share:.0%})")
        rows.append(row)
    return {
        "title": f"Every pair: accuracy of the random start after {results.epochs} epochs; ratio to it, and share of the "
        "target's entries that the transfer overwrote",
        "columns": columns,
        "rows": rows,
    }


def _rates_table(results: Results) -> dict[str, Any]:
    """Ratio of each arm of the sweep to the control, at equal rates."""
    arms = [arm for arm in results.arms if any(row["arm"] == arm for row in results.sweep["runs"])]
    columns = [
        "learning rate",
        "targets at it",
        *(f"{arm} by random" for arm in arms),
        *(f"{arm}, accuracy" for arm in arms),
    ]
    rows = []
    epoch = results.epochs
    for rate in dict.fromkeys(row["lr"] for row in results.sweep["runs"]):
        ratios = [_ratios_by_rate(results, arm, RANDOM, epoch)[rate] for arm in arms]
        chosen = sum(picked == rate for picked in results.sweep["rates"].values())
        means = [
            statistics.mean(
                accuracy_after(row, epoch) for row in results.sweep["runs"] if row["arm"] == arm and row["lr"] == rate
            )
            for arm in arms
        ]
        row = [f"{rate:g}", str(chosen), *(f"{float(geometric(values).mean()):.2f}" for values in ratios)]
        rows.append(row + [f"{mean:.1%}" for mean in means])
    return {
        "title": f"The sweep: ratio to the random start after {epoch} epochs with equal rates, and mean accuracy",
        "columns": columns,
        "rows": rows,
    }

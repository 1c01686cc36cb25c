"""Figures and tables of the DPIAT study, as data for a report."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from kzoo.studies.dpiat.design import Pair
from kzoo.studies.dpiat.results import Results
from kzoo.studies.records import accuracy_after
from kzoo.studies.sections import RANDOM
from kzoo.studies.statistics import geometric, over_pairs, over_seeds


def figures(results: Results) -> list[dict[str, Any]]:
    """What is drawn."""
    return [_scatter(results), _curves(results), _groups(results)]


def tables(results: Results) -> list[dict[str, Any]]:
    """What is listed."""
    return [_pairs_table(results), _rates_table(results)]


def _ratio_of_pair(results: Results, pair: Pair, arm: str) -> dict[str, float | None]:
    found = over_seeds(results.log_ratios(pair, arm, RANDOM, results.epochs))
    return {name: None if value is None else round(float(np.exp(value)), 4) for name, value in found.items()}


def _scatter(results: Results) -> dict[str, Any]:
    """Ratio against similarity, every pair and arm."""
    series = []
    for arm in results.arms:
        points = []
        for pair in results.pairs_of(arm):
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
    """Mean accuracy by epoch of the arms that are run on all pairs: means over others would not be comparable."""
    series = []
    for arm in (arm for arm in (*results.arms, RANDOM) if results.pairs_of(arm) == results.pairs):
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
            pairs = [pair for pair in results.pairs_of(arm) if pair.group == group]
            if not pairs:
                continue
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
            if pair not in results.pairs_of(arm):
                row.append("-")
                continue
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
        ratios = [results.log_ratios_by_rate(arm, RANDOM, epoch)[rate] for arm in arms]
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


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

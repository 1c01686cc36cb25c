"""Figures and tables of a study of fusion, as data for a report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kzoo.studies.fusion.design import ENSEMBLES, Case, Start
from kzoo.studies.fusion.results import Results
from kzoo.studies.statistics import Array, over_seeds

_BEGUN: dict[Start, str] = {
    "shared": "one random start for all parents",
    "different": "a random start for each parent",
    "pretrained": "a start pretrained on a few images of all classes",
}


def figures(results: Results) -> list[dict[str, Any]]:
    """What is drawn."""
    return [_bars(results, start) for start in results.profile.starts]


def tables(results: Results) -> list[dict[str, Any]]:
    """What is listed: every arm of every case, and what it is measured against."""
    return [_table(results, data, start) for data in results.profile.data for start in results.profile.starts]


def _bars(results: Results, start: Start) -> dict[str, Any]:
    """Some rows for each network, the mean over the tasks."""
    series = []
    for row in results.profile.shown:
        points = []
        for network in results.profile.networks:
            cases = [case for case in results.cases(None, [network], [start]) if results.has(case, row)]
            if cases:
                found = over_seeds(np.mean([results.accuracy(case, row) for case in cases], axis=0))
                ends = {end: None if (value := found[end]) is None else round(value, 4) for end in ("low", "high")}
                points.append({"x": network, "y": round(float(found["mean"] or 0), 4), **ends})
        if points:
            series.append({"name": row, "points": points})
    chance = float(np.mean([results.accuracy(case, "chance").mean() for case in results.cases(None, None, [start])]))
    return {
        "kind": "bars",
        "title": f"Fused networks: {_BEGUN[start]}",
        "caption": f"Test accuracy on all classes, the mean over {' and '.join(results.profile.data)}, with 95 % intervals over "
        f"{len(results.seeds)} seeds.",
        "x": {"label": "network"},
        "y": {"label": "test accuracy", "log": False},
        "lines": [{"at": round(chance, 4), "axis": "y", "label": "chance"}],
        "series": series,
    }


def _table(results: Results, data: str, start: Start) -> dict[str, Any]:
    networks = list(results.profile.networks)
    cases = [Case(data, network, start) for network in networks]
    rows = [[row, *(_cell(results, case, row) for case in cases)] for row in _rows(results)]
    return {
        "title": f"{data}, {_BEGUN[start]}: test accuracy on all classes in %, means over {len(results.seeds)} seeds with half their "
        "95 % intervals",
        "columns": ["", *networks],
        "rows": [row for row in rows if set(row[1:]) != {"-"}],
    }


def _rows(results: Results) -> Iterator[str]:
    yield from ("chance", *results.parents, *ENSEMBLES, "start")
    yield from results.profile.arms
    yield "joint"


def _cell(results: Results, case: Case, row: str) -> str:
    return _spread(results.accuracy(case, row)) if results.has(case, row) else "-"


def _spread(values: Array) -> str:
    """A mean and half its 95 % interval, in percent."""
    found = over_seeds(100 * values)
    mean, low, high = found["mean"], found["low"], found["high"]
    return f"{mean:.1f}" if low is None or high is None else f"{mean:.1f} ±{(high - low) / 2:.1f}"

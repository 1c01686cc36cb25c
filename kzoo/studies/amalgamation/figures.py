"""Figures and tables of a study of amalgamation, as data for a report."""

from __future__ import annotations

from typing import Any

from kzoo.studies.amalgamation.design import COMPARED, Way, learns_from_teachers
from kzoo.studies.amalgamation.results import Results
from kzoo.studies.statistics import Array, over_seeds


def figures(results: Results) -> list[dict[str, Any]]:
    """What is drawn."""
    series = []
    for row in results.profile.shown:
        points = []
        for setting in results.profile.settings:
            found = over_seeds(results.accuracy(setting, row))
            ends = {end: None if (value := found[end]) is None else round(value, 4) for end in ("low", "high")}
            points.append({"x": setting, "y": round(float(found["mean"] or 0), 4), **ends})
        series.append({"name": row, "points": points})
    drawn = {
        "kind": "bars",
        "title": "One student of several teachers, without labels",
        "caption": f"Test accuracy over all classes, with 95 % intervals over {len(results.seeds)} seeds.",
        "x": {"label": "setting"},
        "y": {"label": "test accuracy", "log": False},
        "lines": [],
        "series": series,
    }
    return [drawn]


def tables(results: Results) -> list[dict[str, Any]]:
    """What is listed: accuracies over all classes, those on the slice of each teacher, and the rates that were picked."""
    return [_joint(results), *(_slices(results, setting) for setting in results.profile.settings), _rates(results)]


def _joint(results: Results) -> dict[str, Any]:
    settings = list(results.profile.settings)
    rows = [
        [row, *(_spread(results.accuracy(setting, row)) for setting in settings)]
        for row in (*results.profile.arms, *COMPARED)
    ]
    title = f"Test accuracy over all classes in %, means over {len(results.seeds)} seeds with half their 95 % intervals"
    return {"title": title, "columns": ["", *settings], "rows": rows}


def _slices(results: Results, setting: str) -> dict[str, Any]:
    names = results.profile.settings[setting]
    arms = [arm for arm in results.profile.arms if learns_from_teachers(results.profile, arm)]
    rows = [["the teacher itself", *map(_spread, results.teachers(setting))]]
    rows += [[arm, *map(_spread, results.own(setting, arm))] for arm in arms]
    title = f"{setting}: accuracy in % on the images of each teacher, among that teacher's classes"
    return {"title": title, "columns": ["", *names], "rows": rows}


def _rates(results: Results) -> dict[str, Any]:
    settings = list(results.profile.settings)
    rows = [[arm, *(f"{results.rate(Way(setting, arm)):g}" for setting in settings)] for arm in results.profile.arms]
    return {"title": "Learning rates, picked on images held back", "columns": ["", *settings], "rows": rows}


def _spread(values: Array) -> str:
    """A mean and half its 95 % interval, in percent."""
    found = over_seeds(100 * values)
    mean, low, high = found["mean"], found["low"], found["high"]
    return f"{mean:.1f}" if low is None or high is None else f"{mean:.1f} ±{(high - low) / 2:.1f}"

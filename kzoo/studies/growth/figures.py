"""Figures and tables of a study of growth, as data for a report."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from kzoo.errors import InputError
from kzoo.studies.growth.design import Way, all_ways
from kzoo.studies.growth.results import Results, Use
from kzoo.studies.statistics import Array, over_seeds

_RATES: dict[Use, str] = {"own": "each arm at its own best rate", "equal": "all arms at the random start's best rate"}


def figures(results: Results) -> list[dict[str, Any]]:
    """What is drawn."""
    cases = list(results.profile.cases)
    return [_curves(results, case) for case in cases] + [_steps_bars(results, case) for case in cases]


def tables(results: Results) -> list[dict[str, Any]]:
    """What is listed."""
    found = [_arms_table(results, case, use) for case in results.profile.cases for use in _RATES]
    found += [_rates_table(results, case) for case in results.profile.cases]
    if any(row["insertions"] for way in all_ways(results.profile) for row in results.starts(way)):
        found.append(_insertions_table(results))
    if any(results.is_loop(way) for way in all_ways(results.profile)):
        found.append(_loop_table(results))
    return found


def _curves(results: Results, case: str) -> dict[str, Any]:
    """Mean accuracy by step, over all teachers and seeds of a case; only steps that all of an arm's runs were tested at."""
    series = []
    for arm in results.profile.cases[case].arms:
        rows = [row for way in results.ways(case, arm) for row in results.rows(way, "own")]
        found = [_by_step(row["tests"]) for row in rows if row["diverged"] is None]
        shared = [step for step in (found[0] if found else {}) if all(step in tests for tests in found)]
        points = [{"x": step, "y": round(statistics.mean(tests[step] for tests in found), 4)} for step in shared]
        series.append({"name": arm, "points": points})
    count = len(results.profile.cases[case].teachers)
    return {
        "kind": "lines",
        "title": f"Accuracy by step: {case}",
        "caption": f"Mean test accuracy over {count} teachers and {len(results.seeds)} seeds; {_RATES['own']}.",
        "x": {"label": "step"},
        "y": {"label": "test accuracy", "log": False},
        "lines": [{"at": round(_teachers_mean(results, case), 4), "axis": "y", "label": "teacher"}],
        "series": series,
    }


def _by_step(tests: list[tuple[int, float]]) -> dict[int, float]:
    return dict(tests)


def _teachers_mean(results: Results, case: str) -> float:
    arm = next(iter(results.profile.cases[case].arms))
    return float(np.mean([results.teacher(way, "accuracy") for way in results.ways(case, arm)]))


def _steps_bars(results: Results, case: str) -> dict[str, Any]:
    """Mean steps to every level."""
    series = []
    for level in results.profile.levels:
        points = []
        for arm in results.profile.cases[case].arms:
            ways = results.ways(case, arm)
            if any(results.is_loop(way) for way in ways):
                continue
            counts = np.mean([results.steps(way, level).counts for way in ways], axis=0)
            interval = over_seeds(counts)
            ends = {
                end: None if interval[end] is None else round(float(interval[end] or 0), 2) for end in ("low", "high")
            }
            points.append({"x": arm, "y": round(float(counts.mean()), 2), **ends})
        series.append({"name": f"teacher's{_more(results, level)}", "points": points})
    return {
        "kind": "bars",
        "title": f"Steps to an accuracy: {case}",
        "caption": "Steps to the first test with the accuracy, with 95 % intervals over seeds; a run without such a test counts as "
        f"its whole training; {_RATES['own']}.",
        "x": {"label": "arm"},
        "y": {"label": "steps", "log": False},
        "lines": [],
        "series": series,
    }


def _more(results: Results, level: str) -> str:
    more = results.profile.levels[level]
    return f" and {100 * more:g} points more" if more else " accuracy"


def _spread(values: Array, shown: Callable[[float], str]) -> str:
    """A mean and half its 95 % interval."""
    interval = over_seeds(values)
    low, high = interval["low"], interval["high"]
    mean = shown(float(interval["mean"] or 0))
    return mean if low is None or high is None else f"{mean} ±{shown((high - low) / 2)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _arms_table(results: Results, case: str, use: Use) -> dict[str, Any]:
    """Every arm with every teacher: start, steps to the levels, end."""
    rows = []
    first = next(iter(results.profile.cases[case].arms))
    for teacher in results.profile.cases[case].teachers:
        own = results.teacher(Way(case, teacher, first), "accuracy")
        rows.append([teacher, "(teacher)", "", _spread(own, _percent), *([""] * len(results.profile.levels)), "", ""])
        rows += [_arm_row(results, way, use) for way in _ways(results, case, teacher)]
    levels = [f"steps to the teacher's{_more(results, level)}" for level in results.profile.levels]
    return {
        "title": f"{case}: {_RATES[use]}; test accuracy in %, means over seeds with half their 95 % intervals, and in brackets how many "
        "runs got there",
        "columns": ["network", "arm", "rate", "at the start", *levels, "after one epoch", "at the end"],
        "rows": rows,
    }


def _arm_row(results: Results, way: Way, use: Use) -> list[str]:
    row = [way.teacher, way.arm, f"{results.rates[way][use]:g}", _accuracy(results, way, 0, use)]
    for level in results.profile.levels:
        if results.is_loop(way):
            row.append("-")
            continue
        steps = results.steps(way, level, use)
        row.append(f"{_spread(steps.counts, _whole)} ({int((~steps.without).sum())}/{len(steps.without)})")
    return [*row, _accuracy(results, way, 1, use), _accuracy(results, way, None, use)]


def _accuracy(results: Results, way: Way, epoch: int | None, use: Use) -> str:
    try:
        return _spread(results.accuracy(way, epoch, use), _percent)
    except InputError:
        return "-"


def _ways(results: Results, case: str, teacher: str) -> list[Way]:
    return [Way(case, teacher, arm) for arm in results.profile.cases[case].arms]


def _rates_table(results: Results, case: str) -> dict[str, Any]:
    """The sweep: the mean accuracy over a training, by which rates are picked, for every arm and rate."""
    rates = results.profile.sweep.rates
    rows = []
    for teacher in results.profile.cases[case].teachers:
        for way in _ways(results, case, teacher):
            cells = []
            for rate in rates:
                wanted = {**way._asdict(), "lr": rate}
                runs = [run for run in results.sweep["runs"] if wanted.items() <= run.items()]
                cells.append(_percent(statistics.mean(run["mean"] for run in runs)))
            rows.append([teacher, way.arm, *cells, f"{results.rates[way]['own']:g}"])
    return {
        "title": f"{case}: the sweep, on teachers of its own; mean test accuracy over a training in %, by learning rate",
        "columns": ["network", "arm", *(f"{rate:g}" for rate in rates), "best"],
        "rows": rows,
    }


def _insertions_table(results: Results) -> dict[str, Any]:
    """How well inserted layers hand features on."""
    rows = []
    for way in all_ways(results.profile):
        layers = [each for row in results.starts(way) for each in row["insertions"]]
        if not layers:
            continue
        identity = [each["identity_error"] for each in layers if each["identity_error"] is not None]
        lost = np.array([row["accuracy"] for row in results.starts(way)]) - results.teacher(way, "accuracy")
        loss = np.array([row["loss"] for row in results.starts(way)]) - results.teacher(way, "loss")
        rows.append(
            [
                *way,
                f"{statistics.mean(each['error'] for each in layers):.4f}",
                f"{statistics.mean(identity):.4f}" if identity else "-",
                _spread(lost, _percent),
                f"{float(loss.mean()):.4f}",
            ]
        )
    return {
        "title": "Inserted layers before any training: change of the features that they were to keep, as a share of them; what "
        "becomes of test accuracy (points) and loss (nats)",
        "columns": ["case", "network", "arm", "error", "an identity's", "accuracy", "loss"],
        "rows": rows,
    }


def _loop_table(results: Results) -> dict[str, Any]:
    """What the loop did at every insertion, on the images that it holds back."""
    rows = []
    for way in all_ways(results.profile):
        loops = [row["loop"] for row in results.rows(way, "own") if "loop" in row]
        for number in range(max(map(len, loops), default=0)):
            steps = [loop[number] for loop in loops if number < len(loop)]
            kept = [step for step in steps if step["kept"]]
            rows.append(
                [
                    *way,
                    steps[0]["at"],
                    f"{len(kept)}/{len(steps)}",
                    *(
                        _percent(statistics.mean(step[key] for step in steps))
                        for key in ("accuracy_before", "accuracy_inherited")
                    ),
                    _percent(statistics.mean(step["accuracy"] for step in kept)) if kept else "-",
                    f"{statistics.mean(step['best_epoch'] for step in kept):.1f}" if kept else "-",
                ]
            )
    return {
        "title": "The loop, insertion by insertion: accuracy in % on images held back, means over seeds",
        "columns": ["case", "network", "arm", "behind", "kept", "before", "inherited", "after training", "best epoch"],
        "rows": rows,
    }

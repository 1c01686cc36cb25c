"""Numbers and counts as people read them, the same in every form of a report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from kzoo.claims import VERDICTS
from kzoo.plots.text import clean, counted
from kzoo.reporting.reading import ClaimResult, PaperResult, Report

SETTINGS = {"paper": "the paper's own setting", "scaled": "scaled down"}
_DIGITS = 3
_MOST_DIGITS = 17


def numbers(values: Sequence[float], threshold: float) -> list[str]:
    """Numbers in three digits or more: as many as it takes to see on which side of the threshold each one is."""
    largest = max(map(abs, values), default=0.0)
    size = math.floor(math.log10(largest)) if largest else 0
    fixed = -5 < size < 7
    first = max(0, _DIGITS - 1 - size) if fixed else _DIGITS - 1
    for digits in range(first, first + _MOST_DIGITS):
        texts = [f"{value:,.{digits}f}" if fixed else f"{value:.{digits}e}" for value in values]
        shown = [float(text.replace(",", "")) for text in texts]
        if all(_side(one, threshold) == _side(other, threshold) for one, other in zip(shown, values, strict=True)):
            break
    return texts


def _side(value: float, threshold: float) -> int:
    return (value > threshold) - (value < threshold)


def value_text(result: ClaimResult) -> str:
    """``2.30 [1.90, 2.80] ratio``, or a dash where nothing was found."""
    if result.found is None:
        return "-"
    value, low, high = result.found.interval
    if low is None or high is None:
        return f"{numbers([value], result.claim.threshold)[0]} {result.claim.unit}"
    value_shown, low_shown, high_shown = numbers([value, low, high], result.claim.threshold)
    return f"{value_shown} [{low_shown}, {high_shown}] {result.claim.unit}"


def counts_text(result: ClaimResult) -> str:
    """``12 pairs, 4 seeds``: how much the value comes from."""
    counts = result.found.counts if result.found else {}
    return ", ".join(f"{number:,} {name.removesuffix('s') if number == 1 else name}" for name, number in counts.items())


def summary(report: Report) -> str:
    """``8 claims of 3 pipelines: 3 reproduced, 2 not reproduced, ...``."""
    said = ", ".join(f"{number:,} {verdict}" for verdict, number in report.counts.items())
    return f"{counted(len(report.claims), 'claim')} of {counted(len(report.papers), 'pipeline')}: {said}"


def overview(report: Report) -> list[tuple[str, ...]]:
    """A row for each paper: its name, what its results are of, and how many claims got each of `VERDICTS`."""
    rows = []
    for paper in report.papers:
        found = [claim.verdict for claim in paper.claims]
        counts = (str(found.count(verdict)) if verdict in found else "" for verdict in VERDICTS)
        rows.append((paper.about.paper, profile_text(paper), *counts))
    return rows


def environment(paper: PaperResult) -> list[tuple[str, str]]:
    """The machine and the versions, a line each."""
    found = paper.results.environment if paper.results is not None else {}
    return [(name, clean(value if isinstance(value, str) else json.dumps(value))) for name, value in found.items()]


def profile_text(paper: PaperResult) -> str:
    """Which profile the results are of."""
    return "never run" if paper.profile is None else f"profile {paper.profile}"

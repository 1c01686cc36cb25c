"""A report as data for programs."""

from __future__ import annotations

import json
from typing import Any

from kzoo.reporting.reading import ClaimResult, PaperResult, Report


def to_data(report: Report) -> dict[str, Any]:
    """The report as JSON has it."""
    return {"papers": [_paper(paper) for paper in report.papers], "counts": report.counts}


def json_text(report: Report) -> str:
    """The report as a JSON file."""
    return json.dumps(to_data(report), indent=2, ensure_ascii=False) + "\n"


def _paper(paper: PaperResult) -> dict[str, Any]:
    return {
        "paper": paper.folder,
        "name": paper.about.paper,
        "title": paper.about.title,
        "link": paper.about.link,
        "profile": paper.profile,
        "environment": paper.results.environment if paper.results is not None else {},
        "claims": [_claim(result) for result in paper.claims],
    }


def _claim(result: ClaimResult) -> dict[str, Any]:
    claim, found = result.claim, result.found
    return {
        "id": claim.id,
        "statement": claim.statement,
        "where": claim.where,
        "headline": claim.headline,
        "setting": claim.setting,
        "verdict": result.verdict,
        "value": found.value if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "unit": claim.unit,
        "comparison": claim.comparison,
        "threshold": claim.threshold,
        "seeds": claim.seeds,
        "counts": found.counts if found else {},
        "file": found.file if found else None,
        "reason": result.reason,
    }

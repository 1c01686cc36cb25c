"""The claims' verdicts, and tables of results, put into README.md and the READMEs of the pipelines; run by ``make docs``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kzoo.reporting.reading import ClaimResult, PaperResult, read_report
from kzoo.reporting.words import value_text
from kzoo.studies.metrics import metric_kinds

ROOT = Path(__file__).parent.parent
_PAPERS = ("amalgamation", "dils", "dpiat", "fusion", "net2net", "zoo")
PAGES = ("README.md", *(f"pipelines/{paper}/README.md" for paper in _PAPERS))
_PLACE = re.compile(r"(<!-- verdicts: (\w+) -->)\n.*?(<!-- /verdicts -->)", re.DOTALL)
_TABLES = re.compile(r"(<!-- tables: (\w+) -->)\n.*?(<!-- /tables -->)", re.DOTALL)


def verdicts(paper: PaperResult) -> str:
    """A table of a paper's claims."""
    head = ("claim", "wanted", "found", "verdict")
    lines = [head, ("---",) * len(head), *(_row(result) for result in paper.claims)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(result: ClaimResult) -> tuple[str, ...]:
    found = value_text(result) if result.found is not None else result.reason
    return " ".join(result.claim.statement.split()), result.claim.wanted, found, f"**{result.verdict}**"


def tables(paper: PaperResult) -> str:
    """All tables of a paper's results, each under its title."""
    found = [] if paper.results is None else paper.results.tables
    return "\n\n".join(f"{one.title}:\n\n{_table([one.columns, *one.rows])}" for one in found)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"| {' | '.join(['---'] * len(rows[0]))} |", *rest])


def with_verdicts(text: str) -> str:
    """A page's text with its tables as the committed results give them."""
    papers = {paper.folder: paper for paper in read_report(ROOT, None, metric_kinds()).papers}
    text = _TABLES.sub(lambda place: f"{place[1]}\n\n{tables(papers[place[2]])}\n\n{place[3]}", text)
    return _PLACE.sub(lambda place: f"{place[1]}\n\n{verdicts(papers[place[2]])}\n\n{place[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(with_verdicts(path.read_text(encoding="utf-8")), encoding="utf-8")

"""A report for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from kzoo.claims import VERDICTS
from kzoo.reporting.reading import PaperResult, Report
from kzoo.reporting.words import SETTINGS, overview, profile_text, summary, value_text

_WIDTH = 110
_HEADERS = ("verdict", "claim", "value [95 %]", "wanted", "file")


def text(report: Report) -> str:
    """The report: how many claims hold, then a table per paper, then what each claim says and why it is judged so."""
    parts = [f"{summary(report)}; * is a headline."]
    if len(report.papers) > 1:
        parts.append(_table(overview(report), ("paper", "results", *VERDICTS)))
    return "\n\n".join([*parts, *(_paper(paper) for paper in report.papers)]) + "\n"


def _paper(paper: PaperResult) -> str:
    head = f"{paper.about.paper}: {paper.about.title} ({profile_text(paper)})"
    head += f"\n{paper.about.link}" if paper.about.link else ""
    rows = [
        (
            result.verdict,
            f"{'* ' if result.claim.headline else ''}{result.claim.id}",
            value_text(result),
            result.claim.wanted,
            result.found.file if result.found else "-",
        )
        for result in paper.claims
    ]
    return "\n".join((head, "", _table(rows, _HEADERS), "", *_notes(paper)))


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers, tablefmt="simple", colalign=("left",) * len(headers), disable_numparse=True)


def _notes(paper: PaperResult) -> Iterator[str]:
    for result in paper.claims:
        claim = result.claim
        note = f"{claim.id}: {claim.statement} ({claim.where}; {SETTINGS[claim.setting]}) {_sentence(result.reason)}"
        yield textwrap.fill(note, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."

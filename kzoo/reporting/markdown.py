"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from kzoo.claims import VERDICTS
from kzoo.reporting.reading import ClaimResult, PaperResult, Report
from kzoo.reporting.words import SETTINGS, counts_text, environment, overview, profile_text, summary, value_text

_SPECIAL = re.compile(r"([\\`*_\[\]<>|&~#])")


def markdown(report: Report, base: str | None = None) -> str:
    """The report: counts, headlines, and a section per paper.

    ``base`` is the way from the report to the repository's folder, for links to files; without it there are none.
    """
    headlines = [
        (
            result.verdict,
            paper.about.paper,
            result.claim.statement,
            value_text(result),
            result.claim.wanted,
            result.reason,
        )
        for paper in report.papers
        for result in paper.claims
        if result.claim.headline
    ]
    parts = ["# What holds of the papers", f"{summary(report)}."]
    if len(report.papers) > 1:
        parts.append(_table(("paper", "results", *VERDICTS), overview(report)))
    if headlines:
        parts += ["## Headlines", _table(("verdict", "paper", "claim", "value [95 %]", "wanted", "why"), headlines)]
    for paper in report.papers:
        parts += _paper(paper, base)
    return "\n\n".join(parts) + "\n"


def _paper(paper: PaperResult, base: str | None) -> list[str]:
    about = paper.about
    headers = ("verdict", "claim", "value [95 %]", "wanted", "why", "where", "setting", "seeds", "found in")
    rows = [_row(result, base) for result in paper.claims]
    parts = [
        f"## {_plain(about.paper)}: {_plain(about.title)}",
        f"{_link(about.link)}{profile_text(paper)}. {_plain(about.known)}",
        _joined(headers, rows),
    ]
    if notes := [f"* {result.claim.id}: {_plain(result.claim.note)}" for result in paper.claims if result.claim.note]:
        parts.append("\n".join(notes))
    if paper.results is not None:
        for table in paper.results.tables:
            parts += [f"### {_plain(table.title)}", _table(table.columns, table.rows)]
        if figures := [f"* {_plain(figure.title)}: {_plain(figure.caption)}" for figure in paper.results.figures]:
            parts += ["### Figures", "The page of this report draws them.", "\n".join(figures)]
        if machine := [f"{_plain(name)} {_plain(value)}" for name, value in environment(paper)]:
            parts.append(f"Run with: {', '.join(machine)}.")
    return parts


def _row(result: ClaimResult, base: str | None) -> list[str]:
    claim = result.claim
    judged = (result.verdict, f"{claim.id}: {claim.statement}", value_text(result), claim.wanted, result.reason)
    asked = (claim.where, SETTINGS[claim.setting], f"{claim.seeds}")
    return [*map(_plain, (*judged, *asked)), _found(result, base)]


def _found(result: ClaimResult, base: str | None) -> str:
    if result.found is None:
        return "-"
    file = _plain(result.found.file)
    link = file if base is None else f"[{file}](<{base}{quote(result.found.file)}>)"
    return ", ".join(filter(None, (link, _plain(counts_text(result)))))


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _joined([_plain(header) for header in headers], [[_plain(cell) for cell in row] for row in rows])


def _joined(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, ["---"] * len(headers), *rows))


def _link(link: str | None) -> str:
    return "" if link is None else f"<{quote(link, safe=':/?#[]@!$&()*+,;=%~')}>, "


def _plain(text: str) -> str:
    """Text that stays the text that it is."""
    return _SPECIAL.sub(r"\\\1", text)

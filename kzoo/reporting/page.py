"""A report as one HTML page that needs nothing else: no network, no scripts, for light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from kzoo.claims import VERDICTS
from kzoo.errors import InputError
from kzoo.plots.style import DARK, LIGHT
from kzoo.reporting.charts import LOOKS, chart, row_plot, swatch
from kzoo.reporting.reading import ClaimResult, PaperResult, Report
from kzoo.reporting.results import Figure
from kzoo.reporting.words import SETTINGS, counts_text, environment, overview, profile_text, summary, value_text

_TEMPLATE = "page.html.j2"
#: A sign for each verdict, since colours alone do not speak to everybody.
_SIGNS = dict(zip(VERDICTS, ("\N{CHECK MARK}", "\N{MULTIPLICATION SIGN}", "?", "\N{EN DASH}"), strict=True))
_VERDICT_COLOURS = (("#1a7f37", "#b42318", "#8a5a00", "#626a75"), ("#4ac26b", "#ff8f80", "#e3b341", "#97a1ae"))


def html(report: Report, base: str | None = None) -> str:
    """The page; ``base`` is the way from it to the repository's folder, for links to files, without which there are none.

    Raises:
        InputError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise InputError("the page needs Jinja2: install it with pip install 'kzoo[pipelines]'") from None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE).render(_content(report, base))


def _content(report: Report, base: str | None) -> dict[str, Any]:
    """What the template shows."""
    papers = [_paper(paper, base) for paper in report.papers]
    headlines = [claim for paper in papers for claim in paper["claims"] if claim["headline"]]
    return {
        "summary": summary(report),
        "counts": [
            {"verdict": verdict, "sign": _SIGNS[verdict], "kind": f"v{index}", "number": report.counts[verdict]}
            for index, verdict in enumerate(VERDICTS)
        ],
        # What holds comes first, then what does not.
        "headlines": sorted(headlines, key=lambda claim: claim["kind"]),
        "verdicts": VERDICTS,
        "overview": list(zip([paper.folder for paper in report.papers], overview(report), strict=True)),
        "papers": papers,
        "schemes": [_scheme(index) for index in range(2)],
        "looks": LOOKS,
    }


def _scheme(index: int) -> list[tuple[str, str]]:
    scheme = (LIGHT, DARK)[index]
    names = ("page", "panel", "border", "ink", "quiet")
    return [
        *((name, getattr(scheme, name)) for name in names),
        *((f"v{place}", colour) for place, colour in enumerate(_VERDICT_COLOURS[index])),
        *((f"s{place}", colour) for place, colour in enumerate(scheme.series)),
    ]


def _paper(paper: PaperResult, base: str | None) -> dict[str, Any]:
    results = paper.results
    found = [claim.verdict for claim in paper.claims]
    return {
        "folder": paper.folder,
        "name": paper.about.paper,
        "title": paper.about.title,
        "link": paper.about.link,
        "known": paper.about.known,
        "profile": profile_text(paper),
        "environment": environment(paper),
        "counts": [f"{found.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in found],
        "claims": [_claim(paper, result, base) for result in paper.claims],
        "figures": [_figure(figure) for figure in results.figures] if results is not None else [],
        "tables": results.tables if results is not None else [],
    }


def _claim(paper: PaperResult, result: ClaimResult, base: str | None) -> dict[str, Any]:
    from markupsafe import Markup

    claim, found = result.claim, result.found
    upward = claim.comparison in ("at least", "above")
    value, _, interval = value_text(result).partition(" ")
    return {
        "id": claim.id,
        "anchor": f"{quote(paper.folder)}/{claim.id}",
        "paper": paper.about.paper,
        "headline": claim.headline,
        "verdict": result.verdict,
        "kind": f"v{VERDICTS.index(result.verdict)}",
        "sign": _SIGNS[result.verdict],
        "statement": claim.statement,
        "where": claim.where,
        "setting": SETTINGS[claim.setting],
        "value": value,
        "interval": interval,
        "wanted": claim.wanted,
        "reason": result.reason,
        "seeds": claim.seeds,
        "note": claim.note,
        "counts": counts_text(result),
        "file": found.file if found else None,
        "href": f"{base}{quote(found.file)}" if found and base is not None else None,
        "plot": Markup(row_plot(found.interval, claim.threshold, upward)) if found else "",
    }


def _figure(figure: Figure) -> dict[str, Any]:
    from markupsafe import Markup

    return {
        "title": figure.title,
        "caption": figure.caption,
        "legend": [(series.name, Markup(swatch(figure, index))) for index, series in enumerate(figure.series)],
        "chart": Markup(chart(figure)),
    }

"""A figure as an SVG that stands alone: with its title, caption and legend, for light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from kzoo.plots.style import figure_style
from kzoo.plots.text import quoted, shorten
from kzoo.reporting.charts import HEIGHT, WIDTH, elements, sign
from kzoo.reporting.results import Figure

_MARGIN, _LINE = 20.0, 18.0
#: From the top to the baseline of the title, and from there to the first line below it.
_TITLE, _GAP = 30.0, 24.0
#: An upper bound of a character's width at the words' 13 px.
_CELL = 7.3
_MOST_CELLS = int((WIDTH - 2 * _MARGIN) / _CELL)
_LONGEST_NAME = 40
#: Room for a sign before its name, and between the name and the next sign.
_SIGN, _AFTER = 14.0, 18.0


def picture(figure: Figure) -> str:
    """The picture; the same figure gives the same bytes."""
    said = wrap(figure.caption, _MOST_CELLS)
    # A little more than a line keeps the legend apart from the caption.
    legend = _TITLE + _GAP + (_LINE * len(said) + 4 if said else 0)
    named, lines = _legend(figure, legend)
    top = legend + _LINE * lines
    height = top + HEIGHT
    parts = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="kzoo-figure" viewBox="0 0 {WIDTH:g} {height:g}" '
        f'width="{WIDTH:g}" height="{height:g}" role="img" aria-label="{quoted(figure.title)}">',
        f"<title>{quoted(figure.title)}</title>",
        f"<desc>{quoted(figure.caption)}</desc>" if figure.caption else "",
        f"<style>{figure_style()}</style>",
        f'<rect class="page" width="{WIDTH:g}" height="{height:g}"/>',
        _words(_MARGIN, _TITLE, shorten(figure.title, _MOST_CELLS), "title"),
        *(_words(_MARGIN, _TITLE + _GAP + _LINE * index, line, "words") for index, line in enumerate(said)),
        *named,
        f'<g transform="translate(0 {top:g})">',
        *elements(figure),
        "</g>",
        "</svg>",
    )
    return "\n".join(part for part in parts if part) + "\n"


def _legend(figure: Figure, first: float) -> tuple[list[str], int]:
    """Signs with the names of the series, as many to a line as fit, and the number of lines."""
    parts: list[str] = []
    across, line = _MARGIN, 0
    for index, series in enumerate(figure.series):
        name = shorten(series.name, _LONGEST_NAME)
        width = _SIGN + len(name) * _CELL
        if across + width > WIDTH - _MARGIN and across > _MARGIN:
            across, line = _MARGIN, line + 1
        down = first + _LINE * line
        parts += _entry(figure, index, name, across, down)
        across += width + _AFTER
    return parts, line + 1


def _entry(figure: Figure, index: int, name: str, across: float, down: float) -> Iterator[str]:
    yield f'<g transform="translate({across + 5:g} {down - 4.5:g})">{sign(figure, index)}</g>'
    yield _words(across + _SIGN, down, name, "words name")


def _words(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:g}" y="{y:g}">{quoted(text)}</text>'

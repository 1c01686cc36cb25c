"""Shares with their intervals as a picture: a point for each of several things, on a scale from nothing to all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kzoo.plots.style import DARK, LIGHT, Scheme
from kzoo.plots.text import quoted, shorten

_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
_CELLS, _CELL = 46, 6.9
_LEFT, _PLOT, _RIGHT, _MARGIN = _CELLS * _CELL + 24, 340.0, 72.0, 16.0
_ROW, _TOP, _BOTTOM = 26.0, 44.0, 26.0
_MOST_ROWS = 40


@dataclass(frozen=True)
class Share:
    """A thing's share, from 0 to 1, with the ends of its interval where it has one; what ``is_marked`` stands out."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    is_marked: bool = False


def shares_svg(title: str, rows: Sequence[Share]) -> str:
    """The picture, of at most 40 rows; the same rows give the same bytes."""
    rows = rows[:_MOST_ROWS]
    width, height = _LEFT + _PLOT + _RIGHT, _TOP + _ROW * len(rows) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-labelledby="title">',
        f'<title id="title">{quoted(title)}</title>',
        f"<style>{_rules(LIGHT)}@media (prefers-color-scheme: dark) {{{_rules(DARK)}}}</style>",
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>',
        f'<text class="title" x="{_MARGIN:.0f}" y="26">{quoted(title)}</text>',
        *_scale(len(rows)),
        *(part for number, row in enumerate(rows) for part in _row(row, _TOP + _ROW * (number + 0.5))),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rules(scheme: Scheme) -> str:
    first = scheme.series[0]
    return (
        f".page{{fill:{scheme.page}}}text{{font:13px {_SANS};fill:{scheme.ink}}}.title,.marked{{font-weight:600}}"
        f".quiet{{font-size:11px;fill:{scheme.quiet}}}.grid{{stroke:{scheme.border}}}.range{{stroke:{scheme.used};stroke-width:2}}"
        f".point{{fill:{scheme.used}}}.ours{{fill:{first}}}.range.ours{{stroke:{first};stroke-width:3}}"
    )


def _scale(rows: int) -> Iterator[str]:
    bottom = _TOP + _ROW * rows
    for percent in (0, 25, 50, 75, 100):
        x = _across(percent / 100)
        yield f'<path class="grid" d="M{x:.1f} {_TOP:.0f}V{bottom:.0f}"/>'
        yield f'<text class="quiet" x="{x:.1f}" y="{bottom + 16:.0f}" text-anchor="middle">{percent} %</text>'


def _across(share: float) -> float:
    return _LEFT + _PLOT * min(max(share, 0.0), 1.0)


def _row(row: Share, y: float) -> Iterator[str]:
    ours, marked = (" ours", " marked") if row.is_marked else ("", "")
    yield f'<text class="name{marked}" x="{_MARGIN:.0f}" y="{y + 4.5:.1f}">{quoted(shorten(row.name, _CELLS))}</text>'
    if row.low is not None and row.high is not None:
        yield f'<path class="range{ours}" d="M{_across(row.low):.1f} {y:.1f}H{_across(row.high):.1f}"/>'
    yield f'<circle class="point{ours}" cx="{_across(row.value):.1f}" cy="{y:.1f}" r="{5 if row.is_marked else 4}"/>'
    x = _LEFT + _PLOT + 12
    yield f'<text class="value{marked}" x="{x:.0f}" y="{y + 4.5:.1f}">{100 * row.value:.1f} %</text>'

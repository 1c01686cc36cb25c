"""Colours and fonts, for light and for dark surroundings.

The scale of scores runs in lightness as well as in hue, so that its order survives colour blindness and grey prints: a
better score stands out more from the page. Rules are written out for both schemes, since programs that turn SVG into
print know classes and not CSS variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: What the levels of a score mean, worst first.
LEVELS = ("below 0.25", "0.25 to 0.5", "0.5 to 0.75", "0.75 to 1", "1: same shape")

_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Scheme:
    """The colours of one scheme; ``scale`` is that of the scores, worst first, ``series`` are those of a chart's curves."""

    page: str
    panel: str
    border: str
    ink: str
    quiet: str
    used: str
    alarm: str
    scale: tuple[str, ...]
    series: tuple[str, ...]


LIGHT = Scheme(
    page="#ffffff",
    panel="#f6f7f9",
    border="#d5d9e0",
    ink="#1f2328",
    quiet="#626a75",
    used="#8c95a3",
    alarm="#a3341c",
    scale=("#dd9a22", "#e36927", "#c82462", "#7c0a91", "#1f1080"),
    series=("#0068a3", "#b85c00", "#007a5a", "#b0508d", "#6b5fc7", "#5c6570"),
)
DARK = Scheme(
    page="#0f141b",
    panel="#171d26",
    border="#313a47",
    ink="#e6edf3",
    quiet="#97a1ae",
    used="#7d8794",
    alarm="#ff9d85",
    scale=("#915006", "#c74c3d", "#e65598", "#cc97f3", "#93efff"),
    series=("#58b4ea", "#f0a64a", "#2fcf9f", "#ea94c5", "#aaa2f5", "#b3bcc7"),
)


def level(score: float) -> int:
    """Which of `LEVELS` a score belongs to; only 1 itself is the last."""
    return len(LEVELS) - 1 if score >= 1 else int(score * (len(LEVELS) - 1))


def svg_style() -> str:
    """The rules of the picture."""
    return f"{_fixed()}{_colours(LIGHT)}@media (prefers-color-scheme: dark) {{{_colours(DARK)}}}"


def figure_style() -> str:
    """The rules of a chart that stands alone."""
    return (
        f".kzoo-figure text {{font: 12px {_SANS}}}"
        ".kzoo-figure .title {font-size: 16px; font-weight: 600}"
        ".kzoo-figure .words {font-size: 13px}"
        ".kzoo-figure .note {paint-order: stroke; stroke-width: 3px}"
        ".kzoo-figure .grid {stroke-width: .7}"
        ".kzoo-figure .mark {stroke-width: 1.2; stroke-dasharray: 4 3}"
        ".kzoo-figure .dot {stroke-width: .8}"
        ".kzoo-figure .bar {opacity: .82}"
        ".kzoo-figure .band {opacity: .16}"
        ".kzoo-figure .curve, .kzoo-figure .whisker {fill: none}"
        ".kzoo-figure .curve {stroke-width: 2}"
        ".kzoo-figure .whisker {stroke-width: 1.1}"
        f"{_figure_colours(LIGHT)}@media (prefers-color-scheme: dark) {{{_figure_colours(DARK)}}}"
    )


def page_style() -> str:
    """The rules of the page around the picture."""
    return (
        ":root {color-scheme: light dark}"
        f"body {{margin: 0; font: 15px/1.5 {_SANS}}}"
        "main {max-width: 984px; margin: 0 auto; padding: 32px 24px}"
        f"h1 {{font: 600 22px/1.3 {_MONO}; overflow-wrap: anywhere; margin: 0 0 20px}}"
        "dl {display: flex; flex-wrap: wrap; gap: 12px; margin: 0}"
        "dl div {flex: 1 1 180px; padding: 10px 14px; border: 1px solid; border-radius: 6px}"
        "dd {margin: 0; font-size: 24px; font-variant-numeric: tabular-nums}"
        "dt, small, th {font-size: 12.5px}"
        "small {display: block; line-height: 1.35}"
        "ul {padding-left: 20px; overflow-wrap: anywhere}"
        "figure {margin: 20px -24px; overflow-x: auto}"
        "summary {font-weight: 600; cursor: pointer; margin-bottom: 10px}"
        "table {border-collapse: collapse; width: 100%}"
        "th, td {text-align: left; vertical-align: top; padding: 3px 16px 3px 0; border-bottom: 1px solid}"
        f"td {{font: 12.5px/1.5 {_MONO}; overflow-wrap: anywhere}}"
        "th.number, td.number {text-align: right; padding-right: 0}"
        f"{_page_colours(LIGHT)}@media (prefers-color-scheme: dark) {{{_page_colours(DARK)}}}"
    )


def _page_colours(scheme: Scheme) -> str:
    return (
        f"body {{background: {scheme.page}; color: {scheme.ink}}}"
        f"dl div {{background: {scheme.panel}}}"
        f"dl div, th, td {{border-color: {scheme.border}}}"
        f"dt, small, th {{color: {scheme.quiet}}}"
    )


def _figure_colours(scheme: Scheme) -> str:
    rules = {
        ".page": f"fill: {scheme.page}",
        "text": f"fill: {scheme.quiet}",
        ".title, .label, .note, .name": f"fill: {scheme.ink}",
        ".note, .dot": f"stroke: {scheme.page}",
        ".grid": f"stroke: {scheme.border}",
        ".axis": f"stroke: {scheme.quiet}",
        ".mark": f"stroke: {scheme.ink}",
        **{f".s{index}": f"fill: {colour}" for index, colour in enumerate(scheme.series)},
        **{f".s{index} .curve, .s{index} .whisker": f"stroke: {colour}" for index, colour in enumerate(scheme.series)},
        ".bar + .whisker": f"stroke: {scheme.ink}",
    }
    return _written("kzoo-figure", rules)


def _written(kind: str, rules: Mapping[str, str]) -> str:
    return "".join(
        f"{', '.join(f'.{kind} {part}' for part in selectors.split(', '))} {{{rule}}}"
        for selectors, rule in rules.items()
    )


def _fixed() -> str:
    return (
        f".kzoo .name {{font: 11px {_MONO}; white-space: pre}}"
        f".kzoo .words {{font: 13px {_SANS}}}"
        ".kzoo .small {font-size: 11.5px}"
        ".kzoo .strong, .kzoo .heading, .kzoo .random .note {font-weight: 600}"
        ".kzoo .heading {font-size: 16px}"
        ".kzoo .hatch {fill: url(#kzoo-hatch)}"
        ".kzoo .place, .kzoo .hollow, .kzoo .dashed {fill: none}"
        ".kzoo .place {pointer-events: all}"
        ".kzoo .dashed {stroke-dasharray: 4 3}"
        ".kzoo .link {opacity: .85; stroke-width: .8}"
        ".kzoo .link:hover {opacity: 1}"
    )


def _colours(scheme: Scheme) -> str:
    rules = {
        ".page, .hatched": f"fill: {scheme.page}",
        ".frame": f"fill: {scheme.panel}; stroke: {scheme.border}",
        "text": f"fill: {scheme.ink}",
        "text.quiet, .unused text": f"fill: {scheme.quiet}",
        ".random .note": f"fill: {scheme.alarm}",
        ".dashed, .hatch": f"stroke: {scheme.alarm}",
        ".stripe": f"fill: {scheme.alarm}",
        ".used": f"fill: {scheme.used}",
        ".hollow": f"stroke: {scheme.used}",
        **{f".s{index}": f"fill: {colour}" for index, colour in enumerate(scheme.scale)},
        # The outline keeps steep ribbons from thinning out.
        **{f".link.s{index}": f"stroke: {colour}" for index, colour in enumerate(scheme.scale)},
    }
    return _written("kzoo", rules)

"""Figures as SVG inside something else, a report's page or a picture, whose rules colour them for light and dark.

The same figure gives the same bytes. Whatever can be pointed at has a title.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from kzoo.claims import Interval
from kzoo.plots.text import quoted, shorten
from kzoo.reporting.results import Figure, Mark, Point, Series
from kzoo.reporting.scales import Scale, scale

#: So many series have looks of their own; then they start again.
LOOKS = 6
WIDTH, HEIGHT = 640.0, 372.0
_TOP, _RIGHT = 14.0, 18.0
#: An upper bound of a character's width at the ticks' 12 px, and a line's height.
_CELL, _LINE = 6.7, 16.0
#: More points than this are a line without markers.
_MARKED = 40
_LONGEST_NAME = 26
#: Sine and cosine of the angle at which long names stand below the bars.
_SLANT = 30
_SLANT_DOWN, _SLANT_LEFT = 0.5, 0.866
#: Outlines of the markers, around 0 and about 8 wide.
_MARKERS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "M-3.6,-3.6h7.2v7.2h-7.2Z",
    "M0,-4.6L4.4,3.4H-4.4Z",
    "M0,4.6L4.4,-3.4H-4.4Z",
    "M0,-5L5,0L0,5L-5,0Z",
    "M-1.3,-4.4h2.6v3.1h3.1v2.6h-3.1v3.1h-2.6v-3.1h-3.1v-2.6h3.1Z",
)


def chart(figure: Figure) -> str:
    """The figure without its title, caption and legend, which the page has."""
    head = f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{quoted(figure.title)}">'
    return "\n".join((head, *elements(figure), "</svg>"))


def elements(figure: Figure) -> list[str]:
    """The elements of the chart, in a field of `WIDTH` by `HEIGHT`."""
    names = _names(figure)
    floor = HEIGHT - 44 - _name_room(names)
    y = _y_scale(figure, floor)
    left = 34 + max((len(text) for _, text in y.ticks()), default=1) * _CELL
    x = _x_scale(figure, left, names)
    drawn = _bars(figure, names, x, y) if figure.kind == "bars" else _curves(figure, x, y)
    found = [
        *_y_axis(figure.y.label, y, left),
        *(_name_axis(names, x, floor) if names else _x_axis(x, floor)),
        _text((left + WIDTH - _RIGHT) / 2, HEIGHT - 8, figure.x.label, "middle", "label"),
        *drawn,
        *(part for mark in figure.lines for part in _mark(mark, x, y, bool(names))),
    ]
    return [part for part in found if part]


def swatch(figure: Figure, index: int) -> str:
    """The look of one of the figure's series, for a legend."""
    return f'<svg class="swatch" viewBox="-7 -7 14 14" aria-hidden="true">{sign(figure, index)}</svg>'


def sign(figure: Figure, index: int) -> str:
    """The same without a frame, around 0."""
    bar = f'<rect class="bar s{index % LOOKS}" x="-5" y="-5" width="10" height="10"/>'
    return bar if figure.kind == "bars" else _marker(index, 0, 0)


def _names(figure: Figure) -> list[str]:
    """What stands on the axis of bars, in order of appearance."""
    return list(dict.fromkeys(str(point.x) for point in figure.points)) if figure.kind == "bars" else []


def _slanted(names: Sequence[str]) -> bool:
    slot = (WIDTH - 80) / max(1, len(names))
    return max(map(len, names), default=0) * _CELL > slot


def _name_room(names: Sequence[str]) -> float:
    """Room below the axis beyond one line."""
    if not _slanted(names):
        return 0.0
    return min(max(map(len, names)), _LONGEST_NAME) * _CELL * _SLANT_DOWN


def _x_scale(figure: Figure, left: float, names: Sequence[str]) -> Scale:
    right = WIDTH - _RIGHT
    if names:
        return Scale(-0.5, len(names) - 0.5, left, right)
    values = [point.x for point in figure.points if not isinstance(point.x, str)]
    found = scale([*values, *_marked(figure, "x")], left, right, figure.x.log)
    # There is no epoch 1.5; where points are joined, what lies between whole numbers is no place of any.
    return replace(found, whole=figure.kind == "lines" and all(value == int(value) for value in values))


def _y_scale(figure: Figure, floor: float) -> Scale:
    ends = chain.from_iterable((point.y, point.low, point.high) for point in figure.points)
    values = [value for value in ends if value is not None]
    base = 0.0 if figure.kind == "bars" else None
    return scale([*values, *_marked(figure, "y")], floor, _TOP, figure.y.log, base)


def _marked(figure: Figure, axis: str) -> list[float]:
    return [mark.at for mark in figure.lines if mark.axis == axis]


def _y_axis(label: str, y: Scale, left: float) -> Iterator[str]:
    for value, text in y.ticks():
        yield _line(left, y(value), WIDTH - _RIGHT, y(value), "grid")
        yield _text(left - 6, y(value) + 4, text, "end")
    middle = (y.start + y.end) / 2
    yield f'<g transform="rotate(-90 14 {_n(middle)})">{_text(14, middle, label, "middle", "label")}</g>'


def _x_axis(x: Scale, floor: float) -> Iterator[str]:
    yield _line(x.start, floor, x.end, floor, "axis")
    for value, text in x.ticks():
        yield _line(x(value), floor, x(value), floor + 4, "axis")
        yield _text(x(value), floor + _LINE + 2, text, "middle")


def _name_axis(names: Sequence[str], x: Scale, floor: float) -> Iterator[str]:
    yield _line(x.start, floor, x.end, floor, "axis")
    for index, name in enumerate(names):
        place, down = x(index), floor + _LINE + 2
        if not _slanted(names):
            yield _text(place, down, name, "middle")
            continue
        # Slanted, a name may be as long as the way to the left edge.
        cells = min(_LONGEST_NAME, int(place / _SLANT_LEFT / _CELL))
        short = _text(place + 4, down - 4, shorten(name, cells), "end")
        yield f'<g transform="rotate(-{_SLANT} {_n(place + 4)} {_n(down - 4)})"><title>{quoted(name)}</title>{short}</g>'


def _mark(mark: Mark, x: Scale, y: Scale, named: bool) -> Iterator[str]:
    if mark.axis == "y":
        yield _line(x.start, y(mark.at), x.end, y(mark.at), "mark")
        yield _text(x.end - 2, y(mark.at) - 5, mark.label, "end", "note")
    elif not named:
        yield _line(x(mark.at), y.start, x(mark.at), y.end, "mark")
        side = "end" if x(mark.at) > (x.start + x.end) / 2 else "start"
        yield _text(x(mark.at) + (-5 if side == "end" else 5), y.end + 10, mark.label, side, "note")


def _curves(figure: Figure, x: Scale, y: Scale) -> Iterator[str]:
    for index, series in enumerate(figure.series):
        places = [(x(float(point.x)), y(point.y)) for point in series.points]
        yield f'<g class="s{index % LOOKS}">'
        if figure.kind == "lines":
            yield _band(series, x, y)
            yield f'<polyline class="curve" points="{_points(places)}"/>' if places else ""
        for point, (across, down) in zip(series.points, places, strict=True):
            said = f"<title>{quoted(_said(series.name, point))}</title>"
            if figure.kind == "scatter":
                yield f"<g>{said}{_error_bar(point, across, y)}{_marker(index, across, down)}</g>"
            elif len(series.points) <= _MARKED:
                yield f"<g>{said}{_marker(index, across, down)}</g>"
        yield "</g>"


def _band(series: Series, x: Scale, y: Scale) -> str:
    """What lies between the ends of the intervals."""
    known = [(x(float(point.x)), point) for point in series.points if point.low is not None and point.high is not None]
    upper = [(across, y(point.high)) for across, point in known if point.high is not None]
    lower = [(across, y(point.low)) for across, point in known if point.low is not None]
    return f'<polygon class="band" points="{_points([*upper, *reversed(lower)])}"/>' if len(known) > 1 else ""


def _bars(figure: Figure, names: Sequence[str], x: Scale, y: Scale) -> Iterator[str]:
    slot = (x.end - x.start) / max(1, len(names)) * 0.8
    width = min(slot / max(1, len(figure.series)), 60.0)
    for index, series in enumerate(figure.series):
        shift = (index - (len(figure.series) - 1) / 2) * width
        yield f'<g class="s{index % LOOKS}">'
        for point in series.points:
            across = x(names.index(str(point.x))) + shift
            top, bottom = sorted((y(point.y), y(0.0 if not y.log else y.low)))
            yield (
                f"<g><title>{quoted(_said(series.name, point))}</title>"
                f'<rect class="bar" x="{_n(across - width * 0.45)}" y="{_n(top)}" width="{_n(width * 0.9)}" '
                f'height="{_n(bottom - top)}"/>{_error_bar(point, across, y)}</g>'
            )
        yield "</g>"


def _error_bar(point: Point, across: float, y: Scale) -> str:
    if point.low is None or point.high is None:
        return ""
    low, high = y(point.low), y(point.high)
    return f'<path class="whisker" d="M{_n(across)},{_n(low)}V{_n(high)}m-3,0h6M{_n(across - 3)},{_n(low)}h6"/>'


def _marker(index: int, across: float, down: float) -> str:
    look = index % LOOKS
    return f'<path class="dot s{look}" transform="translate({_n(across)} {_n(down)})" d="{_MARKERS[look]}"/>'


def _said(name: str, point: Point) -> str:
    x = point.x if isinstance(point.x, str) else f"{point.x:.4g}"
    interval = "" if point.low is None or point.high is None else f" [{point.low:.4g}, {point.high:.4g}]"
    return f"{name}: {', '.join(filter(None, (point.label, f'{x}: {point.y:.4g}{interval}')))}"


_ROW_WIDTH, _ROW_HEIGHT = 150.0, 34.0


def row_plot(found: Interval, threshold: float, upward: bool) -> str:
    """One row of a forest plot: the interval beside the threshold, which stands in the middle of every row.

    Units differ from claim to claim, so each row has a scale of its own; the side where the claim holds is shaded.
    """
    middle, down = _ROW_WIDTH / 2, _ROW_HEIGHT / 2
    reach = max(abs(end - threshold) for end in found if end is not None) or 1.0
    axis = Scale(threshold - reach, threshold + reach, 8, _ROW_WIDTH - 8)
    interval = ""
    if found.low is not None and found.high is not None:
        low, high = axis(found.low), axis(found.high)
        interval = f'<path class="interval" d="M{_n(low)},{_n(down)}H{_n(high)}m0,-5v10M{_n(low)},{_n(down - 5)}v10"/>'
    parts = (
        f'<svg class="forest" viewBox="0 0 {_ROW_WIDTH:g} {_ROW_HEIGHT:g}" aria-hidden="true">',
        f'<rect class="side" x="{_n(middle if upward else 0)}" y="0" width="{_n(middle)}" height="{_ROW_HEIGHT:g}"/>',
        _line(middle, 0, middle, _ROW_HEIGHT, "mark"),
        interval,
        f'<circle class="value" cx="{_n(axis(found.value))}" cy="{_n(down)}" r="4.5"/></svg>',
    )
    return "".join(parts)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_n(across)},{_n(down)}" for across, down in places)


def _line(x0: float, y0: float, x1: float, y1: float, classes: str) -> str:
    return f'<path class="{classes}" d="M{_n(x0)},{_n(y0)}L{_n(x1)},{_n(y1)}"/>'


def _text(x: float, y: float, text: str, anchor: str, classes: str = "tick") -> str:
    return (
        f'<text class="{classes}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{quoted(text)}</text>' if text else ""
    )


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")

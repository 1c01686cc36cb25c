"""Draw a laid out matching as SVG text: light and dark, with a title on everything that can be pointed at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

from kzoo.explain import explain
from kzoo.layers import Architecture, Layer
from kzoo.matching import Matching
from kzoo.plots.folding import Cell
from kzoo.plots.layout import LINE, Layout, Link, PlacedGroup, PlacedRow, lay_out
from kzoo.plots.style import LEVELS, level, svg_style
from kzoo.plots.text import counted, quoted, shorten

WIDTH = 1032
_MARGIN = 24.0
_COLUMN = 372.0
#: Left edges of the columns, and where links begin and end.
_SOURCE, _TARGET = _MARGIN, WIDTH - _MARGIN - _COLUMN
_START, _END = _SOURCE + _COLUMN, _TARGET
_INSET = 10.0
_BAR = 34.0
#: From the top of a line to its text's baseline.
_BASELINE = 12.5
#: Room between a target row's bar and its label, for the score or a word.
_NOTE = 52.0
#: An upper bound of a character's width at the rows' 11 px, over the monospaced fonts that systems have.
_CELL = 6.85
_HEAD_CELLS = 42
_TITLE_CELLS = 48


def draw(matching: Matching, *, headed: bool = True) -> str:
    """The picture; without its heading and numbers if the page around it has them."""
    top = 152.0 if headed else 64.0
    layout = lay_out(matching, top)
    notes = _notes(matching, layout)
    below = layout.bottom + 26
    height = below + 16 * len(notes)
    name = f"Matching of {name_of(matching.source, 'source')} to {name_of(matching.target, 'target')}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="kzoo" viewBox="0 0 {WIDTH} {_n(height)}" '
        f'width="{WIDTH}" height="{_n(height)}" role="img" aria-labelledby="kzoo-title kzoo-desc">',
        f'<title id="kzoo-title">{quoted(name)}</title>',
        f'<desc id="kzoo-desc">{quoted(" ".join([numbers(matching), *explain(matching)]))}</desc>',
        f"<style>{svg_style()}</style>",
        '<defs><pattern id="kzoo-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="hatched" width="5" height="5"/>'
        '<rect class="stripe" width="2" height="5"/></pattern></defs>',
        f'<rect class="page" width="{WIDTH}" height="{_n(height)}"/>',
        *(_heading(matching) if headed else ()),
        *_legend(top - 50),
        *_column_heads(matching, top - 14),
        *(_link(link) for link in layout.links),
        *(part for group in layout.source for part in _group(group, _SOURCE, is_target=False)),
        *(part for group in layout.target for part in _group(group, _TARGET, is_target=True)),
        *(_text(_MARGIN, below + 16 * index, note, "words small quiet") for index, note in enumerate(notes)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def numbers(matching: Matching) -> str:
    """The four numbers of a matching in one line."""
    return (
        f"{matching.measure} {matching.symmetric:.3f}, directed {matching.directed:.3f}, reverse {matching.reverse:.3f}, "
        f"coverage {matching.coverage:.1%}"
    )


def fate(matching: Matching) -> str:
    """How many layers are matched, random and unused."""
    targets, used = matching.target.typed_layers, len({source for source, _, _ in matching.pairs})
    matched = len(matching.pairs)
    return (
        f"{matched:,} of {counted(targets, 'target layer')} matched, {targets - matched:,} random; "
        f"{used:,} of {counted(matching.source.typed_layers, 'source layer')} used"
    )


def _described(cell: Cell) -> str:
    return f"{cell.name}  {_kind_and_shape(cell.layer)}"


def _kind_and_shape(layer: Layer) -> str:
    return f"{layer.kind} {shape(layer)}"


def shape(layer: Layer) -> str:
    """A weight's shape as people write it."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, layer.shape))


def _heading(matching: Matching) -> list[str]:
    source, target = (
        shorten(name, _TITLE_CELLS) for name in (name_of(matching.source, "source"), name_of(matching.target, "target"))
    )
    return [
        _text(_MARGIN, 34, f"{source} → {target}", "name heading"),
        _text(_MARGIN, 56, fate(matching), "words"),
        _text(_MARGIN, 75, numbers(matching), "words"),
    ]


def _legend(y: float) -> list[str]:
    parts, x = [_text(_MARGIN, y, "Score of a layer", "words small quiet")], _MARGIN + 106
    for index, words in enumerate(LEVELS):
        parts += [_rect(x, y - 9, 16, 10, f"s{index}"), _text(x + 22, y, words, "words small")]
        x += 36 + 6.4 * len(words)
    parts += [
        _rect(x + 8, y - 9, 16, 10, "hatch"),
        _text(x + 30, y, "random: no partner", "words small"),
        _rect(x + 164, y - 9, 16, 10, "hollow"),
        _text(x + 186, y, "unused", "words small"),
    ]
    return parts


def _column_heads(matching: Matching, y: float) -> list[str]:
    parts = []
    for x, architecture, role in ((_SOURCE, matching.source, "source"), (_TARGET, matching.target, "target")):
        name = name_of(architecture, role)
        inner = _text(x + _INSET, y, f"{role.upper()}", "words small quiet") + _text(
            x + _INSET + 58, y, shorten(name, _HEAD_CELLS), "name strong"
        )
        parts.append(f"<g>{_title(f'{role}: {name}')}{inner}</g>")
    return parts


def _group(placed: PlacedGroup, x: float, *, is_target: bool) -> list[str]:
    label, parts = placed.group.label, []
    if label:
        layers = sum(len(row.row.cells) for row in placed.rows)
        unmatched = sum(row.unmatched for row in placed.rows)
        note = _count_note(layers, unmatched, is_target)
        cells = int((_COLUMN - 2 * _INSET) / _CELL) - len(note) - 2
        parts = [
            '<g class="group">',
            _title(f"{label}\n{note}"),
            _rect(x, placed.y, _COLUMN, placed.height, "frame", radius=5),
            _text(x + _INSET, placed.y + _BASELINE, shorten(label, cells), "name strong"),
            _text(x + _COLUMN - _INSET, placed.y + _BASELINE, note, "name quiet", "end"),
            "</g>",
        ]
    if is_target:
        parts += _outlines(placed.rows)
    return [*parts, *(_row(row, x, is_target=is_target) for row in placed.rows)]


def _outlines(rows: Sequence[PlacedRow]) -> list[str]:
    """A dashed outline around every run of rows of which nothing is matched."""
    runs = [list(run) for idle, run in groupby(rows, lambda row: row.idle) if idle]
    return [_rect(_TARGET + 4, run[0].y + 0.5, _COLUMN - 8, len(run) * LINE - 1, "dashed", radius=3) for run in runs]


def _row(placed: PlacedRow, x: float, *, is_target: bool) -> str:
    """The bar at the links' side, then in the target the score, then label and detail."""
    row, baseline = placed.row, placed.y + _BASELINE
    begin = x + _INSET + (_BAR + 8 + _NOTE if is_target else 0)
    end = x + _COLUMN - _INSET - (0 if is_target else _BAR + 8)
    bar = x + _INSET if is_target else end + 8
    room = int((end - begin) / _CELL)
    detail = shorten(_detail(placed, is_target), room * 2 // 3)
    side, mark = ("target", "random") if is_target else ("source", "unused")
    return "".join(
        [
            f'<g class="row {side}{f" {mark}" if placed.idle else ""}" '
            f'data-layers="{len(row.cells)}" data-unmatched="{placed.unmatched}">',
            _title(_row_title(placed, is_target)),
            _rect(x, placed.y, _COLUMN, LINE, "place"),
            *_bar(placed, bar, is_target),
            _text(bar + _BAR + 8, baseline, _score(placed), "name note") if is_target else "",
            _text(begin, baseline, shorten(row.label, room - len(detail) - 1), "name label"),
            _text(end, baseline, detail, "name quiet", "end"),
            "</g>",
        ]
    )


def _detail(placed: PlacedRow, is_target: bool) -> str:
    """What a row holds; that nothing of it is matched stands beside the bar in the target, and here in the source."""
    unmatched = 0 if placed.idle else placed.unmatched
    cells = placed.row.cells
    detail = _count_note(len(cells), unmatched, is_target) if placed.row.folded else _kind_and_shape(cells[0].layer)
    return f"unused, {detail}" if placed.idle and not is_target else detail


def _score(placed: PlacedRow) -> str:
    return "random" if placed.idle else _two(fmean(placed.scores))


def _two(score: float) -> str:
    """A score with two decimals, of which only an exact one is 1.00."""
    return f"{score if score >= 1 else min(score, 0.99):.2f}"


def _bar(placed: PlacedRow, x: float, is_target: bool) -> list[str]:
    """What share of a row's layers has which score, or none."""
    if is_target:
        found = Counter(f"s{level(partners[0][1])}" if partners else "hatch" for partners in placed.partners)
    else:
        found = Counter("used" if partners else "hollow" for partners in placed.partners)
    parts = []
    for fill in ("used", *(f"s{index}" for index in reversed(range(len(LEVELS)))), "hatch", "hollow"):
        if found[fill]:
            width = _BAR * found[fill] / len(placed.partners)
            parts.append(_rect(x, placed.y + 4, width, LINE - 8, fill))
            x += width
    return parts


def _row_title(placed: PlacedRow, is_target: bool) -> str:
    row = placed.row
    lines = [] if len(row.cells) == 1 else [f"{row.name}: {counted(len(row.cells), 'layer')}"]
    for cell, partners in zip(row.cells, placed.partners, strict=True):
        if not partners:
            lines.append(f"{_described(cell)}: {'no partner, stays random' if is_target else 'not used'}")
        for partner, score in partners:
            arrow = "from" if is_target else "to"
            lines.append(f"{_described(cell)}: {_two(score)} {arrow} {_described(partner)}")
    return "\n".join(lines)


def _link(link: Link) -> str:
    """A ribbon from a source row to a target row."""
    (y0, h0), (y1, h1) = link.start, link.end
    middle = _n((_START + _END) / 2)
    path = (
        f"M{_n(_START)},{_n(y0)}C{middle},{_n(y0)} {middle},{_n(y1)} {_n(_END)},{_n(y1)}V{_n(y1 + h1)}"
        f"C{middle},{_n(y1 + h1)} {middle},{_n(y0 + h0)} {_n(_START)},{_n(y0 + h0)}Z"
    )
    lines = [f"{_described(source)} → {_described(target)}: {_two(score)}" for source, target, score in link.pairs]
    mean = fmean(score for _, _, score in link.pairs)
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} pairs of layers, mean score {_two(mean)}")
    title = _title("\n".join(lines))
    return f'<path class="link s{level(mean)}" data-pairs="{len(link.pairs)}" d="{path}">{title}</path>'


def _notes(matching: Matching, layout: Layout) -> list[str]:
    """What a reader must know to read the picture right, a line each."""
    notes = ["A score below 1: the source layer is cropped, or centred in a larger layer whose rest stays random."]
    if _folded(layout):
        notes.append(
            "Folded rows hold several layers and show the mean score; ribbons are as wide as their pairs are many."
        )
    hidden = [sum(not layer.typed for layer in network.layers) for network in (matching.source, matching.target)]
    if any(hidden):
        notes.append(
            f"Not drawn: {counted(hidden[0], 'layer')} of the source and {hidden[1]:,} of the target: "
            "activations, pooling, and weights that this measure leaves alone."
        )
    return notes


def _folded(layout: Layout) -> bool:
    return any(row.row.folded for column in (layout.source, layout.target) for group in column for row in group.rows)


def _count_note(layers: int, unmatched: int, is_target: bool) -> str:
    mark = "random" if is_target else "unused"
    return counted(layers, "layer") + (f", {unmatched:,} {mark}" if unmatched else "")


def name_of(architecture: Architecture, role: str) -> str:
    """The name to show of a network that may have none."""
    return architecture.name or f"unnamed {role}"


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _title(text: str) -> str:
    return f"<title>{quoted(text)}</title>"


def _text(x: float, y: float, text: str, classes: str, anchor: str = "start") -> str:
    end = ' text-anchor="end"' if anchor == "end" else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{classes}"{end}>{quoted(text)}</text>' if text else ""


def _rect(x: float, y: float, width: float, height: float, classes: str, radius: float = 0) -> str:
    corner = f' rx="{_n(radius)}"' if radius else ""
    return f'<rect class="{classes}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{corner}/>'

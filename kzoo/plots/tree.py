"""A tree of things and what each comes from, as text, as Mermaid and as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kzoo.plots.style import DARK, LIGHT, Scheme
from kzoo.plots.text import clean, quoted, shorten

_CELLS = 46
_CELL = 7.3
_BOX_WIDTH, _BOX_HEIGHT = _CELLS * _CELL + 20, 46.0
_INDENT, _ROW, _MARGIN = 36.0, 60.0, 16.0
_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


@dataclass(frozen=True)
class Node:
    """A thing in one line, what is quietly said of it, what is wrong with it, and what it comes from."""

    title: str
    note: str = ""
    problem: str | None = None
    parents: Sequence[Node] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """It and all below, with their depths, each before what it comes from."""
        yield depth, self
        for parent in self.parents:
            yield from parent.walk(depth + 1)


def tree_text(root: Node) -> str:
    """The tree in lines, with what is wrong behind an exclamation mark."""
    return "\n".join(_lines(root, "", "")) + "\n"


def _lines(node: Node, first: str, rest: str) -> Iterator[str]:
    note = f" ({clean(node.note)})" if node.note else ""
    problem = f"  ! {clean(node.problem)}" if node.problem else ""
    yield f"{first}{clean(node.title)}{note}{problem}"
    for place, parent in enumerate(node.parents):
        last = place == len(node.parents) - 1
        yield from _lines(parent, f"{rest}{'└─ ' if last else '├─ '}", f"{rest}{'   ' if last else '│  '}")


def tree_mermaid(root: Node) -> str:
    """The tree as a Mermaid flowchart, sources first; text in it can be nothing but text."""
    nodes = [(number, node) for number, (_, node) in enumerate(root.walk())]
    numbers = {id(node): number for number, node in nodes}
    lines = ["flowchart LR"]
    for number, node in nodes:
        parts = [node.title, node.note, f"! {node.problem}" if node.problem else ""]
        lines.append(f'  n{number}["{"<br/>".join(_mermaid(part) for part in parts if part)}"]')
        lines += [f"  n{number}:::problem"] if node.problem else []
    lines += [f"  n{numbers[id(parent)]} --> n{number}" for number, node in nodes for parent in node.parents]
    if any(node.problem for _, node in nodes):
        lines.append("  classDef problem stroke:#a3341c,stroke-width:2px")
    return "\n".join(lines) + "\n"


def _mermaid(text: str) -> str:
    """Text in which no character means anything to Mermaid or to HTML."""
    return "".join(c if c.isalnum() or c in " .,:/-_@" else f"#{ord(c)};" for c in clean(text))


def tree_svg(root: Node, name: str) -> str:
    """The tree as a picture, each thing above what it comes from."""
    rows = list(root.walk())
    width = _MARGIN * 2 + _INDENT * max(depth for depth, _ in rows) + _BOX_WIDTH
    height = _MARGIN * 2 + _ROW * len(rows) - (_ROW - _BOX_HEIGHT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-labelledby="title">',
        f'<title id="title">{quoted(name)}</title>',
        f"<style>{_rules(LIGHT)}@media (prefers-color-scheme: dark) {{{_rules(DARK)}}}</style>",
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>',
        *_links(rows),
        *(part for row, (depth, node) in enumerate(rows) for part in _box(node, depth, row)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rules(scheme: Scheme) -> str:
    return (
        f".page{{fill:{scheme.page}}}.box{{fill:{scheme.panel};stroke:{scheme.border}}}.wrong{{stroke:{scheme.alarm};"
        f"stroke-width:2}}.link{{fill:none;stroke:{scheme.used};stroke-width:1.5}}text{{font:12px {_MONO};fill:{scheme.ink}}}"
        f".note{{font-size:11px;fill:{scheme.quiet}}}.alarm{{font-size:11px;fill:{scheme.alarm}}}"
    )


def _links(rows: Sequence[tuple[int, Node]]) -> Iterator[str]:
    """A line from each thing to the one it went into, which stands above it to the left."""
    last: dict[int, int] = {}
    for row, (depth, _) in enumerate(rows):
        last[depth] = row
        if depth:
            x = _MARGIN + _INDENT * (depth - 1) + _INDENT / 2
            top = _MARGIN + _ROW * last[depth - 1] + _BOX_HEIGHT
            middle = _MARGIN + _ROW * row + _BOX_HEIGHT / 2
            yield f'<path class="link" d="M{x:.0f} {top:.0f}V{middle:.0f}H{x + _INDENT / 2:.0f}"/>'


def _box(node: Node, depth: int, row: int) -> Iterator[str]:
    x, y = _MARGIN + _INDENT * depth, _MARGIN + _ROW * row
    wrong = " wrong" if node.problem else ""
    told = ". ".join(part for part in (node.title, node.note, node.problem) if part)
    yield f"<g><title>{quoted(told)}</title>"
    yield f'<rect class="box{wrong}" x="{x:.0f}" y="{y:.0f}" width="{_BOX_WIDTH:.0f}" height="{_BOX_HEIGHT:.0f}" rx="6"/>'
    yield f'<text x="{x + 10:.0f}" y="{y + 19:.0f}">{quoted(shorten(node.title, _CELLS))}</text>'
    below, kind = (node.problem, "alarm") if node.problem else (node.note, "note")
    yield f'<text class="{kind}" x="{x + 10:.0f}" y="{y + 36:.0f}">{quoted(shorten(below, _CELLS + 4))}</text></g>'

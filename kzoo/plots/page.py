"""A standalone HTML page around the picture of a matching."""

from __future__ import annotations

from kzoo.explain import explain
from kzoo.matching import Matching
from kzoo.plots.folding import unmatched_cells
from kzoo.plots.style import page_style
from kzoo.plots.svg import draw, name_of, shape
from kzoo.plots.text import counted, quoted

#: A longer table starts closed.
_SHORT = 25


def page(matching: Matching) -> str:
    """The page: heading, numbers, what they mean in words, the picture, and the layers that stay random."""
    heading = quoted(f"{name_of(matching.source, 'source')} → {name_of(matching.target, 'target')}")
    sentences = "\n".join(f"<li>{quoted(sentence)}</li>" for sentence in explain(matching))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{page_style()}</style>
</head>
<body>
<main>
<h1>{heading}</h1>
<dl>
{_numbers(matching)}
</dl>
<ul>
{sentences}
</ul>
<figure>
{draw(matching, headed=False)}</figure>
{_random(matching)}
</main>
</body>
</html>
"""


def _numbers(matching: Matching) -> str:
    shown = (
        (matching.measure, f"{matching.symmetric:.3f}", "how alike the two are, both ways"),
        ("directed", f"{matching.directed:.3f}", "how much of the target the source covers"),
        ("reverse", f"{matching.reverse:.3f}", "how much of the source the target covers"),
        ("coverage", f"{matching.coverage:.1%}", "of the target's learned entries overwritten"),
    )
    return "\n".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{meaning}</small></dd></div>" for name, value, meaning in shown
    )


def _random(matching: Matching) -> str:
    """The target's layers without a partner, in order."""
    cells = unmatched_cells(matching)
    if not cells:
        return ""
    rows = "\n".join(
        f"<tr><td>{quoted(cell.name)}</td><td>{quoted(cell.layer.kind)}</td><td>{shape(cell.layer)}</td>"
        f'<td class="number">{cell.layer.entries:,}</td></tr>'
        for cell in cells
    )
    return f"""<details{' open="open"' if len(cells) <= _SHORT else ""}>
<summary>{counted(len(cells), "target layer")} without a partner: random after a transfer</summary>
<table>
<thead><tr><th>layer</th><th>kind</th><th>shape</th><th class="number">entries</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</details>"""

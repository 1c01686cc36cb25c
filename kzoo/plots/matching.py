"""Pictures of a matching: what goes where, and what stays random."""

from __future__ import annotations

from pathlib import Path

from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.matching import Matching
from kzoo.plots.page import page
from kzoo.plots.svg import draw


def matching_svg(matching: Matching) -> str:
    """A standalone SVG picture of a matching, for light and dark surroundings; the same matching gives the same text."""
    return draw(matching)


def matching_html(matching: Matching) -> str:
    """A standalone HTML page: the picture, the numbers, and a table of the target's layers that stay random."""
    return page(matching)


_WRITERS = {".svg": matching_svg, ".html": matching_html}


def write_plot(matching: Matching, path: Path) -> None:
    """Write the picture; the suffix decides whether it is an SVG or an HTML page.

    Raises:
        InputError: the suffix is another one.
        WorldError: the file cannot be written.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        ending = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise InputError(f"{path} {ending}: expected .svg or .html; name the picture so")
    with replacing(path) as temporary:
        temporary.write_text(writer(matching), encoding="utf-8", newline="\n")

"""Text from strangers: names of networks and layers, made safe to draw and short enough for their place."""

from __future__ import annotations

import unicodedata
from html import escape

_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
_CUT = "…"


def clean(text: str) -> str:
    """The text with everything that XML forbids or that would break or reverse a line replaced by a visible mark."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _UNPRINTABLE for c in text)


def quoted(text: str) -> str:
    """Text for the inside of an XML or HTML element; line ends are kept."""
    return escape("\n".join(clean(line) for line in text.split("\n")))


def shorten(text: str, cells: int) -> str:
    """The text in at most ``cells`` cells of a monospaced font, cut in the middle: the end of a name says the most."""
    text = unicodedata.normalize("NFC", clean(text))
    # Accents that stay apart could be piled up over the lines above.
    text = "".join(c for c in text if unicodedata.category(c) not in ("Mn", "Me"))
    if sum(map(_cells, text)) <= cells:
        return text
    head_cells = (cells - 1) // 3
    return f"{_fitting(text, head_cells)}{_CUT}{_fitting(text[::-1], cells - 1 - head_cells)[::-1]}"


def _fitting(text: str, cells: int) -> str:
    used = 0
    for position, character in enumerate(text):
        used += _cells(character)
        if used > cells:
            return text[:position]
    return text


def _cells(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def counted(count: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

"""Text from strangers as Markdown that shows it as it is: no markup, no links, no way out of its line.

What is safe is marked by its type, `Safe`; a template puts everything else through `prose`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

_LONGEST = 1000
_LONGEST_CODE = 160
_MOST_MARKS = 3
_CUT = "…"
#: Renderers make links of these even where nothing asks for one, so such words are shown as code.
_AUTOLINK = re.compile(r"://|www\.|@|mailto:|xmpp:", re.IGNORECASE)
#: As entities, for some renderers look for tags and formulas before they look for backslashes.
_ENTITIES = {character: f"&#{ord(character)};" for character in "<>&$\\"}
_ESCAPED = frozenset("`*_[]{}|~#!^=")
#: What would begin a list, where it stands first.
_LIST = re.compile(r"(\d*)([-+.)]+)")
_URL = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w./~%+,;=?&#-]*)?", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*", re.ASCII)


class Safe(str):
    """Markdown that may stand in a card as it is."""


def line(text: str, most: int = _LONGEST) -> str:
    """The text in one line of at most ``most`` characters: control, bidi and unassigned characters are removed."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    text = "".join(_without_piles(c for c in text if c.isprintable()))
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}{_CUT}"


def _without_piles(characters: Iterable[str]) -> Iterator[str]:
    """The characters without marks that could be piled up over the lines above: scripts need two on a letter, rarely more."""
    marks = 0
    for character in characters:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MOST_MARKS:
            yield character


def code(text: str) -> Safe:
    """The text as a code span, also in a table; backquotes and bars, which could end either, become others like them."""
    shown = line(text, _LONGEST_CODE).replace("`", "'").replace("|", "¦")
    return Safe(f"`{shown}`" if shown else "(no name)")


def prose(text: str) -> Safe:
    """The text as running text, also in a table or a heading."""
    first, *rest = (code(word) if _AUTOLINK.search(word) else _escaped(word) for word in line(text).split(" "))
    if marker := _LIST.fullmatch(first):
        first = Safe(f"{marker[1]}\\{marker[2]}")
    return Safe(" ".join((first, *rest)))


def _escaped(word: str) -> str:
    return "".join(_ENTITIES.get(c) or (f"\\{c}" if c in _ESCAPED else c) for c in word)


def link(text: str, target: str) -> Safe:
    """A link if the target is one to the web or to a file beside the card; else both as text."""
    if is_link(target):
        return Safe(f"[{prose(text)}]({target})")
    return Safe(f"{prose(text)} ({code(target)})")


def image(text: str, file: str) -> Safe | None:
    """A picture that lies beside the card; none where the name leads elsewhere."""
    return Safe(f"![{prose(text)}]({file})") if _FILE.fullmatch(file) else None


def is_link(target: str) -> bool:
    """Whether a target is a plain address on the web, or a plain path of a file below the card's folder."""
    return bool(_URL.fullmatch(target) or _FILE.fullmatch(target))

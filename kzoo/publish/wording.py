"""Numbers and lists as a card words them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from kzoo.claims import Interval
from kzoo.publish.papers import Method
from kzoo.publish.safe import code, link, prose

_SHOWN_CLASSES = 30


def listed(names: Iterable[str]) -> str:
    """Names with commas and an ``and``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def classes_named(names: Sequence[str]) -> str:
    """Classes as Markdown; of many only the first."""
    more = len(names) - _SHOWN_CLASSES
    return ", ".join(code(name) for name in names[:_SHOWN_CLASSES]) + (f" and {more:,} more" if more > 0 else "")


def named(method: Method) -> str:
    """A method with a link to its paper."""
    if method.paper is None:
        return str(prose(method.name))
    return f"{prose(method.name)} ({link(method.paper.name, method.paper.link)})"


def plain_value(value: Any) -> str:
    """A setting: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f} %"


def spread(found: Interval) -> str:
    """From where to where an interval goes; nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"

"""Values in edits that may come from a stranger: each is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kzoo.errors import InputError

Edit = dict[str, Any]
#: So many parameters at most may one inserted layer have.
MOST_PARAMETERS = 1 << 28
MOST_CHANNELS, MOST_KERNEL = 65_536, 63
_MOST_NAME = 300


def require_keys(given: Mapping[str, Any], needed: set[str], allowed: set[str]) -> None:
    """Refuse an edit that lacks a key, or has one that nobody knows.

    Raises:
        InputError: it is not so.
    """
    if missing := needed - given.keys():
        raise InputError(f"{min(missing)!r} is missing: expected {', '.join(sorted(needed))}")
    if strange := [key for key in given if key not in needed | allowed]:
        raise InputError(f"{strange[0]!r:.80} is unknown: expected {', '.join(sorted(needed | allowed))}")


def text_of(given: Mapping[str, Any], key: str) -> str:
    """The name of a part of the network under a key.

    Raises:
        InputError: it is not so.
    """
    value = given[key]
    if not isinstance(value, str) or len(value) > _MOST_NAME:
        raise InputError(f"{key}={value!r:.80} is not possible: expected the name of a part of the network")
    return value


def count_of(given: Mapping[str, Any], key: str, most: int) -> int:
    """The whole number from 1 to ``most`` under a key.

    Raises:
        InputError: it is not so.
    """
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{key}={value!r:.80} is not possible: expected a whole number from 1 to {most:,}")
    return value


def flag_of(given: Mapping[str, Any], key: str, otherwise: bool = False) -> bool:
    """The truth value under a key, which may be missing.

    Raises:
        InputError: it is not so.
    """
    value = given.get(key, otherwise)
    if not isinstance(value, bool):
        raise InputError(f"{key}={value!r:.80} is not possible: expected true or false")
    return value


def require_size(count: int) -> None:
    """Refuse a layer of more parameters than any has.

    Raises:
        InputError: it is not so.
    """
    if count > MOST_PARAMETERS:
        raise InputError(f"a layer of {count:,} parameters is too large: expected {MOST_PARAMETERS:,} at most")

"""What was measured or trained once, and is asked for again by the next recipes of a study."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

_Found = TypeVar("_Found")
#: So many bytes serve the recipes of a study.
STUDY = 1 << 30


def _itself(found: _Found) -> _Found:
    return found


class Remembered:
    """Results by what decides them, as many of the latest as fit into ``most`` bytes; by default none."""

    def __init__(self, most: int = 0) -> None:
        self._most = most
        self._known: dict[Hashable, tuple[Any, int]] = {}

    def once(
        self,
        key: Hashable,
        make: Callable[[], _Found],
        size: Callable[[_Found], int],
        copied: Callable[[_Found], _Found] = _itself,
    ) -> _Found:
        """What ``make`` gives, made only where it is not remembered; ``size`` tells how many bytes it takes.

        What is remembered stays as it is: give ``copied`` where it may be changed.
        """
        if not self._most:
            return make()
        return copied(self._found(key, make, size))

    def _found(self, key: Hashable, make: Callable[[], _Found], size: Callable[[_Found], int]) -> _Found:
        if key in self._known:
            # The last one used is the last in order.
            self._known[key] = self._known.pop(key)
            found: _Found = self._known[key][0]
            return found
        found = make()
        self._known[key] = found, size(found)
        held = sum(taken for _, taken in self._known.values())
        while held > self._most:
            held -= self._known.pop(next(iter(self._known)))[1]
        return found

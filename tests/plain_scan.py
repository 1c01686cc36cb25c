"""Every pair by the recurrence as written: no groups, no early end of a run, opaque elements in the table.

Compiled and with scores kept, because 50 whole rankings are some 100,000 pairs; otherwise as plain as
`tests.transcription`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from kzoo.layers import Item, Layer
from tests.transcription import score as layer_score


@numba.njit
def _value(scores: Any) -> float:
    n, m = scores.shape
    dp = np.zeros((n + 1, m + 1))
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            best = max(dp[i - 1, j], dp[i, j - 1])
            total = 0.0
            for k in range(i, 0, -1):
                total += scores[k - 1, j - 1]
                best = max(best, dp[k - 1, j - 1] + total / math.sqrt(i - k + 1))
            dp[i, j] = best
    return float(dp[n, m])


class PlainScan:
    """Values between architectures whose items are numbered, each distinct one once."""

    def __init__(self) -> None:
        self._numbers: dict[Item, int] = {}
        self._items: list[Item] = []
        self._parts: list[list[int]] = []
        self._scores: dict[tuple[int, int], float] = {}

    def number(self, items: Sequence[Item]) -> list[int]:
        """The numbers of an architecture's items (or of a block's layers)."""
        return [self._number(item) for item in items]

    def _number(self, item: Item) -> int:
        if item not in self._numbers:
            parts = [] if isinstance(item, Layer) else self.number(item)
            self._numbers[item] = len(self._items)
            self._items.append(item)
            self._parts.append(parts)
        return self._numbers[item]

    def value(self, source: Sequence[int], target: Sequence[int]) -> float:
        """D(source -> target)."""
        return float(_value(np.array([[self._score(theirs, ours) for theirs in source] for ours in target])))

    def _score(self, source: int, target: int) -> float:
        known = self._scores.get((source, target))
        if known is None:
            known = self._scores[source, target] = self._compute(source, target)
        return known

    def _compute(self, source: int, target: int) -> float:
        theirs, ours = self._items[source], self._items[target]
        if isinstance(theirs, Layer) or isinstance(ours, Layer):
            return layer_score(theirs, ours)
        return self.value(self._parts[source], self._parts[target])

"""Every pair by the recurrence as written: no groups, no early end of a run, opaque elements in the table.

Compiled, because 50 whole rankings are some 100,000 pairs; otherwise as plain as `tests.transcription`.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from kzoo.layers import Architecture, Item, Layer
from tests.transcription import score as layer_score

_LAYERS: dict[Layer, int] = {}
_SCORES: dict[tuple[int, int], float] = {}
_BLOCKS: dict[tuple[Item, Item], float] = {}


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


def value(source: Architecture, target: Architecture) -> float:
    """D(source -> target)."""
    return float(_value(_table(source.items, target.items)))


def _table(source: tuple[Item, ...], target: tuple[Item, ...]) -> Any:
    return np.array([[_score(theirs, ours) for theirs in source] for ours in target])


def _score(source: Item, target: Item) -> float:
    if isinstance(source, Layer) and isinstance(target, Layer):
        return layer_score(source, target)
    if isinstance(source, Layer) or isinstance(target, Layer):
        return 0.0
    if (source, target) not in _BLOCKS:
        _BLOCKS[source, target] = float(_value(_table(source, target)))
    return _BLOCKS[source, target]


def forget() -> None:
    """Drop the block values; they are only shared within one target."""
    _BLOCKS.clear()

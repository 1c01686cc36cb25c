"""A straightforward transcription of the DPIAT notes, sections 1.3 to 1.5: no arrays, no sharing, nothing clever.

Tests and benchmarks compare kzoo with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kzoo.layers import Architecture, Item, Layer

Pair = tuple[tuple[int, ...], tuple[int, ...], float]


def score(source: Item, target: Item) -> float:
    if isinstance(source, Layer) and isinstance(target, Layer):
        if not source.typed or source.kind != target.kind:
            return 0.0
        product = 1.0
        for a, b in zip(source.shape, target.shape, strict=True):
            product *= min(a / b, b / a)
        return product
    if isinstance(source, tuple) and isinstance(target, tuple):
        return value(source, target)
    return 0.0


def _tables(sources: Sequence[Item], targets: Sequence[Item]) -> tuple[list[list[float]], list[list[tuple[int, int]]]]:
    n, m = len(targets), len(sources)
    scores = [[score(source, target) for source in sources] for target in targets]
    dp = [[0.0] * (m + 1) for _ in range(n + 1)]
    previous = [[(0, 0)] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        previous[i][0] = (i - 1, 0)
        for j in range(1, m + 1):
            if dp[i - 1][j] > dp[i][j - 1]:
                dp[i][j], previous[i][j] = dp[i - 1][j], (i - 1, j)
            else:
                dp[i][j], previous[i][j] = dp[i][j - 1], (i, j - 1)
            total = 0.0
            for k in range(i, 0, -1):
                total += scores[k - 1][j - 1]
                candidate = dp[k - 1][j - 1] + total / math.sqrt(i - k + 1)
                if candidate > dp[i][j]:
                    dp[i][j], previous[i][j] = candidate, (k - 1, j - 1)
    return dp, previous


def value(sources: Sequence[Item], targets: Sequence[Item]) -> float:
    """D(source -> target)."""
    return _tables(sources, targets)[0][-1][-1]


def pairs(sources: Sequence[Item], targets: Sequence[Item]) -> list[Pair]:
    """Matched layers, in target order, by index path."""
    _, previous = _tables(sources, targets)
    found: list[list[Pair]] = []
    i, j = len(targets), len(sources)
    while i > 0:
        row, column = previous[i][j]
        if column == j:
            i -= 1
            continue
        source = sources[j - 1]
        j -= 1
        for t in range(i - 1, row - 1, -1):
            target = targets[t]
            worth = score(source, target)
            if worth <= 0:
                continue
            if isinstance(source, Layer):
                found.append([((j,), (t,), worth)])
            else:
                assert isinstance(target, tuple)
                inner = pairs(source, target)
                found.append([((j, *theirs), (t, *ours), layer_score) for theirs, ours, layer_score in inner])
        i = row
    return [pair for group in reversed(found) for pair in group]


def similarity(source: Architecture, target: Architecture) -> float:
    """The paper's symmetric similarity by four dynamic programmes."""
    a, b = source.items, target.items
    return math.sqrt(value(a, b) * value(b, a) / (value(a, a) * value(b, b)))

"""Shares with the intervals that a card gives them."""

from __future__ import annotations

import math

from kzoo.claims import Interval

#: Of the normal distribution, for 95 %.
_DEVIATIONS = 1.959963984540054


def proportion(hits: int, trials: int) -> Interval:
    """A share with its 95 % interval by Wilson's score."""
    share, square = hits / trials, _DEVIATIONS**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = _DEVIATIONS / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    # Rounding must not take the ends past what was found.
    return Interval(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))

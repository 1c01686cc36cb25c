"""Axes of a figure: from values to places, and where the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: Logarithmic axes begin here.
SMALLEST = 1e-100
#: The share of an axis that stays free beside the outermost values.
_ROOM = 0.05
_TICKS = 8
_STEPS = (1.0, 2.0, 5.0, 10.0)
#: Within a decade, the finest first.
_LOG_STEPS = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,))


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from ``low`` to ``high``, drawn from ``start`` to ``end``; one of ``whole`` numbers has no ticks between them."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Where a value stands; what lies outside stands at the nearer end."""
        low, high, value = (_level(one, self.log) for one in (self.low, self.high, max(value, self.low)))
        share = min(1.0, (value - low) / (high - low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within the axis, with their texts."""
        values = _log_ticks(self.low, self.high) if self.log else []
        if len(values) < 3:
            values = _linear_ticks(self.low, self.high, 1.0 if self.whole else 0.0)
        return [(value, f"{value:.6g}") for value in values]


def scale(values: Iterable[float], start: float, end: float, log: bool = False, base: float | None = None) -> Scale:
    """The axis that holds all the values, with some room; or that starts at ``base``, where bars stand."""
    found = [value for value in values if value >= SMALLEST or not log]
    low, high = min(found, default=1.0 if log else 0.0), max(found, default=2.0 if log else 1.0)
    if base is not None and not log:
        low, high = min(low, base), max(high, base)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
    first, last = _level(low, log), _level(high, log)
    room = _ROOM * (last - first)
    down = 0.0 if low == base else room
    up = 0.0 if high == base else room
    if log:
        return Scale(10 ** (first - room), 10 ** (last + room), start, end, log)
    return Scale(low - down, high + up, start, end)


def _level(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _linear_ticks(low: float, high: float, least: float) -> list[float]:
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = max(least, next(factor * unit for factor in _STEPS if factor * unit >= rough * (1 - 1e-9)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded, so that 0.3 is not 0.30000000000000004.
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = math.ceil(len(decades) / _TICKS)
    for steps in _LOG_STEPS:
        ticks = [step * 10.0**decade for decade in decades if decade % stride == 0 for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _TICKS + 1:
            break
    return ticks

"""Means with 95 % intervals, over seeds and over pairs of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
#: ``mean``, and ``low`` and ``high``, which are None where there is too little to say.
Interval = dict[str, float | None]
RESAMPLES = 1999
_FLOOR = 1e-3


def log_ratio(ours: Array, theirs: Array, floor: float = _FLOOR) -> Array:
    """Logarithms of ratios of accuracies; those below ``floor``, as of a run that diverged, count as that."""
    found: Array = np.log(np.maximum(ours, floor)) - np.log(np.maximum(theirs, floor))
    return found


def geometric(rows: Array) -> Array:
    """Of logarithms of ratios, each row's ratio: the geometric mean over seeds."""
    found: Array = np.exp(rows.mean(axis=1))
    return found


def arithmetic(rows: Array) -> Array:
    """Each row's mean."""
    found: Array = rows.mean(axis=1)
    return found


def over_seeds(values: Array) -> Interval:
    """Mean with the 95 % interval of Student's t."""
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def over_pairs(groups: Sequence[Array], of: Callable[[Array], Array]) -> Interval:
    """The mean of ``of`` over pairs, with a 95 % bootstrap interval over groups of pairs and seeds together.

    A group holds pairs x seeds. Seeds are drawn once for all pairs, for pairs share the random runs of a target; ``of``
    makes a number for each pair from its row.
    """

    def mean(chosen: NDArray[np.int64], seeds: NDArray[np.int64]) -> float:
        rows = np.concatenate([groups[one] for one in chosen])
        return float(of(rows[:, seeds]).mean())

    return bootstrap([len(groups)], groups[0].shape[1], mean)


def bootstrap(pairs: Sequence[int], seeds: int, statistic: Callable[..., float]) -> Interval:
    """A statistic of places of pairs (one array for each group of them) and of seeds, with its 95 % percentile interval.

    Pairs are drawn anew within each group, and seeds for all of them alike; a single seed stays as it is, and the interval
    is then over pairs alone. With a single pair in a group there is none.
    """
    places = [np.arange(count) for count in pairs]
    every_seed = np.arange(seeds)
    found: Interval = {"mean": statistic(*places, every_seed), "low": None, "high": None}
    if min(pairs) < 2:
        return found

    def drawn(*chosen: NDArray[np.int64]) -> float:
        return statistic(*chosen) if seeds > 1 else statistic(*chosen, every_seed)

    interval = stats.bootstrap(
        tuple(places) if seeds == 1 else (*places, every_seed),
        drawn,
        n_resamples=RESAMPLES,
        vectorized=False,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return found | {"low": float(interval.low), "high": float(interval.high)}


def pearson(x: Array, y: Array) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    return float(stats.pearsonr(x, y).statistic) if np.ptp(x) and np.ptp(y) else 0.0


def spearman(x: Array, y: Array) -> float:
    """Spearman's rank correlation; 0 where one of the two does not vary."""
    return float(stats.spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else 0.0

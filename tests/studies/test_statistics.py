"""Means and intervals, against values worked out by hand or by scipy."""

import numpy as np
import pytest
from scipy import stats

from kzoo.studies.statistics import bootstrap, geometric, log_ratio, over_pairs, over_seeds, pearson, spearman


def test_ratios_are_geometric_over_seeds_and_arithmetic_over_pairs():
    ours, theirs = np.array([0.8, 0.2]), np.array([0.2, 0.2])
    assert geometric(log_ratio(ours, theirs)[None])[0] == pytest.approx(2.0)  # sqrt(4 * 1)
    rows = [np.log([[2.0, 8.0]]), np.log([[1.0, 1.0]])]
    assert over_pairs(rows, geometric)["mean"] == pytest.approx((4.0 + 1.0) / 2)


def test_accuracies_near_zero_do_not_make_ratios_endless():
    assert log_ratio(np.array([0.0]), np.array([0.5]))[0] == pytest.approx(np.log(0.001 / 0.5))


def test_the_interval_over_seeds_is_students_t():
    values = np.array([1.0, 2.0, 4.0])
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((7 / 3, low, high))
    assert over_seeds(values[:1]) == {"mean": 1.0, "low": None, "high": None}


def test_the_bootstrap_draws_each_kind_anew_and_is_the_same_each_time():
    values = np.array([[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]])

    def mean(pairs, seeds):
        return float(values[pairs][:, seeds].mean())

    found = bootstrap([3], 2, mean)
    assert found == bootstrap([3], 2, mean)
    assert found["mean"] == 5.0
    # All three pairs the first, and both seeds the first, and the other way round, are the extremes.
    assert 0.0 <= found["low"] < 5.0 < found["high"] <= 10.0
    constant = bootstrap([3], 2, lambda pairs, seeds: 1.5)
    assert constant == {"mean": 1.5, "low": 1.5, "high": 1.5}


def test_one_seed_stays_as_it_is_and_one_pair_has_no_interval():
    values = np.array([[0.0], [4.0], [8.0]])

    def mean(pairs, seeds):
        assert seeds.tolist() == [0]
        return float(values[pairs][:, seeds].mean())

    found = bootstrap([3], 1, mean)
    assert (found["mean"], found["low"], found["high"]) == (4.0, 0.0, 8.0)
    assert bootstrap([1], 3, lambda pairs, seeds: 1.0) == {"mean": 1.0, "low": None, "high": None}
    # Pairs of two groups are drawn apart: the first group always has both of its own.
    apart = bootstrap([2, 2], 1, lambda first, second, seeds: float(max(first.max(), 10 + second.max())))
    assert apart["mean"] == 11.0 and 10.0 <= apart["low"] <= apart["high"] == 11.0


def test_correlations_of_what_does_not_vary_are_zero():
    x = np.array([1.0, 2.0, 3.0])
    assert spearman(x, x**3) == pytest.approx(1.0)
    assert pearson(x, x**3) == pytest.approx(stats.pearsonr(x, x**3).statistic)
    assert spearman(x, np.ones(3)) == pearson(np.ones(3), x) == 0.0

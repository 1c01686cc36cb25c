"""The losses of amalgamation beside values computed by hand."""

from __future__ import annotations

from math import exp, log, sqrt

import pytest
import torch

from kzoo.methods.amalgamation.losses import (
    Kernels,
    maximum_mean_discrepancy,
    reconstruction,
    soft_cross_entropy,
    soft_targets,
    spreads,
    squared_distances,
)
from kzoo.methods.amalgamation.parameters import PRESETS


def test_the_discrepancy_of_two_points_each_by_hand() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # The length of a point does not count, and neither does its shape.
    other = torch.tensor([[3.0, 0.0], [0.5, 0.0]]).reshape(2, 2, 1, 1)
    found = maximum_mean_discrepancy(one, other, Kernels(sigmas=(1.0,)))
    # Within the first 2 + 2/e, within the second 4, across 2 + 2/e twice, over 4 pairs.
    assert found.item() == pytest.approx((1 - exp(-1)) / 2, abs=1e-6)
    both = maximum_mean_discrepancy(one, other, Kernels(sigmas=(1.0, 0.5)))
    assert both.item() == pytest.approx((1 - exp(-1)) / 2 + (1 - exp(-4)) / 2, abs=1e-6)


def test_the_default_kernels_go_by_the_median_distance() -> None:
    one = torch.eye(3)[:2]
    other = torch.stack([torch.eye(3)[2], torch.tensor([1.0, 1.0, 0.0]) / sqrt(2)])
    # Of six squared distances four are 2 and two 2 - sqrt(2); so 2 sigma^2 is 2.
    found = maximum_mean_discrepancy(one, other, Kernels(multiples=(1.0,)))
    assert found.item() == pytest.approx(1 - exp(-(2 - sqrt(2)) / 2), abs=1e-6)


def test_the_discrepancy_of_a_set_with_itself_in_another_order_is_zero() -> None:
    features = torch.rand(8, 5, generator=torch.Generator().manual_seed(1))
    found = maximum_mean_discrepancy(features, features.flip(0), Kernels())
    assert 0 <= found.item() < 1e-6


def test_a_point_is_at_no_distance_from_itself_whatever_rounding_says() -> None:
    features = torch.nn.functional.normalize(torch.rand(64, 500, generator=torch.Generator().manual_seed(1)))
    assert squared_distances(features).diagonal().abs().max() == 0


def gradient(kernels: Kernels) -> tuple[float, float]:
    """Value and norm of the gradient at a batch of 64 of what an extractor gives: 128 x 7 x 7, not negative."""
    generator = torch.Generator().manual_seed(3)
    one = torch.randn(64, 128, 7, 7, generator=generator).relu().requires_grad_()
    other = (torch.randn(64, 128, 7, 7, generator=generator) + 0.5).relu()
    found = maximum_mean_discrepancy(one, other, kernels)
    found.backward()
    assert one.grad is not None and bool(one.grad.isfinite().all())
    return found.item(), float(one.grad.norm())


def test_the_default_kernels_have_a_gradient_and_the_official_small_ones_have_none() -> None:
    official = PRESETS["official"]["sigmas"]
    assert official == (0.001, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0)
    _, slope = gradient(Kernels())
    constant, flat = gradient(Kernels(official[:4]))
    assert slope > 1e-4
    assert flat < 1e-9 * slope
    # Each counts the similarity of a point to itself alone, 2 / 64.
    assert constant == pytest.approx(4 * 2 / 64, rel=1e-5)
    assert gradient(Kernels(official))[1] > 1e-5


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_sets_of_one_point_are_no_different_though_rounding_says_so(value: float) -> None:
    """Features that are all dead are at no distance from each other, and at 1 from any other."""
    dead = torch.full((5, 7), value)
    assert float(maximum_mean_discrepancy(dead, dead.clone(), Kernels())) == 0
    assert float(maximum_mean_discrepancy(dead, dead.clone(), Kernels(sigmas=(1e-3,)))) == 0
    points = torch.stack([torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])])
    assert squared_distances(points).tolist() == [[0, 1, 1], [1, 0, 2], [1, 2, 0]]


def test_points_that_coincide_give_no_nan() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    maximum_mean_discrepancy(features, torch.ones(4, 3), Kernels()).backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())


def test_the_reconstruction_is_the_mean_square() -> None:
    assert reconstruction(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])).item() == 2.5


def test_soft_targets_of_classes_that_two_teachers_know_by_hand() -> None:
    # Two teachers of two classes each, a b and b c: chances of 1/8, 2/8, 1/8, 4/8 side by side.
    logits = torch.tensor([[0.0, log(2), 0.0, log(4)]])
    places = torch.tensor([0, 1, 1, 2])
    added = soft_targets(logits, places, 3, 1.0, "sum")
    torch.testing.assert_close(added, torch.tensor([[1 / 8, 3 / 8, 4 / 8]]))
    # The highest of b is 2/8; then all are divided by 7/8.
    highest = soft_targets(logits, places, 3, 1.0, "max")
    torch.testing.assert_close(highest, torch.tensor([[1 / 7, 2 / 7, 4 / 7]]))
    # At a temperature of 2 the chances are as 1, sqrt(2), 1 and 2.
    cooler = soft_targets(logits, places, 3, 2.0, "sum")
    torch.testing.assert_close(cooler, torch.tensor([[1.0, 1 + sqrt(2), 2.0]]) / (4 + sqrt(2)))


def test_the_cross_entropy_with_soft_targets_by_hand() -> None:
    logits, targets = torch.tensor([[log(3.0), 0.0]]), torch.tensor([[0.5, 0.5]])
    # Chances of 3/4 and 1/4; at a temperature of 2 as sqrt(3) and 1, and the loss counts four times.
    assert soft_cross_entropy(logits, targets, 1.0).item() == pytest.approx(-(log(0.75) + log(0.25)) / 2)
    share = sqrt(3) / (1 + sqrt(3))
    assert soft_cross_entropy(logits, targets, 2.0).item() == pytest.approx(-2 * (log(share) + log(1 - share)))


def test_the_spread_is_about_each_images_mean() -> None:
    assert spreads([torch.tensor([[1.0, 3.0], [10.0, 12.0]])]) == [1.0]

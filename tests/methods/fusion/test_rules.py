from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.roles import Role
from kzoo.methods.fusion.rules import (
    Entries,
    Rule,
    average,
    delta_sum,
    literal_sum,
    pooled_variance,
    quadratic,
    scaled_delta,
    tempered,
    threshold_of,
    threshold_replace,
    winner,
)
from kzoo.methods.fusion.states import fuse_states, module_roles, state_roles
from tests.methods.fusion.networks import ResidualNorm, images, mlp, trained


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fused(
    rule: Rule, *parents: list[float], importance: list[list[float]] | None = None, **more: object
) -> list[float]:
    tensors = None if importance is None else [torch.tensor(one) for one in importance]
    return rule.fuse(Entries([torch.tensor(one) for one in parents], importance=tensors, **more)).tolist()  # type: ignore[arg-type]


def test_summation_by_hand() -> None:
    start = torch.tensor([1.0, 1.0])
    assert fused(literal_sum(), [1, 2], [3, 5], [0, 1]) == [4, 8]
    assert fused(average(), [1, 2], [3, 5], [2, 2]) == [2, 3]
    assert fused(delta_sum(), [1, 2], [3, 5], start=start) == [3, 6]
    assert fused(delta_sum(), [1, 2], [3, 5], [0, 0], start=start) == [2, 5]
    assert fused(scaled_delta(0.5), [1, 2], [3, 5], start=start) == [2, 3.5]
    assert fused(scaled_delta(0.3), [2, 2], [2, 1], start=start) == pytest.approx([1.6, 1.3])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10_000))
def test_scaled_delta_is_the_average_at_one_over_the_number_of_parents_and_the_delta_sum_at_one(
    count: int, seed: int
) -> None:
    parents = [drawn(3, 4, seed=seed + place) for place in range(count)]
    entries = Entries(parents, start=drawn(3, 4, seed=seed + count))
    torch.testing.assert_close(scaled_delta(1 / count).fuse(entries), average().fuse(entries))
    torch.testing.assert_close(scaled_delta(1).fuse(entries), delta_sum().fuse(entries))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_sum_and_average_predict_the_same_in_a_relu_network_without_biases(depth: int) -> None:
    sizes = (48, *[16] * depth, 5)
    first, second = (trained(lambda: mlp(*sizes, bias=False), seed) for seed in (0, 1))
    states = [first.state_dict(), second.state_dict()]
    outputs = []
    for rule in (literal_sum(), average()):
        network = mlp(*sizes, bias=False).double()
        network.load_state_dict(fuse_states(states, rule))
        outputs.append(network(images(64, 4)))
    assert torch.equal(outputs[0].argmax(1), outputs[1].argmax(1))
    torch.testing.assert_close(outputs[0], 2 ** (depth + 1) * outputs[1])
    assert len(outputs[0].argmax(1).unique()) > 1


def test_statistics_are_those_of_both_parents_features_together() -> None:
    features = [drawn(50, 3, seed=seed) * (seed + 1) + seed for seed in range(3)]
    found = pooled_variance([one.var(0, correction=0) for one in features], [one.mean(0) for one in features])
    torch.testing.assert_close(found, torch.cat(features).var(0, correction=0))
    means, variances = drawn(2, 4), drawn(2, 4, seed=1).abs()
    by_hand = variances.sum(0) / 2 + (means[0] - means[1]).square() / 4
    torch.testing.assert_close(pooled_variance(list(variances), list(means)), by_hand)


def test_roles() -> None:
    roles = state_roles(trained(ResidualNorm).state_dict())
    assert [roles[name] for name in ("stem.weight", "bn.weight", "bn.bias", "fc.weight", "fc.bias")] == [
        Role.WEIGHT,
        Role.SCALE,
        Role.SHIFT,
        Role.WEIGHT,
        Role.BIAS,
    ]
    assert [roles[f"bn.{name}"] for name in ("running_mean", "running_var", "num_batches_tracked")] == [
        Role.MEAN,
        Role.VARIANCE,
        Role.WHOLE,
    ]


def test_buffers_of_a_module_are_known_whatever_their_names() -> None:
    module = nn.Module()
    module.mask, module.gamma, module.token = None, nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1, 3))
    module.register_buffer("table", torch.ones(2, 3))
    found = module_roles(module)
    assert found == {"gamma": Role.SCALE, "token": Role.WEIGHT, "table": Role.BUFFER}
    state = module.state_dict()
    assert fuse_states([state, state], literal_sum(), roles=found)["table"].tolist() == [[1, 1, 1]] * 2


def test_only_weights_and_biases_are_summed() -> None:
    states = [trained(ResidualNorm, seed).state_dict() for seed in (0, 1)]
    states[1]["bn.num_batches_tracked"] = torch.tensor(7)
    found = fuse_states(states, literal_sum())
    first, second = states
    assert list(found) == list(first)
    torch.testing.assert_close(found["stem.weight"], first["stem.weight"] + second["stem.weight"])
    torch.testing.assert_close(found["fc.bias"], first["fc.bias"] + second["fc.bias"])
    for name in ("bn.weight", "bn.bias", "bn.running_mean"):
        torch.testing.assert_close(found[name], (first[name] + second[name]) / 2)
    by_hand = (first["bn.running_var"] + second["bn.running_var"]) / 2
    by_hand = by_hand + (first["bn.running_mean"] - second["bn.running_mean"]).square() / 4
    torch.testing.assert_close(found["bn.running_var"], by_hand)
    assert found["bn.num_batches_tracked"] == first["bn.num_batches_tracked"] != 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types_are_the_first_parents_and_sums_are_rounded_once(dtype: torch.dtype) -> None:
    values = [torch.full((2, 3), value).to(dtype) for value in (1.0, 2**-9, 2**-9)]
    found = fuse_states([{"w": value} for value in values], literal_sum())["w"]
    assert found.dtype == dtype
    assert torch.equal(found, torch.full((2, 3), 1 + 2**-8).to(dtype))


@pytest.mark.parametrize(
    "rule", [literal_sum(), delta_sum(), threshold_replace(0.6), winner(0.5), quadratic(2), tempered(0.25)]
)
def test_any_pieces_give_what_the_whole_gives(rule: Rule) -> None:
    parents, importance = [[drawn(7, 6, seed=10 * way + one) for one in range(2)] for way in range(2)]
    importance, start = [one.abs() for one in importance], drawn(7, 6, seed=99)
    threshold = None if rule.quantile is None else threshold_of(importance[0], rule.quantile)
    whole = rule.fuse(Entries(parents, start, importance, threshold))
    pieces = [
        rule.fuse(
            Entries(
                [one.flatten()[at : at + 5] for one in parents],
                start.flatten()[at : at + 5],
                [one.flatten()[at : at + 5] for one in importance],
                threshold,
            )
        )
        for at in range(0, 42, 5)
    ]
    assert torch.equal(torch.cat(pieces), whole.flatten())


def test_threshold_by_hand() -> None:
    importance = torch.tensor([0.4, 0.1, 0.3, 0.2])
    assert threshold_of(importance, 0.5) == pytest.approx(0.2)
    assert threshold_of(importance, 1) == pytest.approx(0.4)
    threshold = threshold_of(importance, 0.5)
    rule = threshold_replace(0.5)
    assert fused(rule, [1, 2, 3, 4], [5, 6, 7, 8], importance=[importance.tolist()], threshold=threshold) == [
        1,
        6,
        3,
        8,
    ]
    states = [{"w": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}, {"w": torch.tensor([[5.0, 6.0, 7.0, 8.0]])}]
    known = [{"w": importance[None]}, {"w": importance[None]}]
    for quantile, wanted in ((0.0, [1, 2, 3, 4]), (0.25, [1, 6, 3, 4]), (0.75, [1, 6, 7, 8]), (1.0, [5, 6, 7, 8])):
        assert fuse_states(states, threshold_replace(quantile), importance=known)["w"].tolist() == [wanted]


def test_winner_by_hand() -> None:
    known = [[1.0, 2.0, 2.0, 0.0], [2.0, 1.0, 2.0, 0.0]]
    assert fused(winner(), [1, 2, 3, 4], [5, 6, 7, 8], importance=known) == [5, 2, 3, 6]
    assert fused(winner(3), [1, 2, 3, 4], [5, 6, 7, 8], importance=known) == [5, 6, 7, 6]
    assert fused(winner(0.1), [1, 2, 3, 4], [5, 6, 7, 8], importance=known) == [1, 2, 3, 6]
    three = [[1.0, 3.0, 2.0], [2.0, 1.0, 2.0], [0.0, 2.0, 3.0]]
    assert fused(winner(), [1, 2, 3], [4, 5, 6], [7, 8, 9], importance=three) == [4, 2, 9]


def test_quadratic_minimises_its_objective() -> None:
    parents, importance = drawn(3, 20), drawn(3, 20, seed=1).abs() + 0.1
    weights = torch.tensor([1.0, 0.7, 0.7], dtype=torch.float64)[:, None]
    point = quadratic(0.7).fuse(Entries(list(parents), importance=list(importance))).requires_grad_()
    (weights * importance * (point - parents).square()).sum().backward()
    assert point.grad is not None and float(point.grad.abs().max()) < 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_quadratic_with_equal_importance_and_tempered_to_nothing_are_the_average(
    count: int, size: float, seed: int
) -> None:
    parents = [drawn(4, 3, seed=seed + place) for place in range(count)]
    equal = [torch.full((4, 3), size, dtype=torch.float64)] * count
    unequal = [drawn(4, 3, seed=seed - place).abs() for place in range(count)]
    expected = average().fuse(Entries(parents))
    torch.testing.assert_close(quadratic().fuse(Entries(parents, importance=equal)), expected)
    torch.testing.assert_close(tempered(0).fuse(Entries(parents, importance=unequal)), expected)
    torch.testing.assert_close(
        tempered(1).fuse(Entries(parents, importance=unequal)), quadratic().fuse(Entries(parents, importance=unequal))
    )
    none = [torch.zeros(4, 3)] * count
    torch.testing.assert_close(quadratic().fuse(Entries(parents, importance=none)), expected)
    torch.testing.assert_close(winner().fuse(Entries(parents, importance=none)), expected)


def test_where_parents_agree_their_weights_stay_bit_for_bit() -> None:
    same, importance = drawn(30), [drawn(30, seed=seed).abs() for seed in (1, 2)]
    assert torch.equal(quadratic().fuse(Entries([same, same], importance=importance)), same)


@pytest.mark.parametrize(
    ("rule", "count", "more", "said"),
    [
        (
            threshold_replace(0.5),
            3,
            {"importance": True},
            "threshold fuses two networks, the first of which is protected, not 3",
        ),
        (quadratic(), 2, {}, "quadratic needs to know which weights each parent needs"),
        (delta_sum(), 2, {}, "delta_sum needs the weights that the parents started from"),
    ],
)
def test_what_a_rule_cannot_do_is_refused(rule: Rule, count: int, more: dict[str, bool], said: str) -> None:
    states = [nn.Linear(2, 2).state_dict() for _ in range(count)]
    with pytest.raises(InputError, match=said):
        fuse_states(states, rule, importance=states if more.get("importance") else None)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: threshold_replace(1.5), "quantile=1.5 is not possible"),
        (lambda: winner(0), "ratio=0 is not possible"),
        (lambda: quadratic(-1), "weight=-1 is not possible"),
        (lambda: tempered(2), "power=2 is not possible"),
        (lambda: scaled_delta(float("nan")), "scale=nan is not possible"),
    ],
)
def test_parameters_out_of_range_are_refused(make: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()  # type: ignore[operator]


def test_importances_and_starts_that_do_not_fit_are_named() -> None:
    states = [nn.Linear(2, 3).state_dict() for _ in range(2)]
    with pytest.raises(InputError, match="weight is missing in an importance: expected \\(3, 2\\)"):
        fuse_states(states, winner(), importance=[{}, {}])
    with pytest.raises(InputError, match="bias is \\(4,\\) in the common start"):
        fuse_states(states, delta_sum(), start={**states[0], "bias": torch.zeros(4)})
    with pytest.raises(InputError, match="there are 2 parents and 1 importances"):
        fuse_states(states, winner(), importance=states[:1])

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn

from benchmarks.realistic import make_realistic, without_chance
from kzoo.edits import apply_edits
from kzoo.errors import InputError
from kzoo.methods.widening import Choices, Widening, widen_module
from tests.growing import NETWORKS, Attention, Flattened, Grouped, Residual, Shared, difference, image, linears

EXACT = 1e-12


def trained(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return without_chance(make_realistic(build())).double().eval()


def vector() -> Tensor:
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_two_linears_by_hand() -> None:
    module = trained(linears)
    wider = widen_module(module, vector(), {"0": 6}, Choices(division="equal")).module
    old, new = module[0].weight, wider[0].weight
    assert torch.equal(new[:4], old)
    copied = [int((old == row).all(1).nonzero()[0, 0]) for row in new]
    counts = torch.bincount(torch.tensor(copied))
    assert copied[:4] == [0, 1, 2, 3] and counts.sum() == 6
    torch.testing.assert_close(wider[2].weight, module[2].weight[:, copied] / counts[copied])
    assert torch.equal(wider[0].bias, module[0].bias[copied])
    assert torch.equal(wider[2].bias, module[2].bias)
    assert (wider[0].out_features, wider[2].in_features) == (6, 6)


def test_unequal_shares_are_positive_sum_to_one_and_differ_by_output() -> None:
    module = trained(linears)
    wider = widen_module(module, vector(), {"0": 9}).module
    copied = [int((module[0].weight == row).all(1).nonzero()[0, 0]) for row in wider[0].weight]
    shares = wider[2].weight / module[2].weight[:, copied]
    assert (shares > 0).all()
    sums = torch.zeros(5, 4, dtype=torch.float64).index_add_(1, torch.tensor(copied), shares.detach())
    torch.testing.assert_close(sums, torch.ones_like(sums))
    doubled = next(channel for channel in range(4) if copied.count(channel) > 1)
    assert len({round(float(share), 9) for share in shares[:, doubled].detach()}) == 5


@pytest.mark.parametrize("division", ["unequal", "equal"])
@pytest.mark.parametrize("factor", [1.3, 2, 2.5])
@pytest.mark.parametrize("build", NETWORKS)
def test_small_networks_compute_the_same(build: Callable[[], nn.Module], factor: float, division: Any) -> None:
    module = trained(build)
    found = widen_module(module, image(), factor, Choices(division=division))
    assert found.grown
    assert difference(module, found.module, image(5, seed=1)) < EXACT
    assert difference(module.train(), found.module.train(), image(5, seed=1)) < EXACT


def test_a_norm_forces_whole_factors_and_nothing_else() -> None:
    found = widen_module(trained(Attention), image(), 1.5).module
    assert found.norm.normalized_shape == (16,) and found.position.shape == (1, 4, 16)
    assert found.up.out_features == 15
    assert (found.num_heads, found.head_dim, found.scale) == (3, 4, 0.5)


def test_group_norm_gets_whole_groups() -> None:
    found = widen_module(trained(Grouped), image(), 1.5).module
    assert (found.norm.num_groups, found.norm.num_channels) == (6, 18)
    assert (found.grouped.groups, found.grouped.in_channels, found.grouped.out_channels) == (6, 12, 18)


def test_the_unfused_attention_is_the_same() -> None:
    module = trained(lambda: Attention(fused=False))
    assert difference(module, widen_module(module, image(), 2).module, image(seed=1)) < EXACT


class SingleHead(nn.Module):
    """Attention with one head and separate projections: its width grows, and attention's scale with it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 6)
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x[None]
        return self.out(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


def test_the_width_of_a_head_grows_with_attentions_scale() -> None:
    module = trained(SingleHead)
    found = widen_module(module, vector(), 1.5)
    assert (found.module.q.out_features, found.module.k.out_features, found.module.v.out_features) == (6, 6, 9)
    assert difference(module, found.module, vector() * 2) < EXACT


class Standardised(nn.Module):
    """Convolutions whose weights are standardised over their inputs: what feeds them is divided instead."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)
        self.middle, self.after, self.last = StdConv2d(8, 6, 3), nn.BatchNorm2d(6), ScaledStdConv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(torch.relu(self.norm(self.stem(x))))
        return self.last(torch.sigmoid(self.after(x))).mean((2, 3))


def test_standardised_weights_are_not_divided() -> None:
    module = trained(Standardised)
    found = widen_module(module, image(), 2)
    assert not [item for item in found.left if "multiplied" not in item["reason"]]
    assert difference(module, found.module, image(seed=1)) < EXACT


class Mixed(nn.Module):
    """A convolution over channels that stand where positions are mostly."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.mix, self.right = nn.Linear(3, 4), nn.Conv1d(2, 2, 1, bias=False), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        pairs = x.reshape(3, 2, 3)
        return self.mix(self.left(pairs)) @ self.right(pairs).sin().transpose(-2, -1)


def test_shares_go_back_through_layers_over_other_axes() -> None:
    module = trained(Mixed)
    found = widen_module(module, vector(), 1.5)
    assert found.module.left.out_features == found.module.right.out_features == 6
    assert difference(module, found.module, vector() + 1) < EXACT


REAL = (
    "test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_byobnet", "test_nfnet", "test_coatnet",
    "test_mambaout", "starnet_s050", "mobilenetv3_small_050", "test_vit_relpos",
)  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_networks_compute_the_same(name: str, one_thread: None) -> None:
    module = trained(lambda: timm.create_model(name))
    shape = module.default_cfg["input_size"]
    if not module.default_cfg.get("fixed_input_size", False):
        shape = (3, 96, 96)
    example = torch.randn(2, *shape, dtype=torch.float64)
    found = widen_module(module, example, 1.5)
    count = [sum(parameter.numel() for parameter in network.parameters()) for network in (module, found.module)]
    assert count[1] > 1.3 * count[0]
    assert difference(module, found.module, torch.randn(2, *shape, dtype=torch.float64)) < 1e-8
    assert type(found.module) is type(module)
    fresh = apply_edits(timm.create_model(name), json.loads(json.dumps(found.edits)))
    fresh.double().load_state_dict(found.module.state_dict())
    assert difference(fresh.eval(), found.module.eval(), example) < EXACT


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.booleans(), st.booleans()), min_size=1, max_size=4
    ),
    st.floats(1.01, 3),
    st.integers(0, 2**31),
)
def test_any_chain_of_convolutions_computes_the_same(layers: list[Any], factor: float, seed: int) -> None:
    def build() -> nn.Module:
        width, parts = 3, []
        for out, kernel, norm, activation in [*layers, (4, 1, False, False)]:
            parts.append(nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=not norm))
            parts += [nn.BatchNorm2d(out)] if norm else []
            parts += [nn.Sigmoid()] if activation else []
            width = out
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(4 * 9, 3))

    module = trained(build)
    example = image(3, size=3)
    if all(width == 1 for width, *_ in layers):
        module = nn.Sequential(nn.Conv2d(3, 3, 1).double(), *module)
    found = widen_module(module, example, factor, Choices(seed=seed))
    assert difference(module, found.module, image(3, size=3, seed=1)) < 1e-10


def steps_apart(choices: Choices, optimiser: Callable[..., torch.optim.Optimizer]) -> float:
    """How far the incoming weights of two copies are apart after one step, relative to the weights."""
    module = trained(lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5)))
    wider = widen_module(module, vector(), {"0": 24}, choices).module.train()
    before = wider[0].weight.detach().clone()
    pairs = [(one, other) for one in range(24) for other in range(one) if torch.equal(before[one], before[other])]
    target = torch.randn(6, 5, dtype=torch.float64)
    step = optimiser(wider.parameters())
    nn.functional.mse_loss(wider(vector()), target).backward()
    step.step()
    assert pairs
    after = wider[0].weight.detach()
    return max(float((after[one] - after[other]).abs().max()) for one, other in pairs)


OPTIMISERS = [
    lambda parameters: torch.optim.SGD(parameters, 0.1),
    lambda parameters: torch.optim.Adam(parameters, 1e-3),
]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_copies_diverge_with_unequal_shares_and_not_with_equal_ones(optimiser: Any) -> None:
    assert steps_apart(Choices(), optimiser) > 1e-6
    assert steps_apart(Choices(division="equal"), optimiser) < 1e-12


def test_noise_changes_the_function_a_little_and_parts_copies() -> None:
    module = trained(Residual)
    small, large = (
        difference(module, widen_module(module, image(), 2, Choices(noise=noise)).module, image())
        for noise in (1e-4, 1e-2)
    )
    assert 0 < small < 1e-2 < 100 * large
    wider = widen_module(module, image(), 2, Choices("equal", noise=1e-3)).module
    assert torch.equal(wider.stem.weight[:6], module.stem.weight)
    assert not torch.equal(wider.stem.weight[6:], module.stem.weight)


def test_random_padding_keeps_the_old_weights_and_changes_the_function() -> None:
    module = trained(Residual)
    wider = widen_module(module, image(), 1.5, Choices(fill="random")).module
    assert torch.equal(wider.inner[0].weight[:4, :6], module.inner[0].weight)
    assert wider.inner[0].weight[4:].std() > 0.01
    assert difference(module, wider, image()) > 1e-3


def test_the_seed_decides_and_the_module_stays() -> None:
    module = trained(Residual)
    before = copy.deepcopy(module.state_dict())
    states = [widen_module(module, image(), 1.5, Choices(seed=seed)).module.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in before)
    assert any(not torch.equal(states[0][key], states[2][key]) for key in before)
    assert all(torch.equal(tensor, module.state_dict()[key]) for key, tensor in before.items())


def test_layers_that_share_channels_are_widened_together() -> None:
    found = widen_module(trained(Residual), image(), {"stem": 10})
    assert found.module.inner[3].out_channels == found.module.head.in_features == 10
    assert found.module.inner[0].out_channels == 4
    assert [item["new"] for item in found.grown] == [10]
    assert [item["reason"] for item in found.left] == ["it was not asked for"]


def test_frozen_and_shared_parameters_stay_so() -> None:
    module = trained(linears)
    module[0].weight.requires_grad_(False)
    module.add_module("again", module[2])
    module = nn.Sequential(module[0], module[1], module[2])
    wider = widen_module(module, vector(), 1.5).module
    assert not wider[0].weight.requires_grad and wider[0].bias.requires_grad


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (1.0, "expected a factor above 1"),
        (float("nan"), "expected a factor above 1"),
        (1e9, "expected a factor above 1"),
        ({"stem": 4}, "it has 6"),
        ({"stem": 6}, "no layer is to become wider"),
        ({"stem": True}, "whole numbers"),
        ({"stem": 10**9}, "more than 1024 times"),
        ({"stam": 8}, "nearest: stem"),
        ({"stem": 8, "inner.3": 9}, "shares its channels"),
        ("1.5", "expected a factor or widths"),
        (True, "expected a factor or widths"),
        ({"stem": "8"}, "whole numbers"),
        ({"inner.1": 3}, "it has 4"),
        ({}, "no layer is to become wider"),
        ({"head": 8}, "head cannot be widened: it is the network's output; the nearest layer that can be is inner.3"),
    ],
)
def test_bad_widths_are_refused(to: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        widen_module(trained(Residual), image(), to)


def test_tied_weights_are_left_or_refused() -> None:
    torch.manual_seed(0)
    module, tokens = Shared().double().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = widen_module(module, tokens, 1.5).module
    assert (found.table.embedding_dim, found.inner.out_features) == (4, 9)
    assert difference(module, found, tokens) < EXACT
    with pytest.raises(InputError, match=r"outer cannot be widened: table\.weight is used in several ways"):
        widen_module(module, tokens, {"outer": 8})


def test_control_flow_that_depends_on_values_is_refused() -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    with pytest.raises(InputError, match=r"Dynamic cannot be traced .* read off a network whose operations do not"):
        widen_module(trained(Dynamic), vector())


def test_a_network_that_gives_nan_is_refused() -> None:
    module = trained(linears)
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="gives infinite values or NaN"):
        widen_module(module, vector())


def test_a_network_that_gives_no_tensors_is_refused() -> None:
    class Silent(nn.Sequential):
        def forward(self, x: Tensor) -> int:
            super().forward(x)
            return 3

    with pytest.raises(InputError, match="it gives no tensors"):
        widen_module(Silent(*trained(linears)), vector())


def test_rounding_that_grows_is_told_from_code_that_does_not_follow() -> None:
    class Chaotic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.sin(1e6 * self.middle(self.first(x))))

    module = trained(Chaotic).float()
    found = widen_module(module, vector().float(), 1.5)
    assert (found.module.first.out_features, found.module.middle.out_features) == (24, 24)
    assert difference(module, found.module, vector().float()) > 1e-3 > 1e-8 > found.difference
    assert found.module.first.weight.dtype == torch.float32


def test_a_width_that_a_norm_does_not_allow_is_refused() -> None:
    with pytest.raises(InputError, match="16, 24 would do"):
        widen_module(trained(Attention), image(), {"proj": 12})
    with pytest.raises(InputError, match="in groups"):
        widen_module(trained(Grouped), image(), {"grouped": 13})


@pytest.mark.parametrize(
    "choices", [{"division": "odd"}, {"fill": "zeros"}, {"noise": -1.0}, {"noise": float("nan")}, {"seed": -1}]
)
def test_bad_choices_are_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Choices(**choices)


def test_a_network_whose_code_does_not_follow_is_left_where_it_does_not() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.middle(self.first(x).view(-1, 4))))

    found = widen_module(trained(Stubborn), vector(), 1.5)
    assert (found.module.first.out_features, found.module.middle.out_features) == (4, 9)
    assert "does not follow" in found.left[0]["reason"]


def test_heads_grow_with_the_trunk_where_the_code_takes_them_for_one() -> None:
    class Square(Attention):
        def attend(self, x: Tensor) -> Tensor:
            batch, length, width = x.shape
            q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
            return self.proj(self.plain(q, k, v).transpose(1, 2).reshape(batch, length, width))

    module = trained(Square)
    found = widen_module(module, image(), 1.5)
    assert (found.module.num_heads, found.module.proj.in_features, found.module.proj.out_features) == (4, 16, 16)
    assert difference(module, found.module, image(seed=1)) < EXACT


def test_an_attribute_that_only_looks_like_a_width_is_kept() -> None:
    class Threes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.first, self.last = 3, nn.Linear(3, 3), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x.view(-1, self.parts, 3)))).mean(1)

    module = trained(Threes)
    found = widen_module(module, vector(), 2)
    assert (found.module.parts, found.module.first.out_features, found.left) == (3, 6, ())
    assert difference(module, found.module, vector() + 1) < EXACT


@pytest.mark.parametrize("same", [True, False])
def test_a_buffer_that_no_file_holds_grows_where_its_channels_are_alike(same: bool) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 5)
            self.register_buffer("scale", torch.ones(4) if same else torch.arange(4.0) + 1, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) * self.scale)

    module = trained(Scaled)
    if same:
        found = widen_module(module, vector(), 1.5)
        fresh = apply_edits(Scaled().double(), found.edits)
        fresh.load_state_dict(found.module.state_dict())
        assert difference(module, fresh, vector()) < EXACT
    else:
        with pytest.raises(InputError, match="scale, which no file holds, differs by channel"):
            widen_module(module, vector(), 1.5)


def resized(**changes: Any) -> list[dict[str, Any]]:
    edit = {"edit": "resize", "modules": {"stem": {"out_channels": 8}}, "tensors": {"stem.bias": [8]}}
    return [edit | changes]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ("resize", "expected a list"),
        ([3], "expected a mapping"),
        ([{"edit": "run"}], "expected one of append, insert, resize"),
        (resized(command="x"), "'command' is unknown"),
        (resized(modules=[1]), "must be mappings"),
        (resized(modules={"stom": {"out_channels": 8}}), "nearest: stem"),
        (resized(modules={"stem": 3}), "mapping from attributes"),
        (resized(modules={"stem": {"forward": 8}}), "may not set 'forward'"),
        (resized(modules={"stem": {"__class__": 8}}), "may not set"),
        (resized(modules={"stem": {"_parameters": 8}}), "may not set"),
        (resized(modules={"stem": {"kernel_size": [1, 1]}}), "may not set"),
        (resized(modules={"stem": {"out_channels": "8"}}), "expected numbers"),
        (resized(modules={"stem": {"out_channels": True}}), "expected numbers"),
        (resized(modules={"stem": {"out_channels": 10**12}}), "expected numbers"),
        (resized(modules={"stem": {"out_channels": [8]}}), "expected numbers"),
        (resized(tensors={"stem.bios": [8]}), "nearest: stem.bias"),
        (resized(tensors={"stem.bias": [8, 8]}), "expected 1 sizes"),
        (resized(tensors={"stem.bias": [2]}), "smaller than"),
        (resized(tensors={"stem.weight": [2**23, 2**23, 3, 3]}), "expected 4 sizes"),
        (resized(tensors={"stem.weight": [2**24, 3, 3, 3], "head.weight": [2**24, 2**9]}), "are free"),
    ],
)
def test_hostile_edits_are_refused(edits: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_edits(Residual(), edits)


def test_edits_apply_in_order() -> None:
    module = trained(Flattened)
    first = widen_module(module, image(), {"conv": 6})
    second: Widening = widen_module(first.module, image(), {"first": 9})
    fresh = apply_edits(Flattened().double(), [*first.edits, *second.edits])
    fresh.load_state_dict(second.module.state_dict())
    assert difference(module, fresh.eval(), image(seed=4)) < EXACT

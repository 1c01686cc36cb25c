from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.permutations import identity, permute, random_permutation, symmetries
from tests.growing import NETWORKS, difference, image
from tests.methods.fusion.networks import Joined, Plain, ResidualNorm, of_timm, trained

EXACT = 1e-10
#: Small networks of timm of several families, the size of their images, and tensors that must get permuted.
FAMILIES = {
    "resnet10t": (64, ["layer1.0.conv1.weight", "layer4.0.bn2.running_var"]),
    "test_resnet": (64, ["layer1.0.conv1.weight", "layer4.0.conv1.weight"]),
    "test_byobnet": (64, ["stem.conv.weight"]),
    "densenet": (64, ["features.denseblock2.denselayer2.conv1.weight", "features.norm5.weight"]),
    "mobilenetv3_small_050": (
        64,
        ["conv_stem.weight", "blocks.0.0.se.conv_reduce.weight", "blocks.1.0.conv_dw.weight"],
    ),
    "regnet": (64, ["s2.b1.conv2.conv.weight", "s2.b1.se.fc1.weight"]),
    "test_efficientnet": (64, ["conv_stem.weight"]),
    "test_convnext": (64, ["stages.0.blocks.0.conv_dw.weight", "stages.0.blocks.0.gamma"]),
    "test_vit": (160, ["blocks.0.attn.qkv.weight", "pos_embed", "blocks.0.mlp.fc1.bias"]),
}


def outputs(module: nn.Module, state: dict[str, Tensor], example: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(module, state, (example,))


@pytest.mark.parametrize("build", [*NETWORKS, Plain, ResidualNorm, Joined])
def test_permuting_small_networks_leaves_their_outputs(build: type[nn.Module]) -> None:
    module = trained(build)
    found = symmetries(module, image())
    state = module.state_dict()
    moved = permute(state, found, random_permutation(found, 3))
    expected = outputs(module, state, image(3, seed=1))
    got = outputs(module, moved, image(3, seed=1))
    assert float((got - expected).abs().max() / expected.abs().max()) <= EXACT
    assert sum(not torch.equal(moved[name], state[name]) for name in state) >= len(state) // 2
    for name in state:
        assert torch.equal(moved[name].flatten().sort().values, state[name].flatten().sort().values)


@pytest.mark.parametrize("name", FAMILIES)
def test_permuting_networks_of_timm_leaves_their_outputs(name: str, one_thread: None) -> None:
    size, moving = FAMILIES[name]
    module = trained(lambda: of_timm(name))
    example = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = symmetries(module, example)
    state = module.state_dict()
    moved = permute(state, found, random_permutation(found, 3))
    expected = outputs(module, state, example)
    assert float((outputs(module, moved, example) - expected).abs().max() / expected.abs().max()) <= EXACT
    for tensor in moving:
        assert not torch.equal(moved[tensor], state[tensor])


def test_sets_of_a_residual_network_by_hand() -> None:
    found = symmetries(trained(ResidualNorm), image())
    members = {
        frozenset(name for name in found.axes for box in found.boxes(name) if box.places(index)) for index in found.sets
    }
    assert len(members) == 2
    inner = {
        "conv1.weight",
        "conv2.weight",
        *(f"bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    }
    assert inner in members
    (stream,) = members - {frozenset(inner)}
    assert {
        "stem.weight",
        "bn.weight",
        "conv1.weight",
        "conv2.weight",
        "bn2.running_var",
        "conv3.weight",
        "fc.weight",
    } <= stream
    assert found.still["fc.weight", 0] == "it is the network's output"


def test_channels_inside_groups_and_heads_have_an_order_for_each() -> None:
    grouped, attention = (symmetries(trained(build), image()) for build in NETWORKS[4:6])
    assert [one.size for one in grouped.sets.values() if one.within is None] == [4]
    assert sorted(one.size for one in grouped.sets.values() if one.within is not None) == [2, 3]
    (heads,) = [
        index
        for index, one in attention.sets.items()
        if any(other.within == index for other in attention.sets.values())
    ]
    assert attention.sets[heads].size == 2
    drawn = random_permutation(attention, 0)
    inside = [drawn[index] for index, one in attention.sets.items() if one.within == heads]
    assert all(order.shape == (2, 4) for order in inside)


class MixedHeads(nn.Module):
    """Widths inside of heads that a norm shared by all heads, and a mean over heads, tie together."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.norm, self.fc = nn.Linear(192, 12), nn.LayerNorm(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.make(x.flatten(1)).reshape(-1, 3, 4))
        return self.fc(x.relu().mean(1))


def test_widths_that_heads_share_have_one_order() -> None:
    module = trained(MixedHeads)
    found = symmetries(module, image())
    assert sorted((one.size, one.within) for one in found.sets.values()) == [(3, None), (4, None)]


class Positional(nn.Module):
    """Features whose place counts in a way that no rule of the graph sees."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).relu()
        return self.fc(self.second(x).cumsum(1))


def test_channels_whose_place_counts_stay_with_a_reason() -> None:
    found = symmetries(trained(Positional), image())
    assert [one.size for one in found.sets.values()] == [6]
    assert "cumsum" in found.still["second.weight", 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_identity_moves_nothing_and_permutations_are_undone_by_their_inverse(seed: int) -> None:
    module = trained(Joined)
    found = symmetries(module, image())
    state = module.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in permute(state, found, identity(found)).items())
    drawn = random_permutation(found, seed)
    moved = permute(state, found, drawn)
    back = permute(moved, found, {index: order.argsort() for index, order in drawn.items()})
    assert all(torch.equal(one, state[name]) for name, one in back.items())


def test_the_network_stays_as_it_is() -> None:
    module = trained(ResidualNorm).float().train()
    before = {name: one.clone() for name, one in module.state_dict().items()}
    symmetries(module, image().float())
    assert module.training and all(torch.equal(one, before[name]) for name, one in module.state_dict().items())


def test_tensors_shared_under_two_names_are_permuted_alike() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.one, self.two = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight
            self.fc = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x.flatten(1))
            x = x + self.one(x).relu()
            return self.fc(x + self.two(x).relu())

    module = trained(Tied)
    found = symmetries(module, image())
    moved = permute(module.state_dict(), found, random_permutation(found, 2))
    assert torch.equal(moved["one.weight"], moved["two.weight"])
    fresh = Tied().double()
    fresh.load_state_dict(moved)
    assert difference(module, fresh, image()) <= EXACT


def test_another_architectures_state_is_refused() -> None:
    module = trained(Plain)
    found = symmetries(module, image())
    state = module.state_dict() | {"hidden.weight": torch.zeros(9, 12)}
    with pytest.raises(InputError, match=re.escape("hidden.weight is (9, 12): expected (9, 28)")):
        permute(state, found, identity(found))


def test_a_network_that_cannot_be_traced_is_refused_with_what_to_do() -> None:
    class Branching(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.mean() > 0 else -x)

    with pytest.raises(
        InputError, match=r"Branching cannot be traced \(.*values of its inputs.*, or fuse without alignment"
    ):
        symmetries(trained(Branching), image())

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.alignment import align_states, match_activations, match_weights
from kzoo.methods.fusion.permutations import permute, random_permutation, symmetries
from tests.growing import NETWORKS, image
from tests.methods.fusion.networks import Joined, Plain, ResidualNorm, of_timm, trained


def all_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def shuffle(state: dict[str, Tensor], name: str, axis: int, order: Tensor) -> None:
    state[name] = state[name].index_select(axis, order)


def shuffled_residual(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Permuted by hand, whatever kzoo knows of channels."""
    state, norm = dict(state), ("weight", "bias", "running_mean", "running_var")
    stream, inner = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([7, 2, 0, 5, 1, 3, 6, 4])
    for name in (
        "stem.weight",
        "conv2.weight",
        "conv3.weight",
        *(f"{bn}.{one}" for bn in ("bn", "bn2", "bn3") for one in norm),
    ):
        shuffle(state, name, 0, stream)
    for name in ("conv1.weight", "conv3.weight", "fc.weight"):
        shuffle(state, name, 1, stream)
    for name in ("conv1.weight", *(f"bn1.{one}" for one in norm)):
        shuffle(state, name, 0, inner)
    shuffle(state, "conv2.weight", 1, inner)
    return state


def shuffled_joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state, norm = dict(state), ("weight", "bias", "running_mean", "running_var")
    stem, one, two = torch.tensor([2, 3, 1, 0]), torch.tensor([1, 2, 0]), torch.tensor([4, 2, 0, 1, 3])
    for layer, order in (("stem", stem), ("conv1", one), ("conv2", two)):
        shuffle(state, f"{layer}.weight", 0, order)
        shuffle(state, f"{layer}.bias", 0, order)
    joined = torch.cat((stem, one + 4, two + 7))
    for layer, size in (("conv1", 4), ("conv2", 7), ("fc", 12)):
        shuffle(state, f"{layer}.weight", 1, joined[:size])
    for layer, size in (("bn1", 4), ("bn2", 7), ("bn3", 12)):
        for name in norm:
            shuffle(state, f"{layer}.{name}", 0, joined[:size])
    return state


@pytest.mark.parametrize(("build", "shuffled"), [(ResidualNorm, shuffled_residual), (Joined, shuffled_joined)])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_copy_permuted_by_hand_is_recovered_bit_for_bit(
    build: type[nn.Module], shuffled: object, fresh: bool
) -> None:
    torch.manual_seed(0)
    module = build().double().eval() if fresh else trained(build)
    found = symmetries(module, image())
    state = module.state_dict()
    moved = shuffled(state)  # type: ignore[operator]
    with torch.no_grad():
        expected = module(image())
        torch.testing.assert_close(torch.func.functional_call(module, moved, (image(),)), expected)
    alignment = match_weights(state, moved, found)
    assert alignment.similarity == pytest.approx(1) and alignment.before < 0.9
    assert all_equal(permute(moved, found, alignment.permutation), state)


@pytest.mark.parametrize("build", [*NETWORKS, Plain, ResidualNorm, Joined])
@pytest.mark.parametrize("seed", [0, 1])
def test_permuted_copies_of_small_networks_are_recovered(build: type[nn.Module], seed: int) -> None:
    module = trained(build, seed)
    found = symmetries(module, image())
    state = module.state_dict()
    moved = permute(state, found, random_permutation(found, seed + 10))
    assert not all_equal(moved, state)
    assert all_equal(permute(moved, found, match_weights(state, moved, found).permutation), state)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_resnet", 64),
        ("mobilenetv3_small_050", 64),
        ("regnet", 64),
        ("densenet", 64),
        ("test_vit", 160),
        ("test_byobnet", 64),
    ],
)
def test_permuted_copies_of_networks_of_timm_are_recovered(name: str, size: int, one_thread: None) -> None:
    module = trained(lambda: of_timm(name)).float()
    found = symmetries(module, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    state = module.state_dict()
    moved = permute(state, found, random_permutation(found, 5))
    assert all_equal(permute(moved, found, match_weights(state, moved, found).permutation), state)


def test_a_permuted_copy_is_recovered_by_activations() -> None:
    for build in (Plain, ResidualNorm, Joined):
        module, copy = trained(build), trained(build)
        found = symmetries(module, image())
        moved = permute(module.state_dict(), found, random_permutation(found, 4))
        copy.load_state_dict(moved)
        alignment = match_activations(module, copy, found, image(16))
        assert all_equal(permute(moved, found, alignment.permutation), module.state_dict())


def test_a_noisy_permuted_copy_is_brought_back_as_near_as_it_was() -> None:
    module = trained(ResidualNorm)
    found = symmetries(module, image())
    state, generator = module.state_dict(), torch.Generator().manual_seed(0)
    noisy = {
        name: one + 0.3 * one.std() * torch.randn(one.shape, generator=generator) if one.ndim > 1 else one
        for name, one in state.items()
    }
    moved = permute(noisy, found, random_permutation(found, 6))
    aligned = permute(moved, found, match_weights(state, moved, found).permutation)
    assert all_equal(aligned, noisy)


def test_an_alignment_is_never_worse_than_none_and_better_with_more_starts() -> None:
    one, other = trained(Joined, 0), trained(Joined, 1)
    found = symmetries(one, image())
    few = match_weights(one.state_dict(), other.state_dict(), found, restarts=0)
    many = match_weights(one.state_dict(), other.state_dict(), found, restarts=6)
    assert few.before == many.before <= few.similarity <= many.similarity < 1
    assert few.similarity > few.before + 0.05
    with torch.no_grad():
        moved = permute(other.state_dict(), found, many.permutation)
        torch.testing.assert_close(torch.func.functional_call(other, moved, (image(),)), other(image()))


def test_alignment_of_one_layer_is_the_best_of_all_permutations() -> None:
    def network(seed: int) -> nn.Module:
        return trained(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 3)), seed)

    one, other = network(0), network(1)
    found = symmetries(one, image())
    alignment = match_weights(one.state_dict(), other.state_dict(), found)
    sizes = {
        name: math.sqrt(float(tensor.norm() * other.state_dict()[name].norm()) / tensor.numel())
        for name, tensor in one.state_dict().items()
    }

    def value(order: tuple[int, ...]) -> float:
        moved = permute(other.state_dict(), found, {next(iter(found.sets)): torch.tensor(order)})
        names = ("1.weight", "1.bias", "3.weight")
        return sum(float((one.state_dict()[name] * moved[name]).sum()) / sizes[name] ** 2 for name in names)

    best = max(permutations(range(4)), key=value)
    assert alignment.permutation[next(iter(found.sets))].tolist() == list(best)


def test_the_same_seed_gives_the_same_permutation() -> None:
    one, other = trained(ResidualNorm, 0), trained(ResidualNorm, 1)
    found = symmetries(one, image())
    first, second = (match_weights(one.state_dict(), other.state_dict(), found, restarts=2, seed=7) for _ in range(2))
    assert all(torch.equal(first.permutation[index], second.permutation[index]) for index in found.sets)
    assert first.similarity == second.similarity


def test_parents_are_brought_in_the_order_of_the_first() -> None:
    module = trained(Joined)
    found = symmetries(module, image())
    state = module.state_dict()
    copies = [permute(state, found, random_permutation(found, seed)) for seed in (1, 2)]
    parents, alignments = align_states([state, *copies], found)
    assert all(all_equal(dict(parent), state) for parent in parents)
    assert [one.similarity for one in alignments] == pytest.approx([1, 1])


def test_what_cannot_be_aligned_is_refused() -> None:
    module = trained(Plain)
    found = symmetries(module, image())
    state = module.state_dict()
    with pytest.raises(InputError, match=r"fc\.weight is missing: expected \(5, 9\)"):
        match_weights(state, {name: one for name, one in state.items() if name != "fc.weight"}, found)
    with pytest.raises(InputError, match=r"first\.weight holds values that are not finite"):
        match_weights(state, state | {"first.weight": state["first.weight"] * float("nan")}, found)
    with pytest.raises(InputError, match="no images"):
        match_activations(module, module, found, image()[:0])

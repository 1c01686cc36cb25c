from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import kzoo
from kzoo.errors import InputError
from kzoo.methods.fusion.inputs import (
    input_grams,
    null_space,
    null_space_maps,
    permute_grams,
    pooled_grams,
    regmean,
    regmean_maps,
)
from kzoo.methods.fusion.permutations import permute, random_permutation, symmetries
from kzoo.methods.fusion.rules import average, delta_sum
from kzoo.methods.fusion.states import fuse_states
from kzoo.methods.least_squares import eigenvectors
from tests.growing import Attention, Grouped, Inverted
from tests.methods.fusion.networks import Joined, ResidualNorm, images, mlp, trained


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gram_of(rows: Tensor) -> Tensor:
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    return (rows.T @ rows / len(rows))[None]


@pytest.mark.parametrize("intercept", [False, True])
def test_regmean_equals_least_squares(intercept: bool) -> None:
    inputs = [drawn(30, 6, seed=seed) + seed for seed in range(3)]
    weights, biases = (
        [drawn(4, 6, seed=10 + seed) for seed in range(3)],
        [drawn(4, seed=20 + seed) for seed in range(3)],
    )
    maps = regmean_maps([gram_of(one) for one in inputs], intercept, scale=1, ridge=0)
    weight, bias = maps.fuse(weights, biases if intercept else None)
    rows, wanted = torch.cat(inputs), torch.cat([x @ w.T for x, w in zip(inputs, weights, strict=True)])
    if intercept:
        rows = torch.cat([rows, torch.ones(90, 1, dtype=torch.float64)], 1)
        wanted = wanted + torch.cat([one.expand(30, 4) for one in biases])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(weight, expected[:, :6])
    assert (bias is None) is not intercept
    if bias is not None:
        torch.testing.assert_close(bias, expected[:, 6])


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_directions_without_inputs_get_the_mean(ridge: float) -> None:
    inputs = [drawn(30, 5, seed=seed) for seed in (0, 1)]
    for one in inputs:
        one[:, 3:] = 0
    weights = [drawn(4, 5, seed=seed) for seed in (2, 3)]
    weight, _ = regmean_maps([gram_of(one) for one in inputs], False, 1, ridge).fuse(weights)
    torch.testing.assert_close(weight[:, 3:], (weights[0] + weights[1])[:, 3:] / 2)
    rows, wanted = torch.cat(inputs)[:, :3], torch.cat([x @ w.T for x, w in zip(inputs, weights, strict=True)])
    torch.testing.assert_close(weight[:, :3], torch.linalg.lstsq(rows, wanted).solution.T, rtol=1e-4, atol=1e-4)


def test_regmean_without_what_is_off_the_diagonal_by_hand() -> None:
    grams = [gram_of(drawn(30, 3, seed=seed) * (1 + seed)) for seed in (0, 1)]
    weights = [drawn(4, 3, seed=seed) for seed in (2, 3)]
    sizes = [gram[0, :-1, :-1].diagonal() for gram in grams]
    weight, _ = regmean_maps(grams, False, 0, 0).fuse(weights)
    torch.testing.assert_close(weight, (weights[0] * sizes[0] + weights[1] * sizes[1]) / (sizes[0] + sizes[1]))
    half, _ = regmean_maps(grams, False, 0.5, 0).fuse(weights)
    scaled = [0.5 * (gram[0, :-1, :-1] + gram[0, :-1, :-1].diagonal().diag()) for gram in grams]
    expected = (weights[0] @ scaled[0] + weights[1] @ scaled[1]) @ (scaled[0] + scaled[1]).inverse()
    torch.testing.assert_close(half, expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(6, 4, 3, padding=1, stride=2),
        nn.Conv2d(6, 9, (1, 3), groups=3, dilation=2),
        nn.Conv2d(6, 6, 3, groups=6, padding="same", padding_mode="reflect", bias=False),
        nn.Conv1d(6, 4, 3),
    ],
)
def test_grams_are_those_of_what_a_layers_weights_multiply(layer: nn.Module) -> None:
    layer = layer.double()
    shape = {nn.Linear: (7, 3, 6), nn.Conv1d: (7, 6, 9)}.get(type(layer), (7, 6, 9, 9))
    given = drawn(*shape)
    (gram,) = input_grams(nn.Sequential(layer), given, batch=3).values()
    groups = getattr(layer, "groups", 1)
    weight = layer.weight.detach().flatten(1).reshape(groups, -1, layer.weight[0].numel())
    bias = torch.zeros(len(layer.weight)).double() if layer.bias is None else layer.bias.detach()
    rows = torch.cat([weight, bias.reshape(groups, -1, 1)], 2)
    # The mean square of each output is a quadratic form of its row.
    with torch.no_grad():
        outputs = layer(given)
    outputs = outputs.flatten(0, 1) if isinstance(layer, nn.Linear) else outputs.transpose(0, 1).flatten(1).T
    expected = outputs.square().mean(0)
    torch.testing.assert_close(torch.einsum("gri,gij,grj->gr", rows, gram, rows).flatten(), expected)
    torch.testing.assert_close(gram[:, -1, -1], torch.ones(groups).double())


@pytest.mark.parametrize("build", [Inverted, Attention, Grouped])
def test_regmean_of_equal_parents_is_the_parent_and_the_rest_is_averaged(build: type[nn.Module]) -> None:
    one, other = (trained(build, seed) for seed in (0, 1))
    grams = [input_grams(module, images(4, seed=seed)) for seed, module in enumerate((one, other))]
    same = regmean([one.state_dict()] * 2, grams)
    for tensor, value in one.state_dict().items():
        torch.testing.assert_close(same[tensor], value, rtol=1e-6, atol=1e-8)
    both = regmean([one.state_dict(), other.state_dict()], grams)
    mean = fuse_states([one.state_dict(), other.state_dict()], average())
    layers = {f"{path}.{part}" for path in grams[0] for part in ("weight", "bias")}
    assert all(torch.equal(both[tensor], mean[tensor]) for tensor in mean if tensor not in layers)
    assert not any(torch.equal(both[f"{path}.weight"], mean[f"{path}.weight"]) for path in grams[0])


@pytest.mark.parametrize("build", [Inverted, Attention, Grouped, ResidualNorm, Joined])
def test_grams_of_a_permuted_network_are_the_permuted_grams(build: type[nn.Module]) -> None:
    module = trained(build)
    found = symmetries(module, images())
    order = random_permutation(found, 3)
    moved = permute_grams(input_grams(module, images(5)), found, order)
    module.load_state_dict(permute(module.state_dict(), found, order))
    expected = input_grams(module, images(5))
    for path, gram in expected.items():
        torch.testing.assert_close(moved[path], gram)
    with pytest.raises(InputError, match="does not fit a weight of"):
        permute_grams({next(iter(expected)): torch.eye(2)[None]}, found, order)


def test_rows_can_be_fused_a_few_at_a_time() -> None:
    maps = regmean_maps([gram_of(drawn(30, 6, seed=seed)) for seed in (0, 1)], True)
    weights, biases = [drawn(9, 6, seed=seed) for seed in (2, 3)], [drawn(9, seed=seed) for seed in (4, 5)]
    weight, bias = maps.fuse(weights, biases)
    parts = [
        maps.fuse([one[at : at + 2] for one in weights], [one[at : at + 2] for one in biases]) for at in range(0, 9, 2)
    ]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), weight, rtol=1e-13, atol=1e-13)
    assert bias is not None
    torch.testing.assert_close(torch.cat([part[1] for part in parts if part[1] is not None]), bias)


def test_the_null_space_of_the_firsts_inputs_is_what_changes() -> None:
    directions = torch.linalg.qr(drawn(6, 6)).Q
    inputs = drawn(50, 3, seed=1) @ directions[:3] * 2
    first, second, start = (drawn(4, 6, seed=seed) for seed in (2, 3, 4))
    weight, _ = null_space_maps(gram_of(inputs), False, 1 - 1e-9).fuse([first, second, start])
    torch.testing.assert_close(inputs @ weight.T, inputs @ first.T)
    free = directions[3:]
    torch.testing.assert_close(weight @ free.T, (first + second - start) @ free.T)
    everything, _ = null_space_maps(gram_of(inputs), False, 0).fuse([first, second, start])
    torch.testing.assert_close(everything, first + second - start)


def test_eigenvectors_are_found_where_divide_and_conquer_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(40, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows[:, 4:] = 0
    gram = rows.T @ rows
    expected = null_space_maps(gram[None], intercept=True, energy=0.9)

    def gives_up(matrix: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    values, vectors = eigenvectors(gram)
    torch.testing.assert_close(gram @ vectors, vectors * values)
    assert values.diff().min() >= 0
    found = null_space_maps(gram[None], intercept=True, energy=0.9)
    for ours, theirs in zip(found.matrices, expected.matrices, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_null_space_variant_protects_the_first_parent() -> None:
    start, first, second = (trained(lambda: mlp(192, 12, 5), seed) for seed in (0, 1, 2))
    given = images(4)
    states = [first.state_dict(), second.state_dict()]
    gram = input_grams(first, given)
    fused = mlp(192, 12, 5).double()
    fused.load_state_dict(null_space(states, start.state_dict(), gram, energy=1 - 1e-12))
    torch.testing.assert_close(fused(given), first(given))
    assert not torch.allclose(fused(images(4, seed=1)), first(images(4, seed=1)), rtol=1e-2)
    loose = null_space(states, start.state_dict(), gram, energy=0)
    expected = fuse_states(states, delta_sum(), start=start.state_dict())
    for name, one in expected.items():
        torch.testing.assert_close(loose[name], one)


def test_toy_regmean_joins_what_class_disjoint_parents_know() -> None:
    """The toy check of the notes, a reconstruction: RegMean far above each parent and above the average."""
    data = load_digits()
    pixels, labels = torch.tensor(data.images)[:, None] / 16, torch.tensor(data.target)
    train, test = slice(0, 1200), slice(1200, None)
    torch.manual_seed(0)
    start = mlp(64, 64, 64, 64, 10).double()
    parents = []
    for low in (0, 5):
        module = mlp(64, 64, 64, 64, 10).double()
        module.load_state_dict(start.state_dict())
        chosen = (labels[train] >= low) & (labels[train] < low + 5)
        known, wanted = pixels[train][chosen], labels[train][chosen]
        optimizer = torch.optim.Adam(module.parameters(), 1e-3)
        for _ in range(60):
            for some in torch.randperm(len(known)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(known[some]), wanted[some]).backward()
                optimizer.step()
        parents.append((module, known))
    states = [module.state_dict() for module, _ in parents]
    found = {}
    for name, state in (
        ("regmean", regmean(states, [input_grams(module, known) for module, known in parents])),
        ("average", fuse_states(states, average())),
    ):
        module = mlp(64, 64, 64, 64, 10).double()
        module.load_state_dict(state)
        found[name] = float((module(pixels[test]).argmax(1) == labels[test]).double().mean())
    assert found["regmean"] > 0.8 and found["regmean"] > found["average"] + 0.05


def test_what_does_not_fit_is_refused() -> None:
    modules = [trained(ResidualNorm, seed) for seed in (0, 1)]
    states = [module.state_dict() for module in modules]
    grams = [input_grams(module, images()) for module in modules]
    with pytest.raises(InputError, match="2 parents and 1 collections of Grams"):
        regmean(states, grams[:1])
    with pytest.raises(InputError, match="scale=2 and ridge=0"):
        regmean(states, grams, scale=2, ridge=0)
    with pytest.raises(InputError, match="differ in shape between the parents"):
        regmean(states, [grams[0], {**grams[1], "fc": torch.zeros(1, 3, 3)}])
    with pytest.raises(InputError, match=r"fc\.weight has 6 inputs: its Gram has 2"):
        regmean(states, [{"fc": torch.eye(3)[None]}] * 2)
    with pytest.raises(InputError, match="null_space fuses two networks"):
        null_space([*states, states[0]], states[0], grams[0])
    with pytest.raises(InputError, match="energy=2 is not possible"):
        null_space(states, states[0], grams[0], energy=2)
    with pytest.raises(InputError, match="no images"):
        input_grams(modules[0], images()[:0])


class Tied(nn.Module):
    """Two layers of one weight; or one layer that has two names."""

    def __init__(self, seed: int, alias: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a = nn.Linear(6, 6)
        self.b = self.a if alias else nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x.flatten(1)).relu()).relu())  # type: ignore[no-any-return]


class Plainly(Tied):
    """The same computation with one name for the layer."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, True)
        del self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.a(self.a(x.flatten(1)).relu()).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize(("method", "options"), [("regmean", {}), ("nonessential", {}), ("layerwise", {})])
def test_a_layer_of_two_names_is_fused_as_one_of_one_name(method: str, options: dict[str, object]) -> None:
    images = torch.randn(40, 6, 1, 1, generator=torch.Generator().manual_seed(3))
    named = kzoo.fuse([Plainly(0), Plainly(1)], method, images=images, **options)
    twice = kzoo.fuse([Tied(0, True), Tied(1, True)], method, images=images, **options)
    torch.testing.assert_close(twice.a.weight, named.a.weight)
    assert twice.a is twice.b and not torch.allclose(
        named.a.weight, (Tied(0, True).a.weight + Tied(1, True).a.weight) / 2
    )


def test_layers_of_one_weight_pool_their_grams() -> None:
    images = torch.randn(40, 6, 1, 1, generator=torch.Generator().manual_seed(3))
    parents = [Tied(0, False), Tied(1, False)]
    grams = [input_grams(one, images) for one in parents]
    pooled = [pooled_grams(one, module) for one, module in zip(grams, parents, strict=True)]
    assert list(pooled[0]) == ["a", "fc"]
    torch.testing.assert_close(pooled[0]["a"], (grams[0]["a"] + grams[0]["b"]) / 2)
    fused = kzoo.fuse(parents, "regmean", images=images)
    expected = regmean([one.state_dict() for one in parents], pooled)
    torch.testing.assert_close(fused.a.weight, expected["a.weight"])
    assert fused.a.weight is fused.b.weight


@pytest.mark.parametrize("method", ["regmean", "nonessential", "layerwise"])
def test_images_that_are_not_finite_or_do_not_fit_are_refused(method: str) -> None:
    parents = [Plainly(0), Plainly(1)]
    with pytest.raises(InputError, match="the images of network 1 hold values that are NaN or infinite"):
        kzoo.fuse(parents, method, images=torch.full((4, 6, 1, 1), torch.nan))
    with pytest.raises(InputError, match="network 1 does not take images of 5x1x1"):
        kzoo.fuse(parents, method, images=torch.zeros(4, 5, 1, 1))

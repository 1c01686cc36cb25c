from __future__ import annotations

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.ensembles import Ensemble
from kzoo.methods.fusion.inputs import input_grams, regmean
from kzoo.methods.fusion.layerwise import fuse_layerwise
from kzoo.methods.fusion.rules import average
from kzoo.methods.fusion.states import fuse_states
from tests.growing import Attention, Grouped, Inverted
from tests.methods.fusion.networks import ResidualNorm, images, mlp, trained


@pytest.mark.parametrize("bias", [True, False])
def test_one_layer_is_least_squares(bias: bool) -> None:
    modules = [trained(lambda: mlp(12, 5, bias=bias), seed) for seed in (0, 1)]
    given = [images(30, 2, seed=seed) + seed for seed in (0, 1)]
    found = fuse_layerwise(modules, given, ridge=0)
    rows = torch.cat(given).flatten(1)
    rows = torch.cat([rows, torch.ones(60, 1, dtype=torch.float64)], 1) if bias else rows
    wanted = torch.cat([module(some).detach() for module, some in zip(modules, given, strict=True)])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(found["1.weight"], expected[:, :12])
    if bias:
        torch.testing.assert_close(found["1.bias"], expected[:, 12])


@pytest.mark.parametrize("build", [Inverted, Attention, Grouped, ResidualNorm])
def test_equal_parents_give_themselves_and_stay_as_they_are(build: type[nn.Module]) -> None:
    module = trained(build).train()
    before = {name: one.clone() for name, one in module.state_dict().items()}
    found = fuse_layerwise([module, copy.deepcopy(module)], [images(6), images(6, seed=1)])
    for name, one in before.items():
        assert torch.equal(module.state_dict()[name], one)
        torch.testing.assert_close(found[name], one, rtol=1e-5, atol=1e-7)
    assert module.training


@pytest.mark.parametrize("build", [Inverted, Attention, Grouped, ResidualNorm])
def test_outputs_that_are_not_kept_are_the_same(build: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    modules, given = [trained(build, seed) for seed in (0, 1)], [images(6), images(9, seed=1)]
    kept = fuse_layerwise(modules, given, batch=4)
    monkeypatch.setattr("kzoo.methods.fusion.layerwise._HELD_BYTES", 0)
    computed = fuse_layerwise(modules, given, batch=4)
    assert all(torch.equal(tensor, computed[name]) for name, tensor in kept.items())


class Twice(nn.Module):
    """A layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 12, dtype=torch.float64), nn.Linear(12, 3, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        given: Tensor = self.inner(self.inner(images.flatten(1)).relu())
        found: Tensor = self.outer(given)
        return found


def test_a_layer_that_runs_twice_is_solved_for_both_runs() -> None:
    modules, given = [trained(Twice, seed) for seed in (0, 1)], [images(40, 2, seed=seed) for seed in (0, 1)]
    fused = copy.deepcopy(modules[0])
    fused.load_state_dict(fuse_states([one.state_dict() for one in modules], average()))
    found = fuse_layerwise(modules, given, ridge=0)
    rows, wanted = [], []
    for module, some in zip(modules, given, strict=True):
        for of, kept in ((fused, rows), (module, wanted)):
            first = of.inner(some.flatten(1)).detach()
            kept += [some.flatten(1), first.relu()] if of is fused else [first, of.inner(first.relu()).detach()]
    ones = torch.ones(160, 1, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([torch.cat(rows), ones], 1), torch.cat(wanted)).solution.T
    torch.testing.assert_close(found["inner.weight"], expected[:, :12])


def test_layers_take_what_the_fused_layers_before_give() -> None:
    """Two layers by hand: the second is solved for the first's fused outputs."""
    modules = [trained(lambda: mlp(12, 4, 3), seed) for seed in (0, 1)]
    given = [images(40, 2, seed=seed) for seed in (0, 1)]
    found = fuse_layerwise(modules, given, ridge=0)
    hidden = torch.cat(given).flatten(1) @ found["1.weight"].T + found["1.bias"]
    rows = torch.cat([hidden.relu(), torch.ones(80, 1, dtype=torch.float64)], 1)
    wanted = torch.cat([module(some).detach() for module, some in zip(modules, given, strict=True)])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(torch.cat([found["3.weight"], found["3.bias"][:, None]], 1), expected)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.hidden, self.fc = nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.a(x).relu(), 2)
        x = nn.functional.max_pool2d(self.b(x).relu(), 2)
        return self.fc(self.hidden(x.flatten(1)).relu())


def test_toy_convolutions_that_know_disjoint_classes_reach_their_ensemble(one_thread: None) -> None:
    """On scikit-learn's digits, where RegMean and the average of this network fall far behind the ensemble."""
    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    torch.manual_seed(0)
    start, parents = Convolutional(), []
    for low in (0, 5):
        module = copy.deepcopy(start)
        known = pixels[:1200][(labels[:1200] >= low) & (labels[:1200] < low + 5)]
        wanted = labels[:1200][(labels[:1200] >= low) & (labels[:1200] < low + 5)]
        optimizer = torch.optim.Adam(module.parameters(), 2e-3)
        for _ in range(15):
            for some in torch.randperm(len(known)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(known[some]), wanted[some]).backward()
                optimizer.step()
        parents.append((module, known))
    modules, given = [module for module, _ in parents], [known for _, known in parents]
    states = [module.state_dict() for module in modules]

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            return float((module(pixels[1200:]).argmax(1) == labels[1200:]).float().mean())

    def loaded(state: dict[str, Tensor]) -> nn.Module:
        module = Convolutional()
        module.load_state_dict(state)
        return module

    found = accuracy(loaded(fuse_layerwise(modules, given)))
    ensemble = accuracy(Ensemble(modules))
    others = [fuse_states(states, average()), regmean(states, [input_grams(one, known) for one, known in parents])]
    assert found > ensemble - 0.02
    assert max(accuracy(loaded(other)) for other in others) < ensemble - 0.05


def test_what_cannot_be_fused_is_refused() -> None:
    modules = [trained(lambda: mlp(12, 5), seed) for seed in (0, 1)]
    with pytest.raises(InputError, match="2 parents and images for 1: give some of each"):
        fuse_layerwise(modules, [images(3, 2), images(3, 2)[:0]])
    with pytest.raises(InputError, match="ridge=-1 is not possible"):
        fuse_layerwise(modules, [images(3, 2)] * 2, ridge=-1)

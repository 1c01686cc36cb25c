from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from kzoo.edits import ACTIVATIONS, apply_edits
from kzoo.errors import InputError
from kzoo.methods.activations import apply_activation, inverse, linear_from
from kzoo.methods.checking import relative_difference
from kzoo.methods.dils import DilsOptions, Insertion, insert
from kzoo.methods.least_squares import Sums, rows_of
from kzoo.methods.probing import outputs_of
from kzoo.methods.stepwise import StepwiseOptions, deepen_stepwise, held_back, train_keeping_best
from kzoo.training.batches import prepare
from kzoo.training.data import load_task
from kzoo.training.evaluation import evaluate
from kzoo.training.loop import train
from kzoo.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = range(5)
EPOCHS = {"relu": 5, "tanh": 15, "gelu": 15, "sigmoid": 15}
RATES = {"sigmoid": 3e-3}
#: What an identity layer with the activation would do, which is no part of DILS.
IDENTITY = DilsOptions(method="approximation", start="identity", epochs=0)


@cache
def digits(normalised: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images from 0 to 1, or normalised as kzoo does, with their labels; test images and theirs."""
    task = load_task("digits")
    images = [
        prepare(part.images, torch.float32).flatten(1) if normalised else part.images.flatten(1).float() / 255
        for part in (task.train, task.test)
    ]
    return images[0], task.train.labels, images[1], task.test.labels


@cache
def shallow(activation: str, seed: int, normalised: bool = False) -> nn.Module:
    """A network of one hidden layer, trained on digits."""
    images, labels, _, _ = digits(normalised)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(64, 64), ACTIVATIONS[activation](), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(module.parameters(), RATES.get(activation, 1e-3))
        for _ in range(EPOCHS[activation]):
            for some in torch.split(torch.randperm(len(images)), 64):
                optimizer.zero_grad()
                cross_entropy(module(images[some]), labels[some]).backward()
                optimizer.step()
    return module.eval()


@cache
def deeper(
    activation: str, seed: int, options: DilsOptions | None = None, where: str = "after", normalised: bool = False
) -> Insertion:
    at = "0" if where == "after" else "2"
    module, images = shallow(activation, seed, normalised), digits(normalised)[0]
    return insert(module, at, images, where, options)  # type: ignore[arg-type]


@torch.no_grad()
def accuracy(module: nn.Module, normalised: bool = False) -> float:
    """Percent of the test images."""
    _, _, images, labels = digits(normalised)
    return 100 * float((module(images).argmax(1) == labels).float().mean())


# Least squares


@pytest.mark.parametrize("batch", [7, 1000])
def test_streamed_sums_equal_least_squares(batch: int) -> None:
    torch.manual_seed(0)
    rows, targets = torch.randn(200, 9, dtype=torch.float64) + 5, torch.randn(200, 4, dtype=torch.float64)
    sums = Sums(9, 4)
    for some, goal in zip(torch.split(rows, batch), torch.split(targets, batch), strict=True):
        sums.add(some, goal)
    weight, bias = sums.solve(0.0)
    expected = torch.linalg.lstsq(torch.cat([rows, torch.ones(200, 1)], 1), targets).solution
    torch.testing.assert_close(torch.cat([weight.T, bias[None]]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(3, 4, 3, padding=1)])
def test_an_inserted_layer_is_the_least_squares_solution(layer: nn.Module) -> None:
    """Rows of features and the inverse of what they are to become, by hand; without ridge and refinements."""
    torch.manual_seed(7)
    convolution = isinstance(layer, nn.Conv2d)
    module = nn.Sequential(layer, nn.Tanh(), nn.Conv2d(4, 2, 1) if convolution else nn.Linear(4, 2)).double()
    images = torch.randn(30, *((3, 5, 5) if convolution else (6,)), dtype=torch.float64)
    options = DilsOptions(ridge=0.0, towards_identity=False, refinements=0)
    found = insert(module, "0", images, options=options).module[2]  # type: ignore[index]
    features = module[:2](images).detach()
    rows, wanted = features, features
    if convolution:
        rows = nn.functional.unfold(features, 3, padding=1).movedim(1, -1).flatten(0, 1)
        wanted = features.movedim(1, -1).flatten(0, 2)
    inverses = wanted.clamp(-0.999, 0.999).atanh()
    expected = torch.linalg.lstsq(torch.cat([rows, torch.ones(len(rows), 1)], 1), inverses).solution
    torch.testing.assert_close(found.weight.flatten(1).T, expected[:-1], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.bias, expected[-1], rtol=1e-8, atol=1e-10)


def test_the_ridge_is_that_of_the_normal_equations() -> None:
    torch.manual_seed(1)
    rows, targets = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    sums = Sums(6, 2)
    sums.add(rows, targets)
    weight, _ = sums.solve(0.1)
    centred = rows - rows.mean(0)
    gram = centred.T @ centred
    damped = gram + 0.1 * gram.trace() / 6 * torch.eye(6)
    torch.testing.assert_close(weight.T, torch.linalg.solve(damped, centred.T @ (targets - targets.mean(0))))


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
@pytest.mark.parametrize("kind", ["rank", "few", "dead", "constant", "one"])
def test_degenerate_rows_give_finite_weights_that_fit(kind: str, ridge: float) -> None:
    torch.manual_seed(2)
    rows = torch.randn(40, 8, dtype=torch.float64)
    if kind == "rank":
        rows[:, 4:] = rows[:, :4] * 2
    elif kind == "few":
        rows = rows[:5]
    elif kind == "dead":
        rows[:, 2:6] = 0
    elif kind == "constant":
        rows[:] = 3.0
    else:
        rows = rows[:1]
    targets = rows @ torch.randn(8, 3, dtype=torch.float64) + 1
    sums = Sums(8, 3)
    sums.add(rows, targets)
    weight, bias = sums.solve(ridge)
    assert torch.isfinite(weight).all() and torch.isfinite(bias).all()
    assert (rows @ weight.T + bias - targets).abs().max() < 1e-3


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name not in ("relu", "relu6", "identity")])
def test_inverses(activation: str) -> None:
    values = torch.linspace(-0.7, 3, 50, dtype=torch.float64)
    outputs = apply_activation(activation, values)
    torch.testing.assert_close(inverse(activation, outputs, 1e-9), values, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(inverse(activation, torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4]), 1e-3)).all()


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2}, {"padding": "same"}, {"padding_mode": "circular"}]
)
def test_rows_of_patches_are_what_a_convolution_computes_with(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(3, 4, 3, **({"padding": 1} | options))
    images = torch.randn(2, 3, 7, 6)
    expected = layer(images).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(rows_of(layer, images) @ layer.weight.flatten(1).T + layer.bias, expected)


# Digits, five seeds


@pytest.mark.parametrize("seed", SEEDS)
def test_relu_is_exact(seed: int) -> None:
    found = deeper("relu", seed)
    images = digits()[2]
    assert relative_difference(outputs_of(shallow("relu", seed), images), outputs_of(found.module, images)) < 1e-6
    assert found.error < 1e-6


def test_sigmoid_is_twenty_points_above_the_identity() -> None:
    for seed in SEEDS:
        found, plain = deeper("sigmoid", seed), deeper("sigmoid", seed, IDENTITY)
        assert accuracy(found.module) >= accuracy(plain.module) + 20
        assert accuracy(found.module) >= accuracy(shallow("sigmoid", seed)) - 1


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_tanh_and_gelu_inherit(activation: str, normalised: bool) -> None:
    lost = []
    for seed in SEEDS:
        found = deeper(activation, seed, normalised=normalised)
        assert found.identity_error is not None and found.error <= 0.6 * found.identity_error
        lost.append(accuracy(shallow(activation, seed, normalised), normalised) - accuracy(found.module, normalised))
    assert max(lost) <= 1


def test_an_activation_is_moved_to_its_linear_side_where_that_is_better() -> None:
    module, images = shallow("gelu", 0, True), digits(True)[0]
    plain, lifted = (deeper("gelu", 0, DilsOptions(lift=lift), normalised=True) for lift in (None, 0.5))
    assert plain.lifted is None and lifted.lifted == "0"
    assert lifted.error < 1e-5 < 0.01 < plain.error
    assert relative_difference(outputs_of(module, images), outputs_of(lifted.module, images)) < 1e-5
    # The weights stay, the bias is raised until the activation gives its input back, and the new layer takes that back.
    assert torch.equal(lifted.module[0].weight, module[0].weight)  # type: ignore[union-attr,index]
    before = lifted.module[0](images)  # type: ignore[index]
    torch.testing.assert_close(nn.functional.gelu(before), before, rtol=1e-5, atol=1e-5)
    raised = lifted.module[0].bias - module[0].bias  # type: ignore[union-attr,index]
    torch.testing.assert_close(lifted.module[2].bias, -raised, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr,index]


class Reused(nn.Module):
    """What comes before the activation is used beside it too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first, self.act, self.last = nn.Linear(6, 12), nn.ELU(), nn.Linear(24, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.first(inputs)
        return self.last(torch.cat([features, self.act(features)], 1))


def test_no_bias_is_raised_that_something_else_sees() -> None:
    module, images = Reused(), torch.randn(60, 6)
    found = insert(module, "act", images, options=DilsOptions(lift=0.0))
    assert found.lifted is None
    assert torch.equal(found.module.first.bias, module.first.bias)  # type: ignore[union-attr]


def test_from_where_on_activations_are_linear() -> None:
    assert linear_from("sigmoid") is linear_from("tanh") is linear_from("relu6") is None
    assert [linear_from(name) for name in ("relu", "elu", "hardswish")] == [0.0, 0.0, 3.0]
    for name in ("gelu", "silu", "mish", "softplus"):
        start = linear_from(name)
        assert start is not None and 3 < start < 20
        values = torch.linspace(start, start + 50, 100, dtype=torch.float64)
        torch.testing.assert_close(apply_activation(name, values), values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", list(EPOCHS))
def test_before_a_layer_with_any_activation(activation: str) -> None:
    for seed in SEEDS:
        found = deeper(activation, seed, None, "before")
        assert found.error < (0.05 if activation in ("sigmoid", "tanh") else 1e-4)
        assert abs(accuracy(shallow(activation, seed)) - accuracy(found.module)) <= 1


def test_variants_of_before() -> None:
    narrow = deeper("tanh", 0, DilsOptions(projection="random"), "before")
    wide = deeper("tanh", 0, DilsOptions(projection="random", width=256), "before")
    truncated = deeper("tanh", 0, DilsOptions(projection="svd", width=80), "before")
    assert wide.error < narrow.error / 3
    assert truncated.error < 0.1
    assert wide.module[4].in_features == 256  # type: ignore[union-attr]


def test_network_approximation() -> None:
    options = DilsOptions(method="approximation", start="random", epochs=40, lr=3e-3)
    found, analytic = deeper("tanh", 0, options), deeper("tanh", 0)
    assert analytic.error < found.error < 0.3
    assert accuracy(found.module) >= accuracy(shallow("tanh", 0)) - 3
    started = deeper("tanh", 0, DilsOptions(method="approximation", epochs=5))
    assert started.error <= analytic.error


def test_the_same_bytes_each_time() -> None:
    first, second = (insert(shallow("gelu", 0), "0", digits()[0][:300]) for _ in range(2))
    assert all(
        torch.equal(one, other)
        for one, other in zip(first.module.parameters(), second.module.parameters(), strict=True)
    )


def test_edits_build_the_structure_again() -> None:
    for where in ("after", "before"):
        found = deeper("tanh", 1, None, where)
        again = apply_edits(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)), found.edits)
        again.load_state_dict(found.module.state_dict())
        assert torch.equal(again(digits()[2]), found.module(digits()[2]))


# Hard cases


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "gelu", "relu", "elu", "softplus"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("count", [3, 60])
def test_dead_saturated_and_few_stay_finite(activation: str, scale: float, count: int) -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(6, 12), ACTIVATIONS[activation](), nn.Linear(12, 2))
    with torch.no_grad():
        module[0].weight.mul_(scale)
        module[0].weight[3:6] = 0
        module[0].bias[3:6] = -30
    for where, at in (("after", "0"), ("before", "2")):
        found = insert(module, at, torch.randn(count, 6), where)  # type: ignore[arg-type]
        assert torch.isfinite(torch.tensor(found.error))
        assert all(torch.isfinite(value).all() for value in found.module.parameters())


def convolutional(activation: str = "tanh", groups: int = 1) -> nn.Module:
    torch.manual_seed(4)
    layers = [nn.Conv2d(1, 8, 3, padding=1, stride=2), ACTIVATIONS[activation]()]
    return nn.Sequential(
        *layers, nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False), nn.Flatten(), nn.Linear(128, 3)
    )


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_convolutions(activation: str) -> None:
    module, images = convolutional(activation), torch.randn(40, 1, 8, 8)
    found = insert(module, "0", images)
    assert found.identity_error is not None and found.error <= max(0.6 * found.identity_error, 1e-6)
    for groups in (1, 4):
        module = convolutional(activation, groups)
        before = insert(module, "2", images, "before")
        assert before.error < 0.2
        again = apply_edits(convolutional(activation, groups), before.edits)
        again.load_state_dict(before.module.state_dict())


def test_a_known_kernel_is_recovered() -> None:
    """Behind an identity, solving the old layer anew gives its own kernel back, without any pull towards it."""
    module, images = convolutional("relu").double(), torch.randn(60, 1, 8, 8, dtype=torch.float64)
    found = insert(module, "2", images, "before", DilsOptions(ridge=0.0, towards_identity=False))
    torch.testing.assert_close(found.module[4].weight, module[2].weight, rtol=1e-6, atol=1e-8)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "at"), [("test_vit", "blocks.1.mlp.fc1"), ("test_convnext", "stages.1.blocks.0.mlp.fc1")]
)
def test_blocks_of_timm(name: str, at: str) -> None:
    torch.manual_seed(5)
    module = timm.create_model(name).eval()
    images = torch.randn(6, 3, 160, 160)
    found = insert(module, at, images)
    assert found.identity_error is not None and found.error < 0.6 * found.identity_error
    other = insert(module, at.replace("fc1", "fc2"), images, "before")
    assert other.error < 0.2
    for one in (found, other):
        again = apply_edits(timm.create_model(name), one.edits)
        again.load_state_dict(one.module.state_dict())
        assert relative_difference(outputs_of(module, images), outputs_of(one.module, images)) < 0.2


# The outer loop


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))
    train(module, held_back(load_task("digits")), TrainingSettings(epochs=8, threads=1))
    return module


def test_the_loop_deepens_and_keeps_the_best(trained: nn.Module) -> None:
    settings = TrainingSettings(epochs=3, threads=1)
    positions = ["1", {"at": "3", "where": "before"}]
    found = deepen_stepwise(trained, positions, load_task("digits"), settings)
    history = found.history
    assert [step["kept"] for step in history["steps"]] == [True, True]
    for step in history["steps"]:
        best = max([step["accuracy_inherited"], *(epoch["test_accuracy"] for epoch in step["epochs"])])
        assert step["accuracy"] == best
        assert step["accuracy_before"] - step["accuracy_inherited"] <= 0.02
    assert "reconstructed from the abstract" in history["method"]
    assert history["test"] == evaluate(found.module, load_task("digits").test)
    assert sum(isinstance(part, nn.Linear) for part in found.module) == 4
    base = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))
    apply_edits(base, found.edits).load_state_dict(found.module.state_dict())


def test_the_loop_ends_by_its_rules(trained: nn.Module) -> None:
    settings, task = TrainingSettings(epochs=1, threads=1), load_task("digits")
    once = deepen_stepwise(trained, ["1", "1", "1"], task, settings, StepwiseOptions(most=1))
    assert len(once.history["steps"]) == 1
    reached = deepen_stepwise(trained, ["1", "1"], task, settings, StepwiseOptions(target=0.5))
    assert reached.history["stopped"] == "the target is reached"
    little = deepen_stepwise(trained, ["1", "1"], task, settings, StepwiseOptions(least_gain=0.9))
    assert little.history["stopped"] == "the last insertion gained too little"
    options = StepwiseOptions(insertion=IDENTITY, most_lost=-1.0)
    assert deepen_stepwise(trained, ["1"], task, settings, options).edits == []


def test_the_smallest_error_comes_first(trained: nn.Module) -> None:
    positions = ["1", {"at": "3", "where": "before"}]
    options = StepwiseOptions(policy="smallest_error")
    found = deepen_stepwise(trained, positions, load_task("digits"), TrainingSettings(epochs=1, threads=1), options)
    assert [step["at"] for step in found.history["steps"]] == ["3", "1"]


def test_epoch_zero_can_be_the_best(trained: nn.Module) -> None:
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    best, epoch, _ = train_keeping_best(
        trained, held_back(load_task("digits")), TrainingSettings(epochs=2, lr=5.0, threads=1)
    )
    assert epoch == 0 and best > 0.5
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())


# Bad input


@pytest.mark.parametrize(
    ("at", "options", "expected"),
    [
        ("9", {}, "nearest"),
        ("2", {}, "output layer"),
        ("1", {"where": "beside"}, "after"),
        ("1", {"where": "before"}, "linear layer or a convolution"),
        ("0", {"options": DilsOptions(ridge=-1)}, "ridge"),
        ("0", {"options": DilsOptions(lift=-1)}, "lift"),
        ("0", {"options": DilsOptions(method="magic")}, "analytic"),  # type: ignore[arg-type]
        ("2", {"where": "before", "activation": "exp"}, "activation"),
        ("0", {"activation": "exp"}, "activation"),
        ("2", {"activation": "tanh"}, "output layer"),
    ],
)
def test_bad_input(at: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        insert(shallow("tanh", 0), at, digits()[0][:20], **options)


def test_a_layer_without_an_activation_is_refused() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    with pytest.raises(InputError, match="no activation comes right behind 0"):
        insert(module, "0", torch.randn(20, 6))


def test_images_that_cannot_be_used() -> None:
    module = shallow("tanh", 0)
    for images in (torch.zeros(0, 64), torch.zeros(3, 64, dtype=torch.uint8), torch.full((3, 64), torch.inf)):
        with pytest.raises(InputError, match="images"):
            insert(module, "0", images)
    with pytest.raises(InputError, match="does not take"):
        insert(module, "2", torch.randn(3, 7), "before", activation="tanh")


def test_a_layer_whose_weights_something_else_needs_is_not_solved_anew() -> None:
    layer, images = nn.Linear(6, 6), torch.randn(20, 6)
    twice = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(6, 2))
    with pytest.raises(InputError, match="run 2 times"):
        insert(twice, "0", images, "before")
    tied = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    tied[2].weight = tied[0].weight
    with pytest.raises(InputError, match="tied"):
        insert(tied, "2", images, "before")


def test_the_loop_refuses_positions_that_are_none(trained: nn.Module) -> None:
    task, settings = load_task("digits"), TrainingSettings(epochs=1)
    for positions, expected in (([], "no positions"), (["7"], "nearest"), ([{"where": "after"}], "position")):
        with pytest.raises(InputError, match=expected):
            deepen_stepwise(trained, positions, task, settings)  # type: ignore[arg-type]


def test_identity_errors_are_those_of_identity_layers() -> None:
    found, images = deeper("sigmoid", 0), digits()[0]
    hidden = shallow("sigmoid", 0)[:2](images).detach()  # type: ignore[index]
    expected = (mse_loss(hidden.sigmoid(), hidden) / hidden.square().mean()).sqrt()
    assert found.identity_error == pytest.approx(float(expected), rel=1e-4)

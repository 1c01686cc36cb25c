from __future__ import annotations

import copy
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from torch import Tensor, nn

from benchmarks.training import overhead_table
from kzoo import InputError
from kzoo.training.batches import augment, batch_ranges, plan_epoch, prepare, share
from kzoo.training.data import load_task
from kzoo.training.evaluation import evaluate
from kzoo.training.history import Evaluation, History
from kzoo.training.loop import train
from kzoo.training.settings import TrainingSettings, read_settings
from kzoo.training.tasks import Split, Task, make_task
from tests.training.networks import digits, few_digits, linear, made_up, network, same

ROOT = Path(__file__).parent.parent.parent


def settings(**values: Any) -> TrainingSettings:
    return read_settings({"threads": 1, **values})


@pytest.fixture(autouse=True)
def one_accelerator_per_test() -> None:
    """What other tests leave in accelerate's global state is not looked at here."""
    for state in (PartialState, AcceleratorState, GradientState):
        state._shared_state.clear()


# One step by hand


def by_hand(model: nn.Sequential, task: Task, smoothing: float = 0.0) -> tuple[float, Tensor, Tensor]:
    """Loss of a linear model on all training images, and its gradients, by the formula of softmax regression."""
    pixels = ((task.train.images.double() / 255 - 0.449) / 0.226).flatten(1)
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        outputs = pixels @ layer.weight.T + layer.bias
    chances = outputs.exp() / outputs.exp().sum(1, keepdim=True)
    classes = outputs.shape[1]
    wanted = torch.eye(classes, dtype=torch.float64)[task.train.labels] * (1 - smoothing) + smoothing / classes
    loss = -(wanted * chances.log()).sum(1).mean()
    error = (chances - wanted) / len(pixels)
    return loss.item(), error.T @ pixels, error.sum(0)


def weights(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    weight, bias = model.parameters()
    return weight.detach().clone(), bias.detach().clone()


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-12)


def test_a_step_of_sgd_is_the_formula() -> None:
    task, model = made_up(), linear()
    loss, slope, slope_bias = by_hand(model, task, smoothing=0.1)
    weight, bias = weights(model)
    history = train(
        model, task, settings(epochs=1, optimizer="sgd", lr=0.5, weight_decay=0.01, label_smoothing=0.1, momentum=0)
    )
    assert history.epochs[0].loss == pytest.approx(loss, abs=1e-12)
    after, after_bias = weights(model)
    assert close(after, weight - 0.5 * (slope + 0.01 * weight))
    assert close(after_bias, bias - 0.5 * (slope_bias + 0.01 * bias))
    assert history.epochs[0].lr == {"all": 0.5}
    assert (history.epochs[0].step, history.epochs[0].epoch, len(history.timings)) == (1, 1, 1)


def test_momentum_and_a_falling_rate() -> None:
    task, model = made_up(), linear()
    start = copy.deepcopy(model)
    _, first, _ = by_hand(model, task)
    history = train(start, task, settings(epochs=1, optimizer="sgd", lr=0.1))
    _, second, _ = by_hand(start, task)
    history = train(model, task, settings(epochs=2, optimizer="sgd", lr=0.1, schedule="cosine"))
    # The second of two steps has half of the rate; momentum is 0.9.
    assert close(weights(model)[0], weights(start)[0] - 0.05 * (0.9 * first + second))
    assert [epoch.lr["all"] for epoch in history.epochs] == pytest.approx([0.1, 0.05])


def test_long_gradients_are_cut() -> None:
    task, model = made_up(), linear()
    _, slope, slope_bias = by_hand(model, task)
    weight, bias = weights(model)
    norm = (slope.square().sum() + slope_bias.square().sum()).sqrt()
    assert norm > 1
    train(model, task, settings(epochs=1, optimizer="sgd", lr=1, momentum=0, clip_norm=0.25))
    assert torch.allclose(weights(model)[0], weight - slope / norm / 4, atol=1e-6)
    assert torch.allclose(weights(model)[1], bias - slope_bias / norm / 4, atol=1e-6)


def test_adam_moves_by_its_rate() -> None:
    for optimizer, decay in (("adam", 0.0), ("adamw", 0.5)):
        task, model = made_up(), linear()
        _, slope, _ = by_hand(model, task)
        weight, _ = weights(model)
        train(model, task, settings(epochs=1, optimizer=optimizer, lr=0.01, weight_decay=decay))
        # Adam's first step is the rate, in the direction of the gradient; AdamW shrinks the weights besides.
        expected = weight * (1 - 0.01 * decay) - 0.01 * slope / (slope.abs() + 1e-8)
        assert close(weights(model)[0], expected)


# Groups of parameters


def test_groups_have_their_own_rates() -> None:
    task, model = made_up(), linear()
    _, slope, slope_bias = by_hand(model, task)
    weight, bias = weights(model)
    groups = [{"name": "transferred", "params": [model[1].weight]}, {"name": "random", "params": model[1].bias}]
    wanted = settings(epochs=1, optimizer="sgd", lr=0.1, random_lr=0.7, momentum=0)
    history = train(model, task, wanted, groups=groups)
    assert history.epochs[0].lr == {"transferred": 0.1, "random": 0.7}
    assert close(weights(model)[0], weight - 0.1 * slope) and close(weights(model)[1], bias - 0.7 * slope_bias)


def test_a_group_may_have_settings_of_its_own() -> None:
    task, model = made_up(), linear()
    weight, bias = weights(model)
    groups = [{"params": [model[1].weight], "lr": 0.0}, {"name": "random", "params": [model[1].bias], "lr": 0.0}]
    history = train(model, task, settings(epochs=1, random_lr=0.1), groups=groups)
    assert history.epochs[0].lr == {"group 1": 0.0, "random": 0.0}
    assert torch.equal(weights(model)[0], weight) and torch.equal(weights(model)[1], bias)


def test_groups_that_do_not_fit() -> None:
    task, model = made_up(), linear()
    weight, bias = model.parameters()
    for groups, extra, words in (
        ([{"params": [weight]}], {}, "parameter 1.bias is in no group: add it"),
        ([{"params": [weight, bias, weight]}], {}, "a parameter is twice in the groups"),
        ([{"params": [weight, bias, nn.Parameter(bias.clone())]}], {}, "a parameter that is not the network's"),
        ([{"params": {weight, bias}}], {}, "has no list of params"),
        ([{"name": "all"}], {}, "has no list of params"),
        (
            [{"name": "a", "params": weight}, {"name": "a", "params": bias}],
            {},
            "two groups of parameters have one name",
        ),
        (None, {"random_lr": 0.1}, "random_lr is for a group of parameters named 'random', of all: add or unset it"),
    ):
        with pytest.raises(InputError, match=words):
            train(model, task, settings(**extra), groups=groups)  # type: ignore[arg-type]
    for value in model.parameters():
        value.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"):
        train(model, task, settings())


def test_what_requires_no_gradient_stays() -> None:
    model = linear()
    model[1].bias.requires_grad_(False)
    weight, bias = weights(model)
    train(model, made_up(), settings(epochs=1))
    assert torch.equal(weights(model)[1], bias) and not torch.equal(weights(model)[0], weight)


# Whole trainings


def test_it_learns_and_is_the_same_twice() -> None:
    wanted = settings(epochs=6, augment="shift", evaluate_every=10)
    one, two = network(), network()
    first, second = train(one, digits(), wanted), train(two, digits(), wanted)
    assert first.to_dict(timings=False) == second.to_dict(timings=False)
    assert json.dumps(first.to_dict(timings=False)) == json.dumps(second.to_dict(timings=False))
    assert same(one, two) and not one.training
    assert first.final is not None and first.final.test_accuracy > 0.85
    assert first.epochs[-1].loss < 0.6 * first.epochs[0].loss
    assert first.epochs[-1].test_accuracy == evaluate(one, digits().test)["accuracy"]
    # 22 steps per epoch: tests before the first step, after every ten, and after each epoch.
    assert [found.step for found in first.evaluations][:6] == [0, 10, 20, 22, 30, 40]
    assert first.evaluations[0].test_accuracy < 0.3
    assert first.diverged is None and all(timing.images_per_second > 0 for timing in first.timings)
    other = train(network(), digits(), wanted.model_copy(update={"seed": 1}))
    assert [epoch.loss for epoch in other.epochs] != [epoch.loss for epoch in first.epochs]


def test_tests_between_epochs_change_nothing() -> None:
    one, two = network(), network()
    train(one, few_digits(), settings(epochs=2))
    train(two, few_digits(), settings(epochs=2, evaluate_every=1))
    assert same(one, two)


def test_the_order_of_images_is_that_of_seed_and_epoch() -> None:
    wanted = settings(augment="shift_flip", seed=3)
    plans = [plan_epoch(50, 16, wanted, epoch) for epoch in (1, 2, 1)]
    assert sorted(plans[0].order.tolist()) == list(range(50))
    assert torch.equal(plans[0].order, plans[2].order) and not torch.equal(plans[0].order, plans[1].order)
    assert plans[0].down is not None and set(plans[0].down.tolist()) == {-2, -1, 0, 1, 2}
    # Raw words never change from one version of numpy to another.
    assert plan_epoch(8, 8, settings(), 1).order.tolist() == [3, 6, 1, 5, 4, 7, 0, 2]


def test_steps_end_a_training_within_an_epoch() -> None:
    told: list[tuple[str, float]] = []
    model = network()
    wanted = settings(epochs=5, steps=6, batch_size=50)
    history = train(model, few_digits(), wanted, progress=lambda what, done: told.append((what, done)))
    assert [(epoch.epoch, epoch.step) for epoch in history.epochs] == [(1, 4), (2, 6)]
    assert told[-1] == ("training", 1.0) and all(what == "training" for what, _ in told)
    assert [done for _, done in told] == sorted(done for _, done in told)


@pytest.mark.parametrize("where", ["loss", "test"])
def test_a_training_that_diverges_says_where(where: str, tmp_path: Path) -> None:
    class Faulty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.seen = linear(), 0

        def forward(self, images: Tensor) -> Tensor:
            self.seen += self.training
            bad = self.training and self.seen >= 7 if where == "loss" else self.seen >= 8 and not self.training
            found: Tensor = self.inner(images) * (float("nan") if bad else 1)
            return found

    task = made_up(train=30)
    wanted = settings(epochs=4, batch_size=6, evaluate_every=4)
    history = train(Faulty(), task, wanted, checkpoint=tmp_path)
    assert history.diverged == (7 if where == "loss" else 8)
    assert [epoch.step for epoch in history.epochs] == [5]
    assert [found.step for found in history.evaluations] == [0, 4, 5]
    assert train(Faulty(), task, wanted, checkpoint=tmp_path) == history


def test_a_rate_far_too_high_diverges() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    history = train(model, few_digits(), settings(epochs=40, optimizer="sgd", lr=100))
    assert history.diverged is not None and 1 < history.diverged < 160


# Precision


def test_bf16_trains_and_leaves_the_network_as_it_was() -> None:
    one, two = network(), network()
    before = set(one.__dict__)
    history = train(one, few_digits(), settings(epochs=2, precision="bf16"))
    exact = train(two, few_digits(), settings(epochs=2))
    assert history.epochs[1].loss != exact.epochs[1].loss
    assert history.epochs[1].loss == pytest.approx(exact.epochs[1].loss, rel=0.05)
    assert set(one.__dict__) == before and {value.dtype for value in one.parameters()} == {torch.float32}
    one.eval()
    assert one(prepare(few_digits().test.images)).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has fp16")
def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="precision='fp16' needs a GPU, not cpu: use bf16"):
        train(network(), few_digits(), settings(precision="fp16"))


# What is around


def global_state() -> list[Any]:
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index] # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        [dict(state._shared_state) for state in (PartialState, AcceleratorState, GradientState)],
    ]


def test_nothing_global_changes() -> None:
    theirs, wrong = Accelerator(mixed_precision="bf16"), linear()
    fine = network()
    before = global_state()
    train(fine, few_digits(), settings(epochs=1, threads=3))
    assert global_state() == before
    with pytest.raises(InputError, match=r"the network's outputs have the shape \(64, 3\), but digits has 10 classes"):
        train(wrong, few_digits(), settings(epochs=1))
    assert global_state() == before
    assert theirs.mixed_precision == "bf16"


def test_an_operation_without_a_deterministic_form() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.unpool = linear(10), nn.MaxUnpool2d(2)

        def forward(self, images: Tensor) -> Tensor:
            small, places = nn.functional.max_pool2d(images, 2, return_indices=True)
            found: Tensor = self.inner(self.unpool(small, places))
            return found

    with pytest.raises(InputError, match=r"does not have a deterministic .* training setting deterministic=false"):
        train(Odd(), few_digits(), settings(epochs=1))
    assert train(Odd(), few_digits(), settings(epochs=1, deterministic=False)).diverged is None


# Images


def test_prepared_images() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert prepare(images, torch.float64).flatten().tolist() == pytest.approx(expected, abs=1e-14)
    assert prepare(images).flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert prepare(images[:, :1]).item() == pytest.approx(-0.449 / 0.226)
    for wrong in (images.float(), images[0], images[:, :2]):
        with pytest.raises(InputError, match=r"cannot be prepared: expected uint8, N x C x H x W"):
            prepare(wrong)


def test_each_image_is_shifted_and_mirrored_in_its_own_way() -> None:
    images = torch.arange(40 * 2 * 64).view(40, 2, 8, 8).remainder(251).to(torch.uint8)
    plan = plan_epoch(50, 8, settings(augment="shift_flip"), 1)
    assert plan.down is not None and plan.right is not None and plan.mirrored is not None
    found = augment(images, plan, range(10, 50))
    for number, image in enumerate(images.numpy()):
        place = 10 + number
        rows = np.clip(np.arange(8) - plan.down[place].item(), 0, 7)
        columns = np.clip(np.arange(8) - plan.right[place].item(), 0, 7)
        expected = image[:, rows][:, :, columns]
        if plan.mirrored[place]:
            expected = expected[:, :, ::-1]
        assert np.array_equal(found[number].numpy(), expected)
    assert 15 < plan.mirrored.sum() < 35
    assert augment(images, plan_epoch(50, 8, settings(), 1), range(10, 50)) is images


def test_batches_and_their_parts() -> None:
    assert [len(places) for places in batch_ranges(20, 8)] == [8, 8, 4]
    # One image is too few for batch normalisation; with two processes, three are.
    assert [len(places) for places in batch_ranges(17, 8)] == [8, 8]
    assert [len(places) for places in batch_ranges(19, 8, 2)] == [8, 8]
    assert [share(range(8, 15), part, 3) for part in range(3)] == [range(8, 10), range(10, 12), range(12, 15)]
    with pytest.raises(InputError, match="3 training images in batches of 8 give 2 processes nothing to train on"):
        batch_ranges(3, 8, 2)


def picture_task(root: Path) -> Task:
    generator = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return load_task(f"imagefolder:{root}", size=8)


def test_images_in_files_are_read_by_processes(tmp_path: Path) -> None:
    files = picture_task(tmp_path)
    memory = make_task("it", files.classes, *(Split(part.images[:], part.labels) for part in (files.train, files.test)))
    histories, networks = [], []
    for task, workers in ((memory, 0), (files, 0), (files, 2)):
        torch.manual_seed(0)
        networks.append(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 2)))
        wanted = settings(epochs=2, batch_size=8, workers=workers, evaluate_every=2)
        histories.append(train(networks[-1], task, wanted).to_dict(timings=False))
    assert histories[0] == histories[1] == histories[2]
    assert same(networks[0], networks[1]) and same(networks[0], networks[2])
    next((tmp_path / "train" / "a").glob("*.png")).unlink()
    with pytest.raises(InputError, match=r"\.png is missing: put it back") as caught:
        train(networks[0], files, wanted)
    assert "\n" not in str(caught.value)


# Histories


def test_the_history_answers() -> None:
    history = History()
    assert (history.best, history.final, history.steps_to(0.0)) == (None, None, None)
    for step, accuracy in ((0, 0.1), (10, 0.6), (20, 0.8), (30, 0.5), (40, 0.8)):
        history.evaluations.append(Evaluation(step=step, test_loss=1.0, test_accuracy=accuracy))
    assert [history.steps_to(accuracy) for accuracy in (0.0, 0.1, 0.11, 0.7, 0.8, 0.81)] == [0, 0, 10, 20, 20, None]
    assert history.best is not None and history.best.step == 20
    assert history.final is not None and history.final.step == 40


def test_a_history_is_plain_data() -> None:
    history = train(network(), few_digits(), settings(epochs=2))
    plain = json.loads(json.dumps(history.to_dict()))
    assert History.from_dict(plain) == history
    assert set(plain) == {"epochs", "evaluations", "diverged", "timings"} and "timings" not in history.to_dict(False)
    assert set(plain["epochs"][0]) == {"epoch", "step", "loss", "accuracy", "test_loss", "test_accuracy", "lr"}
    assert History.from_dict(history.to_dict(timings=False)).timings == []
    for wrong in ({"epochs": 3}, {"eras": []}, {"evaluations": [{"step": 1}]}):
        with pytest.raises(InputError, match="this is no history of a training"):
            History.from_dict(wrong)


def test_a_task_without_test_images() -> None:
    task = made_up()
    empty = Task(**{**task.__dict__, "test": Split(task.test.images[:0], task.test.labels[:0])})
    with pytest.raises(InputError, match="made up has no test images"):
        train(linear(), empty, settings())


# Several processes


PARALLEL = """
import json, os, sys
from pathlib import Path
from kzoo.training.loop import train
from kzoo.training.settings import read_settings
from tests.training.networks import linear, made_up

model = linear()
history = train(model, made_up(train=35, test=7), read_settings(json.loads(sys.argv[1])), checkpoint=Path(sys.argv[2]))
found = [history.to_dict(False), model[1].weight.tolist()]
Path(sys.argv[2], os.environ["RANK"]).write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # Batches of 9 in shares of 4 and 5, and a rest of 8; tests on 4 and 3 images.
    values = {"epochs": 3, "batch_size": 9, "lr": 0.01, "evaluate_every": 2, "augment": "shift", "threads": 1}
    model = linear()
    history = train(model, made_up(train=35, test=7), read_settings(values))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command = [sys.executable, *launch, sys.executable, "-c", PARALLEL, json.dumps(values), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=True)
    one, two = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert one == two
    # Sums in another order, of float64.
    assert torch.allclose(torch.tensor(one[1], dtype=torch.float64), model[1].weight.detach(), rtol=0, atol=1e-12)
    for theirs, ours in zip(one[0]["evaluations"], history.to_dict()["evaluations"], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-12)
    for theirs, ours in zip(one[0]["epochs"], history.to_dict()["epochs"], strict=True):
        assert theirs.pop("lr") == ours.pop("lr") == {"all": 0.01}
        assert theirs == pytest.approx(ours, abs=1e-12)


# The document


def test_the_document_tells_every_setting_and_measurement() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, re.MULTILINE))
    for name, field in TrainingSettings.model_fields.items():
        shown = {None: "none", True: "true"}.get(field.default, str(field.default))
        assert rows[name].strip("`") in (shown, shown.removesuffix(".0")), name
    measured = json.loads((ROOT / "benchmarks" / "results" / "training.json").read_text())
    table = overhead_table(measured)
    assert table in page, f"put this table into docs/training.md:\n{table}"
    assert all(case["overhead_of_kzoo"]["median"] <= 0.05 for case in measured["networks"].values())
    assert measured["call_of_one_step_ms"]["median"] < 50

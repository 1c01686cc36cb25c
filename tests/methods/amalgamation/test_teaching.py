"""Teaching a student: arms, labels, what is kept of teachers' answers, and resuming."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kzoo.training.loop
from kzoo import InputError
from kzoo.methods.amalgamation.evaluation import answers, comparison
from kzoo.methods.amalgamation.parameters import CflParameters, KdParameters
from kzoo.methods.amalgamation.teaching import Taught, teach
from kzoo.training.batches import prepare
from kzoo.training.objectives import Unlabelled
from kzoo.training.settings import TrainingSettings
from tests.amalgamation import digits, network, teachers

CLASSES = "0123456789"


def taught(parameters: KdParameters, student: str = "small:resnet-1x8", **choices: Any) -> tuple[nn.Module, Taught]:
    """A student of two teachers, after two short epochs unless ``settings`` say otherwise."""
    values = {"epochs": 2, "lr": 3e-3, "batch_size": 64, "threads": 1} | choices.pop("settings", {})
    panel = choices.pop("teachers", None) or teachers()
    module = network(student, len(CLASSES), seed=3)
    images = Unlabelled(digits().train.images[: choices.pop("images", 192)])
    choices = {"classes": CLASSES, "test": digits().test} | choices
    return module, teach(module, panel, images, parameters, TrainingSettings(**values), **choices)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_arms_differ_where_they_should_and_the_student_has_nothing_new() -> None:
    plain, kd = taught(KdParameters())
    rebuilt, reconstruction = taught(CflParameters(parts="reconstruction"))
    compared, mmd = taught(CflParameters(parts="mmd"))
    full, both = taught(CflParameters())
    # Rebuilding the teachers' features says nothing to the student.
    assert same(plain, rebuilt)
    assert not same(plain, compared) and not same(compared, full)
    assert kd.beside == 0 < reconstruction.beside and both.beside > mmd.beside
    fresh = network("small:resnet-1x8", 10).state_dict()
    for module in (plain, full):
        assert {name: tensor.shape for name, tensor in module.state_dict().items()} == {
            name: tensor.shape for name, tensor in fresh.items()
        }
        assert not any(part._forward_hooks for part in module.modules())
    losses = [epoch.loss for epoch in both.history.epochs]
    assert losses[1] < losses[0] and losses[0] > kd.history.epochs[0].loss


def test_the_feed_of_a_training_has_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [field.name for field in dataclasses.fields(Unlabelled)] == ["images"]
    seen: list[Any] = []
    go = kzoo.training.loop._Run.go

    def noted(run: Any) -> None:
        seen.append(run.train_feed)
        go(run)

    monkeypatch.setattr(kzoo.training.loop._Run, "go", noted)
    taught(KdParameters(), settings={"epochs": 1})
    (feed,) = seen
    images, numbers = next(feed.batches([torch.tensor([4, 1])]))
    assert torch.equal(images, digits().train.images[[4, 1]]) and numbers.tolist() == [4, 1]
    labels = digits().train.labels
    held = [value for part in (feed, feed._images) for value in vars(part).values() if isinstance(value, Tensor)]
    assert held and not any(value.shape == labels.shape for value in held)


@pytest.mark.parametrize("parameters", [KdParameters(), CflParameters(calibrate="scale")])
def test_kept_answers_change_no_byte_and_are_asked_for_once(
    parameters: KdParameters, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kzoo.methods.amalgamation.panel import Panel

    asked: list[int] = []
    ask = Panel.answers
    monkeypatch.setattr(Panel, "answers", lambda *rest: asked.append(len(rest[1])) or ask(*rest))
    kept, _ = taught(parameters, settings={"epochs": 3}, checkpoint=tmp_path / "checkpoint")
    assert sum(asked) == 192
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "checkpoint").iterdir()) == [
        "checkpoint", "checkpoint.json",
    ]  # fmt: skip
    anew, _ = taught(parameters.model_copy(update={"cache": 0.0}), settings={"epochs": 3})
    assert sum(asked) == 4 * 192
    assert same(kept, anew)
    # A teacher answers to what the student sees: moved images are others.
    taught(parameters, settings={"augment": "shift"})
    assert sum(asked) == 6 * 192


def test_an_interrupted_teaching_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # However short an epoch is, its state is kept.
    monkeypatch.setattr(kzoo.training.loop, "_WORTH_KEEPING", 0)
    whole, history = taught(CflParameters(), settings={"epochs": 3})
    train_epoch = kzoo.training.loop._Run._train_epoch

    def interrupted(run: Any) -> None:
        if run.epoch == 3:
            raise KeyboardInterrupt
        train_epoch(run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kzoo.training.loop._Run, "_train_epoch", interrupted)
        taught(CflParameters(), settings={"epochs": 3}, checkpoint=tmp_path, key="k")
    epochs: list[int] = []
    monkeypatch.setattr(
        kzoo.training.loop._Run, "_train_epoch", lambda run: epochs.append(run.epoch) or train_epoch(run)
    )
    resumed, again = taught(CflParameters(), settings={"epochs": 3}, checkpoint=tmp_path, key="k")
    assert epochs == [3]
    assert same(whole, resumed)
    assert history.history.to_dict(timings=False) == again.history.to_dict(timings=False)


def test_without_test_images_accuracy_is_agreement_with_the_teachers() -> None:
    module, found = taught(KdParameters(), images=400, classes=None, test=None, settings={"epochs": 8, "lr": 5e-3})
    assert found.panel.classes == tuple(CLASSES)
    agreed = found.history.epochs[-1].test_accuracy
    told = answers(module, found.panel, digits().train)
    sides = found.panel.targets(told.teachers, 1.0).argmax(1)
    assert agreed == pytest.approx(float((told.student.argmax(1) == sides).double().mean()), abs=1e-9)
    assert agreed > 0.8


def test_a_student_of_three_teachers_that_share_classes_learns_what_they_know() -> None:
    three = teachers(3)
    module, found = taught(CflParameters(), teachers=three, images=400, settings={"epochs": 8, "lr": 5e-3})
    told = comparison(found.panel, answers(module, found.panel, digits().test))
    assert told["joint"] == found.history.epochs[-1].test_accuracy
    assert [(one["classes"], one["images"]) for one in told["tasks"]] == [(5, 100), (5, 100), (4, 80)]
    assert told["joint"] > 0.6 and told["joint"] > told["concatenated"]["probability"] - 0.1
    assert all(one["own"] >= one["joint"] for one in told["tasks"])
    assert told["oracle"] == pytest.approx((told["tasks"][0]["teacher_own"] + told["tasks"][1]["teacher_own"]) / 2)


def test_the_comparison_by_hand() -> None:
    panel = taught(KdParameters(), settings={"epochs": 1, "steps": 1})[1].panel
    from kzoo.methods.amalgamation.evaluation import Answers

    student = torch.zeros(4, 10)
    # Labels 0, 1, 5 and 9; the student says 0, 7, 5 and 2, and among a teacher's classes 0, 1, 5 and 5.
    for row, scores in enumerate(({0: 3.0}, {7: 3.0, 1: 1.0}, {5: 2.0}, {2: 4.0, 5: 1.0})):
        for place, score in scores.items():
            student[row, place] = score
    one = torch.eye(5)[[0, 2, 0, 0]] * torch.tensor([[1.0], [1.0], [9.0], [1.0]])
    two = torch.eye(5)[[0, 0, 0, 4]] * torch.tensor([[0.5], [0.5], [3.0], [2.0]])
    told = comparison(panel, Answers(student, [one, two], torch.tensor([0, 1, 5, 9])))
    assert told["joint"] == 0.5
    assert [(task["images"], task["joint"], task["own"], task["teacher_own"]) for task in told["tasks"]] == [
        (2, 0.5, 1.0, 0.5), (2, 0.5, 0.5, 1.0),
    ]  # fmt: skip
    assert told["oracle"] == 0.75
    # Side by side the first is surer of the third image; of the fourth the second.
    assert told["concatenated"] == {"probability": 0.5, "logit": 0.5}


def test_the_official_preset_teaches_too_with_a_rate_for_the_classifier() -> None:
    _, found = taught(CflParameters(preset="official", aligned=16, common=8), settings={"epochs": 1})
    assert set(found.history.epochs[0].lr) == {"student", "head", "beside"}
    rates = found.history.epochs[0].lr
    assert (rates["head"], rates["beside"]) == pytest.approx((10 * rates["student"], 5 * rates["student"]))
    assert found.history.diverged is None


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"teachers": "one"}, "there is 1 teacher: amalgamation takes two or more"),
        ({"classes": "01234567"}, "the class '8' is one that the student is not to have"),
        ({"classes": "0123456789x"}, "the class 'x' is one that no teacher knows"),
        ({"student": "small:mlp-1x16", "outputs": 7}, "the student has 7 outputs, and the teachers know 10 classes"),
    ],
)
def test_what_does_not_fit_is_said(choices: dict[str, Any], message: str) -> None:
    panel = teachers()[: 1 if choices.pop("teachers", None) else 2]
    module = network(choices.pop("student", "small:mlp-1x16"), choices.pop("outputs", 10))
    settings = TrainingSettings(epochs=1)
    choices = {"classes": CLASSES, "test": digits().test} | choices
    with pytest.raises(InputError, match=message):
        teach(module, panel, Unlabelled(digits().train.images), KdParameters(), settings, **choices)


def test_a_teacher_that_breaks_on_some_image_is_named() -> None:
    panel = teachers()
    ask = panel[1].module.forward
    dark = digits().train.images.flatten(1).float().mean(1).argmin()
    low = float(digits().train.images[dark].float().mean())

    def forward(images: Tensor) -> Tensor:
        found = ask(images)
        found[(images * 0.226 + 0.449).mean((1, 2, 3)) * 255 < low + 1e-3] = float("nan")
        return found

    panel[1].module.forward = forward  # type: ignore[method-assign]
    panel[1] = dataclasses.replace(panel[1], tap=dataclasses.replace(panel[1].tap, layer="norm"))
    with pytest.raises(InputError, match="the teacher small:vit-2x32 gives features or logits that are not finite"):
        taught(KdParameters(), teachers=panel)


# Several processes

PARALLEL = """
import os, sys
from pathlib import Path
from kzoo.methods.amalgamation.parameters import CflParameters, KdParameters
from kzoo.training.evaluation import evaluate
from tests.amalgamation import digits
from tests.methods.amalgamation.test_teaching import taught

for parameters in (KdParameters(), CflParameters()):
    student, found = taught(parameters)
    sums = [float(value.double().sum()) for value in student.parameters()]
    Path(sys.argv[1], os.environ["RANK"]).open("a").write(f"{sums} {found.history.to_dict(timings=False)}\\n")
"""


@pytest.mark.slow
def test_two_processes_teach_one_student(tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command = [sys.executable, *launch, sys.executable, "-c", PARALLEL, str(tmp_path)]
    root = Path(__file__).parent.parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, cwd=root, env=environment, timeout=180, check=True)
    one, two = ((tmp_path / rank).read_text() for rank in "01")
    assert one == two and one.count("\n") == 2


def test_float_images_are_taken_as_they_are() -> None:
    """As the docstring says, floats are ready for the student; the same values give the same student."""
    values = TrainingSettings(epochs=1, lr=3e-3, batch_size=64, threads=1)
    found = []
    for images in (digits().train.images[:128], prepare(digits().train.images[:128])):
        student = network("small:resnet-1x8", len(CLASSES), seed=3)
        told = teach(student, teachers(), Unlabelled(images), CflParameters(), values, classes=CLASSES)
        assert told.history.epochs[-1].test_accuracy is not None
        found.append(student)
    theirs = found[1].state_dict()
    assert all(
        torch.allclose(tensor.float(), theirs[name].float(), atol=1e-4)
        for name, tensor in found[0].state_dict().items()
    )


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10)), "the student does not take images of 1x16x16"),
        (network("small:resnet-1x8", 10).double(), "the student computes with torch.float64: give it in float32"),
        (network("small:resnet-1x8", 10).bfloat16(), "the student computes with torch.bfloat16"),
    ],
)
def test_a_student_that_cannot_learn_so_is_refused(student: nn.Module, message: str) -> None:
    images = Unlabelled(digits().train.images[:64])
    with pytest.raises(InputError, match=message):
        teach(student, teachers(), images, CflParameters(), TrainingSettings(epochs=1), classes=CLASSES)


@pytest.mark.parametrize("setting", [{"label_smoothing": 0.1}, {"random_lr": 0.1}])
def test_settings_that_are_for_labels_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(setting))} has no meaning where a student learns"):
        taught(KdParameters(), settings={"epochs": 1, **setting})

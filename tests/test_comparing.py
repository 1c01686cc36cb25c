"""A fused network beside its parents, their ensembles, their start, RegMean and joint training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import kzoo
from kzoo.hashing import weights_sha256
from kzoo.methods.fusion.inputs import input_grams, regmean
from kzoo.methods.fusion.states import module_roles
from kzoo.recipe import read_recipe
from kzoo.training.batches import prepare
from kzoo.training.data import load_task
from kzoo.training.loop import train
from kzoo.training.tasks import restricted

CLASSES = tuple(str(number) for number in range(10))
IMAGES = {"task": "digits", "train": 300, "test": 200, "size": 16, "channels": 1}
TARGET = {"model": "small:mlp-1x32", "classes": 10, "in_chans": 1, "seed": 4}
TRAINING = {"epochs": 6, "lr": 0.01, "batch_size": 50, "seed": 1, "threads": 1}


def made(folder: Path, name: str, recipe: dict) -> None:
    """Run a recipe in a folder."""
    from kzoo.cli.main import run

    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch, torch.enable_grad():
        patch.setattr("sys.argv", ["kzoo", "run", str(folder / f"{name}.yaml"), "--out", str(folder / name)])
        assert run() == 0


@pytest.fixture(scope="module")
def parents(tmp_path_factory) -> Path:
    """A folder with a random start, and two networks that were trained from it on five classes each."""
    folder = tmp_path_factory.mktemp("parents")
    made(folder, "start", {"target": TARGET, "method": "random", "threads": 1})
    for name, own in (("low", CLASSES[:5]), ("high", CLASSES[5:])):
        data = {**IMAGES, "only": list(own)}
        made(folder, name, {"target": TARGET, "method": "random", "data": data, "training": TRAINING, "threads": 1})
    return folder


@pytest.fixture(scope="module")
def task():
    options = {name: value for name, value in IMAGES.items() if name != "task"}
    return load_task("digits", **options)


def recipe_of(parents: Path, **more) -> dict:
    """A recipe that fuses the two and compares."""

    def source(name: str, **own) -> dict:
        return {"path": name, "sha256": weights_sha256([parents / name / "model.safetensors"]), **own}

    seen = [{"images": {**IMAGES, "only": list(own)}} for own in (CLASSES[:5], CLASSES[5:])]
    recipe = {
        "sources": [source(name, **images) for name, images in zip(("low", "high"), seen, strict=True)],
        "start": source("start"),
        "target": TARGET,
        "method": "weight_sum",
        "data": IMAGES,
        "comparison": {"joint": {**TRAINING, "epochs": 2}},
        "threads": 1,
    }
    return {key: value for key, value in (recipe | more).items() if value is not None}


def hits(scores: torch.Tensor, task) -> int:
    """How many of the test images the scores are right about."""
    return int((scores.argmax(1) == task.test.labels).sum())


@torch.no_grad()
def test_every_row_is_what_the_networks_do_on_the_test_images(parents, tmp_path, task):
    made(parents, "fused", recipe_of(parents))
    found = json.loads((parents / "fused" / "metrics.json").read_text())["comparison"]
    images = prepare(task.test.images)
    low, high, start, fused = (kzoo.load(parents / name).eval() for name in ("low", "high", "start", "fused"))
    scores = [low(images), high(images)]
    grams = [
        input_grams(module, prepare(restricted(task, own).train.images))
        for module, own in ((low, CLASSES[:5]), (high, CLASSES[5:]))
    ]
    by_hand = kzoo.load(parents / "fused").eval()
    by_hand.load_state_dict(regmean([low.state_dict(), high.state_dict()], grams, roles=module_roles(low)))
    with torch.enable_grad():
        joint = kzoo.load(parents / "start")
        train(joint, task, read_recipe(parents / "fused" / "recipe.yaml").comparison.joint)
    expected = {
        "fused": hits(fused(images), task),
        "parent_1": hits(scores[0], task),
        "parent_2": hits(scores[1], task),
        "ensemble_probability": hits((scores[0].softmax(1) + scores[1].softmax(1)) / 2, task),
        "ensemble_logit": hits((scores[0] + scores[1]) / 2, task),
        "start": hits(start(images), task),
        "regmean": hits(by_hand(images), task),
        "joint": hits(joint(images), task),
    }
    rows = found["rows"]
    assert {name: rows[name]["correct"] for name in expected} == expected
    assert all(rows[name]["accuracy"] == pytest.approx(count / 200) for name, count in expected.items())
    assert rows["chance"] == {"accuracy": 0.1, "correct": None, "images": 200}
    assert (rows["parent_1"]["name"], rows["parent_2"]["name"], found["left_out"]) == ("low", "high", {})
    # The parents know half of the classes each; what is compared differs.
    assert max(expected["parent_1"], expected["parent_2"]) <= 100 < expected["regmean"]
    assert len(set(expected.values())) >= 6


def test_what_cannot_be_compared_is_left_out_with_the_reason(command, parents, tmp_path):
    arguments = ("fuse", parents / "low", parents / "high", "--evaluate", "digits", "--image-size", 16)
    code, said, notes = command(*arguments, "--out", tmp_path / "bare")
    assert code == 0, notes
    found = json.loads((tmp_path / "bare" / "metrics.json").read_text())["comparison"]
    assert list(found["rows"]) == [
        *("fused", "parent_1", "parent_2", "ensemble_probability", "ensemble_logit", "chance")
    ]
    assert {name: reason.rpartition("(")[2] for name, reason in found["left_out"].items()} == {
        "start": "--start)",
        "regmean": "--data)",
        "joint": "--joint-epochs)",
    }
    assert "parent 1 (low)" in said and "ensemble by probability" in said and "10.00%" in said


def test_the_command_tells_it_as_a_table_and_as_data_and_its_recipe_makes_it_again(command, parents, tmp_path):
    arguments = ("fuse", parents / "low", parents / "high", "--start", parents / "start", "--data", "digits")
    arguments += ("--image-size", 16, "--evaluate", "digits", "--joint-epochs", 1, "--json", "--out", tmp_path / "out")
    code, said, notes = command(*arguments)
    assert code == 0, notes
    told = json.loads(said)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["comparison"] == found["comparison"] and told["method"] == "weight_sum"
    assert found["comparison"]["rows"]["fused"]["accuracy"] == found["test"]["accuracy"]
    assert found["comparison"]["left_out"] == {}
    joint = read_recipe(tmp_path / "out" / "recipe.yaml").comparison.joint
    assert (joint.epochs, joint.lr, joint.batch_size, joint.optimizer) == (1, 0.001, 64, "adam")
    assert command("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again/metrics.json").read_bytes() == (tmp_path / "out/metrics.json").read_bytes()


@torch.no_grad()
def test_networks_with_classifiers_of_their_own_are_compared_over_all_classes(command, parents, tmp_path, task):
    for name, own in (("low-own", CLASSES[:5]), ("high-own", CLASSES[5:])):
        target = {**TARGET, "classes": 5}
        data = {**IMAGES, "classes": list(own)}
        made(tmp_path, name, {"target": target, "method": "random", "data": data, "training": TRAINING, "threads": 1})
    arguments = ("fuse", tmp_path / "low-own", tmp_path / "high-own", "--heads", "joined", "--classes", "0,1,2,3,4")
    arguments += ("--classes", "5,6,7,8,9", "--evaluate", "digits", "--image-size", 16, "--out", tmp_path / "out")
    code, _, notes = command(*arguments)
    assert code == 0, notes
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["comparison"]["rows"]
    whole = load_task("digits", size=16, channels=1)
    images = prepare(whole.test.images)
    scores = [kzoo.load(tmp_path / name).eval()(images) for name in ("low-own", "high-own")]
    assert rows["parent_2"]["correct"] == int((scores[1].argmax(1) + 5 == whole.test.labels).sum())
    both = torch.cat([one.softmax(1) for one in scores], 1)
    assert rows["ensemble_probability"]["correct"] == hits(both, whole)
    assert rows["ensemble_logit"]["correct"] == hits(torch.cat(scores, 1), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "comparison but no data"),
        ({"method": "random", "sources": [], "start": None}, "method random fuses nothing"),
        ({"data": {"task": "glyphs/upper", "test": 26, "train": 26, "size": 16}}, "has 26 classes"),
    ],
)
def test_a_comparison_of_nothing_is_refused(command, parents, tmp_path, change, message):
    (parents / "bad.yaml").write_text(yaml.safe_dump(recipe_of(parents, **change)))
    code, _, said = command("run", parents / "bad.yaml", "--out", tmp_path / "out")
    assert (code, said.count("Error: "), message in said, (tmp_path / "out").exists()) == (2, 1, True, False), said


def test_a_joint_training_without_images_to_compare_on_is_refused(command, parents, tmp_path):
    arguments = ("fuse", parents / "low", parents / "high", "--joint-epochs", 2, "--out", tmp_path / "out")
    code, _, said = command(*arguments)
    assert (code, "--evaluate TASK" in said) == (2, True), said

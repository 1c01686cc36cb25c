"""Many recipes at once: resumed, in several processes, and what happens when one fails."""

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kzoo.errors import InputError, WorldError
from kzoo.recipe import DataSection, Recipe, TargetSection, read_recipe
from kzoo.studies import work as work_module
from kzoo.studies.design import Run
from kzoo.studies.models import copy_model
from kzoo.studies.work import Unit, Work
from kzoo.training.settings import TrainingSettings

MODULE = "kzoo.studies.dpiat.trainings"


@pytest.fixture
def run(tmp_path):
    """A run of a study, whose words are kept."""

    def make(jobs=1):
        said = []
        made = Run(tmp_path, tmp_path / "out", "tiny", None, jobs, lambda _what, _done: None, said.append)
        return made, said

    return make


def unit(name, seed=0, keep=False, model="vgg-1x8", **training):
    settings = TrainingSettings(**({"epochs": 2, "lr": 0.01, "batch_size": 32, "seed": seed, "threads": 1} | training))
    recipe = Recipe(
        target=TargetSection(model=f"small:{model}", classes=10, in_chans=1, seed=seed),
        method="random",
        data=DataSection(task="digits", train=64, test=32, size=16, channels=1),
        training=settings,
        threads=1,
    )
    return Unit(name, recipe, keep)


def test_records_come_in_the_order_of_the_units_and_only_what_is_kept_stays(run):
    here, said = run()
    work = Work(here, MODULE)
    units = [unit("b", 1, keep=True), unit("a", 2), unit("c", 1)]
    records = work.carry_out(units, "train")
    assert [record["name"] for record in records] == ["b", "a", "c"]
    assert records[0] == records[2] | {"name": "b"}, "the same recipe gives the same bytes"
    assert records[0]["sha256"] != records[1]["sha256"]
    assert [len(record["epochs"]) for record in records] == [2, 2, 2]
    assert said == ["train: 3 runs, of which 0 were done before; 12 steps trained"]
    assert work.model("b").is_dir() and not work.model("a").exists()
    work.clear()
    assert not work.folder.exists()


def test_what_is_done_is_not_done_again_unless_its_recipe_or_the_code_is_another(run, monkeypatch):
    here, said = run()
    first = Work(here, MODULE).carry_out([unit("a"), unit("b", 1)], "train")
    assert Work(here, MODULE).carry_out([unit("a"), unit("b", 1), unit("c", 2)], "train")[:2] == first
    assert said[-1] == "train: 3 runs, of which 2 were done before; 4 steps trained"
    Work(here, MODULE).carry_out([unit("a", lr=0.02), unit("b", 1)], "train")
    assert said[-1] == "train: 2 runs, of which 1 were done before; 4 steps trained"
    monkeypatch.setattr(work_module, "code_digest", lambda _module: "f" * 64)
    work = Work(here, MODULE)
    work.carry_out([unit("b", 1)], "train")
    assert said[-1] == "train: 1 runs, of which 0 were done before; 4 steps trained"
    assert [path.name for path in sorted(work.folder.parent.iterdir())] == ["f" * 16]


def test_several_processes_give_the_same_records(run, tmp_path):
    alone = Work(run()[0], MODULE).carry_out([unit("a"), unit("b", 1)], "train")
    work = Work(run(2)[0], "kzoo.studies.dpiat.rates")
    assert work.carry_out([unit("a"), unit("b", 1)], "train") == alone


def test_units_that_are_together_go_to_one_process(run, tmp_path):
    orders = [
        work_module.Order(replace(unit(name), together=together), tmp_path, tmp_path, "")
        for name, together in (("a", "x"), ("b", None), ("c", "y"), ("d", "x"), ("x", None))
    ]
    groups = work_module._groups(orders)
    assert [[order.unit.name for order in group] for group in groups] == [["a", "d"], ["b"], ["c"], ["x"]]
    units = [replace(unit(name, seed), together=together) for name, seed, together in (("p", 1, "x"), ("q", 2, "x"))]
    alone, beside = run(), run(2)
    expected = Work(alone[0], MODULE).carry_out(units, "train")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    Work(alone[0], MODULE).clear()
    assert Work(beside[0], MODULE).carry_out([*units, unit("r", 3)], "train")[:2] == expected


def test_a_training_that_diverges_is_recorded_and_has_no_weights(run):
    here, _ = run()
    found = Work(here, MODULE).carry_out(
        [unit("a", model="vit-2x32", optimizer="sgd", lr=100.0, epochs=8), unit("b")], "train"
    )
    assert found[0]["sha256"] is None and found[0]["epochs"] == [] and found[0]["diverged"] >= 1
    assert found[1]["diverged"] is None
    assert sorted(path.name for path in Work(here, MODULE).folder.iterdir()) == ["a.json", "b.json"]


def test_a_unit_that_cannot_be_run_says_why_and_the_others_stay_done(run):
    here, said = run()
    odd = unit("odd")
    target = odd.recipe.target.model_copy(update={"classes": 7})
    odd = Unit("odd", odd.recipe.model_copy(update={"target": target}))
    with pytest.raises(InputError, match="digits has 10 classes"):
        Work(here, MODULE).carry_out([unit("a"), odd], "train")
    Work(here, MODULE).carry_out([unit("a")], "train")
    assert said == ["train: 1 runs, of which 1 were done before; 0 steps trained"]


def test_a_process_that_is_ended_from_outside_is_told(run, monkeypatch):
    monkeypatch.setattr(work_module, "_carry_out_all", _end_unless_first)
    with pytest.raises(WorldError, match=r"ended from outside.*--jobs 1"):
        Work(run(2)[0], MODULE).carry_out([unit("a"), unit("b", 1)], "train")


def _end_unless_first(orders):
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    # The other process has its work before this one is done with its own.
    time.sleep(1)
    return [{"name": orders[0].unit.name, "steps": 0, "saved": 0}]


def test_a_damaged_record_is_made_again(run):
    here, said = run()
    work = Work(here, MODULE)
    first = work.carry_out([unit("a")], "train")
    (work.folder / "a.json").write_text('{"stamp": "')
    assert Work(here, MODULE).carry_out([unit("a")], "train") == first
    assert said[-1].startswith("train: 1 runs, of which 0 were done before")


def test_a_copied_model_is_the_same_but_for_the_way_to_its_sources(tiny, tmp_path):
    origin = next((tiny.root / "pipelines/dpiat/out/models").iterdir())
    copy_model(origin, tmp_path / "deeper" / "copy")
    ours, theirs = read_recipe(tmp_path / "deeper/copy/recipe.yaml"), read_recipe(origin / "recipe.yaml")
    assert ours.digest == theirs.digest and ours.plan.path == "plan.json"
    assert (tmp_path / "deeper/copy" / ours.sources[0].path).resolve() == (origin / theirs.sources[0].path).resolve()
    assert (tmp_path / "deeper/copy" / ours.sources[0].path).is_dir()


def test_a_kept_model_runs_again_to_the_same_bytes(tiny, tmp_path, command):
    out = tiny.root / "pipelines/dpiat/out"
    for name in ("model", f"models/{next((out / 'models').iterdir()).name}"):
        code, _, said = command("run", out / name / "recipe.yaml", "--out", tmp_path / Path(name).name)
        assert code == 0, said
        again = (tmp_path / Path(name).name / "model.safetensors").read_bytes()
        assert again == (out / name / "model.safetensors").read_bytes()
    table = json.loads((out / "train.json").read_text())
    assert torch.tensor([row["epochs"][-1] for row in table["runs"]]).gt(0).all()

"""A dry run of a study builds and tries out all that its profile names, and finds what could not be used."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from kzoo.errors import InputError
from kzoo.recipe import DataSection
from kzoo.studies.params import profile_names, read_study
from kzoo.studies.rehearsal import named_by, rehearse, stand_in, take_step
from kzoo.training.networks import small_network
from kzoo.training.settings import TrainingSettings
from tests.conftest import Command

PIPELINES = Path(__file__).parents[2] / "pipelines"
PAPERS = sorted(path.parent.name for path in PIPELINES.glob("*/params.yaml"))


def changed(folder: Path, paper: str, **change: Any) -> Path:
    """A copy of a study whose profile tiny says something else; the keys are places in it, with __ between."""
    (folder / paper).mkdir(parents=True)
    shutil.copy(PIPELINES / paper / "claims.yaml", folder / paper)
    params = yaml.safe_load((PIPELINES / paper / "params.yaml").read_text())
    for where, value in change.items():
        *path, last = where.split("__")
        section = params["profiles"]["tiny"]
        for name in path:
            section = section[name]
        section[last] = value
    (folder / paper / "params.yaml").write_text(yaml.safe_dump(params))
    return folder / paper


@pytest.mark.parametrize("paper", PAPERS)
def test_everything_that_the_profiles_name_is_found(paper: str) -> None:
    for profile in profile_names(PIPELINES / paper / "params.yaml"):
        study = read_study(PIPELINES / paper, profile)
        named = named_by(study.profile)
        text = yaml.safe_load((PIPELINES / paper / "params.yaml").read_text())["profiles"][profile]
        models = sorted(each["model"] for each in _sections(text) if isinstance(each.get("model"), str))
        models += [text["student"]] if "student" in text else []
        assert sorted(each.model for each in named.networks.values()) == sorted(models)
        assert len(named.data) == sum("task" in each for each in _sections(text))
        assert len(named.methods) == sum("method" in each for each in _sections(text))
        assert len(named.trainings) == sum(
            key.endswith("training") and value is not None for each in _sections(text) for key, value in each.items()
        )


def _sections(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    return [value, *(section for name, each in value.items() if name != "parameters" for section in _sections(each))]


def test_each_arm_grows_each_of_its_teachers(command: Command) -> None:
    code, out, _ = command("run", PIPELINES / "dils", "--profile", "tiny", "--dry-run", "--json")
    tried = json.loads(out)["tried"]
    assert code == 0 and [one for one in tried if one["problem"] is not None] == []
    study = read_study(PIPELINES / "dils", "tiny")
    grown = [
        f"teachers.{teacher}, cases.{name}.arms.{arm}"
        for name, case in study.profile.cases.items()
        for teacher in case.teachers
        for arm, told in case.arms.items()
        if told.grows
    ]
    places = [one["where"] for one in tried if one["what"] == "network"]
    assert grown and set(places) == {*(f"teachers.{name}" for name in study.profile.teachers), *grown}
    assert all("a step of teacher_training, training" in one["told"] for one in tried if one["what"] == "network")
    entries = {
        one["where"]: int(one["told"].split(", ")[1].split()[0].replace(",", ""))
        for one in tried
        if one["what"] == "network"
    }
    assert all(entries[place] > entries[place.split(", ")[0]] for place in grown), "a deeper network has more entries"


@pytest.mark.parametrize(
    ("paper", "change", "said"),
    [
        ("fusion", {"networks__mlp__model": "small:nothing-1x8"}, "networks.mlp: .*nothing-1x8"),
        ("fusion", {"arms__average__parameters": {"variant": "odd"}}, "arms.average: .*variant"),
        ("dpiat", {"data__size": 225}, "data: size=225 is not possible"),
        ("dpiat", {"data__task": "cifar10"}, "data: the task cifar10 has no root"),
    ],
)
def test_what_cannot_be_used_is_said(
    paper: str, change: dict[str, Any], said: str, tmp_path: Path, command: Command
) -> None:
    code, _, err = command("run", changed(tmp_path, paper, **change), "--profile", "tiny", "--dry-run")
    assert code == 2 and "Traceback" not in err
    assert re.search(f"Error: .* things that the profile tiny names cannot be used; the first: {said}", err)
    assert not (tmp_path / paper / "out").exists()


def test_a_recipe_has_no_dry_run(command: Command) -> None:
    code, _, err = command("run", PIPELINES.parent / "examples" / "digits.yaml", "--dry-run")
    assert code == 2 and "--dry-run is for studies" in err


def test_noise_stands_in_for_what_is_not_here(tmp_path: Path) -> None:
    section = DataSection(task="cifar100", root="nowhere", size=48)
    task = stand_in(section, tmp_path)
    assert (len(task.classes), task.channels, task.size) == (100, 3, 48)
    assert task.train.images.shape == (4, 3, 48, 48) and task.train.images.float().std() > 50
    here = stand_in(DataSection(task="digits", size=16, channels=1, train=1000), tmp_path)
    assert (len(here.classes), len(here.train)) == (10, 4) and here.train.images.float().std() > 0
    with pytest.raises(InputError, match="'cifar' names no task"):
        stand_in(DataSection(task="cifar"), tmp_path)


def test_one_step_is_taken_with_the_settings(tmp_path: Path) -> None:
    task = stand_in(DataSection(task="digits", size=16), tmp_path)
    torch.manual_seed(0)
    module = small_network("vgg-1x8", classes=10, channels=1)
    before = [value.clone() for value in module.parameters()]
    take_step(module, task, TrainingSettings(epochs=50, lr=0.5, optimizer="sgd", momentum=0.0, weight_decay=0.0))
    moved = [
        float((value.detach() - old.detach()).abs().max())
        for value, old in zip(module.parameters(), before, strict=True)
    ]
    assert max(moved) > 0

    class Endless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(10))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scale * images.flatten(1)[:, :10] * torch.inf

    with pytest.raises(InputError, match="the loss of the first step is not finite"):
        take_step(Endless(), task, TrainingSettings())


@pytest.mark.slow
def test_the_profile_of_the_paper_on_fusion_can_be_run() -> None:
    found = rehearse(read_study(PIPELINES / "fusion", "paper"))
    assert [one for one in found if one.problem is not None] == []
    assert [one.where for one in found if "noise" in one.told] == ["data.mnist", "data.cifar10"]


@pytest.mark.slow
@pytest.mark.parametrize("paper", [paper for paper in PAPERS if paper != "fusion"])
def test_all_profiles_of_papers_can_be_run(paper: str) -> None:
    for profile in profile_names(PIPELINES / paper / "params.yaml"):
        if profile not in ("tiny", "default"):
            found = rehearse(read_study(PIPELINES / paper, profile))
            assert [one for one in found if one.problem is not None] == []

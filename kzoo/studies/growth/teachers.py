"""The stage ``teachers``: the networks that are grown, trained from a random start, one of each for every seed."""

from __future__ import annotations

from typing import Any

from kzoo.errors import CheckFailed
from kzoo.layout import WEIGHTS
from kzoo.recipe import DataSection, Recipe, TargetSection
from kzoo.studies.design import Run
from kzoo.studies.growth.design import Profile
from kzoo.studies.models import copy_model
from kzoo.studies.records import last_accuracy, run_name
from kzoo.studies.sections import RANDOM
from kzoo.studies.sources import complete_data
from kzoo.studies.work import Unit, Work
from kzoo.surroundings import load_data
from kzoo.training.tasks import Task

FOLDER, TABLE = "teachers", "teachers.json"


def carry_out(run: Run) -> None:
    """Write the teachers' model folders, and a table of them and of all images; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    told = {name: _told(load_data(section, run.base)) for name, section in profile.data.items()}
    seeds = [*profile.seeds, *profile.sweep.seeds]
    chosen = [(name, seed) for name in profile.teachers for seed in seeds]
    units = [
        Unit(run_name(None, name, str(seed)), _recipe(profile, told, name, seed), keep=True) for name, seed in chosen
    ]
    work = Work(run, __name__)
    records = work.carry_out(units, "teachers")
    rows = []
    with run.new_output(FOLDER) as folder:
        for (name, seed), record in zip(chosen, records, strict=True):
            if record["diverged"] is not None:
                raise CheckFailed(
                    f"the training of the teacher {record['name']} diverged: give teacher_training a lower lr in params.yaml"
                )
            copy_model(work.model(record["name"]), folder / record["name"])
            weights = {"weights": f"{FOLDER}/{record['name']}/{WEIGHTS}", "sha256": record["sha256"]}
            rows.append({"teacher": name, "seed": seed} | weights | {"accuracy": last_accuracy(record)})
    run.write_table(TABLE, {"data": told, "teachers": rows})
    work.clear()


def _recipe(profile: Profile, told: dict[str, Any], teacher: str, seed: int) -> Recipe:
    chosen = profile.teachers[teacher]
    data: DataSection = complete_data(profile.data[chosen.data], told[chosen.data])
    training = profile.teacher_training.model_copy(update={"seed": seed})
    target = TargetSection(
        model=chosen.model,
        classes=told[chosen.data]["classes"],
        in_chans=data.channels,
        img_size=chosen.img_size,
        seed=seed,
    )
    return Recipe(target=target, method=RANDOM, data=data, training=training, threads=training.threads)


def _told(task: Task) -> dict[str, Any]:
    return {
        "classes": len(task.classes),
        "channels": task.channels,
        "fingerprint": task.fingerprint,
        "train": len(task.train),
        "test": len(task.test),
    }

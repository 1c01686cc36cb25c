"""The stage ``sources``: trained networks to start from, of the embedded zoo or trained here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from kzoo.errors import CheckFailed
from kzoo.hashing import weights_sha256
from kzoo.layout import CONFIG, WEIGHTS
from kzoo.model_folder import load
from kzoo.recipe import DataSection, SourceSection
from kzoo.studies.design import Run
from kzoo.studies.models import zoo_folder
from kzoo.studies.sections import Network, scratch_recipe
from kzoo.studies.work import Unit, Work
from kzoo.surroundings import load_data
from kzoo.training.evaluation import evaluate
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Task

FOLDER, TABLE = "sources", "sources.json"


def carry_out(run: Run) -> None:
    """Write the sources' model folders, and a table of their sha256 and accuracy; see `kzoo.studies.stages`."""
    data: DataSection = run.profile.data
    task = load_data(data, run.base)
    networks: dict[str, Network] = run.profile.networks
    wanted = {name: network for name, network in networks.items() if network.is_source}
    work = Work(run, __name__)
    data = complete_data(data, _told(task))
    training: TrainingSettings | None = run.profile.source_training
    units = [
        Unit(name, scratch_recipe(network, data, len(task.classes), _seeded(training, network.trained)), keep=True)
        for name, network in wanted.items()
        if network.trained is not None and training is not None
    ]
    records = {record["name"]: record for record in work.carry_out(units, "sources")} if units else {}
    for record in records.values():
        if record["diverged"] is not None:
            raise CheckFailed(
                f"the training of the source {record['name']} diverged: give it a lower lr in params.yaml"
            )
    rows = {}
    with run.new_output(FOLDER) as folder:
        for name, network in wanted.items():
            origin = work.model(name) if network.zoo is None else zoo_folder(network.zoo)
            _copy(origin, folder / name)
            rows[name] = {
                "weights": f"{FOLDER}/{name}/{WEIGHTS}",
                "sha256": weights_sha256([folder / name / WEIGHTS]),
                "accuracy": _accuracy(folder / name, task),
                "origin": "trained here" if network.zoo is None else f"local:{network.zoo}",
            }
    run.write_table(TABLE, {"data": _told(task), "sources": rows})
    work.clear()


def _seeded(training: TrainingSettings, seed: int) -> TrainingSettings:
    return training.model_copy(update={"seed": seed})


def source_of(run: Run, row: dict[str, Any]) -> SourceSection:
    """A source by its row of the table, as recipes in the study's folder name it."""
    path = Path(os.path.relpath((run.out / row["weights"]).parent, run.base))
    return SourceSection(path=path.as_posix(), sha256=row["sha256"])


def complete_data(data: DataSection, told: dict[str, Any]) -> DataSection:
    """The data with the fingerprint and the channels that the stage found."""
    return data.model_copy(update={"fingerprint": told["fingerprint"], "channels": told["channels"]})


def _copy(origin: Path, folder: Path) -> None:
    folder.mkdir()
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(origin / name, folder / name)


def _told(task: Task) -> dict[str, Any]:
    return {"classes": len(task.classes), "channels": task.channels, "fingerprint": task.fingerprint}


def _accuracy(folder: Path, task: Task) -> float | None:
    """Accuracy on the task's test images; None for a network of another task."""
    module = load(folder)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return round(evaluate(module, task.test)["accuracy"], 6)
    except (RuntimeError, IndexError):  # another number of classes, or images that it does not take
        return None
    finally:
        torch.set_num_threads(threads)

"""The stage ``starts``: the weights that parents begin with, random ones and those that know a little of all classes."""

from __future__ import annotations

from typing import Any

from kzoo.layout import WEIGHTS
from kzoo.studies.design import Run
from kzoo.studies.fusion.design import Profile, beginnings
from kzoo.studies.fusion.recipes import start_recipe
from kzoo.studies.models import copy_model
from kzoo.studies.records import run_name
from kzoo.studies.work import Unit, Work
from kzoo.surroundings import load_data
from kzoo.training.tasks import Task

FOLDER = "starts"
TABLE = f"{FOLDER}.json"


def carry_out(run: Run) -> None:
    """Write the starts' model folders, and a table of them and of all images; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    told = {name: _told(load_data(section, run.base)) for name, section in profile.data.items()}
    chosen = [
        (data, network, kind, seed)
        for seed in profile.seeds
        for data in profile.data
        for network in profile.networks
        for kind in beginnings(profile)
    ]
    units = [Unit(run_name(*each), start_recipe(profile, told, *each), keep=True) for each in chosen]
    work = Work(run, __name__)
    records = work.carry_out(units, FOLDER)
    rows = []
    with run.new_output(FOLDER) as folder:
        for (data, network, kind, seed), record in zip(chosen, records, strict=True):
            name = record["name"]
            label = {"data": data, "network": network, "start": kind, "seed": seed}
            copy_model(work.model(name), folder / name)
            rows.append(label | {"weights": f"{FOLDER}/{name}/{WEIGHTS}", "sha256": record["sha256"]})
    run.write_table(TABLE, {"data": told, FOLDER: rows})
    work.clear()


def _told(task: Task) -> dict[str, Any]:
    return {
        "names": list(task.classes),
        "channels": task.channels,
        "fingerprint": task.fingerprint,
        "train": len(task.train),
        "test": len(task.test),
    }

"""The stage ``teachers``: for every seed one of each, trained with labels on the images of its classes alone."""

from __future__ import annotations

from kzoo.errors import CheckFailed
from kzoo.layout import WEIGHTS
from kzoo.studies.amalgamation.design import Profile
from kzoo.studies.amalgamation.recipes import teacher_recipe
from kzoo.studies.design import Run
from kzoo.studies.models import copy_model
from kzoo.studies.records import last_accuracy, run_name
from kzoo.studies.work import Unit, Work
from kzoo.surroundings import load_data

FOLDER = "teachers"
TABLE = f"{FOLDER}.json"


def carry_out(run: Run) -> None:
    """Write the teachers' model folders, and a table with their accuracy on their own classes; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    task = load_data(profile.data, run.base)
    told = {
        "names": list(task.classes),
        "channels": task.channels,
        "fingerprint": task.fingerprint,
        "train": len(task.train),
        "test": len(task.test),
    }
    chosen = [(teacher, seed) for seed in (*profile.sweep.seeds, *profile.seeds) for teacher in profile.teachers]
    units = [
        Unit(run_name(None, teacher, "teacher", seed), teacher_recipe(profile, told, teacher, seed), keep=True)
        for teacher, seed in chosen
    ]
    work = Work(run, __name__)
    records = work.carry_out(units, FOLDER)
    rows = []
    with run.new_output(FOLDER) as folder:
        for (teacher, seed), record in zip(chosen, records, strict=True):
            name = record["name"]
            if record["diverged"] is not None:
                raise CheckFailed(f"the training of {name} diverged: give the teacher a lower lr in params.yaml")
            copy_model(work.model(name), folder / name)
            label = {"teacher": teacher, "seed": seed, "weights": f"{FOLDER}/{name}/{WEIGHTS}"}
            rows.append(label | {"sha256": record["sha256"], "accuracy": last_accuracy(record)})
    run.write_table(TABLE, {"data": told, FOLDER: rows})
    work.clear()

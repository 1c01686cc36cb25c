"""The stage ``parents``: the networks that are fused, each trained on the images of some classes alone."""

from __future__ import annotations

from kzoo.errors import CheckFailed
from kzoo.layout import WEIGHTS
from kzoo.studies.design import Run
from kzoo.studies.fusion.design import Profile, begun_parents
from kzoo.studies.fusion.recipes import parent_recipe
from kzoo.studies.models import copy_model
from kzoo.studies.records import last_accuracy, run_name
from kzoo.studies.work import Unit, Work

FOLDER = "parents"
TABLE = f"{FOLDER}.json"


def carry_out(run: Run) -> None:
    """Write the parents' model folders, and a table with their accuracy on their own classes; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    chosen = [
        (data, network, parent, kind, seed)
        for seed in profile.seeds
        for data in profile.data
        for network in profile.networks
        for parent, kind in begun_parents(profile)
    ]
    units = [
        Unit(run_name(each[0], each[1], *map(str, each[2:])), parent_recipe(run, *each), keep=True) for each in chosen
    ]
    work = Work(run, __name__)
    records = work.carry_out(units, FOLDER)
    rows = []
    with run.new_output(FOLDER) as folder:
        for (data, network, parent, kind, seed), record in zip(chosen, records, strict=True):
            name = record["name"]
            label = {"data": data, "network": network, "parent": parent, "start": kind, "seed": seed}
            if record["diverged"] is not None:
                raise CheckFailed(
                    f"the training of the parent {name} diverged: give training a lower lr in params.yaml"
                )
            copy_model(work.model(name), folder / name)
            weights = {"weights": f"{FOLDER}/{name}/{WEIGHTS}", "sha256": record["sha256"]}
            rows.append(label | weights | {"accuracy": last_accuracy(record)})
    run.write_table(TABLE, {FOLDER: rows})
    work.clear()

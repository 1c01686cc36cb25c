"""The stage ``train``: every pair, arm and seed, at the rate of its target."""

from __future__ import annotations

from kzoo.environment import environment_class
from kzoo.layout import WEIGHTS
from kzoo.studies.design import Run
from kzoo.studies.dpiat.design import Profile
from kzoo.studies.dpiat.rates import run_labels, unit
from kzoo.studies.models import copy_model
from kzoo.studies.records import run_name
from kzoo.studies.work import Work

TABLE, MODELS = "train.json", "models"


def carry_out(run: Run) -> None:
    """Write the runs, and the networks of the first seed; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    rates = run.table("sweep.json")["rates"]
    labels, units = [], []
    for seed in profile.seeds:
        for label in run_labels(profile, list(profile.arms)):
            rate = rates[label["target"]]
            labels.append(label | {"seed": seed, "lr": rate})
            units.append(unit(run, label, seed, rate, keep=seed == profile.seeds[0] and label["arm"] in profile.keep))
    work = Work(run, __name__)
    records = work.carry_out(units, "train")
    runs = [label | record for label, record in zip(labels, records, strict=True)]
    with run.new_output(MODELS) as folder:
        for row, one in zip(runs, units, strict=True):
            if one.keep and row["diverged"] is None:
                name = run_name(row["source"], row["target"], row["arm"])
                copy_model(work.model(one.name), folder / name)
                row["weights"] = f"{MODELS}/{name}/{WEIGHTS}"
    run.write_table(TABLE, {"environment": environment_class(), "profile": run.profile_name, "runs": runs})
    work.clear()

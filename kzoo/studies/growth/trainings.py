"""The stage ``train``: every arm and seed, at its own best rate and at that of the random start."""

from __future__ import annotations

from kzoo.environment import environment_class
from kzoo.layout import WEIGHTS
from kzoo.studies.design import Run
from kzoo.studies.growth.design import Profile, all_ways
from kzoo.studies.growth.recipes import planned_steps, trained_unit
from kzoo.studies.models import copy_model
from kzoo.studies.records import run_name
from kzoo.studies.work import Work

TABLE, MODELS = "train.json", "models"
#: What the stage ``grow`` has said already.
_TOLD_BEFORE = ("network", "parameters", "insertions", "loss")


def carry_out(run: Run) -> None:
    """Write the runs, and the networks of the first seed; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    picked = {(row["case"], row["teacher"], row["arm"]): row for row in run.table("sweep.json")["rates"]}
    labels, units = [], []
    for seed in profile.seeds:
        for way in all_ways(profile):
            rates = {"own": picked[way]["own"], "equal": picked[way]["equal"]}
            for rate in dict.fromkeys(rates.values()):
                uses = [use for use, chosen in rates.items() if chosen == rate]
                label = {**way._asdict(), "seed": seed, "lr": rate, "uses": uses, "steps": planned_steps(run, way)}
                labels.append(label)
                keep = seed == profile.seeds[0] and way.arm in profile.keep and "own" in uses
                units.append(trained_unit(run, way, seed, rate, keep))
    work = Work(run, __name__)
    records = work.carry_out(units, "train")
    runs = []
    with run.new_output(MODELS) as folder:
        for label, unit, record in zip(labels, units, records, strict=True):
            # One that diverged has no tests.
            row = label | {"tests": []} | {key: record[key] for key in record if key not in _TOLD_BEFORE}
            if unit.keep and record["diverged"] is None:
                name = run_name(label["case"], label["teacher"], label["arm"])
                copy_model(work.model(unit.name), folder / name)
                row["weights"] = f"{MODELS}/{name}/{WEIGHTS}"
            runs.append(row)
    run.write_table(TABLE, {"environment": environment_class(), "profile": run.profile_name, "runs": runs})
    work.clear()

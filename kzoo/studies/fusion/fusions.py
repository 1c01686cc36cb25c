"""The stage ``fuse``: what every arm makes of the parents of every case, and beside it all that it is measured against."""

from __future__ import annotations

from kzoo.environment import environment_class
from kzoo.layout import WEIGHTS
from kzoo.studies.design import Run
from kzoo.studies.fusion.design import Profile, all_ways
from kzoo.studies.fusion.recipes import fusion_recipe
from kzoo.studies.models import copy_model
from kzoo.studies.records import run_name
from kzoo.studies.work import Unit, Work

TABLE, MODELS = "fuse.json", "models"


def carry_out(run: Run) -> None:
    """Write the runs, the comparison of each case, and the networks of the first seed; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    first = next(iter(profile.arms))
    labels, units = [], []
    for seed in profile.seeds:
        for way in all_ways(profile):
            labels.append({**way._asdict(), "seed": seed})
            keep = seed == profile.seeds[0] and way.arm in profile.keep
            recipe = fusion_recipe(run, way, seed, compared=way.arm == first)
            # Arms share what is measured of their parents, and cases that begin alike the joint training.
            units.append(Unit(run_name(*way, seed), recipe, keep, f"{way.data} {way.network} {seed}"))
    work = Work(run, __name__)
    records = work.carry_out(units, "fuse")
    runs, compared = [], []
    with run.new_output(MODELS) as folder:
        for label, unit, record in zip(labels, units, records, strict=True):
            row = label | {"name": record["name"], "sha256": record["sha256"], "accuracy": record["tests"][0][1]}
            row["loss"] = record["loss"]
            if unit.keep:
                name = run_name(label["data"], label["network"], label["start"], label["arm"])
                copy_model(work.model(unit.name), folder / name)
                row["weights"] = f"{MODELS}/{name}/{WEIGHTS}"
            runs.append(row)
            if "comparison" in record:
                case = {key: label[key] for key in ("data", "network", "start", "seed")}
                compared.append(case | {"rows": record["comparison"]})
    told = {"environment": environment_class(), "profile": run.profile_name, "runs": runs, "compared": compared}
    run.write_table(TABLE, told)
    work.clear()

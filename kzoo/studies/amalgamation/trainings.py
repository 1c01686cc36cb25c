"""The stage ``train``: a student by every arm of every setting and seed, at its own best rate, and what it is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kzoo.environment import environment_class
from kzoo.errors import CheckFailed
from kzoo.layout import WEIGHTS
from kzoo.studies.amalgamation.design import ORACLE, Profile, all_ways
from kzoo.studies.amalgamation.recipes import student_unit
from kzoo.studies.design import Run
from kzoo.studies.models import copy_model
from kzoo.studies.records import last_accuracy, run_name
from kzoo.studies.work import Work

TABLE, MODELS = "train.json", "models"


def carry_out(run: Run) -> None:
    """Write the runs, what each setting's teachers do without a student, and the networks of the first seed.

    See `kzoo.studies.stages`.

    Raises:
        CheckFailed: the first arm diverged, beside which the teachers are measured.
    """
    profile: Profile = run.profile
    rates = {(row["setting"], row["arm"]): row["lr"] for row in run.table("sweep.json")["rates"]}
    labels, units = [], []
    for seed in profile.seeds:
        for way in all_ways(profile):
            labels.append({**way._asdict(), "seed": seed, "lr": rates[way]})
            keep = seed == profile.seeds[0] and way.arm in profile.keep
            units.append(student_unit(run, way, seed, rates[way], keep=keep))
    work = Work(run, __name__)
    records = work.carry_out(units, "train")
    first = next(iter(profile.arms))
    runs, compared = [], []
    with run.new_output(MODELS) as folder:
        for label, unit, record in zip(labels, units, records, strict=True):
            row = label | {key: record[key] for key in ("name", "sha256", "epochs", "diverged")}
            runs.append(row | {"accuracy": last_accuracy(record), "own": _own(record)})
            if unit.keep and record["diverged"] is None:
                name = run_name(None, label["setting"], label["arm"])
                copy_model(work.model(unit.name), folder / name)
                runs[-1]["weights"] = f"{MODELS}/{name}/{WEIGHTS}"
            if label["arm"] == first:
                compared.append({"setting": label["setting"], "seed": label["seed"], **_beside(label, record)})
    told = {"environment": environment_class(), "profile": run.profile_name, "runs": runs, "compared": compared}
    run.write_table(TABLE, told)
    work.clear()


def _own(record: Mapping[str, Any]) -> list[float]:
    """A student's accuracy on the images of each teacher, among that teacher's classes; none where it had no teachers."""
    return [task["own"] for task in record["amalgamation"]["tasks"]] if "amalgamation" in record else []


def _beside(label: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """What a setting's teachers do without a student.

    ``teachers`` are their accuracies on their own images, ``alone`` those on the images of all classes, of which a teacher
    can be right on its own only.
    """
    if "amalgamation" not in record:
        raise CheckFailed(
            f"{label['setting']} {label['arm']} diverged at its best rate: give sweep.rates lower ones in params.yaml"
        )
    found = record["amalgamation"]
    return {
        **{f"concatenated_{name}": value for name, value in found["concatenated"].items()},
        ORACLE: found[ORACLE],
        "teachers": [task["teacher_own"] for task in found["tasks"]],
        "alone": [round(task["teacher_own"] * task["images"] / found["images"], 6) for task in found["tasks"]],
    }

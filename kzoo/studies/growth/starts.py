"""The stage ``grow``: what every arm makes of every teacher, before any training."""

from __future__ import annotations

from typing import Any

from kzoo.studies.design import Run
from kzoo.studies.growth.design import Profile, all_ways, data_of, grown_ways
from kzoo.studies.growth.recipes import start_recipe, teacher_recipe
from kzoo.studies.records import Record, run_name
from kzoo.studies.work import Unit, Work

TABLE = "grow.json"


def carry_out(run: Run) -> None:
    """Write how teachers do on the images of their students, and what became of them; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    tested = dict.fromkeys((way.teacher, data_of(profile, way)) for way in all_ways(profile))
    teachers, starts = [], []
    units = []
    for seed in profile.seeds:
        for teacher, data in tested:
            teachers.append({"teacher": teacher, "data": data, "seed": seed})
            units.append(Unit(run_name(None, teacher, data, seed), teacher_recipe(run, teacher, seed, data)))
    for seed in profile.seeds:
        for way in grown_ways(profile):
            starts.append({**way._asdict(), "seed": seed})
            units.append(Unit(run_name(*way, seed), start_recipe(run, way, seed)))
    work = Work(run, __name__)
    records = work.carry_out(units, "grow")
    told, grown = records[: len(teachers)], records[len(teachers) :]
    table = {
        "teachers": [label | _tested(record) for label, record in zip(teachers, told, strict=True)],
        "starts": [label | _start(record) for label, record in zip(starts, grown, strict=True)],
    }
    run.write_table(TABLE, table)
    work.clear()


def _tested(record: Record) -> dict[str, Any]:
    return {"accuracy": record["tests"][0][1], "loss": record["loss"]}


def _start(record: Record) -> dict[str, Any]:
    return _tested(record) | {key: record[key] for key in ("sha256", "parameters", "insertions", "network")}

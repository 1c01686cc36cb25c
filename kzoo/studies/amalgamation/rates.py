"""The stage ``sweep``: every arm that is swept at every learning rate, tested on images that are held back, never on test images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kzoo.studies.amalgamation.design import Profile, Way, all_ways, swept_ways
from kzoo.studies.amalgamation.recipes import student_unit
from kzoo.studies.design import Run
from kzoo.studies.records import last_accuracy
from kzoo.studies.work import Work

TABLE = "sweep.json"


def carry_out(run: Run) -> None:
    """Write the runs, and the rate picked for every arm of every setting; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    labels, units = [], []
    for seed in profile.sweep.seeds:
        for way in swept_ways(profile):
            for rate in profile.sweep.rates:
                labels.append({**way._asdict(), "seed": seed, "lr": rate})
                units.append(student_unit(run, way, seed, rate, sweep=True))
    work = Work(run, __name__)
    records = work.carry_out(units, "sweep")
    runs = [label | _told(record) for label, record in zip(labels, records, strict=True)]
    run.write_table(TABLE, {"rates": picked_rates(profile, runs), "runs": runs})
    work.clear()


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record what a sweep needs; ``accuracy`` is that on the images held back, by which rates are picked."""
    told = {key: record[key] for key in ("name", "sha256", "diverged")}
    return told | {"accuracy": last_accuracy(record)}


def picked_rates(profile: Profile, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every arm of every setting its best rate: that of the highest mean accuracy, or the lowest of these.

    An arm that is not swept has that of the arm which it names.
    """

    def accuracy(way: Way, rate: float) -> float:
        wanted = {**way._asdict(), "lr": rate}
        return float(statistics.mean(run["accuracy"] for run in runs if wanted.items() <= run.items()))

    best = {
        way: min(profile.sweep.rates, key=lambda rate, way=way: (-accuracy(way, rate), rate))  # type: ignore[misc]
        for way in swept_ways(profile)
    }
    return [
        {**way._asdict(), "lr": best[way._replace(arm=profile.arms[way.arm].rate_of or way.arm)]}
        for way in all_ways(profile)
    ]

"""The stage ``sweep``: every arm at every learning rate, with seeds that are used for nothing else.

Each arm is then trained at the rate that is best for it, so that none is at a disadvantage, and at the rate that is best
for the random start, so that the rate explains nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kzoo.studies.design import Run
from kzoo.studies.growth.design import Profile, Way, all_ways
from kzoo.studies.growth.recipes import trained_unit
from kzoo.studies.records import mean_accuracy
from kzoo.studies.sections import RANDOM
from kzoo.studies.work import Work

TABLE = "sweep.json"


def carry_out(run: Run) -> None:
    """Write the runs, and the rates picked for every arm; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    labels, units = [], []
    for seed in profile.sweep.seeds:
        for way in all_ways(profile):
            for rate in profile.sweep.rates:
                labels.append({**way._asdict(), "seed": seed, "lr": rate})
                units.append(trained_unit(run, way, seed, rate))
    work = Work(run, __name__)
    records = work.carry_out(units, "sweep")
    runs = [label | _told(record) for label, record in zip(labels, records, strict=True)]
    run.write_table(TABLE, {"rates": picked_rates(profile, runs), "runs": runs})
    work.clear()


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record what a sweep needs; ``mean`` is what rates are picked by."""
    told = {key: record[key] for key in ("name", "sha256", "epochs", "diverged")}
    return told | {"mean": round(mean_accuracy(record), 6)}


def picked_rates(profile: Profile, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every arm its own best rate, and its control's: of the highest mean accuracy over a training, or the lowest."""

    def accuracy(way: Way, rate: float) -> float:
        wanted = {**way._asdict(), "lr": rate}
        return float(statistics.mean(run["mean"] for run in runs if wanted.items() <= run.items()))

    best = {
        way: min(profile.sweep.rates, key=lambda rate, way=way: (-accuracy(way, rate), rate))  # type: ignore[misc]
        for way in all_ways(profile)
    }
    return [{**way._asdict(), "own": rate, "equal": best[way._replace(arm=RANDOM)]} for way, rate in best.items()]

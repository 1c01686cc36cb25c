"""The stage ``sweep``: every learning rate for every target, with seeds that are used for nothing else.

All arms of a target are then trained at the rate that is best for the control: equal rates, and none that favours a
transfer. (The authors' earlier runs had 1e-2 from scratch and 1e-3 after a transfer.)
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kzoo.recipe import Recipe
from kzoo.studies.design import Run
from kzoo.studies.dpiat.design import Pair, Profile, pairs_of, targets
from kzoo.studies.dpiat.plans import planned, start_recipe
from kzoo.studies.records import last_accuracy, run_name
from kzoo.studies.sections import RANDOM, scratch_recipe
from kzoo.studies.sources import complete_data
from kzoo.studies.work import Unit, Work

TABLE = "sweep.json"
Transfers = Mapping[tuple[str, str, str], dict[str, Any]]


def carry_out(run: Run) -> None:
    """Write the runs, and the rate picked for every target; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    labels, units = [], []
    for seed in profile.sweep.seeds:
        for label in run_labels(profile, profile.sweep.arms):
            for rate in profile.sweep.rates:
                labels.append(label | {"seed": seed, "lr": rate})
                units.append(unit(run, label, seed, rate))
    work = Work(run, __name__)
    records = work.carry_out(units, "sweep")
    runs = [label | record for label, record in zip(labels, records, strict=True)]
    rates = {target: _picked(runs, target, profile.sweep.rates) for target in targets(profile)}
    run.write_table(TABLE, {"rates": rates, "runs": runs})
    work.clear()


def run_labels(profile: Profile, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Source, target and arm of everything that is trained with one seed: the control once for each target."""
    found: list[dict[str, Any]] = [
        {"source": None, "target": target, "arm": RANDOM} for target in targets(profile) if RANDOM in arms
    ]
    for arm in arms:
        pairs = pairs_of(profile, arm) if arm != RANDOM else ()
        found += [{"source": pair.source, "target": pair.target, "arm": arm} for pair in pairs]
    return found


def unit(run: Run, label: Mapping[str, Any], seed: int, rate: float, keep: bool = False) -> Unit:
    """A training as a recipe of its own."""
    source, target, arm = label["source"], label["target"], label["arm"]
    return Unit(
        run_name(source, target, arm, seed, repr(rate)), trained_recipe(run, source, target, arm, seed, rate), keep
    )


def trained_recipe(run: Run, source: str | None, target: str, arm: str, seed: int, rate: float) -> Recipe:
    """The recipe of a training: the seed decides fresh weights and the order of images, whatever the arm."""
    profile: Profile = run.profile
    told = run.table("sources.json")["data"]
    data = complete_data(profile.data, told)
    settings = profile.training.model_copy(update={"lr": rate, "seed": seed})
    if source is None:
        return scratch_recipe(profile.networks[target], data, told["classes"], settings)
    plan = planned(run, transfers(run)[source, target, arm])
    start = start_recipe(run, Pair("", source, target), arm, seed, plan)
    return start.model_copy(update={"data": data, "training": settings, "threads": settings.threads})


def transfers(run: Run) -> Transfers:
    """The rows of the stage ``transfer`` by source, target and arm."""
    rows = run.table("transfer.json")["transfers"]
    return {(row["source"], row["target"], row["arm"]): row for row in rows}


def _picked(runs: Sequence[Mapping[str, Any]], target: str, rates: Sequence[float]) -> float:
    """The control's rate with the highest accuracy at the end, of equal ones the lowest."""

    def accuracy(rate: float) -> float:
        chosen = [
            last_accuracy(run) for run in runs if run["target"] == target and run["arm"] == RANDOM and run["lr"] == rate
        ]
        return statistics.mean(chosen)

    return min(rates, key=lambda rate: (-accuracy(rate), rate))

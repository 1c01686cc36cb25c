"""The stage ``transfer``: the plan of every pair and arm, and the networks that it gives with the first seed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kzoo.hashing import weights_sha256
from kzoo.layout import WEIGHTS
from kzoo.methods.plan import write_plan
from kzoo.recipe import PlanSection, Recipe
from kzoo.running import run_recipe
from kzoo.starting import rehearse_recipe
from kzoo.studies.design import Run
from kzoo.studies.dpiat.design import Pair, Profile, carrying_arms, pairs_of
from kzoo.studies.records import run_name
from kzoo.studies.sections import target_section
from kzoo.studies.sources import complete_data, source_of
from kzoo.surroundings import Surroundings
from kzoo.zoo import shipped_zoo

TABLE, PLANS, STARTS = "transfer.json", "plans", "starts"


def carry_out(run: Run) -> None:
    """Write plans, starts, and a table of what each transfer overwrites; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    work = [(pair, arm) for arm in carrying_arms(profile) for pair in pairs_of(profile, arm)]
    where = Surroundings(run.base, shipped_zoo)
    rows = []
    with run.new_output(PLANS) as plans, run.new_output(STARTS) as starts:
        for done, (pair, arm) in enumerate(work, 1):
            rows.append(_row(run, where, pair, arm, plans))
            if arm in profile.keep:
                rows[-1] |= _start(run, where, pair, arm, starts)
            run.progress("transfer", done / len(work))
    run.write_table(TABLE, {"transfers": rows})


def _row(run: Run, where: Surroundings, pair: Pair, arm: str, plans: Path) -> dict[str, Any]:
    """Plan a transfer, and tell what it would do."""
    recipe = start_recipe(run, pair, arm, run.profile.seeds[0], None)
    plan, report = rehearse_recipe(recipe, where)
    path = plans / f"{run_name(pair.source, pair.target, arm)}.json"
    # Where a source lies depends on the folder that this runs in; the plan must not.
    write_plan(plan.model_copy(update={"source": pair.source}), path)
    return {
        "source": pair.source,
        "target": pair.target,
        "arm": arm,
        "plan_file": f"{PLANS}/{path.name}",
        "plan": weights_sha256([path]),
        "parts": len(report.parts),
        "transferred": report.transferred_layers,
        "overwritten": round(report.overwritten, 6),
    }


def _start(run: Run, where: Surroundings, pair: Pair, arm: str, starts: Path) -> dict[str, Any]:
    """Carry a transfer out with the first seed."""
    name = run_name(pair.source, pair.target, arm)
    run_recipe(start_recipe(run, pair, arm, run.profile.seeds[0], None), where, starts / name)
    return {"weights": f"{STARTS}/{name}/{WEIGHTS}", "sha256": weights_sha256([starts / name / WEIGHTS])}


def start_recipe(run: Run, pair: Pair, arm: str, seed: int, plan: PlanSection | None) -> Recipe:
    """The recipe of a target that an arm has carried a source into, without any training."""
    profile: Profile = run.profile
    sources = run.table("sources.json")
    data = complete_data(profile.data, sources["data"])
    chosen = profile.arms[arm]
    return Recipe(
        sources=[source_of(run, sources["sources"][pair.source])],
        target=target_section(profile.networks[pair.target], data, sources["data"]["classes"], seed),
        method=chosen.method,
        parameters=chosen.parameters,
        plan=plan,
        threads=1,
    )


def planned(run: Run, transfer: dict[str, Any]) -> PlanSection:
    """The plan of a row of the table, as recipes in the study's folder name it."""
    path = run.out / transfer["plan_file"]
    return PlanSection(path=Path(os.path.relpath(path, run.base)).as_posix(), sha256=transfer["plan"])

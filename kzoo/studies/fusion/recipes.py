"""The recipes of the runs that a study of fusion consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kzoo.errors import InputError
from kzoo.recipe import ComparisonSection, DataSection, Recipe, TargetSection
from kzoo.studies.design import Run
from kzoo.studies.fusion.design import PRETRAINED, Profile, Way, beginning
from kzoo.studies.sections import RANDOM
from kzoo.studies.sources import complete_data, source_of
from kzoo.training.settings import TrainingSettings

#: Added to a seed for the weights of each further random start, and for what is drawn in a pretraining.
_OTHERS = 1_000_000


def images(run: Run, name: str) -> DataSection:
    """Data of the profile, with what the stage ``starts`` found of them."""
    profile: Profile = run.profile
    return complete_data(profile.data[name], run.table("starts.json")["data"][name])


def start_recipe(profile: Profile, told: Mapping[str, Any], data: str, network: str, kind: str, seed: int) -> Recipe:
    """The recipe of what parents begin with: random weights, or some that were trained on a few images of all classes."""
    number = 0 if kind == PRETRAINED else int(kind.rpartition("-")[2]) - 1
    section = complete_data(profile.data[data], told[data])
    recipe = Recipe(
        target=_target(profile, told[data], network, section, seed + number * _OTHERS), method=RANDOM, threads=1
    )
    if kind != PRETRAINED:
        return recipe
    chosen = profile.networks[network]
    few = section.model_copy(
        update={"train": round(profile.pretraining_share * told[data]["train"]), "fingerprint": None}
    )
    training = _settings(profile.pretraining, chosen.lr, chosen.pretraining_epochs, seed + _OTHERS)
    return recipe.model_copy(update={"data": few, "training": training})


def parent_recipe(run: Run, data: str, network: str, parent: int, kind: str, seed: int) -> Recipe:
    """The recipe of a parent: what it begins with, trained on the images of its classes; labels stay those of all."""
    profile: Profile = run.profile
    told = run.table("starts.json")["data"][data]
    section = _of_parent(run, data, parent)
    return Recipe(
        sources=[source_of(run, _row(run, "starts", data, network, seed, start=kind))],
        target=_target(profile, told, network, section, seed),
        method="by_name",
        data=section,
        training=training_of(profile, network, seed),
        threads=1,
    )


def fusion_recipe(run: Run, way: Way, seed: int, compared: bool = False) -> Recipe:
    """The recipe of what an arm makes of its parents; ``compared`` asks for all that arms are measured against, too."""
    profile: Profile = run.profile
    arm, section = profile.arms[way.arm], images(run, way.data)
    seen = arm.images or profile.images
    kinds = [beginning(way.start, number) for number in range(len(profile.parents))]
    sources = []
    for number, kind in enumerate(kinds):
        row = _row(run, "parents", way.data, way.network, seed, parent=number, start=kind)
        unlabelled = _of_parent(run, way.data, number).model_copy(update={"train": seen})
        sources.append(source_of(run, row).model_copy(update={"images": unlabelled}))
    start = None
    if len(set(kinds)) == 1:
        start = source_of(run, _row(run, "starts", way.data, way.network, seed, start=kinds[0]))
    few = section.model_copy(update={"train": seen, "fingerprint": None})
    joint = ComparisonSection(joint=training_of(profile, way.network, seed))
    return Recipe(
        sources=sources,
        start=start,
        target=_target(profile, run.table("starts.json")["data"][way.data], way.network, section, seed),
        method=arm.method,
        parameters=arm.parameters,
        recalibrate=few if arm.recalibrate else None,
        data=section,
        comparison=joint if compared else None,
        threads=1,
    )


def training_of(profile: Profile, network: str, seed: int) -> TrainingSettings:
    """How a parent is trained, and the one network that sees all of the images."""
    chosen = profile.networks[network]
    return _settings(profile.training, chosen.lr, chosen.epochs, seed)


def _settings(settings: TrainingSettings, lr: float | None, epochs: int, seed: int) -> TrainingSettings:
    rate = {} if lr is None else {"lr": lr}
    return settings.model_copy(update={"epochs": epochs, "seed": seed, **rate})


def _of_parent(run: Run, data: str, parent: int) -> DataSection:
    """The images of one parent's classes; nobody has told their fingerprint."""
    names = run.table("starts.json")["data"][data]["names"]
    only = tuple(names[place] for place in run.profile.parents[parent])
    return images(run, data).model_copy(update={"only": only, "fingerprint": None})


def _target(profile: Profile, told: Mapping[str, Any], network: str, section: DataSection, seed: int) -> TargetSection:
    return TargetSection(
        model=profile.networks[network].model, classes=len(told["names"]), in_chans=section.channels, seed=seed
    )


def _row(run: Run, table: str, data: str, network: str, seed: int, **more: Any) -> dict[str, Any]:
    """The row of a network that an earlier stage made.

    Raises:
        InputError: there is none.
    """
    wanted = {"data": data, "network": network, "seed": seed, **more}
    for row in run.table(f"{table}.json")[table]:
        if wanted.items() <= row.items():
            return dict(row)
    raise InputError(f"there is no network {wanted} in {table}.json: run the stage {table} again")

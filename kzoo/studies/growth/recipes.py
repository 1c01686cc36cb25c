"""The recipes of the runs that a study of growth consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kzoo.errors import InputError
from kzoo.recipe import DataSection, Recipe, TargetSection
from kzoo.studies.design import Run
from kzoo.studies.growth.design import Arm, Profile, Way, data_of, epochs_of
from kzoo.studies.records import run_name
from kzoo.studies.sources import complete_data, source_of
from kzoo.studies.work import Unit
from kzoo.training.batches import batch_ranges
from kzoo.training.settings import TrainingSettings

#: Added to a seed for what students draw: fresh weights, copies, the order of images are not those of their teacher.
_STUDENTS = 1_000_000
#: Methods that look at images, of which they need no labels.
_CALIBRATED = ("dils", "net2deeper")
#: Parameters of DILS's outer loop, which trains; without them it inserts the same layers.
LOOP = ("stepwise", "policy", "most_lost", "least_gain", "target_accuracy", "most")


def teacher_row(run: Run, teacher: str, seed: int) -> dict[str, Any]:
    """A teacher's row of the table of teachers.

    Raises:
        InputError: there is none.
    """
    for row in run.table("teachers.json")["teachers"]:
        if (row["teacher"], row["seed"]) == (teacher, seed):
            return dict(row)
    raise InputError(f"there is no teacher {teacher} of the seed {seed}: run the stage teachers again")


def images(run: Run, name: str) -> DataSection:
    """Data of the profile, with what the stage ``teachers`` found of them."""
    profile: Profile = run.profile
    return complete_data(profile.data[name], run.table("teachers.json")["data"][name])


def teacher_recipe(run: Run, teacher: str, seed: int, data: str) -> Recipe:
    """A teacher as it is, tested on images."""
    section = images(run, data)
    return Recipe(
        sources=[source_of(run, teacher_row(run, teacher, seed))],
        target=_target(run, teacher, section, data),
        method="by_name",
        data=section,
        threads=1,
    )


def start_recipe(run: Run, way: Way, seed: int) -> Recipe:
    """The recipe of a network that is grown, tested, and not trained; of DILS's loop, of the same layers at once."""
    recipe = _grown(run, way, seed)
    parameters = {key: value for key, value in recipe.parameters.items() if key not in LOOP}
    return recipe.model_copy(update={"parameters": parameters, "threads": 1})


def trained_recipe(run: Run, way: Way, seed: int, rate: float) -> Recipe:
    """The recipe of a training, at a learning rate: from the teacher, or from a random start."""
    profile: Profile = run.profile
    arm = profile.cases[way.case].arms[way.arm]
    recipe = _grown(run, way, seed) if arm.like is None else _fresh(run, way, arm.like, seed)
    training = profile.training.model_copy(
        update={"lr": rate, "seed": seed + _STUDENTS, "epochs": epochs_of(profile, way)}
    )
    return recipe.model_copy(update={"training": training, "threads": training.threads})


def trained_unit(run: Run, way: Way, seed: int, rate: float, keep: bool = False) -> Unit:
    """A training as a unit of work."""
    return Unit(run_name(*way, seed, repr(rate)), trained_recipe(run, way, seed, rate), keep)


def planned_steps(run: Run, way: Way) -> int:
    """How many steps an arm is trained for; DILS's loop after each insertion."""
    profile: Profile = run.profile
    training: TrainingSettings = profile.training
    count = run.table("teachers.json")["data"][data_of(profile, way)]["train"]
    return epochs_of(profile, way) * len(batch_ranges(count, training.batch_size))


def _target(run: Run, teacher: str, section: DataSection, data: str) -> TargetSection:
    chosen = run.profile.teachers[teacher]
    classes = run.table("teachers.json")["data"][data]["classes"]
    return TargetSection(
        model=chosen.model, classes=classes, in_chans=section.channels, img_size=chosen.img_size, seed=0
    )


def _grown(run: Run, way: Way, seed: int) -> Recipe:
    """The teacher's network, grown or as it is, with the images that it is tested on."""
    profile: Profile = run.profile
    arm: Arm = profile.cases[way.case].arms[way.arm]
    recipe = teacher_recipe(run, way.teacher, seed, data_of(profile, way))
    if not arm.grows:
        return recipe.model_copy(update={"parameters": arm.parameters})
    calibration = recipe.data if arm.method in _CALIBRATED else None
    parameters = {"seed": seed + _STUDENTS} | arm.parameters
    return recipe.model_copy(update={"method": arm.method, "parameters": parameters, "calibration": calibration})


def _fresh(run: Run, way: Way, like: str, seed: int) -> Recipe:
    """The network that another arm grew, from a random start."""
    data = data_of(run.profile, way)
    section = images(run, data)
    network = _network(run, way, like)
    target = _target(run, way.teacher, section, data).model_copy(
        update={"model": network["model"], "edits": network["edits"], "seed": seed + _STUDENTS}
    )
    return Recipe(target=target, method="random", data=section)


def _network(run: Run, way: Way, like: str) -> Mapping[str, Any]:
    """What another arm's network is; every seed's is the same."""
    for row in run.table("grow.json")["starts"]:
        if (row["case"], row["teacher"], row["arm"]) == (way.case, way.teacher, like):
            network: Mapping[str, Any] = row["network"]
            return network
    raise InputError(f"the arm {like} of the case {way.case} has grown no {way.teacher}: run the stage grow again")

"""The recipes of the runs that a study of amalgamation consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kzoo.errors import InputError
from kzoo.recipe import DataSection, Recipe, SourceSection, TargetSection
from kzoo.studies.amalgamation.design import Profile, Way, learns_from_teachers
from kzoo.studies.design import Run
from kzoo.studies.records import run_name
from kzoo.studies.sections import RANDOM
from kzoo.studies.sources import source_of
from kzoo.studies.work import Unit

#: Added to a seed for students, which must not begin as a teacher of the same architecture did.
_STUDENTS = 1_000_000


def teacher_recipe(profile: Profile, told: Mapping[str, Any], teacher: str, seed: int) -> Recipe:
    """The recipe of a teacher: trained with labels, on the images of its classes."""
    chosen = profile.teachers[teacher]
    names = classes_of(profile, told, teacher)
    given = {name: value for name in ("epochs", "lr") if (value := getattr(chosen, name)) is not None}
    training = profile.teacher_training.model_copy(update={**given, "seed": seed})
    return Recipe(
        target=TargetSection(model=chosen.model, classes=len(names), in_chans=told["channels"], seed=seed),
        method=RANDOM,
        data=_images(profile, told, names),
        training=training,
        threads=training.threads,
    )


def student_unit(run: Run, way: Way, seed: int, rate: float, *, sweep: bool = False, keep: bool = False) -> Unit:
    """A student of a setting by an arm; in a ``sweep`` it is tested on the images held back."""
    profile: Profile = run.profile
    table, arm = run.table("teachers.json"), profile.arms[way.arm]
    told, teachers = table["data"], profile.settings[way.setting]
    known = {name for teacher in teachers for name in classes_of(profile, told, teacher)}
    names = [name for name in told["names"] if name in known]
    training = profile.training.model_copy(update={"lr": rate, "seed": seed + _STUDENTS})
    sources = [_teacher(run, table, teacher, seed) for teacher in teachers]
    recipe = Recipe(
        sources=sources if learns_from_teachers(profile, way.arm) else [],
        target=TargetSection(
            model=profile.student, classes=len(names), in_chans=told["channels"], seed=seed + _STUDENTS
        ),
        method=arm.method,
        parameters=arm.parameters,
        data=_images(profile, told, names, sweep),
        training=training,
        threads=training.threads,
    )
    return Unit(run_name(None, *way, f"{rate:g}", seed), recipe, keep)


def classes_of(profile: Profile, told: Mapping[str, Any], teacher: str) -> list[str]:
    """What a teacher knows, in order.

    Raises:
        InputError: the task has not so many classes.
    """
    places, names = profile.teachers[teacher].places, told["names"]
    if max(places) >= len(names):
        raise InputError(
            f"the teacher {teacher} knows the class at place {max(places)}, and {profile.data.task} has places 0 to "
            f"{len(names) - 1}: change its classes in params.yaml"
        )
    return [names[place] for place in places]


def _images(profile: Profile, told: Mapping[str, Any], names: list[str], sweep: bool = False) -> DataSection:
    """The task's images of some classes; nobody has told their fingerprint."""
    chosen = {"channels": told["channels"], "classes": tuple(names), "split": "validation" if sweep else None}
    return profile.data.model_copy(update=chosen)


def _teacher(run: Run, table: Mapping[str, Any], teacher: str, seed: int) -> SourceSection:
    """A teacher of a seed, with what it knows.

    Raises:
        InputError: it is not in the table.
    """
    wanted = {"teacher": teacher, "seed": seed}
    row = next((row for row in table["teachers"] if wanted.items() <= row.items()), None)
    if row is None:
        raise InputError(f"there is no teacher {wanted} in teachers.json: run the stage teachers again")
    return source_of(run, dict(row)).model_copy(update={"classes": classes_of(run.profile, table["data"], teacher)})

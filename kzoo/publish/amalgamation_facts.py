"""What a card says of a student that several networks taught, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from kzoo.claims import Interval
from kzoo.errors import InputError
from kzoo.publish.fusion_facts import Compared
from kzoo.publish.intervals import proportion
from kzoo.recipe import Recipe

if TYPE_CHECKING:
    from kzoo.publish.facts import Metrics

_CLOSE = 1e-6


@dataclass(frozen=True)
class TeachersSlice:
    """The test images of one teacher's classes: how many, and who is right on them.

    ``joint`` is the student over all classes, ``own`` the student among this teacher's classes, ``teacher`` the teacher.
    """

    images: int
    joint: Interval
    own: Interval
    teacher: Interval


@dataclass(frozen=True)
class Amalgamation:
    """Who taught the student what, and how well it learned that.

    ``classes`` are what each teacher knows, in the order of the recipe's sources; ``compared`` is the student over all classes and
    what its teachers do without it, and ``slices`` are the images of each teacher's classes (None where no test image is of
    them). Both are empty where nothing was tested.
    """

    classes: tuple[tuple[str, ...], ...]
    compared: tuple[Compared, ...] = ()
    slices: tuple[TeachersSlice | None, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """All classes that a teacher knows, each once."""
        return tuple(dict.fromkeys(name for known in self.classes for name in known))

    @property
    def is_overlapping(self) -> bool:
        """Whether several teachers know one class."""
        return sum(map(len, self.classes)) > len(self.outputs)


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class _Concatenated(_Model):
    probability: float = Field(ge=0, le=1)
    logit: float = Field(ge=0, le=1)


class _Task(_Model):
    images: int = Field(ge=0)
    joint: float | None = Field(ge=0, le=1)
    own: float | None = Field(ge=0, le=1)
    teacher_own: float | None = Field(ge=0, le=1)


class Teaching(_Model):
    """What `metrics.json` says of a student and its teachers, as shares of the test images."""

    concatenated: _Concatenated
    oracle: float = Field(ge=0, le=1)
    tasks: list[_Task] = Field(max_length=100, description="In the order of the teachers")


def amalgamation_of(recipe: Recipe, metrics: Metrics | None, taught: Teaching | None, where: str) -> Amalgamation:
    """What a recipe and what lies beside it say of an amalgamation; ``where`` are the metrics.

    Raises:
        InputError: a share is not one of so many images, or there are not as many tasks as teachers.
    """
    classes = tuple(tuple(source.classes or ()) for source in recipe.sources)
    if metrics is None or taught is None:
        return Amalgamation(classes)
    if len(taught.tasks) != len(classes):
        raise InputError(
            f"{where}: amalgamation.tasks: {len(taught.tasks)} tasks are not those of {len(classes)} teachers: make the model "
            "again with kzoo run"
        )
    return Amalgamation(
        classes,
        tuple(_compared(metrics, taught, where)),
        tuple(_slice(task, f"{where}: amalgamation.tasks.{number}") for number, task in enumerate(taught.tasks)),
    )


def _compared(metrics: Metrics, taught: Teaching, where: str) -> Iterator[Compared]:
    yield Compared("student", metrics.accuracy, metrics.images)
    shares = {f"concatenated_{by}": share for by, share in taught.concatenated} | {"oracle": taught.oracle}
    for name, share in shares.items():
        yield Compared(name, _share(share, metrics.images, f"{where}: amalgamation.{name}"), metrics.images)


def _slice(task: _Task, where: str) -> TeachersSlice | None:
    shares = (task.joint, task.own, task.teacher_own)
    if not task.images:
        return None
    joint, own, teacher = (_share(share, task.images, where) for share in shares)
    return TeachersSlice(task.images, joint, own, teacher)


def _share(share: float | None, images: int, where: str) -> Interval:
    right = round((share or 0.0) * images)
    if share is None or not math.isclose(right / images, share, abs_tol=_CLOSE):
        raise InputError(f"{where}: {share} is no share of {images:,} images: make the model again with kzoo run")
    return proportion(right, images)

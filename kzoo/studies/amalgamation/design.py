"""The profile of a study of knowledge amalgamation, and the runs that it consists of.

Teachers each know some classes of one task. In a *setting* some of them together teach a student, which never sees a label,
by every arm; one arm, ``labels``, trains the same student with labels instead, as the ceiling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from kzoo.methods.amalgamation.parameters import AMALGAMATION
from kzoo.recipe import DataSection
from kzoo.studies.design import Section
from kzoo.studies.sections import NAME, RANDOM, Rate, Seed, fault, require_unique
from kzoo.training.settings import TrainingSettings

#: Teachers side by side without a student, by their probabilities and by raw logits.
CONCATENATED_BOTH = ("concatenated_probability", "concatenated_logit")
#: The better of the two, within each seed.
CONCATENATED = "concatenated"
#: The teacher that knows an image's class is asked; the best teacher alone, on the images of all classes.
ORACLE, TEACHER = "oracle", "teacher"
COMPARED = (*CONCATENATED_BOTH, CONCATENATED, ORACLE, TEACHER)

_Name = Annotated[str, StringConstraints(pattern=NAME)]
_Place = Annotated[int, Field(ge=0)]


class Teacher(Section):
    """A trained network, and the classes that it knows: from a first to a last place among the task's, some times over."""

    model: str = Field(min_length=1, description="small:NAME, timm:NAME, torchvision:NAME")
    classes: list[Annotated[list[_Place], Field(min_length=2, max_length=2)]] = Field(min_length=1)
    epochs: int | None = Field(default=None, ge=1, description="Where they are others than the training's")
    lr: Rate | None = Field(default=None, description="Where it is another than the training's")

    @property
    def places(self) -> list[int]:
        """The places of its classes, in order."""
        return [place for first, last in self.classes for place in range(first, last + 1)]


class Arm(Section):
    """A way of teaching with its parameters: ``kd`` or ``cfl``; or ``random``, which trains with labels."""

    method: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default={})
    rate_of: str | None = Field(
        default=None, description="Another arm, at whose picked rate it is trained; it is not swept itself"
    )


class Sweep(Section):
    """Which learning rates every arm is tried at, with seeds that are used for nothing else."""

    rates: list[Rate] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)


class Published(Section):
    """The run whose network is published."""

    setting: str
    arm: str

    @property
    def source(self) -> None:
        """A run's name begins with its setting; see `kzoo.studies.cards`."""
        return

    @property
    def target(self) -> str:
        """What the run's name begins with."""
        return self.setting


class Profile(Section):
    """A profile of ``params.yaml``.

    ``data`` says by ``validation`` how many of the training images are held back; learning rates are picked on them.
    ``shown`` are the rows of the figures. ``keep`` are the arms whose networks of the first seed are kept.
    """

    data: DataSection
    teachers: dict[_Name, Teacher] = Field(min_length=2)
    teacher_training: TrainingSettings
    settings: dict[_Name, Annotated[list[str], Field(min_length=2)]] = Field(min_length=1)
    student: str = Field(min_length=1, description="small:NAME, timm:NAME, torchvision:NAME")
    seeds: list[Seed] = Field(min_length=1)
    training: TrainingSettings
    sweep: Sweep
    arms: dict[_Name, Arm] = Field(min_length=1)
    shown: list[str] = Field(min_length=1)
    keep: list[str]
    publish: Published

    @model_validator(mode="after")
    def _unique(self) -> Profile:
        for what, seeds in (("seeds", self.seeds), ("sweep.seeds", self.sweep.seeds)):
            require_unique(what, seeds)
        require_unique("sweep.rates", self.sweep.rates)
        require_unique("shown", self.shown)
        for name, one in self.teachers.items():
            require_unique(f"teachers.{name}.classes", one.places)
        for name, teachers in self.settings.items():
            require_unique(f"settings.{name}", teachers)
        if set(self.seeds) & set(self.sweep.seeds):
            raise fault("seeds and sweep.seeds share a seed: the picked rate must know nothing of the runs that count")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if self.data.validation is None or self.data.split is not None:
            raise fault("data says no validation, or a split: say how many images are held back, to pick rates on")
        for name, given in (("teacher_training", self.teacher_training), ("training", self.training)):
            if "seed" in given.model_fields_set:
                raise fault(f"{name} says seed, which comes from seeds")
        if "lr" in self.training.model_fields_set:
            raise fault("training says lr, which comes from sweep.rates")
        for name, teachers in self.settings.items():
            for teacher in teachers:
                if teacher not in self.teachers:
                    raise fault(f"the setting {name} names the teacher {teacher!r}, which is not among teachers")
        self._require_arms()
        return self

    def _require_arms(self) -> None:
        for name, arm in self.arms.items():
            if name in COMPARED:
                raise fault(f"an arm is called {name}, which is what arms are compared with")
            if arm.method not in (*AMALGAMATION, RANDOM):
                raise fault(f"the arm {name} has the method {arm.method!r}: expected kd, cfl, or random with labels")
            other = self.arms.get(arm.rate_of) if arm.rate_of is not None else None
            if arm.rate_of is not None and (other is None or other.rate_of is not None):
                raise fault(f"the arm {name} has the rate of {arm.rate_of!r}, which is no arm that is swept itself")
        if self.arms[next(iter(self.arms))].method == RANDOM:
            raise fault("the first arm learns from labels: what arms are compared with is measured beside the first")
        for what, names, known in (
            ("keep", self.keep, tuple(self.arms)),
            ("shown", self.shown, (*self.arms, *COMPARED)),
            ("publish", [self.publish.arm], tuple(self.keep)),
            ("publish", [self.publish.setting], tuple(self.settings)),
        ):
            for name in names:
                if name not in known:
                    raise fault(f"{what} names {name!r}, which is not among {', '.join(known)}")


class Way(NamedTuple):
    """An arm of a setting."""

    setting: str
    arm: str


def all_ways(profile: Profile) -> Iterator[Way]:
    """Every arm of every setting, in order."""
    for setting in profile.settings:
        for arm in profile.arms:
            yield Way(setting, arm)


def swept_ways(profile: Profile) -> list[Way]:
    """The arms of settings that are trained at every rate, in order."""
    return [way for way in all_ways(profile) if profile.arms[way.arm].rate_of is None]


def learns_from_teachers(profile: Profile, arm: str) -> bool:
    """Whether an arm has teachers, and no labels."""
    return profile.arms[arm].method != RANDOM

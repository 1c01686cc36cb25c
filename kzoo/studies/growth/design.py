"""The profile of a study of growth, and the runs that it consists of.

A *teacher* is a trained network; a *case* is one way to grow teachers, with arms that are compared: the method, what the
paper compares it with, and our controls. Every seed has teachers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from kzoo.recipe import DataSection
from kzoo.studies.design import Section
from kzoo.studies.sections import NAME, RANDOM, Rate, Seed, fault, require_unique
from kzoo.training.settings import TrainingSettings

#: The method that hands all weights on: a teacher that is simply trained further.
BY_NAME = "by_name"
#: What differences of accuracy are taken to, besides arms: the network before it was grown.
TEACHER = "teacher"

_Name = Annotated[str, StringConstraints(pattern=NAME)]


class Teacher(Section):
    """A network that is trained here, once for every seed, and then grown."""

    model: str = Field(min_length=1, description="small:NAME, timm:NAME, torchvision:NAME")
    data: str = Field(description="What it is trained on, one of data")
    img_size: int | None = Field(default=None, ge=1)


class Arm(Section):
    """One of the ways that are compared: a method of growing with its parameters, or a control.

    ``like`` makes it a random start of the network that another arm of the case grows. ``epochs`` are its training's, and
    ``data`` what it is trained on, where they are others than the study's and the case's.
    """

    method: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default={})
    like: str | None = Field(default=None, description="The arm whose network it is, with method random")
    epochs: int | None = Field(default=None, ge=1)
    data: str | None = None

    @property
    def grows(self) -> bool:
        """Whether it makes another network of its teacher."""
        return self.method not in (RANDOM, BY_NAME)

    @model_validator(mode="after")
    def _one_network(self) -> Arm:
        if (self.like is not None) != (self.method == RANDOM):
            raise fault("method random goes with like, the arm whose network it starts afresh, and like with no other")
        return self


class Case(Section):
    """Teachers that are grown alike, and the arms; ``data`` are the students' where they are not the teachers'."""

    teachers: list[str] = Field(min_length=1)
    data: str | None = None
    arms: dict[_Name, Arm] = Field(min_length=1)


class GrowthSweep(Section):
    """Which learning rates every arm is trained at, with seeds that are used for nothing else."""

    rates: list[Rate] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)


class Published(Section):
    """The run whose network is published."""

    case: str
    teacher: str
    arm: str

    @property
    def source(self) -> str:
        """What the run's name begins with; see `kzoo.studies.cards`."""
        return self.case

    @property
    def target(self) -> str:
        """What comes next in the run's name."""
        return self.teacher


class Profile(Section):
    """A profile of ``params.yaml``.

    ``levels`` are accuracies that steps are counted to: so much above the teacher's own. The arm ``random`` of a case is the
    control; at its best rate all arms are trained again, for a comparison at equal rates. ``keep`` are the arms whose
    networks of the first seed are kept.
    """

    data: dict[_Name, DataSection] = Field(min_length=1)
    teachers: dict[_Name, Teacher] = Field(min_length=1)
    teacher_training: TrainingSettings
    cases: dict[_Name, Case] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    training: TrainingSettings
    sweep: GrowthSweep
    levels: dict[_Name, Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=1)
    keep: list[str]
    publish: Published

    @model_validator(mode="after")
    def _unique(self) -> Profile:
        for what, seeds in (("seeds", self.seeds), ("sweep.seeds", self.sweep.seeds)):
            require_unique(what, seeds)
        require_unique("sweep.rates", self.sweep.rates)
        for name, case in self.cases.items():
            require_unique(f"cases.{name}.teachers", case.teachers)
        if set(self.seeds) & set(self.sweep.seeds):
            raise fault("seeds and sweep.seeds share a seed: the picked rate must know nothing of the runs that count")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        for name, teacher in self.teachers.items():
            if teacher.data not in self.data:
                raise fault(f"the teacher {name} names the data {teacher.data!r}, which are not among data")
        for name, case in self.cases.items():
            self._require_case(name, case)
        if self.teacher_training.model_fields_set & {"seed", "random_lr"}:
            raise fault("teacher_training says seed or random_lr, which come from seeds or are of no use")
        if self.training.model_fields_set & {"lr", "seed", "random_lr"}:
            raise fault("training says lr or seed, which come from sweep and seeds")
        if self.training.evaluate_every is None:
            raise fault("training must say evaluate_every: steps to an accuracy are counted in it")
        self._require_published()
        return self

    def _require_case(self, name: str, case: Case) -> None:
        for teacher in case.teachers:
            if teacher not in self.teachers:
                raise fault(f"the case {name} names the teacher {teacher!r}, which is not among teachers")
        if case.data is not None and case.data not in self.data:
            raise fault(f"the case {name} names the data {case.data!r}, which are not among data")
        if RANDOM not in case.arms or case.arms[RANDOM].method != RANDOM:
            raise fault(f"the case {name} must have the control as an arm: random: {{method: random, like: ...}}")
        for arm, chosen in case.arms.items():
            if chosen.data is not None and chosen.data not in self.data:
                raise fault(f"the arm {arm} names the data {chosen.data!r}, which are not among data")
            if arm == TEACHER:
                raise fault(f"an arm of the case {name} is called {TEACHER}, which is what arms are compared with")
            if chosen.like is not None and not (chosen.like in case.arms and case.arms[chosen.like].grows):
                raise fault(f"the arm {arm} is like {chosen.like!r}, which is no arm of the case {name} that grows")

    def _require_published(self) -> None:
        published = self.publish
        case = self.cases.get(published.case)
        if case is None or published.teacher not in case.teachers or published.arm not in case.arms:
            raise fault("publish names a run that is not among cases")
        if published.arm not in self.keep:
            raise fault("publish names an arm that is not among keep, so its network would be gone")
        known = {arm for each in self.cases.values() for arm in each.arms}
        for arm in self.keep:
            if arm not in known:
                raise fault(f"keep names {arm!r}, which is no arm of any case")


class Way(NamedTuple):
    """An arm of a case with one of its teachers."""

    case: str
    teacher: str
    arm: str


def all_ways(profile: Profile) -> Iterator[Way]:
    """Everything that is trained with one seed, in order."""
    for name, case in profile.cases.items():
        for teacher in case.teachers:
            for arm in case.arms:
                yield Way(name, teacher, arm)


def grown_ways(profile: Profile) -> list[Way]:
    """Those whose arms grow their teacher."""
    return [way for way in all_ways(profile) if profile.cases[way.case].arms[way.arm].grows]


def data_of(profile: Profile, way: Way) -> str:
    """The name of what an arm is trained on."""
    case = profile.cases[way.case]
    return case.arms[way.arm].data or case.data or profile.teachers[way.teacher].data


def epochs_of(profile: Profile, way: Way) -> int:
    """How many epochs an arm is trained for."""
    return profile.cases[way.case].arms[way.arm].epochs or profile.training.epochs

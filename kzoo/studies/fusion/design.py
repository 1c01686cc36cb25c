"""The profile of a study of fusion, and the runs that it consists of.

A *case* is images, a network and the way in which its parents began: from one ``shared`` random start, from ``different``
ones, or from a start that was ``pretrained`` on a few images of all classes. Each parent is then trained on some classes
alone, and every arm fuses the same parents. Every seed has parents of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from kzoo.recipe import DataSection
from kzoo.studies.design import Section
from kzoo.studies.sections import NAME, Seed, fault, require_unique
from kzoo.training.settings import TrainingSettings

#: How the parents of a case began.
Start = Literal["shared", "different", "pretrained"]
#: What beginnings are called: the n-th random one of a seed, and the one that was trained on a few images.
PRETRAINED = "pretrained"
#: Rows that every case has beside its arms; they come from the comparison of its first arm.
ENSEMBLES = ("ensemble_probability", "ensemble_logit")
COMPARED = ("chance", "parent", *ENSEMBLES, "start", "joint")
#: What differences may be taken to besides: the better of the two ensembles, within each seed.
ENSEMBLE = "ensemble"
#: What no arm is called.
_TAKEN = (*COMPARED, ENSEMBLE)

_Name = Annotated[str, StringConstraints(pattern=NAME)]


class Network(Section):
    """A network that parents are made of, and for how many epochs it is trained: a parent, and a start on a few images."""

    model: str = Field(min_length=1, description="small:NAME, timm:NAME, torchvision:NAME")
    epochs: int = Field(ge=1)
    pretraining_epochs: int = Field(ge=1)
    lr: float | None = Field(default=None, gt=0, le=100, description="Where it is another than the training's")


class Arm(Section):
    """One way of fusing: a method with its parameters, for all networks or some.

    ``images`` are so many training images of the task, of which each parent sees, unlabelled, those of its classes;
    ``recalibrate`` measures batch normalisation's statistics anew on as many, of all classes.
    """

    method: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default={})
    images: int | None = Field(default=None, ge=2)
    recalibrate: bool = False
    networks: list[str] | None = Field(default=None, min_length=1, description="Only these; null for all")
    starts: list[Start] | None = Field(
        default=None, min_length=1, description="Only these, where it needs weights that all parents began with"
    )

    def is_for(self, network: str, start: Start) -> bool:
        """Whether it is for parents of that network that began so."""
        return (self.networks is None or network in self.networks) and (self.starts is None or start in self.starts)


class Published(Section):
    """The run whose network is published."""

    data: str
    network: str
    start: Start
    arm: str

    @property
    def source(self) -> str:
        """What the run's name begins with; see `kzoo.studies.cards`."""
        return self.data

    @property
    def target(self) -> str:
        """What comes next in the run's name."""
        return f"{self.network}--{self.start}"


class Profile(Section):
    """A profile of ``params.yaml``.

    ``parents`` are the classes of each, by their places among the task's. ``images`` are what arms see that say nothing else;
    ``pretraining_share`` of the training images, in balanced classes, are what a start is pretrained on. ``shown`` are the
    rows of the figures. ``keep`` are the arms whose networks of the first seed are kept.
    """

    data: dict[_Name, DataSection] = Field(min_length=1)
    networks: dict[_Name, Network] = Field(min_length=1)
    starts: list[Start] = Field(min_length=1)
    parents: list[list[Annotated[int, Field(ge=0)]]] = Field(min_length=2)
    seeds: list[Seed] = Field(min_length=1)
    training: TrainingSettings
    pretraining: TrainingSettings
    pretraining_share: float = Field(gt=0, le=1)
    images: int = Field(ge=2)
    arms: dict[_Name, Arm] = Field(min_length=1)
    shown: list[str] = Field(min_length=1)
    keep: list[str]
    publish: Published

    @model_validator(mode="after")
    def _unique(self) -> Profile:
        for what, values in (("seeds", self.seeds), ("starts", self.starts), ("shown", self.shown)):
            require_unique(what, values)
        require_unique("parents", [place for places in self.parents for place in places])
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        for name, settings in (("training", self.training), ("pretraining", self.pretraining)):
            if settings.model_fields_set & {"seed", "epochs"}:
                raise fault(f"{name} says seed or epochs, which come from seeds and networks")
        first = next(iter(self.arms))
        if self.arms[first].networks is not None or self.arms[first].starts is not None:
            raise fault(
                f"the first arm, {first}, is not for every case: what arms are compared with is measured beside it"
            )
        for name, arm in self.arms.items():
            if name in _TAKEN:
                raise fault(f"an arm is called {name}, which is what arms are compared with")
            for network in arm.networks or ():
                if network not in self.networks:
                    raise fault(f"the arm {name} names the network {network!r}, which is not among networks")
        for what, names, known in (
            ("keep", self.keep, tuple(self.arms)),
            ("shown", self.shown, (*self.arms, *COMPARED)),
        ):
            for name in names:
                if name not in known:
                    raise fault(f"{what} names {name!r}, which is not among {', '.join(known)}")
        self._require_published()
        return self

    def _require_published(self) -> None:
        published = self.publish
        if published.data not in self.data or published.network not in self.networks:
            raise fault("publish names data or a network that the profile has not")
        if published.start not in self.starts or published.arm not in self.keep:
            raise fault("publish names a start that is not among starts, or an arm that is not among keep")
        if Way(published.data, published.network, published.start, published.arm) not in set(all_ways(self)):
            raise fault("publish names a run that there is not: its arm is not for that network or start")


class Case(NamedTuple):
    """Images, a network, and how its parents began."""

    data: str
    network: str
    start: Start


class Way(NamedTuple):
    """An arm of a case."""

    data: str
    network: str
    start: Start
    arm: str

    @property
    def case(self) -> Case:
        """Its case."""
        return Case(self.data, self.network, self.start)


def all_cases(profile: Profile) -> Iterator[Case]:
    """Every case, in order."""
    for data in profile.data:
        for network in profile.networks:
            for start in profile.starts:
                yield Case(data, network, start)


def arms_of(profile: Profile, case: Case) -> list[str]:
    """The arms of a case."""
    return [name for name, arm in profile.arms.items() if arm.is_for(case.network, case.start)]


def all_ways(profile: Profile) -> Iterator[Way]:
    """Everything that is fused with one seed, in order."""
    for case in all_cases(profile):
        for arm in arms_of(profile, case):
            yield Way(*case, arm)


def beginning(start: Start, parent: int) -> str:
    """What the parent of that number began with, in a case that starts so."""
    return PRETRAINED if start == PRETRAINED else f"random-{parent + 1 if start == 'different' else 1}"


def beginnings(profile: Profile) -> list[str]:
    """All that parents of a network begin with."""
    numbers = range(len(profile.parents))
    return list(dict.fromkeys(beginning(start, number) for start in profile.starts for number in numbers))


def begun_parents(profile: Profile) -> list[tuple[int, str]]:
    """The parents of a network: which of ``parents``, and what it begins with; cases may share one."""
    numbers = range(len(profile.parents))
    return list(dict.fromkeys((number, beginning(start, number)) for start in profile.starts for number in numbers))

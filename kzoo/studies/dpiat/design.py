"""The profile of the DPIAT study, and the runs that it consists of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from kzoo.recipe import DataSection
from kzoo.studies.design import Section
from kzoo.studies.sections import NAME, RANDOM, Arm, Network, Seed, Sweep, fault, require_unique
from kzoo.training.settings import TrainingSettings

_Name = Annotated[str, StringConstraints(pattern=NAME)]
_Pair = Annotated[list[_Name], Field(min_length=2, max_length=2)]


class Published(Section):
    """The run whose network is published."""

    source: str
    target: str
    arm: str


class Profile(Section):
    """A profile of ``params.yaml``.

    ``pairs`` are lists of [source, target] by what differs between the two. ``arms`` are compared with each other; the one
    named ``random`` is the control. ``keep`` are the arms whose networks of the first seed are kept.
    """

    data: DataSection
    source_training: TrainingSettings | None = None
    networks: dict[_Name, Network] = Field(min_length=1)
    pairs: dict[_Name, list[_Pair]] = Field(min_length=1)
    arms: dict[_Name, Arm] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    training: TrainingSettings
    sweep: Sweep
    keep: list[str]
    publish: Published

    @model_validator(mode="after")
    def _unique(self) -> Profile:
        require_unique("pairs", [f"{source} -> {target}" for _, source, target in all_pairs(self)])
        for what, values in (
            ("seeds", self.seeds),
            ("sweep.seeds", self.sweep.seeds),
            ("sweep.rates", self.sweep.rates),
            ("sweep.arms", self.sweep.arms),
        ):
            require_unique(what, values)
        if set(self.seeds) & set(self.sweep.seeds):
            raise fault("seeds and sweep.seeds share a seed: the picked rate must know nothing of the runs that count")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        for _, source, target in all_pairs(self):
            for name in (source, target):
                if name not in self.networks:
                    raise fault(f"pairs name the network {name!r}, which is not among networks")
            if not self.networks[source].is_source:
                raise fault(f"{source} is a source, so networks must say zoo or trained of it")
        if self.source_training is None and any(network.trained is not None for network in self.networks.values()):
            raise fault("networks are trained, but source_training does not say how")
        if self.arms.get(RANDOM) != Arm(method=RANDOM):
            raise fault("arms must hold the control: random: {method: random}")
        for name, arm in self.arms.items():
            if odd := set(arm.groups or ()) - set(self.pairs):
                raise fault(f"the arm {name} names the group {min(odd)!r}, but pairs has {', '.join(self.pairs)}")
        for name in (*self.keep, *self.sweep.arms, self.publish.arm):
            if name not in self.arms:
                raise fault(f"{name!r} is not among arms")
        if RANDOM not in self.sweep.arms:
            raise fault("sweep.arms must hold random: its best rate is used for all arms")
        if self.training.model_fields_set & {"lr", "seed", "random_lr"}:
            raise fault("training says lr or seed, which come from sweep and seeds")
        if (self.publish.source, self.publish.target) not in {pair[1:] for pair in pairs_of(self, self.publish.arm)}:
            raise fault("publish names a pair that is not among pairs")
        if self.publish.arm not in self.keep:
            raise fault("publish names an arm that is not among keep, so its network would be gone")
        return self


class Pair(NamedTuple):
    """A source and a target, and what differs between them."""

    group: str
    source: str
    target: str


def all_pairs(profile: Profile) -> Iterator[Pair]:
    """The pairs of all groups, in order."""
    for group, pairs in profile.pairs.items():
        for source, target in pairs:
            yield Pair(group, source, target)


def targets(profile: Profile) -> list[str]:
    """The targets, each once."""
    return list(dict.fromkeys(pair.target for pair in all_pairs(profile)))


def pairs_of(profile: Profile, arm: str) -> list[Pair]:
    """The pairs that an arm is run on."""
    groups = profile.arms[arm].groups
    return [pair for pair in all_pairs(profile) if groups is None or pair.group in groups]


def carrying_arms(profile: Profile) -> list[str]:
    """The arms that carry something over: all but the control."""
    return [name for name in profile.arms if name != RANDOM]

"""Parts of ``params.yaml`` that several kinds of study have, and the recipes that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kzoo.faults import RULE
from kzoo.recipe import DataSection, Recipe, TargetSection
from kzoo.studies.design import Section
from kzoo.training.settings import TrainingSettings

#: A name that may be a file's, and a part of a run's name.
NAME = r"^[A-Za-z0-9](-?[A-Za-z0-9_.])*$"
RANDOM = "random"

Seed = Annotated[int, Field(ge=0, lt=2**63)]
#: As the settings of a training take it.
Rate = Annotated[float, Field(gt=0, le=100)]


def fault(sentence: str) -> PydanticCustomError:
    """What a validator raises; the sentence stands behind file, line and field."""
    return PydanticCustomError(RULE, "{sentence}", {"sentence": sentence})


def require_unique(what: str, values: Sequence[object]) -> None:
    """Refuse what stands twice in a list.

    Raises:
        PydanticCustomError: something does.
    """
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise fault(f"{what} has {twice} twice: keep one of them")


class Network(Section):
    """A network by the name that a study gives it.

    As a source it is one of the zoo's, or is trained from scratch here; with neither it is a target only.
    """

    model: str = Field(min_length=1, description="small:NAME, timm:NAME, torchvision:NAME")
    zoo: str | None = Field(default=None, pattern=NAME, description="The trained network of the embedded zoo")
    trained: int | None = Field(
        default=None, ge=0, lt=2**63, description="The seed with which it is trained here, by source_training"
    )
    img_size: int | None = Field(default=None, ge=1)

    @property
    def is_source(self) -> bool:
        """Whether there are weights of it, or will be."""
        return self.zoo is not None or self.trained is not None

    @model_validator(mode="after")
    def _one_origin(self) -> Network:
        if self.zoo is not None and self.trained is not None:
            raise fault("it is taken from the zoo and trained: give one of zoo and trained")
        return self


class Arm(Section):
    """One of the ways that are compared: a method of `kzoo.transfer` with its parameters."""

    method: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default={})
    groups: list[str] | None = Field(default=None, min_length=1, description="Only pairs of these groups; null for all")


class Sweep(Section):
    """Which learning rates are tried, with seeds that are used for nothing else."""

    rates: list[Rate] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    arms: list[str] = Field(min_length=1, description="Tried at every rate; the control is one of them")


def target_section(network: Network, data: DataSection, classes: int, seed: int) -> TargetSection:
    """The target of a recipe: the network with a head and input channels that fit the data."""
    return TargetSection(
        model=network.model, classes=classes, in_chans=data.channels, img_size=network.img_size, seed=seed
    )


def scratch_recipe(network: Network, data: DataSection, classes: int, training: TrainingSettings) -> Recipe:
    """The recipe of a network that is trained from a random start; one seed decides that and the order of images."""
    return Recipe(
        target=target_section(network, data, classes, training.seed),
        method=RANDOM,
        data=data,
        training=training,
        threads=training.threads,
    )

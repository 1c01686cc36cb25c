"""What a training reports: plain data, with what is the same from run to run apart from what the clock says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kzoo.errors import InputError


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Evaluation(_Record):
    """All test images seen once, after ``step`` steps; loss is the mean cross-entropy, accuracy from 0 to 1."""

    step: int
    test_loss: float
    test_accuracy: float


class Epoch(_Record):
    """One epoch; ``epoch`` counts from 1, ``step`` is the number of steps so far.

    ``loss`` and ``accuracy`` are means over the training images as they were seen, with the network changing meanwhile;
    ``lr`` has the last step's learning rate of each group of parameters.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    lr: dict[str, float]


class Timing(_Record):
    """What an epoch's steps took, in seconds, without tests and checkpoints."""

    epoch: int
    seconds: float
    images_per_second: float


class History(BaseModel):
    """What happened in a training.

    ``evaluations`` are all tests in the order of steps, at the end of epochs and between them. ``diverged`` is the
    number of the step whose loss, or whose test, was not finite, and None where all was well.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    epochs: list[Epoch] = Field(default=[])
    evaluations: list[Evaluation] = Field(default=[])
    diverged: int | None = None
    timings: list[Timing] = Field(default=[])

    def to_dict(self, timings: bool = True) -> dict[str, Any]:
        """Plain data for JSON; without timings it is the same for the same training, to the last bit."""
        return self.model_dump(exclude=None if timings else {"timings"})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> History:
        """The history of what `to_dict` gave.

        Raises:
            InputError: it is something else.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise InputError(
                f"this is no history of a training ({where}: {fault['msg']}): expected to_dict's"
            ) from None

    def steps_to(self, accuracy: float) -> int | None:
        """The first step after which a test had this accuracy or more; None if none had."""
        reached = (found.step for found in self.evaluations if found.test_accuracy >= accuracy)
        return next(reached, None)

    @property
    def best(self) -> Evaluation | None:
        """The first test with the highest accuracy; None before any test."""
        return max(self.evaluations, key=lambda found: found.test_accuracy, default=None)

    @property
    def final(self) -> Evaluation | None:
        """The last test; None before any test."""
        return self.evaluations[-1] if self.evaluations else None

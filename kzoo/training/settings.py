"""How a network is trained: every setting with its bounds, as plain data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kzoo.errors import InputError


class TrainingSettings(BaseModel):
    """The settings of one training; `read_settings` makes them of a mapping and says what is wrong with it."""

    # Strict: the text "3" and the truth value True are no numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: int = Field(10, ge=1, le=100_000, description="How often all training images are seen")
    steps: int | None = Field(None, ge=1, description="End after so many steps, should the epochs last longer")
    batch_size: int = Field(64, ge=1, le=65_536, description="Images per step, over all processes together")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="torch's optimizer of that name")
    lr: float = Field(1e-3, gt=0, le=100, description="Learning rate at the schedule's factor 1")
    random_lr: float | None = Field(
        None, gt=0, le=100, description="Learning rate of the group named random (parameters that were not transferred)"
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="As torch's optimizers take it, for all parameters")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd; the others do not use it")
    schedule: Literal["constant", "cosine", "paper"] = Field("constant", description="How the rate falls")
    warmup_steps: int = Field(
        0, ge=0, description="Over so many steps the rate rises linearly to what the schedule says"
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest norm of all gradients together")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label that is spread over all classes")
    augment: Literal["none", "shift", "flip", "shift_flip"] = Field(
        "none", description="Each image shifted by up to an eighth of its size, mirrored half the time, or both"
    )
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="Numbers of the forward pass")
    seed: int = Field(0, ge=0, lt=2**63, description="Decides the order of images, augmentation, dropout and the like")
    threads: int | None = Field(None, ge=1, le=1024, description="Threads of torch; unset leaves them as they are")
    deterministic: bool = Field(True, description="Only operations that give the same bytes each time")
    evaluate_every: int | None = Field(
        None, ge=1, description="Test after so many steps too, and before the first; unset tests after each epoch only"
    )
    workers: int = Field(0, ge=0, le=256, description="Processes that read images from files")


def read_settings(values: Mapping[str, Any]) -> TrainingSettings:
    """The settings of a mapping; what it does not name has its default.

    Raises:
        InputError: a name is unknown, or a value is out of its bounds or of another type.
    """
    try:
        return TrainingSettings.model_validate(dict(values))
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(_sentence(str(fault["loc"][0]) if fault["loc"] else "", fault)) from None


def _sentence(name: str, fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name.lower(), TrainingSettings.model_fields, n=3, cutoff=0.0)
        return f"{name!r} is no training setting: nearest are {', '.join(near)}"
    # pydantic says "Input should be ..." or names the type.
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("a valid ").rstrip(".")
    return f"training setting {name}={fault['input']!r:.60} is not possible: expected {expected}"

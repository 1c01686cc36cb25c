from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
from pydantic import ValidationError

from kzoo import InputError
from kzoo.training.schedules import rate_factor
from kzoo.training.settings import TrainingSettings, read_settings


def test_what_is_not_named_has_its_default() -> None:
    settings = read_settings({"lr": 1, "steps": 7})
    assert settings.model_dump() == TrainingSettings().model_dump() | {"lr": 1.0, "steps": 7}
    assert read_settings(settings.model_dump()) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.lr = 2.0


@pytest.mark.parametrize(
    "values, words",
    [
        ({"learning_rate": 1}, "'learning_rate' is no training setting: nearest are "),
        ({"batch": 64}, "'batch' is no training setting: nearest are batch_size"),
        ({"lr": 0}, r"training setting lr=0 is not possible: expected greater than 0$"),
        ({"lr": float("nan")}, "lr=nan is not possible: expected "),
        ({"lr": "0.1"}, "lr='0.1' is not possible: expected number"),
        ({"random_lr": 101}, "random_lr=101 is not possible: expected less than or equal to 100"),
        ({"epochs": 0}, "epochs=0 is not possible: expected greater than or equal to 1"),
        ({"epochs": True}, "epochs=True is not possible: expected integer"),
        ({"steps": 0}, "steps=0 is not possible"),
        ({"batch_size": 2**16 + 1}, "batch_size=65537 is not possible"),
        ({"optimizer": "lion"}, "optimizer='lion' is not possible: expected 'adam', 'adamw' or 'sgd'"),
        ({"schedule": "step"}, "schedule='step' is not possible: expected 'constant', 'cosine' or 'paper'"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 is not possible"),
        ({"momentum": 1}, "momentum=1 is not possible: expected less than 1"),
        ({"warmup_steps": -1}, "warmup_steps=-1 is not possible"),
        ({"clip_norm": 0}, "clip_norm=0 is not possible"),
        ({"label_smoothing": 1}, "label_smoothing=1 is not possible"),
        ({"augment": "mixup"}, "augment='mixup' is not possible: expected 'none', "),
        ({"precision": "fp8"}, "precision='fp8' is not possible: expected 'float32', 'bf16' or 'fp16'"),
        ({"seed": -1}, "seed=-1 is not possible"),
        ({"threads": 0}, "threads=0 is not possible"),
        ({"deterministic": 1}, "deterministic=1 is not possible: expected boolean"),
        ({"evaluate_every": 0}, "evaluate_every=0 is not possible"),
        ({"workers": -1}, "workers=-1 is not possible"),
        ({"clip_norm": "x" * 500}, "clip_norm='x+ is not possible"),
    ],
)
def test_wrong_settings_get_a_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_settings(values)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "schedule, step, factor",
    [
        ("constant", 0, 1.0),
        ("constant", 999, 1.0),
        ("cosine", 0, 1.0),
        ("cosine", 50, 0.5),
        ("cosine", 25, (1 + cos(pi / 4)) / 2),
        ("paper", 9, 1.0),
        # The rate of an epoch holds for all its steps: here 10 each.
        ("paper", 500, 0.55),
        ("paper", 509, 0.55),
        ("paper", 1000, 0.1),
        ("paper", 255, 0.1 + 0.9 * (1 + cos(pi / 4)) / 2),
    ],
)
def test_schedules(schedule: str, step: int, factor: float) -> None:
    assert rate_factor(read_settings({"schedule": schedule}), step, 10, 100) == pytest.approx(factor, abs=1e-15)


def test_the_rate_rises_first() -> None:
    constant = read_settings({"warmup_steps": 4})
    assert [rate_factor(constant, step, 10, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = read_settings({"warmup_steps": 20, "schedule": "cosine"})
    assert rate_factor(cosine, 19, 10, 100) == 1
    assert rate_factor(cosine, 60, 10, 100) == pytest.approx(0.5)
    paper = read_settings({"warmup_steps": 1000, "schedule": "paper"})
    assert rate_factor(paper, 500, 10, 2000) == pytest.approx(0.55 * 0.501)
    longer = read_settings({"warmup_steps": 200, "schedule": "cosine"})
    assert rate_factor(longer, 99, 10, 100) == 0.5

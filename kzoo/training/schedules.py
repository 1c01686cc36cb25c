"""The learning rate of each step."""

from __future__ import annotations

from math import cos, pi

from kzoo.training.settings import TrainingSettings

#: Epochs after which the paper's rate has reached its lowest, a tenth.
_PAPER_EPOCHS = 100


def rate_factor(settings: TrainingSettings, step: int, steps_per_epoch: int, steps: int) -> float:
    """What the learning rates are multiplied by at a step, counted from 0, of a training of so many steps.

    A function of the step alone, so that a training that goes on later needs no memory of it.
    """
    warmup = settings.warmup_steps
    rising = (step + 1) / warmup if step < warmup else 1.0
    if settings.schedule == "cosine":
        # Falls from the end of the warm-up; one that takes the whole training leaves nothing to fall.
        return rising * (1 + cos(pi * max(step - warmup, 0) / max(steps - warmup, 1))) / 2
    if settings.schedule == "paper":
        epoch = step // steps_per_epoch
        return rising * (0.1 + 0.9 * (1 + cos(pi * epoch / _PAPER_EPOCHS)) / 2)
    return rising

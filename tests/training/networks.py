"""Small networks and tasks for training."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from kzoo.training.data import load_task
from kzoo.training.tasks import Split, Task, make_task


@cache
def digits() -> Task:
    return load_task("digits")


@cache
def few_digits() -> Task:
    return load_task("digits", train=200, test=60)


def network(seed: int = 0) -> nn.Sequential:
    """Convolutions with batch normalisation and dropout, for digits."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, 10),
    )


def made_up(train: int = 6, test: int = 4, classes: int = 3, channels: int = 1) -> Task:
    """Noise with labels in turn."""
    generator = torch.Generator().manual_seed(5)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, channels, 8, 8), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(count) % classes)

    return make_task("made up", tuple(map(str, range(classes))), split(train), split(test))


def linear(classes: int = 3) -> nn.Sequential:
    """A linear model of 8x8 pixels in float64."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).double()


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all tensors are equal, bit for bit."""
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())

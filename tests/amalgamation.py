"""Teachers of different families for tests of amalgamation: each knows some of the digits."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from kzoo.edits import copied
from kzoo.methods.amalgamation.teachers import Teacher, teacher
from kzoo.training.data import load_task
from kzoo.training.loop import train
from kzoo.training.networks import small_network
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Task, restricted

#: Networks with what they know; the last two share three digits.
KNOWN = {"small:vgg-1x8": "01234", "small:vit-2x32": "56789", "small:mobilenet-1x8": "2345"}


@cache
def digits() -> Task:
    return load_task("digits", train=400, test=200, size=16, channels=1)


def network(name: str, classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return small_network(name.removeprefix("small:"), classes=classes, channels=1)


@cache
def _trained(name: str) -> nn.Module:
    module = network(name, len(KNOWN[name]))
    # A transformer needs longer.
    epochs, lr = (30, 2e-3) if "vit" in name else (8, 5e-3)
    settings = TrainingSettings(epochs=epochs, lr=lr, batch_size=32, threads=1, schedule="cosine", warmup_steps=20)
    train(module, restricted(digits(), list(KNOWN[name]), relabelled=True), settings)
    return module


def teachers(count: int = 2) -> list[Teacher]:
    """The first so many teachers, trained for a moment once."""
    example = digits().train.images[:2]
    return [teacher(name, copied(_trained(name)), KNOWN[name], example) for name in list(KNOWN)[:count]]

"""Common feature learning beside plain distillation of the same student: ``python -m benchmarks.amalgamating``, some minutes.

Steps per second of epochs in which the teachers' answers are already known. The baseline is a loop written by hand that only
distils soft targets, which it has in memory; beside it stand our ``kd`` and the arms of ``cfl``. On a GPU networks are of the
usual size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from benchmarks.common import summary, write
from benchmarks.training import MEAN, STD
from kzoo.methods.amalgamation.parameters import CflParameters, KdParameters
from kzoo.methods.amalgamation.teachers import Teacher, teacher
from kzoo.methods.amalgamation.teaching import teach
from kzoo.training.data import load_task
from kzoo.training.networks import small_network
from kzoo.training.objectives import Unlabelled
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Task

REPEATS, EPOCHS, BATCH, IMAGES = 5, 4, 64, 1280
CLASSES = "0123456789"
#: Size of images, teachers, student.
CASES = {
    "small networks": (16, ("resnet-1x16", "convnext-1x16"), "resnet-1x16"),
    "larger ones": (32, ("resnet-1x16", "convnext-1x16"), "resnet-2x24"),
}
ON_GPU = {"networks of the usual size": (96, ("resnet34", "regnety_008"), "resnet50")}
ARMS = {"kd": KdParameters(), "mmd": CflParameters(parts="mmd"), "full": CflParameters()}


def network(name: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    if "-" in name:
        return small_network(name, classes=classes, channels=1)
    return timm.create_model(name, num_classes=classes, in_chans=1)


def by_hand(student: nn.Module, images: Tensor, targets: Tensor) -> float:
    """Steps per second of the plainest loop: no tests, no history, no determinism; the median of its epochs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = student.to(device).train()
    images, targets = images.to(device), targets.to(device)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    found = []
    for _ in range(EPOCHS):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        parts = torch.randperm(len(images)).to(device).split(BATCH)
        for picked in parts:
            logits = model((images[picked].float() / 255 - MEAN) / STD)
            loss = -(targets[picked] * log_softmax(logits, 1)).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
        total.item()
        found.append(len(parts) / (time.perf_counter() - started))
    return statistics.median(found[1:])


def by_kzoo(student: nn.Module, teachers: Sequence[Teacher], task: Task, parameters: KdParameters) -> float:
    """Steps per second of ours, the median of its epochs but the first, which asks the teachers."""
    settings = TrainingSettings(epochs=EPOCHS, batch_size=BATCH, lr=1e-3, threads=1)
    images = Unlabelled(task.train.images)
    found = teach(student, teachers, images, parameters, settings, classes=list(CLASSES), test=task.test)
    steps = -(-len(task.train) // BATCH)
    return statistics.median(steps / timing.seconds for timing in found.history.timings[1:])


def compared(size: int, names: Sequence[str], student: str) -> dict[str, Any]:
    """All in turn, so that whatever else the machine does meets all."""
    task = load_task(f"glyphs:{CLASSES}", train=IMAGES, test=100, size=size, channels=1)
    halves = (CLASSES[:5], CLASSES[5:])
    teachers = [
        teacher(name, network(name, 5), list(known), task.train.images[:2])
        for name, known in zip(names, halves, strict=True)
    ]
    with torch.no_grad():
        answers = [one.answer(part)[1] for part in task.train.images.split(BATCH) for one in teachers]
    targets = torch.cat([torch.cat(pair, 1) for pair in zip(answers[::2], answers[1::2], strict=True)]).softmax(1)
    rates: dict[str, list[float]] = {"by_hand": [], **{arm: [] for arm in ARMS}}
    for _ in range(REPEATS):
        rates["by_hand"].append(by_hand(network(student, len(CLASSES)), task.train.images, targets))
        for arm, parameters in ARMS.items():
            rates[arm].append(by_kzoo(network(student, len(CLASSES)), teachers, task, parameters))
    plain = rates["by_hand"]
    return {
        "size": size,
        "teachers": list(names),
        "student": student,
        "batch": BATCH,
        "steps_per_second": {name: summary(values, 2) for name, values in rates.items()},
        "times_by_hand": {
            arm: summary([ours / hand for ours, hand in zip(rates[arm], plain, strict=True)], 3) for arm in ARMS
        },
    }


def main() -> None:
    torch.set_num_threads(1)
    cases = ON_GPU if torch.cuda.is_available() else CASES
    write(
        "amalgamating", {"torch": torch.__version__, "cases": {name: compared(*case) for name, case in cases.items()}}
    )


if __name__ == "__main__":
    main()

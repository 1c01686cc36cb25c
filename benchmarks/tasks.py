"""How hard the tasks are, and how fast they are made: ``python -m benchmarks.tasks``, about three minutes."""

from __future__ import annotations

import time
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmarks.common import peak_memory_mb, write
from kzoo.training.data import Task, load_task

BATCH, LEARNING_RATE, EPOCHS, CONVERGED = 128, 1e-3, 4, 12
#: Steps after which the small network is tested, besides the end of each epoch.
STEPS = (50, 100, 200, 300)


def network(task: Task) -> nn.Module:
    """Three convolutions, each with half the size of the one before, and a linear layer."""
    layers: list[nn.Module] = []
    for before, after in ((task.channels, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (task.size // 8) ** 2, len(task.classes)))


def floats(images: Any) -> Tensor:
    found: Tensor = images[:].float() / 127.5 - 1
    return found


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    predicted = torch.cat([model(part).argmax(1) for part in images.split(1000)])
    return round((predicted == labels).double().mean().item(), 4)


def trained(task: Task, epochs: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Test accuracy of the small network after some steps and after each epoch; Adam, one rate throughout."""
    torch.manual_seed(seed)
    model = network(task)
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    images, test = floats(task.train.images), floats(task.test.images)
    found: dict[str, dict[str, float]] = {"steps": {}, "epochs": {}}
    step = 0
    for epoch in range(1, epochs + 1):
        for picked in torch.randperm(len(images)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[picked]), task.train.labels[picked]).backward()
            optimiser.step()
            step += 1
            if step in STEPS:
                found["steps"][str(step)] = accuracy(model, test, task.test.labels)
        found["epochs"][str(epoch)] = accuracy(model, test, task.test.labels)
    return found


def linear(task: Task) -> float:
    """Test accuracy of logistic regression on the pixels."""
    images, test = (floats(split.images).flatten(1).numpy() for split in (task.train, task.test))
    model = LogisticRegression(max_iter=100).fit(images, task.train.labels.numpy())
    return round(float(model.score(test, task.test.labels.numpy())), 4)


def difficulty(task: Task) -> dict[str, Any]:
    curve = trained(task, CONVERGED)
    return {
        "classes": len(task.classes),
        "train": len(task.train),
        "test": len(task.test),
        "size": task.size,
        "fingerprint": task.fingerprint,
        "linear": linear(task),
        "cnn_after_1_epoch": curve["epochs"]["1"],
        f"cnn_after_{EPOCHS}_epochs": curve["epochs"][str(EPOCHS)],
        f"cnn_after_{CONVERGED}_epochs": curve["epochs"][str(CONVERGED)],
        "cnn_by_step": curve["steps"],
        "cnn_by_epoch": curve["epochs"],
    }


def main() -> None:
    torch.set_num_threads(1)
    started = time.perf_counter()
    glyphs = load_task("glyphs", train=20_000, test=5_000, size=32)
    made = round(time.perf_counter() - started, 2)
    result = {
        "torch": torch.__version__,
        "threads": 1,
        "glyphs_20000_and_5000_of_32x32_s": made,
        "peak_memory_mb": peak_memory_mb(),
        "tasks": {"digits": difficulty(load_task("digits")), "glyphs": difficulty(glyphs)},
    }
    write("tasks", result)


if __name__ == "__main__":
    main()

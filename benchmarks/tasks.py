"""How hard the tasks are, and how fast they are made: ``python -m benchmarks.tasks``, about five minutes."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmarks.common import peak_memory_mb, write
from kzoo.training.data import Task, load_task

BATCH, LEARNING_RATE, CONVERGED = 128, 1e-3, 12
SEEDS = (0, 1, 2)
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


def linear(task: Task) -> tuple[float, float]:
    """Training and test accuracy of logistic regression on the pixels, after at most 100 rounds of its solver."""
    parts = [(floats(split.images).flatten(1).numpy(), split.labels.numpy()) for split in (task.train, task.test)]
    with warnings.catch_warnings():
        # More rounds would fit the training images of glyphs better still, not the test images.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=100).fit(*parts[0])
    train, test = (round(float(model.score(*part)), 4) for part in parts)
    return train, test


def difficulty(task: Task) -> dict[str, Any]:
    curves = [trained(task, CONVERGED, seed) for seed in SEEDS]

    def median(unit: str) -> dict[str, float]:
        return {at: statistics.median(curve[unit][at] for curve in curves) for at in curves[0][unit]}

    on_train, on_test = linear(task)
    return {
        "classes": len(task.classes),
        "train": len(task.train),
        "test": len(task.test),
        "size": task.size,
        "fingerprint": task.fingerprint,
        "linear": on_test,
        "linear_on_training_images": on_train,
        "cnn_median_by_step": median("steps"),
        "cnn_median_by_epoch": median("epochs"),
        "cnn_by_seed": curves,
    }


def difficulty_table(result: dict[str, Any]) -> str:
    """The table of docs/tasks.md: test accuracy in percent."""

    def percent(values: dict[str, float], at: str) -> str:
        return f"{values[at]:.1%}" if at in values else "-"

    lines = [
        "| task | linear | network, 100 steps | 200 steps | 300 steps | 1 epoch | 4 epochs | 12 epochs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, task in result["tasks"].items():
        steps, epochs = task["cnn_median_by_step"], task["cnn_median_by_epoch"]
        cells = [percent(steps, at) for at in ("100", "200", "300")] + [percent(epochs, at) for at in ("1", "4", "12")]
        lines.append(f"| `{name}` | {task['linear']:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    print(difficulty_table(result))


if __name__ == "__main__":
    main()

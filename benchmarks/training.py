"""The training loop beside one written by hand: ``python -m benchmarks.training``, about three minutes on a CPU.

On a GPU it trains a ResNet-50 in bf16 instead of small networks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import accelerate
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.common import seconds, summary, write
from benchmarks.tasks import network
from kzoo.training.data import load_task
from kzoo.training.loop import train
from kzoo.training.settings import read_settings
from kzoo.training.tasks import Split, Task, make_task

REPEATS, EPOCHS = 11, 4
MEAN, STD = 0.449, 0.226
Network = Callable[[Task], nn.Module]


def by_hand(make: Network, task: Task, batch: int, precision: str) -> float:
    """Images per second of the plainest loop: no tests, no history, no determinism; the median of its epochs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make(task).to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    images, labels = task.train.images[:].to(device), task.train.labels.to(device)
    found = []
    for _ in range(EPOCHS):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        for picked in torch.randperm(len(labels)).to(device).split(batch):
            pixels = (images[picked].float() / 255 - MEAN) / STD
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = cross_entropy(model(pixels), labels[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(picked)
        total.item()
        found.append(len(labels) / (time.perf_counter() - started))
    return statistics.median(found[1:])


def by_kzoo(make: Network, task: Task, batch: int, precision: str, deterministic: bool = True) -> float:
    """Images per second of ours, the median of its epochs."""
    values = {"epochs": EPOCHS, "batch_size": batch, "precision": precision, "deterministic": deterministic}
    history = train(make(task), task, read_settings(values))
    return statistics.median(timing.images_per_second for timing in history.timings[1:])


def compared(make: Network, task: Task, batch: int, precision: str = "float32") -> dict[str, Any]:
    """Both in turn, so that whatever else the machine does meets both."""
    rates: dict[str, list[float]] = {"by_hand": [], "kzoo": [], "kzoo_not_deterministic": []}
    for _ in range(REPEATS):
        rates["by_hand"].append(by_hand(make, task, batch, precision))
        rates["kzoo"].append(by_kzoo(make, task, batch, precision))
        rates["kzoo_not_deterministic"].append(by_kzoo(make, task, batch, precision, deterministic=False))
    plain = rates["by_hand"]
    overheads = {
        f"overhead_of_{name}": summary([hand / ours - 1 for hand, ours in zip(plain, values, strict=True)], 4)
        for name, values in rates.items()
        if values is not plain
    }
    return {
        "images": len(task.train),
        "size": task.size,
        "batch": batch,
        "precision": precision,
        "images_per_second": {name: summary(values, 1) for name, values in rates.items()},
        **overheads,
    }


def made_up(count: int, size: int) -> Task:
    """Noise in colour, for networks too large for the small tasks."""
    images = torch.randint(0, 256, (count + 64, 3, size, size), dtype=torch.uint8)
    labels = torch.arange(count + 64) % 10
    classes = tuple(map(str, range(10)))
    return make_task("noise", classes, Split(images[:count], labels[:count]), Split(images[count:], labels[count:]))


def resnet(name: str) -> Network:
    def make(task: Task) -> nn.Module:
        model: nn.Module = timm.create_model(name, num_classes=len(task.classes), in_chans=task.channels)
        return model

    return make


def set_up() -> dict[str, float]:
    """Milliseconds of a whole call that trains one step on 20 images and tests on 20; the first of a process apart."""
    task = load_task("digits", train=20, test=20)
    settings = read_settings({"epochs": 1})
    calls = [1000 * seconds(lambda: train(network(task), task, settings)) for _ in range(51)]
    return {"first": round(calls[0], 2), **summary(calls[1:], 2)}


def cases() -> dict[str, dict[str, Any]]:
    if torch.cuda.is_available():
        return {"resnet50": compared(resnet("resnet50"), made_up(4096, 224), 128, "bf16")}
    return {
        "digits": compared(network, load_task("digits"), 64),
        "glyphs": compared(network, load_task("glyphs", train=4000, test=100), 64),
    }


def overhead_table(result: dict[str, Any]) -> str:
    """The table of docs/training.md: images per second, and how much longer an image takes."""
    lines = ["| task | by hand | kzoo | overhead (quartiles) |", "| --- | --- | --- | --- |"]
    for name, case in result["networks"].items():
        rates, more = case["images_per_second"], case["overhead_of_kzoo"]
        cells = [f"{rates[whose]['median']:,.0f} images/s" for whose in ("by_hand", "kzoo")]
        spread = f"{more['quartile_1']:.1%} to {more['quartile_3']:.1%}"
        lines.append(f"| `{name}` | {' | '.join(cells)} | {more['median']:.1%} ({spread}) |")
    return "\n".join(lines)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    result = {
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": 1,
        "call_of_one_step_ms": set_up(),
        "networks": cases(),
    }
    write("training", result)
    print(overhead_table(result))


if __name__ == "__main__":
    main()

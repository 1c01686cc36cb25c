"""What a study's tables say of single runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]


def accuracy_after(record: Mapping[str, Any], epoch: int) -> float:
    """The test accuracy of a run after so many epochs; 0 of a run that diverged at any time."""
    epochs = record["epochs"]
    return float(epochs[epoch - 1]) if len(epochs) >= epoch else 0.0


def last_accuracy(record: Mapping[str, Any]) -> float:
    """The test accuracy of a run at its end; 0 of a run that diverged."""
    return float(record["epochs"][-1]) if record["epochs"] else 0.0


def run_name(source: str | None, target: str, arm: str, *numbers: object) -> str:
    """The name of a run, which is that of its folder, too."""
    parts = [*([] if source is None else [source]), target, arm, *map(str, numbers)]
    return "--".join(parts)

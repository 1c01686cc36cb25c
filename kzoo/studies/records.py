"""What a study's tables say of single runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kzoo.methods.growth import GrowthReport
    from kzoo.running import Result

Record = dict[str, Any]
#: What is told of a layer that DILS inserted.
_ERRORS = ("error", "identity_error")


def told_of(result: Result) -> Record:
    """What a record says of a recipe's result, beside its name and the sha256 of its weights.

    ``epochs`` are test accuracies after each epoch. Where tests between epochs were asked for, ``tests`` are all of them: step
    and accuracy. Where nothing was trained there is one, with its ``loss``. Of a network that was grown: ``network``, its model and the edits of its
    structure; ``parameters``, how many it has; ``insertions``, of DILS; and of DILS's loop ``loop``, what each step did.
    Of a fusion that was compared: ``comparison``, the accuracy of each row.
    """
    history, metrics, training = result.history, result.metrics, result.recipe.training
    # What a transfer reports has none of these.
    report: Any = result.report if hasattr(result.report, "insertions") else None
    loop = None if report is None else report.steps
    told: Record = {}
    if history is not None:
        told["epochs"] = [round(epoch.test_accuracy, 6) for epoch in history.epochs]
        if training is not None and training.evaluate_every is not None:
            told["tests"] = [[each.step, round(each.test_accuracy, 6)] for each in history.evaluations]
    elif metrics is not None:
        accuracy = round(metrics["test"]["accuracy"], 6)
        told["tests"] = [[0 if loop is None else loop_steps(loop), accuracy]]
        told["loss"] = round(metrics["test"]["loss"], 6)
        if loop is not None:
            told["epochs"] = [accuracy]
    if metrics is not None and "comparison" in metrics:
        rows = metrics["comparison"]["rows"]
        told["comparison"] = {name: round(row["accuracy"], 6) for name, row in rows.items()}
    return told if report is None else told | _growth(report, result)


def _growth(report: GrowthReport, result: Result) -> Record:
    told: Record = {
        "parameters": report.after,
        "insertions": [
            {key: value if value is None else round(value, 6) for key, value in each.items() if key in _ERRORS}
            for each in report.insertions
        ],
        "network": {"model": str(result.network), "edits": [dict(edit) for edit in result.network.edits]},
    }
    if report.steps is not None:
        keys = ("at", "kept", "error", "accuracy_before", "accuracy_inherited", "accuracy", "best_epoch")
        steps = [{key: step[key] for key in keys if key in step} for step in report.steps["steps"]]
        told["loop"] = [
            {key: round(value, 6) if isinstance(value, float) else value for key, value in step.items()}
            for step in steps
        ]
    return told


def loop_steps(loop: Mapping[str, Any]) -> int:
    """How many steps DILS's loop has trained in all, by what it tells of itself."""
    return sum(int(step["epochs"][-1]["step"]) for step in loop["steps"] if step.get("epochs"))


def mean_accuracy(record: Mapping[str, Any]) -> float:
    """The mean accuracy over a training's tests, without that before the first step; 0 of a run that diverged."""
    if record["diverged"] is not None:
        return 0.0
    return float(statistics.mean(accuracy for step, accuracy in record["tests"] if step > 0))


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

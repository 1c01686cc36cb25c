"""DILS's outer loop: insert a layer, check what is inherited, train, keep the best, go on. A reconstruction, see `dils`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kzoo.edits import Edit, copied, find_module
from kzoo.errors import InputError
from kzoo.loading import load_values
from kzoo.methods.dils import DilsOptions, Insertion, Where, insert
from kzoo.training.batches import batch_ranges, prepare
from kzoo.training.evaluation import evaluate, place
from kzoo.training.loop import train
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Split, Task, make_task, parted

Position = str | Mapping[str, str]
_TAG = "_kzoo_position"
LABEL = "DILS, reconstructed from the abstract of doi 10.3389/fnbot.2023.1337130"


@dataclass(frozen=True)
class StepwiseOptions:
    """How the loop goes on.

    ``most_lost`` is how much accuracy (0 to 1) an insertion may cost; one that costs more is approximated with a network, and
    left out if that does not help. It ends after ``most`` insertions, when the accuracy is ``target``, or when an insertion and
    its training gain less than ``least_gain`` (None: never). ``policy`` takes the positions in order, or each time the one with
    the smallest error. ``calibration`` is how many training images insertions are solved on.
    """

    insertion: DilsOptions = field(default_factory=DilsOptions)
    policy: Literal["order", "smallest_error"] = "order"
    most_lost: float = 0.02
    least_gain: float | None = None
    target: float | None = None
    most: int | None = None
    calibration: int = 2048


@dataclass(frozen=True)
class Stepwise:
    """The deepened network, the edits that make its structure of the one given, and what happened, as plain data."""

    module: nn.Module
    edits: list[Edit]
    history: dict[str, Any]


def deepen_stepwise(
    module: nn.Module,
    positions: Sequence[Position],
    task: Task,
    settings: TrainingSettings,
    options: StepwiseOptions | None = None,
) -> Stepwise:
    """Deepen a copy of a trained network one layer at a time, training after each (a reconstruction from the abstract).

    ``positions`` are names of layers in the network given, or mappings with ``at`` and ``where`` (``after`` or ``before``). A
    quarter of the training images is kept apart: accuracies that decide anything are those on it. Of the epochs after an
    insertion the best is kept, and epoch 0, before any of them, counts too. Test images are looked at once, at the end.

    Raises:
        InputError: a position or an option cannot be used, or the network does not fit the task.
    """
    options = options or StepwiseOptions()
    wanted = [_position(one) for one in positions]
    if not wanted:
        raise InputError("there are no positions to insert at: name a layer of the network")
    for at, _ in wanted:
        find_module(module, at)
    return _Loop(module, wanted, task, settings, options).run()


def _position(given: Position) -> tuple[str, Where]:
    if isinstance(given, str):
        return given, "after"
    if set(given) - {"at", "where"} or "at" not in given:
        raise InputError(f"the position {dict(given)!r:.80} is not possible: expected a layer's name, or at and where")
    where = given.get("where", "after")
    if where not in ("after", "before"):
        raise InputError(f"where={where!r:.80} is not possible: expected after or before")
    return given["at"], "after" if where == "after" else "before"


def held_back(task: Task) -> Task:
    """The task with a quarter of each class's training images in place of the test images."""
    training, kept = parted(task.train.labels.numpy())

    def part(places: np.ndarray[Any, Any]) -> Split:
        chosen = torch.from_numpy(places)
        return Split(task.train.images[chosen], task.train.labels[chosen])

    return make_task(f"{task.name} (held back)", task.classes, part(training), part(kept))


class _Loop:
    """One network on its way."""

    def __init__(
        self,
        module: nn.Module,
        positions: list[tuple[str, Where]],
        task: Task,
        settings: TrainingSettings,
        options: StepwiseOptions,
    ) -> None:
        self.module = copied(module)
        for name, part in self.module.named_modules():
            # Copies carry it along, and names change where layers are put into a chain.
            vars(part)[_TAG] = name
        self.waiting, self.settings, self.options = positions, settings, options
        self.task, self.whole = held_back(task), task
        self.images = prepare(self.task.train.images[: options.calibration], place(module)[1])
        self.edits: list[Edit] = []
        self.steps: list[dict[str, Any]] = []

    def run(self) -> Stepwise:
        """All insertions until a rule ends it."""
        start = evaluate(self.module, self.task.test)
        best = start["accuracy"]
        stopped = "no position is left"
        while self.waiting:
            step = self._step(best)
            self.steps.append(step)
            if not step["kept"]:
                continue
            gain, best = step["accuracy"] - best, step["accuracy"]
            if reason := self._ends(best, gain):
                stopped = reason
                break
        for part in self.module.modules():
            vars(part).pop(_TAG, None)
        history = {
            "method": LABEL,
            "options": asdict(self.options),
            "start": start,
            "steps": self.steps,
            "stopped": stopped,
            "test": evaluate(self.module, self.whole.test),
        }
        return Stepwise(self.module.eval(), self.edits, history)

    def _ends(self, best: float, gain: float) -> str | None:
        options = self.options
        if options.target is not None and best >= options.target:
            return "the target is reached"
        if options.least_gain is not None and gain < options.least_gain:
            return "the last insertion gained too little"
        if options.most is not None and sum(step["kept"] for step in self.steps) >= options.most:
            return "as many layers as wanted are inserted"
        return None

    def _step(self, before: float) -> dict[str, Any]:
        at, where, found = self._choose()
        inherited = evaluate(found.module, self.task.test)
        method = self.options.insertion.method
        if before - inherited["accuracy"] > self.options.most_lost and method == "analytic" and where == "after":
            method = "approximation"
            other = self._insert(at, where, replace(self.options.insertion, method="approximation"))
            found, inherited = other, evaluate(other.module, self.task.test)
        entry: dict[str, Any] = {"at": at, "where": where, "name": found.name, "method": method}
        entry |= {"error": found.error, "identity_error": found.identity_error, "accuracy_before": before}
        entry |= {"accuracy_inherited": inherited["accuracy"], "loss_inherited": inherited["loss"]}
        kept = before - inherited["accuracy"] <= self.options.most_lost
        if not kept:
            return entry | {"kept": False}
        best, epoch, epochs = train_keeping_best(found.module, self.task, self.settings)
        self.module = found.module
        self.edits += found.edits
        return entry | {"kept": True, "accuracy": best, "best_epoch": epoch, "epochs": epochs}

    def _choose(self) -> tuple[str, Where, Insertion]:
        """The next insertion; its position is no longer waiting."""
        if self.options.policy == "order":
            at, where = self.waiting.pop(0)
            return at, where, self._insert(at, where, self.options.insertion)
        tried = [self._insert(at, where, self.options.insertion) for at, where in self.waiting]
        best = min(range(len(tried)), key=lambda number: tried[number].error)
        return *self.waiting.pop(best), tried[best]

    def _insert(self, at: str, where: Where, options: DilsOptions) -> Insertion:
        name = next(name for name, part in self.module.named_modules() if vars(part).get(_TAG) == at)
        return insert(self.module, name, self.images, where, options)


def train_keeping_best(
    module: nn.Module, task: Task, settings: TrainingSettings
) -> tuple[float, int, list[dict[str, Any]]]:
    """Train in place, and end with the weights of the epoch of the highest test accuracy; epoch 0 is before any training.

    Gives that accuracy, that epoch, and the history's epochs.
    """
    per_epoch = len(batch_ranges(len(task.train), settings.batch_size))
    steps = settings.epochs * per_epoch if settings.steps is None else min(settings.steps, settings.epochs * per_epoch)
    best, epoch, kept = evaluate(module, task.test)["accuracy"], 0, _state(module)

    def progress(_: str, done: float) -> None:
        nonlocal best, epoch, kept
        step = round(done * steps)
        if step % per_epoch and step != steps:
            return
        accuracy = evaluate(module, task.test)["accuracy"]
        if accuracy > best:
            best, epoch, kept = accuracy, -(-step // per_epoch), _state(module)

    history = train(module, task, settings, progress=progress)
    load_values(module, kept)
    return best, epoch, history.to_dict(timings=False)["epochs"]


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}

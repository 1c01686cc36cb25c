"""What a recipe is run in: where its files are, the networks and images that it names, and who is told of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kzoo.building import NetworkSpec, network_spec
from kzoo.errors import CheckFailed, InputError
from kzoo.recipe import DataSection, SourceSection, TargetSection, is_no_path
from kzoo.remembering import Remembered
from kzoo.sources import Options
from kzoo.weights import TrainedNetwork, open_trained
from kzoo.zoo import Zoo

if TYPE_CHECKING:
    from kzoo.training.tasks import Task

Progress = Callable[[str, float], None]
#: Where a recipe does not say on how many images statistics are measured.
_RECALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class Surroundings:
    """What a recipe is run in: its folder, all known models, whether ``py:`` may run code, whom to tell of progress.

    Recipes that share it share what they have ``opened`` and ``drawn``, and what is ``remembered`` of networks and images.
    """

    base: Path
    zoo: Callable[[], Zoo]
    trust_code: bool = False
    progress: Progress | None = None
    opened: dict[tuple[str, str | None], TrainedNetwork] = field(default_factory=dict)
    drawn: dict[DataSection, Task] = field(default_factory=dict)
    remembered: Remembered = field(default_factory=Remembered)

    def open(self, path: str, submodule: str | None = None) -> TrainedNetwork:
        """A trained network, or a part of it, by its path as the recipe has it; it is read once.

        Raises:
            InputError: it is none, or has no weights on this machine.
        """
        key = (path, submodule)
        if key not in self.opened:
            place = path if is_no_path(path) else str(self.base / path)
            self.opened[key] = open_trained(place, self.zoo, self.trust_code, submodule)
        return self.opened[key]

    def checked(self, source: SourceSection) -> TrainedNetwork:
        """A source of a recipe.

        Raises:
            InputError: it is none, or has no weights on this machine.
            CheckFailed: it is another than the recipe names.
        """
        trained = self.open(source.path, source.submodule)
        if trained.sha256 != source.sha256:
            raise CheckFailed(
                f"{source.path} has the sha256 {trained.sha256}, but the recipe was made with {source.sha256}: fetch that "
                "file, or make a new recipe with the command that made this one"
            )
        return trained

    def data(self, section: DataSection) -> Task:
        """The images of a recipe; they are drawn, or read, once.

        Raises:
            InputError: there is no such task, or it cannot be made so.
            CheckFailed: they are others than the recipe names.
        """
        if section not in self.drawn:
            self.drawn[section] = load_data(section, self.base)
        return self.drawn[section]


def load_data(section: DataSection, base: Path) -> Task:
    """The images of a recipe in the folder ``base``.

    Raises:
        InputError: there is no such task, or it cannot be made so.
        CheckFailed: they are others than the recipe names.
    """
    from kzoo.training.data import load_task
    from kzoo.training.tasks import restricted, without_validation

    name = section.task
    if name.startswith("imagefolder:"):
        name = f"imagefolder:{base / name.removeprefix('imagefolder:')}"
    root = None if section.root is None else base / section.root
    options = section.model_dump(include={"train", "test", "size", "channels", "seed"})
    if section.only is not None and section.classes is not None:
        raise InputError(
            f"the images of {section.task} are chosen by only and by classes: give one of them (labels stay what they are with "
            "only, and are counted anew with classes)"
        )
    if section.split is not None and section.validation is None:
        raise InputError(
            f"the images of {section.task} are to be tested on those held back, and none are: say how many (validation)"
        )
    task = load_task(name, **options, root=root)
    if section.validation is not None:
        task = without_validation(task, section.validation, tested=section.split is not None)
    names = section.only if section.only is not None else section.classes
    if names is not None:
        task = restricted(task, names, relabelled=section.classes is not None)
    if section.fingerprint not in (None, task.fingerprint):
        raise CheckFailed(
            f"the images of {section.task} have the fingerprint {task.fingerprint}, but the recipe was made with "
            f"{section.fingerprint}: the data, or what draws it, has changed"
        )
    return task


def target_network(target: TargetSection, where: Surroundings) -> NetworkSpec:
    """The network that a recipe's target names.

    Raises:
        InputError: it names none that can be built.
    """
    options = Options(target.classes, target.in_chans, target.img_size)
    return network_spec(target.model, where.zoo, options, target.edits)


def try_out(module: nn.Module, task: Task) -> Any:
    """What the network gives for one image of the task.

    Raises:
        InputError: it does not take such images.
    """
    from kzoo.training.batches import prepare
    from kzoo.training.evaluation import evaluation_mode

    image = task.train.images[torch.zeros(1, dtype=torch.int64)]
    try:
        with torch.no_grad(), evaluation_mode(module):
            return module(prepare(image, torch.float32))
    except Exception as error:  # networks raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        size = "x".join(map(str, task.train.images.shape[1:]))
        raise InputError(
            f"the network does not take the images of {task.name}, which are {size} ({reason:.160}): set in_chans or img_size "
            "of the target, or channels and size of the data"
        ) from None


def prepared(task: Task, count: int) -> Tensor:
    """The first training images of a task, ready for a network."""
    from kzoo.training.batches import prepare

    chosen = torch.arange(min(count, len(task.train)))
    return prepare(task.train.images[chosen])


def recalibrated(module: nn.Module, section: DataSection, where: Surroundings) -> None:
    """Measure batch normalisation's statistics anew, in place, on the images of a recipe.

    Raises:
        InputError: there are no such images, or the network does not take them.
    """
    from kzoo.training.evaluation import recalibrate

    task = where.data(section)
    try_out(module, task)
    images = task.train.images
    recalibrate(module, images[:_RECALIBRATION_IMAGES] if section.train is None else images)

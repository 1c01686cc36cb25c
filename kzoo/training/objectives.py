"""What a training makes smaller, and the images that it sees: labelled ones, or none but images."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kzoo.errors import InputError
from kzoo.training.batches import Feed, prepare
from kzoo.training.tasks import Images, Split, Task


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Images without labels: a tensor (N x C x H x W), or what reads files; there is no place for a label in it."""

    images: Tensor | Images

    def __len__(self) -> int:
        return len(self.images)


class Batches(Protocol):
    """The batches of a training, on a device."""

    def batches(self, chosen: Sequence[Tensor]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Images, and what is given beside them, of each of the tensors of numbers."""
        ...

    def close(self) -> None:
        """End the processes."""
        ...


class Objective(Protocol):
    """What a training makes smaller; `kzoo.training.loop.optimise` does so.

    ``count`` images of ``size`` pixels are seen in an epoch. ``test`` are labelled images that the network is tested on
    meanwhile, which decides nothing. ``fingerprint`` stands for all of this, as plain text.
    """

    @property
    def count(self) -> int:
        """The number of training images."""
        ...

    @property
    def size(self) -> int:
        """Their height and width in pixels."""
        ...

    @property
    def test(self) -> Split:
        """Labelled images to test on."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells this objective from others."""
        ...

    def tested(self, module: nn.Module) -> nn.Module:
        """The network of what is trained that is tested."""
        ...

    def feed(self, device: torch.device, workers: int, process: int) -> Batches:
        """The training images, on a device, for one of the processes; it is closed at the end."""
        ...

    def loss(self, model: nn.Module, images: Tensor, given: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The mean loss over a batch of images as the feed gives them (augmented), and how many of them are right."""
        ...


@dataclass(frozen=True, eq=False)
class Supervised:
    """The cross-entropy of a task's labels."""

    task: Task
    label_smoothing: float = 0.0

    @property
    def count(self) -> int:
        """See `Objective`."""
        return len(self.task.train)

    @property
    def size(self) -> int:
        """See `Objective`."""
        return self.task.size

    @property
    def test(self) -> Split:
        """See `Objective`.

        Raises:
            InputError: there are none.
        """
        if not len(self.task.test):
            raise InputError(f"{self.task.name} has no test images: expected one or more")
        return self.task.test

    @property
    def fingerprint(self) -> str:
        """See `Objective`."""
        return self.task.fingerprint

    def tested(self, module: nn.Module) -> nn.Module:
        """See `Objective`."""
        return module

    def feed(self, device: torch.device, workers: int, process: int) -> Batches:
        """See `Objective`: images and their labels."""
        return Feed(self.task.train, device, workers)

    def loss(self, model: nn.Module, images: Tensor, given: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `Objective`; ``given`` are labels.

        Raises:
            InputError: the network has not an output for each class.
        """
        outputs = model(prepare(images, dtype))
        if outputs.ndim != 2 or outputs.shape[1] != len(self.task.classes):
            raise InputError(
                f"the network's outputs have the shape {tuple(outputs.shape)}, but {self.task.name} has "
                f"{len(self.task.classes)} classes: give the network a head of that size"
            )
        loss = cross_entropy(outputs, given, label_smoothing=self.label_smoothing)
        return loss, (outputs.argmax(1) == given).sum()

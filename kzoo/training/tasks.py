"""What a task is: images with labels in two parts, and a fingerprint of all of it."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from kzoo.errors import InputError

#: Which random numbers are drawn: those of one part never meet those of the other.
TRAIN, TEST = 0, 1
_HASHED_AT_ONCE = 4096


class Images(Protocol):
    """N images of uint8, of shape C x H x W each, that are read when they are asked for."""

    @property
    def shape(self) -> torch.Size:
        """N, C, H, W."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, index: Any) -> Tensor:
        """One image (C x H x W) by a number, several (n x C x H x W) by a slice or a tensor of numbers."""
        ...

    def digest(self) -> bytes:
        """A sha256 of what decides the images."""
        ...


@dataclass(frozen=True, eq=False)
class Split(Dataset[tuple[Tensor, int]]):
    """One part of a task: ``images`` is uint8, N x C x H x W; ``labels`` is int64, N, each an index into the classes.

    ``images`` is a tensor, or reads files: ``split.images[indices]`` gives a tensor either way.
    """

    images: Tensor | Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


@dataclass(frozen=True, eq=False)
class Task:
    """An image classification task; ``size`` is height and width in pixels, ``fingerprint`` a sha256 in hexadecimal."""

    name: str
    classes: tuple[str, ...]
    channels: int
    size: int
    train: Split
    test: Split
    fingerprint: str


@dataclass(frozen=True, eq=False)
class SomeImages:
    """Some of images that are read when they are asked for: those at ``places``, in that order."""

    images: Images
    places: Tensor

    @property
    def shape(self) -> torch.Size:
        """N, C, H, W."""
        return torch.Size((len(self.places), *self.images.shape[1:]))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Tensor:
        return self.images[self.places[index]]

    def digest(self) -> bytes:
        """A sha256 of what decides the images."""
        return hashlib.sha256(self.images.digest() + self.places.numpy().astype("<i8").tobytes()).digest()


def restricted(task: Task, names: Sequence[str], *, relabelled: bool = False) -> Task:
    """The images of a task that show the classes ``names``, in their order.

    Labels stay indices into all classes; or, ``relabelled``, the task has the classes ``names`` alone, in that order.

    Raises:
        InputError: a name is none of the task's classes, is given twice, or there is none.
    """
    unknown = next((name for name in names if name not in task.classes), None)
    if unknown is not None:
        raise InputError(f"{task.name} has no class {unknown!r:.80}: expected some of {', '.join(task.classes):.200}")
    if not names or len(set(names)) < len(names):
        raise InputError(f"the classes of {task.name} are given twice, or none is: name each class once")
    places = torch.full((len(task.classes),), -1)
    places[[task.classes.index(name) for name in names]] = torch.arange(len(names))
    splits = []
    for split in (task.train, task.test):
        kept = _some(split, (places[split.labels] >= 0).nonzero().flatten())
        splits.append(Split(kept.images, places[kept.labels]) if relabelled else kept)
    return make_task(task.name, tuple(names) if relabelled else task.classes, *splits)


def without_validation(task: Task, count: int, *, tested: bool = False) -> Task:
    """The task without its last ``count`` training images; ``tested``: with these in place of its test images.

    So a choice can be made on images that are neither trained on nor tested on in the end.

    Raises:
        InputError: that leaves none to train on.
    """
    rest = len(task.train) - count
    if rest < 1:
        raise InputError(
            f"{task.name} has {len(task.train):,} training images, of which {count:,} are to be held back: hold back fewer"
        )
    places = torch.arange(len(task.train))
    held = _some(task.train, places[rest:]) if tested else task.test
    return make_task(task.name, task.classes, _some(task.train, places[:rest]), held)


def _some(split: Split, places: Tensor) -> Split:
    """The images of a split at some places; those in files are read when they are asked for."""
    images = split.images[places] if isinstance(split.images, Tensor) else SomeImages(split.images, places)
    return Split(images, split.labels[places])


def library(name: str) -> Any:
    """A module that only some tasks need.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"this task needs {name.partition('.')[0]}, which cannot be imported ({error}): "
            "install it with pip install 'kzoo[training]'"
        ) from None


def make_task(name: str, classes: tuple[str, ...], train: Split, test: Split) -> Task:
    """The task of two splits that have images of one square shape."""
    _, channels, size, _ = train.images.shape
    return Task(name, classes, channels, size, train, test, _fingerprint(classes, train, test))


def _fingerprint(classes: tuple[str, ...], train: Split, test: Split) -> str:
    """A digest of classes, shapes, labels and images; not of the task's name, since two names may give the same data."""
    digest = hashlib.sha256()
    for split in (train, test):
        head = {"classes": classes, "shape": tuple(split.images.shape)}
        digest.update(json.dumps(head).encode())
        digest.update(split.labels.numpy().astype("<i8").tobytes())
        _add_images(digest, split.images)
    return digest.hexdigest()


def images_digest(images: Tensor | Images) -> bytes:
    """A sha256 of images and their shape, whatever labels they have elsewhere."""
    digest = hashlib.sha256(json.dumps(tuple(images.shape)).encode())
    _add_images(digest, images)
    return digest.digest()


def _add_images(digest: hashlib._Hash, images: Tensor | Images) -> None:
    if not isinstance(images, Tensor):
        digest.update(images.digest())
        return
    for first in range(0, len(images), _HASHED_AT_ONCE):
        digest.update(images[first : first + _HASHED_AT_ONCE].numpy().tobytes())


def shuffled(count: int, seed: int, stream: int) -> NDArray[np.int64]:
    """The numbers below ``count`` in an order that is the same with every version of numpy."""
    # Raw words of a counter-based generator never change; what numpy makes of them may.
    words = np.random.Philox(key=(stream << 64) | seed).random_raw(count)
    return np.argsort(words, kind="stable")


def ranks(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same label come before each label."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.searchsorted(ordered, ordered)
    found = np.empty(len(labels), np.int64)
    found[order] = np.arange(len(labels)) - starts
    return found


def taking_turns(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices that go through the classes in turn, each class in its own order; any beginning of it is balanced."""
    return np.lexsort((labels, ranks(labels)))


def parted(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the train and the test images: the first quarter of each class, at least one, is for testing."""
    counts = np.bincount(labels)
    testing = ranks(labels) < np.maximum(counts // 4, 1)[labels]
    return np.flatnonzero(~testing), np.flatnonzero(testing)


def chosen(
    labels: NDArray[np.int64], count: int | None, seed: int, task: str, part: int, stream: int
) -> NDArray[np.int64]:
    """Indices of ``count`` images of balanced classes (all images if None), in an order that depends on the seed.

    The first n are the same whatever ``count`` is.

    Raises:
        InputError: a class has too few images.
    """
    order = shuffled(len(labels), seed, stream)
    order = order[taking_turns(labels[order])]
    if count is None:
        return order
    counts = np.bincount(labels)
    # Every class gives as many as the smallest has, and one more where it has one: balanced up to one.
    limit = int(np.minimum(counts, counts.min() + 1).sum())
    if count > limit:
        what = ("training", "test")[part]
        raise InputError(
            f"{task} has at most {limit:,} {what} images in balanced classes, not {count:,}: ask for fewer, or leave "
            f"the number out for all {len(labels):,}"
        )
    return order[:count]

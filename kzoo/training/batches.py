"""Images on their way into a network: order, batches, augmentation, normalisation."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kzoo.errors import InputError, KzooError
from kzoo.training.determinism import FLIP, ORDER, SHIFT_DOWN, SHIFT_RIGHT, words
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Images, Split

#: ImageNet's, by channels; of grey images the means of those. Most published networks were trained with them.
MEAN = {1: (0.449,), 3: (0.485, 0.456, 0.406)}
STD = {1: (0.226,), 3: (0.229, 0.224, 0.225)}
#: Images of up to so many bytes are kept where the network is.
_KEPT_ON_DEVICE = 2 << 30
#: An image is shifted by up to this share of its size.
_SHIFT = 8
#: A batch of one image would leave batch normalisation nothing to normalise.
_FEWEST = 2


def prepare(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of uint8, N x C x H x W, as floats on the same device: from 0 to 1, less ``MEAN``, divided by ``STD``.

    Raises:
        InputError: they are not uint8, or have neither 1 nor 3 channels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in MEAN:
        raise InputError(
            f"images of {images.dtype}, shape {tuple(images.shape)}, cannot be prepared: expected uint8, N x C x H x W, "
            "with 1 or 3 channels"
        )
    scale, offset = _line(images.shape[1], images.device, dtype)
    return torch.addcmul(offset, images.to(dtype), scale)


def ready(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of uint8 prepared; floats are taken to be so already."""
    return images.to(dtype) if images.is_floating_point() else prepare(images, dtype)


@cache
def _line(channels: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What levels are multiplied by and what is added then, one for each channel."""
    mean, std = (torch.tensor(values[channels], dtype=torch.float64) for values in (MEAN, STD))
    shape = (1, channels, 1, 1)
    return (1 / (255 * std)).view(shape).to(device, dtype), (-mean / std).view(shape).to(device, dtype)


@dataclass(frozen=True)
class Plan:
    """What one epoch does with the images: their order, and for each place in it a shift in pixels and a mirroring."""

    order: Tensor
    down: Tensor | None
    right: Tensor | None
    mirrored: Tensor | None


def plan_epoch(count: int, size: int, settings: TrainingSettings, epoch: int) -> Plan:
    """The plan of an epoch, a function of its arguments alone."""

    def drawn(purpose: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return words(settings.seed, epoch, purpose, count)

    order = torch.from_numpy(np.argsort(drawn(ORDER), kind="stable"))
    down = right = mirrored = None
    if settings.augment in ("shift", "shift_flip"):
        most = size // _SHIFT
        down, right = (
            torch.from_numpy((drawn(purpose) % np.uint64(2 * most + 1)).astype(np.int64)) - most
            for purpose in (SHIFT_DOWN, SHIFT_RIGHT)
        )
    if settings.augment in ("flip", "shift_flip"):
        mirrored = torch.from_numpy((drawn(FLIP) & np.uint64(1)).astype(bool))
    return Plan(order, down, right, mirrored)


def batch_ranges(count: int, batch: int, processes: int = 1) -> list[range]:
    """Places of an epoch's order by batch; a last batch of fewer than two images per process is left out.

    Raises:
        InputError: there are too few images for one batch.
    """
    found = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
    if found and len(found[-1]) < _FEWEST * processes:
        found.pop()
    if not found:
        raise InputError(
            f"{count} training images in batches of {batch} give {processes} processes nothing to train on: "
            f"expected {_FEWEST} or more for each"
        )
    return found


def share(places: range, process: int, processes: int) -> range:
    """The part of a batch that is a process's own; parts differ by one image at most."""
    first, last = (len(places) * part // processes for part in (process, process + 1))
    return places[first:last]


def augment(images: Tensor, plan: Plan, places: range) -> Tensor:
    """Images that stand at these places of the plan, each shifted and mirrored in its own way; a shift repeats the edge.

    torchvision's transforms draw once for a whole batch, which would move all its images in the same way.
    """
    span = slice(places.start, places.stop)
    if plan.down is not None and plan.right is not None:
        images = _shifted(images, plan.down[span].to(images.device), plan.right[span].to(images.device))
    if plan.mirrored is not None:
        images = torch.where(plan.mirrored[span].to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)
    return images


def _shifted(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    count, _, height, width = images.shape

    def sources(length: int, moved: Tensor) -> Tensor:
        return (torch.arange(length, device=images.device) - moved[:, None]).clamp(0, length - 1)

    rows, columns = sources(height, down), sources(width, right)
    number = torch.arange(count, device=images.device)
    # Numbers in three places of an index put what stands between them, the channels, at the end.
    picked = images[number[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


class ImageFeed:
    """The batches of images, on a device: images as they are, and their numbers. There are no labels.

    Images in memory are indexed, a whole batch at once; those in files are read by ``workers`` processes.
    """

    def __init__(self, images: Tensor | Images, device: torch.device, workers: int = 0) -> None:
        self._device = device
        self._images = images
        self._chosen = _Chosen()
        self._loader: DataLoader[Tensor | KzooError] | None = None
        if isinstance(images, Tensor):
            if images.nbytes <= _KEPT_ON_DEVICE:
                self._images = images.to(device)
        else:
            self._loader = DataLoader(
                _WholeBatches(images),
                batch_size=None,
                sampler=self._chosen,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=device.type == "cuda",
                # Else it would draw from the generator that layers use.
                generator=torch.Generator(),
            )

    def close(self) -> None:
        """End the processes. Left to the garbage collector they may take many seconds."""
        self._loader = None

    def batches(self, chosen: Sequence[Tensor]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Images and numbers for each of the tensors of numbers; close it if you do not go to its end."""
        for picked, images in zip(chosen, self._read(chosen), strict=True):
            yield images.to(self._device, non_blocking=True), self._beside(picked)

    def _beside(self, picked: Tensor) -> Tensor:
        """What is given beside the images of these numbers."""
        return picked

    def _read(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        if self._loader is not None:
            self._chosen.batches = chosen
            for found in self._loader:
                if isinstance(found, KzooError):
                    raise found
                yield found
        elif isinstance(self._images, Tensor):
            for picked in chosen:
                yield self._images[picked.to(self._images.device)]


class Feed(ImageFeed):
    """The batches of a part of a task: images of uint8, and labels."""

    def __init__(self, split: Split, device: torch.device, workers: int = 0) -> None:
        super().__init__(split.images, device, workers)
        self._labels = split.labels.to(device)

    def _beside(self, picked: Tensor) -> Tensor:
        return self._labels[picked.to(self._device)]


class _Chosen:
    """A sampler whose batches change from epoch to epoch while the loader's processes stay."""

    batches: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        # Tensors would go to the processes through shared memory, each with an open file.
        return (picked.tolist() for picked in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _WholeBatches(Dataset[Tensor | KzooError]):
    """Images by lists of numbers; errors are given, not raised, so that no process puts its traceback into them."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitem__(self, picked: list[int]) -> Tensor | KzooError:
        try:
            return self._images[torch.tensor(picked)]
        except KzooError as error:
            return error

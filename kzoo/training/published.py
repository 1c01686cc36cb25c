"""Published data sets, through torchvision and from a folder of the user's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.datasets
from numpy.typing import NDArray
from torch import Tensor

from kzoo.errors import InputError, WorldError
from kzoo.training.folders import Listing

#: torchvision's name and the arguments for each part: those that are arrays in memory, and those that are files.
ARRAYS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
FILES = {
    "flowers102": ("Flowers102", (("train", "val"), ("test",))),
    "fgvc_aircraft": ("FGVCAircraft", (("trainval",), ("test",))),
}

Arrays = tuple[Tensor, NDArray[np.int64]]


def published_arrays(name: str, root: Path, download: bool) -> tuple[tuple[str, ...], tuple[Arrays, Arrays]]:
    """Classes, and images (uint8, N x C x H x W) with labels of a small set, for training and for testing.

    torchvision unpickles the files of CIFAR; it does so only after their md5 was that of the official files, and nothing
    else is unpickled here.

    Raises:
        InputError: the files are missing or damaged, and are not to be downloaded.
        WorldError: the disk or the network fails.
    """
    old = root / ARRAYS[name] / "processed"
    if old.exists():
        raise InputError(f"{old} may hold pickles of an old torchvision, which are not opened: remove it")
    parts = [_opened(name, ARRAYS[name], root, download, train=train) for train in (True, False)]
    train, test = ((_images(part.data), torch.as_tensor(part.targets).numpy()) for part in parts)
    for images, labels in (train, test):
        if len(images) != len(labels):
            raise InputError(f"{name} in {root} has {len(images):,} images but {len(labels):,} labels: fetch it again")
    return tuple(map(str, parts[0].classes)), (train, test)


def published_files(name: str, root: Path, download: bool) -> tuple[tuple[str, ...], tuple[Listing, Listing]]:
    """Classes, and files with labels of a large set, for training (with validation) and for testing.

    Raises:
        InputError: the files are missing or damaged, and are not to be downloaded.
        WorldError: the disk or the network fails.
    """
    kind, parts = FILES[name]
    # A loader that loads nothing makes the public interface tell the files.
    train, test = (
        [_opened(name, kind, root, download, split=split, loader=Path) for split in splits] for splits in parts
    )
    return tuple(map(str, train[0].classes)), (_listing(train), _listing(test))


def _listing(datasets: Iterable[Any]) -> Listing:
    pairs = [dataset[index] for dataset in datasets for index in range(len(dataset))]
    return [path for path, _ in pairs], np.array([label for _, label in pairs], np.int64)


def _images(data: Any) -> Tensor:
    """N x C x H x W of N x H x W (a tensor) or N x H x W x C (an array)."""
    images = torch.as_tensor(data)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _opened(name: str, kind: str, root: Path, download: bool, **options: Any) -> Any:
    try:
        return getattr(torchvision.datasets, kind)(root, download=download, **options)
    # Without a download, torchvision says RuntimeError for missing files, and anything for damaged ones.
    except (RuntimeError, OSError, ValueError, TypeError, LookupError, AssertionError) as error:
        reason = " ".join(str(error).split())
        if download:
            raise WorldError(
                f"{name} could not be fetched into {root} ({reason}): check network and disk, and try again"
            ) from None
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise WorldError(
                f"{name} cannot be read from {root} ({reason}): check the disk and its permissions"
            ) from None
        raise InputError(
            f"{name} is not in {root}, or is damaged: allow its download (download=True), or name the folder that "
            "torchvision once downloaded it into"
        ) from None

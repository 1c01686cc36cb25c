"""Images in files: read, scaled and cropped when they are asked for, and the folders that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from kzoo.errors import InputError, WorldError
from kzoo.training.tasks import TEST, TRAIN, Split, Task, chosen, library, make_task, parted, shuffled

_TRAIN, _TESTS = "train", ("test", "val")
#: Changes whenever other pixels come out of the same files.
_HOW = "exif, shorter side by bicubic, centre crop"

Listing = tuple[Sequence[Path], NDArray[np.int64]]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what the disk or the image library says into a sentence."""
    unidentified, too_large = library("PIL").UnidentifiedImageError, library("PIL.Image").DecompressionBombError
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put it back, or load the task again") from None
    # The image library's own complaints are OSErrors without a number, and a few others.
    except (unidentified, too_large, SyntaxError, ValueError) as error:
        raise InputError(_unreadable(path, error)) from None
    except OSError as error:
        if error.errno is None:
            raise InputError(_unreadable(path, error)) from None
        raise WorldError(f"{path} cannot be read ({error.strerror}): check the disk and its permissions") from None


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} cannot be read as an image ({error}): expected a whole image file, so repair or remove it"


def _read(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """One image, channels x size x size: turned upright, scaled to the shorter side, and cropped at the centre."""
    images, operations = library("PIL.Image"), library("PIL.ImageOps")
    with _reading(path), images.open(path) as opened:
        image = operations.exif_transpose(opened)
        if image.mode.startswith("I"):
            # Pillow would cut 16 bits off at 255.
            image = images.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        image = image.convert("RGB").convert("RGB" if channels == 3 else "L")
        fitted = operations.fit(image, (size, size), images.Resampling.BICUBIC)
        pixels: NDArray[np.uint8] = np.array(fitted, dtype=np.uint8).reshape(size, size, channels)
    return pixels.transpose(2, 0, 1)


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images of uint8, N x C x H x W, read from files at each access; nothing is kept in memory.

    Raises:
        InputError: at access: a file is gone, or is no image.
        WorldError: at access: the disk fails.
    """

    paths: tuple[Path, ...]
    size: int
    channels: int

    @property
    def shape(self) -> torch.Size:
        """N, C, H, W."""
        return torch.Size((len(self.paths), self.channels, self.size, self.size))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Tensor:
        found = torch.arange(len(self.paths))[index]
        pixels = [_read(self.paths[int(one)], self.size, self.channels) for one in found.reshape(-1)]
        images = np.stack(pixels) if pixels else np.empty((0, *self.shape[1:]), np.uint8)
        return torch.from_numpy(images).reshape(*found.shape, *self.shape[1:])

    def digest(self) -> bytes:
        """A sha256 of the files' bytes and of how images are made of them; each file's beginning must be an image.

        Raises:
            InputError: a file is gone, or is no image.
            WorldError: the disk fails.
        """
        total = hashlib.sha256(_HOW.encode())
        for path in self.paths:
            with _reading(path):
                with library("PIL.Image").open(path):
                    pass
                with path.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
        return total.digest()


def file_task(
    name: str,
    classes: tuple[str, ...],
    listings: tuple[Listing, Listing],
    counts: tuple[int | None, int | None],
    size: int,
    channels: int,
    seed: int,
) -> Task:
    """A task of files with labels, for training and for testing.

    Raises:
        InputError: a class has too few images, a file is gone, or is no image.
        WorldError: the disk fails.
    """
    splits = []
    for part in (TRAIN, TEST):
        paths, labels = listings[part]
        picked = chosen(labels, counts[part], seed, name, part, part)
        files = FileImages(tuple(paths[index] for index in picked), size, channels)
        splits.append(Split(files, torch.from_numpy(labels[picked])))
    return make_task(name, classes, *splits)


def folder_listings(folder: Path, seed: int) -> tuple[tuple[str, ...], tuple[Listing, Listing]]:
    """Classes of a folder, and its images with labels, for training and for testing.

    Either ``train/CLASS/...`` and ``test/CLASS/...`` (or ``val/``), or ``CLASS/...`` alone, of which a quarter of each
    class is for testing, by seed. Files that do not end like images, and hidden ones, are passed over.

    Raises:
        InputError: the folder is missing, or does not hold images in this way.
        WorldError: the disk fails.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: expected one with a folder of images for each class")
    names = _subfolders(folder)
    tests = [name for name in _TESTS if name in names]
    if _TRAIN in names and _subfolders(folder / _TRAIN):
        if not tests:
            raise InputError(f"{folder} has {_TRAIN}/ but neither test/ nor val/: add one, or name {folder / _TRAIN}")
        (classes, train), (others, test) = _listing(folder / _TRAIN), _listing(folder / tests[0])
        if classes != others:
            odd = sorted(set(classes) ^ set(others))
            raise InputError(
                f"{folder / _TRAIN} and {folder / tests[0]} differ in classes ({', '.join(odd[:5])}): give both the same"
            )
        return classes, (train, test)
    classes, (paths, labels) = _listing(folder)
    counts = np.bincount(labels)
    if counts.min() < 2:
        raise InputError(
            f"{folder / classes[int(counts.argmin())]} holds one image: a class needs two, one for testing; add some"
        )
    order = shuffled(len(labels), seed, 2)
    first, second = (order[part] for part in parted(labels[order]))
    return classes, (_taken(paths, labels, first), _taken(paths, labels, second))


def _taken(paths: Sequence[Path], labels: NDArray[np.int64], indices: NDArray[np.int64]) -> Listing:
    # In the order of names: the next step shuffles by seed on its own.
    indices = np.sort(indices)
    return [paths[index] for index in indices], labels[indices]


def _listing(folder: Path) -> tuple[tuple[str, ...], Listing]:
    """The classes of a folder of class folders, and all their images in the order of names."""
    classes = _subfolders(folder)
    if len(classes) < 2:
        raise InputError(f"{folder} has {len(classes)} folders of classes: expected two or more, with images in each")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        with _reading(folder / name):
            found = sorted(path for path in (folder / name).rglob("*") if _is_image(path, folder))
        if not found:
            raise InputError(f"{folder / name} holds no images ({', '.join(IMG_EXTENSIONS)}): add some or remove it")
        paths += found
        labels += [label] * len(found)
    return classes, (paths, np.array(labels, np.int64))


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in IMG_EXTENSIONS and path.is_file()


def _subfolders(folder: Path) -> tuple[str, ...]:
    with _reading(folder):
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))

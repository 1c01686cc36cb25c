"""What teachers answered, kept on disk for one training: rows of numbers by an image's number."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kzoo.errors import WorldError

_BYTES = 4
#: This much of the free disk is left alone.
_SPARED = 0.5


def needed_bytes(count: int, shapes: Sequence[Sequence[int]]) -> int:
    """The size of a cache for so many images with rows of these shapes."""
    return count * sum(int(np.prod(shape)) for shape in shapes) * _BYTES


def fits(folder: Path, needed: int, most: int) -> bool:
    """Whether a cache of ``needed`` bytes is within ``most``, and takes half of the free disk at most."""
    try:
        near = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        return 0 < needed <= min(most, int(shutil.disk_usage(near).free * _SPARED))
    except OSError:
        return False


def _new_file(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float32]]:
    """A file whose place on the disk is taken: where that is missing later, the process would be ended."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * _BYTES)
    return np.memmap(path, np.float32, "r+", shape=shape)


class Cache:
    """Rows of float32 in files of a new folder, one file for each shape; the folder is gone after `close`.

    A row is read only where this object has written it: what an earlier training left behind is never used.

    Raises:
        WorldError: the disk fails.
    """

    def __init__(self, folder: Path, count: int, shapes: Sequence[Sequence[int]]) -> None:
        self._folder = folder
        self._filled = torch.zeros(count, dtype=torch.bool)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._files = [_new_file(folder / f"{number}.bin", (count, *shape)) for number, shape in enumerate(shapes)]
        except OSError as error:
            raise WorldError(f"{folder} cannot be written ({error.strerror}): check the disk, or set cache=0") from None

    def read(self, numbers: Tensor) -> list[Tensor] | None:
        """The rows of these images, a tensor for each shape; None unless all have been written."""
        if not bool(self._filled[numbers].all()):
            return None
        places = numbers.numpy()
        return [torch.from_numpy(np.asarray(file[places])) for file in self._files]

    def write(self, numbers: Tensor, rows: Sequence[Tensor]) -> None:
        """Keep rows of these images."""
        places = numbers.numpy()
        for file, row in zip(self._files, rows, strict=True):
            file[places] = row.detach().cpu().numpy()
        self._filled[numbers] = True

    def close(self) -> None:
        """Remove the folder."""
        self._files = []
        shutil.rmtree(self._folder, ignore_errors=True)

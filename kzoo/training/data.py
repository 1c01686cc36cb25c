"""Image classification tasks by name: small, and the same to the byte every time.

`load_task` makes or reads one; ``TASKS`` lists them. Images are uint8 from 0 to 255; for normalised floats use
torchvision's ``transforms.v2`` (``ToDtype(torch.float32, scale=True)``, then ``Normalize``).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from kzoo.errors import InputError
from kzoo.training.folders import file_task, folder_listings
from kzoo.training.glyphs import CHARACTERS, GROUPS, draw
from kzoo.training.published import ARRAYS, FILES, published_arrays, published_files
from kzoo.training.sheets import contact_sheet
from kzoo.training.tasks import TEST, TRAIN, Split, Task, chosen, library, make_task, parted, shuffled

__all__ = ["TASKS", "Split", "Task", "contact_sheet", "load_task"]

#: What a task's name may be, with a line on each; CLASSES and PATH stand for the user's own.
TASKS: Mapping[str, str] = MappingProxyType(
    {
        "digits": "1,797 handwritten digits of 8x8 pixels, from scikit-learn",
        "glyphs": "letters and digits (62 classes) drawn from text fonts, any number of images of any size",
        "glyphs/digits": "the images of glyphs that show 0 to 9",
        "glyphs/upper": "the images of glyphs that show A to Z",
        "glyphs/lower": "the images of glyphs that show a to z",
        "glyphs:CLASSES": "the images of glyphs that show these characters, such as glyphs:ABCabc",
        "mnist": "70,000 handwritten digits of 28x28 pixels, through torchvision",
        "fashion_mnist": "70,000 pictures of clothes of 28x28 pixels, 10 classes, through torchvision",
        "cifar10": "60,000 photographs of 32x32 pixels, 10 classes, through torchvision",
        "cifar100": "60,000 photographs of 32x32 pixels, 100 classes, through torchvision",
        "flowers102": "8,189 photographs of flowers, 102 classes, through torchvision",
        "fgvc_aircraft": "10,000 photographs of aircraft, 100 variants, through torchvision",
        "imagefolder:PATH": "images of your own, in a folder for each class",
    }
)
#: Sizes of images, in pixels; those that are read from files may be larger.
SMALLEST, LARGEST, LARGEST_FROM_FILES = 8, 224, 1024

_GLYPHS, _CLASSES, _FOLDER = "glyphs", "glyphs:", "imagefolder:"
_GLYPH_COUNTS, _GLYPH_SIZE, _FILE_SIZE = (20_000, 5_000), 32, 224
_MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class _Wish:
    """The arguments of `load_task`, checked."""

    name: str
    counts: tuple[int | None, int | None]
    size: int | None
    channels: int | None
    seed: int
    root: Path | None
    download: bool


def load_task(
    name: str,
    *,
    train: int | None = None,
    test: int | None = None,
    size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    download: bool = False,
) -> Task:
    """An image classification task.

    ``train`` and ``test`` ask for so many images, in balanced classes; the first n are the same whatever the number.
    Without them there are all images (20,000 and 5,000 of glyphs). ``size`` is height and width in pixels, ``channels``
    1 (grey) or 3 (RGB); without them each task has its own. ``seed`` decides which images are drawn, chosen or kept for
    testing, and their order. ``root`` is the folder of torchvision's data sets; they are downloaded into it only with
    ``download``. Images in files (flowers102, fgvc_aircraft, imagefolder) are read when they are asked for.

    Raises:
        InputError: the name is unknown, a number is out of range, or files are missing or unreadable.
        WorldError: the disk or the network fails.
    """
    require_task(name, train=train, test=test, size=size, channels=channels, seed=seed)
    wish = _Wish(name, (train, test), size, channels, seed, None if root is None else Path(root), download)
    if name == "digits":
        return _digits(wish)
    if name == _GLYPHS or name.startswith((f"{_GLYPHS}/", _CLASSES)):
        return _glyphs(wish, _characters(name))
    if name in ARRAYS or name in FILES:
        return _published(wish)
    classes, listings = folder_listings(Path(name.removeprefix(_FOLDER)), seed)
    return file_task(name, classes, listings, wish.counts, size or _FILE_SIZE, channels or 3, seed)


def require_task(
    name: str,
    *,
    train: int | None = None,
    test: int | None = None,
    size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
) -> None:
    """Refuse what `load_task` refuses whatever lies on the disk.

    Raises:
        InputError: the name is unknown, or a number is out of range.
    """
    from_files = name in FILES or (name.startswith(_FOLDER) and name != _FOLDER)
    for what, value, low, high in (
        ("train", train, 1, None),
        ("test", test, 1, None),
        ("size", size, SMALLEST, LARGEST_FROM_FILES if from_files else LARGEST),
        ("seed", seed, 0, 2**64 - 1),
    ):
        _check_number(what, value, low, high)
    if channels not in (None, 1, 3) or isinstance(channels, bool):
        raise InputError(f"channels={channels!r} is not possible: expected 1 (grey) or 3 (RGB)")
    if name == _GLYPHS or name.startswith((f"{_GLYPHS}/", _CLASSES)):
        _characters(name)
    elif not from_files and name not in ("digits", *ARRAYS):
        raise InputError(_unknown(name))


def _check_number(what: str, value: int | None, low: int, high: int | None) -> None:
    if value is None and what != "seed":
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        expected = f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
        raise InputError(f"{what}={value!r} is not possible: expected a whole number, {expected}")


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), TASKS, n=3, cutoff=0.0)
    return f"{name!r} names no task: expected one of {len(TASKS)}, nearest: {', '.join(near)}"


def _characters(name: str) -> str:
    """The classes of a task of glyphs."""
    if name == _GLYPHS:
        return CHARACTERS
    if not name.startswith(_CLASSES):
        group = name.removeprefix(f"{_GLYPHS}/")
        if group not in GROUPS:
            raise InputError(_unknown(name))
        return GROUPS[group]
    characters = name.removeprefix(_CLASSES)
    strange = [character for character in characters if character not in CHARACTERS]
    if strange:
        raise InputError(f"{name!r} asks for {strange[0]!r}: expected letters and digits, out of {CHARACTERS}")
    ordered = "".join(sorted(set(characters), key=CHARACTERS.index))
    if len(ordered) < 2:
        raise InputError(f"{name!r} has fewer than two classes: expected characters such as glyphs:ABCabc")
    if ordered != characters:
        raise InputError(
            f"{name!r} repeats or mixes up classes: write {_CLASSES}{ordered} (digits, capitals, small letters)"
        )
    return ordered


def _glyphs(wish: _Wish, characters: str) -> Task:
    size, channels = wish.size or _GLYPH_SIZE, wish.channels or 1
    splits = []
    for part in (TRAIN, TEST):
        count = _GLYPH_COUNTS[part] if (asked := wish.counts[part]) is None else asked
        _check_memory(wish.name, count, channels, size)
        labels = np.arange(count, dtype=np.int64) % len(characters)
        drawn = [characters[label] for label in labels]
        images = draw(drawn, (np.arange(count) // len(characters)).tolist(), part, size, channels, wish.seed)
        splits.append(Split(torch.from_numpy(images), torch.from_numpy(labels)))
    return make_task(wish.name, tuple(characters), *splits)


def _check_memory(name: str, count: int, channels: int, size: int) -> None:
    if (needed := count * channels * size**2) > _MOST_BYTES:
        raise InputError(
            f"{count:,} images of {name} would take {needed / 2**30:.1f} GiB: ask for fewer or smaller ones, "
            f"{_MOST_BYTES >> 30} GiB at most"
        )


def _digits(wish: _Wish) -> Task:
    found = library("sklearn.datasets").load_digits()
    # Levels go from 0 to 16.
    images = torch.from_numpy(np.rint(found.images * 255 / 16).astype(np.uint8)).unsqueeze(1)
    labels = found.target.astype(np.int64)
    order = shuffled(len(labels), wish.seed, 2)
    train, test = (np.sort(order[part]) for part in parted(labels[order]))
    classes = tuple(map(str, found.target_names))
    return _stored(wish, classes, ((images[train], labels[train]), (images[test], labels[test])))


def _published(wish: _Wish) -> Task:
    if wish.root is None:
        raise InputError(
            f"{wish.name} lies in a folder: name it (root=...), and allow its download (download=True) once"
        )
    if wish.name in ARRAYS:
        return _stored(wish, *published_arrays(wish.name, wish.root, wish.download))
    classes, listings = published_files(wish.name, wish.root, wish.download)
    return file_task(wish.name, classes, listings, wish.counts, wish.size or _FILE_SIZE, wish.channels or 3, wish.seed)


def _stored(
    wish: _Wish,
    classes: tuple[str, ...],
    parts: tuple[tuple[Tensor, NDArray[np.int64]], tuple[Tensor, NDArray[np.int64]]],
) -> Task:
    """A task of images that are in memory, in the size and the channels of the wish."""
    splits = []
    for part in (TRAIN, TEST):
        images, labels = parts[part]
        picked = chosen(labels, wish.counts[part], wish.seed, wish.name, part, part)
        size, channels = wish.size or images.shape[-1], wish.channels or images.shape[1]
        _check_memory(wish.name, len(picked), channels, size)
        splits.append(Split(_fitted(images[picked], size, channels), torch.from_numpy(labels[picked])))
    return make_task(wish.name, classes, *splits)


def _fitted(images: Tensor, size: int, channels: int) -> Tensor:
    """Images in another size and number of channels: bilinear, and the usual weights of red, green and blue."""
    if images.shape[1] != channels:
        change = v2.functional.rgb_to_grayscale if channels == 1 else v2.functional.grayscale_to_rgb
        images = change(images)
    if images.shape[-1] != size:
        images = v2.functional.resize(images, [size, size], antialias=True)
    return images.contiguous()

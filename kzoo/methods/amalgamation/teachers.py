"""Teachers: trained networks that answer with their features and logits, and never change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kzoo.errors import InputError
from kzoo.methods.amalgamation.blocks import fitted
from kzoo.methods.amalgamation.features import Tap, tap_of
from kzoo.methods.fusion.classifiers import check_outputs
from kzoo.training.batches import MEAN, STD, prepare

#: Grey of red, green and blue, as the usual definition of luma has it.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class View:
    """How a teacher wants images: ``channels``, a fixed ``size`` in pixels or None, and the mean and deviation of levels from
    0 to 1 that are taken off and divided by (None: kzoo's own, which are ImageNet's).
    """

    channels: int
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N x C x H x W) ready for the teacher; of uint8, or floats that are ready for kzoo's networks."""
        ready = prepare(images) if images.dtype == torch.uint8 else images.float()
        levels = self.mean is not None or self.channels != ready.shape[1]
        if levels:
            ready = ready * _row(STD[ready.shape[1]], ready) + _row(MEAN[ready.shape[1]], ready)
            ready = _with_channels(ready, self.channels)
            mean, std = self.mean or MEAN[self.channels], self.std or STD[self.channels]
            ready = (ready - _row(mean, ready)) / _row(std, ready)
        if self.size is not None and tuple(ready.shape[2:]) != self.size:
            ready = interpolate(ready, self.size, mode="bilinear", align_corners=False, antialias=True)
        return ready


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def _with_channels(levels: Tensor, channels: int) -> Tensor:
    if levels.shape[1] == channels:
        return levels
    if channels == 1:
        return (levels * _row(_LUMA, levels)).sum(1, keepdim=True)
    return levels.expand(-1, channels, -1, -1)


@dataclass(frozen=True)
class Teacher:
    """A trained network in evaluation mode, what its outputs stand for, how it wants images, and where its features are."""

    name: str
    module: nn.Module
    classes: tuple[str, ...]
    view: View
    tap: Tap

    @torch.no_grad()
    def answer(self, images: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Features on a grid (else as they are) and logits for images as the training sees them, as float32.

        Raises:
            InputError: they are not finite.
        """
        features, logits = self.tap(self.module, self.view(images))
        features, logits = features.float(), logits.float()
        if not bool(features.isfinite().all() & logits.isfinite().all()):
            raise InputError(
                f"the teacher {self.name} gives features or logits that are not finite: give other weights, or leave it out"
            )
        return (features if grid is None else fitted(features, grid)), logits

    @property
    def digest(self) -> str:
        """A sha256 of its tensors, by name."""
        total = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


def teacher(
    name: str,
    module: nn.Module,
    classes: Sequence[str],
    example: Tensor,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Teacher:
    """A teacher of a trained network, frozen; ``example`` are images as the training sees them (n x C x H x W).

    Raises:
        InputError: it does not take such images even when they are resized, has other outputs than its classes are, or gives
            what is not finite.
    """
    module = module.float().eval().requires_grad_(False)
    channels = _channels(module) or example.shape[1]
    known = tuple(mean) if mean is not None and len(mean) == channels else None
    view = View(channels, _fixed_size(module), known, tuple(std) if known is not None and std is not None else None)
    if channels not in MEAN:
        raise InputError(f"the teacher {name} takes images of {channels} channels: expected 1 or 3")
    try:
        with torch.no_grad():
            module(view(example))
    except Exception as error:  # networks raise what they like
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the teacher {name} does not take images of {'x'.join(map(str, example.shape[1:]))} ({said:.160}): give images of "
            "the size and channels that it was trained on"
        ) from None
    found = Teacher(name, module, tuple(classes), view, tap_of(module, view(example)))
    check_outputs(f"the teacher {name}", [found.answer(example)[1].T], classes)
    return found


def _channels(module: nn.Module) -> int | None:
    """The input channels of a network: those of its first convolution. None where it has none, and takes what it gets."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def _fixed_size(module: nn.Module) -> tuple[int, int] | None:
    """The size of images that a network insists on, where it does, as those with an embedding for each position do."""
    patches = getattr(module, "patch_embed", None)
    size = getattr(patches, "img_size", None) if getattr(patches, "strict_img_size", False) else None
    if size is None and isinstance(getattr(module, "image_size", None), int):
        size = module.image_size
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (tuple, list)) else None

"""Teachers: trained networks that answer with their features and logits, and never change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kzoo.errors import InputError
from kzoo.methods.amalgamation.blocks import fitted
from kzoo.methods.amalgamation.features import Tap, tap_of
from kzoo.methods.fusion.classifiers import check_outputs
from kzoo.training.batches import MEAN, STD, ready

#: Grey of red, green and blue, as the usual definition of luma has it.
_LUMA = (0.299, 0.587, 0.114)
_USUAL_SIZE = (224, 224)


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
        found = ready(images)
        levels = self.mean is not None or self.channels != found.shape[1]
        if levels:
            found = found * _row(STD[found.shape[1]], found) + _row(MEAN[found.shape[1]], found)
            found = _with_channels(found, self.channels)
            mean, std = self.mean or MEAN[self.channels], self.std or STD[self.channels]
            found = (found - _row(mean, found)) / _row(std, found)
        if self.size is not None and tuple(found.shape[2:]) != self.size:
            found = interpolate(found, self.size, mode="bilinear", align_corners=False, antialias=True)
        return found


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
    channels: int | None = None,
) -> Teacher:
    """A teacher of a trained network, frozen; ``example`` are images as the training sees them (n x C x H x W).

    ``mean`` and ``std`` are of the levels that it was trained with, ``channels`` what it takes, where they are known.

    Raises:
        InputError: it does not take such images even when they are resized, has other outputs than its classes are, or gives
            what is not finite.
    """
    module = module.float().eval().requires_grad_(False)
    channels = channels or _channels(module) or example.shape[1]
    if channels not in MEAN:
        raise InputError(f"the teacher {name} takes images of {channels} channels: expected 1 or 3")
    known = tuple(mean) if mean is not None and len(mean) == channels else None
    view = View(channels, None, known, tuple(std) if known is not None and std is not None else None)
    view = _sized(name, module, view, example)
    found = Teacher(name, module, tuple(classes), view, tap_of(module, view(example)))
    check_outputs(f"the teacher {name}", [found.answer(example)[1].T], classes)
    return found


def _sized(name: str, module: nn.Module, view: View, example: Tensor) -> View:
    """The view with the size of images that a network takes: the one that it says, the images' own, or its usual one.

    Raises:
        InputError: it takes none of these.
    """
    said = _fixed_size(module)
    problem = ""
    for size in (said,) if said is not None else (None, _usual_size(module)):
        sized = replace(view, size=size)
        try:
            with torch.no_grad():
                module(sized(example))
        except Exception as error:  # networks raise what they like
            problem = problem or " ".join(str(error).split()) or type(error).__name__
        else:
            return sized
    raise InputError(
        f"the teacher {name} does not take images of {'x'.join(map(str, example.shape[1:]))} ({problem:.160}): give images of "
        "the size and channels that it was trained on"
    )


def _usual_size(module: nn.Module) -> tuple[int, int]:
    """The size that timm has noted of a network's weights, or what most networks are made for."""
    size = configuration(module).get("input_size")
    return (int(size[-2]), int(size[-1])) if isinstance(size, (tuple, list)) and len(size) == 3 else _USUAL_SIZE


def configuration(module: nn.Module) -> Mapping[str, Any]:
    """What timm has noted of a network's weights; nothing for other networks."""
    found = getattr(module, "pretrained_cfg", None)
    return found if isinstance(found, Mapping) else {}


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

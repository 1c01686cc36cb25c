"""How well a network does, and batch normalisation's statistics measured anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan, nan

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from kzoo.errors import InputError
from kzoo.training.batches import Feed, prepare, ready
from kzoo.training.tasks import Images, Split

#: What a precision computes with, beside float32.
MIXED = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOP = 5


def evaluate(
    module: nn.Module, split: Split, batch_size: int = 256, *, precision: str = "float32", workers: int = 0
) -> dict[str, float]:
    """Loss and accuracy over a part of a task, with the module in evaluation mode; its modes are restored.

    Gives ``loss`` (mean cross-entropy in nats), ``accuracy`` (0 to 1), ``top5`` (the same for the five highest outputs;
    only where there are five or more) and ``images`` (their number). ``workers`` processes read images from files.

    Raises:
        InputError: there are no images, or they cannot be prepared.
    """
    if not len(split):
        raise InputError("there are no images to evaluate on: expected one or more")
    feed = Feed(split, place(module)[0], workers)
    return as_metrics(totals(module, feed, torch.arange(len(split)), batch_size, precision))


def as_metrics(sums: Tensor) -> dict[str, float]:
    """What `evaluate` gives, of what `totals` gives."""
    loss, hits, top, images = sums.tolist()
    found = {"loss": loss / images, "accuracy": hits / images}
    return found | ({} if isnan(top) else {"top5": top / images}) | {"images": int(images)}


@torch.no_grad()
def totals(module: nn.Module, feed: Feed, chosen: Tensor, batch_size: int, precision: str) -> Tensor:
    """Sums over the chosen images, as float64: loss, hits, hits among five (NaN with fewer outputs), images."""
    device, dtype = place(module)
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    if not len(chosen):
        return sums
    mixed = precision != "float32"
    with evaluation_mode(module), torch.autocast(device.type, MIXED[precision], enabled=mixed):
        for images, labels in feed.batches(torch.split(chosen, batch_size)):
            outputs = module(ready(images, dtype))
            outputs = outputs.float() if mixed else outputs
            sums[0] += nn.functional.cross_entropy(outputs, labels, reduction="sum")
            hits = outputs.topk(min(_TOP, outputs.shape[1])).indices == labels[:, None]
            sums[1] += hits[:, 0].sum()
            sums[2] += hits.sum() if outputs.shape[1] >= _TOP else nan
            sums[3] += len(labels)
    return sums


def recalibrate(module: nn.Module, images: Tensor | Images, batch_size: int = 256) -> None:
    """Measure the running statistics of batch normalisation anew, in place, on images that need no labels.

    Each layer gets the mean over batches of their means and unbiased variances; batches differ by one image at most.
    Other layers, dropout for one, are in evaluation mode, so nothing is random. Modes are restored. A module without batch
    normalisation stays as it is.

    Raises:
        InputError: there are no images, or they cannot be prepared.
    """
    if not len(images):
        raise InputError("there are no images to measure statistics on: expected one or more")
    device, dtype = place(module)
    parts = torch.arange(len(images)).tensor_split(-(-len(images) // batch_size))
    batches = (prepare(images[part].to(device), dtype) for part in parts)
    with evaluation_mode(module):
        update_bn(batches, _OnlyNorms(module))


class _OnlyNorms(nn.Module):
    """A module of which only batch normalisation ever gets into training mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def train(self, mode: bool = True) -> _OnlyNorms:
        """Training mode for batch normalisation, evaluation mode for all else."""
        for module in self.modules():
            module.training = mode and isinstance(module, _BatchNorm)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """What the module gives."""
        found: Tensor = self.module(images)
        return found


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards each part has the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def place(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a module is, and what numbers it computes with; those of one without parameters are float32 on the CPU."""
    floating = (parameter for parameter in module.parameters() if parameter.is_floating_point())
    first = next(floating, None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)

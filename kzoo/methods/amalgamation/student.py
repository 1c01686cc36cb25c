"""A student with the parts beside it that only training needs, and what both together make smaller."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.building import seeded
from kzoo.methods.amalgamation.blocks import CommonSpace
from kzoo.methods.amalgamation.cache import Cache, fits, needed_bytes
from kzoo.methods.amalgamation.features import Tap
from kzoo.methods.amalgamation.losses import maximum_mean_discrepancy, reconstruction, soft_cross_entropy
from kzoo.methods.amalgamation.panel import Panel
from kzoo.methods.amalgamation.parameters import CflParameters, KdParameters
from kzoo.methods.fusion.classifiers import output_layer
from kzoo.training.batches import ImageFeed, ready
from kzoo.training.objectives import Unlabelled
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Split, images_digest

_GIB = 2**30


@dataclass(frozen=True)
class Learned:
    """What the student and the parts beside it give: logits; features in the common space, the teachers' and its own; rebuilt ones."""

    logits: Tensor
    shared: list[Tensor]
    own: Tensor | None
    rebuilt: list[Tensor]


class Amalgam(nn.Module):
    """A student, and beside it the common space; without one it is the student alone. ``student`` is never changed but trained."""

    def __init__(self, student: nn.Module, tap: Tap, space: CommonSpace | None) -> None:
        super().__init__()
        self.student = student
        self.space = space
        self._tap = tap

    def forward(self, images: Tensor, features: Sequence[Tensor] = ()) -> dict[str, Any]:
        """What `Learned` holds, as a dict, which mixed precision and several processes can look into."""
        if self.space is None:
            return {"logits": self.student(images), "shared": [], "own": None, "rebuilt": []}
        own, logits = self._tap(self.student, images)
        shared, common, rebuilt = self.space(features, own)
        return {"logits": logits, "shared": shared, "own": common, "rebuilt": rebuilt}


def amalgam(student: nn.Module, tap: Tap, panel: Panel, parameters: KdParameters, seed: int) -> Amalgam:
    """The student with what the method needs beside it, initialised from a seed."""
    if not isinstance(parameters, CflParameters):
        return Amalgam(student, tap, None)
    aligned, common = parameters.widths(tap.channels)
    with seeded(seed):
        space = CommonSpace(
            [one.tap.channels for one in panel.teachers],
            tap.channels,
            aligned,
            common,
            parameters.blocks,
            compared=parameters.compared,
            rebuilt=parameters.rebuilt,
        )
    return Amalgam(student, tap, space)


def groups(
    module: Amalgam, example: Tensor, parameters: KdParameters, settings: TrainingSettings
) -> list[dict[str, Any]]:
    """Groups of parameters, each with its rate: the student's, those of its classifier, and those beside it.

    ``example`` is ready for the student; it tells which layer is the classifier, where that has a rate of its own.
    """
    head: dict[str, nn.Parameter] = {}
    if parameters.head_rate != 1:
        head = dict(module.student.get_submodule(output_layer(module.student, example)).named_parameters())
    apart = {id(value) for value in head.values()}
    student = [value for value in module.student.parameters() if value.requires_grad and id(value) not in apart]
    found = [{"name": "student", "params": student, "lr": settings.lr}]
    if head:
        found.append({"name": "head", "params": list(head.values()), "lr": settings.lr * parameters.head_rate})
    if module.space is not None:
        assert isinstance(parameters, CflParameters)
        rate = settings.lr * parameters.blocks_rate
        found.append({"name": "beside", "params": list(module.space.parameters()), "lr": rate})
    return found


class Distillation:
    """Amalgamation as `kzoo.training.objectives.Objective`: it has images and teachers, and no labels to train on.

    ``test`` are labelled images to test on meanwhile; ``grid`` is the student's, which teachers' features are fitted to.
    Of several processes each compares the features of its own share of a batch.

    ``folder`` is where teachers' answers are kept, in a folder for each process, where images are not augmented and they fit.
    Teachers are asked about ``rows`` images at a time, so that answers are the same whether they are kept or not.
    """

    def __init__(
        self,
        panel: Panel,
        parameters: KdParameters,
        images: Unlabelled,
        test: Split,
        grid: tuple[int, int],
        folder: Path | None = None,
        rows: int = 64,
    ) -> None:
        self._rows = rows
        self.panel, self.parameters, self.images, self._test, self.grid = panel, parameters, images, test, grid
        self._folder = folder
        self._features = isinstance(parameters, CflParameters)
        self._cache: Cache | None = None

    @property
    def count(self) -> int:
        """The number of training images."""
        return len(self.images)

    @property
    def size(self) -> int:
        """Their height and width in pixels."""
        return self.images.images.shape[-1]

    @property
    def test(self) -> Split:
        """Labelled images to test on; nothing is learned from them."""
        return self._test

    @property
    def fingerprint(self) -> str:
        """A sha256 of images, teachers, classes, scales and parameters."""
        told = {
            "images": images_digest(self.images.images).hex(),
            "teachers": [(one.digest, one.classes) for one in self.panel.teachers],
            "classes": self.panel.classes,
            "scales": (self.panel.logit_scales, self.panel.feature_sizes),
            "parameters": self.parameters.model_dump(exclude={"cache"}),
            "grid": self.grid,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def tested(self, module: nn.Module) -> nn.Module:
        """The student alone."""
        assert isinstance(module, Amalgam)
        return module.student

    def feed(self, device: torch.device, workers: int, process: int) -> AnsweredFeed:
        """Images on the device, and their numbers; the teachers go there too."""
        for one in self.panel.teachers:
            one.module.to(device)
        self._cache = self._new_cache(process)
        return AnsweredFeed(ImageFeed(self.images.images, device, workers), self._cache)

    def _new_cache(self, process: int) -> Cache | None:
        if self._folder is None:
            return None
        shapes: list[tuple[int, ...]] = [(len(self.panel.classes),)]
        if self._features:
            shapes += [(one.tap.channels, *self.grid) for one in self.panel.teachers]
        folder = self._folder / f"answers-{process}"
        # Each process keeps its own.
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        needed = needed_bytes(self.count, shapes)
        fitting = fits(folder, needed * processes, int(self.parameters.cache * _GIB))
        return Cache(folder, self.count, shapes) if fitting else None

    def answers(self, images: Tensor, numbers: Tensor) -> list[Tensor]:
        """What the teachers say of images: soft targets, then features; those that are kept are not asked for again."""
        kept = None if self._cache is None else self._cache.read(numbers)
        if kept is not None:
            return [each.to(images.device, non_blocking=True) for each in kept]
        found = self.panel.answers(images, self.grid, self.parameters.temperature, self._features, self._rows)
        if self._cache is not None:
            self._cache.write(numbers, found)
        return found

    def loss(self, model: nn.Module, images: Tensor, given: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The whole loss of a batch, and for how many images the student's class is the teachers' together."""
        targets, *features = self.answers(images, given)
        learned = Learned(**model(ready(images, dtype), features))
        parts = losses(learned, targets, features, self.parameters)
        hits = (learned.logits.argmax(1) == targets.argmax(1)).sum()
        return torch.stack(list(parts.values())).sum(), hits


def losses(
    learned: Learned, targets: Tensor, features: Sequence[Tensor], parameters: KdParameters
) -> dict[str, Tensor]:
    """The parts of the loss by name, each with its weight; those of teachers are summed over them."""
    logits = learned.logits.float()
    found = {"soft": parameters.soft_weight * soft_cross_entropy(logits, targets, parameters.temperature)}
    if not isinstance(parameters, CflParameters):
        return found
    if learned.own is not None:
        own, kernels = learned.own.float(), parameters.kernels
        apart = [maximum_mean_discrepancy(own, each.float(), kernels) for each in learned.shared]
        found["mmd"] = parameters.mmd_weight * torch.stack(apart).sum()
    if learned.rebuilt:
        each = [reconstruction(made.float(), true) for made, true in zip(learned.rebuilt, features, strict=True)]
        found["reconstruction"] = parameters.reconstruction_weight * torch.stack(each).sum()
    return found


class AnsweredFeed:
    """A feed of images whose end is also that of the teachers' kept answers."""

    def __init__(self, images: ImageFeed, cache: Cache | None) -> None:
        self._images, self._cache = images, cache

    def batches(self, chosen: Sequence[Tensor]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Images and numbers of each of the tensors of numbers."""
        return self._images.batches(chosen)

    def close(self) -> None:
        """End the processes that read, and remove what was kept."""
        self._images.close()
        if self._cache is not None:
            self._cache.close()

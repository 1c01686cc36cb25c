"""The teachers of one student together: their answers to images, on one scale, over all classes that they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, fsum, log

import torch
from torch import Tensor

from kzoo.errors import InputError
from kzoo.methods.amalgamation.losses import merged_max, soft_targets, spreads
from kzoo.methods.amalgamation.parameters import CflParameters, KdParameters, Overlap
from kzoo.methods.amalgamation.teachers import Teacher

_MEASURED_AT_ONCE = 64


@dataclass(frozen=True)
class Panel:
    """Teachers, the classes that the student's outputs stand for, and what their answers are divided by.

    ``logit_scales`` are what each teacher's logits are taken times, about each image's mean; without them they stay as
    they are. ``feature_sizes`` are what its features are divided by.
    """

    teachers: tuple[Teacher, ...]
    classes: tuple[str, ...]
    overlap: Overlap = "sum"
    logit_scales: tuple[float, ...] = ()
    feature_sizes: tuple[float, ...] = ()
    spread: tuple[float, ...] = field(default=())

    @property
    def places(self) -> Tensor:
        """Which class each output of the teachers, side by side, stands for."""
        return torch.tensor([self.classes.index(name) for one in self.teachers for name in one.classes])

    def calibrated(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """The teachers' logits (N x its classes each) on one scale."""
        if not self.logit_scales:
            return list(logits)
        pairs = zip(logits, self.logit_scales, strict=True)
        return [(each - each.mean(1, keepdim=True)) * scale for each, scale in pairs]

    def targets(self, logits: Sequence[Tensor], temperature: float) -> Tensor:
        """Soft targets of teachers' logits: N x classes."""
        side_by_side = torch.cat(self.calibrated(logits), 1)
        places = self.places.to(side_by_side.device)
        return soft_targets(side_by_side, places, len(self.classes), temperature, self.overlap)

    def answers(
        self, images: Tensor, grid: tuple[int, int], temperature: float, features: bool, rows: int | None = None
    ) -> list[Tensor]:
        """The soft targets (N x classes) for images, then each teacher's features on a grid, where they are wanted.

        Teachers are asked ``rows`` images at a time (unset: all), and never fewer: the last bits of an answer depend on how
        many images are asked about together, and an image is to have one answer whichever batch it is in.

        Raises:
            InputError: a teacher's answer is not finite.
        """
        parts = [_filled(part, rows) for part in torch.split(images, rows or len(images))]
        told = [
            tuple(torch.cat(column)[: len(images)] for column in zip(*each, strict=True))
            for each in ([one.answer(part, grid if features else None) for part in parts] for one in self.teachers)
        ]
        found = [self.targets([logits for _, logits in told], temperature)]
        if features:
            sizes = self.feature_sizes or (1.0,) * len(told)
            found += [each / size for (each, _), size in zip(told, sizes, strict=True)]
        return found

    def scores(self, logits: Sequence[Tensor], by: str) -> Tensor:
        """What the teachers side by side say without a student: N x classes, by each one's probabilities or raw logits.

        Of a class that several know, probabilities are merged as soft targets are; of logits the highest counts.
        """
        given = torch.cat([each.softmax(1) for each in logits] if by == "probability" else list(logits), 1)
        places = self.places.to(given.device)
        if by == "probability" and self.overlap == "sum":
            return given.new_zeros(len(given), len(self.classes)).index_add(1, places, given)
        return merged_max(given, places, len(self.classes))


def _filled(images: Tensor, rows: int | None) -> Tensor:
    """So many images: the last one stands in for those that are missing."""
    missing = 0 if rows is None else rows - len(images)
    return torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images


def measured(
    teachers: Sequence[Teacher], classes: Sequence[str], parameters: KdParameters, images: Tensor, grid: tuple[int, int]
) -> Panel:
    """The panel of teachers, with their scales as measured on unlabelled images as the training sees them.

    Raises:
        InputError: a teacher's answers are not finite, or are all the same.
    """
    parts = torch.split(images, _MEASURED_AT_ONCE)
    each = [[one.answer(part, grid) for part in parts] for one in teachers]
    spread = spreads([torch.cat([logits for _, logits in told]) for told in each])
    flat = next(
        (one.name for one, size in zip(teachers, spread, strict=True) if size == 0 and len(one.classes) > 1), None
    )
    if flat is not None:
        raise InputError(f"the teacher {flat} gives every class the same score: expected a trained network")
    scales: tuple[float, ...] = ()
    if parameters.calibrate == "scale":
        middle = exp(fsum(log(size) for size in spread if size) / max(sum(size > 0 for size in spread), 1))
        scales = tuple(middle / size if size else 1.0 for size in spread)
    sizes: tuple[float, ...] = ()
    if isinstance(parameters, CflParameters) and parameters.scaled:
        squares = [torch.cat([features.square().mean((1, 2, 3)) for features, _ in told]) for told in each]
        sizes = tuple(float(found.double().mean().sqrt()) or 1.0 for found in squares)
    return Panel(tuple(teachers), tuple(classes), parameters.overlap, scales, sizes, tuple(spread))

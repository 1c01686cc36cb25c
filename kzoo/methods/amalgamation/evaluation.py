"""How well a student does beside its teachers: over all classes, and on what each teacher knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.methods.amalgamation.panel import Panel
from kzoo.training.batches import ImageFeed, ready
from kzoo.training.evaluation import MIXED, evaluation_mode, place
from kzoo.training.tasks import Split


@dataclass(frozen=True)
class Answers:
    """Scores for test images: the student's (N x classes), each teacher's (N x its own classes), and labels (N)."""

    student: Tensor
    teachers: Sequence[Tensor]
    labels: Tensor


def answers(
    student: nn.Module, panel: Panel, split: Split, batch_size: int = 256, precision: str = "float32"
) -> Answers:
    """What the student, in a precision, and the teachers say of test images; on the CPU."""
    device, dtype = place(student)
    found: list[list[Tensor]] = []
    feed = ImageFeed(split.images, device)
    for one in panel.teachers:
        one.module.to(device)
    with torch.no_grad(), evaluation_mode(student):
        for images, _ in feed.batches(torch.split(torch.arange(len(split)), batch_size)):
            with torch.autocast(device.type, MIXED[precision], enabled=precision != "float32"):
                own = student(ready(images, dtype)).float()
            told = [own, *(one.answer(images)[1] for one in panel.teachers)]
            found.append([each.cpu() for each in told])
    scores, *others = (torch.cat(column) for column in zip(*found, strict=True))
    return Answers(scores, others, split.labels)


def comparison(panel: Panel, told: Answers) -> dict[str, Any]:
    """Accuracies from 0 to 1, as JSON data.

    ``joint`` is over all classes: the student's; ``concatenated``, of the teachers side by side without a student, by the
    probabilities of each or by raw logits; ``oracle``, of the first teacher that knows an image's class, among its own
    classes. ``tasks`` are the images of each teacher's classes: the student's accuracy there over all classes (``joint``)
    and among those classes (``own``), and the teacher's own.
    """
    labels = told.labels
    tasks = []
    routed = torch.zeros(len(labels), dtype=torch.bool)
    seen = torch.zeros(len(labels), dtype=torch.bool)
    for teacher, scores in zip(panel.teachers, told.teachers, strict=True):
        places = torch.tensor([panel.classes.index(name) for name in teacher.classes])
        known = torch.isin(labels, places)
        right = places[scores.argmax(1)] == labels
        routed, seen = torch.where(known & ~seen, right, routed), seen | known
        tasks.append(
            {
                "teacher": teacher.name,
                "classes": len(places),
                "images": int(known.sum()),
                "joint": _share((told.student.argmax(1) == labels)[known]),
                "own": _share((places[told.student[:, places].argmax(1)] == labels)[known]),
                "teacher_own": _share(right[known]),
            }
        )
    concatenated = {by: _share(panel.scores(told.teachers, by).argmax(1) == labels) for by in ("probability", "logit")}
    return {
        "joint": _share(told.student.argmax(1) == labels),
        "concatenated": concatenated,
        "oracle": _share(routed),
        "tasks": tasks,
    }


def _share(right: Tensor) -> float | None:
    """The share of images that are right; None where there are none."""
    return float(right.double().mean()) if len(right) else None

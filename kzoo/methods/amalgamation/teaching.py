"""Teach a student by its teachers, from images without labels."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.amalgamation.features import Tap, tap_of
from kzoo.methods.amalgamation.panel import Panel, measured
from kzoo.methods.amalgamation.parameters import KdParameters
from kzoo.methods.amalgamation.student import Distillation, amalgam, groups
from kzoo.methods.amalgamation.teachers import Teacher
from kzoo.methods.fusion.classifiers import union_of_classes
from kzoo.training.batches import ready
from kzoo.training.evaluation import evaluation_mode, place
from kzoo.training.history import History
from kzoo.training.loop import Progress, optimise
from kzoo.training.objectives import Unlabelled
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Split, shuffled

#: So many images say how large the teachers' features and logits are; as many stand in for test images.
_MEASURED = 512
#: About at most so many images teachers are asked together.
_ROWS = 64
#: A stream of random numbers that no task uses.
_STREAM = 40_001
_EXAMPLES = 2


@dataclass(frozen=True)
class Taught:
    """What a teaching did: the history, the teachers as they were asked, where the student's features were, and how many
    entries lay beside it meanwhile.
    """

    history: History
    panel: Panel
    tap: Tap
    beside: int


def teach(
    student: nn.Module,
    teachers: Sequence[Teacher],
    images: Unlabelled,
    parameters: KdParameters,
    settings: TrainingSettings,
    *,
    classes: Sequence[str] | None = None,
    test: Split | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    resume: bool = True,
    progress: Progress | None = None,
) -> Taught:
    """Teach a student, in place; it ends in evaluation mode, and nothing in it is new but its values.

    ``images`` are N x C x H x W: of uint8, or floats that are ready for the student. ``classes`` say what its outputs stand
    for, in order; without them it is the order in which the teachers name them. ``test`` are labelled images to test on
    after each epoch (labels are places in ``classes``); without any, the teachers' own answers to some of the images take
    their place, and accuracy is agreement with them. The history's loss is all that the method makes smaller; its training
    accuracy is agreement with the teachers together. All else is as in `kzoo.training.loop.train`.

    Raises:
        InputError: there are fewer than two teachers, the student has not an output for each class, a teacher's answers are
            not finite, or as `kzoo.training.loop.optimise`.
        WorldError: the disk fails.
    """
    idle = next((name for name in ("label_smoothing", "random_lr") if getattr(settings, name)), None)
    if idle is not None:
        raise InputError(
            f"the training setting {idle} has no meaning where a student learns from teachers: leave it out"
        )
    names = _classes(teachers, classes)
    example = ready(images.images[torch.arange(min(_EXAMPLES, len(images)))])
    tap = _tap(student, example, names)
    order = torch.from_numpy(shuffled(len(images), 0, _STREAM)[:_MEASURED])
    some = images.images[order]
    panel = measured(teachers, names, parameters, some, tap.grid)
    module = amalgam(student, tap, panel, parameters, settings.seed)
    with ExitStack() as stack:
        folder = None
        if settings.augment == "none" and settings.epochs > 1:
            folder = checkpoint or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kzoo-teachers-")))
        tested = test if test is not None else Split(some, _agreed(panel, some))
        rows = min(settings.batch_size, _ROWS)
        objective = Distillation(panel, parameters, images, tested, tap.grid, folder, rows)
        history = optimise(
            module,
            objective,
            settings,
            groups=groups(module, example.to(place(student)[0]), parameters, settings),
            checkpoint=checkpoint,
            key=key,
            resume=resume,
            progress=progress,
        )
    beside = 0 if module.space is None else sum(value.numel() for value in module.space.parameters())
    return Taught(history, panel, tap, beside)


def _classes(teachers: Sequence[Teacher], classes: Sequence[str] | None) -> list[str]:
    if len(teachers) < 2:
        raise InputError(
            f"there is {len(teachers)} teacher: amalgamation takes two or more; one network's weights are carried over by "
            "kzoo transfer"
        )
    union = union_of_classes([one.classes for one in teachers])
    if classes is None:
        return union
    if sorted(classes) != sorted(union):
        odd = next(name for name in (*classes, *union) if (name in classes) != (name in union))
        whose = "no teacher knows" if odd in classes else "the student is not to have"
        raise InputError(
            f"the class {odd!r:.80} is one that {whose}: the student's classes are those that the teachers know together, "
            f"{', '.join(union):.200}"
        )
    return list(classes)


def _tap(student: nn.Module, example: Tensor, classes: Sequence[str]) -> Tap:
    """Where the student's features are.

    Raises:
        InputError: it does not take the images, or has not as many outputs as classes.
    """
    device, dtype = place(student)
    if dtype != torch.float32:
        raise InputError(
            f"the student computes with {dtype}: give it in float32 (precision=bf16 is a setting of the training)"
        )
    try:
        with torch.no_grad(), evaluation_mode(student):
            outputs = student(example.to(device)).shape[1]
    except Exception as error:  # networks raise what they like
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the student does not take images of {'x'.join(map(str, example.shape[1:]))} ({said:.160}): give another one, or other images"
        ) from None
    tap = tap_of(student, example.to(device))
    if outputs != len(classes):
        raise InputError(
            f"the student has {outputs} outputs, and the teachers know {len(classes)} classes together: give it a classifier "
            f"of {len(classes)}"
        )
    return tap


def _agreed(panel: Panel, images: Tensor) -> Tensor:
    """The class that the teachers together give each image: N."""
    parts = torch.split(images, 64)
    told = [panel.targets([one.answer(part)[1] for one in panel.teachers], 1.0) for part in parts]
    return torch.cat(told).argmax(1)

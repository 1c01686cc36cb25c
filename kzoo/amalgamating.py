"""Amalgamate by a recipe: its sources are the teachers, its target the student, its data the images without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kzoo.building import NetworkSpec, build_network
from kzoo.errors import InputError
from kzoo.fusing import head_tensors
from kzoo.layout import RECIPE
from kzoo.methods.amalgamation.parameters import KdParameters
from kzoo.methods.fusion.classifiers import union_of_classes
from kzoo.methods.fusion.parents import check_digests
from kzoo.model_folder import read_config
from kzoo.recipe import Recipe, SourceSection, TargetSection, is_no_path, public_path, read_recipe
from kzoo.surroundings import Surroundings, target_network, try_out
from kzoo.trained_modules import load_trained, trained_network
from kzoo.weights import TrainedNetwork

if TYPE_CHECKING:
    from kzoo.methods.amalgamation.teachers import Teacher
    from kzoo.methods.amalgamation.teaching import Taught
    from kzoo.training.history import History
    from kzoo.training.tasks import Task


@dataclass(frozen=True)
class TeacherReport:
    """One teacher: what people call it, its network, its classes, how far its logits lie apart on the images, and what they
    and its features were multiplied by.
    """

    name: str
    network: str
    classes: tuple[str, ...]
    spread: float | None = None
    logit_scale: float = 1.0
    feature_scale: float = 1.0


@dataclass(frozen=True)
class AmalgamationReport:
    """What an amalgamation did.

    ``classes`` are what the student's outputs stand for, in order; ``entries`` counts its learned entries, ``beside`` those of the
    parts that only training had. Nothing was carried over (``shares``): the student learned all of it.
    """

    method: str
    parameters: Mapping[str, Any]
    teachers: tuple[TeacherReport, ...]
    classes: tuple[str, ...]
    entries: int
    beside: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


@dataclass
class Lesson:
    """A student before it is taught, its teachers, and the images; ``report`` tells all once it has been."""

    student: nn.Module
    teachers: tuple[Teacher, ...]
    task: Task
    parameters: KdParameters
    report: AmalgamationReport

    def taught(self, recipe: Recipe, where: Surroundings, checkpoint: Path, key: str) -> tuple[History, dict[str, Any]]:
        """Teach the student; the history and the metrics."""
        from kzoo.methods.amalgamation.evaluation import answers, comparison
        from kzoo.methods.amalgamation.teaching import teach
        from kzoo.training.evaluation import evaluate
        from kzoo.training.objectives import Unlabelled

        assert recipe.training is not None
        found = teach(
            self.student,
            self.teachers,
            Unlabelled(self.task.train.images),
            self.parameters,
            recipe.training,
            classes=self.report.classes,
            test=self.task.test,
            checkpoint=checkpoint,
            key=key,
            progress=where.progress,
        )
        self.report = completed(self.report, found)
        if found.history.diverged is not None:
            return found.history, {}
        tested = evaluate(self.student, self.task.test, precision=recipe.training.precision)
        told = answers(self.student, found.panel, self.task.test, precision=recipe.training.precision)
        metrics = {
            "test": tested,
            "data": self.task.fingerprint,
            "training": found.history.to_dict(timings=False),
            "amalgamation": comparison(found.panel, told),
        }
        return found.history, metrics


def completed(report: AmalgamationReport, found: Taught) -> AmalgamationReport:
    """The report with what was measured on the way."""
    panel = found.panel
    scales = panel.logit_scales or (1.0,) * len(panel.teachers)
    sizes = panel.feature_sizes or (1.0,) * len(panel.teachers)
    teachers = tuple(
        TeacherReport(one.name, one.network, one.classes, spread, scale, 1 / size)
        for one, spread, scale, size in zip(report.teachers, panel.spread, scales, sizes, strict=True)
    )
    return AmalgamationReport(
        report.method, report.parameters, teachers, report.classes, report.entries, found.beside, report.shares
    )


def lesson(recipe: Recipe, where: Surroundings, parameters: KdParameters) -> tuple[NetworkSpec, Lesson]:
    """The student of a recipe before it is taught, and who teaches it.

    Raises:
        InputError: something that amalgamation needs is missing, or networks, classes and images do not fit each other.
        CheckFailed: a file is not the one that the recipe names.
    """
    if recipe.plan is not None or recipe.inputs or recipe.calibration is not None:
        raise InputError(
            f"the recipe has a plan, inputs or calibration images: method {recipe.method} takes none of them"
        )
    if len(recipe.sources) < 2:
        raise InputError(
            f"the recipe has {len(recipe.sources)} source: method {recipe.method} takes two teachers or more; one network's "
            "weights are carried over by kzoo transfer"
        )
    if recipe.data is None or recipe.training is None:
        what = "data" if recipe.data is None else "training"
        raise InputError(
            f"the recipe has no {what}: a student learns from images (--data TASK) over some epochs (--epochs N)"
        )
    trained = [where.checked(source) for source in recipe.sources]
    names = called(recipe, trained)
    check_digests([source.path for source in recipe.sources], [one.sha256 for one in trained])
    known = [_named_classes(source, name) for source, name in zip(recipe.sources, names, strict=True)]
    task = where.data(recipe.data)
    classes = _joint_classes(known, task)
    target = recipe.target
    if target.classes not in (None, len(classes)):
        raise InputError(
            f"the student has {target.classes} classes, and the teachers know {len(classes)} together: set target.classes to that"
        )
    spec = target_network(target.model_copy(update={"classes": len(classes)}) if _sized(target) else target, where)
    student = build_network(spec, where.zoo, target.seed, where.trust_code)
    try_out(student, task)
    if recipe.start is not None:
        _begin(student, where.checked(recipe.start), head_tensors(spec, where))
    example = task.train.images[torch.arange(min(2, len(task.train)))]
    pairs = [
        _teacher(source, one, name, own, where, example)
        for source, one, name, own in zip(recipe.sources, trained, names, known, strict=True)
    ]
    report = AmalgamationReport(
        recipe.method,
        parameters.model_dump(exclude_none=True),
        tuple(TeacherReport(one.name, network, one.classes) for network, one in pairs),
        tuple(classes),
        sum(parameter.numel() for parameter in student.parameters()),
    )
    return spec, Lesson(student, tuple(one for _, one in pairs), task, parameters, report)


def _sized(target: TargetSection) -> bool:
    """Whether a target is built with as many classes as are asked for."""
    return not target.model.startswith("py:")


def called(recipe: Recipe, trained: list[TrainedNetwork]) -> list[str]:
    """What people call the teachers: no two alike."""
    names = []
    for source, one in zip(recipe.sources, trained, strict=True):
        name = public_path(source.path)
        file = one.shards[0].resolve() if one.shards else None
        names.append(file.parent.name if file is not None and name == file.name and file.stem == "model" else name)
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)]


def _named_classes(source: SourceSection, name: str) -> list[str]:
    if source.classes is None:
        raise InputError(
            f"it is not known what the outputs of {name} stand for: name its classes in order (--classes a,b,c, once for each "
            "network; sources.classes in a recipe)"
        )
    return source.classes


def _joint_classes(known: list[list[str]], task: Task) -> list[str]:
    """The student's classes, in the order of the images' classes.

    Raises:
        InputError: the images' classes are not those that the teachers know together.
    """
    union = union_of_classes(known)
    if sorted(union) != sorted(task.classes):
        odd = next(name for name in (*task.classes, *union) if (name in task.classes) != (name in union))
        fault = "is no teacher's" if odd in task.classes else f"is none of {task.name}"
        raise InputError(
            f"the class {odd!r:.60} {fault}: the images must show what the teachers know together ({', '.join(union):.120}); "
            "choose others, or some of their classes (data.classes), or name the teachers' as the images' are (--classes)"
        )
    return list(task.classes)


def _teacher(
    source: SourceSection, trained: TrainedNetwork, name: str, classes: list[str], where: Surroundings, example: Tensor
) -> tuple[str, Teacher]:
    from kzoo.methods.amalgamation.teachers import teacher

    spec = trained_network(trained, where.zoo, source.network, None, where.trust_code)
    module = load_trained(trained, spec, where.zoo, where.trust_code)
    levels = levels_of(source.path, trained, spec)
    return str(spec), teacher(name, module, classes, example, *levels, channels=spec.options.in_chans)


def levels_of(
    path: str, trained: TrainedNetwork, spec: NetworkSpec
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation of the levels that a teacher was trained with; None for kzoo's own.

    A network that kzoo trained was trained with those, whatever its architecture has by default.
    """
    folder = trained.shards[0].parent if trained.shards else None
    if folder is not None and (folder / RECIPE).is_file() and read_recipe(folder / RECIPE).training is not None:
        return None, None
    told = read_config(folder).get("pretrained_cfg") if folder is not None else None
    if not isinstance(told, dict):
        if spec.library != "timm" or not is_no_path(path):
            return None, None
        import timm

        config = timm.get_pretrained_cfg(spec.name)
        told = {} if config is None else {"mean": config.mean, "std": config.std}
    return noted_levels(told)


def noted_levels(told: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation as timm notes them of a network's weights; None where it does not."""
    return _numbers(told.get("mean")), _numbers(told.get("std"))


def _numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, (list, tuple)) or not values:
        return None
    return tuple(float(value) for value in values) if all(isinstance(value, (int, float)) for value in values) else None


def _begin(student: nn.Module, trained: TrainedNetwork, heads: tuple[str, ...]) -> None:
    """Give a student the weights that it begins with; a classifier of another size stays as it is.

    Raises:
        InputError: they are another network's.
    """
    state = student.state_dict()
    for name, tensor in state.items():
        given = trained.tensors.get(name)
        if given is not None and given.shape == tensor.shape:
            state[name] = given.to(tensor.dtype)
        elif name not in heads:
            raise InputError(
                f"the student cannot begin with {public_path(trained.name)}: its {name} "
                f"{'is missing' if given is None else 'differs in shape'}; give weights of that very network (kzoo transfer)"
            )
    student.load_state_dict(state)

"""``kzoo.fuse`` with ``method="cfl"`` or ``"kd"``: amalgamate networks that are in memory, or lie on the disk, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kzoo.amalgamating import AmalgamationReport, TeacherReport, completed, levels_of, noted_levels
from kzoo.building import build_network, network_spec
from kzoo.carrying import remember
from kzoo.edits import copied
from kzoo.errors import CheckFailed, InputError
from kzoo.facade import Registry, open_zoo
from kzoo.methods.amalgamation.parameters import AMALGAMATION, KdParameters
from kzoo.methods.amalgamation.teachers import Teacher, configuration, teacher
from kzoo.methods.amalgamation.teaching import teach
from kzoo.methods.fusion.classifiers import union_of_classes
from kzoo.methods.transfers import checked_parameters
from kzoo.sources import Options
from kzoo.trained_modules import load_trained, trained_network
from kzoo.training.objectives import Unlabelled
from kzoo.training.settings import TrainingSettings, read_settings
from kzoo.weights import open_trained

_MAP = 4
_EXAMPLES = 2


def amalgamate(
    networks: Sequence[object],
    method: str,
    student: str | nn.Module | None,
    images: object,
    classes: Sequence[Sequence[str]] | None,
    training: Mapping[str, Any],
    registry: Registry,
    parameters: Mapping[str, Any],
) -> nn.Module:
    """See `kzoo.fuse`."""
    chosen = checked_parameters(method, AMALGAMATION[method], parameters)
    assert isinstance(chosen, KdParameters)
    settings = read_settings(training)
    if isinstance(networks, (nn.Module, str, Path)) or not isinstance(networks, Sequence):
        raise InputError(f"networks={type(networks).__name__} is no list: give two teachers or more, as [one, two]")
    if student is None:
        raise InputError(
            f"method {method} makes a student learn: give student, a module or a name such as timm:resnet18"
        )
    if not isinstance(images, Tensor) or images.ndim != _MAP or not len(images):
        raise InputError(f"method {method} learns from images without labels: give images, a tensor N x C x H x W")
    if classes is None or len(classes) != len(networks):
        raise InputError(
            f"there are {len(networks)} teachers, and classes {'of none' if classes is None else f'of {len(classes)}'}: give those of each"
        )
    if len(networks) < 2:
        raise InputError("there is 1 teacher: amalgamation takes two or more" if networks else "there is no teacher")
    union = union_of_classes(classes)
    pairs = [
        _teacher(one, number, own, images[:_EXAMPLES], registry)
        for number, (one, own) in enumerate(zip(networks, classes, strict=True), start=1)
    ]
    module = _student(student, len(union), images.shape[1], settings, registry)
    found = teach(module, [one for _, one in pairs], Unlabelled(images), chosen, settings, classes=union)
    if found.history.diverged is not None:
        raise CheckFailed(f"the training diverged at step {found.history.diverged}: give it a lower lr")
    report = AmalgamationReport(
        method,
        chosen.model_dump(exclude_none=True),
        tuple(TeacherReport(one.name, network, one.classes) for network, one in pairs),
        tuple(union),
        sum(parameter.numel() for parameter in module.parameters()),
    )
    remember(module, {}, completed(report, found))
    return module


def _teacher(
    network: object, number: int, classes: Sequence[str], example: Tensor, registry: Registry
) -> tuple[str, Teacher]:
    """The name of a teacher's network, and the teacher, which is a copy."""
    if isinstance(network, nn.Module):
        levels = noted_levels(configuration(network))
        return type(network).__name__, teacher(f"network {number}", copied(network), classes, example, *levels)
    if not isinstance(network, (str, Path)):
        raise InputError(
            f"a teacher is a torch module, a file or folder, or a model's name, not {type(network).__name__}: give one"
        )
    trained = open_trained(network, lambda: open_zoo(registry))
    spec = trained_network(trained, lambda: open_zoo(registry))
    module = load_trained(trained, spec, lambda: open_zoo(registry))
    levels = levels_of(str(network), trained, spec)
    return str(spec), teacher(str(network), module, classes, example, *levels, channels=spec.options.in_chans)


def _student(
    student: str | nn.Module, classes: int, channels: int, settings: TrainingSettings, registry: Registry
) -> nn.Module:
    """A network of its own."""
    if isinstance(student, nn.Module):
        return copied(student)
    if not isinstance(student, str):
        raise InputError(f"a student is a torch module or a name such as timm:resnet18, not {type(student).__name__}")
    options = Options() if student.startswith("py:") else Options(classes, channels)
    spec = network_spec(student, lambda: open_zoo(registry), options)
    return build_network(spec, lambda: open_zoo(registry), settings.seed)

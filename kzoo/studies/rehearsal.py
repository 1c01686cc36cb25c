"""Whether a profile could be run: everything that it names, tried out on this machine.

Every method's parameters are read, every data set is opened, every network is built, grown where an arm grows it, and takes
one step of each training of the profile. Nothing is written. Where a data set is not here, noise of its shape stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.building import build_network, network_spec
from kzoo.edits import copied
from kzoo.errors import InputError, KzooError
from kzoo.methods.growth import GROWTH, Material, grow
from kzoo.recipe import DataSection
from kzoo.sources import Options
from kzoo.starting import method_parameters
from kzoo.studies.design import Progress, Section
from kzoo.studies.growth.recipes import LOOP
from kzoo.studies.params import Study
from kzoo.surroundings import load_data
from kzoo.training.batches import prepare
from kzoo.training.data import require_task
from kzoo.training.loop import train
from kzoo.training.published import ARRAYS, FILES
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Split, Task, make_task
from kzoo.zoo import shipped_zoo

#: So many images are a batch: the fewest with which batch normalisation over one place works, and two processes.
_IMAGES = 4
#: Classes and channels of data sets that may not be here; folders of one's own are taken to be as ImageNet is.
_CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "flowers102": 102, "fgvc_aircraft": 100}
_GREY = ("mnist", "fashion_mnist")
_OTHER_CLASSES, _ARRAY_SIZE, _FILE_SIZE = 1000, 32, 224


@dataclass(frozen=True)
class Tried:
    """Something that a profile names: what it is, where it stands in the profile, what was tried, and what is wrong with it."""

    what: str
    where: str
    told: str
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Named:
    """What a profile names, by its place there: methods with parameters, data, trainings, and sections of networks."""

    methods: dict[str, Any]
    data: dict[str, DataSection]
    trainings: dict[str, TrainingSettings]
    networks: dict[str, _Network]


@dataclass(frozen=True)
class _Network:
    """A network, the places of the data that it is for, and the arms that grow it."""

    model: str
    img_size: int | None
    data: tuple[str, ...]
    grown: tuple[str, ...] = ()


def rehearse(study: Study, progress: Progress = lambda _what, _done: None) -> list[Tried]:
    """Try out everything that a study's profile names; what cannot be used stands in the result as a problem."""
    named = named_by(study.profile)
    steps = list(_steps(study, named))
    found = []
    for number, step in enumerate(steps):
        found.append(step())
        progress("trying out", (number + 1) / len(steps))
    return found


def named_by(profile: Any) -> Named:
    """What a profile names, whatever kind of study it is of."""
    sections = dict(_walk(profile, ""))
    data = {where: each for where, each in sections.items() if isinstance(each, DataSection)}
    methods = {
        where: each for where, each in sections.items() if hasattr(each, "method") and hasattr(each, "parameters")
    }
    networks = {
        where: _Network(
            each.model, getattr(each, "img_size", None), _data_of(each, data), _grown(where, sections, methods)
        )
        for where, each in sections.items()
        if hasattr(each, "model")
    }
    if (student := getattr(profile, "student", None)) is not None:
        networks["student"] = _Network(student, None, tuple(data))
    trainings = {where: each for where, each in sections.items() if isinstance(each, TrainingSettings)}
    return Named(methods, data, trainings, networks)


def _walk(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The sections of a profile, with their places."""
    if isinstance(value, (DataSection, TrainingSettings)):
        yield where, value
    elif isinstance(value, Section):
        yield where, value
        for name in type(value).model_fields:
            yield from _walk(getattr(value, name), f"{where}.{name}".lstrip("."))
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _walk(each, f"{where}.{name}".lstrip("."))


def _data_of(section: Any, data: dict[str, DataSection]) -> tuple[str, ...]:
    """The places of the data that a network is for: those that it names, or all."""
    own = getattr(section, "data", None)
    return (f"data.{own}",) if isinstance(own, str) else tuple(data)


def _grown(where: str, sections: dict[str, Any], methods: dict[str, Any]) -> tuple[str, ...]:
    """The places of the arms that grow the network at a place: those of the cases that name it as a teacher."""
    name = where.rpartition(".")[2]
    cases = [place for place, each in sections.items() if name in (getattr(each, "teachers", None) or ())]
    return tuple(
        place
        for place, arm in methods.items()
        if arm.method in GROWTH and any(place.startswith(f"{case}.") for case in cases)
    )


def _steps(study: Study, named: Named) -> Iterator[Callable[[], Tried]]:
    """What is tried, one thing after the other."""
    for where, arm in named.methods.items():
        yield partial(_method, where, arm)
    for where, section in named.data.items():
        yield partial(_data, where, section, study.folder)
    tasks = cache(lambda where: stand_in(named.data[where], study.folder))
    for where, network in named.networks.items():
        for place in network.data:
            for arm in (None, *network.grown):
                yield partial(_network, named, where, place, arm, tasks)


def _method(where: str, arm: Any) -> Tried:
    try:
        method_parameters(arm.method, arm.parameters)
    except KzooError as error:
        return Tried("method", where, arm.method, str(error))
    return Tried("method", where, f"{arm.method}, its parameters")


def _data(where: str, section: DataSection, base: Path) -> Tried:
    try:
        task = stand_in(section, base)
    except KzooError as error:
        return Tried("data", where, section.task, str(error))
    missing = _missing(section, base)
    size = f"{task.channels} x {task.size} x {task.size}, {len(task.classes):,} classes"
    return Tried("data", where, f"{section.task}, {size}{'' if missing is None else f'; not here ({missing}): noise'}")


def stand_in(section: DataSection, base: Path) -> Task:
    """A few images of a data set, or noise of their shape where it is not on this machine.

    Raises:
        InputError: the section cannot be used, whatever is on the machine.
    """
    options = section.model_dump(include={"train", "test", "size", "channels", "seed"})
    require_task(section.task, **options)
    if _missing(section, base) is None:
        few = {"train": _IMAGES, "test": _IMAGES, "fingerprint": None, "validation": None, "split": None}
        return load_data(section.model_copy(update=few), base)
    family = section.task.partition(":")[0]
    channels = section.channels or (1 if family in _GREY else 3)
    size = section.size or (_ARRAY_SIZE if family in ARRAYS else _FILE_SIZE)
    classes = tuple(map(str, range(_CLASSES.get(family, _OTHER_CLASSES))))
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (_IMAGES, channels, size, size), dtype=torch.uint8, generator=noise)
    split = Split(images, torch.arange(_IMAGES) % len(classes))
    return make_task(section.task, classes, split, split)


def _missing(section: DataSection, base: Path) -> str | None:
    """The folder of a data set that is not on this machine; None where nothing is missing."""
    family, _, path = section.task.partition(":")
    if family == "imagefolder":
        return None if (base / path).is_dir() else path
    if family not in ARRAYS and family not in FILES:
        return None
    if section.root is None:
        raise InputError(f"the task {section.task} has no root: name the folder of torchvision's data sets")
    return None if (base / section.root).is_dir() else section.root


def _network(named: Named, where: str, data: str, arm: str | None, tasks: Callable[[str], Task]) -> Tried:
    """Build a network, grow it if an arm does, and take a step of each training."""
    network, place = named.networks[where], where if arm is None else f"{where}, {arm}"
    try:
        task = tasks(data)
        module = _built(network, task)
        if arm is not None:
            module = _grown_module(module, named.methods[arm], task)
        entries = sum(parameter.numel() for parameter in module.parameters())
        for settings in named.trainings.values():
            take_step(copied(module), task, settings)
    except KzooError as error:
        return Tried("network", place, f"{network.model} for {data}", str(error))
    except Exception as error:  # networks raise what they like, and memory may not suffice
        reason = " ".join(str(error).split())
        return Tried("network", place, f"{network.model} for {data}", f"{type(error).__name__}: {reason:.300}")
    trainings = ", ".join(named.trainings)
    return Tried("network", place, f"{network.model} for {data}, {entries:,} learned entries, a step of {trainings}")


def _built(network: _Network, task: Task) -> nn.Module:
    options = Options(len(task.classes), task.channels, network.img_size)
    return build_network(network_spec(network.model, shipped_zoo, options), shipped_zoo)


def _grown_module(module: nn.Module, arm: Any, task: Task) -> nn.Module:
    """A network that an arm grows; of DILS's loop, which trains between its steps, the layers at once."""
    images: Tensor = prepare(task.train.images[torch.arange(_IMAGES)])
    given = {key: value for key, value in arm.parameters.items() if key not in LOOP}
    return grow(
        arm.method, module.eval(), method_parameters(arm.method, given), Material(images, images[:2], task)
    ).module


def take_step(module: nn.Module, task: Task, settings: TrainingSettings) -> None:
    """One step of a training, on a few images: its optimiser, its schedule, its augmentation and its precision.

    Raises:
        InputError: network, images and settings do not fit each other, or the loss is not finite.
    """
    few = {"epochs": 1, "steps": 1, "batch_size": _IMAGES, "workers": 0, "evaluate_every": None}
    history = train(module, task, settings.model_copy(update=few))
    if history.diverged is not None:
        raise InputError("the loss of the first step is not finite: lower its rate, or look at the network")

"""From a recipe to its result: build the target, carry the weights over, recalibrate, train, test, write the folder."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from kzoo.building import NetworkSpec, build_network, network_spec, outline
from kzoo.carrying import param_groups, remember, source_body
from kzoo.environment import environment_class, environment_text
from kzoo.errors import CheckFailed, InputError, KzooWarning
from kzoo.files import new_folder, require_new
from kzoo.fusing import FusionReport, fused_start
from kzoo.growing import example_of, grown_network, take_configuration
from kzoo.hashing import weights_sha256
from kzoo.layout import CARD, CONFIG, ENVIRONMENT, METRICS, PLAN, RECIPE, WEIGHTS
from kzoo.methods.fusion.methods import FUSION, FusionParameters
from kzoo.methods.growth import GROWTH, GrowthReport, Material, grow
from kzoo.methods.plan import Plan, read_plan
from kzoo.methods.surgery import module_body
from kzoo.methods.transfers import (
    METHODS,
    TransferReport,
    carry_out,
    checked_parameters,
    make_plan,
    read_parameters,
    require_method,
)
from kzoo.model_card import transfer_card
from kzoo.model_folder import network_config, write_weights
from kzoo.recipe import (
    IMAGES,
    DataSection,
    PlanSection,
    Recipe,
    SideInput,
    SourceSection,
    TargetSection,
    is_no_path,
    library_versions,
    moved,
    public_path,
    recipe_text,
)
from kzoo.sources import Options
from kzoo.trained_modules import load_trained
from kzoo.weights import TrainedNetwork, open_trained
from kzoo.zoo import Zoo

if TYPE_CHECKING:
    from kzoo.training.history import History
    from kzoo.training.tasks import Task

_RECALIBRATION_IMAGES = 512
#: So many images calibrate a growth where the recipe names no number, and so many are enough to try a network out.
_CALIBRATION_IMAGES, _EXAMPLES = 2048, 2
Progress = Callable[[str, float], None]
Report = TransferReport | GrowthReport | FusionReport


class Diverged(CheckFailed):
    """A training's loss was not finite at ``step``."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"the training diverged at step {step}: its loss is not finite; give it a lower lr, and nothing is "
            "written until then"
        )
        self.step = step


@dataclass(frozen=True)
class Result:
    """What a recipe gave: the folder, the network, the report of the method, and history and test metrics.

    There is no report where nothing was carried over, and no history or metrics where nothing was trained or tested.
    """

    folder: Path
    recipe: Recipe
    network: NetworkSpec
    report: Report | None
    history: History | None
    metrics: dict[str, Any] | None


@dataclass(frozen=True)
class Start:
    """A network before training: what it is, the module, and the report of the method that made it.

    ``files`` were measured on the way and belong to the result, ``inputs`` are what its recipe says of them.
    """

    network: NetworkSpec
    module: nn.Module
    report: Report | None = None
    inputs: tuple[SideInput, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Surroundings:
    """What a recipe is run in: its folder, all known models, whether ``py:`` may run code, whom to tell of progress."""

    base: Path
    zoo: Callable[[], Zoo]
    trust_code: bool = False
    progress: Progress | None = None
    opened: dict[tuple[str, str | None], TrainedNetwork] = field(default_factory=dict)
    drawn: dict[DataSection, Task] = field(default_factory=dict)

    def open(self, path: str, submodule: str | None = None) -> TrainedNetwork:
        """A trained network, or a part of it, by its path as the recipe has it; it is read once.

        Raises:
            InputError: it is none, or has no weights on this machine.
        """
        key = (path, submodule)
        if key not in self.opened:
            place = path if is_no_path(path) else str(self.base / path)
            self.opened[key] = open_trained(place, self.zoo, self.trust_code, submodule)
        return self.opened[key]

    def checked(self, source: SourceSection) -> TrainedNetwork:
        """A source of a recipe.

        Raises:
            InputError: it is none, or has no weights on this machine.
            CheckFailed: it is another than the recipe names.
        """
        trained = self.open(source.path, source.submodule)
        if trained.sha256 != source.sha256:
            raise CheckFailed(
                f"{source.path} has the sha256 {trained.sha256}, but the recipe was made with {source.sha256}: fetch that "
                "file, or make a new recipe with the command that made this one"
            )
        return trained

    def data(self, section: DataSection) -> Task:
        """The images of a recipe; they are drawn, or read, once.

        Raises:
            InputError: there is no such task, or it cannot be made so.
            CheckFailed: they are others than the recipe names.
        """
        if section not in self.drawn:
            self.drawn[section] = load_data(section, self.base)
        return self.drawn[section]


def load_data(section: DataSection, base: Path) -> Task:
    """The images of a recipe in the folder ``base``.

    Raises:
        InputError: there is no such task, or it cannot be made so.
        CheckFailed: they are others than the recipe names.
    """
    from kzoo.training.data import load_task

    name = section.task
    if name.startswith("imagefolder:"):
        name = f"imagefolder:{base / name.removeprefix('imagefolder:')}"
    root = None if section.root is None else base / section.root
    options = section.model_dump(include={"train", "test", "size", "channels", "seed"})
    task = load_task(name, **options, root=root)
    if section.fingerprint not in (None, task.fingerprint):
        raise CheckFailed(
            f"the images of {section.task} have the fingerprint {task.fingerprint}, but the recipe was made with "
            f"{section.fingerprint}: the data, or what draws it, has changed"
        )
    return task


def run_recipe(recipe: Recipe, where: Surroundings, out: Path, force: bool = False) -> Result:
    """Make the result of a recipe and write it into the new folder ``out``.

    Raises:
        InputError: something in the recipe cannot be used, or ``out`` exists (and ``force`` is not given).
        CheckFailed: a file is not the one that the recipe names.
        WorldError: the disk fails.
    """
    require_new(out, force)
    parameters = method_parameters(recipe.method, recipe.parameters)
    # What the recipe leaves to defaults is written down, so that other defaults would change nothing.
    recipe = recipe.model_copy(update={"parameters": parameters.model_dump(exclude_none=True)})
    _spare_sources(recipe, where, out)
    before = torch.get_num_threads()
    threads = recipe.threads or (recipe.training.threads if recipe.training else None) or before
    try:
        torch.set_num_threads(threads)
        start = _start(recipe, where, parameters)
        if recipe.recalibrate is not None:
            _recalibrate(start.module, recipe.recalibrate, where)
        history, metrics = _trained(recipe, start, where, out)
        recipe = _completed(recipe, threads, where, start.inputs)
        result = Result(out, recipe, start.network, start.report, history, metrics)
        if writes():
            _write(result, start, where, force)
        return result
    finally:
        torch.set_num_threads(before)


def _spare_sources(recipe: Recipe, where: Surroundings, out: Path) -> None:
    """Refuse to replace the folder that a source lies in: its recipe could never be run again."""
    for source in recipe.sources:
        if any(
            shard.resolve().is_relative_to(out.resolve()) for shard in where.open(source.path, source.submodule).shards
        ):
            raise InputError(f"{out} holds the source {source.path} itself: give another folder for the result")


def writes() -> bool:
    """Whether this process writes the result: of several that train together (accelerate launch), the first does."""
    return int(os.environ.get("WORLD_SIZE", "1")) <= 1 or os.environ.get("RANK", "0") == "0"


def _completed(recipe: Recipe, threads: int, where: Surroundings, inputs: Sequence[SideInput]) -> Recipe:
    """The recipe with what the run adds: threads, versions, fingerprints of images, and files that were measured."""
    sources = [
        source
        if source.images is None
        else source.model_copy(
            update={"images": source.images.model_copy(update={"fingerprint": where.data(source.images).fingerprint})}
        )
        for source in recipe.sources
    ]
    images = {
        name: section.model_copy(update={"fingerprint": where.data(section).fingerprint})
        for name in IMAGES
        if (section := getattr(recipe, name)) is not None
    }
    added = {"threads": threads, "versions": library_versions(), "sources": sources}
    return recipe.model_copy(update={**added, "inputs": [*recipe.inputs, *inputs], **images})


def _start(recipe: Recipe, where: Surroundings, parameters: BaseModel) -> Start:
    """The network before training, made as the method does it."""
    if recipe.method in FUSION:
        assert isinstance(parameters, FusionParameters)
        if recipe.plan is not None:
            raise InputError(f"the recipe has a plan: method {recipe.method} takes none")
        spec = target_network(recipe.target, where)
        found = fused_start(recipe, spec, where, parameters)
        remember(found.module, found.report.shares, found.report)
        return Start(spec, found.module, found.report, found.inputs, found.files)
    if recipe.start is not None or recipe.inputs:
        raise InputError(f"the recipe has a start, or inputs: method {recipe.method} has no use for them")
    return _grown(recipe, where, parameters) if recipe.method in GROWTH else _initialised(recipe, where, parameters)


def method_parameters(method: str, values: Mapping[str, Any]) -> BaseModel:
    """The parameters of a method, of whichever kind, checked.

    Raises:
        InputError: the method is unknown, or a parameter is unknown or has a value that it cannot have.
    """
    if method in GROWTH:
        return checked_parameters(method, GROWTH[method].parameters, values)
    if method in FUSION:
        return checked_parameters(method, FUSION[method], values)
    if method not in METHODS:
        raise InputError(f"method {method!r:.80} is unknown: expected {', '.join((*METHODS, *GROWTH, *FUSION))}")
    return checked_parameters(method, METHODS[method].parameters, values)


def target_network(target: TargetSection, where: Surroundings) -> NetworkSpec:
    """The network that a recipe's target names.

    Raises:
        InputError: it names none that can be built.
    """
    options = Options(target.classes, target.in_chans, target.img_size)
    return network_spec(target.model, where.zoo, options, target.edits)


def _initialised(recipe: Recipe, where: Surroundings, parameters: BaseModel) -> Start:
    """The target with the source carried over, and what that did."""
    spec, seed = target_network(recipe.target, where), recipe.target.seed
    if recipe.calibration is not None:
        raise InputError(
            f"the recipe has calibration images, which method {recipe.method} has no use for: leave them out"
        )
    if not recipe.sources:
        if recipe.method != "random" or recipe.plan is not None:
            raise InputError(
                f"the recipe has no source: method {recipe.method} needs one; without it, use method: random"
            )
        return Start(spec, build_network(spec, where.zoo, seed, where.trust_code))
    trained = _only_source(recipe, where)
    reserved = sum(tensor.nbytes for tensor in trained.tensors.values())
    module = build_network(spec, where.zoo, seed, where.trust_code, reserved)
    theirs, ours = source_body(trained), module_body(module)
    plan = None if recipe.plan is None else _checked_plan(recipe.plan, where)
    if plan is not None:
        require_method(plan, recipe.method)
        if plan.target != str(spec):
            warnings.warn(f"the plan was made for {plan.target:.80}, not for {spec}", KzooWarning, stacklevel=2)
    steps = plan or make_plan(theirs, ours, recipe.method, parameters, (trained.name, str(spec)))
    report = carry_out(steps, theirs, ours, parameters)
    remember(module, report.shares, report)
    return Start(spec, module, report)


def _grown(recipe: Recipe, where: Surroundings, parameters: BaseModel) -> Start:
    """The source's network with its weights, grown."""
    if not recipe.sources or recipe.plan is not None:
        what = "has a plan, which grows nothing" if recipe.sources else "has no source"
        raise InputError(f"the recipe {what}: method {recipe.method} takes one trained network, and no plan")
    spec = target_network(recipe.target, where)
    module = load_trained(_only_source(recipe, where), spec, where.zoo, where.trust_code)
    found = grow(recipe.method, module, parameters, _material(recipe, spec, where, module))
    remember(found.module, found.report.shares, found.report)
    network = grown_network(spec, found, where.zoo)
    take_configuration(found.module, network, where.zoo)
    return Start(network, found.module, found.report)


def _material(recipe: Recipe, spec: NetworkSpec, where: Surroundings, module: nn.Module) -> Material:
    """The images that a network is grown with."""
    calibration = example = task = None
    if recipe.data is not None:
        task = where.data(recipe.data)
        _try_out(module, task)
        example = prepared(task, _EXAMPLES)
    if recipe.calibration is not None:
        unlabelled = where.data(recipe.calibration)
        _try_out(module, unlabelled)
        calibration = prepared(unlabelled, recipe.calibration.train or _CALIBRATION_IMAGES)
    if example is None:
        example = example_of(spec, module)
    return Material(calibration, example, task, recipe.training)


def prepared(task: Task, count: int) -> Tensor:
    """The first training images of a task, ready for a network."""
    from kzoo.training.batches import prepare

    chosen = torch.arange(min(count, len(task.train)))
    return prepare(task.train.images[chosen])


def _only_source(recipe: Recipe, where: Surroundings) -> TrainedNetwork:
    if len(recipe.sources) > 1:
        raise InputError(f"the recipe has {len(recipe.sources)} sources: method {recipe.method} takes one")
    return where.checked(recipe.sources[0])


def _checked_plan(section: PlanSection, where: Surroundings) -> Plan:
    path = where.base / section.path
    plan = read_plan(path)
    if (found := weights_sha256([path])) != section.sha256:
        raise CheckFailed(f"{section.path} has the sha256 {found}, but the recipe was made with {section.sha256}")
    return plan


def _recalibrate(module: nn.Module, section: DataSection, where: Surroundings) -> None:
    from kzoo.training.evaluation import recalibrate

    task = where.data(section)
    _try_out(module, task)
    images = task.train.images
    recalibrate(module, images[:_RECALIBRATION_IMAGES] if section.train is None else images)


def _trained(
    recipe: Recipe, start: Start, where: Surroundings, out: Path
) -> tuple[History | None, dict[str, Any] | None]:
    """Train and test as the recipe says; a training that was interrupted goes on from its last epoch."""
    module, steps = start.module, start.report.steps if isinstance(start.report, GrowthReport) else None
    if recipe.data is None:
        if recipe.training is not None:
            raise InputError("the recipe has training but no data: name a task, such as data: {task: digits}")
        return None, None
    from kzoo.training.evaluation import evaluate
    from kzoo.training.loop import train

    task, history = where.data(recipe.data), None
    _require_scores(_try_out(module, task), recipe.target.model, task)
    # A method that trained between its steps is done.
    if recipe.training is not None and steps is None:
        groups = param_groups(module) if start.report is not None and recipe.training.random_lr is not None else None
        history = train(
            module,
            task,
            recipe.training,
            groups=groups,
            checkpoint=checkpoint_folder(out),
            key=f"{recipe.digest} {torch.get_num_threads()}",
            progress=where.progress,
        )
        if history.diverged is not None:
            raise Diverged(history.diverged)
    precision = recipe.training.precision if recipe.training is not None else "float32"
    metrics: dict[str, Any] = {"test": evaluate(module, task.test, precision=precision), "data": task.fingerprint}
    if history is not None:
        metrics["training"] = history.to_dict(timings=False)
    if steps is not None:
        metrics["growth"] = steps
    return history, metrics


def _try_out(module: nn.Module, task: Task) -> Any:
    """What the network gives for one image of the task.

    Raises:
        InputError: it does not take such images.
    """
    from kzoo.training.batches import prepare
    from kzoo.training.evaluation import evaluation_mode

    image = task.train.images[torch.zeros(1, dtype=torch.int64)]
    try:
        with torch.no_grad(), evaluation_mode(module):
            return module(prepare(image, torch.float32))
    except Exception as error:  # networks raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        size = "x".join(map(str, task.train.images.shape[1:]))
        raise InputError(
            f"the network does not take the images of {task.name}, which are {size} ({reason:.160}): set in_chans or img_size "
            "of the target, or channels and size of the data"
        ) from None


def _require_scores(scores: Any, name: str, task: Task) -> None:
    """Refuse a network that does not give a score for each class of an image."""
    if not isinstance(scores, torch.Tensor) or scores.shape != (1, len(task.classes)):
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InputError(
            f"{name} gives {shape} for an image, but {task.name} has {len(task.classes)} classes: set target.classes to that"
        )


def checkpoint_folder(out: Path) -> Path:
    """Where a training that writes into ``out`` keeps its state until it is done."""
    return out.with_name(f".{out.name}.checkpoint")


def _write(result: Result, start: Start, where: Surroundings, force: bool) -> None:
    out, report, spec, module = result.folder, result.report, result.network, start.module
    recipe = moved(result.recipe, where.base, out)
    plan = result.recipe.plan
    if recipe.plan is not None:
        recipe = recipe.model_copy(update={"plan": recipe.plan.model_copy(update={"path": PLAN})})
    recipe = recipe.model_copy(update={"inputs": [_beside(each) for each in recipe.inputs]})
    origin = _origin(where, result.recipe)
    extra = {
        "recipe": result.recipe.digest,
        "method": recipe.method,
        "transferred": {key: round(share, 6) for key, share in report.shares.items()} if report else {},
    }
    with new_folder(out, force) as folder:
        write_weights(module, folder / WEIGHTS)
        _write_text(
            folder / CONFIG, _json(network_config(module, spec, extra, recipe.data if recipe.training else None))
        )
        _write_text(folder / RECIPE, recipe_text(recipe))
        _write_text(folder / ENVIRONMENT, environment_text(environment_class()))
        _write_text(folder / CARD, transfer_card(spec, recipe, report, origin, result.metrics))
        if plan is not None:
            (folder / PLAN).write_bytes((where.base / plan.path).read_bytes())
        for each in result.recipe.inputs:
            name = _beside(each).path
            (folder / name).write_bytes(start.files.get(name) or (where.base / each.path).read_bytes())
        if result.metrics is not None:
            _write_text(folder / METRICS, _json(result.metrics))
    shutil.rmtree(checkpoint_folder(out), ignore_errors=True)


def _beside(given: SideInput) -> SideInput:
    """What was measured of a source, as a file in the result's folder."""
    return given.model_copy(update={"path": f"{given.kind}-{given.source}.safetensors"})


def _origin(where: Surroundings, recipe: Recipe) -> str:
    """What the card calls the source: its id, or its file's name (or its folder's); where it lies helps nobody else."""
    if not recipe.sources:
        return ""
    source = recipe.sources[0]
    if is_no_path(source.path):
        return source.path
    file = where.open(source.path, source.submodule).shards[0].resolve()
    return file.name if file.stem != "model" else f"{file.parent.name}/{file.name}"


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def rehearse_recipe(recipe: Recipe, where: Surroundings) -> tuple[Plan, TransferReport]:
    """The plan of a recipe and what it would do; nothing is built with weights, and nothing is written.

    Raises:
        InputError: something in the recipe cannot be used.
    """
    parameters = read_parameters(recipe.method, recipe.parameters)
    spec = target_network(recipe.target, where)
    trained = where.open(recipe.sources[0].path, recipe.sources[0].submodule)
    module = outline(spec, where.zoo, where.trust_code)
    theirs, ours = source_body(trained), module_body(module)
    # A plan goes where its maker's folders mean nothing.
    name = trained.name if trained.pinned else public_path(trained.name)
    plan = make_plan(theirs, ours, recipe.method, parameters, (name, str(spec)))
    return plan, carry_out(plan, theirs, ours, parameters, rehearsal=True)

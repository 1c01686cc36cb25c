"""From a recipe to its result: make the start, recalibrate, train, test, write the folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kzoo.building import NetworkSpec
from kzoo.carrying import param_groups
from kzoo.comparing import comparison, require_comparable
from kzoo.environment import environment_class, environment_text
from kzoo.errors import CheckFailed, InputError
from kzoo.files import new_folder, require_new
from kzoo.fusing import FusionReport
from kzoo.layout import CARD, CONFIG, ENVIRONMENT, METRICS, PLAN, RECIPE, WEIGHTS, side_input
from kzoo.methods.growth import GrowthReport
from kzoo.model_card import transfer_card
from kzoo.model_folder import network_config, write_weights
from kzoo.recipe import IMAGES, Recipe, SideInput, is_no_path, library_versions, moved, recipe_text
from kzoo.starting import Report, Start, method_parameters, started
from kzoo.surroundings import Surroundings, recalibrated, try_out

if TYPE_CHECKING:
    from kzoo.training.history import History
    from kzoo.training.tasks import Task


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


def run_recipe(recipe: Recipe, where: Surroundings, out: Path, force: bool = False) -> Result:
    """Make the result of a recipe and write it into the new folder ``out``.

    Raises:
        InputError: something in the recipe cannot be used, or ``out`` exists (and ``force`` is not given).
        CheckFailed: a file is not the one that the recipe names.
        WorldError: the disk fails.
    """
    require_new(out, force)
    require_comparable(recipe)
    parameters = method_parameters(recipe.method, recipe.parameters)
    # What the recipe leaves to defaults is written down, so that other defaults would change nothing.
    recipe = recipe.model_copy(update={"parameters": parameters.model_dump(exclude_none=True)})
    _spare_sources(recipe, where, out)
    before = torch.get_num_threads()
    threads = recipe.threads or (recipe.training.threads if recipe.training else None) or before
    try:
        torch.set_num_threads(threads)
        start = started(recipe, where, parameters)
        if recipe.recalibrate is not None:
            recalibrated(start.module, recipe.recalibrate, where)
        history, metrics = _trained(recipe, start, where, out)
        if recipe.comparison is not None and metrics is not None:
            metrics |= {"comparison": comparison(recipe, start.network, start.module, where)}
        recipe = _completed(recipe, threads, where, start.inputs)
        result = Result(out, recipe, start.network, start.report, history, metrics)
        if writes():
            _write(result, start, where, force)
        return result
    finally:
        torch.set_num_threads(before)


def _spare_sources(recipe: Recipe, where: Surroundings, out: Path) -> None:
    """Refuse to replace the folder that a source lies in: its recipe could never be run again."""
    # What is on the Hub is no reason to fetch it, where nothing else needs it.
    start = [recipe.start] if recipe.start is not None and not is_no_path(recipe.start.path) else []
    for source in [*recipe.sources, *start]:
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
        # Images that nothing looked at are not fetched only to be known.
        if source.images is None or source.images not in where.drawn
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
    _require_scores(try_out(module, task), recipe.target.model, task)
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
        if start.write is not None:
            start.write(folder)
        else:
            write_weights(module, folder / WEIGHTS)
        _write_text(
            folder / CONFIG,
            _json(network_config(module, spec, extra, recipe.data if recipe.training else None, _labels(report))),
        )
        _write_text(folder / RECIPE, recipe_text(recipe))
        _write_text(folder / ENVIRONMENT, environment_text(environment_class()))
        _write_text(folder / CARD, transfer_card(spec, recipe, report, origin, result.metrics))
        if plan is not None:
            (folder / PLAN).write_bytes((where.base / plan.path).read_bytes())
        for each in result.recipe.inputs:
            name = _beside(each).path
            if name in start.files:
                (folder / name).write_bytes(start.files[name])
            else:
                shutil.copyfile(where.base / each.path, folder / name)
        if result.metrics is not None:
            _write_text(folder / METRICS, _json(result.metrics))
    shutil.rmtree(checkpoint_folder(out), ignore_errors=True)


def _labels(report: Report | None) -> Sequence[str]:
    """What the outputs stand for, where a fusion knows it."""
    return report.classes if isinstance(report, FusionReport) else ()


def _beside(given: SideInput) -> SideInput:
    """What was measured of a source, as a file in the result's folder."""
    return given.model_copy(update={"path": side_input(given.kind, given.source)})


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

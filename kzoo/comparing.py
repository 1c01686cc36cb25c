"""A fused network beside what it is to be measured against, all on the same test images.

That is each parent, their ensembles, the weights that they began with, RegMean, joint training as the ceiling, and chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kzoo.building import NetworkSpec, build_network
from kzoo.errors import InputError
from kzoo.fusing import fused_start
from kzoo.methods.fusion.ensembles import Ensemble
from kzoo.methods.fusion.parameters import FUSION, RegMeanParameters
from kzoo.recipe import Recipe, public_names
from kzoo.surroundings import Surroundings, recalibrated
from kzoo.trained_modules import load_trained

if TYPE_CHECKING:
    from kzoo.training.tasks import Task

#: The rows of a comparison; parents are ``parent_1`` and so on.
FUSED, START, REGMEAN, JOINT, CHANCE = "fused", "start", "regmean", "joint", "chance"
ENSEMBLES = ("ensemble_probability", "ensemble_logit")


def require_comparable(recipe: Recipe) -> None:
    """Refuse a comparison where there is nothing to compare, or no images to compare on.

    Raises:
        InputError: there is not.
    """
    if recipe.comparison is None:
        return
    if recipe.method not in FUSION:
        raise InputError(
            f"the recipe has a comparison: method {recipe.method} fuses nothing; expected one of {', '.join(FUSION)}"
        )
    if recipe.data is None:
        raise InputError("the recipe has a comparison but no data: name a task, such as data: {task: digits}")


def comparison(recipe: Recipe, spec: NetworkSpec, fused: nn.Module, where: Surroundings) -> dict[str, Any]:
    """What a fused network is measured against, and the network itself, on the test images of the recipe's data.

    As plain data: ``rows`` by name, each with ``accuracy`` (0 to 1), ``correct`` and ``images``, the parents' also with what
    people call them (``name``); and ``left_out``, by name, why a row is missing. Chance is right once in so many classes.
    """
    assert recipe.data is not None and recipe.comparison is not None
    task = where.data(recipe.data)
    rows: dict[str, dict[str, Any]] = {FUSED: _row(fused, task)}
    classes = _own_classes(recipe)
    parents = _parents(recipe, spec, where, classes)
    names = public_names([source.path for source in recipe.sources])
    for number, (name, module) in enumerate(zip(names, parents, strict=True), start=1):
        whole = module if classes is None else _AmongAll(module, classes[number - 1], task.classes)
        rows[f"parent_{number}"] = {"name": name} | _row(whole, task)
    rows[ENSEMBLES[0]] = _row(Ensemble(parents, "probability", classes), task)
    rows[ENSEMBLES[1]] = _row(Ensemble(parents, "logit", classes), task)
    left_out: dict[str, str] = {}
    for name, found in (
        (START, _start(recipe, spec, where)),
        (REGMEAN, _regmean(recipe, spec, where)),
        (JOINT, _joint(recipe, spec, where, task)),
    ):
        if isinstance(found, str):
            left_out[name] = found
        else:
            rows[name] = _row(found, task)
    rows[CHANCE] = {"accuracy": 1 / len(task.classes), "correct": None, "images": len(task.test)}
    return {"rows": rows, "left_out": left_out}


def shown(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rows of a comparison for people: what it is, and its accuracy."""
    for name, row in found["rows"].items():
        label = f"{name.replace('_', ' ')} ({row['name']})" if "name" in row else name.replace("_", " by ")
        yield label, f"{row['accuracy']:.2%}"
    for name, reason in found["left_out"].items():
        yield name, f"- ({reason})"


class _AmongAll(nn.Module):
    """A classifier of some classes as one of all: it never says another class."""

    def __init__(self, module: nn.Module, own: Sequence[str], classes: Sequence[str]) -> None:
        super().__init__()
        self.module, self.count = module, len(classes)
        self.places = torch.tensor([list(classes).index(name) for name in own])

    def forward(self, images: Tensor) -> Tensor:
        """Logits of all classes: N x classes."""
        found: Tensor = self.module(images)
        whole = found.new_full((len(images), self.count), -torch.inf)
        whole[:, self.places] = found
        return whole


def _own_classes(recipe: Recipe) -> list[list[str]] | None:
    """What each parent's outputs stand for, where each has a classifier of its own; None where they share one."""
    if recipe.parameters.get("heads") != "joined":
        return None
    return [source.classes for source in recipe.sources if source.classes is not None]


def _parents(
    recipe: Recipe, spec: NetworkSpec, where: Surroundings, classes: Sequence[Sequence[str]] | None
) -> list[nn.Module]:
    specs = [spec] * len(recipe.sources)
    if classes is not None:
        specs = [replace(spec, options=replace(spec.options, classes=len(own))) for own in classes]
    pairs = zip(recipe.sources, specs, strict=True)
    return [load_trained(where.checked(source), own, where.zoo, where.trust_code) for source, own in pairs]


def _row(module: nn.Module, task: Task) -> dict[str, Any]:
    from kzoo.training.evaluation import evaluate

    found = evaluate(module, task.test)
    images = int(found["images"])
    return {"accuracy": found["accuracy"], "correct": round(found["accuracy"] * images), "images": images}


def _start(recipe: Recipe, spec: NetworkSpec, where: Surroundings) -> nn.Module | str:
    """The network with the weights that all parents began with, or why there is none."""
    if recipe.start is None:
        return "no common start is named (--start)"
    if _own_classes(recipe) is not None:
        return "its classifier is not that of all classes"
    return load_trained(where.checked(recipe.start), spec, where.zoo, where.trust_code)


def _regmean(recipe: Recipe, spec: NetworkSpec, where: Surroundings) -> nn.Module | str:
    """What RegMean makes of the parents, with what it needs measured as the recipe's method would; or why it cannot."""
    grams = {each.source for each in recipe.inputs if each.kind == "gram"}
    lacking = [number for number, each in enumerate(recipe.sources) if each.images is None and number not in grams]
    if lacking:
        return "no images of each parent are named (--data)"
    parameters = RegMeanParameters.model_validate({"heads": recipe.parameters.get("heads", "shared")})
    other = recipe.model_copy(update={"method": REGMEAN, "parameters": parameters.model_dump(exclude_none=True)})
    try:
        module = fused_start(other, spec, where, parameters).module
    except InputError as error:
        return str(error)
    if recipe.recalibrate is not None:
        recalibrated(module, recipe.recalibrate, where)
    return module


def _joint(recipe: Recipe, spec: NetworkSpec, where: Surroundings, task: Task) -> nn.Module | str:
    """One network trained on all of the data, from the common start or the target's seed; or why there is none."""
    assert recipe.comparison is not None
    if recipe.comparison.joint is None:
        return "no training is asked for (--joint-epochs)"
    from kzoo.training.loop import train

    begun = _start(recipe, spec, where)
    module = (
        begun if not isinstance(begun, str) else build_network(spec, where.zoo, recipe.target.seed, where.trust_code)
    )
    settings, before = recipe.comparison.joint, torch.get_num_threads()

    def trained() -> nn.Module | str:
        history = train(module, task, settings, progress=where.progress)
        torch.set_num_threads(before)
        return module if history.diverged is None else f"its training diverged at step {history.diverged}"

    # Two fusions may share it: one from a common random start, and one that names no start but has its seed.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    begun_with = hashlib.sha256(save(state)).hexdigest()
    decides = (JOINT, repr(spec), begun_with, recipe.data, settings.model_dump_json(), before)
    return where.remembered.once(decides, trained, _bytes)


def _bytes(found: nn.Module | str) -> int:
    return 0 if isinstance(found, str) else sum(tensor.nbytes for tensor in found.state_dict().values())

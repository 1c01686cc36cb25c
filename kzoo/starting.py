"""The network before training, made as a recipe's method makes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from kzoo.building import NetworkSpec, build_network, outline
from kzoo.carrying import remember, source_body
from kzoo.errors import CheckFailed, InputError, KzooWarning
from kzoo.fusing import FusionReport, fused_start
from kzoo.growing import example_of, grown_network, take_configuration
from kzoo.hashing import weights_sha256
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
from kzoo.recipe import PlanSection, Recipe, SideInput, public_path
from kzoo.surroundings import Surroundings, prepared, target_network, try_out
from kzoo.trained_modules import load_trained
from kzoo.weights import TrainedNetwork

#: So many images calibrate a growth where the recipe names no number, and so many are enough to try a network out.
_CALIBRATION_IMAGES, _EXAMPLES = 2048, 2
Report = TransferReport | GrowthReport | FusionReport


@dataclass(frozen=True)
class Start:
    """A network before training: what it is, the module, and the report of the method that made it.

    ``files`` were measured on the way and belong to the result, ``inputs`` are what its recipe says of them. Where there is
    ``write``, the module has no weights, and that makes their files in a folder.
    """

    network: NetworkSpec
    module: nn.Module
    report: Report | None = None
    inputs: tuple[SideInput, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    write: Callable[[Path], object] | None = None


def started(recipe: Recipe, where: Surroundings, parameters: BaseModel) -> Start:
    """The network before training, made as the method does it."""
    if recipe.method in FUSION:
        assert isinstance(parameters, FusionParameters)
        if recipe.plan is not None:
            raise InputError(f"the recipe has a plan: method {recipe.method} takes none")
        spec = target_network(recipe.target, where)
        found = fused_start(recipe, spec, where, parameters)
        remember(found.module, found.report.shares, found.report)
        return Start(spec, found.module, found.report, found.inputs, found.files, found.write)
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
        try_out(module, task)
        example = prepared(task, _EXAMPLES)
    if recipe.calibration is not None:
        unlabelled = where.data(recipe.calibration)
        try_out(module, unlabelled)
        calibration = prepared(unlabelled, recipe.calibration.train or _CALIBRATION_IMAGES)
    if example is None:
        example = example_of(spec, module)
    return Material(calibration, example, task, recipe.training)


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

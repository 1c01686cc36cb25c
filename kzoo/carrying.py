"""Carry trained weights into a network: ``kzoo.transfer``, ``kzoo.initialize``, ``kzoo.param_groups``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kzoo.building import build_network, network_spec
from kzoo.errors import InputError
from kzoo.facade import Registry, open_zoo
from kzoo.methods.optimizer_state import carry_state
from kzoo.methods.plan import Plan, Step, read_plan
from kzoo.methods.surgery import Body, body, module_body
from kzoo.methods.transfers import (
    TransferReport,
    carry_out,
    make_plan,
    read_parameters,
    require_method,
    transfer_method,
)
from kzoo.readers.libraries import LOCAL
from kzoo.refine import refined
from kzoo.search import search
from kzoo.sources import Options, is_torch_module
from kzoo.weights import TrainedNetwork, open_trained
from kzoo.zoo import SHIPPED

#: Where a module keeps what was carried into it: the report, and the share of each parameter.
_REPORT, _SHARES = "kzoo_transfer", "kzoo_shares"
_NOTHING = "nothing was carried into this module by kzoo.transfer or kzoo.initialize, nor was it grown by kzoo.widen or kzoo.deepen: do that first"


def transfer(
    source: str | Path | nn.Module,
    target: str | nn.Module,
    method: str = "dpiat",
    *,
    classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    seed: int = 0,
    plan: Plan | Path | str | None = None,
    trust_code: bool = False,
    registry: Registry = None,
    **parameters: Any,
) -> nn.Module:
    """The target with the weights of ``source`` carried over; a module is changed in place and returned.

    ``source`` is a torch module, a safetensors file or a folder that holds one, or ``local:NAME``. A target that a
    string names is built with ``classes``, ``in_chans`` and ``img_size``, and initialised from ``seed``. ``parameters``
    are the method's (`kzoo.methods.dpiat.DpiatParameters`): ``variant="paper"``, ``operator="full"`` and so on. ``plan``
    is carried out in place of the method's own. `report` tells what came from where.

    Raises:
        InputError: a network is unknown or has no weights here, weights cannot be used (NaN, quantised), a parameter is
            unknown, or the target does not fit into memory. The target is unchanged then.
    """
    chosen = read_parameters(method, parameters)
    trained = open_trained(source, lambda: open_zoo(registry), trust_code)
    options = Options(classes, in_chans, img_size)
    if is_torch_module(target):
        if options != Options():
            raise InputError(
                "classes, in_chans and img_size change a network that kzoo builds by name; build your own with the sizes that it needs"
            )
        module, name = target, type(target).__name__
    elif not isinstance(target, str):
        raise InputError(f"a target is a torch module or a string such as timm:resnet18, not {type(target).__name__}")
    else:
        spec = network_spec(target, lambda: open_zoo(registry), options)
        module, name = build_network(spec, lambda: open_zoo(registry), seed, trust_code), str(spec)
    ours = module_body(module)
    theirs = source_body(trained)
    steps = plan if isinstance(plan, Plan) else read_plan(Path(plan)) if plan is not None else None
    if steps is not None:
        require_method(steps, method)
    steps = steps or make_plan(theirs, ours, method, chosen, (trained.name, name))
    told = carry_out(steps, theirs, ours, chosen)
    remember(module, told.shares, told)
    return module


def source_body(trained: TrainedNetwork) -> Body:
    """A trained network to operate with."""
    return body(trained.architecture, trained.tensors)


def initialize(
    target: str | nn.Module,
    source: str | Path | nn.Module | None = None,
    *,
    classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    seed: int = 0,
    registry: Registry = None,
) -> nn.Module:
    """The target with the best source carried over: the most similar model whose weights are on this machine.

    Of the small models that come with kzoo only those count that the ranking does not warn of: nobody has chosen them.
    ``source`` takes the place of that search. Otherwise as `transfer` with its defaults.

    Raises:
        InputError: as `transfer`, or no such model is similar enough.
    """
    from kzoo.facade import architecture

    zoo = open_zoo(registry)
    if source is None:
        wanted = architecture(target, classes=classes, in_chans=in_chans, img_size=img_size, registry=zoo)
        ranked = search(refined(zoo), wanted, len(zoo.models), "symmetric", None, True)
        here = (row for row in ranked if row.library == LOCAL and row.similarity)
        best = next((row for row in here if row.origin != SHIPPED or row.warning is None), None)
        if best is None:
            raise InputError(
                "no trained model on this machine is similar to this network: 'kzoo add' one, or give a source (the path of a "
                "safetensors file)"
            )
        source = best.model
    return transfer(source, target, classes=classes, in_chans=in_chans, img_size=img_size, seed=seed, registry=zoo)


def report(module: nn.Module) -> Any:
    """What was carried into a module, or how it was grown or fused: the report of the function that made it.

    Raises:
        InputError: nothing was, as far as kzoo knows.
    """
    found = getattr(module, _REPORT, None)
    if found is None and hasattr(module, _SHARES):
        raise InputError(
            "the report of this module was not kept with its folder: kzoo.param_groups knows what was carried"
        )
    if found is None:
        raise InputError(_NOTHING)
    return found


def remember(module: nn.Module, shares: Mapping[str, float], told: object = None) -> None:
    """Keep with a module which share of each of its parameters was carried into it, and the report of that."""
    setattr(module, _SHARES, dict(shares))
    if told is not None:
        setattr(module, _REPORT, told)


def param_groups(
    module: nn.Module, threshold: float = 0.5, *, lr: float | None = None, random_lr: float | None = None
) -> list[dict[str, Any]]:
    """Two parameter groups for an optimiser, ``transferred`` and ``random``, so that each can have its own rate.

    A parameter counts as transferred where at least ``threshold`` of its entries were overwritten. Each group is a
    dict of ``name`` and ``params``; ``param_names`` are the parameters' names. ``lr`` and ``random_lr`` are the rates of
    the two; a group without one takes the optimiser's.

    Raises:
        InputError: nothing was carried into this module.
    """
    shares = getattr(module, _SHARES, None)
    if not isinstance(shares, dict):
        raise InputError(_NOTHING)
    groups: dict[str, dict[str, Any]] = {
        name: {"name": name, "params": [], "param_names": []} for name in ("transferred", "random")
    }
    for key, parameter in module.named_parameters():
        group = groups["transferred" if shares.get(key, 0.0) >= threshold else "random"]
        group["params"].append(parameter)
        group["param_names"].append(key)
    for name, rate in (("transferred", lr), ("random", random_lr)):
        if rate is not None:
            groups[name]["lr"] = rate
    return list(groups.values())


def carry_optimizer(
    source: nn.Module, source_optimizer: Optimizer, target: nn.Module, target_optimizer: Optimizer
) -> TransferReport:
    """Carry the source's optimiser state to the target's, along with the weights that `transfer` carried between them.

    Momenta and second moments go where their weights went, steps are counted on; parameters that received nothing, or
    weights fitted to other images, start anew. Gives the report of the transfer with that said; both optimisers must be of one kind.

    Raises:
        InputError: nothing was carried into the target, from another network, or the optimisers differ in kind.
    """
    told = report(target)
    if not isinstance(told, TransferReport):
        raise InputError("an optimiser's state cannot be carried into a grown or fused network: start a new optimiser")
    if type(source_optimizer) is not type(target_optimizer):
        raise InputError(
            f"the state of {type(source_optimizer).__name__} means nothing to {type(target_optimizer).__name__}: use one kind"
        )
    theirs, ours = module_body(source), module_body(target)
    # The state of weights that were made from others has no entries of its own to take.
    steps = [
        Step(target=part.target, source=None if part.adapted else part.source, score=part.score) for part in told.parts
    ]
    if any(step.source is not None and step.source not in theirs.parts for step in steps):
        raise InputError(f"the weights of this target came from {told.source}: give that network and its optimiser")
    choices = transfer_method(told.method).choices(read_parameters(told.method, told.parameters))
    if choices.operator == "magnitude":
        raise InputError("magnitude chooses channels by their weights, which a state does not tell: leave it reset")
    carried, fresh = carry_state((theirs, source, source_optimizer), (ours, target, target_optimizer), steps, choices)
    told = replace(told, optimizer=f"carried along for {len(carried)} parameters, reset for {len(fresh)}")
    remember(target, told.shares, told)
    return told

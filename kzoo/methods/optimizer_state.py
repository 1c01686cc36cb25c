"""The state of an optimiser carried along with the weights that it belongs to: momenta, second moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from kzoo.methods.plan import Step
from kzoo.methods.surgery import Body, Choices, body, operate


def carry_state(
    source: tuple[Body, nn.Module, torch.optim.Optimizer],
    target: tuple[Body, nn.Module, torch.optim.Optimizer],
    steps: list[Step],
    choices: Choices,
) -> tuple[list[str], list[str]]:
    """Carry what the source's optimiser knows of each weight to the target's, entry by entry as the weights went.

    A value that has its parameter's shape is laid over zeros as ``choices`` lay weights, but without rescaling; any other
    value of a parameter (the number of steps) is taken as it is. Gives the names of the target's parameters that received
    state, and of those whose state starts anew.

    Raises:
        InputError: the source's state holds values that are not finite.
    """
    theirs, ours = _named_state(*source[1:]), dict(target[1].named_parameters())
    plain = replace(choices, rescale=False, statistics=False, adapt=False, border="random")
    carried: dict[str, dict[str, Tensor]] = {}
    for key in dict.fromkeys(key for state in theirs.values() for key in state):
        known = {name: state[key] for name, state in theirs.items() if key in state}
        shaped = {name: value for name, value in known.items() if value.shape == source[0].tensors[name].shape}
        alike = [step for step in steps if step.source is not None and _has(source[0], step.source, shaped)]
        from_body = body(source[0].architecture, shaped)
        into = {name: torch.zeros_like(parameter) for name, parameter in ours.items()}
        to_body = body(target[0].architecture, into, set(into))
        reports = operate(alike, from_body, to_body, plain)
        for report in reports:
            for name, (written, _) in report.tensors.items():
                if written:
                    carried.setdefault(name, {})[key] = into[name]
        partners = _partners(source[0], target[0], steps)
        for name, value in known.items():
            if name not in shaped:
                for receiver in partners.get(name, ()):
                    carried.setdefault(receiver, {})[key] = value.clone()
    for name, state in carried.items():
        target[2].state[ours[name]].update(state)
    return [name for name in ours if name in carried], [name for name in ours if name not in carried]


def _named_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The tensors that an optimiser keeps for each parameter, by the parameter's name."""
    return {
        name: {key: value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
    }


def _has(source: Body, part: str, tensors: Mapping[str, Tensor]) -> bool:
    return source.parts[part].tensors["weight"] in tensors


def _partners(source: Body, target: Body, steps: list[Step]) -> dict[str, list[str]]:
    """For each tensor of the source the tensors of the target that receive from it."""
    found: dict[str, list[str]] = {}
    for step in steps:
        if step.source is not None:
            theirs, ours = source.parts[step.source].tensors, target.parts[step.target].tensors
            for role, key in theirs.items():
                if role in ours:
                    found.setdefault(key, []).append(ours[role])
    return found

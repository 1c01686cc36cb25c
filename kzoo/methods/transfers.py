"""The transfer methods by name: what each may be told, which plan it makes, and how the plan is carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from kzoo.errors import InputError
from kzoo.matching import match
from kzoo.methods import baselines, dpiat
from kzoo.methods.parameters import checked_parameters as checked_parameters
from kzoo.methods.plan import Plan, Step
from kzoo.methods.surgery import Body, Choices, PartReport, operate, rehearse
from kzoo.search import directed_warning


@dataclass(frozen=True)
class TransferMethod:
    """A method: the model of its parameters, its plan for two networks, and its choices for carrying that out."""

    parameters: type[BaseModel]
    steps: Callable[[Body, Body, Any], list[Step]]
    choices: Callable[[Any], Choices]


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did, part by part.

    ``coverage`` is the share of the target's learned entries that the paper's clip overwrites, ``coverage_full`` that of
    the variant ``full_state`` where it carries normalisation layers, ``overwritten`` that of this transfer; ``similarity``
    is the paper's.
    """

    source: str
    target: str
    method: str
    parameters: Mapping[str, Any]
    similarity: float | None
    directed: float | None
    coverage: float | None
    coverage_full: float | None
    overwritten: float
    parts: tuple[PartReport, ...]
    optimizer: str = "reset: no state of an optimiser is carried along"

    @property
    def transferred_layers(self) -> int:
        """How many parts received something."""
        return sum(part.source is not None for part in self.parts)

    @property
    def shares(self) -> dict[str, float]:
        """The overwritten share of each learned tensor of the target."""
        return {
            key: overwritten / entries if entries else 0.0
            for part in self.parts
            for key, (overwritten, entries) in part.tensors.items()
        }

    @property
    def warning(self) -> str | None:
        """What the authors' results say against a transfer by DPIAT between two networks as different as these."""
        return directed_warning(self.directed) if self.method == "dpiat" else None

    @property
    def remark(self) -> str | None:
        """Why normalisation layers were left alone, where their likeness to the source's was not the reason."""
        if self.method != "dpiat" or self.similarity is None or self.similarity >= dpiat.SIMILAR:
            return None
        if dpiat.DpiatParameters(**self.parameters).chosen("norms") != "similar":
            return None
        return (
            f"normalisation layers stay as they were initialised, since the similarity is under {dpiat.SIMILAR} "
            "(norms=all carries them)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        told = {"warning": self.warning, "remark": self.remark, "transferred_layers": self.transferred_layers}
        return asdict(self) | told


METHODS: Mapping[str, TransferMethod] = MappingProxyType(
    {
        "dpiat": TransferMethod(dpiat.DpiatParameters, dpiat.steps, dpiat.choices),
        "by_name": TransferMethod(baselines.NoParameters, baselines.by_name_steps, baselines.whole_choices),
        "weight_selection": TransferMethod(
            baselines.NoParameters, baselines.weight_selection_steps, baselines.selecting_choices
        ),
        "random": TransferMethod(baselines.NoParameters, baselines.random_steps, baselines.whole_choices),
    }
)


def transfer_method(name: str) -> TransferMethod:
    """A method by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r:.80} is unknown: expected {', '.join(METHODS)}")
    return METHODS[name]


def read_parameters(name: str, values: Mapping[str, Any]) -> BaseModel:
    """The parameters of a method, checked.

    Raises:
        InputError: the method is unknown, or a parameter is unknown or has a value that it cannot have.
    """
    return checked_parameters(name, transfer_method(name).parameters, values)


def make_plan(source: Body, target: Body, method: str, parameters: BaseModel, names: tuple[str, str]) -> Plan:
    """The plan of a method for two networks; ``names`` are those of source and target for people.

    Raises:
        InputError: the method is unknown, or a network has no layer that it can see.
    """
    steps = transfer_method(method).steps(source, target, parameters)
    return Plan(source=names[0], target=names[1], method=method, steps=tuple(steps))


def require_method(plan: Plan, method: str) -> None:
    """Refuse a plan that another method made.

    Raises:
        InputError: it did.
    """
    if plan.method != method:
        raise InputError(
            f"the plan was made by the method {plan.method:.80}, not by {method}: give that method with it"
        )


def carry_out(plan: Plan, source: Body, target: Body, parameters: BaseModel, rehearsal: bool = False) -> TransferReport:
    """Carry a plan out on the target's tensors, in place, or only say what that would do (``rehearsal``).

    Raises:
        InputError: the plan does not fit the networks, or the source's weights cannot be used (see `operate`).
    """
    choices = transfer_method(plan.method).choices(parameters)
    parts = (rehearse if rehearsal else operate)(plan.steps, source, target, choices)
    overwritten = _overwritten(parts)
    return TransferReport(
        plan.source,
        plan.target,
        plan.method,
        parameters.model_dump(),
        *_measures(source, target),
        overwritten,
        tuple(parts),
    )


def _overwritten(parts: list[PartReport]) -> float:
    return sum(part.overwritten for part in parts) / max(1, sum(part.entries for part in parts))


def _measures(source: Body, target: Body) -> tuple[float | None, float | None, float | None, float | None]:
    """The paper's similarity, symmetric and directed, its coverage, and that of ``full_state``; None where undefined."""
    similarity = directed = coverage = full = None
    with suppress(InputError):
        paper = match(source.architecture, target.architecture)
        similarity, directed, coverage = paper.symmetric, paper.directed, paper.coverage
    with suppress(InputError):
        parameters = dpiat.DpiatParameters(norms="all")
        steps = dpiat.steps(source, target, parameters)
        full = _overwritten(rehearse(steps, source, target, dpiat.choices(parameters)))
    return similarity, directed, coverage, full

"""Carry a plan out: lay source tensors over target tensors, part by part, and report what became of every part.

The same code first runs on the meta device, where nothing has values: whatever cannot be done is found there, and so
the report is made, before anything is changed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.layers import Architecture, raw_parameter
from kzoo.methods.adapters import adapt_channels, adapt_positions
from kzoo.methods.operators import Operator, Placement, axis_placements, centred, evenly, lay
from kzoo.methods.parts import LEARNED, Part, first_convolution, network_parts
from kzoo.methods.plan import Step
from kzoo.readers.module import module_architecture

Border = Literal["random", "zero"]


@dataclass(frozen=True)
class Choices:
    """How parts are laid over each other. The defaults are the paper's; ``full_state`` turns the switches on.

    ``operator`` is one of `kzoo.methods.operators`, or ``uniform`` for weight selection. ``statistics`` carries the
    running statistics of batch normalisation too. ``packed`` treats query, key and value in one matrix as three.
    ``rescale`` keeps the variance of a layer's outputs where its fan-in was cropped or padded and no normalisation follows.
    ``border`` is what inputs that the source does not have are weighted with: what they were initialised with, or zero.
    ``adapt`` fits input channels and positions with timm's functions. ``seed`` is for the operator ``full``.
    """

    operator: Operator | Literal["uniform"] = "clip"
    statistics: bool = False
    packed: bool = False
    rescale: bool = False
    border: Border = "random"
    adapt: bool = False
    seed: int = 0


@dataclass(frozen=True)
class PartReport:
    """What became of a target part: ``overwritten`` of its learned ``entries`` came from ``source``.

    ``axes`` tells the sizes on both sides, ``tensors`` the overwritten and all entries of each learned tensor that no part
    above has, ``factor`` what the weight was multiplied with; ``adapted`` tells that it was fitted to other images first;
    ``note`` is for people.
    """

    target: str
    kind: str
    shape: tuple[int, ...]
    entries: int
    source: str | None = None
    source_shape: tuple[int, ...] | None = None
    score: float | None = None
    axes: tuple[str, ...] = ()
    overwritten: int = 0
    factor: float = 1.0
    statistics: bool = False
    adapted: bool = False
    note: str = ""
    tensors: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Body:
    """A network to operate on: its architecture, its tensors by name, and its parts by name."""

    architecture: Architecture
    tensors: Mapping[str, Tensor]
    parts: Mapping[str, Part]

    @cached_property
    def input_part(self) -> str | None:
        """The convolution that sees the image."""
        return first_convolution(self.architecture)


def body(architecture: Architecture, tensors: Mapping[str, Tensor], learned: Collection[str] | None = None) -> Body:
    """A network by its architecture and its tensors; ``learned`` names those that training changes, where it is known.

    Tensors on the meta device will do for `rehearse`.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return Body(architecture, tensors, network_parts(architecture, shapes, learned))


def module_body(module: nn.Module, architecture: Architecture | None = None) -> Body:
    """A torch module to operate on; its own parameters and buffers, not copies.

    Raises:
        InputError: a parameter has no shape yet.
    """
    architecture = architecture or module_architecture(module)
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return body(architecture, module.state_dict(keep_vars=True), names)


def operate(steps: Sequence[Step], source: Body, target: Body, choices: Choices) -> list[PartReport]:
    """Carry ``steps`` out on the target's tensors, in place; a report for every part, in the target's order.

    Nothing is changed unless all of it can be done.

    Raises:
        InputError: a step names an unknown part or two that do not go together, or a source tensor is quantised or holds
            values that are not finite or too large for the target's number format.
    """
    reports = rehearse(steps, source, target, choices)
    with torch.no_grad():
        for step in steps:
            if step.source is not None:
                _check_values(source, source.parts[step.source], target, target.parts[step.target])
        for _ in _operate(steps, source, target, choices):
            pass
    return reports


def rehearse(steps: Sequence[Step], source: Body, target: Body, choices: Choices) -> list[PartReport]:
    """What `operate` would do, from shapes alone.

    Raises:
        InputError: a step names an unknown part or two that do not go together.
    """
    for step in steps:
        _check_step(step, source, target)
    laid = _operate(steps, _without_values(source), _without_values(target), choices)
    return [part.report(source, target) for part in laid]


def _without_values(body: Body) -> Body:
    """The body on the meta device; tensors that are one stay one."""
    shadows: dict[int, Tensor] = {}
    for tensor in body.tensors.values():
        if id(tensor) not in shadows:
            shadows[id(tensor)] = torch.empty_like(tensor, device="meta")
    return replace(body, tensors={key: shadows[id(tensor)] for key, tensor in body.tensors.items()})


def _check_step(step: Step, source: Body, target: Body) -> None:
    for what, name, body in (("source", step.source, source), ("target", step.target, target)):
        if name is not None and name not in body.parts:
            near = ", ".join(difflib.get_close_matches(name, body.parts, n=3, cutoff=0.0))
            raise InputError(f"the plan names {name!r:.100}, which is no part of the {what}; nearest: {near}")
    if step.source is None:
        return
    theirs, ours = source.parts[step.source].shape, target.parts[step.target].shape
    if len(theirs) != len(ours):
        raise InputError(
            f"the plan pairs {step.source} of shape {theirs} with {step.target} of shape {ours}: expected as many axes; "
            "give it another source part, or null"
        )


def _check_values(source: Body, theirs: Part, target: Body, ours: Part) -> None:
    for role, key in theirs.tensors.items():
        tensor = source.tensors[key]
        if role not in ours.tensors or not tensor.numel() or role == "num_batches_tracked":
            continue
        if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
            raise InputError(
                f"the source's tensor {key} has the type {str(tensor.dtype).removeprefix('torch.')}, so it is quantised or no "
                "weight: give a checkpoint of floating-point weights"
            )
        # The sum is not finite if an entry is not; that it may overflow by itself is looked at where it happens.
        if not math.isfinite(tensor.sum().item()) and not torch.isfinite(tensor).all():
            raise InputError(
                f"the source's tensor {key} holds values that are not finite (NaN or infinity): its training has failed; "
                "give another checkpoint"
            )
        wanted = target.tensors[ours.tensors[role]].dtype
        if wanted == tensor.dtype:
            continue
        most = torch.finfo(wanted).max
        if torch.finfo(tensor.dtype).max > most and tensor.abs().max() > most:
            raise InputError(
                f"the source's tensor {key} holds values too large for the target's {str(wanted).removeprefix('torch.')}: "
                "use a target in float32 or bfloat16"
            )


def _operate(steps: Iterable[Step], source: Body, target: Body, choices: Choices) -> Iterator[_Laid]:
    """Lay part by part, in the target's order; what parts share is written once, by the first of them that receives."""
    by_target = {step.target: step for step in steps}
    owners = _owners(by_target, target)
    for name, part in target.parts.items():
        own = part.tensors
        if owners is not None:
            own = {role: key for role, key in own.items() if owners[id(target.tensors[key])] == name}
        step = by_target.get(name)
        if step is None or step.source is None or not own:
            yield _Laid(step or Step(target=name), part, own)
        else:
            yield _carry(step, source, part, own, target, choices)


def _owners(by_target: Mapping[str, Step], target: Body) -> dict[int, str] | None:
    """Which part writes each tensor, by the tensor's identity; None where no two names are one tensor."""
    if len({id(tensor) for tensor in target.tensors.values()}) == len(target.tensors):
        return None
    receiving = [
        part for name, part in target.parts.items() if name in by_target and by_target[name].source is not None
    ]
    owners: dict[int, str] = {}
    for part in (*receiving, *target.parts.values()):
        for key in part.tensors.values():
            owners.setdefault(id(target.tensors[key]), part.name)
    return owners


class _Laid(NamedTuple):
    """What was laid over a part's ``own`` tensors, those that no other part writes; without ``shape`` nothing was.

    ``shape`` is that of the source's weight, ``overwritten`` counts entries by tensor.
    """

    step: Step
    part: Part
    own: Mapping[str, str]
    shape: tuple[int, ...] | None = None
    overwritten: Mapping[str, int] = MappingProxyType({})
    packed: int = 1
    factor: float = 1.0
    statistics: bool = False
    note: str = ""

    def report(self, source: Body, target: Body) -> PartReport:
        """The same for people."""
        entries = {key: target.tensors[key].numel() for role, key in self.own.items() if role in LEARNED}
        tensors = {key: (self.overwritten.get(key, 0), count) for key, count in entries.items()}
        shape, count = self.part.shape, sum(entries.values())
        if self.shape is None or self.step.source is None:
            note = "stays as it was initialised" if self.own else "shares its weight with another part"
            return PartReport(self.part.name, self.part.kind, shape, count, note=note, tensors=tensors)
        return PartReport(
            self.part.name,
            self.part.kind,
            shape,
            count,
            source=self.step.source,
            source_shape=source.parts[self.step.source].shape,
            score=self.step.score,
            axes=_spell_axes(self.shape, shape),
            overwritten=sum(self.overwritten.values()),
            factor=self.factor,
            statistics=self.statistics,
            adapted=bool(self.note),
            note=_note(self.note, self.packed, self.shape, shape, self.factor),
            tensors=tensors,
        )


def _carry(step: Step, source: Body, part: Part, own: Mapping[str, str], target: Body, choices: Choices) -> _Laid:
    """One part; see `operate`."""
    assert step.source is not None
    theirs = source.parts[step.source]
    weight, note = _adapted(theirs, source, part, target, choices)
    packed = part.packed if choices.packed and theirs.packed == part.packed else 1
    layout = _Layout(part, packed, choices)
    there = target.tensors[part.tensors["weight"]]
    # A weight that another part writes is laid beside it: how it would lie decides where a bias of one's own goes.
    there = there if "weight" in own else torch.empty_like(there)
    pieces, factor = layout.carry_weight(weight, there.view(part.shape))
    overwritten = {own["weight"]: sum(map(_count, pieces))} if "weight" in own else {}
    statistics = False
    for role, key in own.items():
        if role == "weight" or role not in theirs.tensors or (role not in LEARNED and not choices.statistics):
            continue
        values, there = source.tensors[theirs.tensors[role]], target.tensors[key]
        count = layout.carry_vector(values, there, pieces, weight.shape)
        if role in LEARNED:
            overwritten[key] = count
        statistics = statistics or role not in LEARNED
    return _Laid(step, part, own, tuple(weight.shape), overwritten, packed, factor, statistics, note)


def _adapted(theirs: Part, source: Body, ours: Part, target: Body, choices: Choices) -> tuple[Tensor, str]:
    """The source's weight in the axes of its kind, fitted to the target's images where that is wanted; and a note."""
    key = theirs.tensors["weight"]
    raw, there = source.tensors[key], target.tensors[ours.tensors["weight"]]
    note, fitted = "", raw
    if choices.adapt:
        if theirs.name == source.input_part and ours.name == target.input_part and theirs.kind == ours.kind == "conv2d":
            fitted, note = adapt_channels(raw, there.shape[1]), "input channels adapted"
        else:
            fitted, note = adapt_positions(key, raw, tuple(there.shape)), "positions interpolated"
    if fitted is raw:
        return raw.reshape(theirs.shape), ""
    shape = raw_parameter(tuple(fitted.shape), key).shape if theirs.kind.startswith("parameter") else fitted.shape
    return fitted.reshape(shape), note


@dataclass(frozen=True)
class _Layout:
    """How the tensors of one part are laid: ``packed`` pieces one after the other along the output axis."""

    part: Part
    packed: int
    choices: Choices

    def carry_weight(self, weight: Tensor, there: Tensor) -> tuple[list[tuple[Placement, ...]], float]:
        """Lay the weight, piece by piece; returns the placements of each piece.

        And what carried weights were multiplied with, so that a sum over fewer (or repeated) inputs keeps its variance.
        """
        laid: list[tuple[Placement, ...]] = []
        factor, output, full = 1.0, self.part.output_axis, self._fan_in(there.shape)
        rescaled = self.choices.rescale and not self.part.normalised
        pieces = (_chunks(tensor, self.packed, output) for tensor in (weight, there))
        for theirs, ours in zip(*pieces, strict=True):
            placements = self._place(theirs, tuple(ours.shape))
            filled = self._fan_in([_range(place)[1] for place in placements])
            factor = math.sqrt(self._fan_in(weight.shape) / filled) if rescaled else 1.0
            if filled < full and self.choices.border == "zero":
                ours.narrow(output, *_range(placements[output])).zero_()
            lay(theirs, ours, placements, factor)
            if filled < full and rescaled and self.choices.border == "random":
                ours.narrow(output, *_range(placements[output])).mul_(_damping(full, filled))
            laid.append(placements)
        return laid, factor

    def _fan_in(self, sizes: Sequence[int]) -> int:
        return math.prod([sizes[axis] for axis in self.part.fan_in_axes])

    def carry_vector(
        self, values: Tensor, there: Tensor, laid: Sequence[Sequence[Placement]], shape: Sequence[int]
    ) -> int:
        """Lay what has an entry per output (bias, statistics) as the weight's pieces lie; returns the entries written."""
        if values.shape == there.shape or not there.ndim or not values.ndim:
            if not there.is_meta:
                there.copy_(values)
            return there.numel()
        axis = self.part.output_axis
        along = (values.numel(), there.numel()) == (shape[axis], self.part.shape[axis])
        pieces = (_chunks(tensor, self.packed, 0) for tensor in (values.reshape(-1), there.view(-1)))
        count = 0
        for theirs, ours, placements in zip(*pieces, laid, strict=True):
            place = placements[axis] if along else centred(theirs.numel(), ours.numel())
            lay(theirs, ours, (place,))
            count += _count((place,))
        return count

    def _place(self, weight: Tensor, shape: tuple[int, ...]) -> tuple[Placement, ...]:
        operator = self.choices.operator
        if operator == "uniform":
            return tuple(evenly(theirs, ours) for theirs, ours in zip(weight.shape, shape, strict=True))
        return axis_placements(operator, weight, shape, self.part.channel_axes, self.choices.seed, self.part.name)


def _damping(full: int, filled: int) -> float:
    """Carried and fresh weights of a row together would have this much too large a deviation.

    Both are taken to be of the scale that keeps the variance over a full fan-in b: the k carried ones give it once,
    the b - k fresh ones (b - k) / b times more.
    """
    return math.sqrt(full / (2 * full - filled))


def _chunks(tensor: Tensor, count: int, axis: int) -> Sequence[Tensor]:
    return tensor.chunk(count, axis) if count > 1 else (tensor,)


def _range(place: Placement) -> tuple[int, int]:
    """First entry and number of entries that are filled."""
    return place.target.start, place.target.stop - place.target.start


def _count(placements: Iterable[Placement]) -> int:
    return math.prod([_range(place)[1] for place in placements])


def _spell_axes(source: Sequence[int], target: Sequence[int]) -> tuple[str, ...]:
    return tuple(
        f"{ours}" if theirs == ours else f"{theirs}->{ours}" for theirs, ours in zip(source, target, strict=True)
    )


def _note(adapted: str, packed: int, source: Sequence[int], target: Sequence[int], factor: float) -> str:
    """What was done, in words."""
    cropped = any(theirs > ours for theirs, ours in zip(source, target, strict=True))
    pasted = any(theirs < ours for theirs, ours in zip(source, target, strict=True))
    words = [
        adapted,
        "cropped" if cropped else "",
        "pasted into a larger one" if pasted else "",
        "query, key and value each" if packed > 1 and (cropped or pasted) else "",
        f"times {factor:.3g}" if factor != 1.0 else "",
    ]
    return ", ".join(filter(None, words)) or "whole"

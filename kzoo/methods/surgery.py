"""Carry a plan out: lay source tensors over target tensors, part by part, and report what became of every part.

The same code first runs on the meta device, where nothing has values: whatever cannot be done is found there, and so
the report is made, before anything is changed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

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

    ``axes`` tells sizes on both sides and the first entry that was written, ``tensors`` the overwritten and all entries
    of each learned tensor, ``factor`` what the weight was multiplied with; ``note`` is for people.
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

    @property
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
    for step in steps:
        if step.source is not None:
            _check_values(source, source.parts[step.source], target, target.parts[step.target])
    with torch.no_grad():
        _operate(steps, source, target, choices)
    return reports


def rehearse(steps: Sequence[Step], source: Body, target: Body, choices: Choices) -> list[PartReport]:
    """What `operate` would do, from shapes alone.

    Raises:
        InputError: a step names an unknown part or two that do not go together.
    """
    for step in steps:
        _check_step(step, source, target)
    return _operate(steps, _without_values(source), _without_values(target), choices)


def _without_values(body: Body) -> Body:
    """The body on the meta device; tensors that are one stay one."""
    shadows: dict[int, Tensor] = {}
    for tensor in body.tensors.values():
        if id(tensor) not in shadows:
            shadows[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
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
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise InputError(
                f"the source's tensor {key} holds values that are not finite (NaN or infinity): its training has failed; "
                "give another checkpoint"
            )
        wanted = target.tensors[ours.tensors[role]].dtype
        most = torch.finfo(wanted).max
        if torch.finfo(tensor.dtype).max > most and tensor.abs().max() > most:
            raise InputError(
                f"the source's tensor {key} holds values too large for the target's {str(wanted).removeprefix('torch.')}: "
                "use a target in float32 or bfloat16"
            )


def _operate(steps: Iterable[Step], source: Body, target: Body, choices: Choices) -> list[PartReport]:
    by_target = {step.target: step for step in steps}
    written: set[int] = set()
    reports = []
    for name, part in target.parts.items():
        weight = target.tensors[part.tensors["weight"]]
        step = by_target.get(name, Step(target=name))
        if id(weight) in written:
            reports.append(PartReport(name, part.kind, part.shape, 0, note="shares its weight with a part above"))
            continue
        written.add(id(weight))
        reports.append(_carry(step, source, part, target, choices))
    return reports


def _carry(step: Step, source: Body, part: Part, target: Body, choices: Choices) -> PartReport:
    """One part; see `operate`."""
    entries = {key: target.tensors[key].numel() for role, key in part.tensors.items() if role in LEARNED}
    blank = PartReport(
        part.name,
        part.kind,
        part.shape,
        sum(entries.values()),
        note="stays as it was initialised",
        tensors={key: (0, count) for key, count in entries.items()},
    )
    if step.source is None:
        return blank
    theirs = source.parts[step.source]
    weight, note = _adapted(theirs, source, part, target, choices)
    packed = part.packed if choices.packed and theirs.packed == part.packed else 1
    layout = _Layout(part, packed, choices)
    placements = layout.carry_weight(weight, target.tensors[part.tensors["weight"]].view(part.shape))
    overwritten = {part.tensors["weight"]: packed * _count(placements)}
    statistics = False
    for role, key in part.tensors.items():
        if role == "weight" or role not in theirs.tensors or (role not in LEARNED and not choices.statistics):
            continue
        values, there = source.tensors[theirs.tensors[role]], target.tensors[key]
        count = layout.carry_vector(values, there, placements, weight.shape)
        if role in LEARNED:
            overwritten[key] = count
        statistics = statistics or role not in LEARNED
    factor = layout.factor(weight.shape, placements)
    return replace(
        blank,
        source=theirs.name,
        source_shape=theirs.shape,
        score=step.score,
        axes=_spell_axes(weight.shape, part.shape, placements),
        overwritten=sum(overwritten.values()),
        factor=factor,
        statistics=statistics,
        note=_note(note, packed, weight.shape, part.shape, factor),
        tensors={key: (overwritten.get(key, 0), count) for key, count in entries.items()},
    )


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

    def carry_weight(self, weight: Tensor, there: Tensor) -> tuple[Placement, ...]:
        """Lay the weight, piece by piece; returns the placements of the last piece, which has the ranges of all."""
        placements: tuple[Placement, ...] = ()
        for theirs, ours in zip(self._pieces(weight), self._pieces(there), strict=True):
            placements = self._place(theirs, tuple(ours.shape))
            factor = self.factor(weight.shape, placements)
            rows = ours.narrow(self.part.output_axis, *_range(placements[self.part.output_axis])) if ours.ndim else ours
            padded = self._padding(tuple(ours.shape), placements)
            if padded and self.choices.border == "zero":
                rows.zero_()
            lay(theirs, ours, placements, factor)
            rescaled = self.choices.rescale and not self.part.normalised
            if padded and rescaled and self.choices.border == "random":
                rows.mul_(self._damping(tuple(ours.shape), placements))
        return placements

    def carry_vector(self, values: Tensor, there: Tensor, placements: Sequence[Placement], shape: Sequence[int]) -> int:
        """Lay what has an entry per output (bias, statistics) as the weight's outputs lie; returns the entries written."""
        if not there.ndim or not values.ndim:
            there.copy_(values)
            return there.numel()
        axis = self.part.output_axis
        along = (values.numel(), there.numel()) == (shape[axis], self.part.shape[axis])
        for theirs, ours in zip(values.reshape(-1).chunk(self.packed), there.view(-1).chunk(self.packed), strict=True):
            place = placements[axis] if along else centred(theirs.numel(), ours.numel())
            lay(theirs, ours, (place,))
        return self.packed * _count((place,))

    def factor(self, shape: Sequence[int], placements: Sequence[Placement]) -> float:
        """What carried weights are multiplied with, so that a sum over fewer (or repeated) inputs keeps its variance."""
        if not self.choices.rescale or self.part.normalised:
            return 1.0
        theirs = math.prod(shape[axis] for axis in self.part.fan_in_axes)
        filled = math.prod(_range(placements[axis])[1] for axis in self.part.fan_in_axes)
        return math.sqrt(theirs / filled)

    def _padding(self, shape: tuple[int, ...], placements: Sequence[Placement]) -> bool:
        return any(_range(placements[axis])[1] < shape[axis] for axis in self.part.fan_in_axes)

    def _damping(self, shape: tuple[int, ...], placements: Sequence[Placement]) -> float:
        """Carried and fresh weights of a row together would have this much too large a deviation.

        Both are taken to be of the scale that keeps the variance over a full fan-in b: the k carried ones give it once,
        the b - k fresh ones (b - k) / b times more.
        """
        fan_in = math.prod(shape[axis] for axis in self.part.fan_in_axes)
        filled = math.prod(_range(placements[axis])[1] for axis in self.part.fan_in_axes)
        return math.sqrt(fan_in / (2 * fan_in - filled))

    def _pieces(self, tensor: Tensor) -> Sequence[Tensor]:
        return tensor.chunk(self.packed, self.part.output_axis) if self.packed > 1 else (tensor,)

    def _place(self, weight: Tensor, shape: tuple[int, ...]) -> tuple[Placement, ...]:
        operator = self.choices.operator
        if operator == "uniform":
            return tuple(evenly(theirs, ours) for theirs, ours in zip(weight.shape, shape, strict=True))
        return axis_placements(operator, weight, shape, self.part.channel_axes, self.choices.seed, self.part.name)


def _range(place: Placement) -> tuple[int, int]:
    """First entry and number of entries that are filled."""
    return place.target.start, place.target.stop - place.target.start


def _count(placements: Iterable[Placement]) -> int:
    return math.prod(_range(place)[1] for place in placements)


def _spell_axes(source: Sequence[int], target: Sequence[int], placements: Sequence[Placement]) -> tuple[str, ...]:
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

"""Net2WiderNet (arXiv 1511.05641, section 2): a wider network that computes the same function.

Every tied set of channels gets one mapping from new channels to old ones: the first are themselves, the rest copies
drawn at random. Layers that make the channels are copied, those that sum over them divided, so that the copies of a
channel add up to it. By default the division is unequal and differs by output, which is as exact as the paper's equal
one and lets copies learn different things without noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kzoo.edits import Edit, replace_tensors, resize, resize_edit, unsaved_buffers
from kzoo.errors import InputError
from kzoo.graph import Axis, ChannelGraph, Share, channel_graph, groups_of
from kzoo.graph.attributes import ambiguous_attributes, changed_attributes
from kzoo.graph.program import forget_caches
from kzoo.graph.sizes import new_size, positions, sources
from kzoo.methods.checking import Difference, Run, compare
from kzoo.methods.widths import Ties, by_factor, by_name, ties

Division = Literal["unequal", "equal"]
Fill = Literal["copies", "random"]
#: The relative difference of outputs above which a network is no wider version of another.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_MOST_TRIES = 100
_DRAWS = 1_000_003
#: Of so few sets in a module each is tried alone.
_MOST_ALONE = 4
#: Of so many attributes that could mean several sizes pairs and triples are tried.
_MOST_UNSURE = 5
_AND = " and "


@dataclass(frozen=True)
class Choices:
    """How new channels are made.

    ``division`` of copies: ``unequal`` shares that differ by output, or the paper's ``equal`` ones. ``noise`` is added to
    the weights of copies that make channels, relative to the standard deviation of each tensor. ``fill`` is ``copies``, or
    ``random`` for the paper's baseline, random padding, which keeps the old weights and draws the rest. ``seed`` decides
    all that is drawn.
    """

    division: Division = "unequal"
    noise: float = 0.0
    fill: Fill = "copies"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.division not in get_args(Division) or self.fill not in get_args(Fill):
            raise InputError("widening divides unequal or equal and fills with copies or random: choose one of those")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be a whole number from 0 to {2**32 - 1}, not {self.seed!r:.80}")
        if not math.isfinite(self.noise) or self.noise < 0:
            raise InputError(f"noise must be a number of 0 or more, not {self.noise:g}")


@dataclass(frozen=True)
class Widening:
    """What was widened: the network, its structure's ``edits``, and the sets of layers that share their channels.

    ``grown`` gives for each set the tensors and axes in it and its old and new size, ``left`` for the other ones the
    reason. ``difference`` is the largest relative difference of the outputs on the example.
    """

    module: nn.Module
    edits: list[Edit]
    grown: tuple[dict[str, Any], ...] = ()
    left: tuple[dict[str, Any], ...] = ()
    difference: float = 0.0
    sizes: Mapping[int, int] = field(default_factory=dict)


def widen_module(
    module: nn.Module,
    example: Tensor | Sequence[Any],
    to: float | Mapping[str, int] = 1.5,
    choices: Choices | None = None,
    graph: ChannelGraph | None = None,
) -> Widening:
    """A copy of ``module`` with more channels that gives the same outputs.

    ``to`` is a factor for all that can be widened (rounded up to a whole one where a norm forces that), or the widths of
    layers by name; layers that share channels with one are widened with it. ``example`` is an input to trace and to check
    with, ``graph`` the network's channel graph where it is known. The module itself is left as it is.

    Raises:
        InputError: the network cannot be traced, nothing can be widened so, a width is below the present one, or a layer
            is unknown or cannot be widened.
    """
    choices = choices or Choices()
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    graph = graph or channel_graph(module, inputs)
    exact = choices.fill == "copies" and choices.noise == 0
    before = Run.of(module, inputs, exact)
    limits = _Limits()
    for _ in range(_MOST_TRIES):
        tied = ties(graph, list(limits.joined.values()), limits.stopped)
        sizes = by_factor(graph, to, tied) if isinstance(to, (int, float)) else by_name(module, graph, to, tied)
        if not sizes:
            raise InputError(f"nothing in {type(module).__name__} can be widened: {_reasons(graph, tied)}")
        wider, edits = _wider(module, graph, sizes, tied, choices, limits.kept)
        if lost := unsaved_buffers(module, wider, edits):
            reason = f"{lost[0]}, which no file holds, differs by channel"
            inside = {group.index for axis in graph.tensors[lost[0]] for group in groups_of(axis)}
            limits.stopped.update(dict.fromkeys(inside, reason))
            continue
        found = compare(before, Run.of(wider, inputs, exact))
        if found.failed is None and (not exact or found.largest <= _tolerance(module)):
            return Widening(wider, edits, *_told(graph, sizes, tied), found.largest, sizes)
        limits.relent(module, graph, sizes, found)
    raise InputError(
        f"{type(module).__name__} cannot be widened: its modules need sizes that do not follow its channels"
    )


def _tolerance(module: nn.Module) -> float:
    return TOLERANCE.get(next(module.parameters()).dtype, 0.05)


def _reasons(graph: ChannelGraph, tied: Ties) -> str:
    reasons = dict.fromkeys(tied.still.values())
    return "; ".join(list(reasons)[:3]) or "all its channels are fixed by operations whose effect on them is not known"


@dataclass
class _Limits:
    """What the code of modules does not follow, found by running them."""

    kept: set[tuple[str, str]] = field(default_factory=set)
    joined: dict[str, set[int]] = field(default_factory=dict)
    stopped: dict[int, str] = field(default_factory=dict)
    tried: set[tuple[str, str]] = field(default_factory=set)
    trial: tuple[str, str] | None = None

    def relent(self, module: nn.Module, graph: ChannelGraph, sizes: Mapping[int, int], found: Difference) -> None:
        """Ask for less of a module that did not follow.

        First attributes that could mean several sizes are kept, then all in it grows by one factor, then what is only in
        it stays, then one set after the other, then all that it handles.
        """
        path, why = found.module, found.failed or "its outputs change"
        reason = f"{path or 'the network'} does not follow: {why}"
        if self.trial is not None and f"{path}.".startswith(f"{self.trial[0]}."):
            # What was tried last did not help.
            path, step = self.trial
            self._take_back(module, path, step)
        self.trial = None
        while True:
            unsure = ambiguous_attributes(module, graph, sizes, path)
            alone = sorted(_inside(graph, path) & sizes.keys())
            alone = alone if 1 < len(alone) <= _MOST_ALONE else []
            several = [_AND.join(some) for count in (2, 3) for some in combinations(unsure[:_MOST_UNSURE], count)]
            for step in (*unsure, "together", *several, "local", *map(str, alone), "all"):
                if (path, step) in self.tried:
                    continue
                self.tried |= {(other, step) for other in (_alike(module, path) if step in several else [path])}
                self.trial = (path, step) if step not in ("local", "all") else None
                if self._take(module, graph, sizes, path, step, reason):
                    return
            if not path:
                raise InputError(f"{type(module).__name__} cannot be widened: {why}")
            path = path.rpartition(".")[0]

    def _take(
        self, module: nn.Module, graph: ChannelGraph, sizes: Mapping[int, int], path: str, step: str, reason: str
    ) -> bool:
        """Take a step; whether there was something to take."""
        inside = _inside(graph, path) & sizes.keys()
        if step == "together":
            # Modules of one class have one code.
            found = {other: _inside(graph, other) & sizes.keys() for other in _alike(module, path)}
            self.joined = {other: groups for other, groups in found.items() if len(groups) > 1} | self.joined
            return len(inside) > 1
        if step.isdecimal():
            self.stopped[int(step)] = reason
            return True
        if step not in ("local", "all"):
            self.kept |= {(other, name) for other in _alike(module, path) for name in step.split(_AND)}
            return True
        groups = {group for group in inside if step == "all" or _is_local(graph, group, path)}
        self.stopped.update(dict.fromkeys(groups, reason))
        return bool(groups)

    def _take_back(self, module: nn.Module, path: str, step: str) -> None:
        """Undo a step that did not help."""
        if step.isdecimal():
            self.stopped.pop(int(step), None)
        elif step == "together":
            for other in _alike(module, path):
                self.joined.pop(other, None)
        else:
            self.kept -= {(other, name) for other in _alike(module, path) for name in step.split(_AND)}


def _alike(module: nn.Module, path: str) -> list[str]:
    kind = type(module.get_submodule(path))
    return [other for other, part in module.named_modules() if type(part) is kind]


def _inside(graph: ChannelGraph, path: str) -> set[int]:
    prefix = f"{path}." if path else ""
    return {
        group.index
        for place, axes in graph.seen.items()
        if place == path or (path and place.startswith(prefix))
        for axis in axes
        for group in groups_of(axis)
    }


def _is_local(graph: ChannelGraph, group: int, path: str) -> bool:
    return all(name.startswith(f"{path}.") for name, _ in graph.members(group))


def _told(
    graph: ChannelGraph, sizes: Mapping[int, int], tied: Ties
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    grown, left = [], []
    for index, group in graph.groups.items():
        where = [f"{name}[{axis}]" for name, axis in graph.members(index)]
        if index in sizes:
            grown.append({"tensors": where, "old": group.size, "new": sizes[index]})
        else:
            left.append({"tensors": where, "old": group.size, "reason": tied.still.get(index, "it was not asked for")})
    return tuple(grown), tuple(left)


def _wider(
    module: nn.Module,
    graph: ChannelGraph,
    sizes: Mapping[int, int],
    tied: Ties,
    choices: Choices,
    kept: Collection[tuple[str, str]],
) -> tuple[nn.Module, list[Edit]]:
    wider = copy.deepcopy(module)
    forget_caches(wider)
    attributes = changed_attributes(module, graph, sizes, kept)
    shapes = {name: tuple(new_size(axis, sizes) for axis in axes) for name, axes in graph.tensors.items()}
    shapes = {
        name: shape for name, shape in shapes.items() if shape != tuple(axis.size for axis in graph.tensors[name])
    }
    resize(wider, attributes, {})
    replace_tensors(wider, _new_tensors(module, graph, sizes, tied, choices, shapes))
    return wider, [resize_edit(attributes, shapes)]


def mappings(graph: ChannelGraph, sizes: Mapping[int, int], tied: Ties, seed: int) -> dict[int, Tensor]:
    """For each group the old channel of every new one (section 2.2): the first stand for themselves, the rest are drawn.

    Where every channel must get the same number of copies they are taken in turn.
    """
    generator = torch.Generator().manual_seed(seed)
    maps: dict[int, Tensor] = {}
    for index, size in sizes.items():
        old = graph.groups[index].size
        if index in tied.whole:
            maps[index] = torch.arange(size) % old
        else:
            maps[index] = torch.cat([torch.arange(old), torch.randint(old, (size - old,), generator=generator)])
    return maps


def _new_tensors(
    module: nn.Module,
    graph: ChannelGraph,
    sizes: Mapping[int, int],
    tied: Ties,
    choices: Choices,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Tensor]:
    maps = mappings(graph, sizes, tied, choices.seed)
    generator = torch.Generator().manual_seed(choices.seed + 1)
    shares: dict[str, list[Share]] = {}
    for share in graph.shares:
        if share.group in maps:
            shares.setdefault(share.tensor, []).append(share)
    known = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    new: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in graph.tensors:
            if name not in shapes and name not in shares:
                continue
            old, axes = known[name].detach(), graph.tensors[name]
            if choices.fill == "random":
                new[name] = _padded(name, old, shapes.get(name, tuple(old.shape)), generator)
            else:
                parts = _Parts(axes, maps, sizes, choices, generator)
                new[name] = parts.widened(old, shares.get(name, []), isinstance(known[name], nn.Parameter))
    return new


@dataclass(frozen=True)
class _Parts:
    axes: tuple[Axis, ...]
    maps: Mapping[int, Tensor]
    sizes: Mapping[int, int]
    choices: Choices
    generator: torch.Generator

    def widened(self, old: Tensor, shares: Sequence[Share], learned: bool) -> Tensor:
        """Copies of the entries of ``old``, times their shares, computed in double precision."""
        if not (old.is_floating_point() or old.is_complex()):
            return self._copied(old)
        found = self._copied(old.to(torch.complex128 if old.is_complex() else torch.float64))
        if learned and self.choices.noise and old.ndim > 1:
            found = found + self._noise(found, {share.axis for share in shares})
        for share in shares:
            found = found * self._share(share, found.shape).to(found.device)
        return found.to(old.dtype)

    def _copied(self, old: Tensor) -> Tensor:
        for place, axis in enumerate(self.axes):
            if any(group.index in self.maps for group in groups_of(axis)):
                old = old.index_select(place, sources(axis, self.maps).to(old.device))
        return old.clone()

    def _share(self, share: Share, shape: Sequence[int]) -> Tensor:
        """What the tensor is multiplied by: the shares of the copies of each channel sum to one."""
        copies = self.maps[share.group]
        counts = torch.bincount(copies)
        if share.whole:
            return torch.tensor(1.0 / float(counts[0]), dtype=torch.float64)
        rows = shape[share.rows] if share.rows is not None else 1
        drawn = torch.ones(rows, len(copies), dtype=torch.float64)
        if self.choices.division == "unequal":
            # Shares far apart give copies gradients of different signs, which an optimiser that looks at signs needs.
            generator = torch.Generator().manual_seed(self.choices.seed * _DRAWS + share.draw)
            drawn = torch.rand(rows, len(copies), dtype=torch.float64, generator=generator)
            drawn = 0.05 - torch.log1p(-drawn)
        sums = torch.zeros(rows, len(counts), dtype=torch.float64).index_add_(1, copies, drawn)
        drawn = drawn / sums[:, copies]
        where = positions(self.axes[share.axis], share.group, self.sizes)
        if share.rooted:
            drawn = drawn * math.sqrt(len(copies) / len(counts))
        factors = torch.where(where >= 0, drawn[:, where.clamp(min=0)], 1.0)
        broad = [1] * len(shape)
        broad[share.axis] = factors.shape[1]
        if share.rows is None:
            return factors.reshape(broad)
        broad[share.rows] = rows
        return (factors if share.rows < share.axis else factors.T).reshape(broad)

    def _noise(self, found: Tensor, divided: set[int]) -> Tensor:
        """Noise on the copies along the axes that make channels; originals get none."""
        chosen = torch.zeros(found.shape, dtype=torch.bool)
        for place, axis in enumerate(self.axes):
            if place in divided or axis.size == found.shape[place]:
                continue
            copied = sources(axis, self.maps)
            fresh = copied == torch.cat([torch.full((1,), -1), copied.cummax(0).values[:-1]])
            fresh |= copied < torch.cat([torch.zeros(1, dtype=torch.long), copied.cummax(0).values[:-1]])
            shape = [1] * found.ndim
            shape[place] = len(fresh)
            chosen |= fresh.reshape(shape)
        drawn = torch.randn(found.shape, dtype=torch.float64, generator=self.generator)
        return (drawn * chosen * float(found.abs().square().mean().sqrt()) * self.choices.noise).to(found)


def _padded(name: str, old: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """The paper's baseline: the old entries in their places, the rest drawn as large as they are."""
    if not old.is_floating_point() or tuple(shape) == tuple(old.shape):
        indices = [torch.arange(size) % before for size, before in zip(shape, old.shape, strict=True)]
        return old[torch.meshgrid(*indices, indexing="ij")].clone() if old.ndim else old.clone()
    if old.ndim > 1:
        scale = float(old.double().square().mean().sqrt())
        new = torch.randn(tuple(shape), dtype=torch.float64, generator=generator) * scale
    else:
        new = torch.full(tuple(shape), float(name.endswith(("weight", "running_var"))), dtype=torch.float64)
    new[tuple(slice(0, size) for size in old.shape)] = old.double()
    return new.to(old.dtype).to(old.device)

"""Net2WiderNet (arXiv 1511.05641, section 2): a wider network that computes the same function.

Every tied set of channels gets one mapping from new channels to old ones: the first are themselves, the rest copies
drawn at random. Layers that make the channels are copied, those that sum over them divided, so that the copies of a
channel add up to it. By default the division is unequal and differs by output, which is as exact as the paper's equal
one and lets copies learn different things without noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kzoo.edits import Edit, replace_tensors, resize, resize_edit, unsaved_buffers
from kzoo.errors import InputError
from kzoo.graph import Axis, ChannelGraph, Share, channel_graph, groups_of, reasons_of
from kzoo.graph.attributes import changed_attributes
from kzoo.graph.program import forget_caches
from kzoo.graph.sizes import new_size, positions, sources
from kzoo.memory import require_memory
from kzoo.methods.checking import Difference, Run, compare
from kzoo.methods.limits import Limits
from kzoo.methods.widths import Ties, by_factor, by_name, ties

Division = Literal["unequal", "equal"]
Fill = Literal["copies", "random"]
#: The relative difference of outputs above which a network is no wider version of another.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_MOST_TRIES = 100
_DRAWS = 1_000_003


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
    reason. ``difference`` is the largest relative difference of the outputs on the example, in double precision where
    rounding in the network's own makes it too large to tell anything.
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
    if isinstance(to, bool) or not isinstance(to, (int, float, Mapping)):
        raise InputError(f"expected a factor or widths by the names of layers, not {to!r:.80}")
    choices = choices or Choices()
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    graph = graph or channel_graph(module, inputs)
    check = _Check(module, inputs, exact=choices.fill == "copies" and choices.noise == 0)
    limits = Limits()
    for _ in range(_MOST_TRIES):
        tied = ties(graph, list(limits.joined.values()), limits.stopped)
        sizes = by_name(module, graph, to, tied) if isinstance(to, Mapping) else by_factor(graph, to, tied)
        if not sizes:
            raise InputError(f"nothing in {type(module).__name__} can be widened: {_reasons(graph, tied)}")
        make = partial(_wider, graph=graph, sizes=sizes, tied=tied, choices=choices, kept=limits.kept)
        wider, edits = make(module)
        if lost := unsaved_buffers(module, wider, edits):
            limits.stop(graph.tensors[lost[0]], f"{lost[0]}, which no file holds, differs by channel")
            continue
        found, same = check.of(wider, make)
        if same:
            return Widening(wider, edits, *_told(graph, sizes, tied), found.largest, sizes)
        limits.relent(module, graph, sizes, found)
    raise InputError(
        f"{type(module).__name__} cannot be widened: its modules need sizes that do not follow its channels"
    )


class _Check:
    """Whether wider networks give what ``module`` gives; where they need not be ``exact``, whether they run."""

    def __init__(self, module: nn.Module, inputs: Sequence[Any], exact: bool) -> None:
        self.module, self.inputs, self.exact = module, inputs, exact
        self.before = Run.of(module, inputs, exact)
        if exact and not self.before.outputs:
            _, why = self.before.failed or ("", "it gives no tensors")
            raise InputError(f"{type(module).__name__} cannot be compared with wider networks on the example: {why}")
        if not all(bool(tensor.isfinite().all()) for tensor in self.before.outputs):
            raise InputError(
                f"{type(module).__name__} gives infinite values or NaN for the example, which nothing can be compared with: "
                "check its weights, or give an example input as it was trained on"
            )

    @cached_property
    def doubled(self) -> _Check | None:
        """The same in double precision; None where it is in that already, or does not run so."""
        if next(self.module.parameters()).dtype == torch.float64:
            return None
        inputs = [
            item.double() if isinstance(item, Tensor) and item.is_floating_point() else item for item in self.inputs
        ]
        try:
            return _Check(copy.deepcopy(self.module).double(), inputs, self.exact)
        except InputError:
            return None

    def of(self, wider: nn.Module, make: Callable[[nn.Module], tuple[nn.Module, Any]]) -> tuple[Difference, bool]:
        """How far ``wider`` is from the module, and whether that is rounding only; ``make`` makes wider ones."""
        found = compare(self.before, Run.of(wider, self.inputs, self.exact))
        same = found.largest <= TOLERANCE.get(next(self.module.parameters()).dtype, 0.05)
        if same or found.failed is not None or self.doubled is None:
            return found, same and found.failed is None
        # Some networks enlarge the rounding of single precision without bounds: look at the same widening in double.
        return self.doubled.of(make(self.doubled.module)[0], make)


def _reasons(graph: ChannelGraph, tied: Ties) -> str:
    reasons = dict.fromkeys(tied.still.values())
    if not reasons:
        axes = ((name, axis) for name, axes in graph.tensors.items() for axis in axes)
        reasons = {f"{name} cannot, for {reason}": None for name, axis in axes for reason in reasons_of(axis)}
    aliases = [f"{one} is {other}" for one, other in graph.aliases.items()]
    return "; ".join([*list(reasons)[:3], *aliases[:2]]) or "it has no parameters"


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
    needed = sum(math.prod(shape) * known.element_size() for shape, known in _pairs(module, shapes))
    require_memory(f"a {type(module).__name__} so wide", needed)
    resize(wider, attributes, {})
    replace_tensors(wider, _new_tensors(module, graph, sizes, tied, choices, shapes))
    return wider, [resize_edit(attributes, shapes)]


def _pairs(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """New shapes, each with the tensor that has it."""
    known = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    yield from ((shape, known[name]) for name, shape in shapes.items())


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
            # Originals come in order, so that a copy is of one no later than some before it.
            fresh = copied <= torch.cat([torch.full((1,), -1), copied.cummax(0).values[:-1]])
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

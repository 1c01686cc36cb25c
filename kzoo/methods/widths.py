"""How wide each group of channels becomes: by one factor for all, or by the widths that layers are asked to have."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from kzoo.edits import meant
from kzoo.errors import InputError
from kzoo.graph import Axis, ChannelGraph, Group, Product, Sum, groups_of, reasons_of
from kzoo.graph.sizes import new_size

_MOST_FACTOR = 1024


@dataclass
class Ties:
    """Groups that must grow by one factor, and those that cannot grow, each with the reason.

    ``sets`` gives, by the index of a group, the groups that grow with it; those in ``whole`` grow by a whole number.
    ``still`` gives the reasons.
    """

    sets: dict[int, set[int]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)
    still: dict[int, str] = field(default_factory=dict)

    def join(self, groups: Collection[int]) -> None:
        """These groups, and all that are tied to them, grow by one whole number."""
        if not groups:
            return
        joined = set().union(*(self.sets.get(group, {group}) for group in groups))
        for group in joined:
            self.sets[group] = joined
        self.whole |= joined

    def stop(self, groups: Collection[int], reason: str) -> None:
        """These groups, and all that are tied to them, stay as they are."""
        for group in groups:
            for tied in self.sets.get(group, {group}):
                self.still.setdefault(tied, reason)


def ties(
    graph: ChannelGraph, joined: Collection[Collection[int]] = (), stopped: Mapping[int, str] | None = None
) -> Ties:
    """What widening must respect.

    Of a product of groups, as heads and their width, the first grows. Over an axis of statistics every entry must get
    the same number of copies. ``joined`` and ``stopped`` add sets of groups that grow together, and groups that stay.
    """
    found = Ties()
    for groups in joined:
        found.join(groups)
    for group, reason in (stopped or {}).items():
        found.stop([group], reason)
    axes = [axis for axes in graph.tensors.values() for axis in axes]
    for axis in (*axes, *(axis for axis, _ in graph.uniform)):
        for inner in _products(axis):
            _grow_first(found, inner)
    for axis, _ in graph.uniform:
        found.join({group.index for group in groups_of(axis)} - found.still.keys())
    changed = True
    while changed:
        changed = sum(_balance(found, axis, reason) for axis, reason in graph.uniform) > 0
    return found


def _products(axis: Axis) -> Iterator[Product]:
    if isinstance(axis, (Product, Sum)):
        if isinstance(axis, Product):
            yield axis
        for part in axis.parts:
            yield from _products(part)


def _grow_first(found: Ties, axis: Product) -> None:
    """Of the factors of a product only one grows, so that the product grows by the factor that is asked for."""
    grown = False
    for part in axis.parts:
        groups = [group.index for group in groups_of(part) if group.index not in found.still]
        if groups and grown:
            found.stop(groups, "what it is multiplied with is widened, as heads are and not their width")
        grown = grown or bool(groups)


def _balance(found: Ties, axis: Axis, reason: str) -> bool:
    """Stop what would be copied more often than another part of an axis of statistics; whether something changed."""
    growing = {group.index for group in groups_of(axis)} - found.still.keys()
    if not growing or _copied(axis, found.still) is not None:
        return False
    found.stop(growing, f"{reason}, and a part of it cannot be widened")
    return True


def _copied(axis: Axis, still: Mapping[int, str]) -> int | None:
    """How many growing factors every entry of an axis has; None where that differs."""
    if isinstance(axis, Group):
        return int(axis.index not in still)
    if isinstance(axis, (Product, Sum)):
        counts = [_copied(part, still) for part in axis.parts]
        if any(count is None for count in counts):
            return None
        known = [count for count in counts if count is not None]
        if isinstance(axis, Product):
            return sum(known)
        return known[0] if len(set(known)) == 1 else None
    return 0


def by_factor(graph: ChannelGraph, factor: float, tied: Ties) -> dict[int, int]:
    """New sizes by group: times ``factor``, rounded up; times the next whole number where statistics force that.

    Raises:
        InputError: the factor is not above 1, or too large.
    """
    if not math.isfinite(factor) or not 1 < factor <= _MOST_FACTOR:
        raise InputError(
            f"widening by {factor:g} makes nothing wider: expected a factor above 1 and at most {_MOST_FACTOR}"
        )
    return {
        index: group.size * math.ceil(factor) if index in tied.whole else math.ceil(group.size * factor - 1e-9)
        for index, group in graph.groups.items()
        if index not in tied.still
    }


def by_name(module: nn.Module, graph: ChannelGraph, widths: Mapping[str, int], tied: Ties) -> dict[int, int]:
    """New sizes by group where the layers in ``widths`` are to have these widths.

    Raises:
        InputError: there is no such layer, it cannot be widened, a width is below the present one or cannot be reached,
            or two layers that share their channels are to have different ones.
    """
    sizes: dict[int, int] = {}
    layers = outputs(module, graph)
    for name, width in widths.items():
        if name not in layers:
            raise InputError(f"there is no layer {name!r:.200} with channels of its own{meant(name, layers)}")
        axis = layers[name]
        if isinstance(width, bool) or not isinstance(width, int) or width < axis.size:
            raise InputError(
                f"{name} cannot get the width {width!r}: it has {axis.size}, and widening takes whole numbers above that"
            )
        if width > axis.size * _MOST_FACTOR:
            raise InputError(f"{name} cannot get the width {width}: more than {_MOST_FACTOR} times its {axis.size}")
        if width > axis.size:
            for group, size in _reached(name, axis, width, graph, layers, tied).items():
                if sizes.setdefault(group, size) != size:
                    raise InputError(
                        f"{name} shares its channels with another layer that is to have another width: name one"
                    )
    if not sizes:
        raise InputError("no layer is to become wider: give widths above the present ones")
    return sizes


def outputs(module: nn.Module, graph: ChannelGraph) -> dict[str, Axis]:
    """The axis of the channels that each layer gives, by the layer's name."""
    found: dict[str, Axis] = {}
    for path, part in module.named_modules():
        axes = graph.tensors.get(graph.aliases.get(f"{path}.weight", f"{path}.weight"))
        if not axes:
            continue
        transposed = isinstance(part, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding))
        if transposed and not (isinstance(part, nn.Embedding) or part.groups == 1):
            continue
        found[path] = axes[1 if transposed else 0]
    return found


def _reached(
    name: str, axis: Axis, width: int, graph: ChannelGraph, layers: Mapping[str, Axis], tied: Ties
) -> dict[int, int]:
    growing = list(dict.fromkeys(group for group in groups_of(axis) if group.index not in tied.still))
    if not growing:
        why = next((tied.still[group.index] for group in groups_of(axis)), None) or next(
            reasons_of(axis), "it is fixed"
        )
        raise InputError(f"{name} cannot be widened: {why}{_instead(name, layers, tied)}")
    for group in growing:
        sizes = _sizes_of(group, graph, axis, width, tied)
        if sizes is not None:
            return sizes
    steps = ", ".join(str(new_size(axis, {growing[0].index: growing[0].size * times})) for times in (2, 3))
    raise InputError(
        f"{name} cannot get the width {width}: its channels belong together in groups or under a norm; {steps} would do"
    )


def _sizes_of(group: Group, graph: ChannelGraph, axis: Axis, width: int, tied: Ties) -> dict[int, int] | None:
    """The sizes with which the axis gets its width, all tied groups by one factor; None where that cannot be."""
    if group.index in tied.whole:
        known = graph.groups
        if width % axis.size == 0:
            times = width // axis.size
            sizes = {index: known[index].size * times for index in tied.sets[group.index] if index in known}
            if new_size(axis, sizes) == width:
                return sizes
        return None
    per_channel = new_size(axis, {group.index: group.size + 1}) - axis.size
    if (width - axis.size) % per_channel:
        return None
    return {group.index: group.size + (width - axis.size) // per_channel}


def _instead(name: str, layers: Mapping[str, Axis], tied: Ties) -> str:
    """The nearest layer that can be widened, in the order of the network."""
    free = [other for other, axis in layers.items() if any(group.index not in tied.still for group in groups_of(axis))]
    order = list(layers)
    nearest = min(free, key=lambda other: abs(order.index(other) - order.index(name)), default=None)
    return f"; the nearest layer that can be is {nearest}" if nearest else "; no other layer can be either"

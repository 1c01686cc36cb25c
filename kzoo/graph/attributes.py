"""The attributes of modules that must follow when channels are widened, as ``num_heads`` or ``out_channels``.

torch's own layers are known. Of other modules those integers follow whose names speak of channels, features or heads
and whose values are sizes of what the module handles; one that could mean several sizes is left as it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from kzoo.graph.axes import Axis
from kzoo.graph.channels import ChannelGraph
from kzoo.graph.sizes import leading, new_size, pieces

#: Names of attributes that tell sizes of channels; an edit may set no others.
CHANNEL_NAMES = re.compile(
    r"chan|chs|dim|feat|width|head|group|hidden|embed|plane|split|chunk|inner|normalized_shape|out_size|^c\d?$|filter|"
    r"shape|^n?h_?k?v?$|^dh$|^nh|key|val|_ks?d|^d$|^r$|rank|heads|expand|^state|^d_|ngf|^k$|^v$|^q$|part|_c$"
)
_OTHER_SIZES = re.compile(
    r"kernel|window|stride|pad|img|image|patch|class|token|seq|grid|layer|block|stage|drop|pool|resolution|ratio|"
    r"position|max|depth|^_|training|dilat|interval|temperature|ndim|dims_?$|num_dims|bucket"
)
_Conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ConvTranspose = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_channel_name(name: str) -> bool:
    """Whether an attribute of this name can tell a number of channels."""
    return bool(CHANNEL_NAMES.search(name.lower()) and not _OTHER_SIZES.search(name.lower()))


def changed_attributes(
    module: nn.Module, graph: ChannelGraph, sizes: Mapping[int, int], kept: Collection[tuple[str, str]] = ()
) -> dict[str, dict[str, Any]]:
    """By the path of a module, the attributes that change and their new values, where groups get the new ``sizes``.

    ``kept`` names attributes, by path and name, that stay as they are.
    """
    found: dict[str, dict[str, Any]] = {}
    below = _below(graph)
    for path, part in module.named_modules():
        own = _own_axes(path, part, graph)
        told = dict(_layer_attributes(part, own, graph.seen.get(path, ()), sizes))
        seen = [*graph.seen.get(path, ()), *(axis for axes in own.values() for axis in axes)]
        if path not in graph.seen:
            # A module whose forward is not called: what it holds, and the module that uses it.
            seen += [*below[path], *_above(graph, path)]
        for name, value in vars(part).items():
            if name not in told and is_channel_name(name) and (path, name) not in kept:
                known = _renewed(value, seen, sizes)
                if known is not None:
                    told[name] = known
        changed = {name: value for name, value in told.items() if not _same(getattr(part, name), value)}
        if changed:
            found[path] = changed
    return found


def _same(old: Any, new: Any) -> bool:
    return bool(
        (tuple(old) if isinstance(old, (list, tuple)) else old) == (tuple(new) if isinstance(new, list) else new)
    )


def _below(graph: ChannelGraph) -> dict[str, list[Axis]]:
    """By the path of a module, the axes that the modules inside it see."""
    found: dict[str, list[Axis]] = defaultdict(list)
    for path, axes in graph.seen.items():
        parts = path.split(".")
        for depth in range(len(parts)):
            found[".".join(parts[:depth])] += axes
    return found


def _above(graph: ChannelGraph, path: str) -> tuple[Axis, ...]:
    while path:
        path = path.rpartition(".")[0]
        if path and path in graph.seen:
            return graph.seen[path]
    return ()


def _own_axes(path: str, part: nn.Module, graph: ChannelGraph) -> dict[str, tuple[Axis, ...]]:
    prefix = f"{path}." if path else ""
    names = [*dict(part.named_parameters(recurse=False)), *dict(part.named_buffers(recurse=False))]
    full = {name: graph.aliases.get(prefix + name, prefix + name) for name in names}
    return {name: graph.tensors[key] for name, key in full.items() if key in graph.tensors}


def _layer_attributes(
    part: nn.Module, own: Mapping[str, tuple[Axis, ...]], seen: Iterable[Axis], sizes: Mapping[int, int]
) -> Iterator[tuple[str, Any]]:
    """The attributes of torch's own layers."""
    weight = own.get("weight") or own.get("running_mean")
    if isinstance(part, (*_Conv, *_ConvTranspose)) and weight:
        out, inside = (1, 0) if isinstance(part, _ConvTranspose) else (0, 1)
        blocks = leading(weight[0], part.groups)
        groups = part.groups if blocks is None else new_size(blocks, sizes)
        widths = {"out_channels": new_size(weight[out], sizes), "in_channels": new_size(weight[inside], sizes)}
        widths["out_channels" if out else "in_channels"] *= groups
        yield from widths.items()
        yield "groups", groups
    elif isinstance(part, nn.Linear) and weight:
        yield "out_features", new_size(weight[0], sizes)
        yield "in_features", new_size(weight[1], sizes)
    elif isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)) and weight:
        yield "num_features", new_size(weight[0], sizes)
    elif isinstance(part, nn.GroupNorm):
        whole = weight[0] if weight else next((axis for axis in seen if axis.size == part.num_channels), None)
        if whole is not None:
            blocks = leading(whole, part.num_groups)
            yield "num_channels", new_size(whole, sizes)
            yield "num_groups", part.num_groups if blocks is None else new_size(blocks, sizes)
    elif isinstance(part, nn.Embedding) and weight:
        yield "embedding_dim", new_size(weight[1], sizes)
    elif isinstance(getattr(part, "normalized_shape", None), tuple) and weight:
        yield "normalized_shape", tuple(new_size(axis, sizes) for axis in weight)


def _renewed(value: Any, seen: Iterable[Axis], sizes: Mapping[int, int]) -> Any:
    """The value with sizes put in; None where it is no size, or could become several."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return _one(value, seen, sizes)
    if isinstance(value, (list, tuple)) and value and all(type(item) is int for item in value):
        axes = list(seen)
        renewed = [_one(item, axes, sizes) for item in value]
        kept = [old if new is None else new for old, new in zip(value, renewed, strict=True)]
        return tuple(kept) if isinstance(value, tuple) else kept
    return None


def _one(value: int, seen: Iterable[Axis], sizes: Mapping[int, int]) -> int | None:
    if value < 2:
        return None
    found = {new_size(piece, sizes) for axis in seen for piece in pieces(axis) if piece.size == value}
    changed = found - {value}
    return changed.pop() if len(changed) == 1 else None


def ambiguous_attributes(module: nn.Module, graph: ChannelGraph, sizes: Mapping[int, int], path: str) -> list[str]:
    """The attributes of a module whose values could also be sizes that stay, heads first."""
    changed = changed_attributes(module, graph, sizes).get(path, {})
    part = module.get_submodule(path)
    seen = graph.seen.get(path, ())
    sure = dict(_layer_attributes(part, _own_axes(path, part, graph), seen, sizes))
    still: set[Any] = {
        new_size(piece, sizes) for axis in seen for piece in pieces(axis) if new_size(piece, sizes) == piece.size
    }
    unsure = [
        name
        for name in changed
        if name not in sure and isinstance(value := getattr(part, name), int) and value in still
    ]
    return sorted(unsure, key=lambda name: "head" not in name)

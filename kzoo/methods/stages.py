"""The stages of a network, and which blocks can be added to them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kzoo.edits import Edit, is_stage
from kzoo.methods.preserving import NoIdentity, Proposal, propose
from kzoo.methods.probing import Call, Output, calls
from kzoo.training.evaluation import evaluation_mode
from kzoo.unstriding import FORMS

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ROWS = (nn.Sequential.forward, nn.ModuleList.forward, nn.ModuleDict.forward)
Shape = tuple[int, ...]
#: So many tokens beside those of the image (of the class, registers) a sequence may have.
_EXTRA_TOKENS = 16
#: So many blocks of one shape are tried.
_TRIED = 3


class Resolutions:
    """At how many places of an image a tensor holds features: pixels of a map, tokens of a sequence without those of no place.

    Which axis of a tensor of four holds the channels shows in whether a convolution gave a map of that size.
    """

    def __init__(self, found: Sequence[Output], batch: int) -> None:
        self._batch = batch
        self._maps = {one.shape[2:] for one in found if isinstance(one.module, _CONVOLUTIONS)}
        self._sizes = {math.prod(shape) for shape in self._maps} - {1}

    def of(self, shape: Shape) -> int:
        """The number of places; 1 for vectors, and for what is cut into windows."""
        if len(shape) < 3 or shape[0] != self._batch:
            return 1
        first, last = math.prod(shape[2:]), math.prod(shape[1:-1])
        if len(shape) > 3:
            moved = shape[1:-1] in self._maps or (len(shape) == 4 and shape[1] == shape[2])
            return last if moved and shape[2:] not in self._maps else first
        near = [size for size in self._sizes if 0 <= last - size <= _EXTRA_TOKENS]
        return max(near) if near else first if first in self._sizes else last


def stages_of(
    module: nn.Module, found: Sequence[Output], images: torch.Tensor, resolutions: Resolutions
) -> dict[int, list[nn.Module]]:
    """The resolutions at which a network has blocks, in their order, with these blocks in the order in which they end.

    What takes the images themselves is a stem, or the whole network; parts of a block that keeps its input's shape work on
    windows, or on pixels of its own. In a network without blocks the parts of rows count that have several layers.
    """
    ends = set(_last_blocks(module).values())
    once = [one for one in found if one.count == 1 and one.taken != id(images)]
    blocks = [one for one in once if is_block(one.module)]
    blocks = blocks or [one for one in once if one.name in ends and _layers(one.module) > 1]
    whole = [one.name for one in blocks if one.given == one.shape]
    stages: dict[int, list[nn.Module]] = {}
    for one in blocks:
        places = resolutions.of(one.shape)
        if places > 1 and not any(one.name.startswith(f"{name}.") and one.name != name for name in whole):
            stages.setdefault(places, []).append(one.module)
    return stages


def is_block(part: nn.Module) -> bool:
    """Whether a module has a forward of its own, and two layers or more."""
    return _layers(part) > 1 and type(part).forward not in _ROWS


def _layers(part: nn.Module) -> int:
    return sum(isinstance(one, (*_CONVOLUTIONS, nn.Linear)) for one in part.modules())


def last_block(module: nn.Module, blocks: Sequence[nn.Module]) -> str:
    """Of the blocks of a resolution the name of the one that its trunk ends with: the last of a container, if one is."""
    names: dict[nn.Module, str] = {part: name for name, part in module.named_modules()}
    ends = set(_last_blocks(module).values())
    # Of two that end at once the outer one comes later.
    closing = [names[block] for block in blocks if names[block] in ends]
    return min(reversed(closing), key=lambda name: name.count(".")) if closing else names[blocks[-1]]


@dataclass(frozen=True)
class ResidualStage:
    """A container of blocks with a shortcut: edits that add a block, the best first; or the reason why there are none.

    ``shape`` is that of what the new block would take.
    """

    name: str
    shape: Shape
    edits: list[Edit] = field(default_factory=list)
    reason: str | None = None


def residual_stages(module: nn.Module, images: torch.Tensor) -> list[ResidualStage]:
    """The residual stages of a network in their order, and the containers that might have been one.

    A stage is a container whose last block has a shortcut, and of which no part is such a container itself (unless it is a
    row of alike blocks). Where the last block changes the shape, as those do that begin a stage, blocks like it without
    the change are proposed.
    """
    last = _last_blocks(module)
    called = calls(module, set(last.values()), images)
    found: dict[str, ResidualStage] = {}
    for name, child in last.items():
        call, block = called[child], module.get_submodule(child)
        if call.count != 1 or not call.shapes or not any(True for _ in block.parameters()):
            continue
        edit: Edit = {"edit": "append", "stage": name, "like": child.rpartition(".")[2]}
        try:
            if call.given[: len(call.shapes)] != call.shapes:
                changed = [edit | {"unstrided": one} for one in _unstriding(block, call)]
                found[name] = ResidualStage(name, call.shapes[0], changed, None if changed else "it changes the shape")
            elif is_residual(block, proposal_of(block, call)):
                found[name] = ResidualStage(name, call.shapes[0], [edit])
        except NoIdentity as reason:
            found[name] = ResidualStage(name, call.shapes[0], reason=str(reason))
    chosen = _chosen(module, images, [name for name, stage in found.items() if stage.edits], last)
    return [stage for name, stage in found.items() if name in chosen or not stage.edits]


def _chosen(module: nn.Module, images: torch.Tensor, stages: Collection[str], last: Mapping[str, str]) -> set[str]:
    """Of containers in containers those that are stages: the inner one, unless the outer one is a row of alike blocks."""
    nested = {name for name in stages if any(_inside(other, last[name]) for other in stages if other != name)}
    children = {name: [f"{name}.{child}" for child in module.get_submodule(name)._modules][1:] for name in nested}
    called = calls(module, {child for row in children.values() for child in row}, images) if nested else {}

    def alike(row: Sequence[str]) -> bool:
        shapes = {(called[child].given[:1], called[child].shapes[:1]) for child in row}
        kinds = {type(module.get_submodule(child)) for child in row}
        return len(row) > 0 and len(kinds) == len(shapes) == 1 and all(given == shape for given, shape in shapes)

    chosen: set[str] = set()
    for name in stages:  # outer ones come first
        if any(_inside(name, other) for other in chosen):
            continue
        if name not in nested or alike(children[name]):
            chosen.add(name)
    return chosen


def _last_blocks(module: nn.Module) -> dict[str, str]:
    """The name of the last child of each container that has children."""
    return {
        name: f"{name}.{list(part._modules)[-1]}" if name else list(part._modules)[-1]
        for name, part in module.named_modules()
        if is_stage(part)
    }


def _inside(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _unstriding(block: nn.Module, call: Call) -> list[Edit]:
    """How a block that changes the shape of one map of channels might not; nothing for what is no block of several layers."""
    if len(call.given) < 1 or len(call.shapes) != 1 or len(call.given[0]) != 4 or len(call.shapes[0]) != 4:
        return []
    if not is_block(block):
        return []
    inputs, outputs = call.given[0][1], call.shapes[0][1]
    return [{"inputs": inputs, "outputs": outputs, "shortcut": form} for form in FORMS]


def lone_blocks(
    module: nn.Module, images: torch.Tensor, resolutions: Resolutions, wanted: Collection[int]
) -> dict[int, list[list[nn.Module]]]:
    """Blocks with a shortcut at the end of no stage, by resolution: of each shape a few to try, the best first.

    That is the last one; blocks in blocks are left out.
    """
    names = [name for name, part in module.named_modules() if name and is_block(part)]
    called = calls(module, names, images)
    found: list[str] = []
    by_shape: dict[Shape, list[nn.Module]] = {}
    for name in names:
        call = called[name]
        if call.count != 1 or not call.shapes or call.given[: len(call.shapes)] != call.shapes:
            continue
        if any(_inside(name, outer) for outer in found) or resolutions.of(call.shapes[0]) not in wanted:
            continue
        block = module.get_submodule(name)
        try:
            if is_residual(block, proposal_of(block, call), direct=True):
                found.append(name)
                by_shape.setdefault(call.shapes[0], []).append(block)
        except NoIdentity:
            continue
    groups: dict[int, list[list[nn.Module]]] = {}
    for shape, blocks in by_shape.items():
        groups.setdefault(resolutions.of(shape), []).append(blocks[: -_TRIED - 1 : -1])
    return groups


def proposal_of(block: nn.Module, call: Call) -> Proposal:
    """How a block can be made the identity on what it is called with, in evaluation mode.

    Raises:
        NoIdentity: there is no way, or it cannot be run by itself.
    """
    with evaluation_mode(block):
        try:
            return propose(block, call.args, call.kwargs)
        except (RuntimeError, TypeError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise NoIdentity(f"it cannot be run by itself ({reason:.120})") from None


def is_residual(block: nn.Module, proposal: Proposal, direct: bool = False) -> bool:
    """Whether a block has a shortcut; with ``direct`` there is at most a batch normalisation on it."""
    on_it = [block.get_submodule(path) for path in proposal.identities] if direct else []
    return proposal.residual and all(isinstance(part, _BatchNorm) for part in on_it)

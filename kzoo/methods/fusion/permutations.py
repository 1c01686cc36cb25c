"""Which permutations of a network's channels leave its function as it is, and how to carry them out.

The sets of channels are those of the channel graph: all layers that share channels are permuted by one permutation, through
residual additions, concatenations, depthwise and grouped convolutions, and attention's heads. A set whose channels lie
inside another one's (the width inside of heads, the channels inside of groups) gets a permutation for each channel of that
one, where nothing in the network mixes them. What is found is checked: a random permutation must leave the outputs alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.edits import copied
from kzoo.errors import InputError
from kzoo.graph import Axis, groups_of, reasons_of
from kzoo.graph.program import Program, example_copy, first_names, traced
from kzoo.graph.propagation import Propagation
from kzoo.graph.rules import propagate
from kzoo.loading import load_values
from kzoo.methods.checking import Run, relative_difference
from kzoo.methods.fusion.layouts import Box, boxes, permuted

#: The relative difference of outputs, in double precision, above which a permutation is none that leaves them alike.
TOLERANCE = 1e-9
State = Mapping[str, Tensor]
#: By the index of a set, for each new channel the old one; a row for each channel of the set that it is within.
Permutation = Mapping[int, Tensor]


@dataclass(frozen=True)
class TiedSet:
    """Channels that are permuted together in all tensors that have them; ``within`` is the set that they lie inside of."""

    index: int
    size: int
    within: int | None = None


@dataclass(frozen=True)
class Symmetries:
    """The permutations of a network's channels that leave its function as it is.

    ``axes`` gives the axes of each tensor of the state dict, ``sets`` the sets of channels, and ``still`` names the axes
    of tensors that have channels which stay, with the reason.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    sets: Mapping[int, TiedSet]
    still: Mapping[tuple[str, int], str]

    @property
    def within(self) -> dict[int, int | None]:
        """By set, the set that it lies inside of."""
        return {index: found.within for index, found in self.sets.items()}

    def boxes(self, name: str) -> list[Box]:
        """The boxes of a tensor that have channels to permute; none for a tensor without any."""
        return [box for box in boxes(self.axes.get(name, ())) if any(side.group in self.sets for side in box.sides)]


def symmetries(module: nn.Module, example: Tensor | Sequence[Any]) -> Symmetries:
    """The permutations of channels that leave what ``module`` computes as it is, traced and then checked on ``example``.

    Raises:
        InputError: the network cannot be traced, or what was found does not hold together.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    try:
        program = traced(module, example_copy(inputs))
    except InputError as error:
        raise InputError(f"{error}, or fuse without alignment") from None
    found = propagate(program)
    _fix_unsaved(module, program, found)
    return _checked(_symmetries(module, program, found), module, inputs)


def _fix_unsaved(module: nn.Module, program: Program, found: Propagation) -> None:
    """Tensors that no file holds cannot be permuted, and channels that no layer makes are none."""
    saved = module.state_dict().keys()
    learned = {name for name, _ in module.named_parameters()}
    made = {
        group.index
        for name, value in program.tensors.items()
        for axis in found.of(value)
        for group in groups_of(axis)
        if name in learned
    }
    for name, value in program.tensors.items():
        for axis in found.of(value):
            if name not in saved:
                found.solver.fix(axis, f"no file holds {name}")
            for group in groups_of(axis):
                if group.index not in made:
                    found.solver.fix(group, f"no layer makes the channels of {name}")


def _symmetries(module: nn.Module, program: Program, found: Propagation) -> Symmetries:
    axes = {name: tuple(found.of(value)) for name, value in program.tensors.items()}
    first = first_names(module)
    named = {name: axes[first.get(name, name)] for name in module.state_dict() if first.get(name, name) in axes}
    groups = {group.index: group.size for layout in named.values() for axis in layout for group in groups_of(axis)}
    within = _nesting(named, groups, found)
    sets = {index: TiedSet(index, size, within.get(index)) for index, size in groups.items()}
    still = {
        (name, place): reason
        for name, layout in named.items()
        for place, axis in enumerate(layout)
        if (reason := next(reasons_of(axis), None)) is not None
    }
    return Symmetries(named, sets, still)


def _nesting(named: Mapping[str, tuple[Axis, ...]], groups: Mapping[int, int], found: Propagation) -> dict[int, int]:
    """For sets inside of others the nearest one without which they are in no tensor and no intermediate result."""
    layouts = dict.fromkeys((*named.values(), *(tuple(found.of(value)) for value in found.axes)))
    present = [tuple(side.group for side in box.sides) for layout in layouts for box in boxes(layout)]
    present = [groups_in for groups_in in dict.fromkeys(present) if any(group is not None for group in groups_in)]
    within: dict[int, int] = {}
    for group in groups:
        with_it = [others for others in present if group in others]
        always = set.intersection(*map(set, with_it)) - {group, None} if with_it else set()
        before = [
            side.group
            for layout in named.values()
            for box in boxes(layout)
            for place in box.places(group)
            for side in reversed(box.sides[:place])
            if side.axis == box.sides[place].axis and side.group in always
        ]
        if before and before[0] is not None:
            within[group] = before[0]
    # One inside another inside a third: the middle one keeps one permutation.
    return {group: outer for group, outer in within.items() if group not in within.values()}


def identity(found: Symmetries) -> dict[int, Tensor]:
    """The permutation that leaves all channels where they are."""
    return _each(found, torch.arange)


def random_permutation(found: Symmetries, seed: int) -> dict[int, Tensor]:
    """A permutation of all sets, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    return _each(found, lambda size: torch.randperm(size, generator=generator))


def _each(found: Symmetries, draw: Callable[[int], Tensor]) -> dict[int, Tensor]:
    return {
        index: draw(one.size)
        if one.within is None
        else torch.stack([draw(one.size) for _ in range(found.sets[one.within].size)])
        for index, one in found.sets.items()
    }


def permute(state: State, found: Symmetries, permutation: Permutation) -> dict[str, Tensor]:
    """The state dict of the same function with permuted channels; values are moved, never computed.

    Tensors without channels to permute are handed on as they are; other values of parameters, as their importance, are
    permuted likewise.

    Raises:
        InputError: a tensor has another shape than the network's.
    """
    new: dict[str, Tensor] = {}
    for name, old in state.items():
        shape = tuple(axis.size for axis in found.axes.get(name, ()))
        if name in found.axes and tuple(old.shape) != shape:
            raise InputError(f"{name} is {tuple(old.shape)}: expected {shape}, as in the network that was traced")
        parts = found.boxes(name)
        if not parts:
            new[name] = old
            continue
        old = old.detach().contiguous()
        fresh = old.clone()
        for box in parts:
            box.view(fresh).copy_(permuted(box, box.view(old), permutation, found.within))
        new[name] = fresh
    return new


def _checked(found: Symmetries, module: nn.Module, inputs: Sequence[Any]) -> Symmetries:
    """What remains of sets and nestings when each is tried on the network, where all together change its outputs."""
    trial = _Trial(module, inputs)
    if trial.agrees(found, found.sets):
        return found
    sets = dict(found.sets)
    still = dict(found.still)
    for index, one in found.sets.items():
        for other in dict.fromkeys((one, replace(one, within=None))):
            sets[index] = other
            if trial.agrees(replace(found, sets=sets), [index]):
                break
        else:
            del sets[index]
            members = {
                (name, place): "permuting it changes the outputs"
                for name, layout in found.axes.items()
                for place, axis in enumerate(layout)
                if any(group.index == index for group in groups_of(axis))
            }
            still |= members
    kept = {
        index: one if one.within is None or one.within in sets else replace(one, within=None)
        for index, one in sets.items()
    }
    result = Symmetries(found.axes, kept, still)
    if not trial.agrees(result, kept):
        raise InputError(
            f"the channels of {type(module).__name__} cannot be permuted: its outputs change; do not align"
        )
    return result


class _Trial:
    """A copy of a network in double precision, with noise on its weights: zeros and ones would hide errors."""

    def __init__(self, module: nn.Module, inputs: Sequence[Any]) -> None:
        self.module = copied(module).double().eval()
        self.inputs = tuple(
            item.double() if isinstance(item, Tensor) and item.is_floating_point() else item for item in inputs
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.module.parameters():
                if parameter.is_floating_point():
                    spread = 0.1 * float(parameter.square().mean().sqrt()) + 0.01
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise, alpha=spread)
        self.state = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        self.before = Run.of(self.module, self.inputs)
        if self.before.failed is not None:
            raise InputError(f"{type(module).__name__} does not run on the example: {self.before.failed[1]}")

    def agrees(self, found: Symmetries, sets: Mapping[int, Any] | Sequence[int]) -> bool:
        """Whether a random permutation of some of the sets leaves the outputs alike."""
        drawn = random_permutation(found, 1)
        some = identity(found) | {index: drawn[index] for index in sets}
        load_values(self.module, permute(self.state, found, some))
        after = Run.of(self.module, self.inputs)
        return after.failed is None and relative_difference(self.before.outputs, after.outputs) <= TOLERANCE

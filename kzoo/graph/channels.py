"""The channel graph of a network: every tensor's axes as sums and products of groups, and what widening must respect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.graph.axes import Axis, Group, groups_of
from kzoo.graph.program import Program, example_copy, traced
from kzoo.graph.rules import Propagation, propagate
from kzoo.graph.shares import Share, find_shares


@dataclass(frozen=True)
class ChannelGraph:
    """Which channels of a network share one mapping, as plain data.

    ``tensors`` gives the axes of every parameter and buffer, in torch's order; a group in two of them must be widened by
    one mapping. ``shares`` tells which tensors are divided where a group is summed over. ``uniform`` lists the axes over
    which statistics are taken, with the reason: every entry of such an axis must get the same number of copies.
    ``seen`` gives, by the path of a module, the axes of the tensors that it handles itself, for its attributes.
    ``aliases`` names parameters that are the same tensor as one in ``tensors``.
    """

    tensors: Mapping[str, tuple[Axis, ...]]
    shares: tuple[Share, ...]
    uniform: tuple[tuple[Axis, str], ...]
    seen: Mapping[str, tuple[Axis, ...]]
    aliases: Mapping[str, str]

    @property
    def groups(self) -> dict[int, Group]:
        """Every group that can be widened, by its index, in the order of the tensors."""
        return {
            group.index: group for axes in self.tensors.values() for axis in axes for group in groups_of(axis)
        }

    def members(self, group: int) -> list[tuple[str, int]]:
        """The tensors and axes in which a group occurs: its tied set."""
        return [
            (name, place)
            for name, axes in self.tensors.items()
            for place, axis in enumerate(axes)
            if any(item.index == group for item in groups_of(axis))
        ]


def channel_graph(module: nn.Module, example: Tensor | Sequence[Any]) -> ChannelGraph:
    """The channel graph of ``module``, traced by torch.export in evaluation mode on ``example``.

    ``example`` is an input, or the sequence of its positional inputs. The module is left as it is.

    Raises:
        InputError: the network cannot be traced, as with control flow that depends on values, or has no parameters.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    if next(module.parameters(), None) is None:
        raise InputError(f"{type(module).__name__} has no parameters: expected a network with layers to widen")
    program = traced(module, example_copy(inputs))
    found = propagate(program)
    _fix_constants(module, program, found)
    shares = find_shares(program, found)
    tensors = {name: tuple(found.of(value)) for name, value in program.tensors.items()}
    known = dict(module.state_dict(keep_vars=True)) | dict(module.named_buffers())
    named = {name: axes for name, axes in tensors.items() if name in known}
    return ChannelGraph(
        tensors=named,
        shares=tuple(shares),
        uniform=tuple((found.solver.resolve(axis), reason) for axis, reason in found.uniform),
        seen=_seen(program, found),
        aliases=_aliases(module, named),
    )


def _fix_constants(module: nn.Module, program: Program, found: Propagation) -> None:
    """Tensors that are no parameters or buffers cannot be replaced."""
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    for name, value in program.tensors.items():
        if name not in known:
            for axis in found.of(value):
                found.solver.fix(axis, f"{name} is neither a parameter nor a buffer")


def _seen(program: Program, found: Propagation) -> dict[str, tuple[Axis, ...]]:
    seen: dict[str, dict[Axis, None]] = defaultdict(dict)
    for operation in program.operations:
        for value in (*operation.inputs, operation.result):
            for axis in found.of(value):
                seen[operation.module][axis] = None
    return {path: tuple(axes) for path, axes in seen.items()}


def _aliases(module: nn.Module, named: Mapping[str, Any]) -> dict[str, str]:
    owners = {
        id(tensor): name
        for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        if name in named
    }
    return {
        name: owners[id(tensor)]
        for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        if name not in named and id(tensor) in owners
    }

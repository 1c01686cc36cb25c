"""The channel graph of a network: every tensor's axes as sums and products of groups, and what widening must respect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.graph.axes import Axis, Group, groups_of
from kzoo.graph.program import Program, first_names, traced
from kzoo.graph.propagation import Propagation
from kzoo.graph.rules import propagate
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
        return {group.index: group for axes in self.tensors.values() for axis in axes for group in groups_of(axis)}

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
    program = traced(module, inputs)
    found = propagate(program)
    first = first_names(module)
    _fix_constants(program, found, first)
    shares = find_shares(program, found)
    _fix_unmade(module, program, found, shares)
    tensors = {name: tuple(found.of(value)) for name, value in program.tensors.items()}
    return ChannelGraph(
        tensors={name: axes for name, axes in tensors.items() if name in first},
        shares=tuple(shares),
        uniform=tuple((found.solver.resolve(axis), reason) for axis, reason in found.uniform),
        seen=_seen(module, program, found),
        aliases={name: other for name, other in first.items() if name != other},
    )


def _fix_constants(program: Program, found: Propagation, known: Collection[str]) -> None:
    """Tensors that are no parameters or buffers cannot be replaced."""
    for name, value in program.tensors.items():
        if name not in known:
            for axis in found.of(value):
                found.solver.fix(axis, f"{name} is neither a parameter nor a buffer")


def _fix_unmade(module: nn.Module, program: Program, found: Propagation, shares: Sequence[Share]) -> None:
    """Channels that no layer makes, as coordinates in a buffer or the entries of a lone vector, are no channels."""
    divided = {(share.tensor, share.axis, share.group) for share in shares if not share.whole}
    learned = {name for name, _ in module.named_parameters()}
    made = {
        group.index
        for name, value in program.tensors.items()
        for place, axis in enumerate(found.of(value))
        for group in groups_of(axis)
        if name in learned and len(value.shape or ()) > 1 and (name, place, group.index) not in divided
    }
    for name, value in program.tensors.items():
        for axis in found.of(value):
            for group in groups_of(axis):
                if group.index not in made:
                    found.solver.fix(group, f"no layer makes the channels of {name}")


def _seen(module: nn.Module, program: Program, found: Propagation) -> dict[str, tuple[Axis, ...]]:
    first: dict[int, str] = {}
    paths = {path: first.setdefault(id(part), path) for path, part in module.named_modules(remove_duplicate=False)}
    seen: dict[str, dict[Axis, None]] = defaultdict(dict)
    for operation in program.operations:
        for value in (*operation.inputs, operation.result):
            for axis in found.of(value):
                seen[paths.get(operation.module, operation.module)][axis] = None
    return {path: tuple(axes) for path, axes in seen.items()}

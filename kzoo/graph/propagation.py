"""How what operations say about axes goes through a program.

A rule gets the propagation so far and the operation, adds equations, and gives the axes of the result. Where no rule is
known, every group that meets the operation is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kzoo.graph.axes import Axis, Fixed, Solver, groups_of
from kzoo.graph.program import Operation, Program, Value

Axes = list[Axis]
Result = Axes | list[Axes]


@dataclass(frozen=True)
class Contraction:
    """A sum over ``axis``: what is widened in it must be divided in one of ``sides``, tried in this order.

    A side is a value and the place of the axis in it. A ``rooted`` sum is divided by the root of its width.
    """

    axis: Axis
    sides: tuple[tuple[Value, int], ...]
    operation: Operation
    rooted: bool = False


@dataclass
class Propagation:
    """The axes of every value so far; ``uniform`` are the axes over which statistics are taken, each with its reason."""

    solver: Solver = field(default_factory=Solver)
    axes: dict[Value, Axes] = field(default_factory=dict)
    parts: dict[Value, list[Axes]] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    uniform: list[tuple[Axis, str]] = field(default_factory=list)

    def of(self, value: Value) -> Axes:
        """The axes of a value, with all that is known."""
        return [self.solver.resolve(axis) for axis in self.axes.get(value, [])]

    def has_groups(self, axis: Axis) -> bool:
        """Whether something in an axis can be widened."""
        return any(True for _ in groups_of(self.solver.resolve(axis)))

    def equal(self, one: Axis, other: Axis, operation: Operation) -> None:
        """The operation needs both axes to be the same channels."""
        self.solver.equal(
            one, other, f"{operation.name} in {operation.module or 'the network'} ties parts of different structure"
        )

    def fix(self, axes: Iterable[Axis], why: str, operation: Operation) -> None:
        """Because of the operation nothing in the axes can be widened."""
        for axis in axes:
            self.solver.fix(axis, f"{why} in {operation.module or 'the network'}")

    def fix_all(self, value: Value, reason: str) -> None:
        """Nothing in a value can be widened."""
        for axis in self.of(value):
            self.solver.fix(axis, reason)

    def spatial(self, axis: Axis, size: int, operation: Operation) -> Axis:
        """An axis that the operation treats as positions."""
        self.fix([axis], f"{operation.name} goes along it", operation)
        return Fixed(size, "positions")


Rule = Callable[[Propagation, Operation], Result | None]
RULES: dict[str, Rule] = {}
#: Operations that make groups of their own.
CREATING = frozenset(
    {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "expand", "expand_as", "repeat", "tile"}
)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of the operations with these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def propagate(program: Program) -> Propagation:
    """The axes of every value of a program."""
    found = Propagation()
    for value in program.tensors.values():
        found.axes[value] = [found.solver.group(size) for size in value.shape or ()]
    for operation in program.operations:
        _propagate(found, operation)
    used = {value for operation in program.operations for value in operation.inputs}
    for name, value in program.tensors.items():
        if value not in used:
            found.fix_all(value, f"{name} is not used")
    for value in program.outputs:
        for axis in found.of(value):
            found.solver.fix(axis, "it is the network's output")
    return found


def _propagate(found: Propagation, operation: Operation) -> None:
    for value in operation.inputs:
        if value not in found.axes:
            reason = "it is the network's input" if value.given else "it is a constant"
            found.axes[value] = [Fixed(size, reason) for size in value.shape or ()]
    if operation.name == "getitem":
        source = found.parts.get(operation.arguments["source"])
        found.axes[operation.result] = source[operation.arguments["place"]] if source else _unknown(found, operation)
        return
    function = RULES.get(operation.name) or (RULES["pointwise"] if operation.pointwise else None)
    plain = not any(found.has_groups(axis) for value in operation.inputs for axis in found.of(value))
    result: Any = function(found, operation) if function and not (plain and operation.name not in CREATING) else None
    if operation.result.shape is None:
        if isinstance(result, list):
            found.parts[operation.result] = result
        elif not plain:
            _fix_inputs(found, operation)
        return
    sizes = operation.result.shape
    if result is None or [axis.size for axis in result] != list(sizes):
        result = [Fixed(size, "it is a constant") for size in sizes] if plain else _unknown(found, operation)
    found.axes[operation.result] = result


def _unknown(found: Propagation, operation: Operation) -> Axes:
    _fix_inputs(found, operation)
    return [Fixed(size, f"{operation.name} made it") for size in operation.result.shape or ()]


def _fix_inputs(found: Propagation, operation: Operation) -> None:
    for value in operation.inputs:
        found.fix(found.of(value), f"the effect of {operation.name} on channels is not known", operation)


def place_of(place: int, rank: int) -> int:
    """An axis counted from the start."""
    return place % rank if rank else 0


def places_of(given: Any, rank: int) -> list[int]:
    """Axes counted from the start, in order; all where none are given."""
    if given is None or given == []:
        return list(range(rank))
    return sorted(place_of(item, rank) for item in ([given] if isinstance(given, int) else given))


def broadcast(found: Propagation, operation: Operation, values: Sequence[Value]) -> Axes:
    """The axes of tensors that meet entry by entry, aligned at their last axes."""
    shapes = [found.of(value) for value in values]
    rank = max(len(axes) for axes in shapes)
    result: Axes = [Fixed(1)] * rank
    for axes in shapes:
        for place, axis in enumerate(axes, start=rank - len(axes)):
            if axis.size == 1:
                continue
            if result[place].size > 1:
                found.equal(result[place], axis, operation)
            else:
                result[place] = axis
    return result


def cut(found: Propagation, operation: Operation, axis: Axis, sizes: Sequence[int]) -> Axes:
    """The axis in pieces of these sizes; it is fixed where that goes through what belongs together."""
    pieces = found.solver.cut(axis, sizes)
    if pieces is None:
        found.fix([axis], f"{operation.name} goes through what belongs together", operation)
        return [Fixed(size, "positions") for size in sizes]
    return pieces

"""Where a sum over widened channels is divided: which tensor's entries are multiplied by shares that sum to one.

Mostly that is the weight that sums them. Where both factors are activations, as in the product of query and key, the
shares go back to the layer that made one of them, through operations that a positive factor passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kzoo.graph.axes import Axis, Group, groups_of
from kzoo.graph.program import Operation, Program, Value
from kzoo.graph.propagation import Contraction, Propagation


@dataclass(frozen=True)
class Share:
    """Entries of ``tensor`` along ``axis`` are multiplied by the shares of the copies of ``group``.

    ``rows`` is the axis along which every entry may get shares of its own, where there is one. ``whole`` tells that all
    entries are divided by the number of copies instead, which is the same for all channels of the group. A ``rooted``
    share is multiplied by the root of how much wider the group becomes, since attention divides by the root of its width.
    Tensors with the same ``draw``, as the scale and shift of a norm, get the same shares.
    """

    tensor: str
    axis: int
    group: int
    rows: int | None = None
    whole: bool = False
    rooted: bool = False
    draw: int = 0


#: Operations that a positive factor on one channel passes unchanged.
_THROUGH = frozenset(
    {
        "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "squeeze", "contiguous",
        "clone", "to", "alias", "relu", "leaky_relu", "neg", "dropout", "expand", "slice", "abs", "detach", "reshape_as",
        "type_as", "_unsafe_view", "roll", "pad", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "mean", "amax",
        "index", "select", "narrow",
    }
)  # fmt: skip
_AFFINE = frozenset({"batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm"})


class _Search:
    def __init__(self, program: Program, found: Propagation) -> None:
        self.found = found
        self.made = {operation.result: operation for operation in program.operations}
        self.uses = Counter(value for operation in program.operations for value in operation.inputs)
        self.uses.update(program.outputs)

    def at(self, value: Value, group: int) -> int | None:
        """The one axis of a value that holds the group; None where none or several do."""
        places = [
            place
            for place, axis in enumerate(self.found.of(value))
            if any(item.index == group for item in groups_of(axis))
        ]
        return places[0] if len(places) == 1 else None

    def push(self, value: Value, place: int, group: int, rows: int | None = None) -> list[Share] | None:
        """The shares that divide the group in ``value``; None where no tensor can take them."""
        if value.name is not None:
            return [Share(value.name, place, group, rows)]
        operation = self.made.get(value)
        if operation is None or self.uses[value] != 1:
            return None
        return self._through(operation, group)

    def _through(self, operation: Operation, group: int) -> list[Share] | None:
        name = operation.name
        if name == "batch_norm" and operation.arguments.get("running_mean") is None:
            return self._standardised(operation, group)
        if name in _THROUGH:
            return self._into(operation.inputs[0], group)
        if name in ("linear", "conv1d", "conv2d", "conv3d"):
            return self._layer(operation, group)
        if name in _AFFINE:
            if operation.arguments.get("weight") is None:
                return None
            return self._all([operation.arguments.get(key) for key in ("weight", "bias")], group)
        if name in ("add", "sub", "cat") and (len(operation.inputs) > 1 or name == "cat"):
            with_group = [value for value in operation.inputs if self.at(value, group) is not None]
            if len(with_group) != len(operation.inputs) or len(set(with_group)) != len(with_group):
                return None
            return self._all(with_group, group)
        if name in ("mul", "div", *_PRODUCTS) and operation.arguments.get("rounding_mode") is None:
            sides = operation.inputs[:1] if name == "div" else operation.inputs
            for value in sorted(sides, key=lambda side: side.name is None):
                shares = self._into(value, group)
                if shares is not None:
                    return shares
        return None

    def _layer(self, operation: Operation, group: int) -> list[Share] | None:
        data, weight, bias = operation.given("input", "weight", "bias")
        made = any(item.index == group for item in groups_of(self.found.of(weight)[0]))
        if made:
            return self._all([weight, bias], group, first=True)
        # The group lies along an axis that the layer leaves alone, as positions.
        return self._into(data, group) if bias is None else None

    def _into(self, value: Value, group: int) -> list[Share] | None:
        place = self.at(value, group)
        return None if place is None else self.push(value, place, group)

    def _all(self, values: Sequence[Value | None], group: int, first: bool = False) -> list[Share] | None:
        shares: list[Share] = []
        for value in values:
            if value is None:
                continue
            place = 0 if first else self.at(value, group)
            pushed = None if place is None else self.push(value, place, group)
            if pushed is None:
                return None
            shares += pushed
        return shares

    def _standardised(self, operation: Operation, group: int) -> list[Share] | None:
        """A weight that is standardised over its inputs: the scale after it takes the number of copies."""
        gain = operation.arguments.get("weight")
        if gain is None or operation.arguments.get("bias") is not None:
            return None
        name = self._scale(gain)
        return None if name is None else [Share(name, 0, group, whole=True)]

    def _scale(self, value: Value) -> str | None:
        if value.name is not None:
            return value.name if self.uses[value] == 1 else None
        operation = self.made.get(value)
        if operation is None or self.uses[value] != 1 or operation.name not in (*_THROUGH - {"relu"}, "mul"):
            return None
        return self._scale(operation.inputs[0])


def find_shares(program: Program, found: Propagation) -> list[Share]:
    """The shares of every group that is summed over; a group whose sum can be divided nowhere is fixed."""
    while True:
        shares, failed = _try(program, found)
        if not failed:
            return shares
        for axis, reason in failed:
            found.solver.fix(axis, reason)


def _try(program: Program, found: Propagation) -> tuple[list[Share], list[tuple[Axis, str]]]:
    search = _Search(program, found)
    shares: list[Share] = []
    failed: list[tuple[Axis, str]] = []
    for draw, contraction in enumerate(found.contractions):
        for group in {item.index: item for item in groups_of(found.solver.resolve(contraction.axis))}.values():
            pushed = _divided(search, contraction, group)
            if pushed is None:
                where = contraction.operation.module or "the network"
                failed.append((group, f"the sum over it in {where} cannot be divided"))
            else:
                shares += [replace(share, draw=draw) for share in pushed]
    failed += _conflicts(search, program, shares, found)
    # A tensor that is used twice is divided once.
    once: dict[Share, Share] = {}
    for share in shares:
        once.setdefault(replace(share, draw=0), share)
    return list(once.values()), failed


def _divided(search: _Search, contraction: Contraction, group: Group) -> list[Share] | None:
    for value, place in contraction.sides:
        pushed = search.push(value, place, group.index, _rows(contraction, value, place))
        if pushed is not None:
            return [replace(share, rooted=True) for share in pushed] if contraction.rooted else pushed
    return None


def _rows(contraction: Contraction, value: Value, place: int) -> int | None:
    """The axis of the outputs in a weight that is summed over directly."""
    if contraction.operation.name not in ("linear", "conv1d", "conv2d", "conv3d"):
        return None
    return 0 if value is contraction.operation.arguments.get("weight") and place == 1 else None


def _conflicts(search: _Search, program: Program, shares: list[Share], found: Propagation) -> list[tuple[Axis, str]]:
    """Groups that one use of a tensor divides and another does not, as in tied weights."""
    counted = Counter((share.tensor, share.axis, share.group) for share in shares if not share.whole)
    failed: list[tuple[Axis, str]] = []
    for (name, place, index), times in counted.items():
        value = program.tensors[name]
        if times != search.uses[value]:
            group = next(item for item in groups_of(found.of(value)[place]) if item.index == index)
            failed.append((group, f"{name} is used in several ways"))
    return failed

"""What each operation says about the axes of its inputs and its result.

A rule gets the propagation so far and the operation, adds equations, and gives the axes of the result. Where no rule is
known, every group that meets the operation is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kzoo.graph.axes import Axis, Fixed, Solver, groups_of, product, total
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
        return any(True for _ in groups_of(self.solver.resolve(axis)))

    def equal(self, one: Axis, other: Axis, operation: Operation) -> None:
        self.solver.equal(one, other, f"{operation.name} in {operation.module or 'the network'} ties parts of different structure")

    def fix(self, axes: Iterable[Axis], why: str, operation: Operation) -> None:
        for axis in axes:
            self.solver.fix(axis, f"{why} in {operation.module or 'the network'}")

    def fix_all(self, value: Value, reason: str) -> None:
        for axis in self.of(value):
            self.solver.fix(axis, reason)

    def spatial(self, axis: Axis, size: int, operation: Operation) -> Axis:
        """An axis that the operation treats as positions."""
        self.fix([axis], f"{operation.name} goes along it", operation)
        return Fixed(size, "positions")


Rule = Callable[[Propagation, Operation], Result | None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
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
    function = RULES.get(operation.name) or (_pointwise if operation.pointwise else None)
    plain = not any(found.has_groups(axis) for value in operation.inputs for axis in found.of(value))
    result = function(found, operation) if function and not (plain and operation.name not in _CREATE) else None
    if operation.result.shape is None:
        if isinstance(result, list):
            found.parts[operation.result] = result  # type: ignore[assignment]
        elif not plain:
            _fix_inputs(found, operation)
        return
    sizes = operation.result.shape
    if result is None or [axis.size for axis in result] != list(sizes):  # type: ignore[union-attr]
        result = [Fixed(size, "it is a constant") for size in sizes] if plain else _unknown(found, operation)
    found.axes[operation.result] = result  # type: ignore[assignment]


def _unknown(found: Propagation, operation: Operation) -> Axes:
    _fix_inputs(found, operation)
    return [Fixed(size, f"{operation.name} made it") for size in operation.result.shape or ()]


def _fix_inputs(found: Propagation, operation: Operation) -> None:
    for value in operation.inputs:
        found.fix(found.of(value), f"the effect of {operation.name} on channels is not known", operation)


def _place(place: int, rank: int) -> int:
    return place % rank if rank else 0


def _places(given: Any, rank: int) -> list[int]:
    if given is None or given == []:
        return list(range(rank))
    return sorted(_place(item, rank) for item in ([given] if isinstance(given, int) else given))


# --- elementwise


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


@rule("copy", "masked_fill", "where", "type_as")
def _pointwise(found: Propagation, operation: Operation) -> Result | None:
    values = [value for value in operation.inputs if value.shape is not None]
    if operation.name == "type_as":
        values = values[:1]
    return broadcast(found, operation, values) if values else None


@rule(
    "contiguous", "clone", "detach", "alias", "to", "dropout", "lift_fresh_copy", "lift_fresh", "_to_copy", "feature_dropout",
    "alpha_dropout", "prelu_", "requires_grad", "positive",
)  # fmt: skip
def _same(found: Propagation, operation: Operation) -> Result | None:
    return found.of(operation.inputs[0])


@rule("prelu")
def _prelu(found: Propagation, operation: Operation) -> Result | None:
    data, weight = operation.inputs
    axes, slope = found.of(data), found.of(weight)[0]
    if slope.size == 1:
        found.fix([slope], "one slope serves all channels", operation)
    else:
        found.equal(axes[min(1, len(axes) - 1)], slope, operation)
    return found.of(data)


@rule("glu")
def _glu(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    place = _place(operation.arguments["dim"], len(axes))
    halves = found.solver.cut(axes[place], [axes[place].size // 2] * 2)
    if halves is None:
        return None
    found.equal(halves[0], halves[1], operation)
    return [*axes[:place], halves[0], *axes[place + 1 :]]


@rule("softmax", "log_softmax", "_softmax", "cumsum", "logsumexp")
def _along(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    found.fix([axes[_place(operation.arguments["dim"], len(axes))]], f"{operation.name} is taken over it", operation)
    return found.of(operation.inputs[0])


@rule("roll", "flip")
def _moved(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    for place in _places(operation.arguments["dims"], len(axes)):
        found.fix([axes[place]], f"{operation.name} moves entries along it", operation)
    return found.of(operation.inputs[0])


# --- creation

_CREATE = frozenset({"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "expand", "expand_as", "repeat", "tile"})


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full")
def _created(found: Propagation, operation: Operation) -> Result | None:
    return [found.solver.group(size) if size > 1 else Fixed(1) for size in operation.result.shape or ()]


# --- shapes


@rule("view", "reshape", "flatten", "unflatten", "reshape_as", "view_as", "_unsafe_view", "squeeze", "unsqueeze", "pixel_shuffle")
def _reshape(found: Propagation, operation: Operation) -> Result | None:
    if operation.name == "pixel_shuffle":
        return _pixel_shuffle(found, operation)
    return found.solver.reshape(found.of(operation.inputs[0]), operation.result.shape or ())


def _pixel_shuffle(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    shape = operation.result.shape or ()
    halves = found.solver.divide(axes[-3], shape[-3])
    if halves is None:
        return None
    found.fix([halves[1]], "it becomes positions", operation)
    return [*axes[:-3], halves[0], Fixed(shape[-2]), Fixed(shape[-1])]


@rule("pixel_unshuffle")
def _pixel_unshuffle(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    shape = operation.result.shape or ()
    inside = Fixed(shape[-3] // axes[-3].size)
    return [*axes[:-3], product((axes[-3], inside)), Fixed(shape[-2]), Fixed(shape[-1])]


@rule("permute")
def _permute(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    return [axes[_place(place, len(axes))] for place in operation.arguments["dims"]]


@rule("transpose", "swapaxes", "t", "mT", "numpy_T", "adjoint")
def _transpose(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    if len(axes) < 2:
        return axes
    one, other = (operation.arguments.get(key, default) for key, default in (("dim0", -2), ("dim1", -1)))
    one, other = _place(one, len(axes)), _place(other, len(axes))
    axes[one], axes[other] = axes[other], axes[one]
    return axes


@rule("movedim")
def _movedim(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    given = (operation.arguments[key] for key in ("source", "destination"))
    source, target = ([item] if isinstance(item, int) else item for item in given)
    rank = len(axes)
    fixed = {_place(to, rank): axes[_place(at, rank)] for at, to in zip(source, target, strict=True)}
    rest = iter(axis for place, axis in enumerate(axes) if place not in {_place(at, rank) for at in source})
    return [fixed[place] if place in fixed else next(rest) for place in range(rank)]


@rule("expand", "expand_as")
def _expand(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    like = found.of(operation.inputs[1]) if operation.name == "expand_as" else None
    result: Axes = []
    for place, size in enumerate(shape):
        own = place - len(shape) + len(axes)
        if own >= 0 and axes[own].size == size:
            result.append(axes[own])
            continue
        result.append(like[place] if like else found.solver.group(size))
    return result


@rule("repeat", "tile")
def _repeat(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    axes = [Fixed(1)] * (len(shape) - len(axes)) + axes
    return [
        axis
        if axis.size == size
        else found.solver.group(size)
        if axis.size == 1
        else product((Fixed(size // axis.size, "it is repeated"), axis))
        for axis, size in zip(axes, shape, strict=True)
    ]


@rule("repeat_interleave")
def _repeat_interleave(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    return [
        axis if axis.size == size else product((axis, Fixed(size // axis.size, "it is repeated")))
        for axis, size in zip(axes, shape, strict=True)
    ]


@rule("cat", "concat", "concatenate")
def _cat(found: Propagation, operation: Operation) -> Result | None:
    tensors = [found.of(value) for value in operation.inputs if value.shape != (0,)]
    place = _place(operation.arguments["dim"], len(tensors[0]))
    for axes in tensors[1:]:
        for other in range(len(axes)):
            if other != place:
                found.equal(tensors[0][other], axes[other], operation)
    joined = total(found.solver.resolve(axes[place]) for axes in tensors)
    return [found.solver.resolve(axis) if at != place else joined for at, axis in enumerate(tensors[0])]


@rule("stack")
def _stack(found: Propagation, operation: Operation) -> Result | None:
    tensors = [found.of(value) for value in operation.inputs]
    for axes in tensors[1:]:
        for one, other in zip(tensors[0], axes, strict=True):
            found.equal(one, other, operation)
    result = [found.solver.resolve(axis) for axis in tensors[0]]
    result.insert(_place(operation.arguments["dim"], len(result) + 1), Fixed(len(tensors), "tensors are stacked"))
    return result


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split")
def _split(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    place = _place(operation.arguments["dim"], len(axes))
    given = operation.arguments.get("split_sizes", operation.arguments.get("split_size"))
    if isinstance(given, (list, tuple)):
        sizes = [int(size) for size in given]
    elif "chunks" in operation.arguments:
        step = -(-axes[place].size // operation.arguments["chunks"])
        sizes = _steps(axes[place].size, step)
    elif isinstance(given, int):
        sizes = _steps(axes[place].size, given)
    else:
        return None
    pieces = found.solver.cut(axes[place], sizes)
    return pieces and [[*axes[:place], piece, *axes[place + 1 :]] for piece in pieces]  # type: ignore[return-value]


def _steps(size: int, step: int) -> list[int]:
    return [min(step, size - start) for start in range(0, size, step)]


@rule("unbind")
def _unbind(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    place = _place(operation.arguments["dim"], len(axes))
    return [_selected(found, operation, axes, place, index) for index in range(axes[place].size)]


@rule("select")
def _select(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    return _selected(found, operation, axes, _place(operation.arguments["dim"], len(axes)), 0)


def _selected(found: Propagation, operation: Operation, axes: Axes, place: int, index: int) -> Axes:
    found.fix([axes[place]], f"{operation.name} takes single entries of it", operation)
    return [*axes[:place], *axes[place + 1 :]]


@rule("slice", "narrow")
def _slice(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    place = _place(operation.arguments["dim"], len(axes))
    axis, size = axes[place], axes[place].size
    if shape[place] == size:
        return axes
    if not found.has_groups(axis):
        axes[place] = Fixed(shape[place], "positions")
        return axes
    if operation.arguments.get("step", 1) != 1:
        found.fix([axis], "every second entry of it is taken", operation)
        return None
    start = operation.arguments.get("start") or 0
    start = start + size if start < 0 else start
    sizes = [start, shape[place], size - start - shape[place]]
    pieces = found.solver.cut(axis, [size for size in sizes if size])
    if pieces is None:
        return None
    axes[place] = pieces[1 if start else 0]
    return axes


@rule("pad", "constant_pad_nd")
def _pad(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    given = operation.arguments["pad"]
    result = list(axes)
    for step in range(len(given) // 2):
        before, after = given[2 * step], given[2 * step + 1]
        place = len(axes) - 1 - step
        if not before and not after:
            continue
        if not found.has_groups(axes[place]):
            result[place] = Fixed(shape[place], "positions")
        elif min(before, after) >= 0 and operation.arguments.get("mode", "constant") == "constant":
            result[place] = total((Fixed(before, "it is padding"), axes[place], Fixed(after, "it is padding")))
        else:
            result[place] = found.spatial(axes[place], shape[place], operation)
    return result


@rule("unfold")
def _unfold(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    place = _place(operation.arguments["dimension"], len(axes))
    axes[place] = found.spatial(axes[place], shape[place], operation)
    return [*axes, Fixed(shape[-1], "positions")]


@rule("im2col")
def _im2col(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    inside = Fixed(shape[-2] // axes[-3].size, "positions")
    return [*axes[:-3], product((axes[-3], inside)), Fixed(shape[-1], "positions")]


@rule("col2im")
def _col2im(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    halves = found.solver.divide(axes[-2], shape[-3])
    if halves is None:
        return None
    found.fix([halves[1]], "it becomes positions", operation)
    return [*axes[:-2], halves[0], Fixed(shape[-2]), Fixed(shape[-1])]


@rule("index")
def _index(found: Propagation, operation: Operation) -> Result | None:
    data = operation.arguments["self"]
    axes, shape = found.of(data), operation.result.shape or ()
    indices = list(operation.arguments["indices"])
    taken = [place for place, index in enumerate(indices) if index is not None]
    for place in taken:
        found.fix([axes[place]], "its entries are looked up", operation)
    for index in indices:
        if isinstance(index, Value):
            found.fix(found.of(index), "it tells which entries are looked up", operation)
    kept = [axis for place, axis in enumerate(axes) if place not in taken]
    rank = len(shape) - len(kept)
    if rank < 0:
        return None
    together = taken == list(range(taken[0], taken[-1] + 1))
    start = taken[0] if together else 0
    return [*kept[:start], *(Fixed(size, "positions") for size in shape[start : start + rank]), *kept[start:]]


@rule("index_select", "gather")
def _index_select(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.arguments["self"]), operation.result.shape or ()
    place = _place(operation.arguments["dim"], len(axes))
    if operation.name == "gather":
        return None
    found.fix([axes[place], *found.of(operation.arguments["index"])], "its entries are looked up", operation)
    return [*axes[:place], Fixed(shape[place], "positions"), *axes[place + 1 :]]


@rule("embedding")
def _embedding(found: Propagation, operation: Operation) -> Result | None:
    table, looked_up = found.of(operation.arguments["weight"]), found.of(operation.arguments["indices"])
    found.fix([table[0]], "its entries are looked up", operation)
    return [*looked_up, table[1]]


# --- reductions


def _reduced(found: Propagation, operation: Operation, axes: Axes, places: Sequence[int]) -> Axes:
    if operation.arguments.get("keepdim"):
        return [Fixed(1) if place in places else axis for place, axis in enumerate(axes)]
    return [axis for place, axis in enumerate(axes) if place not in places]


@rule("mean", "var", "std", "var_mean", "std_mean")
def _mean(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    places = _places(operation.arguments.get("dim"), len(axes))
    over = product(axes[place] for place in places)
    biased = operation.name == "mean" or not operation.arguments.get("correction", operation.arguments.get("unbiased", 1))
    if biased:
        found.uniform.append((over, f"the {operation.name} in {operation.module or 'the network'} is taken over it"))
    else:
        found.fix([over], f"{operation.name} with Bessel's correction is taken over it", operation)
        axes = found.of(operation.inputs[0])
    result = _reduced(found, operation, axes, places)
    return [result, list(result)] if operation.name.endswith("_mean") else result


@rule("sum")
def _sum(found: Propagation, operation: Operation) -> Result | None:
    data = operation.inputs[0]
    axes = found.of(data)
    places = _places(operation.arguments.get("dim"), len(axes))
    for place in places:
        found.contractions.append(Contraction(axes[place], ((data, place),), operation))
    return _reduced(found, operation, axes, places)


@rule("linalg_vector_norm", "prod", "norm")
def _norm(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    places = _places(operation.arguments.get("dim"), len(axes))
    for place in places:
        found.fix([axes[place]], f"{operation.name} is taken over it", operation)
    return _reduced(found, operation, found.of(operation.inputs[0]), places)


@rule("amax", "amin", "max", "min")
def _extreme(found: Propagation, operation: Operation) -> Result | None:
    if len(operation.inputs) == 2:
        return _pointwise(found, operation)
    axes = found.of(operation.inputs[0])
    places = _places(operation.arguments.get("dim"), len(axes))
    # Copies change no extreme; its place they do.
    result = _reduced(found, operation, axes, places)
    return [result, list(result)] if operation.result.shape is None else result


# --- positions


@rule(
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "max_pool2d_with_indices",
    "_adaptive_avg_pool2d", "lp_pool2d", "reflection_pad2d", "replication_pad2d", "reflection_pad1d", "zero_pad2d",
)  # fmt: skip
def _pool(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    spatial = next((int(letter) for letter in operation.name if letter.isdigit()), 2)
    count = len(axes) - spatial
    if operation.result.shape is None:
        return None
    shape = operation.result.shape
    return [*axes[:count], *(found.spatial(axis, shape[place], operation) for place, axis in enumerate(axes) if place >= count)]


@rule(
    "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_nearest1d",
    "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_nearest3d",
    "_upsample_nearest_exact2d",
)  # fmt: skip
def _upsample(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    return [*axes[:2], *(found.spatial(axis, shape[place + 2], operation) for place, axis in enumerate(axes[2:]))]


# --- layers


@rule("linear")
def _linear(found: Propagation, operation: Operation) -> Result | None:
    data, weight, bias = (operation.arguments.get(key) for key in ("input", "weight", "bias"))
    axes, matrix = found.of(data), found.of(weight)
    found.equal(axes[-1], matrix[1], operation)
    if bias is not None:
        found.equal(matrix[0], found.of(bias)[0], operation)
    found.contractions.append(Contraction(matrix[1], ((weight, 1), (data, len(axes) - 1)), operation))
    return [*axes[:-1], matrix[0]]


@rule("addmm")
def _addmm(found: Propagation, operation: Operation) -> Result | None:
    bias, left, right = (operation.arguments[key] for key in ("self", "mat1", "mat2"))
    result = _product_of(found, operation, left, right)
    shape = found.of(bias)
    if shape[-1].size > 1:
        found.equal(result[-1], shape[-1], operation)
    if len(shape) > 1 and shape[0].size > 1:
        found.equal(result[0], shape[0], operation)
    return result


@rule("matmul", "mm", "bmm", "mv", "dot")
def _matmul(found: Propagation, operation: Operation) -> Result | None:
    left, right = operation.inputs
    return _product_of(found, operation, left, right)


def _product_of(found: Propagation, operation: Operation, left: Value, right: Value) -> Axes:
    one, other = found.of(left), found.of(right)
    inner = max(len(other) - 2, 0)
    found.equal(one[-1], other[inner], operation)
    sides = ((right, inner), (left, len(one) - 1))
    found.contractions.append(Contraction(one[-1], sides, operation))
    batch = _batch(found, operation, one[:-2], other[:-2])
    return [*batch, *(one[-2:-1] if len(one) > 1 else []), *(other[-1:] if len(other) > 1 else [])]


def _batch(found: Propagation, operation: Operation, one: Axes, other: Axes) -> Axes:
    rank = max(len(one), len(other))
    one, other = [Fixed(1)] * (rank - len(one)) + one, [Fixed(1)] * (rank - len(other)) + other
    for left, right in zip(one, other, strict=True):
        if left.size > 1 and right.size > 1:
            found.equal(left, right, operation)
    return [found.solver.resolve(right if left.size == 1 else left) for left, right in zip(one, other, strict=True)]


@rule("scaled_dot_product_attention")
def _attention(found: Propagation, operation: Operation) -> Result | None:
    query, key, value = (found.of(operation.arguments[name]) for name in ("query", "key", "value"))
    batch = _batch(found, operation, _batch(found, operation, query[:-2], key[:-2]), value[:-2])
    found.fix([query[-2], key[-2], value[-2]], "softmax is taken over it", operation)
    found.equal(query[-1], key[-1], operation)
    sides = tuple((operation.arguments[name], len(query) - 1) for name in ("query", "key"))
    # The product of query and key is divided by the root of their width.
    rooted = operation.arguments.get("scale") is None
    found.contractions.append(Contraction(query[-1], sides, operation, rooted))
    mask = operation.arguments.get("attn_mask")
    if mask is not None:
        scores = [*batch, Fixed(query[-2].size), Fixed(key[-2].size)]
        for one, other in zip(reversed(scores), reversed(found.of(mask)), strict=False):
            if one.size > 1 and other.size > 1:
                found.equal(one, other, operation)
    return [*(found.solver.resolve(axis) for axis in batch), Fixed(query[-2].size), found.solver.resolve(value[-1])]


@rule("einsum")
def _einsum(found: Propagation, operation: Operation) -> Result | None:
    values = operation.inputs
    left, _, right = operation.arguments["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in left or not right or len(values) != len(terms) or any(len(set(term)) != len(term) for term in terms):
        return None
    letters: dict[str, Axis] = {}
    for value, term in zip(values, terms, strict=True):
        for axis, letter in zip(found.of(value), term, strict=True):
            if letter in letters and letters[letter].size > 1 and axis.size > 1:
                found.equal(letters[letter], axis, operation)
            elif letter not in letters or axis.size > 1:
                letters[letter] = axis
    for letter, axis in letters.items():
        if letter not in right:
            sides = [(value, term.index(letter)) for value, term in zip(values, terms, strict=True) if letter in term]
            found.contractions.append(Contraction(axis, tuple(reversed(sides)), operation))
    return [found.solver.resolve(letters[letter]) for letter in right]


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _conv(found: Propagation, operation: Operation) -> Result | None:
    if operation.arguments.get("transposed"):
        return None
    data, weight, bias = (operation.arguments.get(key) for key in ("input", "weight", "bias"))
    axes, kernel, shape = found.of(data), found.of(weight), operation.result.shape or ()
    spatial = len(kernel) - 2
    channels = len(axes) - spatial - 1
    inside = _grouped(found, operation, axes[channels], kernel[0], kernel[1], operation.arguments["groups"])
    found.fix(kernel[2:], "it is the size of a kernel", operation)
    found.contractions.append(Contraction(inside, ((weight, 1), (data, channels)), operation))
    if bias is not None:
        found.equal(kernel[0], found.of(bias)[0], operation)
    positions = [
        # A kernel of one entry looks at no neighbours.
        axis
        if kernel[2 + at].size == 1 and axis.size == shape[channels + 1 + at]
        else found.spatial(axis, shape[channels + 1 + at], operation)
        for at, axis in enumerate(axes[channels + 1 :])
    ]
    return [*axes[:channels], found.solver.resolve(kernel[0]), *positions]


def _grouped(found: Propagation, operation: Operation, inputs: Axis, out: Axis, inside: Axis, groups: int) -> Axis:
    """Tie the channels that a convolution reads and writes; the axis that it sums over."""
    if groups == 1:
        found.equal(inputs, inside, operation)
        return inside
    blocks = found.solver.group(groups)
    found.equal(inputs, product((blocks, inside)), operation)
    found.equal(out, product((blocks, found.solver.group(out.size // groups))), operation)
    return inside


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(found: Propagation, operation: Operation) -> Result | None:
    data, weight, bias = (operation.arguments.get(key) for key in ("input", "weight", "bias"))
    axes, kernel, shape = found.of(data), found.of(weight), operation.result.shape or ()
    groups = operation.arguments["groups"]
    channels = len(axes) - len(kernel) + 1
    found.fix(kernel[2:], "it is the size of a kernel", operation)
    found.equal(axes[channels], kernel[0], operation)
    blocks = found.solver.group(groups) if groups > 1 else Fixed(1)
    inside = found.solver.group(kernel[0].size // groups)
    found.equal(kernel[0], product((blocks, inside)), operation)
    out = product((blocks, kernel[1]))
    if bias is not None:
        found.equal(out, found.of(bias)[0], operation)
    found.contractions.append(Contraction(inside, ((weight, 0), (data, channels)), operation))
    positions = [found.spatial(axis, shape[channels + 1 + at], operation) for at, axis in enumerate(axes[channels + 1 :])]
    return [*axes[:channels], found.solver.resolve(out), *positions]


@rule("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(found: Propagation, operation: Operation) -> Result | None:
    data = operation.arguments["input"]
    axes = found.of(data)
    for key in ("weight", "bias", "running_mean", "running_var"):
        if operation.arguments.get(key) is not None:
            found.equal(axes[1], found.of(operation.arguments[key])[0], operation)
    if operation.arguments.get("training"):
        for place, axis in enumerate(axes):
            if place != 1:
                found.uniform.append((axis, f"batch normalisation in {operation.module} is taken over it"))
    return found.of(data) if operation.result.shape is not None else None


@rule("layer_norm", "rms_norm")
def _layer_norm(found: Propagation, operation: Operation) -> Result | None:
    data, shape = operation.arguments["input"], operation.arguments["normalized_shape"]
    axes = found.of(data)
    over = axes[len(axes) - len(shape) :]
    for key in ("weight", "bias"):
        if operation.arguments.get(key) is not None:
            for one, other in zip(over, found.of(operation.arguments[key]), strict=True):
                found.equal(one, other, operation)
    found.uniform.append((product(over), f"{operation.name} in {operation.module or 'the network'} is taken over it"))
    return found.of(data)


@rule("group_norm")
def _group_norm(found: Propagation, operation: Operation) -> Result | None:
    data, groups = operation.arguments["input"], operation.arguments["num_groups"]
    axes = found.of(data)
    inside = found.solver.group(axes[1].size // groups)
    whole = product((found.solver.group(groups) if groups > 1 else Fixed(1), inside))
    found.equal(axes[1], whole, operation)
    for key in ("weight", "bias"):
        if operation.arguments.get(key) is not None:
            found.equal(axes[1], found.of(operation.arguments[key])[0], operation)
    over = product((inside, *axes[2:]))
    found.uniform.append((over, f"group_norm in {operation.module or 'the network'} is taken over it"))
    return found.of(data)

"""Rules of the operations that change or make shapes: what becomes of axes, entry by entry."""

from __future__ import annotations

from kzoo.graph.axes import Fixed, product, total
from kzoo.graph.program import Operation, Value
from kzoo.graph.propagation import Axes, Propagation, Result, cut, place_of, rule


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full")
def _created(found: Propagation, operation: Operation) -> Result | None:
    return [found.solver.group(size) if size > 1 else Fixed(1) for size in operation.result.shape or ()]


@rule(
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "reshape_as",
    "view_as",
    "_unsafe_view",
    "squeeze",
    "unsqueeze",
    "pixel_shuffle",
)
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
    return [axes[place_of(place, len(axes))] for place in operation.arguments["dims"]]


@rule("transpose", "swapaxes", "swapdims", "t", "mT", "adjoint")
def _transpose(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    if len(axes) < 2:
        return axes
    names = ("axis0", "axis1") if operation.name == "swapaxes" else ("dim0", "dim1")
    one, other = (
        place_of(operation.arguments.get(name, default), len(axes))
        for name, default in zip(names, (-2, -1), strict=True)
    )
    axes[one], axes[other] = axes[other], axes[one]
    return axes


@rule("numpy_T")
def _reversed(found: Propagation, operation: Operation) -> Result | None:
    return found.of(operation.inputs[0])[::-1]


@rule("movedim", "moveaxis")
def _movedim(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    given = (operation.arguments[key] for key in ("source", "destination"))
    source, target = ([item] if isinstance(item, int) else item for item in given)
    rank = len(axes)
    fixed = {place_of(to, rank): axes[place_of(at, rank)] for at, to in zip(source, target, strict=True)}
    rest = iter(axis for place, axis in enumerate(axes) if place not in {place_of(at, rank) for at in source})
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
    place = place_of(operation.arguments["dim"], len(tensors[0]))
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
    result.insert(place_of(operation.arguments["dim"], len(result) + 1), Fixed(len(tensors), "tensors are stacked"))
    return result


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split")
def _split(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    place = place_of(operation.arguments["dim"], len(axes))
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
    pieces = cut(found, operation, axes[place], sizes)
    return [[*axes[:place], piece, *axes[place + 1 :]] for piece in pieces]


def _steps(size: int, step: int) -> list[int]:
    return [min(step, size - start) for start in range(0, size, step)]


@rule("unbind")
def _unbind(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    place = place_of(operation.arguments["dim"], len(axes))
    return [_selected(found, operation, axes, place, index) for index in range(axes[place].size)]


@rule("select")
def _select(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    return _selected(found, operation, axes, place_of(operation.arguments["dim"], len(axes)), 0)


def _selected(found: Propagation, operation: Operation, axes: Axes, place: int, index: int) -> Axes:
    found.fix([axes[place]], f"{operation.name} takes single entries of it", operation)
    return [*axes[:place], *axes[place + 1 :]]


@rule("slice", "narrow")
def _slice(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    place = place_of(operation.arguments["dim"], len(axes))
    axis, size = axes[place], axes[place].size
    if shape[place] == size:
        return axes
    if not found.has_groups(axis):
        axes[place] = Fixed(shape[place], "positions")
        return axes
    if operation.arguments.get("step", 1) != 1:
        axes[place] = found.spatial(axis, shape[place], operation)
        return axes
    start = operation.arguments.get("start") or 0
    start = start + size if start < 0 else start
    sizes = [start, shape[place], size - start - shape[place]]
    axes[place] = cut(found, operation, axis, [size for size in sizes if size])[1 if start else 0]
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
    place = place_of(operation.arguments["dimension"], len(axes))
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
    place = place_of(operation.arguments["dim"], len(axes))
    if operation.name == "gather":
        return None
    found.fix([axes[place], *found.of(operation.arguments["index"])], "its entries are looked up", operation)
    return [*axes[:place], Fixed(shape[place], "positions"), *axes[place + 1 :]]


@rule("embedding")
def _embedding(found: Propagation, operation: Operation) -> Result | None:
    table, looked_up = found.of(operation.arguments["weight"]), found.of(operation.arguments["indices"])
    found.fix([table[0]], "its entries are looked up", operation)
    return [*looked_up, table[1]]


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
    return [
        *axes[:count],
        *(found.spatial(axis, shape[place], operation) for place, axis in enumerate(axes) if place >= count),
    ]


@rule(
    "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_nearest1d",
    "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_nearest3d",
    "_upsample_nearest_exact2d",
)  # fmt: skip
def _upsample(found: Propagation, operation: Operation) -> Result | None:
    axes, shape = found.of(operation.inputs[0]), operation.result.shape or ()
    return [*axes[:2], *(found.spatial(axis, shape[place + 2], operation) for place, axis in enumerate(axes[2:]))]

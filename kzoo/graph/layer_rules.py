"""Rules of the operations with weights, of products of activations, and of normalisations."""

from __future__ import annotations

from kzoo.graph.axes import Axis, Fixed, product
from kzoo.graph.program import Operation, Value
from kzoo.graph.propagation import Axes, Contraction, Propagation, Result, rule


@rule("linear")
def _linear(found: Propagation, operation: Operation) -> Result | None:
    data, weight, bias = operation.given("input", "weight", "bias")
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
    data, weight, bias = operation.given("input", "weight", "bias")
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
    data, weight, bias = operation.given("input", "weight", "bias")
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
    positions = [
        found.spatial(axis, shape[channels + 1 + at], operation) for at, axis in enumerate(axes[channels + 1 :])
    ]
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

"""Rules of elementwise operations and reductions."""

from __future__ import annotations

from collections.abc import Sequence

from kzoo.graph.axes import Fixed, product
from kzoo.graph.program import Operation
from kzoo.graph.propagation import Axes, Contraction, Propagation, Result, broadcast, cut, place_of, places_of, rule


# torch does not tag these as elementwise; "pointwise" is what it tags.
@rule("copy", "masked_fill", "where", "type_as", "hardswish", "rsub", "log_sigmoid", "special_expit", "pointwise")
def _pointwise(found: Propagation, operation: Operation) -> Result | None:
    values = [value for value in operation.inputs if value.shape is not None]
    if operation.name == "type_as":
        values = values[:1]
    return broadcast(found, operation, values) if values else None


@rule(
    "contiguous", "clone", "detach", "alias", "to", "dropout", "lift_fresh_copy", "lift_fresh", "_to_copy", "feature_dropout",
    "alpha_dropout", "requires_grad", "positive", "zero", "fill",
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
    place = place_of(operation.arguments["dim"], len(axes))
    halves = cut(found, operation, axes[place], [axes[place].size // 2] * 2)
    found.equal(halves[0], halves[1], operation)
    return [*axes[:place], halves[0], *axes[place + 1 :]]


@rule("softmax", "log_softmax", "_softmax", "cumsum", "logsumexp")
def _along(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    found.fix([axes[place_of(operation.arguments["dim"], len(axes))]], f"{operation.name} is taken over it", operation)
    return found.of(operation.inputs[0])


@rule("roll", "flip")
def _moved(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    for place in places_of(operation.arguments["dims"], len(axes)):
        found.fix([axes[place]], f"{operation.name} moves entries along it", operation)
    return found.of(operation.inputs[0])


def _reduced(found: Propagation, operation: Operation, axes: Axes, places: Sequence[int]) -> Axes:
    if operation.arguments.get("keepdim"):
        return [Fixed(1) if place in places else axis for place, axis in enumerate(axes)]
    return [axis for place, axis in enumerate(axes) if place not in places]


@rule("mean", "var", "std", "var_mean", "std_mean")
def _mean(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    places = places_of(operation.arguments.get("dim"), len(axes))
    over = product(axes[place] for place in places)
    biased = operation.name == "mean" or not operation.arguments.get(
        "correction", operation.arguments.get("unbiased", 1)
    )
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
    places = places_of(operation.arguments.get("dim"), len(axes))
    for place in places:
        found.contractions.append(Contraction(axes[place], ((data, place),), operation))
    return _reduced(found, operation, axes, places)


@rule("linalg_vector_norm", "prod", "norm")
def _norm(found: Propagation, operation: Operation) -> Result | None:
    axes = found.of(operation.inputs[0])
    places = places_of(operation.arguments.get("dim"), len(axes))
    for place in places:
        found.fix([axes[place]], f"{operation.name} is taken over it", operation)
    return _reduced(found, operation, found.of(operation.inputs[0]), places)


@rule("amax", "amin", "max", "min")
def _extreme(found: Propagation, operation: Operation) -> Result | None:
    if len(operation.inputs) == 2:
        return _pointwise(found, operation)
    axes = found.of(operation.inputs[0])
    places = places_of(operation.arguments.get("dim"), len(axes))
    # Copies change no extreme; its place they do.
    result = _reduced(found, operation, axes, places)
    return [result, list(result)] if operation.result.shape is None else result

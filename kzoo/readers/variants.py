"""One architecture in all the forms that its checkpoints need: their own heads and input sizes."""

from __future__ import annotations

from dataclasses import dataclass

from kzoo.layers import Architecture, Layer


@dataclass(frozen=True)
class Variant:
    """An architecture as built for some checkpoints.

    ``tags`` are those checkpoints; the empty tag stands for the architecture's default. ``heads`` are the places, among
    ``architecture.layers``, of the layers whose output axis is the number of classes; None where changing the number
    of classes changes more than that. ``parameters_per_class`` is what one more class adds to the parameters.
    """

    architecture: Architecture
    tags: tuple[str, ...]
    heads: tuple[int, ...] | None = None
    parameters_per_class: int = 0


def head_layers(architecture: Architecture, one_more: Architecture) -> tuple[int, ...] | None:
    """Places of the layers that grow by one output when the network is built for one more class.

    ``one_more`` is the same network with one class more. None where the two differ in anything else.
    """
    before, after = architecture.layers, one_more.layers
    if [path for path, _ in architecture.paths()] != [path for path, _ in one_more.paths()]:
        return None
    # A parameter that the extended measure sees may depend on the class count too.
    ours, theirs = architecture.extended.layers, one_more.extended.layers
    heads = {layer.name for layer, other in zip(before, after, strict=True) if layer != other}
    if len(ours) != len(theirs) or any(
        layer != other and layer.name not in heads for layer, other in zip(ours, theirs, strict=True)
    ):
        return None
    changed = tuple(place for place, (ours, theirs) in enumerate(zip(before, after, strict=True)) if ours != theirs)
    grown = all(
        before[place].typed and after[place] == resized(before[place], before[place].shape[0] + 1) for place in changed
    )
    return changed if changed and grown else None


def resized(layer: Layer, outputs: int) -> Layer:
    """``layer`` with another number of outputs."""
    return Layer(layer.kind, (outputs, *layer.shape[1:]), layer.name, layer.bias)

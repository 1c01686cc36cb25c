"""Put a head of another size on an architecture, where that changes nothing else."""

from __future__ import annotations

from collections.abc import Collection

from kzoo.index import Form
from kzoo.layers import Architecture, Item, Layer
from kzoo.readers.variants import resized


def with_classes(architecture: Architecture, form: Form, classes: int) -> Architecture:
    """The architecture with heads of ``classes`` outputs, as its library would build it; the form must know its heads."""
    assert form.heads is not None
    heads = [architecture.layers[place] for place in form.heads]
    names = {layer.name for layer in heads}
    growth = form.parameters_per_class * (classes - heads[0].shape[0])
    return Architecture(
        _resized_items(architecture.items, names, classes),
        architecture.name,
        form.parameters + growth,
        architecture.approximate,
        lambda: _resized_items(architecture.extended.items, names, classes),
    )


def _resized_items(items: tuple[Item, ...], names: Collection[str], classes: int) -> tuple[Item, ...]:
    def new(layer: Layer) -> Layer:
        return resized(layer, classes) if layer.name in names and layer.typed else layer

    return tuple(new(item) if isinstance(item, Layer) else tuple(map(new, item)) for item in items)

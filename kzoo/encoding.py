"""Architectures as integer arrays: layers and blocks that occur more than once are stored, and scored, once.

Nothing but names is lost: `decode` gives the architectures back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from kzoo.layers import TYPED_KINDS, WEIGHT_AXES, Architecture, Block, Item, Layer

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

_KIND_CODES = {kind: code for code, kind in enumerate(TYPED_KINDS)}
#: The group of blocks in a sequence of items; layers are grouped by the code of their kind.
BLOCK_GROUP = len(TYPED_KINDS)
_MOST_AXES = max(WEIGHT_AXES.values())
_OPAQUE = Layer("other")


@dataclass(frozen=True)
class Sequences:
    """Lists of elements that can score, one after the other; sequence i is ``start[i]:start[i + 1]``.

    ``unit`` says which layer or block an element is, ``position`` its place in the full list of ``length[i]`` elements,
    ``group`` what it can match at all.
    """

    start: Ints
    length: Ints
    unit: Ints
    position: Ints
    group: Ints

    def __len__(self) -> int:
        return len(self.start) - 1

    @cached_property
    def longest(self) -> int:
        """Elements in the longest sequence."""
        return int(np.diff(self.start).max(initial=0))

    @cached_property
    def run_steps(self) -> Floats:
        """Per group: an upper bound of the kernel's innermost steps for one source element of that group.

        The loop visits an element and all before it in its group, so n elements of a group take n (n + 1) / 2 steps.
        """
        sequence = np.repeat(np.arange(len(self)), np.diff(self.start))
        counts = np.zeros((len(self), BLOCK_GROUP + 1))
        np.add.at(counts, (sequence, self.group), 1)
        return np.asarray((counts * (counts + 1) / 2).sum(axis=0))

    def places(self, sequence: int) -> range:
        """Places of a sequence's elements in the arrays."""
        return range(int(self.start[sequence]), int(self.start[sequence + 1]))


@dataclass(frozen=True)
class Encoding:
    """Architectures over shared tables of unique layers and unique blocks.

    A unit below ``len(kinds)`` is a layer, the others are blocks. ``shapes`` is padded with 1, which leaves a product
    of ratios as it is; ``biases`` is 1 where a layer has one. ``typed[i]`` is the number of typed layers of
    architecture i.
    """

    kinds: Ints
    shapes: Ints
    biases: Ints
    blocks: Sequences
    items: Sequences
    typed: Ints

    def __len__(self) -> int:
        return len(self.items)

    @property
    def units(self) -> int:
        """Unique layers and blocks together."""
        return len(self.kinds) + len(self.blocks)

    @cached_property
    def longest_run(self) -> int:
        """The longest run of elements that a match can span, elements that cannot score included."""
        return 1 + max(int(sequences.position.max(initial=0)) for sequences in (self.blocks, self.items))

    def layer(self, unit: int) -> Layer:
        """The layer that ``unit`` stands for, without a name."""
        kind = TYPED_KINDS[self.kinds[unit]]
        return Layer(kind, tuple(self.shapes[unit, : WEIGHT_AXES[kind]].tolist()), bias=bool(self.biases[unit]))


class _SequencesBuilder:
    def __init__(self) -> None:
        self.start, self.length = [0], list[int]()
        self.rows: list[tuple[int, int, int]] = []

    def append(self, elements: Iterable[tuple[int, int, int]], length: int) -> None:
        """Add a sequence of (unit, position, group)."""
        self.rows.extend(elements)
        self.start.append(len(self.rows))
        self.length.append(length)

    def build(self, block_offset: int = 0) -> Sequences:
        columns = np.array(self.rows, dtype=np.int32).reshape(-1, 3)
        unit, position, group = (np.ascontiguousarray(column) for column in columns.T)
        unit[group == BLOCK_GROUP] += block_offset
        start, length = np.array(self.start, dtype=np.int32), np.array(self.length, dtype=np.int32)
        return Sequences(start, length, unit, position, group)


def encode(architectures: Sequence[Architecture]) -> Encoding:
    """Encode ``architectures``, in this order."""
    layers: dict[tuple[str, tuple[int, ...], bool], int] = {}
    blocks: dict[tuple[tuple[tuple[int, int, int], ...], int], int] = {}
    items = _SequencesBuilder()

    def layer_element(layer: Layer, position: int) -> tuple[int, int, int]:
        key = (layer.kind, layer.shape, layer.bias)
        return layers.setdefault(key, len(layers)), position, _KIND_CODES[layer.kind]

    def block_element(block: Block, position: int) -> tuple[int, int, int]:
        elements = tuple(layer_element(layer, place) for place, layer in enumerate(block) if layer.typed)
        return blocks.setdefault((elements, len(block)), len(blocks)), position, BLOCK_GROUP

    for architecture in architectures:
        elements = (
            layer_element(item, position) if isinstance(item, Layer) else block_element(item, position)
            for position, item in enumerate(architecture.items)
            if not isinstance(item, Layer) or item.typed
        )
        items.append(elements, len(architecture.items))
    inner = _SequencesBuilder()
    for block, length in blocks:
        inner.append(block, length)
    shapes = np.ones((len(layers), _MOST_AXES), dtype=np.int32)
    for row, (_, shape, _) in zip(shapes, layers, strict=True):
        row[: len(shape)] = shape
    return Encoding(
        kinds=np.array([_KIND_CODES[kind] for kind, _, _ in layers], dtype=np.int32),
        shapes=shapes,
        biases=np.array([bias for _, _, bias in layers], dtype=np.int32),
        blocks=inner.build(),
        items=items.build(block_offset=len(layers)),
        typed=np.array([architecture.typed_layers for architecture in architectures], dtype=np.int32),
    )


@lru_cache(maxsize=256)
def encode_one(architecture: Architecture) -> Encoding:
    """The encoding of a single architecture, kept for the next call."""
    return encode([architecture])


def decode(encoding: Encoding, index: int) -> tuple[Item, ...]:
    """The items of one architecture, without names."""
    items: list[Item] = [_OPAQUE] * int(encoding.items.length[index])
    for place in encoding.items.places(index):
        unit = int(encoding.items.unit[place])
        is_layer = unit < len(encoding.kinds)
        item = encoding.layer(unit) if is_layer else _decode_block(encoding, unit - len(encoding.kinds))
        items[encoding.items.position[place]] = item
    return tuple(items)


def _decode_block(encoding: Encoding, block: int) -> Block:
    layers = [_OPAQUE] * int(encoding.blocks.length[block])
    for place in encoding.blocks.places(block):
        layers[encoding.blocks.position[place]] = encoding.layer(int(encoding.blocks.unit[place]))
    return tuple(layers)


def layer_scores(target: Encoding, source: Encoding) -> Floats:
    """Score of every unique layer of ``target`` (rows) with every one of ``source`` (columns), section 1.3.

    The product over weight axes of min(a/b, b/a) where the kinds agree, 0 elsewhere.
    """
    scores = np.zeros((len(target.kinds), len(source.kinds)))
    for kind in np.intersect1d(target.kinds, source.kinds):
        rows, columns = np.flatnonzero(target.kinds == kind), np.flatnonzero(source.kinds == kind)
        product = np.ones((len(rows), len(columns)))
        for axis in range(WEIGHT_AXES[TYPED_KINDS[kind]]):
            ours = target.shapes[rows, axis, None].astype(np.float64)
            theirs = source.shapes[None, columns, axis].astype(np.float64)
            product *= np.minimum(ours / theirs, theirs / ours)
        scores[np.ix_(rows, columns)] = product
    return scores

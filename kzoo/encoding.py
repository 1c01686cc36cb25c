"""Architectures as integer arrays: layers and blocks that occur more than once are stored, and scored, once.

Nothing but names is lost: `decode` gives the architectures back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from kzoo.layers import MOST_SIZE, TYPED_KINDS, WEIGHT_AXES, Architecture, Block, Item, Layer

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

_KIND_CODES = {kind: code for code, kind in enumerate(TYPED_KINDS)}
#: The group of blocks in a sequence of items; layers are grouped by the code of their kind.
BLOCK_GROUP = len(TYPED_KINDS)
_PADDING = (1,) * max(WEIGHT_AXES.values())
_OPAQUE = Layer("other")
# No network has as many modules; the tables of a search have an entry for each.
_MOST_ITEMS = 10_000_000


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
    def group_sizes(self) -> Floats:
        """How many elements there are of each group."""
        return np.bincount(self.group, minlength=BLOCK_GROUP + 1).astype(np.float64)

    @cached_property
    def run_steps(self) -> Floats:
        """Per group: an upper bound of the kernel's innermost steps for one source element of that group.

        The loop visits an element and all before it in its group, so n elements of a group take n (n + 1) / 2 steps.
        """
        groups = BLOCK_GROUP + 1
        sequence = np.repeat(np.arange(len(self)), np.diff(self.start))
        counts = np.bincount(sequence * groups + self.group, minlength=len(self) * groups).reshape(-1, groups)
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

    @cached_property
    def by_kind(self) -> dict[int, tuple[Ints, Floats]]:
        """Units of the layers of each kind, and the sizes of their weights, a row per axis."""
        found = {}
        for kind in np.flatnonzero(np.bincount(self.kinds)).tolist():
            units = np.flatnonzero(self.kinds == kind)
            axes = WEIGHT_AXES[TYPED_KINDS[kind]]
            found[kind] = units.astype(np.int32), np.ascontiguousarray(self.shapes[units, :axes].T, dtype=np.float64)
        return found

    def layer(self, unit: int) -> Layer:
        """The layer that ``unit`` stands for, without a name."""
        kind = TYPED_KINDS[self.kinds[unit]]
        return Layer(kind, tuple(self.shapes[unit, : WEIGHT_AXES[kind]].tolist()), bias=bool(self.biases[unit]))


class _SequencesBuilder:
    def __init__(self) -> None:
        self.start, self.length = [0], list[int]()
        self.unit, self.position, self.group = list[int](), list[int](), list[int]()

    def append(self, elements: Iterable[tuple[int, int, int]], length: int) -> None:
        """Add a sequence of (unit, position, group)."""
        for unit, position, group in elements:
            self.unit.append(unit)
            self.position.append(position)
            self.group.append(group)
        self.start.append(len(self.unit))
        self.length.append(length)

    def build(self, block_offset: int = 0) -> Sequences:
        columns = (self.start, self.length, self.unit, self.position, self.group)
        start, length, unit, position, group = (np.array(column, dtype=np.int32) for column in columns)
        unit[group == BLOCK_GROUP] += block_offset
        return Sequences(start, length, unit, position, group)


def encode(architectures: Sequence[Architecture]) -> Encoding:
    """Encode ``architectures``, in this order."""
    layers: dict[tuple[str, tuple[int, ...], bool], int] = {}
    blocks: dict[tuple[tuple[tuple[int, int, int], ...], int], int] = {}
    items = _SequencesBuilder()

    def elements(row: Sequence[Item]) -> Iterator[tuple[int, int, int]]:
        for position, item in enumerate(row):
            if isinstance(item, tuple):
                block = tuple(elements(item)), len(item)
                yield blocks.setdefault(block, len(blocks)), position, BLOCK_GROUP
            elif (kind := item.kind) != "other":
                yield layers.setdefault((kind, item.shape, item.bias), len(layers)), position, _KIND_CODES[kind]

    for architecture in architectures:
        items.append(elements(architecture.items), len(architecture.items))
    inner = _SequencesBuilder()
    for block, length in blocks:
        inner.append(block, length)
    shapes = [(*shape, *_PADDING[len(shape) :]) for _, shape, _ in layers]
    return Encoding(
        kinds=np.array([_KIND_CODES[kind] for kind, _, _ in layers], dtype=np.int32),
        shapes=np.array(shapes, dtype=np.int32).reshape(-1, len(_PADDING)),
        biases=np.array([bias for _, _, bias in layers], dtype=np.int32),
        blocks=inner.build(),
        items=items.build(block_offset=len(layers)),
        typed=np.array([architecture.typed_layers for architecture in architectures], dtype=np.int32),
    )


def require_sound(encoding: Encoding) -> None:
    """Raise ValueError where numbers point nowhere: compiled code would follow them out of its arrays."""
    kinds, shapes = encoding.kinds, encoding.shapes
    architectures = len(encoding.items)
    sound = (
        shapes.shape == (len(kinds), len(_PADDING))
        and encoding.biases.shape == kinds.shape
        and encoding.typed.shape == (architectures,)
        and _within(kinds, 0, BLOCK_GROUP)
        and _within(shapes, 1, MOST_SIZE + 1)
        and _within(encoding.typed, 0, MOST_SIZE)
        and all(_sound_sequences(sequences, encoding) for sequences in (encoding.blocks, encoding.items))
        and not np.any(encoding.blocks.group == BLOCK_GROUP)
    )
    if not sound:
        raise ValueError("its arrays contradict one another")


def _sound_sequences(sequences: Sequences, encoding: Encoding) -> bool:
    start, unit, position, group = sequences.start, sequences.unit, sequences.position, sequences.group
    count = len(unit)
    if not (start.ndim == 1 and len(start) and start[0] == 0 and start[-1] == count and np.all(np.diff(start) >= 0)):
        return False
    if not (position.shape == group.shape == unit.shape == (count,) and sequences.length.shape == (len(start) - 1,)):
        return False
    owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
    layers = group < BLOCK_GROUP
    return bool(
        _within(unit, 0, encoding.units)
        and _within(group, 0, BLOCK_GROUP + 1)
        and _within(sequences.length, 0, _MOST_ITEMS)
        and np.all(position >= 0)
        and np.all(position < sequences.length[owner])
        and np.all((np.diff(position) > 0) | (np.diff(owner) > 0))
        and np.all(layers == (unit < len(encoding.kinds)))
        and np.all(encoding.kinds[unit[layers]] == group[layers])
    )


def _within(values: Ints, least: int, end: int) -> bool:
    return bool(np.all((values >= least) & (values < end)))


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
    """Score of every unique unit of ``target`` (rows) with every one of ``source`` (columns), section 1.3.

    The product over weight axes of min(a/b, b/a) for two layers of a kind, 0 elsewhere; blocks are left at 0.
    """
    scores = np.zeros((target.units, source.units))
    for kind, (rows, sizes) in target.by_kind.items():
        if kind in source.by_kind:
            columns, sizes_there = source.by_kind[kind]
            ours, theirs = sizes[:, :, None], sizes_there[:, None, :]
            # The smaller over the larger size is the same number as min(a/b, b/a), with one division.
            ratios = np.minimum(ours, theirs)
            ratios /= np.maximum(ours, theirs)
            scores[rows[:, None], columns] = np.multiply.reduce(ratios, axis=0)
    return scores

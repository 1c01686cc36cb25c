"""What a network looks like with its weights forgotten: layers, architectures, fingerprints.

Plain data: nothing here imports torch. Layer kinds and the meaning of an item follow section 1.1 and 1.2 of the DPIAT
notes (arXiv 2212.13970): a *typed* layer has a weight that can be matched, everything else is kept as ``other``. The
paper types the kinds of `PAPER_KINDS` only; our ``extended`` measure adds those of `EXTENDED_KINDS`, in a list of items
of its own, so that the paper's numbers stay the paper's.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from kzoo.errors import InputError

#: Number of weight axes of every typed kind.
WEIGHT_AXES = {
    "conv1d": 3,
    "conv2d": 4,
    "conv3d": 5,
    "conv_transpose1d": 3,
    "conv_transpose2d": 4,
    "conv_transpose3d": 5,
    "bn1d": 1,
    "bn2d": 1,
    "bn3d": 1,
    "linear": 2,
    "layer_norm": 1,
    "group_norm": 1,
    "rms_norm": 1,
    "embedding": 2,
    "parameter1d": 1,
    "parameter2d": 2,
    "parameter3d": 3,
}
TYPED_KINDS = tuple(WEIGHT_AXES)
#: Kinds that only the ``extended`` measure types; ``parameter`` kinds are weights that a container holds itself.
EXTENDED_KINDS = TYPED_KINDS[TYPED_KINDS.index("layer_norm") :]
PAPER_KINDS = TYPED_KINDS[: -len(EXTENDED_KINDS)]
#: The largest size of an axis: the index and the matching keep sizes in 32 bits.
MOST_SIZE = 2**31 - 1
KINDS = (*TYPED_KINDS, "other")
#: Typed kinds that make a container a block: of the paper's all but batch normalisation (section 1.1).
DIMENSIONAL_KINDS = frozenset({*(kind for kind in PAPER_KINDS if not kind.startswith("bn")), "embedding"})
_WITHOUT_BIAS = frozenset(kind for kind in EXTENDED_KINDS if kind == "embedding" or kind.startswith("parameter"))


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its kind, the shape of its weight and its name in the network.

    ``shape`` is the weight's, in torch's axis order: (out, in/groups, kh, kw) for ``conv2d``, (out, in) for ``linear``,
    (channels,) for a normalisation. ``other`` layers are never matched; their shape may be empty. ``bias`` tells
    whether there is a bias (beta) beside the weight, as torch has by default; an embedding or a parameter has none.

    Raises:
        InputError: the kind is unknown, or the shape is not that of such a weight.
    """

    kind: str
    shape: tuple[int, ...] = ()
    name: str = ""
    bias: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"layer kind {self.kind!r} is unknown: expected one of {', '.join(KINDS)}")
        try:
            shape = tuple(operator.index(size) for size in self.shape)
        except TypeError:
            raise InputError(
                f"layer {self.name or self.kind}: shape {self.shape!r} is not a sequence of integers"
            ) from None
        object.__setattr__(self, "shape", shape)
        if self.typed and (len(shape) != WEIGHT_AXES[self.kind] or min(shape) < 1 or max(shape) > MOST_SIZE):
            raise InputError(
                f"layer {self.name or self.kind}: a {self.kind} weight has {WEIGHT_AXES[self.kind]} axes "
                f"of size 1 to {MOST_SIZE}, not the shape {shape}"
            )

    @property
    def typed(self) -> bool:
        """Whether this layer can be matched at all."""
        return self.kind != "other"

    @property
    def bias_entries(self) -> int:
        """Entries of the bias (beta), 0 where there is none: one per output channel or feature."""
        if not (self.typed and self.bias) or self.kind in _WITHOUT_BIAS:
            return 0
        # A transposed convolution's weight is (in, out/groups, ...): the second axis is the output's, exactly so only
        # where there is one group; the shape does not tell how many.
        return self.shape[1 if self.kind.startswith("conv_transpose") else 0]

    @property
    def entries(self) -> int:
        """Weight and bias entries (gamma and beta for batch normalisation); 0 for ``other``."""
        return math.prod(self.shape) + self.bias_entries if self.typed else 0


Block = tuple[Layer, ...]
Item = Layer | Block


@dataclass(frozen=True)
class Architecture:
    """An ordered list of items, each a layer or a block (a flat tuple of layers), already standardized.

    ``parameters`` is the number of learned entries of the whole network where it is known; raw parameters and layers
    of kind ``other`` hold entries that no item tells. ``approximate`` tells that order and layers without weights were
    guessed, as from a file's header. ``extend`` gives the items of the same network as the ``extended`` measure sees
    them. None of these takes part in equality or in the fingerprint.

    Raises:
        InputError: an item is neither a Layer nor a sequence of Layers.
    """

    items: tuple[Item, ...]
    name: str = field(default="", compare=False)
    parameters: int | None = field(default=None, compare=False)
    approximate: bool = field(default=False, compare=False)
    extend: Callable[[], tuple[Item, ...]] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.items, (tuple, list)):
            raise InputError(f"an architecture's items must be a tuple or a list, not {type(self.items).__name__}")
        object.__setattr__(self, "items", tuple(_as_item(item, index) for index, item in enumerate(self.items)))

    def __hash__(self) -> int:
        # Cheap on purpose: caches look an architecture up far more often than two with these counts meet.
        return hash((len(self.items), self.typed_layers))

    def paths(self) -> Iterator[tuple[tuple[int, ...], Layer]]:
        """Every layer with its index path: ``(item,)``, or ``(item, layer in the block)``."""
        for index, item in enumerate(self.items):
            if isinstance(item, Layer):
                yield (index,), item
            else:
                yield from (((index, inner), layer) for inner, layer in enumerate(item))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in order, blocks opened."""
        return tuple(layer for _, layer in self.paths())

    @cached_property
    def typed_layers(self) -> int:
        """How many layers can be matched: the value of matching the network with itself."""
        return self._kinds.total() - self._kinds["other"]

    @cached_property
    def _kinds(self) -> Counter[str]:
        """How many layers there are of each kind."""
        rows = [item if isinstance(item, tuple) else (item,) for item in self.items]
        return Counter([layer.kind for row in rows for layer in row])

    @cached_property
    def paper(self) -> Architecture:
        """This network as the paper's measures see it: layers of the extended kinds are opaque."""
        if self._kinds.keys().isdisjoint(EXTENDED_KINDS):
            return self
        items = tuple(_opaque(item) if isinstance(item, Layer) else tuple(map(_opaque, item)) for item in self.items)
        return Architecture(items, self.name, self.parameters, self.approximate)

    @cached_property
    def extended(self) -> Architecture:
        """This network as the ``extended`` measure sees it."""
        if self.extend is None:
            return self
        return Architecture(self.extend(), self.name, self.parameters, self.approximate)

    @property
    def entries(self) -> int:
        """Learned entries: ``parameters`` where known, else those of the typed layers."""
        return self.parameters or sum(layer.entries for layer in self.layers)

    @cached_property
    def fingerprint(self) -> str:
        """20 hexadecimal digits that equal architectures share; names do not enter."""
        text = "\n".join(_spell(item) for item in self.items)
        return hashlib.sha256(f"kzoo architecture 1\n{text}".encode()).hexdigest()[:20]


def _opaque(layer: Layer) -> Layer:
    return Layer("other", (), layer.name) if layer.kind in EXTENDED_KINDS else layer


def raw_parameter(shape: tuple[int, ...], name: str) -> Layer:
    """A parameter that a container holds itself, as the ``extended`` measure sees it.

    Axes of size 1 are dropped, so that a token of shape (1, 1, 192) is like a scale of shape (192,); where more than
    three axes are left, the leading ones are merged. A scalar has one axis; an empty parameter is opaque.
    """
    axes = tuple(size for size in shape if size != 1) or (1,)
    axes = (math.prod(axes[:-2]), *axes[-2:]) if len(axes) > 3 else axes
    if not 1 <= min(axes) <= max(axes) <= MOST_SIZE:
        return Layer("other", (), name)
    return Layer(f"parameter{len(axes)}d", axes, name, bias=False)


def overlap(source: Layer, target: Layer) -> int:
    """Entries of ``target`` that the paper's clip overwrites from ``source`` (section 1.6).

    Per weight axis the smaller size counts; a bias counts where both layers have one.
    """
    return math.prod(map(min, source.shape, target.shape)) + min(source.bias_entries, target.bias_entries)


def _as_item(item: object, index: int) -> Item:
    if isinstance(item, Layer):
        return item
    if isinstance(item, (tuple, list)) and item and all(isinstance(layer, Layer) for layer in item):
        return tuple(item)
    raise InputError(
        f"item {index} of an architecture must be a Layer or a non-empty tuple of Layers, not {item!r:.80}"
    )


def _spell(item: Item) -> str:
    if isinstance(item, Layer):
        bias = "+" if item.bias_entries else ""
        return f"{item.kind} {','.join(map(str, item.shape))}{bias}" if item.typed else "other"
    return f"[{'; '.join(_spell(layer) for layer in item)}]"

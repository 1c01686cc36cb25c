"""Match two architectures: value, pairs of layers, similarity and coverage (DPIAT notes, sections 1.3 to 1.5, 2, 3.6).

Plain data in, plain data out. `kzoo.scan` does the same for one target against a whole index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from kzoo.encoding import encode_one
from kzoo.errors import InputError
from kzoo.layers import Architecture
from kzoo.scan import LayerPair, Scan

Measure = Literal["symmetric", "directed", "reverse", "extended"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True)
class Matching:
    """An order-preserving assignment of source layers to target layers.

    ``value`` is D(source -> target), ``reverse_value`` D(target -> source). ``pairs`` holds (source index path, target
    index path, score) per matched target layer, in target order; an index path is ``(item,)``, or ``(item, layer)``
    inside a block. ``overwritten`` counts the target's entries that the paper's clip transfer overwrites. ``source`` and
    ``target`` are the networks as the measure sees them; ``measure`` is ``extended`` where that one matched them.
    """

    source: Architecture
    target: Architecture
    value: float
    reverse_value: float
    pairs: tuple[LayerPair, ...]
    overwritten: int
    measure: Measure = "symmetric"

    @property
    def directed(self) -> float:
        """How much of the target the source covers: D(source -> target) / D(target -> target)."""
        return self.value / self.target.typed_layers

    @property
    def reverse(self) -> float:
        """The directed similarity with the roles exchanged."""
        return self.reverse_value / self.source.typed_layers

    @property
    def symmetric(self) -> float:
        """The symmetric similarity, the paper's unless ``measure`` is ``extended``: the geometric mean of the other two."""
        return symmetric_similarity(self.directed, self.reverse)

    @property
    def coverage(self) -> float:
        """Share of the target's learned entries that the paper's clip transfer overwrites (section 3.6)."""
        return min(1.0, self.overwritten / self.target.entries)


def match(source: Architecture, target: Architecture, measure: Measure = "symmetric") -> Matching:
    """Match the layers of ``source`` to those of ``target``; ``extended`` matches its kinds too, the rest the paper's.

    Raises:
        InputError: one of them has no layer that the measure can see, or the measure is unknown.
    """
    source, target = seen_by(measure, source), seen_by(measure, target)
    scan = Scan(encode_one(target), encode_one(source))
    forward, reverse = scan.forward_values().item(), scan.reverse_values().item()
    return Matching(source, target, forward, reverse, tuple(scan.pairs(0)), scan.overwritten(0), measure)


def similarity(source: Architecture, target: Architecture, measure: Measure = "symmetric") -> float:
    """Similarity in [0, 1]; ``symmetric`` is the paper's, ``directed`` its share of the target (section 2).

    ``extended`` is ours: the symmetric similarity over more kinds of layers.

    Raises:
        InputError: one of them has no layer that the measure can see, or the measure is unknown.
    """
    source, target = seen_by(measure, source), seen_by(measure, target)
    scan = Scan(encode_one(target), encode_one(source))
    if measure == "reverse":
        return scan.reverse_values().item() / source.typed_layers
    directed = scan.forward_values().item() / target.typed_layers
    if measure == "directed":
        return directed
    return symmetric_similarity(directed, scan.reverse_values().item() / source.typed_layers)


def seen_by(measure: Measure, architecture: Architecture) -> Architecture:
    """The architecture as a measure sees it.

    Raises:
        InputError: nothing of it can be seen, which would divide 0 by 0, or the measure is unknown.
    """
    if measure not in MEASURES:
        raise InputError(f"measure {measure!r} is unknown: expected {', '.join(MEASURES)}")
    seen = architecture.extended if measure == "extended" else architecture.paper
    if not seen.typed_layers:
        what = "layer with weights" if measure == "extended" else "convolution, batch normalisation or linear layer"
        raise InputError(
            f"{architecture.name or 'the architecture'} has no {what}, so its similarity to anything is undefined: "
            "give a network with at least one such layer"
        )
    return seen


def symmetric_similarity(directed: float, reverse: float) -> float:
    """sqrt(D(A->B) D(B->A) / (D(A->A) D(B->B))), since D of a network with itself counts its typed layers."""
    return math.sqrt(directed * reverse)

"""Which source layer each target layer receives from: DPIAT's matchings and standardizations (notes, 1.2, 1.4, 1.6).

``dp`` is the paper's method. ``flat`` and ``random`` are the ablations of its code: what is known of them are a line of
description each, so they are reconstructions.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from kzoo.errors import InputError
from kzoo.layers import Architecture, Layer
from kzoo.matching import Measure, match, seen_by

Numbers = NDArray[np.float64]
Kinds = Literal["paper", "extended"]
Standardization = Literal["blocks", "flat"]
MatchingName = Literal["dp", "flat", "random"]
STANDARDIZATIONS: tuple[Standardization, ...] = get_args(Standardization)
MATCHINGS: tuple[MatchingName, ...] = get_args(MatchingName)


class Pair(NamedTuple):
    """A source layer, the target layer that receives from it, and the score of the two in (0, 1]."""

    source: Layer
    target: Layer
    score: float


def pair_layers(
    source: Architecture,
    target: Architecture,
    kinds: Kinds = "paper",
    standardization: Standardization = "blocks",
    matching: MatchingName = "dp",
    seed: int = 0,
) -> list[Pair]:
    """Pairs in the order of the target's layers; a target layer is in one pair at most, a source layer in any number.

    ``kinds`` says which layers count: the paper's, or those of the ``extended`` measure. ``standardization`` matters to
    ``dp`` only, since the other matchings know no blocks; ``seed`` to ``random`` only.

    Raises:
        InputError: a choice is unknown, or a network has no layer that counts.
    """
    for what, choice, known in (
        ("kinds", kinds, get_args(Kinds)),
        ("standardization", standardization, STANDARDIZATIONS),
        ("matching", matching, MATCHINGS),
    ):
        if choice not in known:
            raise InputError(f"{what} {choice!r} is unknown: expected {', '.join(known)}")
    measure: Measure = "extended" if kinds == "extended" else "symmetric"
    source, target = seen_by(measure, source), seen_by(measure, target)
    if matching == "random":
        return _random_pairs(source, target, seed)
    if matching == "flat":
        return _flat_pairs(source, target)
    if standardization == "flat":
        source, target = Architecture(source.layers, source.name), Architecture(target.layers, target.name)
    sources, targets = dict(source.paths()), dict(target.paths())
    found = match(source, target, measure).pairs
    return [Pair(sources[theirs], targets[ours], score) for theirs, ours, score in found]


def _random_pairs(source: Architecture, target: Architecture, seed: int) -> list[Pair]:
    """Layers of one kind in random order, paired as far as both sides have some; each is used once."""
    shuffler = random.Random(seed)
    theirs, ours = _by_kind(source), _by_kind(target)
    partners: dict[int, Layer] = {}
    for kind, layers in ours.items():
        sources = theirs.get(kind, [])
        shuffler.shuffle(sources)
        shuffler.shuffle(layers)
        partners |= {id(layer): partner for layer, partner in zip(layers, sources, strict=False)}
    return [
        Pair(partners[id(layer)], layer, shape_score(partners[id(layer)], layer))
        for layer in target.layers
        if id(layer) in partners
    ]


def _by_kind(architecture: Architecture) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = defaultdict(list)
    for layer in architecture.layers:
        if layer.typed:
            found[layer.kind].append(layer)
    return found


def shape_score(source: Layer, target: Layer) -> float:
    """The paper's score of two layers: per axis the smaller size by the larger; 0 for layers of two kinds (1.3)."""
    if source.kind != target.kind or not source.typed:
        return 0.0
    ratios = [min(a, b) / max(a, b) for a, b in zip(source.shape, target.shape, strict=True)]
    return float(np.prod(ratios))


def _flat_pairs(source: Architecture, target: Architecture) -> list[Pair]:
    """Flat lists; to take source j after source k costs (k - j + 1) / 2 where j <= k, and nothing going forward.

    A target layer that nothing fits, or for which going back costs more than it gives, is skipped.
    """
    sources = [layer for layer in source.layers if layer.typed]
    targets = [layer for layer in target.layers if layer.typed]
    scores = _score_table(sources, targets)
    places = np.arange(len(sources))
    # best[k + 1]: the most that the targets so far give when the last one served took source k; best[0]: none yet.
    best = np.full(len(sources) + 1, -np.inf)
    best[0] = 0.0
    steps = []
    for row in scores:
        forward, earlier = _running_best(best[:-1])
        backward, later = _running_best((best[1:] - (places + 1) / 2)[::-1])
        backward, later = backward[::-1] + places / 2, len(sources) - later[::-1]
        reached = np.where(row > 0, row + np.maximum(forward, backward), -np.inf)
        taken = reached > best[1:]
        steps.append((taken, np.where(forward >= backward, earlier, later)))
        best[1:] = np.where(taken, reached, best[1:])
    state = int(np.argmax(best))
    pairs = []
    for index in range(len(targets) - 1, -1, -1):
        taken, previous = steps[index]
        if state and taken[state - 1]:
            pairs.append(Pair(sources[state - 1], targets[index], float(scores[index, state - 1])))
            state = int(previous[state - 1])
    return pairs[::-1]


def _running_best(values: Numbers) -> tuple[Numbers, NDArray[np.int64]]:
    """At each place the largest value up to it, and the last place that has it."""
    largest = np.maximum.accumulate(values)
    return largest, np.maximum.accumulate(np.where(values == largest, np.arange(len(values)), 0))


def _score_table(sources: list[Layer], targets: list[Layer]) -> Numbers:
    known: dict[tuple[str, tuple[int, ...], str, tuple[int, ...]], float] = {}
    table = np.zeros((len(targets), len(sources)))
    for row, ours in enumerate(targets):
        for column, theirs in enumerate(sources):
            key = (theirs.kind, theirs.shape, ours.kind, ours.shape)
            if key not in known:
                known[key] = shape_score(theirs, ours)
            table[row, column] = known[key]
    return table

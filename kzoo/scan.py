"""One target against many sources, in both directions: the arrays and threads around `kzoo.kernel`, and the traceback.

Blocks are matched once per pair of unique blocks, then item lists with the blocks' values as scores: the two nested
levels of section 1.3, with every repeated computation shared.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from kzoo.encoding import BLOCK_GROUP, Encoding, Floats, Sequences, layer_scores
from kzoo.kernel import match_values
from kzoo.layers import overlap

# The interpreter does some 5 million steps of the inner loop a second; importing numba and loading the compiled kernel
# takes about 0.3 s and 150 MB, so compiling pays above this many steps.
_INTERPRETED_STEPS = 1_000_000
# Below this many compiled steps (about 2 ms) a second thread costs more than it saves.
_STEPS_PER_THREAD = 2_000_000
# Enough slices that threads finish together although some hold far longer sequences than others.
_SLICES = 64

#: A matched pair of layers: index path in the source, index path in the target, score.
LayerPair = tuple[tuple[int, ...], tuple[int, ...], float]


@dataclass(frozen=True)
class Engine:
    """The kernel and the containers that suit it: lists for the interpreter, flat arrays for compiled code."""

    kernel: Callable[..., None]
    pack: Callable[[Any], Any]
    threads: int


INTERPRETED = Engine(match_values, lambda array: array.ravel().tolist(), threads=1)


@lru_cache
def compiled_engine() -> Engine:
    """The kernel compiled by numba, from its cache on disk after the first time (which takes a few seconds)."""
    import numba

    try:
        kernel = numba.njit(cache=True, nogil=True)(match_values)
    except RuntimeError:
        # numba found no writable place for its cache: compile for this process only.
        kernel = numba.njit(nogil=True)(match_values)
    return Engine(kernel, np.ravel, threads=os.cpu_count() or 1)


def choose_engine(target: Encoding, sources: Encoding) -> Engine:
    """Compiled where numba is loaded already or the work is worth loading it, else the interpreter."""
    levels = ((target.blocks, sources.blocks), (target.items, sources.items))
    if "numba" in sys.modules or sum(_steps(t, s) + _steps(s, t) for t, s in levels) > _INTERPRETED_STEPS:
        return compiled_engine()
    return INTERPRETED


def _steps(targets: Sequences, sources: Sequences) -> float:
    """At most how many steps the kernel's innermost loop takes for all pairs."""
    return float(targets.run_steps @ sources.group_sizes) + float(len(targets.unit)) * len(sources.unit)


def _worth_threads(targets: Sequences, sources: Sequences) -> bool:
    # The first bound is coarse and costs nothing: most single pairs are decided by it.
    coarse = (1 + len(targets.unit)) * len(targets.unit) * len(sources.unit)
    return coarse > _STEPS_PER_THREAD and _steps(targets, sources) > _STEPS_PER_THREAD


@dataclass(frozen=True)
class _Output:
    """Where the kernel writes the value of target t and source s: at ``offset + t * stride[0] + s * stride[1]``."""

    values: Any
    offset: int
    strides: tuple[int, int]


class _Side:
    """Sequences packed for an engine, in the role of target or source, and their units' stride in the score table."""

    def __init__(self, sequences: Sequences, stride: int, engine: Engine) -> None:
        self.sequences, self.stride = sequences, stride
        columns = (sequences.start, sequences.unit, sequences.position, sequences.group)
        self.arrays = self.start, self.unit, self.position, self.group = tuple(map(engine.pack, columns))

    def __len__(self) -> int:
        return len(self.sequences)


class Scan:
    """The scores between the units of targets and those of sources, in both directions; blocks are matched on first use.

    Rows of the tables are the targets' unique layers, then their blocks; columns the sources' likewise. ``forward``
    holds for two blocks D(source block -> target block), ``reverse`` the other direction; layers score alike both ways.
    A layer and a block would score 0 and are never looked up.
    """

    def __init__(
        self,
        targets: Encoding,
        sources: Encoding,
        engine: Engine | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.targets, self.sources = targets, sources
        self.engine = engine = engine or choose_engine(targets, sources)
        self._progress = progress
        self._roots = engine.pack(np.sqrt(np.arange(1.0 + max(targets.longest_run, sources.longest_run))))
        self._blocks = _Side(targets.blocks, sources.units, engine), _Side(sources.blocks, 1, engine)
        self._items = _Side(targets.items, sources.units, engine), _Side(sources.items, 1, engine)

    @cached_property
    def forward(self) -> Any:
        """The flattened score table for D(source -> target)."""
        return self._score_table(*self._blocks)

    @cached_property
    def reverse(self) -> Any:
        """The flattened score table for D(target -> source), still with the targets' units as rows."""
        return self._score_table(*reversed(self._blocks))

    def forward_values(self) -> Floats:
        """D(source -> target) for every target (rows) and source (columns)."""
        return self._values(self.forward, *self._items)

    def reverse_values(self) -> Floats:
        """D(target -> source) for every target (rows) and source (columns)."""
        return self._values(self.reverse, *reversed(self._items)).T

    def _score_table(self, receivers: _Side, givers: _Side) -> Any:
        table = self.engine.pack(self._layer_scores.copy())
        first_pair = len(self.targets.kinds) * self.sources.units + len(self.sources.kinds)
        self._fill(receivers, givers, table, _Output(table, first_pair, (receivers.stride, givers.stride)))
        return table

    @cached_property
    def _layer_scores(self) -> Floats:
        return layer_scores(self.targets, self.sources)

    def _values(self, scores: Any, receivers: _Side, givers: _Side) -> Floats:
        values = self.engine.pack(np.zeros((len(receivers), len(givers))))
        self._fill(receivers, givers, scores, _Output(values, 0, (len(givers), 1)))
        return np.asarray(values).reshape(len(receivers), len(givers))

    def pairs(self, source: int) -> list[LayerPair]:
        """The matched layers of D(source -> first target), in target order (traceback, section 1.5)."""
        return [(theirs, ours, self._score(*units)) for theirs, ours, units in self._matched_layers(source)]

    def overwritten(self, source: int) -> int:
        """Entries of the first target that the paper's clip overwrites from this source (sections 1.6 and 3.6)."""
        units = Counter(units for _, _, units in self._matched_layers(source))
        return sum(
            count * overlap(self.sources.layer(theirs), self.targets.layer(ours))
            for (ours, theirs), count in units.items()
        )

    def _matched_layers(self, source: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, int]]]:
        """Index path in the source, index path in the target and (target unit, source unit) of each matched layer."""
        items, source_items = self._items
        blocks, source_blocks = self._blocks
        for e, f in self._trace(items, source_items, 0, source):
            units = items.unit[e], source_items.unit[f]
            path, source_path = (int(items.position[e]),), (int(source_items.position[f]),)
            if items.group[e] != BLOCK_GROUP:
                yield source_path, path, units
                continue
            t, s = units[0] - len(self.targets.kinds), units[1] - len(self.sources.kinds)
            for inner, source_inner in self._trace(blocks, source_blocks, t, s):
                place, source_place = int(blocks.position[inner]), int(source_blocks.position[source_inner])
                yield (
                    (*source_path, source_place),
                    (*path, place),
                    (blocks.unit[inner], source_blocks.unit[source_inner]),
                )

    def _score(self, target_unit: int, source_unit: int) -> float:
        return float(self.forward[target_unit * self.sources.units + source_unit])

    def _fill(self, targets: _Side, sources: _Side, scores: Any, output: _Output) -> None:
        """Run the kernel over all pairs, in slices of the side with more sequences where threads pay."""
        if self.engine.threads == 1 or not _worth_threads(targets.sequences, sources.sequences):
            self._run(targets, sources, scores, output, (0, len(targets)), (0, len(sources)))
            return
        split = max(targets, sources, key=len)
        bounds = np.linspace(0, len(split), min(_SLICES, len(split)) + 1).astype(int).tolist()

        def run(first: int, last: int) -> None:
            whole = (0, len(sources if split is targets else targets))
            rectangle = ((first, last), whole) if split is targets else (whole, (first, last))
            self._run(targets, sources, scores, output, *rectangle)

        with ThreadPoolExecutor(self.engine.threads) as pool:
            for done, _ in enumerate(pool.map(run, bounds, bounds[1:]), start=1):
                if self._progress:
                    self._progress(done / (len(bounds) - 1))

    def _run(
        self,
        targets: _Side,
        sources: _Side,
        scores: Any,
        output: _Output,
        target_range: tuple[int, int],
        source_range: tuple[int, int],
    ) -> Any:
        """Run the kernel over a rectangle of pairs; returns its table, which holds the last pair's."""
        pack, rows = self.engine.pack, targets.sequences.longest
        table = pack(np.empty((rows + 1) * (sources.sequences.longest + 1)))
        run = (pack(np.empty(rows)), pack(np.empty(rows)), pack(np.empty(rows, dtype=np.int32)))
        self.engine.kernel(
            targets.arrays,
            sources.arrays,
            scores,
            (targets.stride, sources.stride),
            self._roots,
            table,
            run,
            output.values,
            (output.offset, *output.strides),
            (*target_range, *source_range),
        )
        return table

    def _trace(self, targets: _Side, sources: _Side, t: int, s: int) -> list[tuple[int, int]]:
        """Matched elements (target, source) of one pair of sequences, by the tie rules of section 1.4.

        The way back is decided cell by cell from the table: a run was taken only where the cell is worth more than
        both skips, and then the shortest that reaches its value; else skipping the source wins over leaving the target
        unmatched, unless that is strictly better.
        """
        ignored = _Output(self.engine.pack(np.zeros(1)), 0, (0, 0))
        table = self._run(targets, sources, self.forward, ignored, (t, t + 1), (s, s + 1))
        begin, width = targets.start[t], targets.start[t + 1] - targets.start[t] + 1
        row, j = width - 1, sources.start[s + 1] - sources.start[s]
        pairs: list[tuple[int, int]] = []
        while row > 0 and j > 0:
            cell, left = j * width + row, (j - 1) * width + row
            if table[cell] > max(table[cell - 1], table[left]):
                f = sources.start[s] + j - 1
                run = self._run_taken(targets, begin, begin + row - 1, sources.unit[f], table, left - row, table[cell])
                pairs.extend((e, f) for e in run if self._score(targets.unit[e], sources.unit[f]) > 0)
                row, j = run[-1] - begin, j - 1
            elif table[cell - 1] > table[left]:
                row -= 1
            else:
                j -= 1
        return pairs[::-1]

    def _run_taken(
        self, targets: _Side, begin: int, last: int, source_unit: int, table: Any, before: int, value: float
    ) -> list[int]:
        """Target elements, from ``last`` back, of the shortest run that gives a cell its ``value``.

        ``begin`` is the sequence's first element, ``before`` where the source's previous column starts in ``table``.
        """
        run: list[int] = []
        total, end = 0.0, targets.position[last] + 1
        for e in range(last, begin - 1, -1):
            if targets.group[e] != targets.group[last]:
                continue
            run.append(e)
            total += self._score(targets.unit[e], source_unit)
            if table[before + e - begin] + total / self._roots[end - targets.position[e]] >= value:
                break
        return run

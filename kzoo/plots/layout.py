"""Where everything of a matching's picture stands: two columns of groups and rows, and the links between them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from statistics import fmean

from kzoo.matching import Matching
from kzoo.plots.folding import Cell, Group, Path, Row, fold

#: For every layer of a column that has any, its partners in the other column with the score.
Partners = Mapping[Path, list[tuple[Cell, float]]]

LINE = 17.0
#: Room inside a group with a heading below its last row, and between two groups.
PADDING = 5.0
GAP = 7.0
#: Height of a link's end, per pair of layers, and the share of a row's height that all its links may take.
STRAND = 2.0
ENDS = 12.0


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row, the top of its line, and for every layer of it its partners with the score, in order."""

    row: Row
    y: float
    partners: tuple[tuple[tuple[Cell, float], ...], ...]

    @property
    def unmatched(self) -> int:
        """How many of its layers have no partner: random in the target, unused in the source."""
        return sum(not found for found in self.partners)

    @property
    def idle(self) -> bool:
        """Whether none of its layers has a partner."""
        return not any(self.partners)

    @property
    def scores(self) -> list[float]:
        """The scores of all its pairs."""
        return [score for found in self.partners for _, score in found]


@dataclass(frozen=True, slots=True)
class PlacedGroup:
    """A group with the top and the height of its frame."""

    group: Group
    y: float
    height: float
    rows: tuple[PlacedRow, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """The pairs of layers that one source row and one target row share, and (top, height) of the link's two ends."""

    pairs: tuple[tuple[Cell, Cell, float], ...]
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Layout:
    """Both columns and the links; ``bottom`` is where the longer column ends."""

    source: tuple[PlacedGroup, ...]
    target: tuple[PlacedGroup, ...]
    links: tuple[Link, ...]
    bottom: float


def lay_out(matching: Matching, top: float) -> Layout:
    """The layout of a matching whose columns start at ``top``: the shorter one's groups stand near their partners."""
    source, target = fold(matching.source, matching.target)
    forward, backward = _partners(matching, source, target)
    if _height(source) > _height(target):
        left = _place(source, _packed(source, top), forward)
        right = _place(target, _near(target, left, backward, top), backward)
    else:
        right = _place(target, _packed(target, top), backward)
        left = _place(source, _near(source, right, forward, top), forward)
    return Layout(left, right, _links(left, right), top + max(_height(source), _height(target)))


def _partners(matching: Matching, source: tuple[Group, ...], target: tuple[Group, ...]) -> tuple[Partners, Partners]:
    """For every source layer its target layers, and the other way round."""
    sources, targets = ({cell.path: cell for cell in _cells(groups)} for groups in (source, target))
    forward: dict[Path, list[tuple[Cell, float]]] = defaultdict(list)
    backward: dict[Path, list[tuple[Cell, float]]] = defaultdict(list)
    for source_path, target_path, score in matching.pairs:
        forward[source_path].append((targets[target_path], score))
        backward[target_path].append((sources[source_path], score))
    return forward, backward


def _cells(groups: tuple[Group, ...]) -> list[Cell]:
    return [cell for group in groups for row in group.rows for cell in row.cells]


def _group_height(group: Group) -> float:
    return group.lines * LINE + (PADDING if group.label else 0.0)


def _height(groups: tuple[Group, ...]) -> float:
    return sum(map(_group_height, groups)) + GAP * (len(groups) - 1)


def _packed(groups: tuple[Group, ...], top: float) -> list[float]:
    """The groups' tops, one closely below the other."""
    return list(accumulate((_group_height(group) + GAP for group in groups[:-1]), initial=top))


def _near(groups: tuple[Group, ...], other: tuple[PlacedGroup, ...], partners: Partners, top: float) -> list[float]:
    """The groups' tops, in order and within the other column's height, as close as possible to their partners.

    The downward shifts from the packed tops must not decrease; the closest such shifts in the least squares sense are
    found by pooling neighbours that are out of order.
    """
    line = {cell.path: row.y for group in other for row in group.rows for cell in row.row.cells}
    packed = _packed(groups, top)
    spare = other[-1].y + other[-1].height - packed[-1] - _group_height(groups[-1])
    pools: list[tuple[float, float, int]] = []
    for index, (group, y) in enumerate(zip(groups, packed, strict=True)):
        wishes = [
            line[partner.path] - row.y
            for row in _rows(group, y, partners)
            for found in row.partners
            for partner, _ in found
        ]
        # Without a partner a group has nearly no say, and stands where an even spread would put it.
        even = spare * index / max(1, len(groups) - 1)
        pools.append((fmean(wishes) if wishes else even, len(wishes) or 0.01, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (last, weight, count), (first, more, others) = pools.pop(), pools.pop()
            total = weight + more
            pools.append(((last * weight + first * more) / total, total, count + others))
    shifts = [min(max(shift, 0.0), spare) for shift, _, count in pools for _ in range(count)]
    return [y + shift for y, shift in zip(packed, shifts, strict=True)]


def _place(groups: tuple[Group, ...], tops: list[float], partners: Partners) -> tuple[PlacedGroup, ...]:
    return tuple(
        PlacedGroup(group, y, _group_height(group), _rows(group, y, partners))
        for group, y in zip(groups, tops, strict=True)
    )


def _rows(group: Group, y: float, partners: Partners) -> tuple[PlacedRow, ...]:
    begin = y + (LINE if group.label else 0.0)
    return tuple(
        PlacedRow(row, begin + index * LINE, tuple(tuple(partners.get(cell.path, ())) for cell in row.cells))
        for index, row in enumerate(group.rows)
    )


def _links(source: tuple[PlacedGroup, ...], target: tuple[PlacedGroup, ...]) -> tuple[Link, ...]:
    """A link per source row and target row with a pair in common, their ends stacked so that none hides another."""
    sources, targets = ([row for group in column for row in group.rows] for column in (source, target))
    row_of = {cell.path: index for index, placed in enumerate(targets) for cell in placed.row.cells}
    found = [
        ((s, row_of[partner.path]), (cell, partner, score))
        for s, placed in enumerate(sources)
        for cell, partners in zip(placed.row.cells, placed.partners, strict=True)
        for partner, score in partners
    ]
    found.sort(key=lambda pair: (pair[0], pair[1][1].path))
    bundles = [(rows, tuple(pair for _, pair in run)) for rows, run in groupby(found, lambda pair: pair[0])]
    starts, ends = _ends(sources, bundles, 0), _ends(targets, bundles, 1)
    return tuple(Link(bundle, start, end) for (_, bundle), start, end in zip(bundles, starts, ends, strict=True))


def _ends(
    rows: list[PlacedRow], bundles: Sequence[tuple[tuple[int, int], Sequence[object]]], side: int
) -> list[tuple[float, float]]:
    """(top, height) of every bundle's end on one side: as high as its pairs are many, stacked, centred on the row."""
    pairs = Counter[int]()
    for ends, bundle in bundles:
        pairs[ends[side]] += len(bundle)
    strand = {index: min(STRAND, ENDS / count) for index, count in pairs.items()}
    free = {index: rows[index].y + (LINE - strand[index] * count) / 2 for index, count in pairs.items()}
    placed = []
    for ends, bundle in bundles:
        index, height = ends[side], strand[ends[side]] * len(bundle)
        placed.append((free[index], height))
        free[index] += height
    return placed

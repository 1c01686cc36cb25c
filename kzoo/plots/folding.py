"""What the rows of one network's column hold: a layer each, or, in a large network, a block or several.

Plain data without coordinates. Nothing is dropped: every typed layer is in exactly one row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from kzoo.layers import Architecture, Item, Layer
from kzoo.matching import Matching
from kzoo.plots.text import clean

Path = tuple[int, ...]

#: A column has at most this many lines (rows and headings), which bounds the picture's height.
MOST_LINES = 80


@dataclass(frozen=True, slots=True)
class Cell:
    """A typed layer, where it stands, and the name to show: its own, or what it is and where."""

    path: Path
    layer: Layer
    name: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the picture: one layer, or a block or several folded into one.

    ``label`` is ``name`` without what the heading over the row says already; ``parent`` is the container's name.
    """

    label: str
    name: str
    parent: str
    cells: tuple[Cell, ...]
    folded: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive rows drawn as one: a block or a stage with its name, or loose layers without."""

    label: str
    rows: tuple[Row, ...]

    @property
    def lines(self) -> int:
        """Rows and the heading."""
        return len(self.rows) + bool(self.label)


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is never taken apart once layers are folded: a block, or a layer outside all blocks."""

    name: str
    parent: str
    cells: tuple[Cell, ...]
    block: bool


def fold(
    source: Architecture, target: Architecture, most_lines: int = MOST_LINES
) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """Both columns in as much detail as fits in ``most_lines`` lines each, which must be at least 2.

    Layers are shown only where both networks have room for theirs: lines from layers to whole blocks would tangle.
    """
    sides = [list(_units(architecture)) for architecture in (source, target)]
    opened = [_opened(units) for units in sides]
    if all(_lines(groups) <= most_lines for groups in opened):
        return tuple(opened[0]), tuple(opened[1])
    folded = [next(tuple(groups) for groups in _levels(units) if _lines(groups) <= most_lines) for units in sides]
    return folded[0], folded[1]


def unmatched_cells(matching: Matching) -> list[Cell]:
    """The target's typed layers that have no partner, in order."""
    partners = {path for _, path, _ in matching.pairs}
    return [_cell(path, layer) for path, layer in matching.target.paths() if layer.typed and path not in partners]


def _lines(groups: Sequence[Group]) -> int:
    return sum(group.lines for group in groups)


def _opened(units: Sequence[_Unit]) -> list[Group]:
    """A row per layer: a group per block, and loose layers by their container."""
    groups = []
    for run in _runs(units, lambda unit: unit.block):
        groups += [_block(unit) for unit in run] if run[0].block else _staged([_row([unit]) for unit in run])
    return groups


def _block(unit: _Unit) -> Group:
    rows = [
        Row(cell.name.removeprefix(f"{unit.name}.") or cell.name, cell.name, "", (cell,), folded=False)
        for cell in unit.cells
    ]
    return Group(unit.name, tuple(rows)) if len(rows) > 1 else _loose(rows)


def _levels(units: Sequence[_Unit]) -> Iterator[list[Group]]:
    """A row per block, then per ever longer runs of blocks: equal ones first, then similar ones, then any."""
    yield _staged([_row([unit]) for unit in units])
    equal = _runs(units, lambda unit: (unit.parent, tuple((cell.layer.kind, cell.layer.shape) for cell in unit.cells)))
    yield _staged([_row(run) for run in equal])
    similar = _runs(units, lambda unit: (unit.parent, tuple(cell.layer.kind for cell in unit.cells)))
    sizes = [base << shift for shift in range(len(units).bit_length()) for base in (2, 3)]
    for size in sizes:
        yield _staged([_row(chunk) for run in similar for chunk in _chunks(run, size)])
    for size in sizes:
        yield _staged([_row(chunk) for chunk in _chunks(units, size)])


def _staged(rows: list[Row]) -> list[Group]:
    """Rows under the name of the container that they share; between them, the rows that share none."""
    groups: list[Group] = []
    loose: list[Row] = []
    for parent, run in groupby(rows, lambda row: row.parent):
        stage = list(run)
        if not parent or len(stage) == 1:
            loose += stage
            continue
        if loose:
            groups.append(_loose(loose))
            loose = []
        groups.append(Group(parent, tuple(stage)))
    return [*groups, _loose(loose)] if loose else groups


def _loose(rows: Sequence[Row]) -> Group:
    """Rows without a heading, which therefore need their whole names."""
    return Group("", tuple(replace(row, label=row.name) for row in rows))


def _row(units: Sequence[_Unit]) -> Row:
    """One row that holds all the units; under a heading its label leaves out what the heading says."""
    first, last = units[0], units[-1]
    parent = first.parent if all(unit.parent == first.parent for unit in units) else ""
    cells = tuple(cell for unit in units for cell in unit.cells)
    ending = "" if first is last else _ending(first.name, last.name, bool(parent))
    short = _speaking(first.name) if parent else first.name
    return Row(short + ending, first.name + ending, parent, cells, folded=first.block or first is not last)


def _speaking(name: str) -> str:
    """The end of a name that says something: ``layer3.0`` rather than ``0``."""
    parts = name.split(".")
    words = [index for index, part in enumerate(parts) if not part.isdecimal()]
    return ".".join(parts[words[-1] if words else 0 :])


def _ending(first: str, last: str, siblings: bool) -> str:
    """What to put behind the first name of a run so that it also names the last: ``-35`` behind ``layer3.1``."""
    if siblings:
        first, last = first.rpartition(".")[2], last.rpartition(".")[2]
        stem, digits = _numbered(last)
        return f"-{digits}" if digits and stem == _numbered(first)[0] else f" … {last}"
    return f" … {last}"


def _numbered(name: str) -> tuple[str, str]:
    digits = re.search("[0-9]*$", name)
    end = digits.start() if digits else len(name)
    return name[:end], name[end:]


def _runs(units: Sequence[_Unit], key: Callable[[_Unit], object]) -> list[list[_Unit]]:
    return [list(run) for _, run in groupby(units, key)]


def _chunks(units: Sequence[_Unit], size: int) -> list[Sequence[_Unit]]:
    return [units[begin : begin + size] for begin in range(0, len(units), size)]


def _units(architecture: Architecture) -> Iterator[_Unit]:
    for index, item in enumerate(architecture.items):
        cells = tuple(_cells(index, item))
        if not cells:
            continue
        if isinstance(item, Layer):
            yield _Unit(cells[0].name, clean(item.name).rpartition(".")[0], cells, block=False)
        else:
            name = _shared([clean(layer.name) for layer in item if layer.name])
            yield _Unit(name or f"block {index}", name.rpartition(".")[0], cells, block=True)


def _cells(index: int, item: Item) -> Iterator[Cell]:
    layers = [((index,), item)] if isinstance(item, Layer) else [((index, i), layer) for i, layer in enumerate(item)]
    for path, layer in layers:
        if layer.typed:
            yield _cell(path, layer)


def _cell(path: Path, layer: Layer) -> Cell:
    return Cell(path, layer, clean(layer.name).strip() or f"{layer.kind} at {'.'.join(map(str, path))}")


def _shared(names: list[str]) -> str:
    """The innermost container that all the names share, empty if none."""
    containers = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*containers, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)

"""The axes of tensors as sums and products of groups, and the equations between them.

An axis is a tree. A *group* is a set of channels that can be widened by itself; every axis with the same group must be
widened by the same mapping. A product is what a reshape merges (heads x head width, channels x height x width), a sum is
what a concatenation joins, a *fixed* part cannot be widened. `Solver` holds what is known so far: an operation that adds
two tensors says that their axes are equal, one that splits an axis says that its group is a sum or a product of smaller
ones, one whose effect on channels is unknown fixes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

#: A product of so many equal parts is cut as their sum, where a cut goes through one of them.
_MOST_COPIES = 64


@dataclass(frozen=True, slots=True)
class Fixed:
    """Entries that cannot be widened, and why."""

    size: int
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A set of channels that can be widened."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class Product:
    """Parts from the slowest to the fastest index, as a reshape merges them."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class Sum:
    """Parts one after the other, as a concatenation joins them."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return sum(part.size for part in self.parts)


Axis = Fixed | Group | Product | Sum


def product(parts: Iterable[Axis]) -> Axis:
    """The product in its normal form: flat, without parts of one entry, neighbouring fixed parts merged."""
    flat: list[Axis] = []
    reason = ""
    for part in parts:
        for factor in part.parts if isinstance(part, Product) else (part,):
            if isinstance(factor, Fixed) and (factor.size == 1 or (flat and isinstance(flat[-1], Fixed))):
                reason = reason or factor.reason
                if factor.size > 1:
                    flat[-1] = Fixed(flat[-1].size * factor.size, _reason(flat[-1]) or factor.reason)
            else:
                flat.append(factor)
    if not flat:
        return Fixed(1, reason)
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def total(parts: Iterable[Axis]) -> Axis:
    """The sum in its normal form: flat, without empty parts, neighbouring fixed parts merged."""
    flat: list[Axis] = []
    for part in parts:
        for term in part.parts if isinstance(part, Sum) else (part,):
            if term.size == 0:
                continue
            if isinstance(term, Fixed) and flat and isinstance(flat[-1], Fixed):
                flat[-1] = Fixed(flat[-1].size + term.size, flat[-1].reason or term.reason)
            else:
                flat.append(term)
    if not flat:
        return Fixed(0)
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def _reason(axis: Axis) -> str:
    return axis.reason if isinstance(axis, Fixed) else ""


def groups_of(axis: Axis) -> Iterator[Group]:
    """The groups in an axis, in order; one that occurs twice is given twice."""
    if isinstance(axis, Group):
        yield axis
    elif isinstance(axis, (Product, Sum)):
        for part in axis.parts:
            yield from groups_of(part)


def reasons_of(axis: Axis) -> Iterator[str]:
    """Why parts of an axis are fixed."""
    if isinstance(axis, Fixed):
        if axis.reason:
            yield axis.reason
    elif isinstance(axis, (Product, Sum)):
        for part in axis.parts:
            yield from reasons_of(part)


class Solver:
    """The equations between axes that are known so far, solved as they come."""

    def __init__(self) -> None:
        self._solved: dict[int, Axis] = {}
        self._count = 0

    def group(self, size: int) -> Axis:
        """A new group; a single entry is fixed, since it may be spread over others."""
        if size <= 1:
            return Fixed(size, "it is a single channel")
        self._count += 1
        return Group(self._count - 1, size)

    def resolve(self, axis: Axis) -> Axis:
        """The axis with everything put in that is known by now."""
        if isinstance(axis, Group):
            if axis.index not in self._solved:
                return axis
            found = self.resolve(self._solved[axis.index])
            self._solved[axis.index] = found
            return found
        if isinstance(axis, Product):
            return product(self.resolve(part) for part in axis.parts)
        if isinstance(axis, Sum):
            return total(self.resolve(part) for part in axis.parts)
        return axis

    def fix(self, axis: Axis, reason: str) -> None:
        """No group in the axis can be widened, for this reason."""
        for group in groups_of(self.resolve(axis)):
            self._solved.setdefault(group.index, Fixed(group.size, reason))

    def equal(self, one: Axis, other: Axis, reason: str) -> None:
        """Both axes are indexed by the same channels; where their structures contradict, both are fixed."""
        one, other = self.resolve(one), self.resolve(other)
        if one == other:
            return
        if one.size != other.size:
            self._fix_both(one, other, reason)
        elif isinstance(one, Fixed):
            self.fix(other, one.reason or reason)
        elif isinstance(other, Fixed):
            self.fix(one, other.reason or reason)
        elif isinstance(one, Group):
            self._solved[one.index] = other
        elif isinstance(other, Group):
            self._solved[other.index] = one
        elif isinstance(one, Sum) or isinstance(other, Sum):
            self._equal_terms(one, other, reason)
        else:
            self._equal_factors(one, other, reason)

    def _fix_both(self, one: Axis, other: Axis, reason: str) -> None:
        self.fix(one, reason)
        self.fix(other, reason)

    def _equal_terms(self, one: Axis, other: Axis, reason: str) -> None:
        ends = sorted({*self._ends(one), *self._ends(other)})
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        pieces = self.cut(one, sizes), self.cut(other, sizes)
        if pieces[0] is None or pieces[1] is None:
            self._fix_both(one, other, reason)
            return
        for left, right in zip(*pieces, strict=True):  # type: ignore[arg-type]
            self.equal(left, right, reason)

    def _ends(self, axis: Axis) -> list[int]:
        return list(accumulate(part.size for part in axis.parts)) if isinstance(axis, Sum) else [axis.size]

    def _equal_factors(self, one: Axis, other: Axis, reason: str) -> None:
        first = min((axis.parts[0].size if isinstance(axis, Product) else axis.size) for axis in (one, other))
        halves = self.divide(one, first), self.divide(other, first)
        if halves[0] is None or halves[1] is None:
            self._fix_both(one, other, reason)
            return
        for left, right in zip(*halves, strict=True):  # type: ignore[arg-type]
            self.equal(left, right, reason)

    def cut(self, axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
        """The axis as a sum of parts of these sizes; None where its structure does not allow that."""
        axis = self.resolve(axis)
        if sum(sizes) != axis.size:
            return None
        if len(sizes) == 1:
            return [axis]
        if isinstance(axis, Fixed):
            return [Fixed(size, axis.reason) for size in sizes]
        if isinstance(axis, Group):
            pieces = [self.group(size) for size in sizes]
            self._solved[axis.index] = total(pieces)
            return pieces
        return self._cut_sum(axis, sizes) if isinstance(axis, Sum) else self._cut_product(axis, sizes)

    def _cut_sum(self, axis: Sum, sizes: Sequence[int]) -> list[Axis] | None:
        rest, pieces = list(axis.parts), []
        for size in sizes:
            taken: list[Axis] = []
            while (missing := size - sum(part.size for part in taken)) > 0:
                part = self.resolve(rest.pop(0))
                if part.size > missing:
                    halves = self.cut(part, (missing, part.size - missing))
                    if halves is None:
                        return None
                    part, after = halves
                    rest.insert(0, after)
                taken.append(part)
            pieces.append(total(taken))
        return pieces

    def _cut_product(self, axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
        assert isinstance(axis, Product)
        first, rest = axis.parts[0], product(axis.parts[1:])
        if all(size % rest.size == 0 for size in sizes):
            pieces = self.cut(first, [size // rest.size for size in sizes])
            return pieces and [product((piece, rest)) for piece in pieces]
        if isinstance(first, Fixed) and first.size <= _MOST_COPIES:
            return self._cut_sum(Sum((rest,) * first.size), sizes)
        return None

    def divide(self, axis: Axis, slow: int) -> tuple[Axis, Axis] | None:
        """The axis as a product of a slow part of ``slow`` entries and the rest; None where that cannot be."""
        axis = self.resolve(axis)
        if slow == 0 or axis.size % slow:
            return None
        fast = axis.size // slow
        if slow == 1 or fast == 1:
            return (Fixed(1), axis) if slow == 1 else (axis, Fixed(1))
        if isinstance(axis, Fixed):
            return Fixed(slow, axis.reason), Fixed(fast, axis.reason)
        if isinstance(axis, Group):
            halves = self.group(slow), self.group(fast)
            self._solved[axis.index] = product(halves)
            return halves
        return self._divide_sum(axis, fast) if isinstance(axis, Sum) else self._divide_product(axis, slow)

    def _divide_sum(self, axis: Sum, fast: int) -> tuple[Axis, Axis] | None:
        if any(part.size % fast for part in axis.parts):
            return None
        halves = [self.divide(part, part.size // fast) for part in axis.parts]
        if any(half is None for half in halves):
            return None
        known = [half for half in halves if half is not None]
        for _, right in known[1:]:
            self.equal(known[0][1], right, "parts of different structure are read as one")
        return total(left for left, _ in known), known[0][1]

    def _divide_product(self, axis: Axis, slow: int) -> tuple[Axis, Axis] | None:
        assert isinstance(axis, Product)
        before = 1
        for place, part in enumerate(axis.parts):
            if before == slow:
                return product(axis.parts[:place]), product(axis.parts[place:])
            if slow % (before * part.size):
                halves = None if slow % before else self.divide(part, slow // before)
                if halves is None:
                    return None
                left, right = halves
                return product((*axis.parts[:place], left)), product((right, *axis.parts[place + 1 :]))
            before *= part.size
        return axis, Fixed(1)

    def reshape(self, axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis] | None:
        """The axes of a tensor viewed with other sizes; None where a size cuts through what belongs together."""
        rest = product(self.resolve(axis) for axis in axes)
        found: list[Axis] = []
        for size in sizes:
            halves = self.divide(rest, size)
            if halves is None:
                return None
            found.append(halves[0])
            rest = halves[1]
        return found

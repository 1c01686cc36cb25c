"""Fuse networks file by file: tensor by tensor, and piece by piece within a tensor, whatever the size of the files.

For methods that fuse every tensor by itself (`FusionParameters.by_tensor`). The parents' headers say what there is to do,
names and shapes what a tensor is (`kzoo.methods.fusion.roles`). The result has the bytes that fusing the same tensors in
memory gives. NumPy does the arithmetic, in double precision: torch's import alone takes more memory than all the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kzoo.errors import InputError
from kzoo.methods.fusion.parameters import FusionParameters, NonessentialParameters, SumParameters
from kzoo.methods.fusion.parents import Header, check_headers, differing_tensors, not_finite, not_fused, twice
from kzoo.methods.fusion.roles import LEARNED, Role, mean_beside, roles_of
from kzoo.methods.fusion.rules import Doubles, Entries, Rule, mean, pooled_variance, rank_of, threshold_of
from kzoo.readers.files import WeightsFile
from kzoo.streaming import CHUNK, SIZES, Layout, Progress, Stored, shards_of, write

#: Entries that are worked on at a time: so many doubles of some parents stay in the processor's cache.
_BLOCK = 1 << 15
#: Of a tensor with more entries the threshold is counted, in several passes, rather than read off all of its importances.
_MOST_WHOLE = 1 << 20
_REAL: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Type:
    """A type of entries as headers name it."""

    name: str

    @property
    def is_floating_point(self) -> bool:
        return self.name.startswith(("F", "BF"))

    @property
    def is_complex(self) -> bool:
        return self.name.startswith("C")


@dataclass(frozen=True)
class Streamed:
    """What was fused: the files that were written, and what each tensor is to fusion, by the name that it has there."""

    files: tuple[Path, ...]
    roles: Mapping[str, Role]


def header_roles(file: WeightsFile) -> dict[str, Role]:
    """What the tensors of a file are to fusion, told from its header alone."""
    tensors = {ours: file.tensors[key] for ours, key in file.names().items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return roles_of(shapes, {name: _Type(tensor.dtype) for name, tensor in tensors.items()})


def fusion_headers(file: WeightsFile) -> dict[str, Header]:
    """The header of a file as `check_headers` takes it."""
    tensors = {ours: file.tensors[key] for ours, key in file.names().items()}
    return {name: Header(tensor.shape, _REAL.get(tensor.dtype, tensor.dtype)) for name, tensor in tensors.items()}


def check_streams(names: Sequence[str], files: Sequence[WeightsFile]) -> None:
    """Refuse parents that cannot be fused, from their headers alone; ``names`` are what people call them.

    Raises:
        InputError: there is one only, tensors, shapes or types differ (with the shard that holds the first such tensor), or a
            type is none that is fused.
    """
    headers = [fusion_headers(file) for file in files]
    try:
        check_headers(names, headers)
    except InputError as error:
        raise InputError(f"{error}{_where(files, headers)}") from None
    for name, tensor in headers[0].items():
        kind = _Type(files[0].tensors[files[0].names()[name]].dtype)
        if kind.is_floating_point and tensor.dtype not in _REAL.values():
            raise InputError(
                f"tensor {name} of {names[0]} has the type {tensor.dtype}, so it is quantised: give floating-point weights"
            )
        if kind.is_complex:
            raise InputError(f"tensor {name} of {names[0]} holds complex numbers: expected real ones")


def _where(files: Sequence[WeightsFile], headers: Sequence[Mapping[str, Header]]) -> str:
    """The shards that hold the first tensor in which parents differ, where there are shards."""
    for file, header in zip(files[1:], headers[1:], strict=True):
        found = differing_tensors(headers[0], header) or [
            name for name in headers[0] if headers[0][name].dtype != header[name].dtype
        ]
        if not found or max(len(file.shards), len(files[0].shards)) <= 1:
            continue
        owners = [one for one in (files[0], file) if found[0] in one.names()]
        places = dict.fromkeys(str(shards_of(one)[one.names()[found[0]]]) for one in owners)
        return f" ({found[0]} is in {' and in '.join(places)})"
    return ""


def fuse_streamed(
    parameters: FusionParameters,
    names: Sequence[str],
    files: Sequence[WeightsFile],
    folder: Path,
    *,
    start: WeightsFile | None = None,
    importance: Sequence[WeightsFile] | None = None,
    roles: Mapping[str, Role] | None = None,
    sharded: bool = True,
    wrapped: bool = False,
    progress: Progress = lambda _what, _done: None,
    chunk: int = CHUNK,
) -> Streamed:
    """Fuse weights files into files in ``folder``: of the first parent's shards, or one where ``sharded`` is not set.

    With ``wrapped`` tensors keep the names that they have in the first parent's files; else what a wrapper has put in front of
    them is left out. Those of other parents are found by what is left.

    ``names`` are what people call the parents. ``start`` holds the weights that all were trained from, ``importance`` the
    Fisher information of each parent's learned tensors, where the method needs them (arXiv 1809.09399, reconstructed).
    ``roles`` says what tensors are where names do not tell. Progress is told by bytes; ``chunk`` is how many of a file are in
    memory at a time.

    Raises:
        InputError: the parents cannot be fused, something that the method needs is missing or does not fit, or a value is
            NaN or infinite.
        WorldError: the disk fails.
    """
    check_streams(names, files)
    rule = _rule(parameters)
    kind = parameters.importance if isinstance(parameters, NonessentialParameters) else None
    needed = parameters.needs
    rule.check(len(files), "start" not in needed or start is not None, "fisher" not in needed or importance is not None)
    known = dict(roles or header_roles(files[0]))
    with ExitStack() as stack:
        parents = [stack.enter_context(Stored(file)) for file in files]
        began = stack.enter_context(Stored(start)) if start is not None and "start" in needed else None
        measured = [stack.enter_context(Stored(one)) for one in importance or ()] if "fisher" in needed else []
        fuser = _Fuser(rule, kind, list(names), parents, began, measured, known)
        fuser.check()
        # Sums may overflow, and so may what is rounded to a narrow type, as in torch.
        with np.errstate(over="ignore", invalid="ignore"):
            layout = Layout.of(files[0], sharded, wrapped)
            ours = {key: name for name, key in files[0].names().items()} if wrapped else {name: name for name in known}

            def make(name: str, begin: int, into: memoryview) -> None:
                fuser.make(ours[name], begin, into)

            written = write(folder, layout, make, progress, chunk)
        fuser.check_different()
    return Streamed(written, {name: known[ours[name]] for name in layout.tensors})


def _rule(parameters: FusionParameters) -> Rule:
    if not parameters.by_tensor or not isinstance(parameters, (SumParameters, NonessentialParameters)):
        raise InputError(
            "these weights are fused file by file, for which every tensor has to be fused by itself: expected weight_sum or "
            "nonessential without align, norms=fold or null_space"
        )
    return parameters.rule


@dataclass(frozen=True)
class _Piece:
    """Some entries of a tensor as they lie in a file; ``owner`` is whose they are, and ``measured`` whether importances."""

    raw: Bytes
    dtype: str
    name: str
    owner: str
    measured: bool = False

    def block(self, begin: int, end: int) -> Doubles:
        """Entries of it in double precision.

        Raises:
            InputError: one is NaN or infinite, or an importance below 0.
        """
        values = _widened(self.raw, self.dtype, begin, end)
        finite = _is_finite(values)
        if self.measured and (not finite or (values < 0).any()):
            raise InputError(
                f"{self.owner}: {self.name:.80} holds values that no measurement gives (NaN, infinite or below 0): measure it again"
            )
        if not finite:
            raise not_finite(self.owner, self.name, "NaN" if np.isnan(values).any() else "infinite")
        return values


@dataclass
class _Fuser:
    """Makes pieces of fused tensors from the same pieces of the parents' tensors."""

    rule: Rule
    kind: str | None
    names: list[str]
    parents: list[Stored]
    start: Stored | None
    measured: list[Stored]
    roles: Mapping[str, Role]
    _alike: list[tuple[int, int]] = field(init=False)
    _buffers: dict[str, bytearray] = field(default_factory=dict)
    _threshold: tuple[str, float] = ("", 0.0)

    def __post_init__(self) -> None:
        self._alike = list(combinations(range(len(self.parents)), 2))

    def check(self) -> None:
        """Refuse a start, or importances, that do not belong to the parents."""
        if self.measured and len(self.measured) != len(self.parents):
            raise InputError(
                f"there are {len(self.parents)} parents and {len(self.measured)} importances: give one of each parent"
            )
        beside = [(one, "an importance") for one in self.measured]
        if self.start is not None:
            beside.append((self.start, "the common start"))
        for stored, what in beside:
            for name, tensor in self.parents[0].tensors.items():
                if self.roles[name] in LEARNED:
                    _require(name, tensor.shape, stored, what)

    def check_different(self) -> None:
        """Refuse parents all of whose tensors were the same."""
        for one, other in self._alike:
            raise twice(self.names[one], self.names[other])

    def make(self, name: str, begin: int, into: memoryview) -> None:
        """Fill a buffer with a piece of a fused tensor; see `kzoo.streaming.Maker`."""
        dtype, role = self.parents[0].tensors[name].dtype, self.roles[name]
        first, count = begin // SIZES[dtype], len(into) // SIZES[dtype]
        out = np.frombuffer(into, np.uint8)
        if role is Role.WHOLE:
            # The others are read only to see whether they are the first one again.
            pieces = self._versions(name, first, count, len(self.parents) if self._alike else 1)
            out[:] = pieces[0].raw
            return
        threshold = self._found_threshold(name) if role in LEARNED and self.rule.quantile is not None else None
        pieces = self._versions(name, first, count, len(self.parents))
        means = self._means(name, first, count) if role is Role.VARIANCE else []
        measured, start = self._beside(name, first, count, len(pieces)) if role in LEARNED else ([], None)
        averaged = role not in LEARNED or self.rule.name == "average"
        quick = averaged and role is not Role.VARIANCE and len(pieces) == 2 and dtype != "F64"
        for at in range(0, count, _BLOCK):
            stop = min(at + _BLOCK, count)
            if quick and (middle := _middle(pieces[0].raw, pieces[1].raw, dtype, at, stop)) is not None:
                _store(middle, dtype, out, at)
                continue
            versions = [piece.block(at, stop) for piece in pieces]
            if role in LEARNED:
                known = [one.block(at, stop) for one in measured]
                began = start.block(at, stop) if start is not None else None
                importance = self._importances(versions, began, known)
                found: Doubles = self.rule.formula(Entries(versions, began, importance, threshold))
            elif role is Role.VARIANCE:
                found = pooled_variance(versions, [one.block(at, stop) for one in means])
            else:
                found = mean(versions)
            _narrow(found, dtype, out, at)
            # Finite entries may have a sum that is not, or that a narrow type does not hold.
            if not _is_finite(_widened(out, dtype, at, stop)):
                raise not_fused(name, _REAL[dtype])

    def _importances(
        self, versions: Sequence[Doubles], start: Doubles | None, measured: Sequence[Doubles]
    ) -> list[Doubles] | None:
        """How important entries are to each parent, as in `kzoo.methods.fusion.importance`."""
        if self.kind is None:
            return None
        if self.kind == "magnitude":
            return [np.abs(one) for one in versions]
        if self.kind == "distance":
            assert start is not None
            return [np.abs(one - start) for one in versions]
        if self.kind == "fisher":
            return list(measured)
        return [found * np.square(one) for one, found in zip(versions, measured, strict=True)]

    def _found_threshold(self, name: str) -> float:
        """The threshold of a tensor, found once: by the first parent's importances, however often they are gone through."""
        if self._threshold[0] != name:
            assert self.rule.quantile is not None
            count = math.prod(self.parents[0].tensors[name].shape)

            def blocks() -> Iterator[Doubles]:
                for first in range(0, count, _BLOCK):
                    some = min(_BLOCK, count - first)
                    [piece] = self._versions(name, first, some, 1)
                    measured, start = self._beside(name, first, some, 1)
                    began = start.block(0, some) if start is not None else None
                    found = self._importances([piece.block(0, some)], began, [one.block(0, some) for one in measured])
                    assert found is not None
                    yield found[0]

            self._threshold = name, streamed_threshold(blocks, count, self.rule.quantile)
        return self._threshold[1]

    def _versions(self, name: str, first: int, count: int, parents: int) -> list[_Piece]:
        """The same entries of so many parents."""
        found = [
            self._piece(stored, name, first, count, f"parent {number}", self._owner(number, name))
            for number, stored in enumerate(self.parents[:parents])
        ]
        if parents > 1:
            self._alike = [
                (one, other) for one, other in self._alike if np.array_equal(found[one].raw, found[other].raw)
            ]
        return found

    def _means(self, name: str, first: int, count: int) -> list[_Piece]:
        beside = mean_beside(name)
        return [
            self._piece(stored, beside, first, count, f"mean {number}", self._owner(number, beside))
            for number, stored in enumerate(self.parents)
        ]

    def _beside(self, name: str, first: int, count: int, parents: int) -> tuple[list[_Piece], _Piece | None]:
        """The same entries of so many importances, and of the start, as far as the method needs them."""
        measured = [
            self._piece(
                stored, name, first, count, f"importance {number}", f"the importance of {self.names[number]}", True
            )
            for number, stored in enumerate(self.measured[:parents])
        ]
        if self.start is None:
            return measured, None
        return measured, self._piece(self.start, name, first, count, "start", "the start")

    def _owner(self, number: int, name: str) -> str:
        parent = self.parents[number]
        shard = f" (in {parent.shard(name).name})" if len(parent.file.shards) > 1 else ""
        return f"{self.names[number]}{shard}"

    def _piece(
        self, stored: Stored, name: str, first: int, count: int, buffer: str, owner: str, measured: bool = False
    ) -> _Piece:
        """Entries of a tensor, in memory that the next call for the same ``buffer`` uses again."""
        dtype = stored.tensors[name].dtype
        size = SIZES[dtype]
        if len(self._buffers.get(buffer, b"")) < count * size:
            self._buffers[buffer] = bytearray(count * size)
        into = memoryview(self._buffers[buffer])[: count * size]
        stored.read(name, first * size, into)
        return _Piece(np.frombuffer(into, np.uint8), dtype, name, owner, measured)


def _require(name: str, shape: tuple[int, ...], stored: Stored, what: str) -> None:
    found = stored.tensors.get(name)
    if found is None or found.shape != shape:
        there = "is missing" if found is None else f"is {found.shape}"
        raise InputError(f"{name} {there} in {what}: expected {shape}, as in the parents")
    if found.dtype not in _REAL:
        raise InputError(f"{name} has the type {found.dtype} in {what}: expected floating-point numbers")


# -------------------------------------------------------------------------------------------------- the threshold


def streamed_threshold(blocks: Callable[[], Iterator[Doubles]], count: int, quantile: float) -> float:
    """What `threshold_of` gives of all blocks together, in bounded memory: ``blocks`` goes through them from the beginning.

    Of many, the bits of the one that is looked for are found sixteen at a time, from the highest on, by counting.
    """
    place = rank_of(count, quantile)
    if place is None:
        return -math.inf
    if count <= _MOST_WHOLE:
        return threshold_of(np.concatenate([block.copy() for block in blocks()]), quantile)
    prefix = 0
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for block in blocks():
            counts += np.bincount(_digits(_below(_ordered(block), prefix, shift + 16), shift), minlength=1 << 16)
        reached = np.cumsum(counts)
        digit = int(np.searchsorted(reached, place, side="right"))
        place -= int(reached[digit] - counts[digit])
        prefix = prefix << 16 | digit
        if counts[digit] <= _MOST_WHOLE and shift:
            left = np.concatenate([_below(_ordered(block), prefix, shift) for block in blocks()])
            return _value(int(np.partition(left, place)[place]))
    return _value(prefix)


_SIGN = 1 << 63


def _ordered(values: Doubles) -> NDArray[np.uint64]:
    """Doubles as whole numbers of the same order."""
    bits = (values + 0.0).view(np.uint64)
    return np.where(bits >= np.uint64(_SIGN), ~bits, bits | np.uint64(_SIGN))


def _value(ordered: int) -> float:
    bits = ordered ^ _SIGN if ordered >= _SIGN else ~ordered & (1 << 64) - 1
    return float(np.uint64(bits).view(np.float64))


def _below(keys: NDArray[np.uint64], prefix: int, shift: int) -> NDArray[np.uint64]:
    """Those that begin with the bits of ``prefix``, behind which there are ``shift`` more."""
    return keys if shift == 64 else keys[keys >> np.uint64(shift) == np.uint64(prefix)]


def _digits(keys: NDArray[np.uint64], shift: int) -> NDArray[np.int64]:
    return (keys >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64)


# -------------------------------------------------------------------------------------------------- types


def _widened(raw: Bytes, dtype: str, begin: int, end: int) -> Doubles:
    """Entries of some type in double precision."""
    if dtype == "BF16":
        return _single(raw, dtype, begin, end).astype(np.float64)
    return raw.view(_REAL[dtype])[begin:end].astype(np.float64, copy=False)


def _single(raw: Bytes, dtype: str, begin: int, end: int) -> NDArray[np.float32]:
    """Entries of a type that is no wider in single precision."""
    if dtype != "BF16":
        return raw.view(_REAL[dtype])[begin:end].astype(np.float32, copy=False)
    bits = raw.view(np.uint16)[begin:end].astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def _middle(one: Bytes, other: Bytes, dtype: str, begin: int, end: int) -> NDArray[np.float32] | None:
    """The mean of two parents' entries as double precision, rounded to single, gives it; None where one is not finite.

    A sum of two singles that is rounded to a double first, and then to a single, is the sum rounded once, as a double has
    more than twice as many digits; halving is exact, or rounds the same exact sum. Sums that overflow are for doubles.
    """
    found = _single(one, dtype, begin, end) + _single(other, dtype, begin, end)
    found *= np.float32(0.5)
    return found if math.isfinite(float(found.sum())) else None


def _is_finite(values: Doubles) -> bool:
    # A sum is finite if all entries are, but for the largest doubles; it costs less than looking at each.
    return math.isfinite(float(values.sum())) or bool(np.isfinite(values).all())


def _narrow(values: Doubles, dtype: str, out: Bytes, begin: int) -> None:
    """Round entries to a type as torch does, into a buffer of it from entry ``begin`` on."""
    if dtype == "F64":
        out.view(np.float64)[begin : begin + len(values)] = values
        return
    # Torch goes by single precision, too.
    _store(values.astype(np.float32), dtype, out, begin)


def _store(singles: NDArray[np.float32], dtype: str, out: Bytes, begin: int) -> None:
    values = singles
    if dtype == "BF16":
        out.view(np.uint16)[begin : begin + len(values)] = _brain(singles)
    else:
        out.view(_REAL[dtype])[begin : begin + len(values)] = singles


def _brain(singles: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of single-precision numbers, rounded to the nearest, and to the even one of two."""
    bits = singles.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    found = rounded.astype(np.uint16)
    odd = np.isnan(singles)
    if odd.any():
        found[odd] = 0x7FC0
    return found

"""Safetensors files made from others piece by piece, whatever their size, without torch.

Only some pieces are in memory at a time: they are read into buffers that are used again, and written by a thread of its
own while the next ones are made. What is written has the bytes that safetensors' ``save_file`` would write of the same
tensors with the format as their only metadata.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kzoo.errors import InputError, WorldError
from kzoo.readers.files import SHARDED, WHOLE, WeightsFile
from kzoo.readers.safetensors import MOST_HEADER
from kzoo.readers.safetensors import Tensor as Header

#: Bytes that are made, and written, at a time.
CHUNK = 1 << 21
#: So many pieces may wait for the disk.
_WAITING = 4
#: Bytes of an entry, in the order in which safetensors lays tensors out: by their alignment, the largest first.
SIZES: Mapping[str, int] = {
    "U64": 8, "I64": 8, "F64": 8, "C64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2, "U16": 2, "I16": 2, "I8": 1,
    "U8": 1, "BOOL": 1,
}  # fmt: skip
_ORDER = {name: place for place, name in enumerate(SIZES)}
_ALIGNED = 8
_LENGTH_BYTES = 8

#: Fills a buffer with a piece of a tensor's bytes: the tensor's name, at which byte the piece begins, the buffer.
Maker = Callable[[str, int, memoryview], None]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Layout:
    """What a set of weights is to hold, and in which files: tensors by name, and the file of each."""

    tensors: Mapping[str, Header]
    files: Mapping[str, str]

    @classmethod
    def of(cls, file: WeightsFile, sharded: bool = True, wrapped: bool = False) -> Layout:
        """The tensors of a file, or of the shards that belong together, in files of the same names, or in one.

        What a wrapper has put in front of names is left out, as everywhere (`WeightsFile.names`), unless ``wrapped``.
        """
        names = {key: key for key in file.tensors} if wrapped else file.names()
        tensors = {ours: file.tensors[key] for ours, key in names.items()}
        if len(file.shards) == 1 or not sharded:
            return cls(tensors, dict.fromkeys(tensors, WHOLE))
        shards = shards_of(file)
        return cls(tensors, {ours: shards[key].name for ours, key in names.items()})

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(size_of(tensor) for tensor in self.tensors.values())


def size_of(tensor: Header) -> int:
    """Bytes of a tensor."""
    return math.prod(tensor.shape) * SIZES[tensor.dtype]


def shards_of(file: WeightsFile) -> dict[str, Path]:
    """The file that holds each tensor, by the names of the file."""
    if len(file.shards) == 1:
        return dict.fromkeys(file.tensors, file.shards[0])
    table = json.loads(file.path.read_text(encoding="utf-8"))["weight_map"]
    return {name: file.path.with_name(table[name]) for name in file.tensors}


class Stored:
    """The tensors of a weights file on the disk, piece by piece; a context manager that opens files when they are asked for."""

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self.names = file.names()
        self.tensors = {ours: file.tensors[key] for ours, key in self.names.items()}
        self._shards = shards_of(file)
        self._opened: dict[Path, tuple[int, dict[str, int]]] = {}

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor, _begins in self._opened.values():
            os.close(descriptor)
        self._opened.clear()

    def shard(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._shards[self.names[name]]

    def read(self, name: str, begin: int, into: memoryview) -> None:
        """Fill a buffer with a tensor's bytes from ``begin`` on.

        Raises:
            WorldError: the file cannot be read any more, or is shorter than it was.
        """
        shard = self.shard(name)
        try:
            descriptor, begins = self._open(shard)
            place, done = begins[self.names[name]] + begin, 0
            while done < len(into):
                count = os.preadv(descriptor, [into[done:]], place + done)
                if not count:
                    raise ValueError(f"it ends inside tensor {name}")
                done += count
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise WorldError(
                f"{shard} cannot be read ({reason!s:.200}): it has changed, or the disk fails; check both"
            ) from None

    def _open(self, shard: Path) -> tuple[int, dict[str, int]]:
        if shard not in self._opened:
            descriptor = os.open(shard, os.O_RDONLY)
            self._opened[shard] = descriptor, {}
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
            if length > MOST_HEADER:
                raise ValueError("its header is another one")
            # All else was checked when the weights file was read.
            told = json.loads(os.pread(descriptor, length, _LENGTH_BYTES))
            begins = {
                key: _LENGTH_BYTES + length + told[key]["data_offsets"][0] for key in told if key != "__metadata__"
            }
            self._opened[shard] = descriptor, begins
        return self._opened[shard]


def write(
    folder: Path,
    layout: Layout,
    make: Maker,
    progress: Progress = lambda _what, _done: None,
    chunk: int = CHUNK,
) -> tuple[Path, ...]:
    """Write weights into a folder, piece by piece as ``make`` gives them, and see them safely onto the disk.

    Gives the files. Progress is told by bytes. ``chunk`` is the most bytes of a piece, a multiple of 8, so that no entry
    is cut in two.

    Raises:
        InputError: a tensor is of a type that torch does not have.
        WorldError: the disk fails.
    """
    for name, tensor in layout.tensors.items():
        if tensor.dtype not in SIZES:
            raise InputError(
                f"tensor {name} has the type {tensor.dtype}, so it is quantised: give floating-point weights"
            )
    files = sorted(set(layout.files.values()))
    total, done = layout.size, 0
    for file in files:
        inside = {name: tensor for name, tensor in layout.tensors.items() if layout.files[name] == file}
        names = sorted(inside, key=lambda name: (_ORDER[inside[name].dtype], name))
        try:
            with _writing(folder / file, chunk) as out:
                out.put(_header({name: inside[name] for name in names}))
                for name in names:
                    size = size_of(inside[name])
                    for begin in range(0, size, chunk):
                        piece = out.buffer(min(chunk, size - begin))
                        make(name, begin, piece)
                        out.put(piece)
                        done += len(piece)
                        progress("writing", done / total)
        except OSError as error:
            raise WorldError(f"{folder / file} cannot be written ({error.strerror or error}): check the disk") from None
    if not total:
        progress("writing", 1.0)
    if files != [WHOLE]:
        table = {
            "metadata": {"total_size": total},
            "weight_map": {name: layout.files[name] for name in sorted(layout.files)},
        }
        (folder / SHARDED).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return tuple(folder / file for file in files)


class _Writer:
    """Writes pieces into a file in their order, behind whoever makes them."""

    def __init__(self, descriptor: int, chunk: int) -> None:
        self._descriptor = descriptor
        self._thread = ThreadPoolExecutor(1)
        self._free = [bytearray(chunk) for _ in range(_WAITING)]
        self._waiting: deque[tuple[Future[None], bytearray | None]] = deque()

    def buffer(self, size: int) -> memoryview:
        """So many bytes of memory to fill, and to give to `put` next."""
        while not self._free:
            self._next()
        return memoryview(self._free[-1])[:size]

    def put(self, piece: memoryview | bytes) -> None:
        """Write a piece behind those before."""
        buffer = self._free.pop() if isinstance(piece, memoryview) else None
        self._waiting.append((self._thread.submit(_write_all, self._descriptor, piece), buffer))

    def finish(self) -> None:
        """Wait until everything is safely on the disk."""
        while self._waiting:
            self._next()
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let the thread end; what waits is dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _next(self) -> None:
        future, buffer = self._waiting.popleft()
        future.result()
        if buffer is not None:
            self._free.append(buffer)


@contextmanager
def _writing(path: Path, chunk: int) -> Iterator[_Writer]:
    with path.open("wb", buffering=0) as file:
        writer = _Writer(file.fileno(), chunk)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def _write_all(descriptor: int, piece: memoryview | bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]


def _header(tensors: Mapping[str, Header]) -> bytes:
    """The beginning of a file: the header's length, and the header, padded to eight bytes."""
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + size_of(tensor)
        told[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text

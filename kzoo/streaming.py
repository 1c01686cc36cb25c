"""Safetensors files made from others tensor by tensor, and chunk by chunk within a tensor, whatever their size.

Only some chunks are in memory at a time. What is written has the bytes that safetensors' ``save_file`` would write of the
same tensors with the format as their only metadata.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from kzoo.errors import InputError, WorldError
from kzoo.readers.files import SHARDED, WHOLE, WeightsFile
from kzoo.readers.safetensors import Tensor as Header

#: Entries of a tensor that are in memory at a time, of each file.
CHUNK = 1 << 22
#: The types that torch has too, in the order in which safetensors lays tensors out: by their alignment, the largest first.
DTYPES: Mapping[str, torch.dtype] = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_ORDER = {name: place for place, name in enumerate(DTYPES)}
_ALIGNED = 8
_Span = tuple[slice, ...]

#: Makes a chunk of a tensor: the tensor's name, and which part of it.
Maker = Callable[[str, _Span], Tensor]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Layout:
    """What a set of weights is to hold, and in which files: tensors by name, and the file of each."""

    tensors: Mapping[str, Header]
    files: Mapping[str, str]

    @classmethod
    def of(cls, file: WeightsFile) -> Layout:
        """The tensors of a file, or of the shards that belong together, in files of the same names."""
        if len(file.shards) == 1:
            return cls(file.tensors, dict.fromkeys(file.tensors, WHOLE))
        return cls(file.tensors, {name: shard.name for name, shard in _shards(file).items()})


def spans(shape: Sequence[int], most: int = CHUNK) -> Iterator[_Span]:
    """Parts of a tensor of that shape, of at most ``most`` entries, which one after the other are the tensor."""
    for axis, size in enumerate(shape):
        inner = math.prod(shape[axis + 1 :])
        if inner <= most:
            step = max(1, most // max(1, inner))
            for lead in _positions(shape[:axis]):
                for begin in range(0, size, step):
                    yield (*lead, slice(begin, min(begin + step, size)))
            return
    yield ()


def _positions(shape: Sequence[int]) -> Iterator[_Span]:
    """Every single position along some axes, in their order."""
    if not shape:
        yield ()
        return
    for place in range(shape[0]):
        for rest in _positions(shape[1:]):
            yield (slice(place, place + 1), *rest)


class Stored:
    """The tensors of a weights file on the disk, part by part; a context manager that opens its files when they are asked for."""

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self._shards = _shards(file)
        self._stack = ExitStack()
        self._opened: dict[Path, Any] = {}

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def part(self, name: str, span: _Span = ()) -> Tensor:
        """A part of a tensor, or all of it, copied into memory.

        Raises:
            WorldError: the file cannot be read any more.
        """
        shard = self._shards[name]
        try:
            if shard not in self._opened:
                self._opened[shard] = self._stack.enter_context(safe_open(shard, framework="pt"))
            opened = self._opened[shard]
            found: Tensor = opened.get_slice(name)[span] if span else opened.get_tensor(name)
        except Exception as error:  # safetensors raises its own
            raise WorldError(f"{shard} cannot be read ({error!s:.200}): check the disk") from None
        return found


def _shards(file: WeightsFile) -> dict[str, Path]:
    """The file that holds each tensor."""
    if len(file.shards) == 1:
        return dict.fromkeys(file.tensors, file.shards[0])
    table = json.loads(file.path.read_text(encoding="utf-8"))["weight_map"]
    return {name: file.path.with_name(table[name]) for name in file.tensors}


def write(
    folder: Path, layout: Layout, make: Maker, progress: Progress = lambda _what, _done: None
) -> tuple[Path, ...]:
    """Write weights into a folder, part by part as ``make`` gives them, and see them safely onto the disk.

    Gives the files. Progress is told by bytes.

    Raises:
        InputError: a tensor is of a type that torch does not have.
        WorldError: the disk fails.
    """
    for name, tensor in layout.tensors.items():
        if tensor.dtype not in DTYPES:
            raise InputError(
                f"tensor {name} has the type {tensor.dtype}, so it is quantised: give floating-point weights"
            )
    files = sorted(set(layout.files.values()))
    total, done = sum(_size(tensor) for tensor in layout.tensors.values()), 0

    def tell(written: int) -> None:
        nonlocal done
        done += written
        progress("writing", done / total if total else 1.0)

    for file in files:
        inside = {name: tensor for name, tensor in layout.tensors.items() if layout.files[name] == file}
        try:
            with (folder / file).open("wb") as out:
                _write_file(out, inside, make, tell)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise WorldError(f"{folder / file} cannot be written ({error.strerror or error}): check the disk") from None
    if files != [WHOLE]:
        table = {
            "metadata": {"total_size": total},
            "weight_map": {name: layout.files[name] for name in sorted(layout.files)},
        }
        (folder / SHARDED).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return tuple(folder / file for file in files)


def _write_file(out: BinaryIO, tensors: Mapping[str, Header], make: Maker, tell: Callable[[int], None]) -> None:
    names = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
    out.write(_header({name: tensors[name] for name in names}))
    for name in names:
        tensor = tensors[name]
        written = 0
        for span in spans(tensor.shape):
            part = make(name, span).contiguous()
            if part.dtype != DTYPES[tensor.dtype]:
                raise TypeError(f"{name}: a part is {part.dtype}, the tensor {tensor.dtype}")
            content = part.reshape(-1).view(torch.uint8).numpy().data if part.numel() else b""
            written += out.write(content)
            tell(len(content))
        if written != _size(tensor):
            raise ValueError(f"{name}: its parts have {written} bytes together, it has {_size(tensor)}")


def _header(tensors: Mapping[str, Header]) -> bytes:
    """The beginning of a file: the header's length, and the header, padded to eight bytes."""
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + _size(tensor)
        told[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _size(tensor: Header) -> int:
    return math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize

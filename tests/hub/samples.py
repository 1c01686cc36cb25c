"""Files to seed: small and large safetensors files, and those that lie."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hub.storage import File

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1}
Shapes = Mapping[str, tuple[str, list[int]]]


def header(shapes: Shapes, metadata: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """The first bytes of a safetensors file and the size of what follows them."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + SIZES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def safetensors(shapes: Shapes, metadata: Mapping[str, str] | None = None, seed: int = 0) -> bytes:
    """A safetensors file with random content; keep it small."""
    first, size = header(shapes, metadata)
    return first + random.Random(seed).randbytes(size)


def sparse_safetensors(path: Path, shapes: Shapes) -> Path:
    """A safetensors file of zeros that takes no space on the disk, however large it is."""
    first, size = header(shapes)
    with path.open("wb") as file:
        file.write(first)
        file.truncate(len(first) + size)
    return path


def sharded(shapes: list[Shapes]) -> dict[str, bytes]:
    """The files of a model in several safetensors files with an index."""
    names = [f"model-{number:05d}-of-{len(shapes):05d}.safetensors" for number in range(1, len(shapes) + 1)]
    files = {name: safetensors(part, {"format": "pt"}) for name, part in zip(names, shapes, strict=True)}
    weights = {tensor: name for name, part in zip(names, shapes, strict=True) for tensor in part}
    total = sum(header(part)[1] for part in shapes)
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


class _Bomb:
    """Unpickling this writes a file; nothing may ever unpickle it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.mark, "unpickled"))


def bomb(mark: Path) -> bytes:
    """A pickle that leaves a mark when somebody loads it."""
    return pickle.dumps(_Bomb(mark))


def hostile_safetensors() -> dict[str, bytes]:
    """Files named safetensors that are none, by what is wrong with them."""

    def made(text: bytes, size: int | None = None, data: bytes = b"") -> bytes:
        return (len(text) if size is None else size).to_bytes(8, "little") + text + data

    def tensor(dtype: Any, shape: Any, offsets: Any) -> bytes:
        return made(
            json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode(), data=bytes(16)
        )

    return {
        "empty": b"",
        "seven bytes": b"\1" * 7,
        "no header": made(b""),
        "header of 2**63 bytes": made(b"{}", 2**63),
        "header longer than the file": made(b"{}", 5000),
        "header of 26 MB": made(b"{}", 26_000_000),
        "no JSON": made(b"not json"),
        "a list": made(b"[1, 2]"),
        "deep": made(b"[" * 5000 + b"]" * 5000),
        "no UTF-8": made(b'{"\xff": 1}'),
        "tensor is a number": made(b'{"a": 1}'),
        "offsets outside": tensor("F32", [4], [0, 10**15]),
        "offsets backwards": tensor("F32", [4], [16, 0]),
        "shape lies": tensor("F32", [10**9, 10**9], [0, 16]),
        "negative shape": tensor("F32", [-4], [0, 16]),
        "unknown type": tensor("X7", [4], [0, 16]),
        "name twice": made(b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": 5}', data=b"0"),
    }


# Names that no client may ever write to.
HOSTILE_NAMES = (
    "../outside.txt",
    "../../../../../../tmp/outside.txt",
    "folder/../../outside.txt",
    "/absolute.txt",
    "//twice.txt",
    "nul\0byte.txt",
    "a" * 4096,
    "/".join(["deep"] * 800) + ".txt",
    ".git/config",
    "..",
    ".",
    "",
    "back\\slash.txt",
    "C:\\windows.txt",
    "C:/windows.txt",
    "new\nline.txt",
    "\x1b[31mred.txt",
    "aux.txt ",
    "right-to-left-\u202etxt.exe",
)


def hostile_names() -> dict[str, File]:
    """A tree of files with hostile names, and a symbolic link out of the repository."""
    files = {name: File(b"hostile", lfs=False) for name in HOSTILE_NAMES}
    return {**files, "link.json": File("../../../../etc/passwd", link=True)}

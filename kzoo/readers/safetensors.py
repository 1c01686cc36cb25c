"""The header of a safetensors file: names, types and shapes of its tensors, without reading a weight.

A header is eight bytes of length, then that much JSON: tensor name to ``dtype``, ``shape`` and ``data_offsets``, whose
ranges must follow one another without hole or overlap up to the end of the file. Whoever made the file may be hostile:
sizes are checked before anything is read or parsed, and memory stays within a few times the largest header.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kzoo.errors import InputError
from kzoo.layers import MOST_SIZE

#: The largest header that is read, as in huggingface_hub; that of a network with 1,000 layers has 0.2 MB.
MOST_HEADER = 25_000_000
_LENGTH_BYTES = 8
# The shortest entry, '"":{"dtype":"I8","shape":[],"data_offsets":[0,0]},', has more characters than this. More braces
# or brackets than such entries need cannot be a header, and could make a parser take hundreds of bytes per character.
_LEAST_ENTRY = 40
_MOST_AXES = 64
_LONGEST_NAME = 1000
_NO_HEADER = " has no valid safetensors header"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """Type and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def floating(self) -> bool:
        """Whether its entries are floating-point numbers, as learned ones are."""
        return self.dtype.startswith(("F", "BF"))


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in the order of its header; nothing behind the header is read.

    Raises:
        InputError: the file cannot be read or is not a whole safetensors file.
    """
    return _read_header(path, MOST_HEADER)[0]


def _read_header(path: Path, most: int) -> tuple[dict[str, Tensor], int]:
    """The tensors of a file whose header has at most ``most`` bytes, and how many it has."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        data_bytes = size - _LENGTH_BYTES - length
        # The length is the file's own word: look at it before so much is read.
        content = file.read(length) if data_bytes >= 0 and length <= most else b""
    if size < _LENGTH_BYTES or data_bytes < 0:
        raise InputError(
            f"{path} is not a whole safetensors file: its {size:,} bytes end inside the header"
            + (f", which should have {length:,}" if size >= _LENGTH_BYTES else "")
            + ": fetch or save it again"
        )
    if length > most:
        raise InputError(
            f"{path} has a header of {length:,} bytes, more than the {most:,} that are read: give a safetensors file of "
            "fewer tensors"
        )
    return parse_header(content, str(path), data_bytes), length


def read_shards(path: Path) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """The tensors of all shards that a ``model.safetensors.index.json`` names, in the order of its table; and the shards.

    Raises:
        InputError: the file is not such an index, or a shard is missing, faulty, outside its folder or holds other
            tensors than the index says.
    """
    table = shard_table(read_bounded(path, MOST_HEADER), str(path))
    tensors, shards = joined_shards(table, str(path), lambda shard, left: _read_header(path.with_name(shard), left))
    return tensors, tuple(path.with_name(shard) for shard in shards)


def shard_table(content: bytes, name: str) -> dict[str, str]:
    """Tensor to shard, as the content of a ``model.safetensors.index.json`` says; ``name`` is what messages call it.

    Raises:
        InputError: it is no such index.
    """
    table = parse_object(content, f"{name} is not the index of a sharded file", 99).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(shard, str) for shard in table.values()):
        raise InputError(f"{name} is not the index of a sharded file: it has no 'weight_map' of tensor to file")
    return table


def joined_shards(
    table: Mapping[str, str], name: str, read: Callable[[str, int], tuple[dict[str, Tensor], int]]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of all shards of a table, in its order, and the names of the shards.

    ``read`` gives the tensors of a shard whose header has at most so many bytes, and how many it has.

    Raises:
        InputError: a shard is faulty, outside its folder or holds other tensors than the table says.
    """
    shards = {}
    left = MOST_HEADER
    for shard in dict.fromkeys(table.values()):
        # A shard stands beside its index; anything else could be made to read any file.
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise InputError(f"{name} names the shard {shard!r:.80}: expected the name of a file beside it")
        # All headers together may be as large as that of a single file.
        shards[shard], length = read(shard, left)
        left -= length
        for key in shards[shard]:
            if table.get(key) != shard:
                raise InputError(f"{name} and its shard {shard} disagree on tensor {key!r:.80}: fetch both again")
    missing = next((key for key, shard in table.items() if key not in shards[shard]), None)
    if missing is not None:
        raise InputError(
            f"{name} says that {table[missing]} holds tensor {missing!r:.80}, but it does not: fetch both again"
        )
    return {key: shards[shard][key] for key, shard in table.items()}, tuple(shards)


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file that may be hostile, if it has at most so many bytes.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    with _opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} has more than the {most:,} bytes that are read: give the right file")
    return content


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """An ordinary file, opened; what the system says against it becomes a sentence."""
    try:
        mode = path.stat().st_mode
        # Opening a pipe would wait for whoever writes to it.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "not an ordinary file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path} cannot be read ({reason}): give a file that exists and may be read") from None


def parse_header(content: bytes, name: str, data_bytes: int) -> dict[str, Tensor]:
    """The tensors of a header; ``data_bytes`` is the number of bytes behind it, ``name`` what messages call the file.

    Raises:
        InputError: the header is not what the format prescribes.
    """
    if len(content) > MOST_HEADER:
        raise InputError(f"{name} has a header of {len(content):,} bytes, more than the {MOST_HEADER:,} that are read")
    data = parse_object(content, f"{name}{_NO_HEADER}", len(content) // _LEAST_ENTRY + 2)
    metadata = data.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise _fault(f"{name}{_NO_HEADER}", "__metadata__ is not a table of texts")
    tensors, ranges = {}, []
    for key, fields in data.items():
        if len(key) > _LONGEST_NAME or not key.isprintable():
            raise _fault(f"{name}{_NO_HEADER}", f"{key!r:.80} is no name of a tensor")
        tensors[key], begin, end = _tensor(key, fields, name)
        ranges.append((begin, end, key))
    expected = 0
    for begin, end, key in sorted(ranges):
        if begin != expected:
            what = "overlaps the one before" if begin < expected else f"leaves a hole from byte {expected:,}"
            raise _fault(f"{name}{_NO_HEADER}", f"the data of tensor {key!r:.80} {what}")
        expected = end
    if expected != data_bytes:
        raise _fault(
            f"{name}{_NO_HEADER}", f"the tensors need {expected:,} bytes of data, but {data_bytes:,} are there"
        )
    return tensors


def parse_object(content: bytes, what: str, most_objects: int) -> dict[str, Any]:
    """A JSON object without repeated keys; ``what`` begins the sentence that says what is wrong with it.

    Raises:
        InputError: it is not UTF-8, not JSON, not an object, repeats a key, or holds more than ``most_objects`` objects
            or twice as many lists, for which a parser would take far more memory than the text.
    """
    if max(content.count(b"{"), content.count(b"[") // 2) > most_objects:
        raise _fault(what, "it nests more than such a file does")
    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise _fault(what, "it is not UTF-8 text") from None
    except RecursionError:
        raise _fault(what, "it nests more than such a file does") from None
    except _RepeatedKeyError as error:
        raise _fault(what, f"it names {error} twice") from None
    except ValueError as error:
        raise _fault(what, f"it is not JSON ({error!s:.80})") from None
    if not isinstance(data, dict):
        raise _fault(what, "it is not a JSON object")
    return data


class _RepeatedKeyError(Exception):
    """A JSON object has one key twice, which parsers read differently."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(repr(next(key for place, key in enumerate(keys) if found.pop(key, keys) is keys))[:80])
    return found


def _tensor(key: str, fields: Any, name: str) -> tuple[Tensor, int, int]:
    """A tensor of the header with the range of its data."""
    if not isinstance(fields, Mapping) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _fault(
            f"{name}{_NO_HEADER}", f"tensor {key!r:.80} must have dtype, shape and data_offsets, and nothing else"
        )
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str):
        raise _fault(f"{name}{_NO_HEADER}", f"tensor {key!r:.80} has the dtype {dtype!r:.40}, which is not text")
    if not _is_sizes(shape, MOST_SIZE) or len(shape) > _MOST_AXES:
        raise _fault(
            f"{name}{_NO_HEADER}",
            f"tensor {key!r:.80} has the shape {shape!r:.60}: expected whole numbers up to {MOST_SIZE}",
        )
    if not _is_sizes(offsets, 2**63) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _fault(
            f"{name}{_NO_HEADER}", f"tensor {key!r:.80} has the data_offsets {offsets!r:.60}: expected begin and end"
        )
    begin, end = offsets
    # A type that is newer than this list is taken as it is: its shape is what counts.
    if dtype in _BITS and math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise _fault(
            name, f"tensor {key!r:.80} of shape {shape!r:.60} and type {dtype} cannot have {end - begin} bytes"
        )
    return Tensor(dtype, tuple(shape)), begin, end


def _is_sizes(values: Any, most: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= most for value in values)


def _fault(what: str, reason: str) -> InputError:
    return InputError(f"{what}: {reason}: fetch or save it again")

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kzoo import InputError
from kzoo.readers.safetensors import Tensor, parse_header, read_header, read_shards


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def packed(header: bytes, data: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


def written(path: Path, header: object, data: int = 0, length: int | None = None) -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(packed(content, data, length))
    return path


GOOD = {"a.weight": entry("F32", [2, 3], 0, 24), "a.bias": entry("BF16", [3], 24, 30), "n": entry("I64", [], 30, 38)}


def test_a_file_that_safetensors_wrote(tmp_path: Path) -> None:
    state = {"b.weight": torch.zeros(3, 4), "b.bias": torch.zeros(3, dtype=torch.float16), "n": torch.tensor(7)}
    save_file(state, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert read_header(tmp_path / "x.safetensors") == {
        "b.weight": Tensor("F32", (3, 4)),
        "b.bias": Tensor("F16", (3,)),
        "n": Tensor("I64", ()),
    }


def test_nothing_behind_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.safetensors", {"w": entry("U8", [4_000_000_000 // 2, 2], 0, 4_000_000_000)})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 4_000_000_000)  # a hole: the file takes no room on the disk
    tracemalloc.start()
    assert read_header(path) == {"w": Tensor("U8", (2_000_000_000, 2))}
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "data", "sentence"),
    [
        (b"{", 0, "it is not JSON"),
        (b"", 0, "it is not JSON"),
        (b"[]", 0, "it is not a JSON object"),
        (b'{"\xff": 1}', 0, "it is not UTF-8 text"),
        (b'{"a":1,"a":1}', 0, "it names 'a' twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4, "it names 'dtype' twice"),
        ({"a": 7}, 0, "must have dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32", "shape": []}}, 0, "must have dtype, shape and data_offsets"),
        ({"a": entry("F32", [], 0, 4) | {"more": 1}}, 4, "must have dtype, shape and data_offsets"),
        ({"a": entry(7, [], 0, 4)}, 4, "has the dtype 7"),  # type: ignore[arg-type]
        ({"a": entry("F32", [-1], 0, 4)}, 4, "has the shape [-1]: expected whole numbers"),
        ({"a": entry("F32", [2**40], 0, 4)}, 4, "has the shape [1099511627776]: expected whole numbers"),
        ({"a": entry("F32", [1.0], 0, 4)}, 4, "has the shape [1.0]"),  # type: ignore[list-item]
        ({"a": entry("F32", [True], 0, 4)}, 4, "has the shape [True]"),
        ({"a": entry("F32", [1] * 65, 0, 4)}, 4, "has the shape [1, 1"),
        ({"a": entry("F32", "1", 0, 4)}, 4, "has the shape '1'"),  # type: ignore[arg-type]
        ({"a": entry("F32", [2], 0, 4)}, 4, "of shape [2] and type F32 cannot have 4 bytes"),
        ({"a": entry("F32", [2**31 - 1] * 64, 0, 4)}, 4, "cannot have 4 bytes"),
        ({"a": entry("F32", [1], 4, 0)}, 4, "has the data_offsets [4, 0]"),
        ({"a": entry("F32", [1], -4, 0)}, 4, "has the data_offsets [-4, 0]"),
        ({"a": entry("F32", [1], 0, 2**70)}, 4, "has the data_offsets"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, 6, "tensor 'b' overlaps the one before"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, 4, "overlaps the one before"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, 12, "'b' leaves a hole from byte 4"),
        ({"a": entry("F32", [1], 0, 4)}, 5, "need 4 bytes of data, but 5 are there"),
        ({"a": entry("F32", [1], 0, 4)}, 3, "need 4 bytes of data, but 3 are there"),
        ({"a\nb": entry("F32", [], 0, 4)}, 4, "'a\\nb' is no name of a tensor"),
        ({"a\x00": entry("F32", [], 0, 4)}, 4, "is no name of a tensor"),
        (b'{"a\\ud800": {}}', 0, "is no name of a tensor"),
        ({"a." * 501: entry("F32", [], 0, 4)}, 4, "is no name of a tensor"),
        ({"__metadata__": {"format": 1}}, 0, "__metadata__ is not a table of texts"),
        ({"__metadata__": []}, 0, "__metadata__ is not a table of texts"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 0, "it nests more than such a file does"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 0, "it nests more than such a file does"),
        (b'{"a":' + b"[" * 200 + b" " * 100_000 + b"]" * 200 + b"}", 0, "must have dtype"),
        (
            b'{"a":' + b"[" * 100_000 + b" " * 9_000_000 + b"]" * 100_000 + b"}",
            0,
            "it nests more than such a file does",
        ),
        (b'{"a":' + b"9" * 5000 + b"}", 0, "it is not JSON"),
        (b'{"a":NaN}', 0, "must have dtype"),
    ],
)
def test_faulty_headers(tmp_path: Path, header: object, data: int, sentence: str) -> None:
    path = written(tmp_path / "x.safetensors", header, data)
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "its 0 bytes end inside the header"),
        (b"1234567", "its 7 bytes end inside the header"),
        (packed(b"{}", length=2**60), "end inside the header, which should have 1,152,921,504,606,846,976"),
        (packed(b"{}", length=2**64 - 1), "end inside the header"),
        (packed(json.dumps(GOOD).encode())[:40], "end inside the header"),
    ],
)
def test_files_that_end_too_early(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_header(tmp_path / "x.safetensors")


def test_a_hundred_megabytes_of_json_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_000))
        file.truncate(100_000_008)
    tracemalloc.start()
    with pytest.raises(InputError, match="has a header of 100,000,000 bytes, more than the 25,000,000"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


BOMBS = """
import re
from kzoo import InputError
from kzoo.readers.safetensors import MOST_HEADER, parse_header
for unit in (b"[],", b"{},", b'"",', b"0,", b"1.5,", b'"a":0,'):
    first, last = (b"{", b"}") if b":" in unit else (b'{"a":[', b"]}")
    content = first + unit * ((MOST_HEADER - 8) // len(unit) - 1) + unit.rstrip(b",") + last
    assert MOST_HEADER - 20 < len(content) <= MOST_HEADER
    try:
        parse_header(content, "x", 0)
    except InputError as error:
        print(str(error)[:100])
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def test_the_largest_headers_take_bounded_memory_and_time() -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True)
    *sentences, megabytes = done.stdout.splitlines()
    assert [sentence.partition(": ")[2][:27] for sentence in sentences] == [
        "it nests more than such a f",
        "it nests more than such a f",
        *["tensor 'a' must have dtype,"] * 3,
        "it names 'a' twice: fetch o",
    ]
    assert int(megabytes) < 700
    assert time.perf_counter() - started < 30


def test_types_that_are_newer_than_the_list_are_taken_as_they_are() -> None:
    assert parse_header(json.dumps({"a": entry("F3", [8], 0, 3)}).encode(), "x", 3) == {"a": Tensor("F3", (8,))}


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.sampled_from([("F32", 4), ("U8", 1), ("F64", 8)]), st.lists(st.integers(0, 9), max_size=4)),
        max_size=8,
    )
)
def test_whatever_is_written_is_read(tensors: dict[str, tuple[tuple[str, int], list[int]]]) -> None:
    header, end = {}, 0
    for name, ((dtype, size), shape) in tensors.items():
        begin = end
        end += size * torch.Size(shape).numel()
        header[name] = entry(dtype, shape, begin, end)
    read = parse_header(json.dumps(header).encode(), "x", end)
    assert read == {name: Tensor(dtype, tuple(shape)) for name, ((dtype, _), shape) in tensors.items()}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_one_sentence(content: bytes) -> None:
    try:
        parse_header(content, "x", 0)
    except InputError as error:
        assert "\n" not in str(error)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (loop, "symbolic links"),
        (tmp_path / "pipe", "not an ordinary file"),
    ):
        with pytest.raises(InputError, match=rf"cannot be read \(.*{reason}.*give a file that exists"):
            read_header(path)


@pytest.fixture
def sharded(tmp_path: Path) -> Callable[..., Path]:
    """Two shards and an index, with changes to the index's table."""

    def make(**changes: Any) -> Path:
        written(tmp_path / "one.safetensors", {"a": entry("F32", [1], 0, 4), "b": entry("F32", [2], 4, 12)}, 12)
        written(tmp_path / "two.safetensors", {"c": entry("F32", [3], 0, 12)}, 12)
        table = {"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"} | changes
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": {k: v for k, v in table.items() if v is not None}}))
        return path

    return make


def test_shards(sharded: Callable[..., Path], tmp_path: Path) -> None:
    tensors, shards = read_shards(sharded())
    assert list(tensors.items()) == [("c", Tensor("F32", (3,))), ("a", Tensor("F32", (1,))), ("b", Tensor("F32", (2,)))]
    assert shards == (tmp_path / "two.safetensors", tmp_path / "one.safetensors")


def test_all_shards_together_are_bounded(sharded: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = sharded()
    sizes = [len((path.parent / f"{name}.safetensors").read_bytes()) for name in ("one", "two")]
    monkeypatch.setattr("kzoo.readers.safetensors.MOST_HEADER", max(sizes))
    with pytest.raises(InputError, match=r"has a header of .* bytes, more than the"):
        read_shards(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"c": "../two.safetensors"}, "names the shard '../two.safetensors': expected the name of a file beside it"),
        ({"c": "/etc/passwd"}, "expected the name of a file beside it"),
        ({"c": ".."}, "expected the name of a file beside it"),
        ({"c": ""}, "expected the name of a file beside it"),
        ({"c": 7}, "it has no 'weight_map' of tensor to file"),
        ({"c": "three.safetensors"}, "three.safetensors cannot be read (No such file"),
        ({"b": None}, "and its shard one.safetensors disagree on tensor 'b'"),
        ({"b": "two.safetensors"}, "disagree on tensor 'b'"),
        ({"d": "two.safetensors"}, "says that two.safetensors holds tensor 'd', but it does not"),
        ({"a": None, "b": None, "c": None}, "it has no 'weight_map'"),
    ],
)
def test_faulty_shards(sharded: Callable[..., Path], changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_shards(sharded(**changes))

"""Weights written part by part: the same bytes as safetensors writes, in bounded memory."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from kzoo.errors import InputError, WorldError
from kzoo.readers.files import read_weights_file
from kzoo.readers.safetensors import Tensor as Header
from kzoo.streaming import SIZES, Layout, Stored, write

DTYPES = {
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


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * 3
    return (values > 0) if dtype == torch.bool else values.abs().to(dtype)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Every type, scalars, empty tensors, names that sort otherwise than they stand."""
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == SIZES
    kinds = {f"{name}.weight": some(dtype, 5, 3) for name, dtype in sorted(DTYPES.items())}
    return kinds | {
        "b.ä": some(torch.float32, 7),
        "a": torch.tensor(3),
        "none": torch.zeros(0, 4),
        "Z": some(torch.float16, 2, 1, 9),
    }


@pytest.mark.parametrize("chunk", [8, 24, 1 << 20])
def test_a_copy_has_the_bytes_that_safetensors_writes(state, tmp_path, chunk):
    save_file(state, tmp_path / "one.safetensors", metadata={"format": "pt"})
    file = read_weights_file(tmp_path / "one.safetensors")
    told = []
    (tmp_path / "out").mkdir()
    with Stored(file) as stored:
        written = write(tmp_path / "out", Layout.of(file), stored.read, lambda _what, done: told.append(done), chunk)
    assert [path.name for path in written] == ["model.safetensors"]
    assert written[0].read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert told == sorted(told) and told[-1] == 1.0


def test_shards_become_shards_of_the_same_names(state, tmp_path):
    names = sorted(state)
    files = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(names)}
    for shard in sorted(set(files.values())):
        save_file(
            {name: state[name] for name in names if files[name] == shard}, tmp_path / shard, metadata={"format": "pt"}
        )
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    file = read_weights_file(tmp_path)
    (tmp_path / "out").mkdir()
    with Stored(file) as stored:
        written = write(tmp_path / "out", Layout.of(file), stored.read)
    assert [path.read_bytes() for path in written] == [(tmp_path / path.name).read_bytes() for path in written]
    again = read_weights_file(tmp_path / "out")
    assert again.tensors.keys() == file.tensors.keys() and [path.name for path in again.shards] == [
        p.name for p in file.shards
    ]
    table = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert table["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())


def test_pieces_are_made_in_their_order_and_joined(tmp_path):
    tensors = {"x": Header("BF16", (3, 5))}
    asked, content = [], torch.arange(15, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()

    def make(name, begin, into):
        asked.append((name, begin, len(into)))
        into[:] = content[begin : begin + len(into)]

    write(tmp_path, Layout(tensors, {"x": "model.safetensors"}), make, chunk=16)
    assert asked == [("x", 0, 16), ("x", 16, 14)]
    assert load_file(tmp_path / "model.safetensors")["x"].tolist() == torch.arange(15.0).reshape(3, 5).tolist()


def test_shards_may_be_joined_and_wrappers_names_are_left_out(tmp_path):
    for number in (1, 2):
        save_file(
            {f"module.{number}.weight": torch.ones(number)}, tmp_path / f"model-0000{number}-of-00002.safetensors"
        )
    table = {f"module.{number}.weight": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    file = read_weights_file(tmp_path)
    (tmp_path / "out").mkdir()
    with Stored(file) as stored:
        write(tmp_path / "out", Layout.of(file, sharded=False), stored.read)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["model.safetensors"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"1.weight": [1], "2.weight": [1, 1]}


def test_what_cannot_be_read_or_written_is_one_sentence(state, tmp_path):
    with pytest.raises(InputError, match="x has the type F8_E4M3, so it is quantised"):
        write(tmp_path, Layout({"x": Header("F8_E4M3", (2,))}, {"x": "model.safetensors"}), lambda *_: None)
    save_file(state, tmp_path / "one.safetensors")
    file = read_weights_file(tmp_path / "one.safetensors")
    with Stored(file) as stored, pytest.raises(WorldError, match="cannot be written"):
        write(tmp_path / "nowhere", Layout.of(file), stored.read)
    (tmp_path / "one.safetensors").write_bytes(b"short")
    with Stored(file) as stored, pytest.raises(WorldError, match=r"one\.safetensors cannot be read"):
        stored.read("a", 0, memoryview(bytearray(8)))

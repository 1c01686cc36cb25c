"""Weights written part by part: the same bytes as safetensors writes, in bounded memory."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kzoo.errors import InputError, WorldError
from kzoo.readers.files import read_weights_file
from kzoo.readers.safetensors import Tensor as Header
from kzoo.streaming import DTYPES, Layout, Stored, spans, write


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * 3
    return (values > 0) if dtype == torch.bool else values.abs().to(dtype)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Every type, scalars, empty tensors, names that sort otherwise than they stand."""
    kinds = {f"{name}.weight": some(dtype, 5, 3) for name, dtype in sorted(DTYPES.items())}
    return kinds | {
        "b.ä": some(torch.float32, 7),
        "a": torch.tensor(3),
        "none": torch.zeros(0, 4),
        "Z": some(torch.float16, 2, 1, 9),
    }


@given(st.lists(st.integers(0, 7), max_size=4), st.integers(1, 60))
def test_the_parts_of_a_tensor_are_the_tensor(shape, most):
    tensor = torch.arange(math.prod(shape)).reshape(shape)
    parts = [tensor[span] for span in spans(shape, most)]
    assert all(part.numel() <= most for part in parts)
    assert (
        torch.cat([part.reshape(-1) for part in parts] or [tensor.reshape(-1)]).tolist() == tensor.reshape(-1).tolist()
    )


def test_a_copy_has_the_bytes_that_safetensors_writes(state, tmp_path):
    save_file(state, tmp_path / "one.safetensors", metadata={"format": "pt"})
    file = read_weights_file(tmp_path / "one.safetensors")
    told = []
    (tmp_path / "out").mkdir()
    with Stored(file) as stored:
        written = write(tmp_path / "out", Layout.of(file), stored.part, lambda _what, done: told.append(done))
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
        written = write(tmp_path / "out", Layout.of(file), stored.part)
    assert [path.read_bytes() for path in written] == [(tmp_path / path.name).read_bytes() for path in written]
    again = read_weights_file(tmp_path / "out")
    assert again.tensors.keys() == file.tensors.keys() and [path.name for path in again.shards] == [
        p.name for p in file.shards
    ]
    table = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert table["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())


def test_parts_are_made_in_their_order_and_joined(tmp_path):
    tensors = {"x": Header("BF16", (3, 5))}
    asked = []

    def make(name, span):
        asked.append((name, span))
        return torch.arange(15, dtype=torch.bfloat16).reshape(3, 5)[span]

    write(tmp_path, Layout(tensors, {"x": "model.safetensors"}), make)
    assert asked == [("x", (slice(0, 3),))]
    assert load_file(tmp_path / "model.safetensors")["x"].tolist() == torch.arange(15.0).reshape(3, 5).tolist()


def test_what_cannot_be_read_or_written_is_one_sentence(state, tmp_path):
    with pytest.raises(InputError, match="x has the type F8_E4M3, so it is quantised"):
        write(tmp_path, Layout({"x": Header("F8_E4M3", (2,))}, {"x": "model.safetensors"}), lambda *_: torch.zeros(2))
    save_file(state, tmp_path / "one.safetensors")
    file = read_weights_file(tmp_path / "one.safetensors")
    with Stored(file) as stored, pytest.raises(WorldError, match="cannot be written"):
        write(tmp_path / "nowhere", Layout.of(file), stored.part)
    (tmp_path / "one.safetensors").write_bytes(b"short")
    with Stored(file) as stored, pytest.raises(WorldError, match=r"one\.safetensors cannot be read"):
        stored.part("a")

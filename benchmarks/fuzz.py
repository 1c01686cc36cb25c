"""Hostile inputs by the hundred thousand: each gives a value or one sentence, within bounds. ``make fuzz``.

Seeded, so that a case that fails can be made again: ``python -m benchmarks.fuzz --cases 1000 --seed 7``.
"""

from __future__ import annotations

import json
import random
import struct
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.common import peak_memory_mb, write
from kzoo.catalog import checked_source
from kzoo.errors import InputError
from kzoo.index import Index
from kzoo.layers import Architecture, Layer
from kzoo.local import add_model
from kzoo.paths import index_file, registry_directory
from kzoo.readers.files import read_weights_file
from kzoo.readers.safetensors import parse_header
from kzoo.readers.shapes import shapes_architecture, without_wrappers
from kzoo.search import search
from kzoo.zoo import Zoo

Case = Callable[[random.Random, Path], object]

_LONGEST_SENTENCE = 700
_NAMES = (
    "conv1",
    "bn1",
    "layer1",
    "0",
    "1",
    "fc",
    "weight",
    "bias",
    "running_mean",
    "gamma",
    "",
    "..",
    "\u0000",
    "é",
    "a" * 300,
    "a\nb",
    "\ud800",
    "9" * 600,
)
_NUMBERS = (0, 1, 2, 3, 64, -1, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 1.5, True, None, "7", [], {})
_DTYPES = ("F32", "F16", "I64", "BOOL", "BF16", "F99", "", 7, None)


def header(chance: random.Random, valid: float) -> dict[str, Any]:
    """A header that is sound in most places; ``valid`` is the share of fields left alone."""
    found: dict[str, Any] = {}
    end = 0
    for _ in range(chance.randrange(1, 12)):
        name = ".".join(chance.choice(_NAMES) for _ in range(chance.randrange(1, 5)))
        shape: Any = [chance.choice((1, 2, 3, 8)) for _ in range(chance.randrange(0, 6))]
        size = 4
        for axis in shape:
            size *= axis
        begin, end = end, end + size
        fields: dict[str, Any] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        for key in fields:
            if chance.random() > valid:
                fields[key] = chance.choice(
                    (chance.choice(_DTYPES), chance.choice(_NUMBERS), [chance.choice(_NUMBERS) for _ in range(3)])
                )
        found[name] = fields
    return found


def data_bytes(tensors: dict[str, Any]) -> int:
    ends = [
        fields["data_offsets"][1]
        for fields in tensors.values()
        if isinstance(fields["data_offsets"], list) and len(fields["data_offsets"]) == 2
    ]
    return max((end for end in ends if type(end) is int), default=0)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with bytes changed, cut, repeated or put in."""
    changed = bytearray(content)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] = chance.randrange(256)
        elif kind == 1:
            del changed[place : place + chance.randrange(1, 40)]
        elif kind == 2:
            changed[place:place] = chance.choice(
                (b"{", b"[", b'"', b"\\", b"}", b"]", b",", b":", b"\xff", b"\x00", b"e9", b"-")
            )
        elif kind == 3:
            changed[place:place] = changed[place : place + chance.randrange(1, 200)]
        else:
            changed[place:place] = chance.choice((b"[", b"{", b'{"a":')) * chance.randrange(1, 3000)
    return bytes(changed)


def built_header(chance: random.Random, _folder: Path) -> object:
    """A header whose fields may be anything, up to its architecture."""
    tensors = header(chance, valid=chance.choice((0.9, 0.99, 1.0)))
    read = parse_header(json.dumps(tensors).encode(), "x", data_bytes(tensors))
    return shapes_architecture(without_wrappers(read), "x").extended


def damaged_header(chance: random.Random, _folder: Path) -> object:
    """Sound JSON with damaged bytes."""
    tensors = header(chance, valid=1.0)
    return parse_header(damaged(json.dumps(tensors).encode(), chance), "x", data_bytes(tensors))


def damaged_file(chance: random.Random, folder: Path) -> object:
    """A whole file with a length that may lie, beside a config.json that may be anything."""
    path = folder / "model.safetensors"
    tensors = header(chance, valid=1.0)
    content = json.dumps(tensors).encode()
    lies = (len(content) + 1, 0, 2**60, 2**64 - 1, chance.randrange(2**32))
    length = len(content) if chance.random() < 0.5 else chance.choice(lies)
    path.write_bytes(struct.pack("<Q", length) + content + bytes(data_bytes(tensors)))
    config = {"architecture": chance.choice(("resnet18", 7, None, "x" * 999)), "num_classes": chance.choice(_NUMBERS)}
    text = json.dumps(
        config | {"pretrained_cfg": chance.choice((None, 7, {"input_size": [3, chance.choice(_NUMBERS), 9]}))}
    )
    (folder / "config.json").write_bytes(text.encode() if chance.random() < 0.5 else damaged(text.encode(), chance))
    return read_weights_file(chance.choice((path, folder))).architecture()


def damaged_shards(chance: random.Random, folder: Path) -> object:
    """The index of a sharded file whose table may name anything."""
    tensors = header(chance, valid=1.0)
    content = json.dumps(tensors).encode()
    (folder / "one.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(data_bytes(tensors)))
    shards = ("one.safetensors", "../one.safetensors", "none.safetensors", "", "/", 7, None, ".")
    table = {name: "one.safetensors" if chance.random() < 0.9 else chance.choice(shards) for name in tensors}
    text = json.dumps({"weight_map": table}).encode()
    path = folder / "model.safetensors.index.json"
    path.write_bytes(text if chance.random() < 0.7 else damaged(text, chance))
    return read_weights_file(path).architecture()


def damaged_registry_file(chance: random.Random, folder: Path) -> object:
    """A registry file with damaged bytes; its faults are counted as sentences too."""
    text = damaged(_family(chance).encode(), chance).decode("utf-8", "replace")
    return _raise_first(checked_source(folder / "torchvision" / "alexnet.yaml", text).faults)


def built_registry_file(chance: random.Random, folder: Path) -> object:
    """A registry file whose fields may be anything."""
    data = yaml.safe_load(_sound_family())
    for _ in range(chance.randrange(0, 3)):
        entry = data
        while isinstance(entry, dict | list) and entry and chance.random() < 0.8:
            key = chance.choice(list(entry)) if isinstance(entry, dict) else chance.randrange(len(entry))
            if chance.random() < 0.2:
                entry[key] = chance.choice(_NUMBERS)
            entry = entry[key]
    return _raise_first(checked_source(folder / "torchvision" / "alexnet.yaml", yaml.safe_dump(data)).faults)


def damaged_index(chance: random.Random, folder: Path) -> object:
    """An index one of whose members is damaged, with sound checksums; whatever can be read of it is searched."""
    members = dict(_sound_index())
    name = chance.choice(sorted(members))
    members[name] = damaged(members[name], chance)
    path = folder / "index.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    zoo = Zoo([Index(path)])
    target = Architecture((Layer("conv2d", (8, 3, 3, 3)), Layer("linear", (2, 8))))
    for measure in ("symmetric", "extended"):
        search(zoo, target, k=3, measure=measure)  # type: ignore[arg-type]
    return [entry.architecture(entry.default, "x").extended for entry in zoo.entries.values()]


@cache
def _sound_index() -> tuple[tuple[str, bytes], ...]:
    """The members of the index of a registry of one small network."""
    with tempfile.TemporaryDirectory() as folder:
        header = {"a.weight": {"dtype": "F32", "shape": [4, 3, 3, 3], "data_offsets": [0, 432]}}
        header["b.c.weight"] = {"dtype": "F32", "shape": [2, 4], "data_offsets": [432, 464]}
        content = json.dumps(header).encode()
        weights = Path(folder) / "x.safetensors"
        weights.write_bytes(struct.pack("<Q", len(content)) + content + bytes(464))
        add_model(weights, Path(folder), {"license": "mit"}, lambda what, done: None)
        with zipfile.ZipFile(index_file(Path(folder))) as archive:
            return tuple((name, archive.read(name)) for name in archive.namelist())


@cache
def _sound_family() -> str:
    return (registry_directory() / "torchvision" / "alexnet.yaml").read_text()


def _family(chance: random.Random) -> str:
    bombs = ("", "a: &a [x, x]\nb: *a\n", "? [1]\n: 2\n", "<<: {a: 1}\n", "x: !!python/object:os.system {}\n", "---\n")
    return chance.choice(bombs) + _sound_family()


def _raise_first(faults: list[Any]) -> object:
    for fault in faults:
        raise InputError(str(fault))
    return faults


#: Share of the cases of each kind.
KINDS: tuple[tuple[Case, float], ...] = (
    (built_header, 0.3),
    (damaged_header, 0.3),
    (damaged_file, 0.15),
    (damaged_shards, 0.07),
    (damaged_index, 0.03),
    (damaged_registry_file, 0.075),
    (built_registry_file, 0.075),
)


def run(kind: Case, cases: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run one kind; an exception that is not a sentence ends it with the case's number."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    folder = folder / kind.__name__
    folder.mkdir()
    for case in range(cases):
        chance = random.Random(f"{kind.__name__} {seed} {case}")
        started = time.perf_counter()
        try:
            kind(chance, folder)
            outcomes["read"] += 1
        except InputError as error:
            sentence = str(error)
            if "\n" in sentence or not 20 < len(sentence) < _LONGEST_SENTENCE:
                raise AssertionError(f"{kind.__name__} {case}: not one sentence: {sentence!r:.900}") from error
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{kind.__name__} {case}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.perf_counter() - started)
    return {"cases": cases, **dict(sorted(outcomes.items())), "slowest_s": round(slowest, 3)}


@click.command()
@click.option("--cases", default=100_000, show_default=True)
@click.option("--seed", default=2026, show_default=True)
def main(cases: int, seed: int) -> None:
    """Run all kinds of hostile inputs."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        kinds = {kind.__name__: run(kind, round(cases * share), seed, Path(folder)) for kind, share in KINDS}
    result = {
        "cases": sum(kind["cases"] for kind in kinds.values()),
        "seed": seed,
        "escaped": 0,
        "wall_s": round(time.perf_counter() - started, 1),
        "peak_memory_mb": peak_memory_mb(),
        "kinds": kinds,
    }
    write("fuzz", result)


if __name__ == "__main__":
    main()

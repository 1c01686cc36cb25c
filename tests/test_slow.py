"""``make verify``: checks over the whole index that take minutes; their results are committed."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

import kzoo
from benchmarks.common import write
from kzoo.indexing import build_index
from kzoo.layers import Item, Layer
from kzoo.paths import index_file, registry_directory
from kzoo.readers.libraries import LOCAL, load_library
from kzoo.search import search
from kzoo.zoo import Zoo
from tests.conftest import trained
from tests.plain_scan import PlainScan

pytestmark = pytest.mark.slow
TARGETS = 50


def test_whole_rankings_equal_a_plain_full_scan(zoo: Zoo) -> None:
    names = [name for name in zoo.entries if name.startswith("timm:")]
    names = names[:: len(names) // TARGETS][:TARGETS]
    scan = PlainScan()
    sources = {place: scan.number(zoo.spaces["paper"].items(place)) for place in trained(zoo, "paper")}
    worst = 0.0
    rows_compared = 0
    for name in names:
        target = kzoo.architecture(name)
        ours = scan.number([_unnamed(item) for item in target.items])
        plain = {
            place: math.sqrt(
                scan.value(theirs, ours)
                * scan.value(ours, theirs)
                / (int(zoo.spaces["paper"].first.encoding.typed[place]) * target.typed_layers)
            )
            for place, theirs in sources.items()
        }
        whole = search(zoo, target, k=len(plain))
        values = [row.similarity for row in whole]
        assert values == sorted(values, reverse=True)
        places = [zoo.models[row.model].places["paper"] for row in whole]
        assert sorted(places) == sorted(plain)
        worst = max([worst, *(abs(value - plain[place]) for value, place in zip(values, places, strict=True))])
        assert worst < 1e-11, name
        for k in (10, 60):
            assert search(zoo, target, k=k).results == whole.results[:k], name
        rows_compared += len(values)
    write("rankings", {"targets": len(names), "rows_compared": rows_compared, "largest_difference": worst})


def _unnamed(item: Item) -> Item:
    if isinstance(item, Layer):
        return Layer(item.kind, item.shape, bias=item.bias)
    return tuple(Layer(layer.kind, layer.shape, bias=layer.bias) for layer in item)


def test_every_head_from_the_index_is_the_one_that_the_library_builds(zoo: Zoo) -> None:
    checked = 0
    without = []
    for name, entry in zoo.entries.items():
        if entry.library == LOCAL:
            continue
        if entry.default.heads is None:
            without.append(name)
            continue
        ours = kzoo.architecture(name, classes=17)
        theirs = load_library(entry.library).build(entry.name, 17)
        assert ours == theirs, name
        assert ours.parameters == theirs.parameters, name
        checked += 1
    write("heads", {"architectures": checked, "left_to_the_library": without})


def test_a_full_rebuild_gives_the_same_bytes(tmp_path: Path) -> None:
    build_index(registry_directory(), tmp_path / "index.npz", lambda what, done: None)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "index.npz", index_file())]
    assert digests[0] == digests[1]

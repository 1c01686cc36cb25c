from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kzoo import scan as scanning
from kzoo.encoding import encode, encode_one
from kzoo.layers import Architecture
from kzoo.scan import INTERPRETED, Scan, compiled_engine
from kzoo.zoo import Zoo
from tests import transcription
from tests.architectures import architectures, bn, network


@settings(max_examples=100, deadline=None)
@given(architectures(), st.lists(architectures(), min_size=1, max_size=4))
def test_interpreter_and_compiled_code_agree_bit_by_bit(target: Architecture, sources: list[Architecture]) -> None:
    slow = Scan(encode_one(target), encode(sources), INTERPRETED)
    fast = Scan(encode_one(target), encode(sources), compiled_engine())
    assert slow.forward_values().tolist() == fast.forward_values().tolist()
    assert slow.reverse_values().tolist() == fast.reverse_values().tolist()
    for source in range(len(sources)):
        assert slow.pairs(source) == fast.pairs(source)
        assert slow.overwritten(source) == fast.overwritten(source)


@settings(max_examples=50, deadline=None)
@given(st.lists(architectures(), min_size=1, max_size=3), st.lists(architectures(), min_size=1, max_size=3))
def test_many_targets_at_once(targets: list[Architecture], sources: list[Architecture]) -> None:
    scan = Scan(encode(targets), encode(sources))
    expected = [[transcription.value(source.items, target.items) for source in sources] for target in targets]
    backward = [[transcription.value(target.items, source.items) for source in sources] for target in targets]
    np.testing.assert_allclose(scan.forward_values(), expected, atol=1e-12)
    np.testing.assert_allclose(scan.reverse_values(), backward, atol=1e-12)


def test_slices_and_threads_change_nothing(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = zoo.layers[0].spaces["paper"]
    target = encode([Architecture(everything.items(place)) for place in (3, 700)])
    whole = Scan(target, everything.encoding, dataclasses.replace(compiled_engine(), threads=1))
    told: list[float] = []
    sliced = Scan(target, everything.encoding, dataclasses.replace(compiled_engine(), threads=3), told.append)
    monkeypatch.setattr(scanning, "_STEPS_PER_THREAD", 1)
    assert (whole.forward_values() == sliced.forward_values()).all()
    assert (whole.reverse_values() == sliced.reverse_values()).all()
    assert told[-1] == 1.0
    assert len(told) > 4


def test_fewer_units_than_architectures() -> None:
    """The table of scores is then narrower than the row of values."""
    sources = encode([Architecture((bn(1),)), Architecture((bn(1),)), Architecture((bn(1),))])
    for engine in (INTERPRETED, compiled_engine()):
        scan = Scan(encode_one(Architecture((bn(1), bn(1)))), sources, engine)
        assert scan.forward_values().tolist() == [[2 / 2**0.5] * 3]
        assert scan.reverse_values().tolist() == [[1.0] * 3]


def test_without_a_writable_cache_the_kernel_is_compiled_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    compile_kernel = numba.njit

    def no_locator(**options: bool) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_kernel(**options)

    compiled_engine.cache_clear()
    monkeypatch.setattr(numba, "njit", no_locator)
    target = encode_one(Architecture((bn(2),)))
    assert Scan(target, target, compiled_engine()).forward_values().item() == 1.0
    compiled_engine.cache_clear()


def test_the_interpreter_serves_small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    one = encode_one(network(16, 2))
    compiled_engine()
    assert scanning.choose_engine(one, one) is compiled_engine(), "numba is loaded already"
    monkeypatch.delitem(sys.modules, "numba")
    assert scanning.choose_engine(one, one) is INTERPRETED
    monkeypatch.setattr(scanning, "_INTERPRETED_STEPS", 0)
    assert scanning.choose_engine(one, one) is compiled_engine()

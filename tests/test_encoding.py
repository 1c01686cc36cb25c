from __future__ import annotations

import copy
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kzoo.encoding import BLOCK_GROUP, decode, encode, encode_one, layer_scores, require_sound
from kzoo.layers import Architecture
from tests import transcription
from tests.architectures import architectures, network, residual


@settings(max_examples=100, deadline=None)
@given(st.lists(architectures(), min_size=1, max_size=5))
def test_nothing_but_names_is_lost(found: list[Architecture]) -> None:
    encoding = encode(found)
    assert len(encoding) == len(found)
    for place, architecture in enumerate(found):
        assert decode(encoding, place) == architecture.items
        assert encoding.typed[place] == architecture.typed_layers


def test_repeated_layers_and_blocks_are_stored_once() -> None:
    encoding = encode([network(16, 3), network(16, 5)])
    assert len(encoding.blocks) == 1
    assert len(encoding.kinds) == 4  # stem, the block's convolution and BN, head
    assert encoding.items.length.tolist() == [5, 7]
    assert encoding.blocks.position.tolist() == [0, 1, 3, 4]
    assert encoding.blocks.length.tolist() == [len(residual(16))]


@settings(max_examples=100, deadline=None)
@given(architectures(), architectures())
def test_layer_scores(target: Architecture, source: Architecture) -> None:
    ours, theirs = encode_one(target), encode_one(source)
    scores = layer_scores(ours, theirs)
    assert scores.shape == (ours.units, theirs.units)
    for row in range(len(ours.kinds)):
        for column in range(len(theirs.kinds)):
            # Bit by bit: ties between sources must not depend on how a score was computed.
            assert scores[row, column] == transcription.score(theirs.layer(column), ours.layer(row))
    assert not scores[len(ours.kinds) :].any()


@pytest.mark.parametrize(
    ("path", "place", "value"),
    [
        ("kinds", 0, -1),
        ("kinds", 0, 99),
        ("shapes", 0, 0),
        ("typed", 0, -1),
        ("items.unit", 0, 10_000),
        ("items.unit", 0, -1),
        ("items.group", 0, 99),
        ("items.position", 0, -1),
        ("items.position", 0, 10**9),
        ("items.position", 1, 0),
        ("items.start", 1, 10_000),
        ("items.start", 0, 1),
        ("items.length", 0, 2**31 - 1),
        ("blocks.group", 0, BLOCK_GROUP),
        ("blocks.unit", 0, 10_000),
        ("blocks.start", -1, 0),
    ],
)
def test_arrays_that_point_nowhere_are_refused(path: str, place: int, value: int) -> None:
    encoding = copy.deepcopy(encode([network(8, 2), network(16, 3)]))
    require_sound(encoding)
    array = functools.reduce(getattr, path.split("."), encoding)
    array.flat[place] = value
    with pytest.raises(ValueError, match="contradict one another"):
        require_sound(encoding)


@given(st.lists(architectures(), max_size=4))
def test_what_was_encoded_is_sound(found: list[Architecture]) -> None:
    require_sound(encode(found))

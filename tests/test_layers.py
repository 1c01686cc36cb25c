from __future__ import annotations

import pickle

import pytest

from kzoo import InputError
from kzoo.layers import Architecture, Layer, overlap
from tests.architectures import OTHER, bn, conv, fc, network


def test_entries_count_weight_and_bias() -> None:
    assert conv(8, 3).entries == 8 * 3 * 9 + 8
    assert Layer("conv2d", (8, 3, 3, 3), bias=False).entries == 216
    assert bn(8).entries == 16  # gamma and beta
    assert fc(10, 64).entries == 650
    assert Layer("conv_transpose2d", (4, 6, 2, 2)).bias_entries == 6  # output channels stand second
    assert Layer("other", (768,)).entries == 0


def test_overlap_takes_the_smaller_size_of_every_axis() -> None:
    assert overlap(conv(8, 3, 3), conv(12, 3, 5)) == 8 * 3 * 9 + 8
    assert overlap(Layer("linear", (4, 5), bias=False), fc(7, 2)) == 8


@pytest.mark.parametrize(
    ("kind", "shape", "named"),
    [
        ("conv", (1, 1, 1, 1), "conv2d"),
        ("conv2d", (8, 3, 3), "4 axes"),
        ("linear", (0, 3), "size 1 to 2147483647"),
        ("bn2d", (), "1 axes"),
        ("linear", ("a", "b"), "not a sequence of integers"),
        ("linear", 7, "not a sequence of integers"),
        ("linear", (1.5, 3), "not a sequence of integers"),
        ("conv2d", "1234", "not a sequence of integers"),
        ("linear", (10**12, 3), "size 1 to 2147483647"),
    ],
)
def test_bad_layers_are_refused(kind: str, shape: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Layer(kind, shape)  # type: ignore[arg-type]


def test_bad_items_are_refused() -> None:
    for item in ((), (conv(1, 1), "x"), None, ((conv(1, 1),),)):
        with pytest.raises(InputError, match="item 1"):
            Architecture((conv(1, 1), item))  # type: ignore[arg-type]


def test_items_must_be_a_sequence() -> None:
    for items in (None, conv(1, 1), 3):
        with pytest.raises(InputError, match="must be a tuple or a list"):
            Architecture(items)  # type: ignore[arg-type]


def test_lists_become_tuples() -> None:
    architecture = Architecture([conv(8, 3), [bn(8), OTHER]])  # type: ignore[arg-type]
    assert architecture.items == (conv(8, 3), (bn(8), OTHER))
    assert [path for path, _ in architecture.paths()] == [(0,), (1, 0), (1, 1)]
    assert architecture.typed_layers == 2


def test_fingerprint_forgets_names_only() -> None:
    plain = Architecture((conv(8, 3), bn(8)))
    assert plain.fingerprint == Architecture((Layer("conv2d", (8, 3, 3, 3), "stem"), bn(8)), name="x").fingerprint
    others = [
        Architecture((Layer("conv2d", (8, 3, 3, 3), bias=False), bn(8))),
        Architecture((conv(8, 3), OTHER, bn(8))),
        Architecture(((conv(8, 3), bn(8)),)),
        Architecture((bn(8), conv(8, 3))),
        Architecture((Layer("conv2d", (83, 3, 3, 3)), bn(8))),
    ]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_equal_architectures_hash_alike_across_processes() -> None:
    architecture = network(16, 2)
    assert hash(architecture) == hash(pickle.loads(pickle.dumps(architecture)))
    assert architecture == network(16, 2) != network(16, 3)


def test_entries_are_the_parameters_where_known() -> None:
    assert Architecture((fc(10, 4), OTHER)).entries == 50
    assert Architecture((fc(10, 4), OTHER), parameters=66).entries == 66

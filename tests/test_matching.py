"""The measure against the values of the DPIAT notes, against hand-worked cases, and against a plain transcription."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings

from kzoo import InputError
from kzoo.layers import Architecture, Layer
from kzoo.matching import Matching, match, similarity
from kzoo.readers.module import module_architecture, without_weights
from tests import transcription
from tests.architectures import OTHER, architectures, bn, conv, fc, network, residual
from tests.networks import cifar_resnet

Built = Callable[..., Architecture]


def cifar(blocks: int, width: int) -> Architecture:
    with without_weights():
        return module_architecture(cifar_resnet(blocks, width))


@pytest.mark.parametrize(
    ("source", "target", "value", "back", "directed", "reverse", "symmetric"),
    [
        ((2, 16), (3, 16), 29 + 3 * (8 / math.sqrt(2) - 4), 29, 0.828550, 1.0, 0.910247),
        ((2, 16), (5, 16), 41.585057, 29, 0.639770, 1.0, 0.799856),
        ((2, 10), (2, 16), 14.981389, 14.843750, 0.516600, 0.511853, 0.514221),
        ((2, 24), (2, 16), 16.222222, 16.222222, 0.559387, 0.559387, 0.559387),
        ((3, 24), (2, 16), 16.527778, 18.983646, 0.569923, 0.463016, 0.513696),
    ],
)
def test_cifar_resnets(
    source: tuple[int, int],
    target: tuple[int, int],
    value: float,
    back: float,
    directed: float,
    reverse: float,
    symmetric: float,
) -> None:
    found = match(cifar(*source), cifar(*target))
    assert (found.value, found.reverse_value) == pytest.approx((value, back), abs=5e-7)
    measures = (found.directed, found.reverse, found.symmetric)
    assert measures == pytest.approx((directed, reverse, symmetric), abs=5e-7)
    assert similarity(found.source, found.target) == found.symmetric
    assert similarity(found.source, found.target, "directed") == found.directed
    assert similarity(found.source, found.target, "reverse") == found.reverse


@pytest.mark.parametrize(
    ("source", "target", "symmetric"),
    [
        ("resnet18", "resnet34", 0.8455),
        ("resnet18", "resnet50", 0.4876),
        ("resnet34", "resnet50", 0.5873),
        ("resnet50", "wide_resnet50_2", 0.5888),
        ("resnet18", "vgg16", 0.1427),
        ("resnet18", "mobilenet_v2", 0.2487),
        ("vgg16", "vgg16_bn", 0.7428),
        ("vgg11_bn", "vgg16_bn", 0.8123),
    ],
)
def test_torchvision_symmetric(built: Built, source: str, target: str, symmetric: float) -> None:
    pair = built(f"torchvision:{source}"), built(f"torchvision:{target}")
    assert similarity(*pair) == pytest.approx(symmetric, abs=5e-5)
    assert similarity(*reversed(pair)) == pytest.approx(similarity(*pair), abs=1e-15)


@pytest.mark.parametrize(
    ("source", "target", "directed"),
    [
        ("resnet18", "resnet34", 0.7149),
        ("resnet34", "resnet18", 1.0),
        ("resnet18", "resnet50", 0.3521),
        ("resnet50", "resnet18", 0.6751),
        ("vgg16", "resnet18", 0.1262),
        ("mobilenet_v2", "resnet18", 0.3464),
    ],
)
def test_torchvision_directed(built: Built, source: str, target: str, directed: float) -> None:
    pair = built(f"torchvision:{source}"), built(f"torchvision:{target}")
    assert similarity(*pair, "directed") == pytest.approx(directed, abs=5e-5)


@pytest.mark.parametrize(
    ("source", "target", "symmetric"),
    [
        ("tf_efficientnet_b0", "tf_efficientnet_b1", 0.8967),
        ("tf_efficientnet_b0", "tf_efficientnet_b2", 0.8040),
        ("tf_efficientnet_b1", "tf_efficientnet_b2", 0.8966),
        ("tf_efficientnet_b0", "mixnet_m", 0.4976),
        ("tf_efficientnet_b0", "mixnet_l", 0.4572),
        ("tf_efficientnet_b0", "rexnet_100", 0.6466),
        ("tf_efficientnet_b0", "rexnet_150", 0.5757),
        ("tf_efficientnet_b0", "mnasnet_100", 0.6992),
        ("tf_efficientnet_b0", "semnasnet_100", 0.7637),
        ("mnasnet_100", "semnasnet_100", 0.7632),
        ("mixnet_m", "mixnet_l", 0.6736),
        ("rexnet_100", "rexnet_150", 0.7298),
    ],
)
def test_timm_symmetric(built: Built, source: str, target: str, symmetric: float) -> None:
    assert similarity(built(f"timm:{source}", 100), built(f"timm:{target}", 100)) == pytest.approx(symmetric, abs=5e-5)


@pytest.mark.parametrize(
    ("source", "target", "directed"),
    [
        ("tf_efficientnet_b1", "tf_efficientnet_b0", 1.0),
        ("tf_efficientnet_b0", "tf_efficientnet_b1", 0.8041),
        ("tf_efficientnet_b2", "tf_efficientnet_b0", 0.8974),
        ("tf_efficientnet_b0", "tf_efficientnet_b2", 0.7204),
        ("semnasnet_100", "tf_efficientnet_b0", 0.7218),
        ("tf_efficientnet_b0", "semnasnet_100", 0.8081),
    ],
)
def test_timm_directed(built: Built, source: str, target: str, directed: float) -> None:
    pair = built(f"timm:{source}", 100), built(f"timm:{target}", 100)
    assert similarity(*pair, "directed") == pytest.approx(directed, abs=5e-5)


@pytest.mark.parametrize(
    ("source", "target", "matched", "used", "coverage"),
    [
        ("resnet18", "resnet34", 73, 41, 1.0),
        ("resnet34", "resnet18", 41, 41, 1.0),
        ("resnet50", "resnet18", 41, 41, 0.6412),
        ("resnet18", "resnet50", 81, None, 0.5132),
        ("vgg16", "resnet18", 19, 9, 0.9482),
        ("mobilenet_v2", "resnet18", 41, 41, 0.0600),
    ],
)
def test_coverage(built: Built, source: str, target: str, matched: int, used: int | None, coverage: float) -> None:
    found = match(built(f"torchvision:{source}"), built(f"torchvision:{target}"))
    assert len(found.pairs) == matched
    assert used in (None, len({theirs for theirs, _, _ in found.pairs}))
    assert found.coverage == pytest.approx(coverage, abs=5e-5)


def test_tiny_networks_by_hand() -> None:
    source = Architecture((conv(8, 3), bn(8), OTHER, conv(16, 8), bn(16), OTHER, OTHER, OTHER, fc(10, 16)))
    target = Architecture(
        (
            conv(12, 3, 5),
            bn(12),
            OTHER,
            conv(12, 12),
            bn(12),
            OTHER,
            conv(24, 12),
            bn(24),
            OTHER,
            OTHER,
            OTHER,
            fc(7, 24),
        )
    )
    found = match(source, target)
    assert found.value == pytest.approx(
        8 / 12 * 9 / 25 + 8 / 12 + 12 / 16 * 8 / 12 + 12 / 16 + 7 / 10 * 16 / 24, abs=1e-12
    )
    assert (source.typed_layers, target.typed_layers) == (5, 7)
    assert found.directed == pytest.approx(0.374762, abs=5e-7)
    assert found.symmetric == pytest.approx(0.443424, abs=5e-7)
    assert [(theirs, ours) for theirs, ours, _ in found.pairs] == [
        ((i,), (j,)) for i, j in ((0, 0), (1, 1), (3, 3), (4, 4), (8, 11))
    ]
    overwritten = (8 * 3 * 9 + 8) + 16 + (12 * 8 * 9 + 12) + 24 + (7 * 16 + 7)
    assert found.overwritten == overwritten
    assert found.coverage == pytest.approx(overwritten / target.entries, abs=1e-15)


@pytest.mark.parametrize(
    ("source", "target", "value", "directed", "symmetric"),
    [
        (network(16, 1), network(16, 2), 2 + 8 / math.sqrt(2), 0.765685, 0.875035),
        (network(16, 1), network(16, 3), 2 + 12 / math.sqrt(3), None, 0.798579),
        (network(16, 2), network(16, 1), 6, 1.0, None),
        (network(16, 1), network(24, 1), 3.555556, 0.592593, 0.592593),
        (network(24, 1), network(16, 1), 3.555556, 0.592593, 0.592593),
    ],
)
def test_deepen_shrink_and_widen(
    source: Architecture, target: Architecture, value: float, directed: float | None, symmetric: float | None
) -> None:
    found = match(source, target)
    assert found.value == pytest.approx(value, abs=5e-7)
    assert directed is None or found.directed == pytest.approx(directed, abs=5e-7)
    assert symmetric is None or found.symmetric == pytest.approx(symmetric, abs=5e-7)


def test_of_equal_source_blocks_the_earliest_is_used() -> None:
    blocks = {theirs[0] for theirs, _, _ in match(network(16, 2), network(16, 1)).pairs}
    assert blocks == {0, 1, 3}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(Architecture((conv(8, 8, 1),)), Architecture((fc(8, 8),)), id="conv and linear"),
        pytest.param(Architecture((residual(8),)), Architecture((conv(8, 8),)), id="block and loose layer"),
        pytest.param(Architecture((bn(8),)), Architecture((Layer("bn1d", (8,)),)), id="two kinds of BN"),
    ],
)
def test_unlike_items_never_match(source: Architecture, target: Architecture) -> None:
    found = match(source, target)
    assert (found.value, found.symmetric, found.pairs, found.coverage) == (0.0, 0.0, (), 0.0)


def test_a_network_without_typed_layers_is_refused() -> None:
    for pair in ((Architecture((OTHER,), "relu"), network(16, 1)), (network(16, 1), Architecture((OTHER,), "relu"))):
        for function in (match, similarity):
            with pytest.raises(InputError, match="relu has no convolution, batch normalisation or linear layer"):
                function(*pair)


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(InputError, match="'cosine' is unknown: expected symmetric, directed, reverse"):
        similarity(network(16, 1), network(16, 1), "cosine")  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(architectures(), architectures())
def test_properties(source: Architecture, target: Architecture) -> None:
    found = match(source, target)
    for value in (found.symmetric, found.directed, found.reverse, found.coverage):
        assert 0.0 <= value <= 1.0 + 1e-12
    assert found.symmetric == pytest.approx(match(target, source).symmetric, abs=1e-12)
    assert similarity(source, source) == pytest.approx(1.0, abs=1e-12)
    assert match(source, source).coverage == 1.0
    _assert_pairs_are_a_matching(found)


def _assert_pairs_are_a_matching(found: Matching) -> None:
    sources, targets = dict(found.source.paths()), dict(found.target.paths())
    ours = [path for _, path, _ in found.pairs]
    theirs = [path for path, _, _ in found.pairs]
    assert ours == sorted(set(ours)), "a target layer is matched once, in order"
    # Within a run of target blocks the source block starts over, so only its item index is monotone.
    assert [path[0] for path in theirs] == sorted(path[0] for path in theirs), "matches cross"
    for source_path, path, score in found.pairs:
        assert sources[source_path].kind == targets[path].kind
        assert score == transcription.score(sources[source_path], targets[path]) > 0


@settings(max_examples=300, deadline=None)
@given(architectures(), architectures())
def test_agrees_with_the_transcription(source: Architecture, target: Architecture) -> None:
    found = match(source, target)
    assert found.value == pytest.approx(transcription.value(source.items, target.items), abs=1e-12)
    assert found.symmetric == pytest.approx(transcription.similarity(source, target), abs=1e-12)
    assert list(found.pairs) == transcription.pairs(source.items, target.items)


_PAIRS = [
    (source, target)
    for source, targets in {
        "resnet18": ("resnet34", "resnet26d", "seresnet18", "vgg11", "mobilenetv3_small_100", "regnetx_002"),
        "resnet26d": ("resnet18", "resnet50", "skresnet18", "resnetv2_50", "convnext_atto", "densenet121"),
        "mobilenetv2_100": (
            "mobilenetv3_large_100",
            "mnasnet_100",
            "tf_efficientnet_b0",
            "hardcorenas_a",
            "ghostnet_100",
        ),
        "regnety_004": (
            "regnetx_004",
            "mixnet_s",
            "resnet18",
            "vit_tiny_patch16_224",
            "tf_mobilenetv3_large_minimal_100",
        ),
        "vit_tiny_patch16_224": ("deit_small_patch16_224", "mixer_s32_224", "cait_xxs24_224", "resnet18"),
        "convnext_atto": ("convnext_tiny", "resnet18", "poolformer_s12", "edgenext_xx_small"),
    }.items()
    for target in targets
]


@pytest.mark.parametrize(("source", "target"), _PAIRS)
def test_agrees_with_the_transcription_on_timm(built: Built, source: str, target: str) -> None:
    ours, theirs = built(f"timm:{target}"), built(f"timm:{source}")
    found = match(theirs, ours)
    assert found.value == pytest.approx(transcription.value(theirs.items, ours.items), abs=1e-12)
    assert list(found.pairs) == transcription.pairs(theirs.items, ours.items)


def test_there_are_thirty_timm_pairs() -> None:
    assert len(_PAIRS) == 30

"""The extended measure: which layers it sees, and that the paper's numbers do not change by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kzoo
from kzoo import Architecture, InputError, Layer
from kzoo.layers import EXTENDED_KINDS, PAPER_KINDS, raw_parameter
from kzoo.matching import match, seen_by, similarity
from kzoo.readers.module import module_architecture, without_weights
from kzoo.search import search
from kzoo.zoo import Zoo
from tests.architectures import architectures

Built = Callable[..., Architecture]


def extended(module: nn.Module) -> list[tuple[str, str, tuple[int, ...], bool]]:
    layers = module_architecture(module).extended.layers
    return [(layer.name, layer.kind, layer.shape, layer.bias) for layer in layers if layer.typed]


def test_every_kind_that_the_paper_leaves_out() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5))

    class MyRMSNorm(Custom):
        pass

    module = nn.Sequential(
        nn.LayerNorm((3, 4)),
        nn.LayerNorm(4, bias=False),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.GroupNorm(2, 6),
        nn.InstanceNorm2d(6, affine=True),
        nn.RMSNorm(7),
        MyRMSNorm(),
        nn.Embedding(11, 5),
        nn.MultiheadAttention(6, 2, bias=False),
        Custom(),
    )
    assert extended(module) == [
        ("0", "layer_norm", (12,), True),
        ("1", "layer_norm", (4,), False),
        ("3", "group_norm", (6,), True),
        ("4", "group_norm", (6,), True),
        ("5", "rms_norm", (7,), False),
        ("6", "rms_norm", (5,), False),
        ("7", "embedding", (11, 5), False),
        ("8.in_proj_weight", "linear", (18, 6), False),
        ("8.out_proj", "linear", (6, 6), False),
        ("9.weight", "parameter1d", (5,), False),
    ]
    assert [layer.name for layer in module_architecture(module).layers if layer.typed] == ["8.out_proj"]


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((1, 1, 192), ("parameter1d", (192,))),
        ((192,), ("parameter1d", (192,))),
        ((96, 1, 1), ("parameter1d", (96,))),
        ((1, 197, 192), ("parameter2d", (197, 192))),
        ((2, 3, 4), ("parameter3d", (2, 3, 4))),
        ((2, 3, 4, 5), ("parameter3d", (6, 4, 5))),
        ((2, 1, 3, 4, 5), ("parameter3d", (6, 4, 5))),
        ((), ("parameter1d", (1,))),
        ((1, 1), ("parameter1d", (1,))),
        ((0, 4), ("other", ())),
        ((2**20, 2**20, 2, 2), ("other", ())),
    ],
)
def test_parameters_of_any_shape(shape: tuple[int, ...], layer: tuple[str, tuple[int, ...]]) -> None:
    found = raw_parameter(shape, "p")
    assert (found.kind, found.shape, found.bias_entries) == (*layer, 0)


def test_layer_scale_and_tokens_of_real_networks(built: Built) -> None:
    layers = {layer.name: layer for layer in built("timm:deit3_small_patch16_224").extended.layers}
    assert (layers["blocks.0.ls1.gamma"].kind, layers["blocks.0.ls1.gamma"].shape) == ("parameter1d", (384,))
    assert (layers["pos_embed"].kind, layers["pos_embed"].shape) == ("parameter2d", (196, 384))
    assert layers["blocks.0.norm1"].kind == "layer_norm"
    scale = {layer.name: layer for layer in built("torchvision:convnext_tiny").extended.layers}[
        "features.1.0.layer_scale"
    ]
    assert (scale.kind, scale.shape) == ("parameter1d", (96,))


@pytest.mark.parametrize(
    "name",
    ["timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224", "timm:convnext_atto", "timm:resnet18",
     "timm:nfnet_l0", "torchvision:vit_b_16", "timm:coat_tiny", "timm:levit_128s", "timm:naflexvit_base_patch16_gap"],
)  # fmt: skip
def test_the_paper_sees_what_it_saw(built: Built, name: str) -> None:
    read = built(name)
    assert {layer.kind for layer in read.layers} <= {*PAPER_KINDS, "other"}
    assert read == kzoo.architecture(name)
    assert read.paper is read
    assert read.extended.items == kzoo.architecture(name).extended.items
    seen = sum(layer.entries for layer in read.extended.layers)
    paper = sum(layer.entries for layer in read.layers)
    assert paper <= seen
    assert seen / read.entries > 0.97


def test_a_network_of_paper_kinds_alone_is_the_same_to_both(built: Built) -> None:
    resnet = built("timm:resnet18")
    assert resnet.extended == resnet
    other = built("timm:resnet34")
    assert similarity(resnet, other, "extended") == similarity(resnet, other)


@given(architectures(), architectures())
def test_without_extended_kinds_it_is_the_symmetric_measure(source: Architecture, target: Architecture) -> None:
    if source.typed_layers and target.typed_layers:
        assert similarity(source, target, "extended") == similarity(source, target, "symmetric")


@given(st.lists(st.sampled_from(EXTENDED_KINDS), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9))
def test_every_extended_kind_scores_like_the_others(kinds: list[str], ours: int, theirs: int) -> None:
    from kzoo.layers import WEIGHT_AXES

    def made(size: int) -> Architecture:
        return Architecture(tuple(Layer(kind, (size,) * WEIGHT_AXES[kind]) for kind in kinds))

    alone = [
        similarity(*(Architecture((made(size).items[i],)) for size in (ours, theirs)), "extended")
        for i in range(len(kinds))
    ]
    ratio = min(ours, theirs) / max(ours, theirs)
    assert alone == pytest.approx([ratio ** WEIGHT_AXES[kind] for kind in kinds])
    assert similarity(made(ours), made(ours), "extended") == 1.0
    with pytest.raises(InputError, match="has no convolution, batch normalisation or linear layer"):
        similarity(made(ours), made(theirs))


def test_the_paper_treats_extended_kinds_as_opaque_in_hand_made_networks() -> None:
    linear, norm, opaque = Layer("linear", (4, 4), "fc"), Layer("layer_norm", (4,), "norm"), Layer("other", (), "norm")
    mixed, plain = Architecture((linear, norm, linear)), Architecture((linear, opaque, linear))
    assert mixed.paper == plain
    assert (similarity(mixed, plain), similarity(mixed, plain, "extended")) == (1.0, pytest.approx((2 / 3) ** 0.5))
    matched = match(mixed, mixed, "extended")
    assert [score for _, _, score in matched.pairs] == [1.0] * 3
    assert matched.target.typed_layers == 3
    assert match(mixed, mixed).target.typed_layers == 2


def test_worked_by_hand() -> None:
    source = Architecture((Layer("layer_norm", (8,)), Layer("linear", (8, 8)), Layer("parameter1d", (8,))))
    target = Architecture((Layer("layer_norm", (4,)), Layer("linear", (8, 4)), Layer("parameter1d", (2,))))
    found = match(source, target, "extended")
    assert found.value == found.reverse_value == 1 / 2 + 1 / 2 + 1 / 4
    assert found.symmetric == pytest.approx(1.25 / 3)
    assert found.overwritten == (4 + 4) + (32 + 8) + 2
    assert match(source, target).value == 1 / 2


def test_transformers_are_told_apart(zoo: Zoo) -> None:
    target = kzoo.architecture("timm:vit_small_patch16_224")

    def equals(measure: str) -> set[str]:
        rows = search(zoo, target, k=30, measure=measure)  # type: ignore[arg-type]
        return {name for row in rows if row.similarity == 1.0 for name in (row.architecture, *row.also)}

    paper, ours = equals("symmetric"), equals("extended")
    assert ours < paper
    assert {"timm:vit_small_patch16_rope_224", "timm:deit3_small_patch16_224"} <= paper - ours
    assert {"timm:vit_small_patch16_224", "timm:deit_small_patch16_224"} <= ours


def test_rows_of_the_extended_measure_show_the_papers_values(zoo: Zoo) -> None:
    target = kzoo.architecture("timm:vit_tiny_patch16_224")
    for row in search(zoo, target, k=6, measure="extended"):
        source = kzoo.architecture(row.model)
        found = match(source, target)
        assert row.similarity == pytest.approx(similarity(source, target, "extended"), abs=1e-12)
        assert (row.symmetric, row.directed, row.reverse, row.coverage) == pytest.approx(
            (found.symmetric, found.directed, found.reverse, found.coverage), abs=1e-12
        )


def test_a_head_of_another_size_is_extended_too(built: Built) -> None:
    for name in ("timm:vit_tiny_patch16_224", "timm:deit_tiny_distilled_patch16_224", "torchvision:swin_t"):
        assert kzoo.architecture(name, classes=7).extended == built(name, 7).extended


def test_seen_by_refuses_what_does_not_exist() -> None:
    with pytest.raises(InputError, match="measure 'best' is unknown: expected symmetric, directed, reverse, extended"):
        seen_by("best", Architecture((Layer("linear", (1, 1)),)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no layer with weights"):
        seen_by("extended", Architecture((Layer("other"),)))


def test_a_large_network_is_read_in_both_ways_at_once() -> None:
    with without_weights():
        module = timm.create_model("vit_giant_patch14_224")
    read = module_architecture(module)
    assert (read.typed_layers, read.extended.typed_layers) == (162, 245)

from __future__ import annotations

from collections.abc import Callable

import pytest

from kzoo.layers import Architecture, Layer
from kzoo.readers.module import module_architecture, without_weights
from kzoo.standardize import ModuleTree, standardize
from tests.architectures import OTHER, bn, conv, fc
from tests.networks import cifar_resnet


def leaf(layer: Layer) -> ModuleTree:
    return ModuleTree(layer)


def box(*children: ModuleTree | Layer) -> ModuleTree:
    return ModuleTree(OTHER, tuple(child if isinstance(child, ModuleTree) else leaf(child) for child in children))


C, B, F = conv(8, 8), bn(8), fc(8, 8)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        pytest.param(leaf(F), (F,), id="a typed root is wrapped"),
        pytest.param(box(), (OTHER,), id="an empty root is opaque"),
        pytest.param(box(C, B, F), (C, B, F), id="the root never becomes a block"),
        pytest.param(box(box(C, B, F)), (C, B, F), id="nor does the chain below it"),
        pytest.param(box(C, box(C, B)), (C, C, B), id="a conv-BN pair alone is no block"),
        pytest.param(box(C, box(C, B, C)), (C, (C, B, C)), id="two dimensional layers make a block"),
        pytest.param(box(C, box(C, box(C, B, C))), (C, C, (C, B, C)), id="as many blocks as singles: dissolved"),
        pytest.param(box(C, box(C, C, box(C, B, C))), (C, (C, C, C, B, C)), id="more singles than blocks: one block"),
        pytest.param(box(C, box(box(C, C), box(C, C))), (C, (C, C), (C, C)), id="a stage dissolves"),
        pytest.param(box(C, box(box(C, C))), (C, (C, C)), id="a wrapper of one block is that block"),
        pytest.param(box(C, box(B)), (C, B), id="a wrapper of one layer is that layer"),
        pytest.param(box(C, box()), (C, OTHER), id="an empty container is opaque"),
    ],
)
def test_rule_worked_by_hand(tree: ModuleTree, expected: tuple[object, ...]) -> None:
    assert standardize(tree) == expected


@pytest.mark.parametrize(
    ("name", "items", "typed"),
    [
        ("torchvision:resnet18", 14, 41),
        ("torchvision:resnet34", 22, 73),
        ("torchvision:resnet50", 22, 107),
        ("torchvision:vgg16", 3, 16),
        ("torchvision:mobilenet_v2", 25, 105),
        ("torchvision:vit_b_16", 16, None),
        ("timm:tf_efficientnet_b0", 23, 131),
        ("timm:tf_efficientnet_b1", 30, 185),
        ("timm:tf_efficientnet_b2", 30, 185),
        ("timm:mixnet_m", 26, 214),
        ("timm:mixnet_l", 26, 214),
        ("timm:rexnet_100", 25, 138),
        ("timm:mnasnet_100", 24, 105),
        ("timm:semnasnet_100", 23, 115),
    ],
)
def test_check_values_of_the_notes(
    built: Callable[[str, int | None], Architecture], name: str, items: int, typed: int | None
) -> None:
    architecture = built(name, None)
    assert len(architecture.items) == items
    assert typed in (None, architecture.typed_layers)


def test_block_lengths_of_resnet18_and_vgg16(built: Callable[..., Architecture]) -> None:
    def lengths(name: str) -> list[int]:
        return [1 if isinstance(item, Layer) else len(item) for item in built(name).items]

    assert lengths("torchvision:resnet18") == [1, 1, 1, 1, 5, 5, 7, 5, 7, 5, 7, 5, 1, 1]
    assert lengths("torchvision:vgg16") == [31, 1, 7]


@pytest.mark.parametrize(("blocks", "items"), [(2, 14), (3, 17), (4, 20), (5, 23)])
def test_cifar_resnets(blocks: int, items: int) -> None:
    with without_weights():
        assert len(module_architecture(cifar_resnet(blocks, 16)).items) == items

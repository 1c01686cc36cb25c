from __future__ import annotations

import pytest
import timm
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kzoo import InputError, similarity
from kzoo.layers import Layer
from kzoo.readers.module import module_architecture, without_weights
from kzoo.readers.safetensors import Tensor
from kzoo.readers.shapes import learned_entries, registration_order, shapes_architecture, without_wrappers


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a file of the module's weights says, sorted as safetensors does."""
    state = module.state_dict()
    return {
        name: Tensor("F32" if state[name].is_floating_point() else "I64", tuple(state[name].shape))
        for name in sorted(state)
    }


def of(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name.replace("__", "."): Tensor("F32", shape) for name, shape in shapes.items()}


def kinds(found: dict[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    layers = shapes_architecture(found, "x").extended.layers
    return {layer.name: (layer.kind, layer.shape, layer.bias) for layer in layers if layer.typed}


def test_every_kind_that_shapes_tell() -> None:
    module = nn.ModuleDict(
        {
            "a": nn.Conv1d(2, 3, 5),
            "b": nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)),
            "c": nn.Sequential(nn.Conv3d(1, 2, (1, 2, 3)), nn.BatchNorm3d(2)),
            "d": nn.ConvTranspose2d(2, 3, 4),
            "e": nn.Sequential(nn.Linear(8, 9), nn.BatchNorm1d(9)),
            "f": nn.LayerNorm(7),
            "g": nn.RMSNorm(7),
            "h_embedding": nn.Embedding(11, 5),
            "i": nn.MultiheadAttention(6, 2),
        }
    )
    module["f"].register_parameter("gamma", nn.Parameter(module["f"].weight.detach().reshape(1, 7, 1)))
    assert kinds(tensors(module)) == {
        "a": ("conv1d", (3, 2, 5), True),
        "b.0": ("conv2d", (6, 2, 3, 3), False),
        "b.1": ("bn2d", (6,), True),
        "c.0": ("conv3d", (2, 1, 1, 2, 3), True),
        "c.1": ("bn3d", (2,), True),
        "d": ("conv_transpose2d", (2, 3, 4, 4), True),
        "e.0": ("linear", (9, 8), True),
        "e.1": ("bn1d", (9,), True),
        "f": ("layer_norm", (7,), True),
        "g": ("rms_norm", (7,), False),
        "h_embedding": ("embedding", (11, 5), False),
        "i.in_proj_weight": ("linear", (18, 6), True),
        "i.out_proj": ("linear", (6, 6), True),
    }


def test_parameters_that_a_container_holds() -> None:
    found = of(cls_token=(1, 1, 8), pos_embed=(1, 5, 8), scale=(), table=(2, 3, 4, 5), empty=(0, 3), norm__weight=(8,))
    assert kinds(found) == {
        "cls_token": ("parameter1d", (8,), False),
        "pos_embed": ("parameter2d", (5, 8), False),
        "scale": ("parameter1d", (1,), False),
        "table": ("parameter3d", (6, 4, 5), False),
        "norm": ("rms_norm", (8,), False),
    }


def test_the_paper_sees_no_more_of_a_header_than_of_a_module() -> None:
    layers = shapes_architecture(of(norm__weight=(8,), token=(1, 8), fc__weight=(3, 8)), "x").layers
    assert [layer.kind for layer in layers if layer.typed] == ["linear"]
    assert shapes_architecture(of(fc__weight=(3, 8)), "x").approximate


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ("bn1 bn2 conv1 conv2 downsample", "conv1 bn1 conv2 bn2 downsample"),
        ("bn1 conv1 fc layer1 layer2 layer10", "conv1 bn1 layer1 layer2 fc layer10"),
        ("bn1 bn2 bn3 conv_dw conv_pw conv_pwl se", "conv_pw bn1 conv_dw bn2 se conv_pwl bn3"),
        ("10 9 1 0", "0 1 9 10"),
        ("attn ls1 ls2 mlp norm1 norm2", "norm1 attn ls1 norm2 mlp ls2"),
        ("classifier features", "features classifier"),
        ("blocks head norm patch_embed", "patch_embed blocks norm head"),
        ("head neck body", "body head neck"),
    ],
)
def test_the_usual_order(given: str, order: str) -> None:
    assert registration_order(given.split()) == order.split()


@given(st.lists(st.text("abc019_é²", max_size=6), unique=True))
def test_any_names_can_be_ordered_and_none_is_lost(names: list[str]) -> None:
    ordered = registration_order(names)
    assert sorted(ordered) == sorted(names)
    assert ordered == registration_order(reversed(names))


@pytest.mark.parametrize(
    ("names", "bare"),
    [
        ("module.conv.weight module.fc.weight", "conv.weight fc.weight"),
        ("module.model.backbone.conv.weight", "conv.weight"),
        ("backbone.conv.weight head.weight", "conv.weight head.weight"),
        ("model.fc.weight fc.weight", "model.fc.weight fc.weight"),
        ("models.fc.weight", "models.fc.weight"),
        ("model.weight", "weight"),
    ],
)
def test_wrappers_are_taken_off(names: str, bare: str) -> None:
    assert list(without_wrappers(dict.fromkeys(names.split(), Tensor("F32", (1,))))) == bare.split()


def test_learned_entries_leave_statistics_out() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    assert learned_entries(tensors(module)) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "name", ["resnet50", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0", "regnety_002"]
)
def test_timm_networks_are_nearly_themselves(name: str) -> None:
    with without_weights():
        module = timm.create_model(name)
    exact, guessed = module_architecture(module), shapes_architecture(tensors(module), name)
    assert guessed.typed_layers == exact.typed_layers
    assert guessed.entries == exact.entries
    assert sorted(layer.shape for layer in guessed.layers if layer.typed) == sorted(
        layer.shape for layer in exact.layers if layer.typed
    )
    assert similarity(guessed, exact) > 0.8


def test_a_torchvision_network_is_nearly_itself() -> None:
    with without_weights():
        module = torchvision.models.resnet18()
    exact = module_architecture(module)
    guessed = shapes_architecture(tensors(module), "x")
    names = [layer.name for layer in guessed.layers if layer.typed]
    assert names == [layer.name for layer in exact.layers if layer.typed]
    assert similarity(guessed, exact) == 1.0


def test_strange_names_and_shapes() -> None:
    assert shapes_architecture(of(weight=(3, 8)), "x").layers == (Layer("linear", (3, 8), "", bias=False),)
    deep = ".".join(["a"] * 101)
    with pytest.raises(InputError, match="lies 101 modules deep: expected at most 100"):
        shapes_architecture({f"{deep}.weight": Tensor("F32", (1, 1))}, "x")
    many = {f"a{place}.weight": Tensor("F32", (1, 1)) for place in range(3001)}
    with pytest.raises(InputError, match="the tensors of 3,001 modules, more than the 3,000 that are compared"):
        shapes_architecture(many, "x")
    digits = {f"layers.{'1' * 500}.weight": Tensor("F32", (1, 1))}
    assert shapes_architecture(digits, "x").typed_layers == 1
    wrapped = without_wrappers({"model." * 100 + "weight": Tensor("F32", (1,))})
    assert len(next(iter(wrapped))) < 600
    for shape in ((0, 3), (), (2, 2, 2, 2, 2, 2), (2**31 - 1, 0)):
        assert not shapes_architecture(of(a__weight=shape), "x").typed_layers
    integers = {"index": Tensor("I64", (9, 9)), "a.weight": Tensor("I8", (3, 4)), "a.bias": Tensor("F32", (3,))}
    assert [layer.name for layer in shapes_architecture(integers, "x").extended.layers if layer.typed] == ["a"]

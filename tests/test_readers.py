from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from kzoo import InputError
from kzoo.layers import Layer
from kzoo.readers import timm as timm_reader
from kzoo.readers import torchvision as torchvision_reader
from kzoo.readers.libraries import load_library
from kzoo.readers.module import module_architecture, without_weights
from kzoo.readers.variants import head_layers
from tests.architectures import OTHER, network


def test_every_typed_class_is_read() -> None:
    module = nn.Sequential(
        nn.Conv1d(2, 3, 5),
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.Conv3d(1, 2, (1, 2, 3)),
        nn.ConvTranspose1d(2, 3, 4),
        nn.ConvTranspose2d(2, 3, 4),
        nn.ConvTranspose3d(2, 3, 4),
        nn.BatchNorm1d(7),
        nn.BatchNorm2d(7),
        nn.BatchNorm3d(7),
        nn.Linear(8, 9),
        nn.LayerNorm(7),
        nn.BatchNorm2d(7, affine=False),
    )
    assert [(layer.kind, layer.shape, layer.bias) for layer in module_architecture(module).layers if layer.typed] == [
        ("conv1d", (3, 2, 5), True),
        ("conv2d", (6, 2, 3, 3), False),
        ("conv3d", (2, 1, 1, 2, 3), True),
        ("conv_transpose1d", (2, 3, 4), True),
        ("conv_transpose2d", (2, 3, 4, 4), True),
        ("conv_transpose3d", (2, 3, 4, 4, 4), True),
        ("bn1d", (7,), True),
        ("bn2d", (7,), True),
        ("bn3d", (7,), True),
        ("linear", (9, 8), True),
    ]
    assert module_architecture(module).layers[-1] == Layer("other", (), "11")


def test_subclasses_count_as_their_class_and_hide_their_children() -> None:
    module = timm.create_model("resnet18", norm_layer=timm.layers.BatchNormAct2d)
    assert "bn1.act" not in {layer.name for layer in module_architecture(module).layers}
    assert sum(layer.kind == "bn2d" for layer in module_architecture(module).layers) == 20


def test_order_is_registration_order_and_raw_parameters_are_unseen() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.ones(5))
            self.first = nn.Linear(2, 2)

    architecture = module_architecture(Odd())
    assert [layer.name for layer in architecture.layers] == ["last", "first"]
    assert architecture.parameters == 6 + 5 + 6


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(InputError, match=r"parameter weight has no shape yet"):
        module_architecture(nn.LazyLinear(3))


def test_no_weights_are_allocated() -> None:
    with without_weights():
        module = timm.create_model("resnet18")
    assert all(parameter.is_meta for parameter in module.parameters())
    real = timm.create_model("resnet18")
    assert module_architecture(module) == module_architecture(real)


@pytest.mark.parametrize("name", ["regnet_y_400mf", "regnet_x_400mf"])
def test_regnets_are_built_on_the_cpu(name: str) -> None:
    import torchvision

    real = module_architecture(torchvision.models.get_model(name))
    assert torchvision_reader.build(name) == real


def test_initialisers_are_skipped_only_inside() -> None:
    with without_weights(on_cpu=True):
        assert nn.init.normal_(tensor=torch.zeros(2)).tolist() == [0.0, 0.0]
    assert nn.init.normal_(torch.zeros(2)).tolist() != [0.0, 0.0]


@pytest.mark.parametrize(
    ("tag", "data"),
    [
        ("a1_in1k", ["imagenet-1k"]),
        ("augreg_in21k_ft_in1k", ["imagenet-21k", "imagenet-1k"]),
        ("clip_laion2b_augreg_ft_in12k_in1k_384", ["laion-2b", "imagenet-12k", "imagenet-1k"]),
        ("fb_inw21k", ["imagenet-21k-winter"]),
        ("fb_swsl_ig1b_ft_in1k", ["instagram-1b", "imagenet-1k"]),
        ("ns_jft_in1k_475", ["jft-300m", "imagenet-1k"]),
        ("fb", []),
    ],
)
def test_data_sets_in_timm_tags(tag: str, data: list[str]) -> None:
    assert timm_reader.trained_on(tag) == data


def test_timm_entries() -> None:
    entry = timm_reader.entry("resnet18")
    assert (entry.parameters, entry.classes, entry.input_size) == (11_689_512, 1000, [3, 224, 224])
    first = entry.checkpoints[0]
    assert (first.id, first.license, first.trained_on) == ("timm/resnet18.a1_in1k", "apache-2.0", ["imagenet-1k"])
    assert timm_reader.entry("vit_base_patch16_18x2_224").checkpoints == []
    shared = {c.id: c.hub for c in timm_reader.entry("vit_base_patch16_clip_quickgelu_224").checkpoints}
    assert shared["timm/vit_base_patch16_clip_quickgelu_224.openai"] == "timm/vit_base_patch16_clip_224.openai"
    unhubbed = timm_reader.entry("gcvit_base").checkpoints[0]
    assert unhubbed.id == "timm/gcvit_base.in1k"
    assert unhubbed.url is not None


def test_torchvision_entries() -> None:
    entry = torchvision_reader.entry("resnet50")
    assert [checkpoint.tag for checkpoint in entry.checkpoints] == ["IMAGENET1K_V2", "IMAGENET1K_V1"]
    assert entry.checkpoints[0].metrics["imagenet-1k"]["top1"] == 80.858
    swag = next(c for c in torchvision_reader.entry("vit_b_16").checkpoints if c.tag == "IMAGENET1K_SWAG_E2E_V1")
    assert (swag.license, swag.input_size) == ("cc-by-nc-4.0", [3, 384, 384])
    assert swag.license_link is not None


def test_forms_of_an_architecture() -> None:
    tags = ("augreg_in1k", "augreg_in21k", "orig_in21k")
    default, in21k, headless = timm_reader._variants("vit_base_patch16_224", tags)
    assert [form.tags for form in (default, in21k, headless)] == [
        ("", "augreg_in1k"),
        ("augreg_in21k",),
        ("orig_in21k",),
    ]
    assert default.architecture.layers[default.heads[0]].name == "head"  # type: ignore[index]
    assert default.parameters_per_class == 769
    assert headless.architecture.layers[-1].kind == "other"


def test_heads_are_found_only_where_nothing_else_changes() -> None:
    assert head_layers(network(16, 1), network(16, 1)) is None
    assert head_layers(network(16, 1), network(16, 2)) is None
    assert head_layers(network(16, 1), network(17, 1)) is None
    from kzoo.layers import Architecture
    from tests.architectures import fc

    assert head_layers(Architecture((OTHER, fc(10, 4))), Architecture((OTHER, fc(11, 4)))) == (1,)
    assert head_layers(Architecture((fc(10, 4),)), Architecture((fc(12, 4),))) is None
    assert head_layers(Architecture((fc(10, 4),)), Architecture((OTHER,))) is None


def test_unknown_and_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'keras' is unknown: expected timm or torchvision"):
        load_library("keras")
    import sys

    monkeypatch.setitem(sys.modules, "kzoo.readers.timm", None)
    with pytest.raises(InputError, match="install torch, timm and torchvision"):
        load_library("timm")

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

import kzoo
from kzoo import InputError
from kzoo.sources import Options
from kzoo.zoo import Zoo
from tests.architectures import network


def test_every_spelling_of_a_checkpoint_is_the_same_network() -> None:
    spellings = ("timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k", "timm:resnet18")
    assert len({kzoo.architecture(text).fingerprint for text in spellings}) == 1
    assert kzoo.architecture("apple/mobileclip_s0_timm") == kzoo.architecture("timm:fastvit_mci0.apple_mclip")
    assert kzoo.architecture("torchvision/resnet18.IMAGENET1K_V1") == kzoo.architecture("torchvision:resnet18")


def test_objects() -> None:
    architecture = network(16, 2)
    assert kzoo.architecture(architecture) is architecture
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    read = kzoo.architecture(module)
    assert [layer.kind for layer in read.layers] == ["conv2d", "other", "linear"]
    assert (read.name, read.parameters) == ("Sequential", 224 + 18)
    assert kzoo.similarity(module, read) == 1.0
    with pytest.raises(InputError, match="from int"):
        kzoo.architecture(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("timm:resnet2d", "timm has no architecture 'resnet2d'; nearest: timm:resnet26d, timm:resnet"),
        ("torchvision:resnet19", "torchvision has no architecture 'resnet19'; nearest: torchvision:resnet1"),
        ("resnet18", "'resnet18' names no network: expected timm:NAME"),
        ("timm/resnet18.a9_in1k", "nearest: timm/resnet18.a"),
        ("", "names no network"),
        ("py:os:getcwd", "would import and run code: add --trust-code"),
        ("py:os", "expected py:package.module:factory"),
    ],
)
def test_what_is_not_known(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        kzoo.architecture(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_three_nearest_names(zoo: Zoo) -> None:
    with pytest.raises(InputError) as caught:
        kzoo.architecture("timm:efficientnet_b9")
    nearest = str(caught.value).rpartition("nearest: ")[2].split(", ")
    assert len(nearest) == 3
    assert set(nearest) <= {*zoo.entries, *zoo.models}


@pytest.mark.parametrize("classes", [1, 10, 1000, 1001])
@pytest.mark.parametrize(
    "name",
    [
        "timm:resnet26d",
        "timm:levit_128",
        "timm:deit_tiny_distilled_patch16_224",
        "timm:hrnet_w18_small",
        "torchvision:googlenet",
    ],
)
def test_a_head_from_the_index_is_the_one_that_the_library_builds(built: object, name: str, classes: int) -> None:
    ours, theirs = kzoo.architecture(name, classes=classes), built(name, classes)  # type: ignore[operator]
    assert ours == theirs
    assert ours.parameters == theirs.parameters


def test_other_options_ask_the_library() -> None:
    grey = kzoo.architecture("timm:resnet18", in_chans=1, classes=5)
    assert grey.layers[0].shape == (64, 1, 7, 7)
    assert grey.layers[-1].shape == (5, 512)
    assert kzoo.architecture("timm:resnet18", in_chans=3) == kzoo.architecture("timm:resnet18")
    large = kzoo.architecture("timm:vit_tiny_patch16_224", img_size=384)
    assert large == kzoo.architecture("timm:vit_tiny_patch16_224")
    assert large.parameters == kzoo.architecture("timm:vit_tiny_patch16_224").entries + (24**2 - 14**2) * 192
    assert kzoo.architecture("timm:resnet18", img_size=64) == kzoo.architecture("timm:resnet18")
    assert kzoo.architecture("timm:resnet18", classes=0).layers[-1].kind == "other"
    assert kzoo.architecture("torchvision:resnet18", img_size=64) == kzoo.architecture("torchvision:resnet18")
    for name, options in (
        ("timm:vit_tiny_r_s16_p8_224", {"img_size": 37}),
        ("timm:gcvit_xxtiny", {"img_size": 1}),
        ("torchvision:efficientnet_b0", {"classes": 0}),
    ):
        with pytest.raises(InputError, match=f"{name} cannot be built with these options"):
            kzoo.architecture(name, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes 3 input channels only"):
        kzoo.architecture("torchvision:resnet18", in_chans=1)


@pytest.mark.parametrize(
    "options", [{"classes": -1}, {"in_chans": 0}, {"img_size": 0}, {"classes": 2**31}, {"classes": 1.5}]
)
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected a whole number"):
        Options(**options)


def test_options_change_named_networks_only() -> None:
    for network_of_ones_own in (network(16, 2), nn.Linear(3, 4), "py:tests.plain:relu"):
        with pytest.raises(InputError, match="change a network that kzoo builds by name"):
            kzoo.architecture(network_of_ones_own, classes=10, trust_code=True)


def test_submodules() -> None:
    part = kzoo.architecture("timm:resnet18", submodule="layer1")
    assert [len(item) for item in part.items] == [8, 8]  # type: ignore[arg-type]
    assert part.layers[0].name == "0.conv1"
    assert part == kzoo.architecture("timm:resnet18", submodule="layer1", classes=7)
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6)))
    assert [layer.shape for layer in kzoo.architecture(module, submodule="1").layers] == [(5, 4), (6, 5)]
    with pytest.raises(InputError, match="has no submodule 'layer9': its outermost ones are conv1, bn1, act1"):
        kzoo.architecture("timm:resnet18", submodule="layer9")
    with pytest.raises(InputError, match=r"kzoo\.Architecture has no submodules"):
        kzoo.architecture(network(8, 1), submodule="layer1")
    with pytest.raises(InputError, match="expected the path of a module"):
        Options(submodule="")


def test_python_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))\ndef wrong():\n    return 7\n"
        "def needy(x):\n    return x\ndef leaves():\n    raise SystemExit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    read = kzoo.architecture("py:mynets:small", trust_code=True)
    assert [layer.shape for layer in read.layers] == [(8, 4), (2, 8)]
    for text, sentence in {
        "py:mynets:wrong": "returned int: expected a torch module",
        "py:mynets:absent": "failed with AttributeError",
        "py:nowhere:small": "failed with ModuleNotFoundError",
        "py:mynets:needy": r"failed with TypeError .*a function in it that needs no arguments",
        "py:mynets:leaves": "failed with SystemExit",
        "py:.mynets:small": "failed with TypeError",
    }.items():
        with pytest.raises(InputError, match=sentence):
            kzoo.architecture(text, trust_code=True)
    sys.modules.pop("mynets")

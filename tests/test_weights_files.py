"""Networks that are files: what is read of them, and when it is exact."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

import kzoo
from kzoo import InputError
from kzoo.errors import KzooWarning
from kzoo.readers.files import looks_like_path, read_weights_file
from kzoo.readers.module import without_weights
from kzoo.readers.safetensors import Tensor
from kzoo.readers.shapes import shapes_architecture
from kzoo.refine import as_claimed, fits, fitting, identify
from kzoo.zoo import Zoo

Saved = Callable[..., Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A folder with the weights of a network in it, and a config.json where one is given."""

    def save(module: torch.nn.Module, config: dict[str, Any] | None = None, prefix: str = "", shards: int = 1) -> Path:
        folder = tmp_path_factory.mktemp("model")
        state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
        names = [f"part-{shard}.safetensors" for shard in range(shards)]
        if shards == 1:
            save_file(state, folder / "model.safetensors")
        else:
            table = {name: names[place % shards] for place, name in enumerate(state)}
            for shard in names:
                save_file({name: state[name] for name in state if table[name] == shard}, folder / shard)
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return save


@pytest.fixture(scope="module")
def resnet(saved: Saved) -> Path:
    return saved(timm.create_model("resnet10t", num_classes=7))


def test_without_a_config_it_is_approximate_until_refined(resnet: Path) -> None:
    exact = kzoo.architecture("timm:resnet10t", classes=7)
    read = kzoo.architecture(str(resnet))
    assert (read.approximate, exact.approximate) == (True, False)
    assert read.parameters == exact.parameters
    assert read != exact
    refined = kzoo.architecture(str(resnet), refine=True)
    assert (refined, refined.approximate, refined.extended) == (exact, False, exact.extended)
    assert refined.fingerprint == exact.fingerprint


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet10t", "num_classes": 7},
        {"architecture": "resnet10t.c3_in1k", "num_classes": 7, "pretrained_cfg": {"num_classes": 9}},
        {"pretrained_cfg": {"architecture": "resnet10t", "num_classes": 7}},
        {"architecture": "timm:resnet10t", "num_classes": 7},
        {"architecture": "resnet10t", "library_name": "timm", "num_classes": 7},
        {"architecture": "resnet10t"},
        {"architecture": "timm:resnet10t.c3_in1k"},
    ],
)
def test_a_config_that_fits_makes_it_exact(saved: Saved, config: dict[str, Any]) -> None:
    folder = saved(timm.create_model("resnet10t", num_classes=7), config)
    assert kzoo.architecture(str(folder)) == kzoo.architecture("timm:resnet10t", classes=7)
    assert not kzoo.architecture(str(folder / "model.safetensors")).approximate


def test_a_torchvision_config(saved: Saved) -> None:
    config = {"architecture": "squeezenet1_1", "library_name": "torchvision"}
    folder = saved(torchvision.models.squeezenet1_1(), config)
    assert kzoo.architecture(str(folder)) == kzoo.architecture("torchvision:squeezenet1_1")


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet18", "num_classes": 7},
        {"architecture": "nonsense", "num_classes": 7},
    ],
)
def test_a_config_that_does_not_fit_leaves_it_approximate(saved: Saved, config: dict[str, Any]) -> None:
    folder = saved(timm.create_model("resnet10t", num_classes=7), config)
    with pytest.warns(
        KzooWarning, match=r"names timm:\w+ or torchvision:\w+, which kzoo does not know with the tensors"
    ):
        assert kzoo.architecture(str(folder)).approximate


@pytest.mark.parametrize("config", [{}, {"architecture": 7}, {"model_type": "bert"}, {"architecture": None}])
def test_a_config_that_names_nothing(resnet: Path, saved: Saved, config: dict[str, Any]) -> None:
    folder = saved(timm.create_model("resnet10t", num_classes=7), config)
    assert kzoo.architecture(str(folder)) == kzoo.architecture(str(resnet))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "it nests more than such a file does"),
        (b'{"a": 1, "a": 2}', "it names 'a' twice"),
        (b" " * 5_000_001, "has more than the 5,000,000 bytes that are read"),
    ],
)
def test_a_hostile_config(saved: Saved, content: bytes, sentence: str) -> None:
    folder = saved(torch.nn.Linear(2, 3))
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(sentence)):
        kzoo.architecture(str(folder))


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.model.backbone."])
def test_wrappers_change_nothing(saved: Saved, resnet: Path, prefix: str) -> None:
    module = timm.create_model("resnet10t", num_classes=7)
    wrapped = saved(module, {"architecture": "resnet10t", "num_classes": 7}, prefix)
    assert kzoo.architecture(str(wrapped)) == kzoo.architecture("timm:resnet10t", classes=7)


def test_shards_are_one_network(saved: Saved, resnet: Path) -> None:
    folder = saved(timm.create_model("resnet10t", num_classes=7), shards=3)
    for path in (folder, folder / "model.safetensors.index.json"):
        assert kzoo.architecture(str(path)) == kzoo.architecture(str(resnet))
    assert len(read_weights_file(folder).shards) == 3


def test_a_submodule_of_a_file(resnet: Path, saved: Saved) -> None:
    part = kzoo.architecture(str(resnet), submodule="layer2")
    assert part.approximate
    assert [layer.shape for layer in part.layers if layer.kind == "conv2d"][:2] == [(128, 64, 3, 3), (128, 128, 3, 3)]
    assert {layer.name.partition(".")[0] for layer in part.layers if layer.typed} == {"0"}
    wrapped = saved(timm.create_model("resnet10t", num_classes=7), prefix="module.")
    for name in ("layer2", "module.layer2"):
        assert kzoo.architecture(str(wrapped), submodule=name) == part
    with pytest.raises(InputError, match=r"has no submodule 'layer9': its outermost ones are bn1, conv1, layer1"):
        kzoo.architecture(str(resnet), submodule="layer9")


def test_a_file_has_one_shape(resnet: Path) -> None:
    for option in ({"classes": 3}, {"in_chans": 1}, {"img_size": 64}):
        with pytest.raises(InputError, match="is a file of weights, which has one shape only"):
            kzoo.architecture(str(resnet), **option)  # type: ignore[arg-type]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        save_file({"weight": torch.ones(1)}, tmp_path / "two" / f"{name}.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    save_file({}, tmp_path / "nothing.safetensors")
    for path, sentence in {
        loop: "cannot be read (Too many levels of symbolic links)",
        tmp_path / "none.safetensors": "cannot be read (No such file or directory)",
        tmp_path / "weights.bin": "may be a pickle, which can run code",
        tmp_path / "weights.pth": "may be a pickle, which can run code",
        tmp_path / "empty": "holds no .safetensors file: expected model.safetensors",
        tmp_path / "pickled": "expected model.safetensors; pytorch_model.bin may be a pickle: save its tensors with",
        tmp_path / "two": "holds several .safetensors files: name one of them",
        tmp_path / "nothing.safetensors": "holds no tensors",
        tmp_path / ("x" * 300): "names no network",
    }.items():
        with pytest.raises(InputError, match=re.escape(sentence)):
            kzoo.architecture(str(path) if "x" * 300 not in str(path) else "x" * 5000)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("x.safetensors", True), ("./x", True), ("/x/y", True), ("~/x", True), ("a/model.safetensors.index.json", True),
        ("weights.bin", True), ("tests", True), ("", False), ("resnet18", False), ("timm/resnet18", False),
        ("a\0b", False),
    ],
)  # fmt: skip
def test_what_looks_like_a_path(text: str, path: bool) -> None:
    assert looks_like_path(text) is path


def test_names_and_shapes_must_all_fit(zoo: Zoo) -> None:
    exact = kzoo.architecture("timm:resnet10t")
    assert fits(exact, exact)
    assert not fits(kzoo.architecture("timm:resnet14t"), exact)
    assert not fits(exact, kzoo.architecture("timm:resnet14t"))
    assert not fits(kzoo.architecture("timm:resnet10t", classes=7), exact)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "cait_xxs24_224", "gmixer_12_224"]
)
def test_transformers_are_identified_too(zoo: Zoo, saved: Saved, name: str) -> None:
    folder = saved(timm.create_model(name, num_classes=21))
    found = identify(zoo, kzoo.architecture(str(folder)))
    assert found == kzoo.architecture(f"timm:{name}", classes=21)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("deit3_small_patch16_224", "vit_small_patch16_224"),  # layer scale
        ("convnext_tiny", "convnextv2_tiny"),  # layer scale against response normalisation
        ("vit_small_patch14_reg4_dinov2", "vit_small_patch14_dinov2"),  # registers
        ("vit_small_patch16_224", "vit_small_patch16_384"),  # position embeddings
    ],
)
def test_a_config_that_lies_about_what_the_paper_does_not_see(zoo: Zoo, name: str, claim: str) -> None:
    with without_weights():
        module = timm.create_model(name)
    header = {key: Tensor("F32", tuple(tensor.shape)) for key, tensor in module.state_dict().items()}
    read = shapes_architecture(header, name)
    assert as_claimed(zoo, read, [f"timm:{claim}"]) is None
    exact = as_claimed(zoo, read, [f"timm:{name}"])
    assert exact is not None
    assert exact.extended == kzoo.architecture(f"timm:{name}").extended


def test_several_networks_with_the_same_names_and_shapes_are_said(zoo: Zoo) -> None:
    with without_weights():
        module = torchvision.models.resnet18()
    header = {key: Tensor("F32", tuple(tensor.shape)) for key, tensor in module.state_dict().items()}
    read = shapes_architecture(header, "mine")
    assert list(fitting(zoo, read)) == ["timm:resnet18", "timm:resnetblur18", "torchvision:resnet18"]
    with pytest.warns(
        KzooWarning, match="has the layers of timm:resnet18, which it is taken for, and of timm:resnetblur18, torch"
    ):
        assert identify(zoo, read) == kzoo.architecture("timm:resnet18")


def test_quantised_weights_are_weights(zoo: Zoo) -> None:
    with without_weights():
        module = timm.create_model("resnet18")
    header = {
        key: Tensor("I8" if key.endswith("weight") and tensor.dim() > 1 else "F32", tuple(tensor.shape))
        for key, tensor in module.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    read = shapes_architecture(header, "x")
    assert read.entries == kzoo.architecture("timm:resnet18").entries == 11_689_512
    assert as_claimed(zoo, read, ["timm:resnet18"]) == kzoo.architecture("timm:resnet18")


def test_what_nobody_knows_stays_approximate(saved: Saved) -> None:
    folder = saved(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)))
    with pytest.warns(KzooWarning, match="stays approximate: no known network has its layers"):
        assert kzoo.architecture(str(folder), refine=True).approximate


def test_a_header_ranks_like_the_network_it_is_of(resnet: Path) -> None:
    found = kzoo.recommend(str(resnet), k=10)
    exact = kzoo.recommend(kzoo.architecture("timm:resnet10t", classes=7), k=10)
    assert (found.exact, exact.exact) == (False, True)
    assert not any(row.exact for row in found)
    assert len({row.model for row in found} & {row.model for row in exact}) >= 8
    refined = kzoo.recommend(str(resnet), k=10, refine=True)
    assert refined.results == exact.results

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kzoo import CheckFailed, InputError, WorldError
from kzoo.catalog import load_registry
from kzoo.index import Index
from kzoo.indexing import build_index, check_index, stored_rankings
from kzoo.layers import Architecture
from kzoo.matching import similarity
from kzoo.paths import index_file, registry_directory
from kzoo.search import search
from kzoo.zoo import Zoo
from tests.architectures import network
from tests.conftest import trained

SMALL = ("torchvision/squeezenet.yaml", "torchvision/vgg.yaml")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of a few families and its index."""
    folder = tmp_path_factory.mktemp("registry")
    for name in SMALL:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(registry_directory() / name, folder / name)
    build_index(folder, folder / "index.npz", lambda what, done: None)
    return folder


def test_it_is_small_and_fits_registry_and_code() -> None:
    meta = check_index(registry_directory(), index_file())
    assert index_file().stat().st_size < 4e6
    assert (meta["architectures"], meta["checkpoints"]) == (1464, 1954)


def test_a_rebuild_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    build_index(small, tmp_path / "again.npz", lambda what, done: told.append((what, done)))
    assert (tmp_path / "again.npz").read_bytes() == (small / "index.npz").read_bytes()
    assert {what for what, done in told if done == 1.0} >= {"building architectures"}
    assert [path.name for path in tmp_path.iterdir()] == ["again.npz"]


def test_no_field_of_the_registry_is_lost(small: Path) -> None:
    index = Zoo([Index(small / "index.npz")])
    for family in load_registry(small):
        for entry in family.architectures:
            stored = index.entries[f"{family.library}:{entry.name}"]
            assert stored.fields == entry.model_dump(exclude_defaults=True)
            for checkpoint in entry.checkpoints:
                model = index.models[checkpoint.id]
                assert model.fields == checkpoint.model_dump(exclude_defaults=True)
                assert model.task == ("image-classification" if checkpoint.classes else "image-feature-extraction")
                assert model.accuracy == checkpoint.metrics.get("imagenet-1k", {}).get("top1")


def test_a_changed_registry_or_code_makes_it_stale(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "registry"
    shutil.copytree(small, folder)
    assert check_index(folder, folder / "index.npz")["checkpoints"] == 11
    monkeypatch.setattr("kzoo.indexing.code_digest", lambda directory: "other")
    with pytest.raises(CheckFailed, match="the code has changed"):
        check_index(folder, folder / "index.npz")
    path = folder / "torchvision" / "vgg.yaml"
    path.write_text(path.read_text().replace("license: unknown", "license: mit", 1))
    with pytest.raises(CheckFailed, match=rf"is stale: the registry has changed.*run 'kzoo -C {folder} index'"):
        check_index(folder, folder / "index.npz")


def test_missing_damaged_and_foreign_files(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no index at"):
        Index(tmp_path / "index.npz")
    path = tmp_path / "index.npz"
    for content in (b"", b"not a zip", (small / "index.npz").read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"build it anew with 'kzoo -C {tmp_path} index'"):
            Index(path)
    for meta, found in (({"format": 99}, "99"), ([], "None")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("meta.json", json.dumps(meta))
        with pytest.raises(InputError, match=f"has format {found}"):
            Index(path)


def test_flipped_bytes_are_found(small: Path, tmp_path: Path) -> None:
    content = bytearray((small / "index.npz").read_bytes())
    with zipfile.ZipFile(small / "index.npz") as archive:
        begin = archive.getinfo("registry.json").header_offset
    for place in range(begin + 60, begin + 160, 10):
        content[place] ^= 0xFF
    path = tmp_path / "index.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot be read .* build it anew with 'kzoo -C {tmp_path} index'"):
        _ = Index(path).entries


def test_a_registry_without_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "alexnet.yaml").write_text(
        "library: torchvision\nfamily: alexnet\nversion: '0'\narchitectures:\n"
        "- {name: alexnet, parameters: 61100840, classes: 1000, input_size: [3, 224, 224]}\n"
    )
    build_index(tmp_path, tmp_path / "index.npz", lambda what, done: None)
    found = search(Zoo([Index(tmp_path / "index.npz")]), network(8, 1))
    assert (list(found), found.scanned) == ([], 0)


def test_a_disk_that_fails_leaves_nothing_behind(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "index.npz"
    path.write_bytes(b"before")
    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(WorldError, match="No space left on device"):
        build_index(small, path, lambda what, done: None)
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"before"]


def test_a_registry_that_the_library_does_not_know(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    shutil.copytree(small, folder)
    path = folder / "torchvision" / "vgg.yaml"
    path.write_text(path.read_text().replace("name: vgg11\n", "name: vgg12\n"))
    with pytest.raises(InputError, match=r"torchvision 0\.\d+\.\d+ cannot build vgg12"):
        build_index(folder, tmp_path / "index.npz", lambda what, done: None)
    assert not (tmp_path / "index.npz").exists()


def test_checkpoints_stand_with_their_own_heads(zoo: Zoo) -> None:
    heads = {}
    for identifier in ("timm/vit_base_patch16_224.augreg_in21k", "timm/vit_base_patch16_224.augreg_in1k"):
        model = zoo.models[identifier]
        heads[identifier] = model.entry.architecture(model.form, identifier).layers[-1]
    assert [head.shape for head in heads.values()] == [(21843, 768), (1000, 768)]
    features = zoo.models["torchvision/vgg16.IMAGENET1K_FEATURES"]
    items = zoo.spaces["paper"].items(features.places["paper"])
    kinds = {layer.kind for item in items for layer in ([item] if not isinstance(item, tuple) else item)}
    assert kinds == {"conv2d", "other"}


@pytest.mark.parametrize("space", ["paper", "extended"])
def test_every_place_is_reached_and_every_architecture_has_names(zoo: Zoo, space: str) -> None:
    (index,) = zoo.layers
    count = len(index.spaces[space].encoding)
    assert len(zoo.spaces[space]) == count == len(set(index.spaces[space].fingerprints))
    reached = {form.places[space] for entry in index.entries.values() for form in entry.forms.values()}
    assert reached == set(range(count))
    entry = index.entries["timm:vit_tiny_patch16_224"]
    architecture = entry.architecture(entry.default, "timm:vit_tiny_patch16_224")
    seen = architecture.extended if space == "extended" else architecture
    assert seen.fingerprint == index.spaces[space].fingerprints[entry.default.places[space]]
    assert [layer.name for layer in seen.layers if layer.typed][:4] == (
        ["cls_token", "pos_embed", "patch_embed.proj", "blocks.0.norm1"]
        if space == "extended"
        else ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1"]
    )
    assert architecture.layers[-1].name == "head"
    assert architecture.parameters == seen.parameters == 5_717_416


def test_stored_rankings_are_by_descending_similarity(small: Path) -> None:
    layer = Zoo([Index(small / "index.npz")])
    for space, measures in (("paper", ("symmetric", "directed")), ("extended", ("extended",))):
        encoding, sources = layer.layers[0].spaces[space].encoding, set(trained(layer, space))
        rankings = stored_rankings(encoding, sources, space, lambda what, done: None)
        assert set(rankings) == set(measures)
        architectures = [Architecture(layer.spaces[space].items(place)) for place in range(len(encoding))]
        for place, target in enumerate(architectures):
            for measure in measures:
                order = rankings[measure][place].tolist()
                assert sorted(order) == sorted(sources)
                values = [round(similarity(architectures[other], target, measure), 12) for other in order]
                assert values == sorted(values, reverse=True)
                np.testing.assert_array_equal(order, layer.spaces[space].first.ranking(measure)[place])
    assert layer.spaces["paper"].first.ranking("reverse") is None

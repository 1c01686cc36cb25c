"""Registries in layers, and models of one's own."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

import kzoo
from kzoo import CheckFailed, InputError, WorldError, indexing
from kzoo.errors import KzooWarning
from kzoo.indexing import build_index, check_index
from kzoo.local import add_model
from kzoo.paths import registry_directory, registry_layers
from kzoo.search import Filters, search
from kzoo.zoo import SHIPPED, Zoo, load_zoo
from tests.architectures import network
from tests.conftest import Run

Add = Callable[..., str]


def quiet(what: str, done: float) -> None:
    """Progress that nobody wants to see."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks as files: two from timm, one of nobody."""
    folder = tmp_path_factory.mktemp("weights")
    modules = {
        "small": timm.create_model("resnet10t", num_classes=7),
        "other": timm.create_model("resnet14t", num_classes=7),
        "strange": torch.nn.Sequential(torch.nn.Conv2d(3, 99, 5), torch.nn.BatchNorm2d(99), torch.nn.Linear(99, 7)),
    }
    for name, module in modules.items():
        save_file(module.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def add(tmp_path: Path, weights: Path) -> Add:
    """Add one of the weights to a registry."""

    def add(which: str, directory: Path = tmp_path / "mine", **options: Any) -> str:
        details = {"license": "mit"} | options.pop("details", {})
        return add_model(weights / f"{which}.safetensors", directory, details, quiet, **options)[1].id

    return add


def test_an_added_model_is_ranked_with_the_others(add: Add, tmp_path: Path, weights: Path) -> None:
    assert add("small", details={"trained_on": ["cats"]}) == "local/small"
    zoo = load_zoo([tmp_path / "mine"])
    assert zoo.origins == (SHIPPED, str(tmp_path / "mine"))
    model = zoo.models["local/small"]
    content = (weights / "small.safetensors").read_bytes()
    assert dict(model.fields) == {
        "id": "local/small",
        "tag": "file",
        "license": "mit",
        "trained_on": ["cats"],
        "parameters": 4_926_079,
        "path": str(weights / "small.safetensors"),
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    assert (model.origin, model.classes, model.task, model.form.approximate) == (zoo.origins[1], None, None, True)
    for text in ("local/small", "local:small"):
        assert kzoo.architecture(text, registry=zoo) == kzoo.architecture(str(weights / "small.safetensors"))
    rows = kzoo.recommend("timm:resnet10t", registry=tmp_path / "mine")
    row = next(row for row in rows if row.model == "local/small")
    assert (row.exact, row.origin, row.architecture) == (False, str(tmp_path / "mine"), "local:small")
    assert all(row.exact for row in rows if row.origin == SHIPPED)


def test_refine_makes_local_models_exact(add: Add, tmp_path: Path) -> None:
    add("small")
    add("strange")
    mine = tmp_path / "mine"
    rows = {row.model: row for row in kzoo.recommend("timm:resnet10t", k=500, registry=mine, refine=True)}
    exact = kzoo.similarity(kzoo.architecture("timm:resnet10t", classes=7), "timm:resnet10t")
    assert (rows["local/small"].exact, rows["local/small"].similarity) == (True, pytest.approx(exact, abs=1e-12))
    assert rows["local/small"].origin == str(mine)
    found = kzoo.recommend("timm:resnet10t", k=2000, registry=mine, refine=True)
    assert [row.exact for row in found if row.model == "local/strange"] == [False]


@pytest.mark.parametrize("measure", ["symmetric", "directed", "reverse", "extended"])
@pytest.mark.parametrize("filters", [Filters(), Filters(exclude_same=True), Filters(max_params=6_000_000)])
def test_layers_and_stored_rankings_agree_with_a_full_scan(
    add: Add, tmp_path: Path, measure: str, filters: Filters
) -> None:
    for name in ("small", "other", "strange"):
        add(name)
    zoo = load_zoo([tmp_path / "mine"])
    for name in ("timm:resnet10t", "local:other", "local:strange", "timm:vit_tiny_patch16_224"):
        target = kzoo.architecture(name, registry=zoo)
        stored, full = (search(zoo, target, 25, measure, filters, use_stored=use) for use in (True, False))  # type: ignore[arg-type]
        assert stored.results == full.results
        assert stored.scanned == full.scanned


def test_later_layers_win(add: Add, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    add("small", first, name="x", details={"license": "mit"})
    add("other", second, name="x", details={"license": "apache-2.0"})
    for order, license in (((first, second), "apache-2.0"), ((second, first), "mit")):
        zoo = load_zoo(order)
        assert (zoo.models["local/x"].license, zoo.models["local/x"].origin) == (license, str(order[1]))
        assert zoo.entries["local:x"].fields["checkpoints"][0]["license"] == license
    places = [dict(load_zoo(order).models["local/x"].places) for order in ((first, second), (second, first))]
    assert places[0] == places[1] == {space: len(load_zoo().spaces[space]) + 1 for space in ("paper", "extended")}


def test_an_entry_of_the_shipped_registry_can_be_replaced(tmp_path: Path, zoo: Zoo) -> None:
    path = tmp_path / "torchvision" / "squeezenet.yaml"
    path.parent.mkdir()
    shipped = (registry_directory() / "torchvision" / "squeezenet.yaml").read_text()
    path.write_text(shipped.replace("license: unknown", "license: bsd-3-clause"))
    build_index(tmp_path, tmp_path / "index.npz", quiet)
    layered = load_zoo([tmp_path])
    name = "torchvision/squeezenet1_0.IMAGENET1K_V1"
    assert (zoo.models[name].license, layered.models[name].license) == ("unknown", "bsd-3-clause")
    assert len(layered.models) == len(zoo.models)
    assert layered.models[name].places["paper"] == zoo.models[name].places["paper"]
    rows = {row.model: row.license for row in kzoo.recommend("torchvision:squeezenet1_0", registry=layered)}
    assert rows[name] == "bsd-3-clause"
    assert layered.version("torchvision") == zoo.version("torchvision")


def test_a_checkpoint_that_people_added_to_a_library_has_its_own_head(tmp_path: Path) -> None:
    path = tmp_path / "torchvision" / "squeezenet.yaml"
    path.parent.mkdir()
    data = yaml.safe_load((registry_directory() / "torchvision" / "squeezenet.yaml").read_text())
    entry = data["architectures"][0]
    more = copy.deepcopy(entry["checkpoints"][0]) | {
        "id": "me/cats",
        "tag": "cats",
        "classes": 12,
        "license": "mit",
        "parameters": 1,
    }
    data["architectures"] = [entry | {"checkpoints": [*entry["checkpoints"], more]}]
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    build_index(tmp_path, tmp_path / "index.npz", quiet)
    mine = kzoo.architecture("me/cats", registry=tmp_path)
    assert mine == kzoo.architecture(f"torchvision:{entry['name']}", classes=12)
    assert not mine.approximate


def test_where_own_registries_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KZOO_REGISTRY", os.pathsep.join((str(tmp_path / "a"), str(tmp_path / "b"))))
    assert registry_layers() == [tmp_path / "a", tmp_path / "b"]
    assert registry_layers([tmp_path / "c", tmp_path / "a"]) == [tmp_path / "b", tmp_path / "c", tmp_path / "a"]
    assert registry_layers([registry_directory()]) == [tmp_path / "a", tmp_path / "b"]
    monkeypatch.delenv("KZOO_REGISTRY")
    monkeypatch.setattr("kzoo.paths.own_registry", lambda: tmp_path / "own")
    assert registry_layers() == []
    (tmp_path / "own" / "local").mkdir(parents=True)
    assert registry_layers() == []
    (tmp_path / "own" / "local" / "x.yaml").touch()
    assert registry_layers() == [tmp_path / "own"]


def test_a_registry_newer_than_its_index_is_said_and_still_answers(add: Add, tmp_path: Path) -> None:
    add("small")
    entry = tmp_path / "mine" / "local" / "small.yaml"
    entry.write_text(entry.read_text().replace("license: mit", "license: unknown"))
    with pytest.warns(
        KzooWarning, match=rf"registry {tmp_path / 'mine'} has changed .* run 'kzoo -C {tmp_path / 'mine'} index'"
    ):
        assert load_zoo([tmp_path / "mine"]).models["local/small"].license == "mit"
    for content in (None, b"", b"not an index"):
        (tmp_path / "mine" / "index.npz").unlink()
        if content is not None:
            (tmp_path / "mine" / "index.npz").write_bytes(content)
        else:
            (tmp_path / "mine" / "index.npz").unlink(missing_ok=True)
        with pytest.warns(
            KzooWarning, match=rf"build it.* with 'kzoo -C {tmp_path / 'mine'} index'; models of .* are left out"
        ):
            assert "local/small" not in load_zoo([tmp_path / "mine"]).models
        (tmp_path / "mine" / "index.npz").touch()


def test_a_library_newer_than_the_index_is_said_and_still_answers(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kzoo.sources.installed_version", lambda library: "99.0")
    with pytest.warns(KzooWarning, match=r"timm 99\.0 is installed, but the index was built with 1\.\d+\.\d+"):
        assert kzoo.architecture("timm:resnet18", registry=zoo).typed_layers == 41
    monkeypatch.setattr("kzoo.sources.installed_version", lambda library: "0.9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kzoo.architecture("timm:resnet18", registry=zoo)


def test_what_is_no_registry(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, sentence in {
        "empty": "holds no <library>",
        "none": "does not exist",
        "file": "is not a directory",
    }.items():
        with pytest.raises(InputError, match=sentence):
            load_zoo([tmp_path / name])


def test_add_refuses_before_it_writes(add: Add, tmp_path: Path, weights: Path) -> None:
    add("small")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    for options, sentence in (
        ({}, "small.yaml exists already: give another --name, or --force"),
        ({"name": "../x"}, "is no name for a model: expected letters"),
        ({"name": ".x"}, "is no name for a model"),
        ({"name": "é"}, "is no name for a model"),
        ({"name": "y", "details": {"license": "nonsense"}}, "license: expected an SPDX id"),
        ({"name": "y", "details": {"license": "other"}}, "license_name: is missing"),
        ({"name": "y", "details": {"submodule": "nowhere"}}, "has no submodule 'nowhere'"),
    ):
        with pytest.raises(InputError, match=sentence):
            add("small", **options)
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()} == before


def test_force_replaces_and_what_fails_is_put_back(add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("small")
    entry = tmp_path / "mine" / "local" / "small.yaml"
    add("small", force=True, details={"license": "apache-2.0"})
    before = entry.read_text()
    assert "license: apache-2.0" in before

    def fail(*_arguments: object) -> None:
        raise InputError("no")

    monkeypatch.setattr("kzoo.entries.build_index", fail)
    for options in ({"force": True}, {"name": "new"}):
        with pytest.raises(InputError, match="no"):
            add("small", **options)
    assert entry.read_text() == before
    assert [path.name for path in entry.parent.iterdir()] == ["small.yaml"]


def test_a_disk_that_fails_leaves_nothing(add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(WorldError, match="No space left on device"):
            add("small")
    assert not [path for path in (tmp_path / "mine").rglob("*") if path.suffix in (".yaml", ".npz", ".tmp")]
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match="cannot be written"):
        add("small", tmp_path / "file" / "mine")


def test_paths_inside_the_registry_are_relative(tmp_path: Path, weights: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "weights").mkdir(parents=True)
    shutil.copy(weights / "small.safetensors", mine / "weights")
    _, checkpoint = add_model(mine / "weights" / "small.safetensors", mine, {"license": "mit"}, quiet)
    assert checkpoint.path == "weights/small.safetensors"
    moved = tmp_path / "moved"
    mine.rename(moved)
    build_index(moved, moved / "index.npz", quiet)
    assert "local/small" in load_zoo([moved]).models
    (moved / "weights" / "small.safetensors").unlink()
    with pytest.raises(InputError, match=r"small\.safetensors cannot be read \(No such file"):
        build_index(moved, moved / "index.npz", quiet)


def test_names_come_from_files_or_their_folders(tmp_path: Path) -> None:
    from kzoo.local import _name

    for path, name in {
        "runs/my net/model.safetensors": "my-net",
        "runs/cats/model.safetensors.index.json": "cats",
        "a/best v2.safetensors": "best-v2",
        "a/é.safetensors": "model",
    }.items():
        assert _name(tmp_path / path) == name


def test_several_at_once_all_arrive(tmp_path: Path, weights: Path) -> None:
    command = [sys.executable, "-m", "kzoo", "-C", str(tmp_path / "mine"), "add", str(weights / "strange.safetensors")]
    workers = [subprocess.Popen([*command, "--name", f"m{place}"], stderr=subprocess.DEVNULL) for place in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    found = {model.id for model in load_zoo([tmp_path / "mine"]).models.values() if model.origin != SHIPPED}
    assert found == {f"local/m{place}" for place in range(4)}


def test_the_command_line_of_all_this(kzoo_command: Run, tmp_path: Path, weights: Path) -> None:
    mine = str(tmp_path / "mine")
    file = str(weights / "small.safetensors")
    added = json.loads(kzoo_command("-C", mine, "add", file, "--license", "mit", "--json").stdout)
    assert (added["id"], added["exact"], added["written"]) == ("local/small", False, f"{mine}/local/small.yaml")
    again = kzoo_command("-C", mine, "add", file)
    assert (again.returncode, "exists already" in again.stderr, "Traceback" in again.stderr) == (2, True, False)
    listed = kzoo_command("-C", mine, "list", "local/small", "--origin").stdout.splitlines()
    assert listed[0].split()[-1] == "origin"
    assert listed[2].split()[0] == "local/small" and listed[2].split()[-1] == mine
    rows = json.loads(kzoo_command("list", "--json").stdout)
    assert {row["origin"] for row in rows} == {SHIPPED}
    env = {"KZOO_REGISTRY": mine, "PATH": ""}
    shown = json.loads(kzoo_command("show", "local/small", "--json", env=env).stdout)
    assert shown["sha256"] == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert shown["exact"] is False
    found = kzoo_command("recommend", file, "-k", "3", "--refine", "--json", env=env)
    answer = json.loads(found.stdout)
    assert answer["exact"] is True
    assert answer["results"][0]["model"] == "local/small"
    assert {row["exact"] for row in answer["results"]} == {True}
    part = kzoo_command("recommend", file, "--submodule", "layer1", "-k", "1")
    assert (part.returncode, "Next: kzoo compare" in part.stderr, "--submodule layer1" in part.stderr) == (
        0,
        True,
        True,
    )
    compared = json.loads(kzoo_command("compare", file, "timm:resnet10t", "--json").stdout)
    assert (compared["exact"], compared["measure"]) == (False, "paper")


def test_a_missing_index_is_said_on_the_command_line(kzoo_command: Run, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "x.yaml").write_text("library: local\n")
    done = kzoo_command("-C", str(tmp_path), "recommend", "timm:resnet18", "--json")
    assert (done.returncode, done.stderr.count("Note: there is no index at"), len(done.stderr.splitlines())) == (
        0,
        1,
        1,
    )
    assert json.loads(done.stdout)["results"]


def test_a_local_model_without_layers_that_the_paper_sees(tmp_path: Path) -> None:
    save_file(
        {"norm.weight": torch.ones(8), "norm.bias": torch.ones(8), "token": torch.ones(1, 8)},
        tmp_path / "n.safetensors",
    )
    add_model(tmp_path / "n.safetensors", tmp_path / "mine", {"license": "mit"}, quiet)
    zoo = load_zoo([tmp_path / "mine"])
    rows = {row.model: row for row in search(zoo, network(8, 1), k=3000, all_weights=True)}
    assert rows["local/n"].similarity == 0.0
    with pytest.raises(InputError, match="has no convolution, batch normalisation or linear layer"):
        kzoo.recommend("local/n", registry=zoo)
    best = kzoo.recommend("local/n", k=1, measure="extended", registry=zoo)[0]
    assert (best.model, best.similarity, best.symmetric, best.coverage) == ("local/n", 1.0, None, None)


def test_adding_says_nothing_false(kzoo_command: Run, tmp_path: Path, weights: Path) -> None:
    env = {"KZOO_REGISTRY": str(tmp_path / "mine"), "PATH": ""}
    for name in ("one", "two"):
        done = kzoo_command("add", str(weights / "small.safetensors"), "--name", name, env=env)
        assert done.returncode == 0
        assert "Note:" not in done.stderr
    assert json.loads(kzoo_command("show", "local:one", "--json", env=env).stdout)["library"] == "local"
    shown = kzoo_command("show", "local:one", "--layers", env=env)
    assert (shown.returncode, "local/one" in shown.stdout) == (0, True)
    assert re.search(r"\n\d+\.0 +conv2d +64 x 64 x 3 x 3 +layer1\.0\.conv1", shown.stdout)
    checked = json.loads(kzoo_command("registry", "check", "--json", env=env).stdout)
    assert (checked["files"], checked["faults"]) == (2, [])


def test_the_users_own_folder(kzoo_command: Run, tmp_path: Path, weights: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "PATH": ""}
    file = str(weights / "small.safetensors")
    added = json.loads(kzoo_command("add", file, "--json", env=env).stdout)
    assert Path(added["written"]).is_relative_to(tmp_path)
    listed = json.loads(kzoo_command("list", "local/", "--json", env=env).stdout)
    assert [row["id"] for row in listed if row["origin"] != SHIPPED] == ["local/small"]
    without = env | {"KZOO_REGISTRY": ""}
    listed = json.loads(kzoo_command("list", "local/", "--json", env=without).stdout)
    assert {row["origin"] for row in listed} == {SHIPPED}
    refused = kzoo_command("add", file, env=without)
    assert (refused.returncode, "KZOO_REGISTRY is set but empty" in refused.stderr) == (2, True)


def test_a_registry_whose_last_model_was_removed(add: Add, tmp_path: Path, zoo: Zoo) -> None:
    add("small")
    (tmp_path / "mine" / "local" / "small.yaml").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(load_zoo([tmp_path / "mine"]).models) == set(zoo.models)


def test_files_need_no_torch(tmp_path: Path, weights: Path) -> None:
    file, mine = str(weights / "small.safetensors"), str(tmp_path / "mine")
    frameworks = ("torch", "timm", "torchvision", "safetensors", "huggingface_hub")
    script = f"""
import sys
from kzoo.cli.main import run
for arguments in (["-C", {mine!r}, "add", {file!r}], ["recommend", {file!r}, "--refine"], ["compare", {file!r}, "timm:resnet18"]):
    sys.argv = ["kzoo", *arguments]
    assert run() == 0, arguments
print([name for name in {frameworks!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("[]\n")


def test_one_name_in_two_layers_is_one_model(tmp_path: Path, weights: Path, add: Add) -> None:
    """An architecture of a later layer is not mixed with a checkpoint of an earlier one."""
    first, second = tmp_path / "first", tmp_path / "second"
    add("small", first, name="x")
    add("other", second, name="x")
    entry = second / "local" / "x.yaml"
    entry.write_text(entry.read_text().replace("id: local/x", "id: me/x").replace("tag: file", "tag: best"))
    build_index(second, second / "index.npz", quiet)
    zoo = load_zoo([first, second])
    small, other = (kzoo.architecture(str(weights / f"{name}.safetensors")) for name in ("small", "other"))
    assert kzoo.architecture("local:x", registry=zoo) == kzoo.architecture("me/x", registry=zoo) == other
    assert kzoo.architecture("local/x", registry=zoo) == small
    assert {model.origin for model in zoo.models.values() if model.architecture == "local:x"} == {
        str(first),
        str(second),
    }


def test_an_id_counts_before_another_models_alias(tmp_path: Path, zoo: Zoo) -> None:
    path = tmp_path / "timm" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(
        "library: timm\nfamily: mine\nversion: 1.0.31\narchitectures:\n- name: resnet18\n  parameters: 11689512\n"
        "  checkpoints:\n  - {id: me/resnet18.mine, tag: a1_in1k, license: mit, classes: 10, parameters: 11181642}\n"
    )
    build_index(tmp_path, tmp_path / "index.npz", quiet)
    layered = load_zoo([tmp_path])
    shipped = layered.model("timm/resnet18.a1_in1k")
    assert shipped is not None
    assert (shipped.id, shipped.origin) == ("timm/resnet18.a1_in1k", SHIPPED)
    assert kzoo.architecture("timm/resnet18.a1_in1k", registry=layered) == kzoo.architecture("timm:resnet18")
    # The entry does not say how many classes it has; refining needs them.
    assert kzoo.architecture("timm:resnet18", registry=layered, classes=7) == kzoo.architecture(
        "timm:resnet18", classes=7
    )
    checkpoints = {model.id for model in layered.models.values() if model.architecture == "timm:resnet18"}
    assert checkpoints == {
        "me/resnet18.mine",
        *(m.id for m in zoo.models.values() if m.architecture == "timm:resnet18"),
    }


def test_the_version_note_is_about_the_entrys_own_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "torchvision" / "alexnet.yaml"
    path.parent.mkdir()
    shutil.copy(registry_directory() / "torchvision" / "alexnet.yaml", path)
    build_index(tmp_path, tmp_path / "index.npz", quiet)
    zoo = load_zoo([tmp_path])
    zoo.layers[1].meta["libraries"]["torchvision"] = "0.1"
    with pytest.warns(KzooWarning, match=r"the index was built with 0\.1:"):
        kzoo.architecture("torchvision:alexnet", registry=zoo)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kzoo.architecture("torchvision:vgg11", registry=zoo)


def test_data_sets_and_licenses_are_found_in_any_case(add: Add, tmp_path: Path) -> None:
    add("small", details={"trained_on": ["Cats"], "license": "MIT"})
    models = load_zoo([tmp_path / "mine"]).models.values()
    for filters in (
        Filters(trained_on="cats"),
        Filters(trained_on="CATS"),
        Filters(trained_on="cats", licenses=["mit"]),
    ):
        assert [model.id for model in filters.select(models)] == ["local/small"]


def test_weights_that_are_gone_or_changed_are_said(tmp_path: Path, weights: Path) -> None:
    mine, file = tmp_path / "mine", tmp_path / "x.safetensors"
    shutil.copy(weights / "small.safetensors", file)
    add_model(file, mine, {"license": "mit"}, quiet)
    assert check_index(mine, mine / "index.npz")["checkpoints"] == 1
    shutil.copy(weights / "other.safetensors", file)
    with pytest.raises(CheckFailed, match=r"x\.safetensors has changed since it was added as local/x: add it again"):
        check_index(mine, mine / "index.npz")
    file.unlink()
    with pytest.raises(InputError, match=r"it is the model local/x: delete .*mine/local/x\.yaml if it is gone"):
        build_index(mine, mine / "index.npz", quiet)


def test_force_keeps_what_is_not_given(add: Add, tmp_path: Path, weights: Path) -> None:
    add("small", details={"license": "mit", "trained_on": ["cats"]})
    path = tmp_path / "mine" / "local" / "small.yaml"
    path.write_text(path.read_text().replace("    path:", "    metrics:\n      cats: {top1: 90.0}\n    path:"))
    add_model(weights / "small.safetensors", tmp_path / "mine", {}, quiet, force=True)
    model = load_zoo([tmp_path / "mine"]).models["local/small"]
    assert (model.license, model.trained_on, dict(model.metrics)) == ("mit", ("cats",), {"cats": {"top1": 90.0}})


def test_a_new_license_does_not_keep_the_old_ones_name(add: Add, tmp_path: Path) -> None:
    add("small", details={"license": "other", "license_name": "house", "license_link": "https://example.org"})
    add("small", force=True, details={"license": "mit", "trained_on": ["cats"]})
    fields = load_zoo([tmp_path / "mine"]).models["local/small"].fields
    assert (fields["license"], "license_name" in fields, "license_link" in fields) == ("mit", False, False)


def test_force_replaces_an_entry_without_checkpoints(add: Add, tmp_path: Path) -> None:
    add("small")
    path = tmp_path / "mine" / "local" / "small.yaml"
    path.write_text("library: local\nfamily: small\nversion: '1'\narchitectures: []\n")
    assert add("small", force=True) == "local/small"


def test_one_shard_is_no_network(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match="is one shard of several: give their index"):
        kzoo.architecture(str(tmp_path / "model-00001-of-00002.safetensors"))


def test_a_change_while_the_index_is_built_makes_it_stale(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("small")
    mine = tmp_path / "mine"
    entry = mine / "local" / "small.yaml"
    read = indexing._read_variants

    def edited(*arguments: Any) -> Any:
        found = read(*arguments)
        entry.write_text(entry.read_text().replace("license: mit", "license: unknown"))
        return found

    monkeypatch.setattr(indexing, "_read_variants", edited)
    build_index(mine, mine / "index.npz", quiet)
    with pytest.raises(
        CheckFailed, match=f"the registry has changed since it was compiled; run 'kzoo -C {mine} index'"
    ):
        check_index(mine, mine / "index.npz")


def test_a_note_is_said_once(tmp_path: Path) -> None:
    script = """
import sys
import kzoo.sources
from kzoo.cli.main import run
kzoo.sources.installed_version = lambda library: "99.0"
sys.argv = ["kzoo", "recommend", "timm:resnet18", "-k", "3", "--explain"]
assert run() == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.count("Note: timm 99.0 is installed") == 1


def test_a_reader_that_has_enough_is_no_failure(tmp_path: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m kzoo show timm:resnet152 --layers | head -1"
    assert subprocess.run(["bash", "-c", command], capture_output=True, check=False).returncode == 0


def test_a_known_network_is_named_for_a_header(kzoo_command: Run, weights: Path) -> None:
    done = kzoo_command("recommend", str(weights / "small.safetensors"), "-k", "1", "--measure", "extended")
    assert "It has the layers of timm:resnet10t: --refine makes all values exact." in done.stderr
    assert "--measure extended" in done.stderr.splitlines()[-1]

"""Weights fetched from the tests' Hub: verified, locked, and nothing half-done taken for good."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

import kzoo
from kzoo.hub import client, pull
from kzoo.hub.locks import lock_file
from kzoo.training.networks import small_network
from tests.hub import faults, samples


def weights(seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    return save(small_network("resnet-1x8", classes=5, channels=1).state_dict(), metadata={"format": "pt"})


CONFIG = json.dumps(
    {"library_name": "kzoo", "architecture": "small:resnet-1x8", "model_args": {"num_classes": 5, "in_chans": 1}}
).encode()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Where locks go: the user's own registry, which is empty."""
    own = tmp_path / "config" / "registry"
    for module in ("kzoo.paths", "kzoo.hub.models"):
        monkeypatch.setattr(f"{module}.own_registry", lambda: own)
    return own


@pytest.fixture
def model(hub_client, registry, monkeypatch):
    """A Hub with a small trained network; waiting takes no time."""
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    hub = hub_client()
    hub.add_repo("me/model", {"model.safetensors": weights(), "config.json": CONFIG}, tags=["license:mit"])
    return hub


def test_it_is_fetched_verified_and_locked_and_then_costs_nothing(model, registry, command):
    code, out, said = command("pull", "hf:me/model", "--json")
    assert code == 0, said
    assert "fetching 0.1 MB of hf:me/model at " in said and "(license: mit)" in said
    data = json.loads(out)
    lock = json.loads(lock_file(registry, "me/model").read_text())
    assert lock.pop("network")["tensors"]["conv1.weight"] == "F32 8x1x3x3"
    assert lock == data["lock"]
    assert (lock["commit"], lock["asked"], lock["license"]) == (model.head("me/model").oid, None, "mit")
    assert [file["name"] for file in lock["files"]] == ["model.safetensors", "config.json"]
    assert Path(data["path"]).read_bytes() == weights()
    with model.log.recording() as log:
        code, out, said = command("pull", "hf:me/model")
    assert (code, len(log)) == (0, 0), str(log)
    assert "nothing to fetch, verified" in out


def test_the_lock_holds_until_it_is_moved(model, command):
    command("pull", "hf:me/model")
    old = model.head("me/model").oid
    new = model.commit("me/model", {"model.safetensors": weights(1)})
    code, out, _ = command("pull", "hf:me/model")
    assert (code, old in out) == (0, True)
    code, out, _ = command("pull", "hf:me/model", "--update")
    assert code == 0 and f"{old[:12]} -> {new[:12]}" in out and "~ model.safetensors" in out
    code, out, _ = command("pull", "hf:me/model")
    assert new in out
    # A revision that is named is not the lock's business.
    code, out, _ = command("pull", f"hf:me/model@{old}")
    assert (code, old in out) == (0, True)


def test_a_locked_model_whose_cache_is_gone_is_fetched_as_it_was(model, command, tmp_path, hub_client):
    command("pull", "hf:me/model")
    old = model.head("me/model").oid
    model.commit("me/model", {"model.safetensors": weights(1)})
    hub_client(home="another")
    code, out, _ = command("pull", "hf:me/model", "--json")
    assert code == 0
    assert json.loads(out)["lock"]["commit"] == old
    assert Path(json.loads(out)["path"]).read_bytes() == weights()


def test_whatever_takes_a_source_takes_it(model, command, tmp_path):
    out = tmp_path / "start"
    code, _, said = command(
        "transfer", "hf:me/model", "small:resnet-2x8", "--classes", "5", "--in-chans", "1", "--out", out, "--quiet"
    )
    assert code == 0, said
    assert "fetching 0.1 MB of hf:me/model" in said
    recipe = (out / "recipe.yaml").read_text()
    assert "path: hf:me/model" in recipe
    code, _, said = command("run", out / "recipe.yaml", "--out", tmp_path / "again")
    assert code == 0, said
    assert (tmp_path / "again/model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    module = kzoo.transfer("hf:me/model", small_network("resnet-1x8", classes=5, channels=1))
    expected = load_file(tmp_path / "again/model.safetensors")
    assert expected["conv1.weight"].equal(module.conv1.weight)


def test_bytes_that_stay_wrong_are_refused_and_not_kept(model, registry, command, no_waiting, tmp_path):
    model.fail(faults.wrong_bytes(), method="GET", path="*/resolve/*/model.safetensors", times=None)
    code, _, said = command("pull", "hf:me/model")
    assert code == 3 and "Error: " in said
    assert not lock_file(registry, "me/model").exists()
    assert not [path for path in (tmp_path / "home").rglob("model.safetensors") if path.is_file()]
    model.heal()
    assert command("pull", "hf:me/model")[0] == 0


def test_what_was_changed_in_the_cache_is_fetched_again(model, command):
    _, out, _ = command("pull", "hf:me/model", "--json")
    path = Path(json.loads(out)["path"])
    blob = path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    code, out, _ = command("pull", "hf:me/model", "--json")
    assert code == 0
    assert Path(json.loads(out)["path"]).read_bytes() == weights()


def test_what_does_not_fit_on_the_disk_is_refused_before_a_byte_comes(model, registry, command, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda _path: usage)
    with model.log.recording() as log:
        code, _, said = command("pull", "hf:me/model")
    assert (code, "MB free: make room, or set HF_HOME" in said) == (3, True)
    assert log.count(path="*/resolve/*", status=200) <= 1, "only the config.json"


def test_offline_only_what_was_pulled_can_be_had(model, command, monkeypatch):
    from huggingface_hub import constants

    command("pull", "hf:me/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert command("pull", "hf:me/model")[0] == 0
    code, _, said = command("pull", "hf:me/other")
    assert (code, "HF_HUB_OFFLINE is set" in said) == (2, True)


def test_a_model_of_the_registry_is_pulled_from_its_repository(hub_client, registry, command):
    hub = hub_client()
    shapes = {"conv1.weight": ("F32", [4, 3, 7, 7])}
    hub.add_repo("timm/resnet18.a1_in1k", {"model.safetensors": samples.safetensors(shapes)})
    for name in ("timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"):
        code, out, said = command("pull", name, "--json")
        assert code == 0, said
        assert json.loads(out)["lock"]["name"] == "timm/resnet18.a1_in1k"
    code, _, said = command("pull", "torchvision:resnet18")
    assert (code, "names no model on the Hub" in said) == (2, True)
    code, _, said = command("pull", "timm/resnet18.a1_in1")
    assert (code, "nearest: timm/resnet18.a1_in1k" in said) == (2, True)


def test_a_renamed_repository_is_found_by_its_old_name(model, registry, command):
    model.rename("me/model", "me/better")
    code, out, said = command("pull", "hf:me/model", "--json")
    assert code == 0, said
    lock = json.loads(out)["lock"]
    assert (lock["name"], lock["repository"]) == ("me/model", "me/better")
    with model.log.recording() as log:
        assert command("pull", "hf:me/model")[0] == 0
    assert len(log) == 0


def test_a_token_is_in_no_output_file_or_lock(hub_client, registry, command, tmp_path, no_waiting, monkeypatch):
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    hub = hub_client("hf_write")
    hub.add_repo("tester/private", {"model.safetensors": weights(), "config.json": CONFIG}, private=True)
    said = [command("pull", "hf:tester/private"), command("recommend", "hf:tester/private", "-k", "1")]
    hub.fail(faults.error(500), times=None)
    said.append(command("pull", "hf:tester/private", "--update"))
    assert [code for code, _, _ in said] == [0, 0, 3]
    assert "hf_write" not in str(said)
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            path = Path(folder) / name
            if "hub" not in path.relative_to(tmp_path).parts[0] and path.name != "token":
                assert b"hf_write" not in path.read_bytes(), path


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": "me/model"}'])
def test_a_damaged_lock_is_told(model, registry, command, content):
    command("pull", "hf:me/model")
    lock_file(registry, "me/model").write_text(content)
    code, _, said = command("pull", "hf:me/model")
    assert (code, said.count("\n")) == (2, 1)
    assert str(lock_file(registry, "me/model")) in said

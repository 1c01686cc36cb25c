"""Networks of the tests' Hub in a registry of one's own: added, ranked, pulled, carried over, moved."""

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save

import kzoo
from kzoo.hub import client
from kzoo.hub.locks import Lock, lock_file, lock_text, network_of, stem
from kzoo.training.networks import small_network
from tests.from_hub.test_pull import CONFIG, weights
from tests.hub import faults, samples


def trained(name: str, classes: int, seed: int = 0, **tags: object) -> dict[str, bytes]:
    """The files of a timm network as timm uploads them."""
    torch.manual_seed(seed)
    module = timm.create_model(name, num_classes=classes)
    config = {"architecture": name, "num_classes": classes, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    return {
        "model.safetensors": save(module.state_dict(), metadata={"format": "pt"}),
        "config.json": json.dumps(config).encode(),
    }


@pytest.fixture
def model(hub_client, registry, monkeypatch):
    """A Hub with two trained networks; waiting takes no time."""
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    hub = hub_client()
    tags = ["license:mit", "dataset:digits", "dataset:me/more"]
    hub.add_repo("me/small", {"model.safetensors": weights(), "config.json": CONFIG}, tags=tags)
    return hub


def test_added_ranked_pulled_carried_over_with_the_real_client(model, registry, command, tmp_path):
    head = model.add_repo("me/resnet", trained("test_resnet", 7), tags=["license:apache-2.0"])
    with model.log.recording() as log:
        code, out, said = command("add", "me/resnet", "--json")
    assert code == 0, said
    assert (len(log), log.sent() < 200_000) == (3, True)
    told = json.loads(out)
    assert told["exact"] and told["lock"]["commit"] == head and told["license"] == "apache-2.0"
    assert (told["classes"], told["input_size"], told["tag"]) == (7, [3, 224, 224], "weights")
    content = trained("test_resnet", 7)
    assert {file["name"]: file["sha256"] for file in told["lock"]["files"]} == {
        name: hashlib.sha256(each).hexdigest() for name, each in content.items()
    }
    with model.log.recording() as log:
        code, out, said = command("recommend", "timm:test_resnet", "--classes", "7", "-k", "3", "--json")
        assert code == 0, said
        first = next(row for row in json.loads(out)["results"] if row["model"] == "me/resnet")
        assert first["similarity"] > 0.99 and first["exact"]
        code, out, _ = command("recommend", "hf:me/resnet", "-k", "1", "--json")
        assert (code, json.loads(out)["results"][0]["similarity"]) == (0, 1.0)
        assert command("show", "me/resnet")[0] == 0
    assert len(log) == 0, "what is locked is known without the Hub"
    code, out, said = command("pull", "me/resnet", "--json")
    assert code == 0, said
    assert json.loads(out)["lock"] == told["lock"]
    with model.log.recording() as log:
        assert command("pull", "me/resnet")[0] == 0
        out = tmp_path / "start"
        code, _, said = command("transfer", "me/resnet", "timm:test_resnet", "--classes", "7", "--out", out, "--quiet")
        assert code == 0, said
    assert len(log) == 0
    assert (out / "model.safetensors").read_bytes() == Path(
        json.loads(command("pull", "me/resnet", "--json")[1])["path"]
    ).read_bytes()
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert recipe["sources"][0]["path"] == f"hf:me/resnet@{head}"


def test_the_entry_says_what_the_hub_tells_and_people_what_they_like(model, registry, command):
    assert command("add", "hf:me/small")[0] == 0
    entry = yaml.safe_load((registry / "hf/me--small.yaml").read_text())
    assert (entry["library"], entry["family"]) == ("hf", "me--small")
    assert entry["architectures"][0]["name"] == "me/small"
    parameters = sum(value.numel() for value in small_network("resnet-1x8", classes=5, channels=1).parameters())
    assert entry["architectures"][0]["checkpoints"] == [
        {
            "id": "me/small",
            "tag": "weights",
            "license": "mit",
            "classes": 5,
            "trained_on": ["digits", "me/more"],
            "parameters": parameters,
        }
    ]
    code, _, said = command("add", "me/small")
    assert (code, "exists already: 'kzoo pull --update' moves its lock" in said) == (2, True)
    code, out, _ = command("add", "me/small", "--force", "--license", "cc0-1.0", "--json")
    assert (code, json.loads(out)["license"], json.loads(out)["trained_on"]) == (0, "cc0-1.0", ["digits", "me/more"])
    assert command("registry", "check", registry)[0] == 0
    code, out, said = command("list", "me/small", "--json")
    assert [row["id"] for row in json.loads(out)] == ["me/small"]


def test_a_revision_is_locked_and_moved_with_its_branch(model, registry, command):
    old = model.head("me/small").oid
    model.tag("me/small", "v1", old)
    new = model.commit("me/small", {"model.safetensors": weights(1)})
    assert command("add", "me/small@v1")[0] == 0
    lock = json.loads(lock_file(registry, "me/small").read_text())
    assert (lock["asked"], lock["commit"]) == ("v1", old)
    code, out, _ = command("pull", "me/small", "--update")
    assert (code, f"still at {old[:12]}" in out) == (0, True)
    # Another revision is another network.
    code, out, _ = command("pull", "hf:me/small@main", "--json")
    assert json.loads(out)["lock"]["commit"] == new
    assert json.loads(lock_file(registry, "me/small").read_text()) == lock


def test_an_update_moves_lock_entry_and_index(model, registry, command):
    assert command("add", "me/small")[0] == 0
    comment = (registry / "hf/me--small.yaml").read_text() + "# ours\n"
    (registry / "hf/me--small.yaml").write_text(comment)
    model.commit("me/small", {"model.safetensors": weights(1)})
    assert command("pull", "me/small", "--update")[0] == 0
    assert (registry / "hf/me--small.yaml").read_text() == comment, "the same layers: people's file stays"
    model.commit("me/small", trained("test_resnet", 3))
    code, out, said = command("pull", "me/small", "--update", "--json")
    assert code == 0, said
    assert any(line.startswith("tensors: ") for line in json.loads(out)["changes"])
    assert command("-C", registry, "index", "--check")[0] == 0
    code, out, _ = command("recommend", "timm:test_resnet", "-k", "5", "--json")
    assert "me/small" in [row["model"] for row in json.loads(out)["results"]]


def test_a_model_that_a_registry_has_is_only_locked(hub_client, registry, command, monkeypatch):
    hub = hub_client()
    name = "timm/test_resnet.r160_in1k"
    hub.add_repo(name, trained("test_resnet", 1000))
    code, out, said = command("add", name, "--json")
    assert code == 0, said
    assert json.loads(out)["written"].endswith("locks/timm--test_resnet.r160_in1k.json")
    assert [path.name for path in registry.rglob("*.yaml")] == []
    with hub.log.recording() as log:
        assert command("pull", name)[0] == 0
        assert timm.create_model("test_resnet.r160_in1k", pretrained=True).num_classes == 1000
    assert log.count(method="GET", path="*/resolve/*") == 2, "config.json and weights, once for kzoo and timm"


def test_several_networks_of_one_repository(hub_client, registry, command):
    hub = hub_client()
    one, two = trained("test_resnet", 3)["model.safetensors"], trained("test_vit", 4)["model.safetensors"]
    hub.add_repo("me/two", {"a.safetensors": one, "deep/b.safetensors": two})
    code, _, said = command("add", "me/two")
    assert (code, "name one, as hf:me/two/FILE" in said) == (2, True)
    for file in ("a.safetensors", "deep/b.safetensors"):
        code, _, said = command("add", f"hf:me/two/{file}")
        assert code == 0, said
    code, out, _ = command("pull", "me/two/deep/b.safetensors", "--json")
    assert Path(json.loads(out)["path"]).read_bytes() == two
    assert (
        kzoo.architecture("hf:me/two/a.safetensors").typed_layers == kzoo.architecture("timm:test_resnet").typed_layers
    )


def test_what_cannot_be_added_leaves_nothing(model, registry, command):
    model.add_repo("me/pickle", {"pytorch_model.bin": b"x"})
    model.add_repo("me/gated", {"model.safetensors": weights()}, gated="auto")
    for name, code, sentence in [
        ("me/pickle", 2, "may be a pickle"),
        ("me/nothing", 2, "is not on the Hub"),
        ("me/gated", 2, "is gated: accept its terms"),
        ("hf:me/../x", 2, "names no"),
    ]:
        found, _, said = command("add", name)
        assert (found, sentence in said, said.count("Error: ")) == (code, True, 1), said
    assert [path for path in registry.rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_a_sum_that_the_hub_says_in_two_ways_is_locked_in_none(model, registry, command, no_waiting):
    model.fail(faults.wrong_sha(), method="GET", path="*/resolve/*", times=None)
    code, _, said = command("add", "me/small")
    if code == 0:  # a file that lies in git itself has no such sum
        pytest.fail("the weights should be stored apart from git")
    assert (code, "says two different sha256" in said) == (3, True)
    assert not lock_file(registry, "me/small").exists()


@pytest.mark.parametrize("name", ["a/" + "b" * 95, "a/b/" + "/".join("d" * 200 for _ in range(4)) + ".safetensors"])
def test_the_lock_of_any_name_has_a_file_of_its_own(name, tmp_path):
    assert len(stem(name).encode()) <= 200
    assert stem(name) != stem(name + "x")


def test_a_lock_reads_back_as_it_was_written(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(samples.safetensors({"a.weight": ("F32", [2, 3]), "a.bias": ("BF16", [2]), "n": ("I64", [])}))
    from kzoo.readers.files import read_weights_file

    found = read_weights_file(file)
    network = network_of(found)
    assert network.tensors == {"a.weight": "F32 2x3", "a.bias": "BF16 2", "n": "I64"}
    lock = Lock(
        name="a/b",
        repository="a/b",
        commit="0" * 40,
        files=({"name": "x", "size": 1, "sha256": "0" * 64},),
        network=network,
    )  # type: ignore[arg-type]
    again = Lock.model_validate_json(lock_text(lock))
    assert again == lock and again.weights.tensors == found.tensors

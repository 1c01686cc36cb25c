"""Published models made again from their pages alone; recipes of strangers are data."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load, save

from kzoo.errors import InputError
from kzoo.publish.rebuilding import Nearness, TensorDifference
from kzoo.publish.trust import require_harmless
from kzoo.recipe import Recipe
from tests.hub.storage import File

NAME = "tester/model"
SHA = "0" * 64


@pytest.fixture
def published(world, model, command):
    code, _, said = command("publish", model, "--repo", NAME)
    assert code == 0, said
    return world


def changed(hub, **files):
    """Another commit with files in place of those that are there."""
    return hub.commit(NAME, {name.replace("__", "."): content for name, content in files.items()})


def recipe_of(hub) -> dict:
    return yaml.safe_load(hub.read(NAME, "recipe.yaml", "main"))


def test_it_is_the_same_bytes_and_costs_no_weights(published, command, tmp_path):
    with published.log.recording() as log:
        code, out, said = command("rebuild", NAME, "--out", "again")
    assert code == 0, said
    assert f"{NAME} at {published.head(NAME).oid[:12]}: identical, byte for byte" in out
    assert log.count(path="*model.safetensors*") == 0, "the Hub says the sha256 of what it has"
    assert (tmp_path / "again/model.safetensors").read_bytes() == published.read(NAME, "model.safetensors", "main")
    code, _, said = command("rebuild", NAME, "--out", "again")
    assert (code, "exists" in said) == (2, True)


def another(content: bytes, size: float) -> bytes:
    state = load(content)
    state["conv1.weight"] = state["conv1.weight"] * (1 + size)
    return save(state, metadata={"format": "pt"})


def test_other_bytes_are_told_tensor_by_tensor(published, command):
    weights = published.read(NAME, "model.safetensors", "main")
    changed(published, model__safetensors=another(weights, 1e-3))
    code, out, _ = command("rebuild", NAME, "--json")
    told = json.loads(out)
    assert (code, told["verdict"]) == (1, "different")
    assert [one["name"] for one in told["tensors"]] == ["conv1.weight"]
    assert told["tensors"][0]["share"] == pytest.approx(1e-3, rel=1e-2)
    code, out, said = command("rebuild", NAME)
    assert (code, "conv1.weight" in out, "1 tensor differs." in said) == (1, True, True)


@pytest.mark.parametrize(("size", "verdict", "code"), [(1e-6, "equivalent", 0), (1e-2, "different", 1)])
def test_another_class_of_machine_may_be_near(published, command, size, verdict, code):
    weights = published.read(NAME, "model.safetensors", "main")
    environment = yaml.safe_load(published.read(NAME, "environment.yaml", "main")) | {"instructions": "SSE9"}
    changed(published, model__safetensors=another(weights, size), environment__yaml=yaml.safe_dump(environment))
    found, out, said = command("rebuild", NAME, "--json")
    told = json.loads(out)
    assert (found, told["verdict"]) == (code, verdict)
    assert told["environment"]["instructions"]["published"] == "SSE9" and "instructions SSE9" in said


def difference(share: float | None) -> TensorDifference:
    return TensorDifference("a", share, share)


@pytest.mark.parametrize(
    ("near", "tensors", "accuracy", "met"),
    [
        (Nearness(False, False, 0.02), [difference(1e-9)], None, False),
        (Nearness(True, False, 0.02), [difference(1e-5)], None, True),
        (Nearness(True, False, 0.02), [difference(1e-5), difference(1e-3)], (0.9, 0.9), False),
        (Nearness(True, False, 0.02), [difference(None)], None, False),
        (Nearness(True, False, 0.02), [difference(math.nan)], None, False),
        (Nearness(True, True, 0.02), [difference(0.5)], (0.9, 0.91), True),
        (Nearness(True, True, 0.02), [difference(0.5)], (0.9, 0.95), False),
        (Nearness(True, True, 0.02), [difference(0.5)], None, False),
        (Nearness(True, True, 0.02), [difference(None)], (0.9, 0.9), False),
    ],
)
def test_what_counts_as_near(near, tensors, accuracy, met):
    assert near.is_met(tensors, accuracy) is met


def test_a_repository_that_kzoo_did_not_publish_is_told(published, command):
    published.add_repo("tester/plain", {"model.safetensors": b"x", "README.md": "y"})
    code, _, said = command("rebuild", "tester/plain")
    assert (code, "has no recipe.yaml, so kzoo did not publish it" in said) == (2, True)
    code, _, said = command("rebuild", "tester/nothing")
    assert (code, "is not on the Hub" in said) == (2, True)


HOSTILE = {
    "code as target": ("target", {"model": "py:os:getcwd"}),
    "code as source": ("sources", [{"path": "py:os:getcwd", "sha256": SHA}]),
    "a place above": ("sources", [{"path": "../../../etc/passwd", "sha256": SHA}]),
    "a place": ("sources", [{"path": "/etc/passwd", "sha256": SHA}]),
    "a home": ("sources", [{"path": "~/secret.safetensors", "sha256": SHA}]),
    "a place named local": ("sources", [{"path": "local:../../x", "sha256": SHA}]),
    "no commit": ("sources", [{"path": "hf:tester/model", "sha256": SHA}]),
    "a branch": ("sources", [{"path": "hf:tester/model@main", "sha256": SHA}]),
    "a branch as long as a commit": ("sources", [{"path": "hf:tester/model@" + "z" * 40, "sha256": SHA}]),
    "no repository": ("sources", [{"path": "hf:../../x@" + "0" * 40, "sha256": SHA}]),
    "a plan elsewhere": ("plan", {"path": "../plan.json", "sha256": SHA}),
    "a folder of images": ("data", {"task": "imagefolder:/etc"}),
    "images above": ("data", {"task": "imagefolder:../.."}),
    "data elsewhere": ("data", {"task": "mnist", "root": "/"}),
    "images without end": ("data", {"task": "digits", "size": 4096, "train": 10_000_000}),
    "classes without end": ("target", {"model": "small:resnet-1x8", "classes": 10**9}),
    "a size without end": ("target", {"model": "timm:vit_tiny_patch16_224", "img_size": 10**6}),
    "epochs without end": ("training", {"epochs": 50_000}),
    "parameters without end": ("parameters", {"x": "y" * 20_000}),
    "unknown": ("command", "rm -rf /"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_recipe_is_refused_before_anything_is_made(published, command, tmp_path, kind):
    field, value = HOSTILE[kind]
    recipe = recipe_of(published)
    recipe[field] = recipe[field] | value if isinstance(value, dict) and isinstance(recipe.get(field), dict) else value
    changed(published, recipe__yaml=yaml.safe_dump(recipe))
    with published.log.recording() as log:
        code, _, said = command("rebuild", NAME, "--out", "again")
    assert (code, said.count("Error: "), "Traceback" in said) == (2, 1, False), said
    assert field.rstrip("s") in said
    assert not (tmp_path / "again").exists() and log.count(path="*safetensors*") == 0


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch mark']\n",
        "kzoo_recipe: 1\ntarget: &a {model: 'small:resnet-1x8'}\nparameters: {x: *a}\n",
        "kzoo_recipe: 1\ntarget: !!python/name:os.system {model: 'small:resnet-1x8'}\n",
        "a: " + "[" * 5000 + "]" * 5000,
        "\x00\x01\x02",
    ],
    ids=["python tag", "alias", "python name", "deep", "binary"],
)
def test_a_recipe_that_is_no_plain_yaml_is_refused(published, command, tmp_path, text):
    changed(published, recipe__yaml=text)
    code, _, said = command("rebuild", NAME)
    assert (code, said.count("Error: ")) == (2, 1), said
    assert not (tmp_path / "mark").exists()


def test_a_recipe_of_ten_gigabytes_is_not_fetched(published, command):
    changed(published, recipe__yaml=File(b"kzoo_recipe: 1\n", size=10**10, lfs=False))
    with published.log.recording() as log:
        code, _, said = command("rebuild", NAME)
    assert (code, "has 10,000,000,000 bytes, more than the 1,000,000 that are read" in said) == (2, True), said
    assert log.sent() < 100_000


def test_harmless_recipes_pass():
    commit = "a" * 40
    for sources in (
        [],
        [{"path": f"hf:a/b@{commit}", "sha256": SHA}],
        [{"path": "local:glyphs-vgg-1x16", "sha256": SHA}],
    ):
        recipe = Recipe.model_validate(
            {"sources": sources, "target": {"model": "timm:resnet18"}, "data": {"task": "glyphs/upper", "size": 32}}
        )
        require_harmless(recipe, "x")
    with pytest.raises(InputError, match=r"x: target\.model: 'resnet18' names no network"):
        require_harmless(Recipe.model_validate({"target": {"model": "resnet18"}}), "x")


def test_a_source_that_is_another_by_now_is_not_run(published, command):
    recipe = recipe_of(published)
    recipe["sources"][0]["sha256"] = SHA
    changed(published, recipe__yaml=yaml.safe_dump(recipe))
    code, _, said = command("rebuild", NAME)
    assert (code, "but the recipe was made with" in said) == (1, True), said


def test_differences_of_types_and_names_are_told(tmp_path):
    from kzoo.publish.rebuilding import _differences

    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensors = {"same": torch.ones(2), "shape": torch.ones(2), "gone": torch.ones(1), "zero": torch.zeros(2)}
    one.write_bytes(save(tensors))
    tensors |= {"shape": torch.ones(3), "zero": torch.tensor([0.0, 0.5]), "new": torch.ones(1)}
    other.write_bytes(save({name: tensor for name, tensor in tensors.items() if name != "gone"}))
    found = {one.name: (one.largest, one.share) for one in _differences(Path(one), Path(other))}
    assert found == {"gone": (None, None), "new": (None, None), "shape": (None, None), "zero": (0.5, math.inf)}

"""Grown networks are published, fetched, grown on and made again like any other."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

import kzoo

ONCE, TWICE = "tester/once", "tester/twice"
SOURCE = "local:glyphs-vgg-1x16"


@pytest.fixture
def once(world, command):
    """A network that was made wider, published."""
    assert command("widen", SOURCE, "--layer", "features.4=50", "--out", "once")[0] == 0
    code, _, said = command("publish", "once", "--repo", ONCE)
    assert code == 0, said
    return world


@pytest.fixture
def grown(once, command):
    """That one made deeper from the Hub, in the folder ``twice``, and published."""
    code, _, said = command("deepen", f"hf:{ONCE}", "--at", "features.6", "--no-norm", "--out", "twice")
    assert code == 0, said
    code, _, said = command("publish", "twice", "--repo", TWICE)
    assert code == 0, said
    return once


def test_a_grown_network_from_the_hub_is_grown_on_and_both_are_rebuilt_to_the_byte(grown, command, tmp_path):
    recipe = yaml.safe_load(grown.read(TWICE, "recipe.yaml", "main"))
    assert recipe["sources"][0]["path"] == f"hf:{ONCE}@{grown.head(ONCE).oid}"
    assert [edit["edit"] for edit in recipe["target"]["edits"]] == ["resize"]
    config = json.loads(grown.read(TWICE, "config.json", "main"))
    assert [edit["edit"] for edit in config["edits"]] == ["resize", "insert"]
    for name in (ONCE, TWICE):
        code, out, said = command("rebuild", name)
        assert (code, "identical, byte for byte" in out) == (0, True), said
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    first, last = kzoo.load("once"), kzoo.load("twice")
    assert load_file("once/model.safetensors")["features.4.weight"].shape[0] == 50
    with torch.no_grad():
        torch.testing.assert_close(first(images), last(images), rtol=1e-5, atol=1e-5)


def test_the_card_says_what_was_grown(grown, command):
    card = grown.read(TWICE, "README.md", "main").decode()
    assert "changed by 2 edits, with" in card
    assert "by Net2DeeperNet" in card and "reconstruction" in card
    assert "the rest is new" in card and "at most as good as its source" in card
    assert "kzoo.load(snapshot_download" in card and "timm.create_model" not in card
    code, out, _ = command("lineage", f"hf:{TWICE}")
    assert code == 0 and ONCE in out and SOURCE in out


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([{"edit": "run", "command": "rm"}], "edit 1"),
        ([{"edit": "resize", "modules": {"": {"__class__": 3}}}], "edit 1"),
        ([{"edit": "append", "stage": "features", "like": "0"} for _ in range(1001)], "1000 at most"),
        ([{"edit": "resize", "tensors": {"features.0.weight": [2**21, 1, 3, 2**10]}}], "are free"),
    ],
)
def test_hostile_edits_in_a_stranger_s_recipe_are_refused(once, command, edits, message):
    recipe = yaml.safe_load(once.read(ONCE, "recipe.yaml", "main"))
    recipe["target"]["edits"] = edits
    once.commit(ONCE, {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    code, _, said = command("rebuild", ONCE)
    assert (code, said.count("Error: "), message in said, "Traceback" in said) == (2, 1, True, False), said

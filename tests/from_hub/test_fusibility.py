"""Whether networks fit each other to be fused, by their headers: here, and on the tests' Hub."""

import json

import pytest

from tests.hub import samples

SHAPES = {"conv.weight": ("F32", [200, 100, 3, 3]), "fc.weight": ("F32", [10, 200]), "fc.bias": ("F32", [10])}
BYTES = 4 * (200 * 100 * 9 + 2000 + 10)


@pytest.fixture
def two(hub_client):
    """A Hub with two networks that fit each other, one in shards."""
    hub = hub_client()
    one = samples.safetensors(SHAPES, seed=1)
    hub.add_repo("me/one", {"model.safetensors": one}, card_data={"license": "apache-2.0"}, tags=["license:apache-2.0"])
    parts = [{"conv.weight": SHAPES["conv.weight"]}, {name: SHAPES[name] for name in ("fc.weight", "fc.bias")}]
    hub.add_repo("me/two", samples.sharded(parts), card_data={"license": "mit"}, tags=["license:mit"])
    return hub


def check(command, *sources):
    code, out, said = command("fuse", "--check", *sources, "--json")
    return code, json.loads(out) if out else None, said


def test_headers_tell_whether_they_fit_what_is_fetched_and_which_license_holds(two, command):
    with two.log.recording() as log:
        code, found, said = check(command, "hf:me/one", "hf:me/two")
    assert code == 0, said
    assert (found["fits"], found["problem"], found["differing"]) == (True, None, [])
    one, two_ = found["parents"]
    assert one == {
        "name": f"hf:me/one@{two.head('me/one').oid}",
        "tensors": 3,
        "parameters": BYTES // 4,
        "dtypes": {"F32": 3},
        "bytes": one["bytes"],
        "fetched_bytes": one["bytes"],
        "license": "apache-2.0",
    }
    assert BYTES < one["bytes"] < BYTES + 1000
    assert (two_["tensors"], two_["parameters"], two_["license"]) == (3, BYTES // 4, "mit")
    assert found["bytes_to_fetch"] == one["fetched_bytes"] + two_["fetched_bytes"] > 2 * BYTES
    assert (found["license"]["license"], found["license"]["blocked"]) == ("apache-2.0", False)
    # Each repository's page, one header of the one, and the index and two headers of the other.
    assert len(log) == 6 and log.sent() < BYTES / 3


def test_what_is_locked_and_in_the_cache_costs_no_request(two, command, registry):
    for name in ("me/one", "me/two"):
        code, _, said = command("pull", f"hf:{name}")
        assert code == 0, said
    with two.log.recording() as log:
        code, found, _ = check(command, "hf:me/one", "hf:me/two")
    assert (code, found["bytes_to_fetch"], len(log)) == (0, 0, 0)
    assert [one["license"] for one in found["parents"]] == ["apache-2.0", "mit"]


def test_what_differs_is_listed_with_shapes_and_types(two, command, tmp_path):
    other = {"conv.weight": ("F32", [200, 100, 3, 3]), "fc.weight": ("F16", [10, 200]), "head.bias": ("F32", [7])}
    (tmp_path / "other.safetensors").write_bytes(samples.safetensors(other))
    code, found, _ = check(command, "hf:me/one", tmp_path / "other.safetensors")
    names = [one["name"] for one in found["parents"]]
    assert (code, found["fits"]) == (1, False)
    assert "only hf:me/one@" in found["problem"] and "fc.bias (10)" in found["problem"]
    assert found["differing"] == [
        {
            "tensor": "fc.weight",
            "parents": dict(zip(names, [{"dtype": "F32", "shape": [10, 200]}, {"dtype": "F16", "shape": [10, 200]}], strict=True)),
        },
        {"tensor": "fc.bias", "parents": dict(zip(names, [{"dtype": "F32", "shape": [10]}, None], strict=True))},
        {"tensor": "head.bias", "parents": dict(zip(names, [None, {"dtype": "F32", "shape": [7]}], strict=True))},
    ]  # fmt: skip
    assert found["parents"][1]["fetched_bytes"] == 0 and found["license"]["license"] == "unknown"
    code, out, said = command("fuse", "--check", "hf:me/one", tmp_path / "other.safetensors")
    assert (code, "They do not fit: " in out, "fc.weight: F32 10x200 | F16 10x200" in out) == (1, True, True), said
    assert "head.bias: missing | F32 7" in out and "not legal advice" in said


def test_types_that_are_mixed_do_not_fit(command, tmp_path):
    for name, dtype in (("a", "F32"), ("b", "BF16")):
        (tmp_path / f"{name}.safetensors").write_bytes(samples.safetensors({"fc.weight": (dtype, [2, 4])}))
    code, found, _ = check(command, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (code, "fc.weight is float32 in" in found["problem"]) == (1, True)


def test_licenses_that_exclude_each_other_are_told_with_ways_out(hub_client, command):
    hub = hub_client()
    for number, license in enumerate(("cc-by-sa-4.0", "cc-by-nc-sa-4.0")):
        content = samples.safetensors({"fc.weight": ("F32", [2, 4])}, seed=number)
        hub.add_repo(
            f"me/{number}", {"model.safetensors": content}, card_data={"license": license}, tags=[f"license:{license}"]
        )
    code, found, _ = check(command, "hf:me/0", "hf:me/1")
    assert (code, found["fits"], found["license"]["blocked"], found["license"]["license"]) == (0, True, True, None)
    assert found["license"]["ways_out"] and found["license"]["reasons"]


def test_the_same_weights_under_two_names_are_refused_and_fetched_once(two, command):
    code, found, _ = check(command, "hf:me/one", "hf:me/one@main")
    assert (code, "is given twice" in found["problem"]) == (1, True)
    assert found["bytes_to_fetch"] == found["parents"][0]["fetched_bytes"]
    code, found, _ = check(command, "hf:me/one")
    assert (code, "one network cannot be fused" in found["problem"]) == (1, True)


def test_a_card_beside_a_file_or_what_a_recipe_was_made_from_tells_the_license(command, tmp_path):
    for number, name in enumerate(("carded", "made")):
        (tmp_path / name).mkdir()
        content = samples.safetensors({"fc.weight": ("F32", [2, 4])}, seed=number)
        (tmp_path / name / "model.safetensors").write_bytes(content)
    (tmp_path / "carded" / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# A card\n")
    (tmp_path / "made" / "README.md").write_text("---\nlibrary_name: kzoo\n---\n")
    source = {"path": "local:digits-vit-2x32", "sha256": "0" * 64}
    recipe = {"sources": [source], "target": {"model": "small:vgg-1x8"}, "data": {"task": "digits"}}
    (tmp_path / "made" / "recipe.yaml").write_text(json.dumps(recipe))
    code, found, said = check(command, tmp_path / "carded", tmp_path / "made")
    assert code == 0, said
    assert [one["license"] for one in found["parents"]] == ["bsd-3-clause", None]
    reasons = " ".join(found["license"]["reasons"])
    assert "carded (model) brings bsd-3-clause" in reasons and "local:digits-vit-2x32 (model): nobody says" in reasons
    assert "digits (data) brings cc-by-4.0" in reasons


@pytest.mark.parametrize(
    ("source", "said"),
    [("py:some.module:make", "is code, which has no header"), ("hf:me/none", "me/none"), ("resnetty", "nearest")],
)
def test_what_has_no_header_is_told_in_one_sentence(hub_client, command, source, said):
    hub_client()
    code, out, told = command("fuse", "--check", source, source)
    assert (code, out, told.count("Error: "), said in told) == (2, "", 1, True), told


def test_without_check_a_folder_is_needed(command, tmp_path):
    code, _, said = command("fuse", tmp_path / "a", tmp_path / "b")
    assert (code, "--out" in said and "--check" in said) == (2, True), said

"""What a careful stranger would try: other machines, other licenses, pages that lie, folders that change."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load, save

from kzoo.hub import client
from kzoo.publish.data_licenses import data_part
from kzoo.publish.licensing import Part, joint_license, refusing
from kzoo.publish.safe import line
from tests.from_hub.test_pull import CONFIG, weights
from tests.hub import faults

NAME = "tester/model"


def carried_over(command, world, tmp_path: Path, name: str = "kim/net", out: str = "carried") -> Path:
    """A model folder whose source is on the Hub."""
    code, _, said = command("transfer", f"hf:{name}", "small:resnet-2x8", "--in-chans", "1", "--out", out, "--quiet")
    assert code == 0, said
    return tmp_path / out


@pytest.fixture
def elsewhere(hub_client, tmp_path, monkeypatch):
    """Another machine: another home, another registry."""

    def move():
        hub_client("hf_write", home="elsewhere")
        monkeypatch.setattr("kzoo.hub.models.own_registry", lambda: tmp_path / "theirs")
        monkeypatch.setattr("kzoo.paths.own_registry", lambda: tmp_path / "theirs")

    return move


def test_a_license_blocks_on_every_machine(world, command, tmp_path, elsewhere):
    world.add_repo("kim/net", {"model.safetensors": weights(), "config.json": CONFIG}, tags=["license:cc-by-nd-4.0"])
    folder = carried_over(command, world, tmp_path)
    said = []
    for _ in range(2):
        code, _, told = command("publish", folder, "--repo", NAME)
        assert (code, "does not allow to publish changed versions" in told) == (1, True), told
        said.append(told)
        elsewhere()
    assert said[0] == said[1] and NAME not in world.store.repos


def test_the_page_is_the_same_wherever_it_is_made(world, command, tmp_path, elsewhere):
    world.add_repo("kim/net", {"model.safetensors": weights(), "config.json": CONFIG}, tags=["license:mit"])
    folder = carried_over(command, world, tmp_path)
    assert command("publish", folder, "--repo", NAME)[0] == 0
    elsewhere()
    code, out, said = command("publish", folder, "--repo", NAME, "--json")
    assert (code, json.loads(out)["changed"], json.loads(out)["license"]) == (0, False, "mit"), said


def test_a_license_of_their_own_is_kept_with_name_and_link(world, command, tmp_path):
    card = {"license": "other", "license_name": "house", "license_link": "https://x.y/z"}
    files = {"model.safetensors": weights(), "config.json": CONFIG}
    world.add_repo("kim/net", files, tags=["license:other"], card_data=card)
    folder = carried_over(command, world, tmp_path)
    given = ("--license", "other", "--license-name", "house", "--license-link", "https://x.y/z")
    for number, more in enumerate(((), given)):
        code, _, said = command("publish", folder, "--repo", f"tester/model{number}", *more)
        assert code == 0, said
        head = yaml.safe_load(world.read(f"tester/model{number}", "README.md", "main").decode().split("---\n")[1])
        assert (head["license"], head["license_name"], head["license_link"]) == ("other", "house", "https://x.y/z")


def test_offline_a_dry_run_says_what_it_could_not_ask(world, command, tmp_path):
    world.add_repo("kim/net", {"model.safetensors": weights(), "config.json": CONFIG}, tags=["license:mit"])
    folder = carried_over(command, world, tmp_path)
    world.stop()
    code, out, said = command("publish", folder, "--repo", NAME, "--dry-run", "--json")
    assert (code, json.loads(out)["license"]) == (0, "mit"), "its lock tells it"
    assert "Note: the license of kim/net cannot be asked for" in said
    assert command("publish", folder, "--repo", NAME)[0] == 3


def model(license: str, **more: str) -> Part:
    return Part(f"a/{license}", "model", license, **more)


@pytest.mark.parametrize(
    ("licenses", "choice", "against"),
    [
        (["mit"], "mit", []),
        (["mit"], "apache-2.0", []),
        (["mit"], "gpl-3.0", []),
        (["apache-2.0"], "mit", ["a/apache-2.0"]),
        (["gpl-3.0"], "agpl-3.0", ["a/gpl-3.0"]),
        (["gpl-3.0", "agpl-3.0"], "agpl-3.0", []),
        (["mpl-2.0"], "gpl-3.0", ["a/mpl-2.0"]),
        (["eupl-1.2"], "gpl-2.0", ["a/eupl-1.2"]),
        (["cc-by-nd-4.0"], "cc-by-nd-4.0", ["a/cc-by-nd-4.0"]),
        (["unknown"], "mit", ["a/unknown"]),
        (["mit", "gpl-2.0"], "mit", ["a/gpl-2.0"]),
    ],
)
def test_a_choice_must_be_allowed_by_each_source_itself(licenses, choice, against):
    assert list(refusing([*map(model, licenses), data_part("digits")], model(choice))) == against


def test_nothing_is_said_of_what_an_unknown_license_allows():
    for part in (model("unknown"), model("other", license_name="house", license_link="https://x.y")):
        found = joint_license([part])
        assert not [reason for reason in found.reasons if "allow" in reason and "All" in reason], found.reasons


def test_a_dry_run_never_writes_over_a_model(world, model_copy, command):
    before = (model_copy / "recipe.yaml").read_bytes()
    for out in (model_copy, model_copy / "in", model_copy.parent):
        code, _, said = command("publish", model_copy, "--repo", NAME, "--dry-run", "--out", out, "--force")
        assert (code, "give another --out" in said) == (2, True), said
    other = model_copy.parent / "other"
    other.mkdir()
    (other / "dear.txt").write_text("x")
    code, _, said = command("publish", model_copy, "--repo", NAME, "--dry-run", "--out", other, "--force")
    assert (code, "holds no earlier dry run" in said) == (2, True)
    assert (model_copy / "recipe.yaml").read_bytes() == before and (other / "dear.txt").exists()


@pytest.fixture
def model_copy(model):
    return model


def test_weights_that_change_meanwhile_are_not_sent(world, model_copy, command):
    def change() -> None:
        content = (model_copy / "model.safetensors").read_bytes()
        (model_copy / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    world.fail(faults.first(change), path="/api/whoami-v2", times=1)
    code, _, said = command("publish", model_copy, "--repo", NAME)
    assert (code, "has changed since its card was written" in said) == (2, True), said
    assert "model.safetensors" not in world.head(NAME).files


def test_a_proposal_that_is_there_names_its_own_commit(world, model_copy, command):
    world.add_repo(NAME, {"README.md": "theirs"})
    first = json.loads(command("publish", model_copy, "--repo", NAME, "--pr", "--json")[1])
    again = json.loads(command("publish", model_copy, "--repo", NAME, "--pr", "--json")[1])
    assert again["commit"] == first["commit"] != world.head(NAME).oid


def test_files_that_the_recipe_does_not_name_stay_at_home(world, model_copy, command):
    (model_copy / "plan.json").write_text("{}")
    assert command("publish", model_copy, "--repo", NAME)[0] == 0
    assert "plan.json" not in world.head(NAME).files
    (model_copy / "environment.yaml").write_text("token: [1]\n")
    code, _, said = command("publish", model_copy, "--repo", NAME, "--yes")
    assert (code, "is no environment" in said) == (2, True)


@pytest.mark.parametrize("token", ["hf_read", "hf_stranger"])
def test_who_may_not_write_is_told_of_proposals(hub_client, model_copy, command, monkeypatch, no_waiting, token):
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    hub = hub_client(token)
    hub.add_repo(NAME, {"README.md": "x"})
    code, _, said = command("publish", model_copy, "--repo", NAME, "--yes")
    assert (code, "log in with a token that may write there, or propose it with --pr" in said) == (2, True), said


@pytest.mark.parametrize("fault", [faults.error(500), faults.cut(0)], ids=["500", "cut"])
@pytest.mark.parametrize("how", ["xet", "pr", "replace"])
def test_the_commit_is_made_once_whatever_the_way(hub_client, model_copy, command, monkeypatch, no_waiting, fault, how):
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    hub = hub_client("hf_write", xet=how == "xet")
    if how != "xet":
        hub.add_repo(NAME, {"README.md": "before"})
    hub.fail(fault, method="POST", path="*/commit/*", times=1)
    more = {"xet": [], "pr": ["--pr"], "replace": ["--yes"]}[how]
    code, out, said = command("publish", model_copy, "--repo", NAME, "--json", *more)
    assert code == 0, said
    commits = len(hub.repo(NAME).commits)
    assert commits == 2 and json.loads(out)["commit"] in hub.repo(NAME).commits


# ------------------------------------------------------------------------------------------------ rebuild


def published(world, command, folder, name: str = NAME) -> None:
    code, _, said = command("publish", folder, "--repo", name, "--license", "mit")
    assert code == 0, said


@pytest.fixture
def trained(world, command, tmp_path):
    """A network that was trained for a moment, on the Hub."""
    recipe = {
        "kzoo_recipe": 1,
        "target": {"model": "small:resnet-1x8", "classes": 10, "in_chans": 1},
        "method": "random",
        "data": {"task": "digits", "train": 200, "test": 100, "size": 16, "channels": 1},
        "training": {"epochs": 2, "batch_size": 32, "lr": 0.01, "threads": 1},
        "threads": 1,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, said = command("run", "recipe.yaml", "--out", "trained")
    assert code == 0, said
    published(world, command, tmp_path / "trained")
    return world


def change_page(world, content: bytes, **environment: str) -> None:
    told = yaml.safe_load(world.read(NAME, "environment.yaml", "main")) | environment
    world.commit(NAME, {"model.safetensors": content, "environment.yaml": yaml.safe_dump(told)})


def test_a_page_cannot_call_other_weights_as_good(trained, command):
    state = load(trained.read(NAME, "model.safetensors", "main"))
    zeros = save({key: torch.zeros_like(value) for key, value in state.items()})
    change_page(trained, zeros, instructions="SSE9")
    code, out, _ = command("rebuild", NAME, "--json")
    told = json.loads(out)
    assert (code, told["verdict"]) == (1, "different")
    assert told["accuracy"]["published"] < 0.3 < told["accuracy"]["rebuilt"], "measured, not read from the page"
    near = save({key: value * (1 + 1e-4) if value.is_floating_point() else value for key, value in state.items()})
    change_page(trained, near, instructions="SSE9")
    code, out, _ = command("rebuild", NAME, "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "equivalent")
    state["conv1.weight"][0] = math.nan
    change_page(trained, save(state), instructions="SSE9")
    code, out, _ = command("rebuild", NAME, "--json")
    assert (code, "NaN" in out, json.loads(out)["tensors"][0]["largest"]) == (1, False, None)


def test_what_is_different_here_is_named(trained, command):
    recipe = yaml.safe_load(trained.read(NAME, "recipe.yaml", "main"))
    recipe["versions"]["kzoo"] = "0.0.1"
    trained.commit(NAME, {"recipe.yaml": yaml.safe_dump(recipe)})
    code, out, said = command("rebuild", NAME, "--threads", "2", "--json")
    told = json.loads(out)
    assert told["environment"]["threads"] == {"published": "1", "here": "2"}
    assert "it was made with kzoo 0.0.1" in said and "it was made with threads 1, here it is 2" in said
    assert code == (1 if told["verdict"] == "different" else 0)


def test_sentences_call_files_what_they_are_on_the_hub(trained, command):
    for name, content in (("environment.yaml", "- 1\n"), ("recipe.yaml", "method: 3\n")):
        before = trained.read(NAME, name, "main")
        trained.commit(NAME, {name: content})
        code, _, said = command("rebuild", NAME)
        assert (code, f"hf:{NAME}/{name}" in said, "/tmp" in said) == (2, True, False), said
        trained.commit(NAME, {name: before})


# ------------------------------------------------------------------------------------------------ lineage and text


def test_a_strangers_card_costs_a_bounded_number_of_requests(world, command):
    names = ", ".join(f"a/gone{number}" for number in range(1500))
    world.add_repo("a/many", {"README.md": f"---\nbase_model: [{names}]\n---\n"})
    with world.log.recording() as log:
        code, out, _ = command("lineage", "a/many")
    assert (code, len(log) <= 310, "more" in out) == (0, True, True)


def test_a_parent_that_does_not_answer_hides_no_other(world, command):
    world.add_repo("a/one", {"README.md": "x"})
    world.add_repo("a/two", {"README.md": "y"})
    world.add_repo("a/child", {"README.md": "---\nbase_model: [a/one, a/two]\n---\n"})
    world.fail(faults.error(503), path="*a/one*", times=None)
    code, out, _ = command("lineage", "a/child", "--json")
    one, two = json.loads(out)["parents"]
    assert code == 0 and "503" in one["problem"] and two["problem"].startswith("no commit is named")


@pytest.mark.parametrize("word", ["नमस्ते", "ชื่อ", "été", "שָׁלוֹם"])
def test_labels_of_any_script_stay_as_they_are(word):
    import unicodedata

    assert line(word) == unicodedata.normalize("NFC", word)


def test_piles_of_marks_do_not_climb():
    assert len(line("a" + "\u0301" * 50)) <= 5

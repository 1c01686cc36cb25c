"""Model folders on the tests' Hub: one commit, whole or not at all, once, and nothing by accident."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kzoo.hub import client
from kzoo.publish import publishing
from kzoo.publish.rules import card_faults
from tests.hub import faults
from tests.hub.killing import killed_at

NAME = "tester/model"
#: The requests of a first publication without xet; `test_the_requests_are_as_many_as_the_faults_are_tried_at` counts.
REQUESTS = 11


def test_all_of_it_lands_in_one_commit_that_only_the_owner_sees(world, model, command, hub_client):
    code, out, said = command("publish", model, "--repo", NAME)
    assert code == 0, said
    assert f"{world.url}/{NAME}: published" in out and "private, license apache-2.0" in out
    repo = world.repo(NAME)
    assert repo.private and len(repo.commits) == 2, "the empty repository, then all of it"
    files = set(world.head(NAME).files) - {".gitattributes"}
    assert files == {
        *(
            "model.safetensors",
            "config.json",
            "recipe.yaml",
            "metrics.json",
            "environment.yaml",
            "matching.svg",
            "README.md",
        ),
    }
    assert world.read(NAME, "model.safetensors", "main") == (model / "model.safetensors").read_bytes()
    assert card_faults(world.read(NAME, "README.md", "main").decode()) == []
    for _ in range(2):
        code, out, _ = command("publish", model, "--repo", NAME)
        assert (code, "nothing has changed" in out, len(repo.commits)) == (0, True, 2)
    code, out, _ = command("publish", model, "--repo", NAME, "--public", "--json")
    told = json.loads(out)
    assert (told["changed"], told["public"], repo.private, len(repo.commits)) == (False, True, False, 2)


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_the_same_through_the_clients_two_ways(hub_environment, hub, model, xet):
    environment = hub_environment("hf_write", xet=xet)
    command = [sys.executable, "-m", "kzoo", "publish", str(model), "--repo", NAME, "--public", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == hub.head(NAME).oid
    assert hub.read(NAME, "model.safetensors", "main") == (model / "model.safetensors").read_bytes()
    assert len(hub.repo(NAME).commits) == 2 and not hub.repo(NAME).private
    assert hub.log.count(path="*xet-write-token*") >= (1 if xet else 0)


def test_what_is_there_is_replaced_only_when_it_is_meant(world, model, command):
    world.add_repo(NAME, {"README.md": "theirs", "notes.txt": "theirs", "plan.json": "old"}, private=False)
    code, _, said = command("publish", model, "--repo", NAME)
    assert code == 2
    assert f"{NAME} exists: this replaces README.md, plan.json beside 1 other files: give --yes" in said
    assert world.read(NAME, "README.md", "main") == b"theirs"
    code, out, said = command("publish", model, "--repo", NAME, "--yes", "--json")
    assert code == 0, said
    assert json.loads(out)["public"], "it was seen by all before, and is"
    assert world.read(NAME, "notes.txt", "main") == b"theirs"
    assert "plan.json" not in world.head(NAME).files, "a plan of another model would be taken for this one's"


def test_a_proposal_is_a_pull_request_and_made_once(world, model, command):
    code, _, said = command("publish", model, "--repo", NAME, "--pr")
    assert (code, "nothing can be proposed to it" in said) == (2, True)
    world.add_repo(NAME, {"README.md": "theirs"})
    before = world.head(NAME).oid
    code, out, said = command("publish", model, "--repo", NAME, "--pr", "--json")
    assert code == 0, said
    first = json.loads(out)
    assert first["changed"] and first["pull_request"].endswith("/discussions/1")
    assert world.head(NAME).oid == before
    code, out, _ = command("publish", model, "--repo", NAME, "--pr", "--json")
    assert (json.loads(out)["changed"], json.loads(out)["pull_request"]) == (False, first["pull_request"])


def test_a_dry_run_sends_nothing_and_shows_all(world, model, command, tmp_path):
    with world.log.recording() as log:
        code, out, said = command("publish", model, "--repo", NAME, "--dry-run")
    assert code == 0, said
    assert len(log) == 0 and NAME not in world.store.repos
    assert "tester/model would get 7 files" in out and "not legal advice" in said
    page = tmp_path / "model-page"
    written = {path.name for path in page.iterdir()}
    code, out, _ = command("publish", model, "--repo", NAME, "--json")
    assert written == {*json.loads(out)["files"], "preview.html"}
    for name in json.loads(out)["files"]:
        assert (page / name).read_bytes() == world.read(NAME, name, "main"), name
    preview = (page / "preview.html").read_text()
    assert "<script" not in preview and "default-src 'none'" in preview and "<h1>model</h1>" in preview
    code, _, said = command("publish", model, "--repo", NAME, "--dry-run")
    assert (code, "exists" in said) == (2, True)
    assert command("publish", model, "--repo", NAME, "--dry-run", "--force")[0] == 0


def test_no_place_on_this_machine_is_published(world, model, command, tmp_path):
    recipe = yaml.safe_load((model / "recipe.yaml").read_text())
    recipe["sources"][0]["path"] = f"../../{tmp_path.name}/secret place/weights.safetensors"
    recipe["data"]["root"] = str(tmp_path / "data")
    (model / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, said = command("publish", model, "--repo", NAME, "--license", "mit", "--i-have-permission", "mine, 2026")
    assert code == 0, said
    assert "others cannot make this model again: 'weights.safetensors' is a file of its maker's" in said
    assert "kzoo rebuild" not in said + world.read(NAME, "README.md", "main").decode()
    for name in world.head(NAME).files:
        content = world.read(NAME, name, "main")
        assert b"secret place" not in content and str(tmp_path).encode() not in content, name
    published = yaml.safe_load(world.read(NAME, "recipe.yaml", "main"))
    assert published["sources"][0]["path"] == "weights.safetensors" and "root" not in published["data"]


@pytest.mark.parametrize(
    ("token", "name", "code", "sentence"),
    [
        (None, NAME, 2, "nobody is logged in"),
        ("hf_unknown", NAME, 2, "token"),
        ("hf_read", NAME, 2, "a token that may"),
        ("hf_stranger", NAME, 2, "a token that may"),
        ("hf_write", "model", 2, "expected user/name"),
        ("hf_write", "tester/../x", 2, "expected user/name"),
    ],
)
def test_who_may_not_is_told(hub_client, model, command, monkeypatch, no_waiting, token, name, code, sentence):
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    hub = hub_client(token)
    found, out, said = command("publish", model, "--repo", name)
    assert (found, said.count("Error: "), sentence in said) == (code, 1, True), said
    assert NAME not in hub.store.repos and (token is None or token not in out + said)


def test_what_is_no_model_of_kzoo_is_not_published(world, command, tmp_path):
    (tmp_path / "odd").mkdir()
    code, _, said = command("publish", tmp_path / "odd", "--repo", NAME)
    assert (code, "is no model folder of kzoo" in said) == (2, True)
    assert NAME not in world.store.repos


def test_somebody_else_who_commits_meanwhile_is_not_overwritten(world, model, command):
    world.add_repo(NAME, {})
    change = faults.first(lambda: world.commit(NAME, {"new.txt": "theirs"}))
    world.fail(change, method="POST", path="*/commit/*")
    code, _, said = command("publish", model, "--repo", NAME)
    assert (code, f"somebody else has changed {NAME} meanwhile" in said) == (3, True), said
    assert "model.safetensors" not in world.head(NAME).files


def test_an_answer_that_is_lost_is_looked_for(world, model, command):
    world.fail(faults.cut(0), method="POST", path="*/commit/*", times=1)
    code, out, said = command("publish", model, "--repo", NAME, "--json")
    assert code == 0, said
    assert json.loads(out)["commit"] == world.head(NAME).oid
    assert len(world.repo(NAME).commits) == 2


# ------------------------------------------------------------------------------------------------ licenses


def test_the_license_must_be_one_that_the_sources_allow(world, model, command, monkeypatch):
    from kzoo.publish import page

    facts = page.read_facts

    def with_license(license: str | None):
        from dataclasses import replace

        def read(*arguments: object, **named: object):
            found = facts(*arguments, **named)
            return replace(found, parents=tuple(replace(parent, license=license) for parent in found.parents))

        return read

    monkeypatch.setattr(page, "read_facts", with_license("cc-by-nd-4.0"))
    code, _, said = command("publish", model, "--repo", NAME)
    assert (code, "--i-have-permission TEXT" in said, "not legal advice" in said) == (1, True, True), said
    assert NAME not in world.store.repos
    told = "the owner, by mail of 2026-11-01"
    code, _, said = command("publish", model, "--repo", NAME, "--i-have-permission", told)
    assert code == 0, said
    assert "the owner, by mail of 2026" in world.read(NAME, "README.md", "main").decode()
    monkeypatch.setattr(page, "read_facts", with_license("gpl-3.0"))
    code, _, said = command("publish", model, "--repo", "tester/other", "--license", "mit")
    assert (code, "local:glyphs-resnet-2x8 does not allow it" in said) == (1, True), said
    assert command("publish", model, "--repo", "tester/other")[0] == 0
    head = yaml.safe_load(world.read("tester/other", "README.md", "main").decode().split("---\n")[1])
    assert head["license"] == "gpl-3.0"
    monkeypatch.setattr(page, "read_facts", with_license(None))
    code, _, said = command("publish", model, "--repo", "tester/third", "--license", "mit")
    assert (code, "local:glyphs-resnet-2x8 does not allow it" in said) == (1, True), said
    assert command("publish", model, "--repo", "tester/third")[0] == 0
    head = yaml.safe_load(world.read("tester/third", "README.md", "main").decode().split("---\n")[1])
    assert head["license"] == "unknown"


# ------------------------------------------------------------------------------------------------ faults

FAULTS = {
    "500": faults.error(500),
    "503": faults.error(503),
    "403": faults.error(403),
    "429": faults.rate_limit(2),
    "cut at once": faults.cut(0),
    "cut": faults.cut(10),
    "short": faults.short(5),
    "other body": faults.other_body(b"<html>Bad gateway</html>"),
    "loop": faults.loop(),
    "missing": faults.missing(),
    "conflict": faults.error(412, "A commit has happened since."),
}
SAMPLE = {
    ("500", 10), ("503", 4), ("429", 7), ("cut at once", 11), ("cut", 10), ("other body", 3), ("403", 9), ("conflict", 10),
    ("short", 7), ("loop", 6), ("missing", 8), ("500", 11), ("other body", 1),
}  # fmt: skip


def cases():
    for fault in FAULTS:
        for nth in range(1, REQUESTS + 1):
            yield pytest.param(fault, nth, marks=[] if (fault, nth) in SAMPLE else [pytest.mark.faults])


def require_nothing_or_all(hub, model: Path) -> None:
    """What others may see of a publication that failed: nothing, or the whole of it, and never in two commits."""
    repo = hub.store.repos.get(NAME)
    if repo is None:
        return
    files = set(hub.head(NAME).files) - {".gitattributes"}
    assert repo.private or files
    if files:
        assert len(files) == 7 and len(repo.commits) == 2
        assert hub.read(NAME, "model.safetensors", "main") == (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("fault", "nth"), list(cases()))
def test_a_fault_at_any_request_leaves_nothing_or_all_of_it(world, model, command, fault, nth):
    world.fail(FAULTS[fault], nth=nth, times=1)
    code, _, said = command("publish", model, "--repo", NAME, "--public")
    world.heal()
    client._quota.free_at = 0.0
    assert code in ({0, 2, 3} if fault in ("403", "missing") else {0, 3}), said
    assert said.count("Error: ") == (code != 0) and "Traceback" not in said, said
    require_nothing_or_all(world, model)
    if code != 0:
        code, _, said = command("publish", model, "--repo", NAME, "--public")
        assert code == 0, said
    require_nothing_or_all(world, model)
    assert len(world.head(NAME).files) == 8 and not world.repo(NAME).private


def test_the_requests_are_as_many_as_the_faults_are_tried_at(world, model, command):
    with world.log.recording() as log:
        assert command("publish", model, "--repo", NAME, "--public")[0] == 0
    assert len(log) == REQUESTS, str(log)


#: The client's two ways, and the requests of each that this server sees.
KILLED = [
    pytest.param(xet, nth, marks=[] if (xet, nth) in ((False, 8), (True, 7)) else [pytest.mark.faults])
    for xet, requests in ((False, REQUESTS), (True, 9))
    for nth in range(1, requests + 1)
]


@pytest.mark.parametrize(("xet", "nth"), KILLED)
def test_killed_at_a_request_leaves_nothing_or_all_of_it(hub, hub_environment, model, xet, nth):
    environment = hub_environment("hf_write", xet=xet)
    command = [sys.executable, "-m", "kzoo", "publish", str(model), "--repo", NAME, "--public"]
    assert killed_at(hub, nth, command, environment)
    require_nothing_or_all(hub, model)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    require_nothing_or_all(hub, model)
    assert len(hub.head(NAME).files) == 8 and not hub.repo(NAME).private


def test_a_token_in_an_error_is_taken_out(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    assert "hf_secret" not in publishing._without_token("header Bearer hf_secret_of_mine is wrong")

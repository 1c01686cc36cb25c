"""Uploads by the unmodified client: through xet and through LFS, to branches and pull requests, with conflicts."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    errors,
    hf_hub_download,
)

from tests.hub import faults, samples, xet
from tests.hub.fixtures import Client, Environment
from tests.hub.server import READ, STRANGER, WRITE, Hub
from tests.hub.storage import File

NAME = "tester/resnet"
WEIGHTS = samples.safetensors({"a": ("F32", [500, 300])})
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()

# What a user does; runs in a process of its own, as its client reads its settings at import.
STORY = """
import hashlib, json, sys
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

api, name, folder, said = HfApi(), sys.argv[1], sys.argv[2], {}
api.create_repo(name, private=True)
said["commit"] = api.upload_folder(repo_id=name, folder_path=folder, commit_message="First").oid
info = api.model_info(name, files_metadata=True)
said["info"] = [info.sha, info.private, {each.rfilename: [each.size, each.lfs and each.lfs.sha256] for each in info.siblings}]
path = Path(hf_hub_download(name, "model.safetensors"))
said["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
said["again"] = api.upload_folder(repo_id=name, folder_path=folder).oid
said["large"] = api.upload_file(repo_id=name, path_or_fileobj=b"large" * 50_000, path_in_repo="large.bin").oid
pull = api.upload_file(repo_id=name, path_or_fileobj=b"pull" * 50_000, path_in_repo="pull.bin", create_pr=True)
said["pull"] = [pull.pr_num, pull.pr_revision, pull.pr_url]
said["folder"] = [api.upload_folder(repo_id=name, folder_path=folder, path_in_repo="in", create_pr=True).pr_revision]
whole = Path(snapshot_download(name, revision="refs/pr/1"))
said["whole"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in whole.rglob("*") if path.is_file()}
print(json.dumps(said))
"""


def run(environment: dict[str, str], code: str, *arguments: object) -> Any:
    """Run code in a process of its own; what it prints last is JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to upload."""
    place = tmp_path / "upload"
    place.mkdir()
    (place / "model.safetensors").write_bytes(WEIGHTS)
    (place / "README.md").write_text("---\nlicense: mit\n---\nHello\n")
    (place / "config.json").write_text("{}")
    return place


@pytest.mark.parametrize("through", ["xet", "lfs"])
def test_the_whole_story(hub: Hub, hub_environment: Environment, folder: Path, through: str) -> None:
    if through == "xet" and (reason := xet.why_not()):
        pytest.skip(reason)
    said = run(hub_environment(WRITE, xet=through == "xet"), STORY, NAME, folder)
    head = hub.head(NAME, said["commit"])
    sums = {path: blob.sha256 if blob.lfs else None for path, blob in head.files.items()}
    assert said["info"] == [said["commit"], True, {path: [head.files[path].size, sums[path]] for path in head.files}]
    assert (said["sha256"], head.files["model.safetensors"].read()) == (SHA256, WEIGHTS)
    assert said["again"] == said["commit"]
    assert hub.read(NAME, "large.bin") == b"large" * 50_000
    assert hub.read(NAME, "pull.bin", "refs/pr/1") == b"pull" * 50_000
    assert "pull.bin" not in hub.head(NAME).files
    assert said["pull"] == [1, "refs/pr/1", f"{hub.url}/{NAME}/discussions/1"]
    assert said["folder"] == ["refs/pr/2"]
    assert hub.read(NAME, "in/model.safetensors", "refs/pr/2") == WEIGHTS
    assert set(said["whole"]) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "large.bin",
        "model.safetensors",
        "pull.bin",
    }
    assert said["whole"]["pull.bin"] == hashlib.sha256(b"pull" * 50_000).hexdigest()
    # The two ways are two: tokens for xet, or addresses for LFS.
    assert (hub.log.count(path="*/xet-write-token/*") > 0) == (through == "xet")
    assert (hub.log.count(method="PUT") > 0) == (through == "lfs")
    assert not any(entry.authorized for entry in hub.log.entries if entry.host.startswith("localhost"))
    assert hub.log.count(status=500) == 0


def test_seeded_files_come_through_xet(hub_client: Client, hub_environment: Environment) -> None:
    if reason := xet.why_not():
        pytest.skip(reason)
    hub = hub_client(xet=True)
    hub.add_repo(NAME, {"model.safetensors": WEIGHTS})
    hub.store_in_xet(NAME)
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == WEIGHTS
    assert [entry.method for entry in hub.log.find(path="*/resolve/*")] == ["HEAD"]
    # Another process while this one holds its folder, and a client without xet.
    code = (
        "import json, huggingface_hub as h; print(json.dumps(h.hf_hub_download('tester/resnet', 'model.safetensors')))"
    )
    assert Path(run(hub_environment(xet=True, home="other"), code)).read_bytes() == WEIGHTS
    assert hub.log.count(method="GET", path="*/resolve/*") == 0
    hub_client(home="third")
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == WEIGHTS
    assert hub.log.count(method="GET", path="*/resolve/*") == 1


def test_xet_within_this_process(hub_client: Client, folder: Path) -> None:
    if reason := xet.why_not():
        pytest.skip(reason)
    hub = hub_client(WRITE, xet=True)
    HfApi().create_repo(NAME)
    HfApi().upload_folder(repo_id=NAME, folder_path=folder)
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == WEIGHTS
    assert hub.log.count(path="*/xet-read-token/*") == 1


def test_xet_without_its_token(hub_client: Client) -> None:
    if reason := xet.why_not():
        pytest.skip(reason)
    hub = hub_client(WRITE, xet=True)
    hub.add_repo(NAME, {})
    hub.fail(faults.error(500), path="*/xet-write-token/*", times=None)
    with pytest.raises(ConnectionError, match="500 Internal Server Error"):
        HfApi().upload_file(repo_id=NAME, path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors")
    assert hub.log.count(path="*/xet-write-token/*") == 6
    assert hub.log.count(path="*/commit/*") == 0


def test_lies_are_not_noticed_through_xet_either(hub_client: Client) -> None:
    if reason := xet.why_not():
        pytest.skip(reason)
    hub = hub_client(xet=True)
    hub.add_repo("evil/sum", {"model.safetensors": File(WEIGHTS, sha256="a" * 64)})
    hub.add_repo("evil/size", {"model.safetensors": File(WEIGHTS, size=10)})
    for name, content in (("evil/sum", WEIGHTS), ("evil/size", WEIGHTS[:10])):
        hub.store_in_xet(name)
        assert Path(hf_hub_download(name, "model.safetensors")).read_bytes() == content


def test_large_files_upload_in_pieces_of_memory(hub_client: Client, tmp_path: Path) -> None:
    hub = hub_client(WRITE)
    HfApi().create_repo(NAME)
    large = tmp_path / "large.bin"
    large.write_bytes(random.Random(1).randbytes(5_000_000))
    HfApi().upload_file(repo_id=NAME, path_or_fileobj=large, path_in_repo="large.bin")
    assert hub.read(NAME, "large.bin") == large.read_bytes()
    assert hub.log.find(method="PUT")[0].received == 5_000_000
    # The same bytes again: nothing goes over the wire.
    HfApi().upload_file(repo_id=NAME, path_or_fileobj=large, path_in_repo="again.bin")
    assert hub.log.count(method="PUT") == 1


def test_repositories_come_and_go(hub_client: Client) -> None:
    hub = hub_client(WRITE)
    url = HfApi().create_repo(NAME, private=True)
    assert (url, url.repo_id) == (f"{hub.url}/{NAME}", NAME)
    assert hub.repo(NAME).private
    with pytest.raises(errors.HfHubHTTPError) as refused:
        HfApi().create_repo(NAME)
    assert refused.value.response.status_code == 409
    assert HfApi().create_repo(NAME, exist_ok=True).repo_id == NAME
    assert HfApi().create_repo("short").repo_id == "tester/short"
    with pytest.raises(errors.HfHubHTTPError) as refused:
        HfApi().create_repo("timm/mine")
    assert refused.value.response.status_code == 403
    HfApi().update_repo_settings(NAME, private=False, gated="auto")
    assert (hub.repo(NAME).private, hub.repo(NAME).gated) == (False, "auto")
    HfApi().move_repo(NAME, "tester/other")
    assert HfApi().model_info(NAME).id == "tester/other"
    HfApi().delete_repo("tester/other")
    assert not HfApi().repo_exists("tester/other")
    HfApi().delete_repo("tester/other", missing_ok=True)


@pytest.mark.parametrize(("token", "status"), [(None, 401), (READ, 403), (STRANGER, 403)])
def test_who_may_write(hub_client: Client, token: str | None, status: int) -> None:
    hub = hub_client(token)
    hub.add_repo(NAME, {"a.txt": ""})
    with pytest.raises(errors.HfHubHTTPError) as refused:
        HfApi().upload_file(repo_id=NAME, path_or_fileobj=b"mine", path_in_repo="a.txt")
    assert refused.value.response.status_code == status
    assert hub.read(NAME, "a.txt") == b""


def test_operations(hub_client: Client) -> None:
    hub = hub_client(WRITE)
    hub.add_repo(NAME, {"a.txt": "a", "b/c.txt": "c", "b/d.txt": "d", "w.bin": b"weights", "old.txt": "old"})
    operations = [
        CommitOperationAdd("new.txt", b"new"),
        CommitOperationCopy("a.txt", "copy.txt"),
        CommitOperationCopy("w.bin", "copy.bin"),
        CommitOperationDelete("b/"),
        CommitOperationDelete("old.txt"),
    ]
    made = HfApi().create_commit(NAME, operations, commit_message="All at once", commit_description="Why")
    files = {path: blob.read() for path, blob in hub.head(NAME).files.items()}
    assert files == {"a.txt": b"a", "copy.txt": b"a", "w.bin": b"weights", "copy.bin": b"weights", "new.txt": b"new"}
    assert (made.oid, made.commit_url) == (hub.head(NAME).oid, f"{hub.url}/{NAME}/commit/{made.oid}")
    assert (made.repo_url.repo_id, made.pr_url) == (NAME, None)
    assert (hub.head(NAME).title, hub.head(NAME).message) == ("All at once", "Why")
    with pytest.raises(errors.RemoteEntryNotFoundError, match="doesn't exist"):
        HfApi().delete_file("missing.txt", NAME)


def test_stale_parent(hub_client: Client) -> None:
    hub = hub_client(WRITE)
    first = hub.add_repo(NAME, {"a.txt": "1"})
    second = hub.commit(NAME, {"a.txt": "2"})
    add = CommitOperationAdd("b.txt", b"b")
    with pytest.raises(errors.HfHubHTTPError, match="A commit has happened since") as refused:
        HfApi().create_commit(NAME, [add], commit_message="Mine", parent_commit=first)
    assert refused.value.response.status_code == 412
    assert hub.head(NAME).oid == second
    HfApi().create_commit(NAME, [add], commit_message="Mine", parent_commit=second)
    assert hub.read(NAME, "b.txt") == b"b"


def test_branches_and_tags(hub_client: Client) -> None:
    hub = hub_client(WRITE)
    first = hub.add_repo(NAME, {"a.txt": "1"})
    api = HfApi()
    api.create_branch(NAME, branch="trial/one")
    api.upload_file(repo_id=NAME, path_or_fileobj=b"2", path_in_repo="a.txt", revision="trial/one")
    assert (hub.read(NAME, "a.txt"), hub.read(NAME, "a.txt", "trial/one")) == (b"1", b"2")
    api.create_tag(NAME, tag="v1", revision=first)
    for again in (lambda: api.create_branch(NAME, branch="trial/one"), lambda: api.create_tag(NAME, tag="v1")):
        with pytest.raises(errors.HfHubHTTPError) as refused:
            again()
        assert refused.value.response.status_code == 409
    assert Path(hf_hub_download(NAME, "a.txt", revision="trial/one")).read_bytes() == b"2"
    api.delete_branch(NAME, branch="trial/one")
    api.delete_tag(NAME, tag="v1")
    assert (set(hub.repo(NAME).branches), hub.repo(NAME).tag_refs) == ({"main"}, {})
    with pytest.raises(errors.RevisionNotFoundError):
        api.delete_tag(NAME, tag="v1")
    with pytest.raises(errors.RevisionNotFoundError):
        api.upload_file(repo_id=NAME, path_or_fileobj=b"", path_in_repo="x", revision="nowhere")


def test_pull_request_to_somebody_else(hub_client: Client) -> None:
    hub = hub_client(STRANGER)
    hub.add_repo(NAME, {"a.txt": "1", "gone.txt": ""})
    operations = [CommitOperationAdd("a.txt", b"2"), CommitOperationDelete("gone.txt")]
    made = HfApi().create_commit(NAME, operations, commit_message="Better", create_pr=True)
    assert (made.pr_num, made.pr_revision) == (1, "refs/pr/1")
    hub.commit(NAME, {"b.txt": "meanwhile"})
    pull = HfApi().get_discussion_details(NAME, 1)
    assert (pull.title, pull.status, pull.author, pull.is_pull_request) == ("Better", "open", "stranger", True)
    assert (pull.target_branch, pull.conflicting_files, pull.merge_commit_oid) == ("refs/heads/main", [], None)
    assert HfApi().list_repo_refs(NAME, include_pull_requests=True).pull_requests
    with pytest.raises(errors.HfHubHTTPError):
        HfApi().merge_pull_request(NAME, 1)
    hub_client(WRITE)
    HfApi().merge_pull_request(NAME, 1)
    assert {path: blob.read() for path, blob in hub.head(NAME).files.items()} == {"a.txt": b"2", "b.txt": b"meanwhile"}
    merged = HfApi().get_discussion_details(NAME, 1)
    assert (merged.status, merged.merge_commit_oid) == ("merged", hub.head(NAME).oid)


def test_discussions(hub_client: Client) -> None:
    hub = hub_client(WRITE)
    hub.add_repo(NAME, {"a.txt": "1"})
    api = HfApi()
    pull = api.create_pull_request(NAME, "A draft")
    assert (pull.status, pull.git_reference) == ("draft", "refs/pr/1")
    api.upload_file(repo_id=NAME, path_or_fileobj=b"2", path_in_repo="a.txt", revision="refs/pr/1")
    assert (hub.read(NAME, "a.txt"), hub.read(NAME, "a.txt", "refs/pr/1")) == (b"1", b"2")
    api.create_discussion(NAME, "A question", description="Why?")
    assert api.comment_discussion(NAME, 2, "Because").content == "Because"
    assert api.rename_discussion(NAME, 2, "An answer").new_title == "An answer"
    assert api.change_discussion_status(NAME, 2, "closed").new_status == "closed"
    assert [(each.num, each.title, each.status) for each in api.get_repo_discussions(NAME)] == [
        *[(2, "An answer", "closed"), (1, "A draft", "draft")],
    ]
    assert [each.num for each in api.get_repo_discussions(NAME, discussion_type="pull_request")] == [1]
    assert len(api.get_discussion_details(NAME, 2).events) == 4


def test_card_with_faults(hub_client: Client) -> None:
    hub = hub_client(WRITE)
    hub.add_repo(NAME, {"a.txt": "1"})
    card = CommitOperationAdd("README.md", b"---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match="YAML Metadata Error"):
        HfApi().create_commit(NAME, [card], commit_message="A card")
    assert hub.log.count(path="*/commit/*") == 0


def test_bytes_that_are_not_what_they_should_be(hub: Hub) -> None:
    request = urllib.request.Request(f"{hub.url}/_lfs/{'0' * 64}", data=b"other", method="PUT")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 400
    refused.value.close()


def test_only_the_upload_through_xet_commits_again(hub_client: Client, folder: Path, no_waiting: list[float]) -> None:
    hub = hub_client(WRITE)
    hub.add_repo(NAME, {"a.txt": ""})
    hub.fail(faults.error(500), path="*/commit/*")
    with pytest.raises(errors.HfHubHTTPError, match="500 Internal Server Error"):
        HfApi().upload_folder(repo_id=NAME, folder_path=folder)
    if reason := xet.why_not():
        pytest.skip(reason)
    hub_client(WRITE, xet=True)
    hub.fail(faults.error(500), path="*/commit/*")
    HfApi().upload_folder(repo_id=NAME, folder_path=folder)
    assert hub.read(NAME, "model.safetensors") == WEIGHTS
    assert no_waiting == [1]

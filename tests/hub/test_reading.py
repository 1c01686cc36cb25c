"""What the unmodified client reads from the Hub of the tests, and as which of its classes."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard, errors, hf_hub_download, list_models, model_info
from huggingface_hub.hf_api import BlobLfsInfo, GitCommitInfo, GitRefInfo, LastCommitInfo, RepoFile, RepoFolder
from huggingface_hub.utils import get_session

from tests.hub import samples
from tests.hub.fixtures import Client
from tests.hub.server import READ, STRANGER, WRITE, Hub

NAME = "timm/resnet18.a1_in1k"
CARD = "---\nlibrary_name: timm\nlicense: apache-2.0\ntags: [image-classification, timm]\ndatasets: [imagenet-1k]\n---\n# Hi\n"


@pytest.fixture
def model(hub: Hub) -> str:
    """A model with two commits; returns the sha of the second."""
    weights = samples.safetensors({"a": ("F32", [2, 3]), "b": ("F16", [5])}, {"format": "pt"})
    files = {"config.json": '{"a": 1}', "model.safetensors": weights, "README.md": CARD, "a/b/c.txt": "deep"}
    hub.add_repo(NAME, files, pipeline_tag="image-classification", downloads=7, likes=3)
    return hub.commit(NAME, {"config.json": '{"a": 2}'}, title="Another config", message="A reason")


def test_model_info(hub_client: Client, model: str) -> None:
    hub = hub_client()
    info = model_info(NAME, files_metadata=True)
    blob = hub.head(NAME).files["model.safetensors"]
    assert (info.id, info.author, info.sha, info.private, info.gated, info.disabled) == (
        *(NAME, "timm", model, False, False, False),
    )
    assert (info.downloads, info.likes, info.library_name, info.pipeline_tag) == (7, 3, "timm", "image-classification")
    assert info.tags == [
        *("timm", "safetensors", "image-classification", "dataset:imagenet-1k", "license:apache-2.0", "region:us"),
    ]
    assert info.created_at and info.last_modified and info.created_at < info.last_modified
    assert info.card_data and info.card_data.license == "apache-2.0"
    assert info.safetensors == {"parameters": {"F32": 6, "F16": 5}, "total": 11}
    assert info.siblings
    siblings = {each.rfilename: each for each in info.siblings}
    assert set(siblings) == {"config.json", "model.safetensors", "README.md", "a/b/c.txt"}
    assert siblings["config.json"].size == 8
    assert siblings["config.json"].blob_id == hub.head(NAME).files["config.json"].oid
    assert siblings["config.json"].lfs is None
    assert siblings["model.safetensors"].lfs == BlobLfsInfo(blob.size, blob.sha256, blob.pointer_size)


def test_every_revision(hub_client: Client, model: str) -> None:
    hub = hub_client()
    hub.tag(NAME, "v1", model)
    first = hub.head(NAME).parents[0]
    third = hub.commit(NAME, {"config.json": "3"}, revision="other")
    for revision in ("main", "refs/heads/main", "v1", "refs/tags/v1", model, model[:7]):
        assert model_info(NAME, revision=revision).sha == model
    assert model_info(NAME, revision=first).sha == first
    assert model_info(NAME, revision="other").sha == third
    with pytest.raises(errors.RevisionNotFoundError):
        model_info(NAME, revision="nowhere")


def test_expand(hub_client: Client, model: str) -> None:
    hub_client()
    info = model_info(NAME, expand=["sha", "safetensors", "tags", "cardData", "lastModified", "gated", "usedStorage"])
    assert info.sha == model
    assert info.safetensors
    assert info.used_storage
    assert info.downloads is None
    assert info.siblings is None
    with pytest.raises(errors.BadRequestError):
        model_info(NAME, expand=["nonsense"])  # type: ignore[list-item]


def test_tree(hub_client: Client, model: str) -> None:
    hub = hub_client()
    tree = list(HfApi().list_repo_tree(NAME, recursive=True, expand=True))
    folders = {each.path: each for each in tree if isinstance(each, RepoFolder)}
    files = {each.path: each for each in tree if isinstance(each, RepoFile)}
    assert set(folders) == {"a", "a/b"}
    assert set(files) == {"config.json", "model.safetensors", "README.md", "a/b/c.txt"}
    first = hub.head(NAME).parents[0]
    assert isinstance(files["config.json"].last_commit, LastCommitInfo)
    assert files["config.json"].last_commit.oid == model
    assert files["README.md"].last_commit.oid == first
    assert files["README.md"].security and files["README.md"].security.safe
    assert files["model.safetensors"].lfs
    assert files["model.safetensors"].lfs.sha256 == hub.head(NAME).files["model.safetensors"].sha256
    assert [each.path for each in HfApi().list_repo_tree(NAME, "a/b")] == ["a/b/c.txt"]
    flat = {each.path for each in HfApi().list_repo_tree(NAME)}
    assert flat == {"a", "config.json", "model.safetensors", "README.md"}
    some = HfApi().get_paths_info(NAME, ["config.json", "a", "missing"], expand=True)
    assert [each.path for each in some] == ["config.json", "a"]


def test_pages(hub_client: Client) -> None:
    hub = hub_client()
    hub.page = 10
    hub.add_repo(NAME, {f"{number:03d}.txt": str(number) for number in range(35)})
    for number in range(25):
        hub.commit(NAME, {"000.txt": f"again {number}"})
    assert len(list(HfApi().list_repo_tree(NAME))) == 35
    assert hub.log.count(path="*/tree/*") == 4
    assert len(HfApi().list_repo_commits(NAME)) == 26
    assert hub.log.count(path="*/commits/*") == 3


def test_refs_and_commits(hub_client: Client, model: str) -> None:
    hub = hub_client(WRITE)
    hub.tag(NAME, "v1", model)
    refs = HfApi().list_repo_refs(NAME, include_pull_requests=True)
    assert refs.branches == [GitRefInfo("main", "refs/heads/main", model)]
    assert refs.tags == [GitRefInfo("v1", "refs/tags/v1", model)]
    assert (refs.converts, refs.pull_requests) == ([], [])
    latest, first = HfApi().list_repo_commits(NAME, formatted=True)
    assert {field.name for field in fields(GitCommitInfo)} == set(vars(latest))
    assert (latest.commit_id, latest.title, latest.message, latest.authors) == (
        *(model, "Another config", "A reason", ["timm"]),
    )
    assert latest.created_at > first.created_at > datetime(2026, 1, 1, tzinfo=UTC)
    assert latest.formatted_title == "Another config"


def test_names_of_the_answers(hub_client: Client, model: str) -> None:
    hub = hub_client()

    def get(path: str) -> Any:
        return get_session().get(f"{hub.url}/api/models/{NAME}{path}").json()

    info = get("?blobs=true")
    assert set(info) >= {
        "id",
        "sha",
        "siblings",
        "tags",
        "cardData",
        "safetensors",
        "lastModified",
        "createdAt",
        "private",
    }
    siblings = {each["rfilename"]: each for each in info["siblings"]}
    assert set(siblings["config.json"]) == {"rfilename", "size", "blobId"}
    assert set(siblings["model.safetensors"]["lfs"]) == {"sha256", "size", "pointerSize"}
    assert set(get("")["siblings"][0]) == {"rfilename"}
    assert set(get("/tree/main")[0]) == {"type", "oid", "size", "path"}
    assert set(get("/refs")) == {"branches", "tags", "converts"}
    assert set(get("/commits/main")[0]) == {"id", "title", "message", "authors", "date"}
    assert get("/paths-info/main") == {"error": "Sorry, we can't find the page you are looking for."}


def test_dates_are_the_hubs(hub_client: Client, model: str) -> None:
    hub_client()
    url = f"{HfApi().endpoint}/api/models/{NAME}"
    dates = [get_session().get(url).json()[name] for name in ("createdAt", "lastModified")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", date) for date in dates)


def test_a_thousand_models_in_pages(hub_client: Client) -> None:
    hub = hub_client()
    for number in range(1000):
        files = {"config.json": f'{{"number": {number}}}'}
        hub.add_repo(f"timm/model{number}", files, library_name="timm", tags=["even"] * (number % 2 == 0), likes=number)
    hub.add_repo("other/model", {"a.txt": ""}, tags=["even"], gated="auto")
    hub.add_repo("other/secret", {"a.txt": ""}, private=True)
    hub.page = 300
    assert len(list(list_models(author="timm"))) == 1000
    assert hub.log.count(path="/api/models") == 4
    hub.log.clear()
    assert [each.id for each in list_models(filter="timm", sort="likes", limit=3)] == [
        *("timm/model999", "timm/model998", "timm/model997"),
    ]
    assert hub.log.count() == 1
    assert len(list(list_models(filter=["timm", "even"]))) == 500
    assert {each.id for each in list_models(search="MODEL99")} == {f"timm/model{n}" for n in (99, *range(990, 1000))}
    assert [each.id for each in list_models(author="other")] == ["other/model"]
    assert [each.id for each in list_models(gated=True)] == ["other/model"]
    plain = next(iter(list_models(author="timm")))
    assert (plain.sha, plain.siblings, plain.last_modified) == (None, None, None)
    full = next(iter(list_models(author="timm", full=True, cardData=True)))
    assert full.sha and full.last_modified and full.siblings and full.siblings[0].rfilename == "config.json"
    some = next(iter(list_models(author="timm", expand=["sha", "lastModified", "gated"])))
    assert some.sha and some.gated is False and some.tags is None


def test_filter_by_parameters(hub_client: Client) -> None:
    hub = hub_client()
    for rows in (1, 10, 100):
        hub.add_repo(f"a/b{rows}", {"model.safetensors": samples.safetensors({"w": ("F32", [rows, 1000])})})
    assert [each.id for each in list_models(num_parameters="min:2K,max:50K")] == ["a/b10"]


def test_cards(hub_client: Client, model: str) -> None:
    hub = hub_client(WRITE)
    assert ModelCard.load(NAME).data.license == "apache-2.0"
    hub.add_repo("tester/mine", {})
    ModelCard(CARD).push_to_hub("tester/mine")
    assert ModelCard(hub.read("tester/mine", "README.md").decode()).data.to_dict() == ModelCard(CARD).data.to_dict()
    ModelCard(CARD).validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard("---\nlicense: {a: 1}\n---\n").validate()


class TestRefusals:
    def test_missing(self, hub_client: Client, model: str) -> None:
        hub_client()
        with pytest.raises(errors.RepositoryNotFoundError) as anonymous:
            model_info("timm/nothing")
        assert anonymous.value.response.status_code == 401
        hub_client(READ)
        with pytest.raises(errors.RepositoryNotFoundError) as known:
            model_info("timm/nothing")
        assert known.value.response.status_code == 404
        with pytest.raises(errors.RemoteEntryNotFoundError):
            hf_hub_download(NAME, "nothing.json")
        with pytest.raises(errors.RevisionNotFoundError):
            hf_hub_download(NAME, "config.json", revision="nowhere")

    def test_private(self, hub_client: Client, model: str) -> None:
        hub_client().add_repo("tester/secret", {"a.json": "{}"}, private=True)
        for token in (None, STRANGER):
            hub_client(token)
            with pytest.raises(errors.RepositoryNotFoundError):
                model_info("tester/secret")
            with pytest.raises(errors.RepositoryNotFoundError):
                hf_hub_download("tester/secret", "a.json")
        hub_client(READ)
        assert model_info("tester/secret").private
        assert hf_hub_download("tester/secret", "a.json")

    def test_gated(self, hub_client: Client, model: str) -> None:
        hub = hub_client()
        hub.add_repo("meta/gated", {"a.json": "{}"}, gated="manual")
        assert model_info("meta/gated").gated == "manual"
        for token, status in ((None, 401), (STRANGER, 403)):
            hub_client(token)
            with pytest.raises(errors.GatedRepoError) as refused:
                hf_hub_download("meta/gated", "a.json")
            assert refused.value.response.status_code == status
            with pytest.raises(errors.GatedRepoError):
                HfApi().auth_check("meta/gated")
        hub.repo("meta/gated").accepted.add("stranger")
        assert hf_hub_download("meta/gated", "a.json")

    def test_wrong_token(self, hub_client: Client, model: str) -> None:
        hub_client("hf_wrong")
        with pytest.raises(errors.HfHubHTTPError, match="Invalid user token") as refused:
            HfApi().whoami()
        assert refused.value.response.status_code == 401
        with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials") as refused:
            model_info(NAME)
        assert not isinstance(refused.value, errors.RepositoryNotFoundError)

    def test_disabled_and_deleted(self, hub_client: Client, model: str) -> None:
        hub = hub_client(READ)
        hub.disable(NAME)
        with pytest.raises(errors.DisabledRepoError):
            model_info(NAME)
        hub.delete(NAME)
        with pytest.raises(errors.RepositoryNotFoundError):
            model_info(NAME)

    def test_the_shape_of_an_error(self, hub: Hub) -> None:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{hub.url}/api/models/a/b")
        answer = refused.value
        assert (answer.headers["X-Error-Code"], answer.headers["X-Error-Message"]) == (
            *("RepoNotFound", "Invalid username or password."),
        )
        assert json.loads(answer.read()) == {"error": "Invalid username or password."}
        assert answer.headers["X-Request-Id"]
        answer.close()


def test_who_am_i(hub_client: Client) -> None:
    hub_client(READ)
    who = HfApi().whoami()
    assert (who["name"], who["type"], who["auth"]["accessToken"]["role"]) == ("tester", "user", "read")


def test_renamed(hub_client: Client, model: str) -> None:
    hub = hub_client(WRITE)
    hub.rename(NAME, "timm/new")
    hub.rename("timm/new", "timm/newer")
    info = model_info(NAME)
    assert (info.id, info.sha) == ("timm/newer", model)
    assert json.loads(Path(hf_hub_download(NAME, "config.json")).read_text()) == {"a": 2}
    assert [entry.status for entry in hub.log.find(method="HEAD")] == [307, 200]
    # A redirect keeps method and body: a commit to the old name reaches the new one.
    hub.add_user("timm", "hf_timm")
    hub_client("hf_timm")
    HfApi().upload_file(repo_id=NAME, path_or_fileobj=b"3", path_in_repo="new.txt")
    assert hub.read("timm/newer", "new.txt") == b"3"
    # A new repository takes the old name.
    hub.add_repo(NAME, {"config.json": "{}"})
    assert model_info(NAME).id == NAME


def test_names_without_an_owner(hub_client: Client) -> None:
    hub = hub_client()
    hub.add_repo("openai-community/gpt2", {"config.json": "{}"})
    hub.store.renamed["gpt2"] = "openai-community/gpt2"
    assert model_info("gpt2").id == "openai-community/gpt2"
    assert hf_hub_download("gpt2", "config.json")


def test_seeding_is_the_same_every_time(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Hub(tmp_path_factory.mktemp("other")) as other:
        assert hub.add_repo(NAME, {"a.txt": "x"}) == other.add_repo(NAME, {"a.txt": "x"})

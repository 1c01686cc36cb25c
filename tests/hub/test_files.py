"""Files: downloads, ranges, redirects, caches, headers of safetensors files, hostile names and contents."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

import pytest
from huggingface_hub import HfApi, errors, get_safetensors_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.file_download import get_hf_file_metadata
from huggingface_hub.utils import SafetensorsRepoMetadata, get_session

from tests.hub import answers, samples
from tests.hub.fixtures import Client
from tests.hub.server import READ, Hub
from tests.hub.storage import File

NAME = "timm/resnet18.a1_in1k"
WEIGHTS = samples.safetensors({"a": ("F32", [200, 300])})
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def model(hub: Hub) -> str:
    """A model; returns its sha."""
    return hub.add_repo(NAME, {"config.json": "{}", "model.safetensors": WEIGHTS, "a/b.txt": "b", "empty.txt": ""})


def test_download(hub_client: Client, model: str) -> None:
    hub = hub_client(READ)
    path = Path(hf_hub_download(NAME, "model.safetensors"))
    assert path.read_bytes() == WEIGHTS
    assert (path.parent.name, path.resolve().name) == (model, SHA256)
    assert [entry.method for entry in hub.log.entries] == ["HEAD", "GET"]
    assert hub.log.sent() == len(WEIGHTS)
    # Cached under a branch: one question. Cached under a commit: none.
    with hub.log.recording() as log:
        assert hf_hub_download(NAME, "model.safetensors") == str(path)
    assert [entry.method for entry in log.entries] == ["HEAD"]
    with hub.log.recording() as log:
        assert hf_hub_download(NAME, "model.safetensors", revision=model) == str(path)
    assert len(log) == 0


def test_snapshot(hub_client: Client, model: str) -> None:
    hub = hub_client()
    folder = Path(snapshot_download(NAME))
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        **{"config.json": b"{}", "model.safetensors": WEIGHTS, "a/b.txt": b"b", "empty.txt": b""},
    }
    with hub.log.recording() as log:
        assert snapshot_download(NAME, revision=model) == str(folder)
    assert len(log) == 0


def test_what_a_head_says(hub_client: Client, model: str) -> None:
    hub_client()
    large = get_hf_file_metadata(hf_hub_url(NAME, "model.safetensors"))
    assert (large.commit_hash, large.etag, large.size) == (model, SHA256, len(WEIGHTS))
    small = get_hf_file_metadata(hf_hub_url(NAME, "a/b.txt"))
    assert (small.commit_hash, small.etag, small.size) == (model, "63d8dbd40c23542e740659a7168a0ce3138ea748", 1)


@pytest.mark.parametrize("cdn", [False, True])
def test_ranges(hub_client: Client, model: str, cdn: bool) -> None:
    hub = hub_client()
    hub.cdn = cdn
    url, size = hf_hub_url(NAME, "model.safetensors"), len(WEIGHTS)

    def get(wanted: str) -> tuple[int, bytes, str | None]:
        answer = get_session().get(url, headers={"Range": wanted})
        return answer.status_code, answer.content, answer.headers.get("Content-Range")

    assert get("bytes=0-7") == (206, WEIGHTS[:8], f"bytes 0-7/{size}")
    assert get("bytes=100-") == (206, WEIGHTS[100:], f"bytes 100-{size - 1}/{size}")
    assert get("bytes=-5") == (206, WEIGHTS[-5:], f"bytes {size - 5}-{size - 1}/{size}")
    assert get(f"bytes=5-{size + 100}") == (206, WEIGHTS[5:], f"bytes 5-{size - 1}/{size}")
    assert get(f"bytes={size}-") == (416, b"", f"bytes */{size}")
    for nonsense in ("lines=1-2", "bytes=7-3", "bytes=-", "bytes=0-1,3-4"):
        assert get(nonsense) == (200, WEIGHTS, None)


def test_another_origin_gets_no_token(hub_client: Client, model: str) -> None:
    hub = hub_client(READ)
    hub.cdn = True
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == WEIGHTS
    assert [(entry.method, entry.status, entry.authorized) for entry in hub.log.entries] == [
        *[("HEAD", 302, True), ("GET", 200, False)],
    ]
    assert hub.log.entries[-1].host.startswith("localhost:")
    # By a range, and where the client itself follows the redirect.
    with hub.log.recording() as log:
        assert get_safetensors_metadata(NAME).parameter_count == {"F32": 60000}
    elsewhere = [entry for entry in log.entries if entry.host.startswith("localhost")]
    assert [(entry.status, entry.authorized) for entry in elsewhere] == [(206, False)]
    # It would have noticed.
    answer = get_session().get(f"{hub.other_url}{hub.log.entries[1].path}", headers={"Authorization": f"Bearer {READ}"})
    assert answer.status_code == 400


def test_files_in_git_by_a_redirect(hub_client: Client, model: str) -> None:
    hub = hub_client(READ)
    hub.resolve_cache = True
    assert Path(hf_hub_download(NAME, "a/b.txt")).read_bytes() == b"b"
    assert [(entry.method, entry.status) for entry in hub.log.entries] == [("HEAD", 307), ("HEAD", 200), ("GET", 200)]
    assert hub.log.entries[-1].path == f"/api/resolve-cache/models/{NAME}/{model}/a/b.txt"
    # Empty files and private ones come from where they were asked for.
    assert Path(hf_hub_download(NAME, "empty.txt")).read_bytes() == b""
    hub.add_repo("tester/secret", {"a.txt": "secret"}, private=True)
    assert Path(hf_hub_download("tester/secret", "a.txt")).read_bytes() == b"secret"
    assert hub.log.count(path="/api/resolve-cache/*") == 2


def test_header_of_a_large_file(hub_client: Client, tmp_path: Path) -> None:
    hub = hub_client()
    shapes = {f"blocks.{number}.weight": ("F32", [1000, 250]) for number in range(100)}
    path = samples.sparse_safetensors(tmp_path / "large.safetensors", shapes)
    assert path.stat().st_size > 100_000_000
    hub.add_repo(NAME, {"model.safetensors": path})
    with hub.log.recording() as log:
        found = get_safetensors_metadata(NAME)
    assert {field.name for field in fields(SafetensorsRepoMetadata)} == set(vars(found))
    assert found.parameter_count == {"F32": 25_000_000}
    tensors = found.files_metadata["model.safetensors"].tensors
    assert tensors["blocks.7.weight"].data_offsets == (7_000_000, 8_000_000)
    assert [(entry.method, entry.status) for entry in log.entries] == [("HEAD", 200), ("GET", 206)]
    assert log.sent() <= 200_000


def test_long_header_takes_two_ranges(hub_client: Client) -> None:
    hub = hub_client()
    names = {f"{'x' * 100}.{number}": ("U8", [1]) for number in range(1000)}
    hub.add_repo(NAME, {"model.safetensors": samples.safetensors(names)})
    assert len(get_safetensors_metadata(NAME).weight_map) == 1000
    first, second = hub.log.find(method="GET")
    assert (first.range, first.status, second.status) == ("bytes=0-100000", 206, 206)


def test_shards(hub_client: Client) -> None:
    hub = hub_client()
    hub.add_repo(NAME, samples.sharded([{"a": ("F32", [2])}, {"b": ("F32", [3]), "c": ("U8", [1])}]))
    one, other = get_safetensors_metadata(NAME), HfApi().get_sharded_safetensors_metadata(NAME)
    assert one.sharded and other.sharded
    assert (
        one.weight_map
        == other.weight_map
        == {"a": "model-00001-of-00002.safetensors"} | dict.fromkeys("bc", "model-00002-of-00002.safetensors")
    )
    assert one.files_metadata == other.files_metadata
    assert one.metadata == other.metadata == {"total_size": 21}
    hub.add_repo("a/none", {"config.json": "{}"})
    with pytest.raises(errors.NotASafetensorsRepoError):
        get_safetensors_metadata("a/none")


class TestHostile:
    def test_names_are_listed_as_they_are(self, hub_client: Client) -> None:
        hub = hub_client()
        hub.add_repo("evil/names", samples.hostile_names())
        listed = {each.path for each in HfApi().list_repo_tree("evil/names", recursive=True)}
        info = HfApi().model_info("evil/names", files_metadata=True)
        assert info.siblings
        assert set(samples.HOSTILE_NAMES) == {each.rfilename for each in info.siblings} - {"link.json"}
        # The empty name is the root itself.
        assert set(samples.HOSTILE_NAMES) - {""} <= listed

    @pytest.mark.parametrize(
        "name", ["../outside.txt", "a/../../outside.txt", "/absolute.txt", "//a.txt", "..", "C:/a", "a\0b"]
    )
    def test_names_that_the_client_refuses(self, hub_client: Client, name: str, tmp_path: Path) -> None:
        hub = hub_client()
        hub.add_repo("evil/name", {name: File(b"hostile", lfs=False)})
        with pytest.raises(ValueError):
            snapshot_download("evil/name")
        assert not [path for path in tmp_path.rglob("*.txt") if path.is_file()]

    @pytest.mark.parametrize(
        "name", [".git/config", "back\\slash.txt", "new\nline.txt", "\x1b[31mred.txt", "a\u202etxt.exe"]
    )
    def test_names_that_the_client_takes(self, hub_client: Client, name: str) -> None:
        hub = hub_client()
        hub.add_repo("evil/name", {name: File(b"hostile", lfs=False)})
        assert (Path(snapshot_download("evil/name")) / name).read_bytes() == b"hostile"

    def test_a_link_is_a_file_with_its_target(self, hub_client: Client) -> None:
        hub = hub_client()
        hub.add_repo("evil/link", {"link.json": File("../../../../etc/passwd", link=True)})
        assert Path(hf_hub_download("evil/link", "link.json")).read_text() == "../../../../etc/passwd"

    @pytest.mark.parametrize("what", samples.hostile_safetensors())
    def test_safetensors(self, hub_client: Client, what: str) -> None:
        hub = hub_client()
        hub.add_repo("evil/file", {"model.safetensors": samples.hostile_safetensors()[what]})
        info = HfApi().model_info("evil/file", files_metadata=True)
        assert info.siblings and info.siblings[0].lfs
        assert len(list(HfApi().list_models(author="evil"))) == 1
        assert hub.log.count(status=500) == 0
        assert hub.log.sent() < 10_000

    def test_pickle_named_safetensors(self, hub_client: Client, tmp_path: Path) -> None:
        hub = hub_client()
        mark = tmp_path / "mark"
        hub.add_repo("evil/pickle", {"model.safetensors": samples.bomb(mark)})
        with pytest.raises(errors.SafetensorsParsingError):
            get_safetensors_metadata("evil/pickle")
        assert answers.safetensors(hub.head("evil/pickle")) is None
        assert not mark.exists()

    def test_sizes_and_sums_that_lie(self, hub_client: Client, no_waiting: list[float]) -> None:
        hub = hub_client()
        hub.add_repo("evil/size", {"model.safetensors": File(WEIGHTS, size=10**9)})
        info = HfApi().model_info("evil/size", files_metadata=True)
        assert info.siblings and info.siblings[0].size == 10**9
        with pytest.raises(OSError):
            hf_hub_download("evil/size", "model.safetensors")
        # The client believes a sha256: the file lies in its cache under a name that is not its own.
        hub.add_repo("evil/sha", {"model.safetensors": File(WEIGHTS, sha256="a" * 64)})
        path = Path(hf_hub_download("evil/sha", "model.safetensors"))
        assert (path.resolve().name, path.read_bytes()) == ("a" * 64, WEIGHTS)

    @pytest.mark.parametrize("cdn", [False, True])
    def test_somebody_elses_sum(self, hub_client: Client, cdn: bool, tmp_path: Path) -> None:
        hub = hub_client()
        hub.cdn = cdn
        hub.add_repo("good/model", {"model.safetensors": WEIGHTS})
        hub.add_repo("evil/model", {"model.safetensors": File(b"evil", sha256=SHA256)})
        for name, content in (("good/model", WEIGHTS), ("evil/model", b"evil")):
            path = hf_hub_download(name, "model.safetensors", cache_dir=tmp_path / "cache")
            assert Path(path).read_bytes() == content

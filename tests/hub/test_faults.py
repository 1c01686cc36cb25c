"""Every kind of fault, as the unmodified client sees it."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, errors, hf_hub_download, list_models, model_info, snapshot_download
from huggingface_hub.utils import get_session, httpx

from tests.hub import faults
from tests.hub.fixtures import Client
from tests.hub.messages import Request, Response, as_json
from tests.hub.server import WRITE, Hub

NAME = "timm/resnet18.a1_in1k"
WEIGHTS = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
FILES = "*/resolve/*"


@pytest.fixture
def use(hub_client: Client, no_waiting: list[float]) -> Hub:
    """A Hub with a model; the client talks to it and does not wait between tries."""
    hub = hub_client(WRITE)
    hub.add_repo(NAME, {"config.json": "{}", "model.safetensors": WEIGHTS})
    return hub


def weights() -> bytes:
    return Path(hf_hub_download(NAME, "model.safetensors")).read_bytes()


def test_rate_limit(use: Hub, no_waiting: list[float]) -> None:
    use.fail(faults.rate_limit(seconds=7), method="GET", path=FILES)
    assert weights() == WEIGHTS
    assert no_waiting == [8.0]
    # model_info does not try again.
    use.fail(faults.rate_limit(seconds=7), path="/api/models/*")
    with pytest.raises(errors.HfHubHTTPError, match="Retry after 7 seconds") as refused:
        model_info(NAME)
    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["Retry-After"] == "7"
    use.fail(faults.rate_limit(seconds=2, headers=False), path="/api/models")
    assert len(list(list_models())) == 1
    assert no_waiting == [8.0, 3.0]


@pytest.mark.parametrize("status", [500, 503])
def test_server_errors(use: Hub, no_waiting: list[float], status: int) -> None:
    use.fail(faults.error(status), path="/api/models/*")
    with pytest.raises(errors.HfHubHTTPError) as refused:
        model_info(NAME)
    assert refused.value.response.status_code == status
    use.fail(faults.error(status), path="/api/models", times=2)
    assert len(list(list_models())) == 1
    assert no_waiting == [1, 2]
    # Of a file: the HEAD is tried again, the GET is not.
    use.fail(faults.error(status), method="HEAD", path=FILES, times=2)
    assert weights() == WEIGHTS
    assert no_waiting == [1, 2, 1]
    use.fail(faults.error(status), method="GET", path=FILES)
    with pytest.raises(errors.HfHubHTTPError):
        hf_hub_download(NAME, "config.json")


def test_a_server_that_stays_down(use: Hub, no_waiting: list[float]) -> None:
    use.fail(faults.error(503), times=None)
    with pytest.raises(errors.LocalEntryNotFoundError):
        weights()
    assert no_waiting == [1, 2, 4, 8, 8]
    assert use.log.count(method="HEAD") == 7
    use.heal()
    assert weights() == WEIGHTS


def test_what_is_cached_survives_a_server_that_is_down(use: Hub, no_waiting: list[float]) -> None:
    weights()
    use.fail(faults.error(503), times=None)
    assert weights() == WEIGHTS
    assert no_waiting == []


def test_slow(use: Hub) -> None:
    use.fail(faults.slow(0.3), path="/api/models/*")
    start = time.monotonic()
    assert model_info(NAME).id == NAME
    assert time.monotonic() - start > 0.3
    use.fail(faults.slow(0.5), path="/api/models/*")
    with pytest.raises(httpx.ReadTimeout):
        model_info(NAME, timeout=0.1)


def test_cut(use: Hub, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    use.fail(faults.cut(after=100_000), method="GET", path=FILES)
    assert weights() == WEIGHTS
    assert no_waiting == [1]
    # The client keeps whole pieces of 10 MB only: here it began anew.
    assert [(entry.sent, entry.range) for entry in use.log.find(method="GET")] == [(100_000, None), (256_000, None)]
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    use.log.clear()
    use.fail(faults.cut(after=100_500), method="GET", path=FILES)
    assert Path(hf_hub_download(NAME, "model.safetensors", force_download=True)).read_bytes() == WEIGHTS
    assert [(entry.sent, entry.range) for entry in use.log.find(method="GET")] == [
        *[(100_500, None), (156_000, "bytes=100000-")],
    ]


def test_cut_in_an_answer_of_the_api(use: Hub) -> None:
    use.fail(faults.cut(after=10), path="/api/models/*")
    with pytest.raises(httpx.RemoteProtocolError):
        model_info(NAME)


def test_wrong_bytes_are_not_noticed(use: Hub) -> None:
    use.fail(faults.wrong_bytes(), method="GET", path=FILES)
    got = weights()
    assert (len(got), got[:-1], got[-1]) == (len(WEIGHTS), WEIGHTS[:-1], WEIGHTS[-1] ^ 0xFF)
    # They stay in the cache under the right sum: whoever uses the file has to check.
    assert Path(hf_hub_download(NAME, "model.safetensors")).resolve().name == SHA256
    assert weights() == got
    assert Path(hf_hub_download(NAME, "model.safetensors", force_download=True)).read_bytes() == WEIGHTS


def test_wrong_sha_is_not_noticed(use: Hub) -> None:
    use.fail(faults.wrong_sha("f" * 64), method="HEAD", path=FILES)
    path = Path(hf_hub_download(NAME, "model.safetensors"))
    assert (path.resolve().name, path.read_bytes()) == ("f" * 64, WEIGHTS)


def test_short(use: Hub) -> None:
    use.fail(faults.short(by=10), method="GET", path=FILES)
    with pytest.raises(OSError, match="Consistency check failed"):
        weights()
    assert weights() == WEIGHTS


def test_a_loop_of_redirects(use: Hub) -> None:
    use.fail(faults.loop(), times=None)
    with pytest.raises(httpx.TooManyRedirects):
        model_info(NAME)
    with pytest.raises(httpx.TooManyRedirects):
        weights()


def test_missing(use: Hub) -> None:
    use.fail(faults.missing(), path=FILES)
    with pytest.raises(errors.RemoteEntryNotFoundError):
        weights()
    use.fail(faults.missing("RevisionNotFound"), path="/api/models/*")
    with pytest.raises(errors.RevisionNotFoundError):
        model_info(NAME)
    use.fail(faults.missing("RepoNotFound"), path="/api/models/*")
    with pytest.raises(errors.RepositoryNotFoundError):
        model_info(NAME)


def test_something_else_comes(use: Hub) -> None:
    use.fail(faults.other_body(b"<html>Sign in to the hotel's network</html>"), path="/api/models/*")
    with pytest.raises(ValueError):
        model_info(NAME)
    use.fail(faults.wrong_headers(X_Repo_Commit=None), method="HEAD", path=FILES)
    with pytest.raises(errors.LocalEntryNotFoundError, match="X-Repo-Commit"):
        weights()


def test_renamed_in_between(use: Hub) -> None:
    use.fail(faults.first(lambda: use.rename(NAME, "timm/new")), method="GET", path=FILES)
    assert weights() == WEIGHTS
    assert use.log.find(method="GET")[-1].path == "/timm/new/resolve/main/model.safetensors"


def test_commit_in_between(use: Hub) -> None:
    old = use.head(NAME).oid
    use.fail(
        faults.first(lambda: use.commit(NAME, {"config.json": '{"new": 1}', "model.safetensors": b"new"})),
        method="GET",
        path="*/tree/*",
    )
    folder = Path(snapshot_download(NAME))
    assert (folder.name, (folder / "config.json").read_text()) == (old, "{}")


def test_at_the_nth_request(use: Hub) -> None:
    use.fail(faults.error(500), path="/api/models/*", nth=3, times=2)
    codes = [get_session().get(f"{use.url}/api/models/{NAME}").status_code for _ in range(6)]
    assert codes == [200, 200, 500, 500, 200, 200]


def test_several_at_once_and_ones_own(use: Hub) -> None:
    def own(request: Request, answer: faults.Answer) -> Response:
        return as_json({"asked": request.path})

    use.fail(own, path="/api/models/*")
    use.fail(faults.wrong_headers(X_More="yes"), path="/api/models/*")
    use.fail(faults.slow(0.05), path="/api/models/*")
    answer = get_session().get(f"{use.url}/api/models/{NAME}")
    assert (answer.json(), answer.headers["X-More"]) == ({"asked": f"/api/models/{NAME}"}, "yes")


def test_the_doubles_own_mistakes_show(use: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(request: Request, answer: faults.Answer) -> Response:
        raise KeyError("mine")

    use.fail(broken)
    answer = get_session().get(f"{use.url}/api/models/{NAME}")
    assert (answer.status_code, answer.json()["error"]) == (500, "The double failed: KeyError('mine')")
    assert "mine" in capsys.readouterr().err


def test_nobody_there(use: Hub, no_waiting: list[float]) -> None:
    use.stop()
    with pytest.raises(httpx.ConnectError):
        model_info(NAME)
    assert no_waiting == []
    with pytest.raises(errors.LocalEntryNotFoundError):
        weights()
    # 23 seconds in truth.
    assert no_waiting == [1, 2, 4, 8, 8]


def test_somebody_who_never_answers(hub_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_client()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        # Without a timeout of its own model_info waits for ever.
        with pytest.raises(httpx.ReadTimeout):
            HfApi(endpoint=url).model_info(NAME, timeout=0.1)

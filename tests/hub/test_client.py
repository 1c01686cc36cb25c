"""The environment of subprocesses, the client of this process, and that neither leaves anything behind."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_api, model_info, snapshot_download
from huggingface_hub.utils import get_token

from tests.hub import client
from tests.hub.fixtures import Client, Environment
from tests.hub.server import READ, WRITE, Hub

ROOT = Path(__file__).parents[2]


def test_the_environment_is_complete(hub: Hub, hub_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    hub.add_repo("a/b", {"c.txt": "d"}, private=True)
    code = "import huggingface_hub as h; h.whoami(); h.ModelCard('---\\nlicense: mit\\n---\\n').validate(); h.list_models()"
    environment = hub_environment(READ)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=60)
    assert [entry.path for entry in hub.log.entries] == ["/api/whoami-v2", "/api/validate-yaml"]
    assert environment["HF_HOME"].endswith("home")
    assert "HF_TOKEN" not in hub_environment()


def test_the_command_line_of_the_client(hub: Hub, hub_environment: Environment, tmp_path: Path) -> None:
    hub.add_repo("tester/b", {"c.txt": "d"}, private=True)
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", "tester/b", "c.txt"]
    done = subprocess.run(command, env=hub_environment(READ), check=True, capture_output=True, text=True, timeout=60)
    assert "c.txt" in done.stdout
    assert hub.log.count(path="/tester/b/resolve/main/c.txt")


def test_the_client_of_this_process_is_put_back(hub: Hub, tmp_path: Path) -> None:
    before = (constants.ENDPOINT, constants.HF_HUB_CACHE, hf_api.api.endpoint, dict(os.environ))
    with pytest.MonkeyPatch.context() as patches:
        client.patch(patches, hub, tmp_path / "home", WRITE)
        assert (constants.ENDPOINT, hf_api.api.endpoint, get_token()) == (hub.url, hub.url, WRITE)
        assert HfApi().whoami()["name"] == "tester"
        assert str(tmp_path / "home/hub") == constants.HF_HUB_CACHE
    assert before == (constants.ENDPOINT, constants.HF_HUB_CACHE, hf_api.api.endpoint, dict(os.environ))


@pytest.mark.parametrize("again", [1, 2])
def test_every_test_has_its_own(hub_client: Client, again: int) -> None:
    hub = hub_client()
    hub.add_repo("a/b", {"c.txt": f"{again}"}, likes=again)
    assert model_info("a/b").likes == again
    assert (Path(snapshot_download("a/b")) / "c.txt").read_text() == str(again)


def test_another_token_in_the_same_test(hub_client: Client) -> None:
    hub_client(READ)
    assert HfApi().whoami()["auth"]["accessToken"]["role"] == "read"
    hub_client(WRITE)
    assert HfApi().whoami()["auth"]["accessToken"]["role"] == "write"


def test_nothing_answers_after_the_end(tmp_path: Path) -> None:
    with Hub(tmp_path) as hub:
        urllib.request.urlopen(f"{hub.url}/api/models").close()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{hub.url}/api/models")


def test_by_hand(tmp_path: Path) -> None:
    (tmp_path / "timm/resnet18").mkdir(parents=True)
    (tmp_path / "timm/resnet18/config.json").write_text("{}")
    command = [sys.executable, "-m", "tests.hub", "--seed", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout
            endpoint, _, repository = [process.stdout.readline() for _ in range(3)]
            assert repository.startswith("timm/resnet18 ")
            url = endpoint.split("=")[1].strip()
            assert b"timm/resnet18" in urllib.request.urlopen(f"{url}/api/models").read()
        finally:
            process.terminate()

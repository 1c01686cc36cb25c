"""A model folder, and the tests' Hub with somebody who may write there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kzoo.hub import client
from tests.hub.fixtures import hub, hub_client, hub_environment, no_waiting  # noqa: F401


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A model folder: the weights of a network that comes with kzoo in another one, tested on the digits."""
    folder = tmp_path_factory.mktemp("made")
    recipe = {
        "kzoo_recipe": 1,
        "sources": [{"path": "local:glyphs-resnet-2x8", "sha256": _shipped("glyphs-resnet-2x8")}],
        "target": {"model": "small:resnet-1x8", "classes": 10, "in_chans": 1},
        "data": {"task": "digits", "train": 64, "test": 50, "size": 16, "channels": 1},
        "threads": 1,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "kzoo", "run", "recipe.yaml", "--out", "model"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "model"


def _shipped(name: str) -> str:
    entry = Path(__file__).parents[2] / "registry/local" / f"{name}.yaml"
    sha256: str = yaml.safe_load(entry.read_text())["architectures"][0]["checkpoints"][0]["sha256"]
    return sha256


@pytest.fixture
def model(made, tmp_path, monkeypatch):
    """A copy of the folder, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def world(hub_client, model, monkeypatch, no_waiting):  # noqa: F811
    """A Hub, and somebody who may write there; waiting takes no time."""
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(client._quota, "free_at", 0.0)
    return hub_client("hf_write")

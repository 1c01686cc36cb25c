"""Fixtures: `from tests.hub.fixtures import hub, hub_client, hub_environment  # noqa: F401` in a conftest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub.client import environment, patch
from tests.hub.server import Hub

Environment = Callable[..., dict[str, str]]
Client = Callable[..., Hub]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A fresh Hub with its own folder."""
    with Hub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def hub_environment(hub: Hub, tmp_path: Path) -> Environment:
    """The environment of subprocesses: `hub_environment(token=None, xet=False, home="home")`; a home is a cache."""

    def make(token: str | None = None, *, xet: bool = False, home: str = "home") -> dict[str, str]:
        return environment(hub, tmp_path / home, token, xet=xet)

    return make


@pytest.fixture
def hub_client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client of this process: `hub_client(token=None, xet=False, home="home")`; see tests.hub.client.patch."""

    def use(token: str | None = None, *, xet: bool = False, home: str = "home") -> Hub:
        patch(monkeypatch, hub, tmp_path / home, token, xet=xet)
        return hub

    return use


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's waits between two tries take no time; returns how long each would have been."""
    import time
    from types import SimpleNamespace

    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    waits: list[float] = []
    # The modules see another `time`; the server, in the same process, keeps the real one.
    clock = SimpleNamespace(**{**vars(time), "sleep": waits.append})
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", clock)
    return waits

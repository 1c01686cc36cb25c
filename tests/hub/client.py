"""How tests reach the Hub: the environment of a subprocess, and the client within this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.hub.server import Hub


# Packages whose modules may keep an HfApi.
CLIENTS = {"huggingface_hub", "timm", "kzoo", "tests"}


def environment(hub: Hub, home: Path, token: str | None = None, *, xet: bool = False) -> dict[str, str]:
    """The variables of a subprocess whose clients talk to this Hub and keep everything below `home`.

    Everything of the calling environment that speaks to clients of the Hub is left out.
    """
    mine = {
        name: text for name, text in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))
    }
    # Proxies are for other machines.
    mine = {name: text for name, text in mine.items() if not name.lower().endswith("_proxy")}
    mine |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        # hf_xet tries six times and waits two and a half minutes in all, where no test can reach its clock.
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
        "XDG_CACHE_HOME": str(home / "xdg"),
        "TORCH_HOME": str(home / "torch"),
    }
    return mine | ({"HF_TOKEN": token} if token else {})


def patch(
    monkeypatch: pytest.MonkeyPatch, hub: Hub, home: Path, token: str | None = None, *, xet: bool = False
) -> None:
    """Let the huggingface_hub of this process talk to this Hub until the test ends.

    `HfApi(endpoint=...)` alone is not enough: model cards and the functions of the module use the constants. Replaced
    are: the environment as of `environment`, so that subprocesses and a later import agree; every constant of
    `huggingface_hub.constants` that is made of the endpoint or of HF_HOME, and their copies in other modules; the
    endpoint and the memory of every HfApi that modules keep; the origins that may get tokens; the shared HTTP client,
    which may hold a proxy, by one for tests; the session of hf_xet. What is remembered of trees and of xet tokens is
    put aside.
    """
    # Imported now: what a module copies at its import must be what it copies without a test.
    from huggingface_hub import _snapshot_download, hf_api, hub_mixin, repocard  # noqa: F401

    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    for name, text in environment(hub, home, token, xet=xet).items():
        monkeypatch.setenv(name, text)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    _patch_constants(monkeypatch, hub, home, xet)
    _patch_apis(monkeypatch, hub)
    _forget(monkeypatch, hub)


def _patch_constants(monkeypatch: pytest.MonkeyPatch, hub: Hub, home: Path, xet: bool) -> None:
    from huggingface_hub import constants

    hosts = constants.HF_URL_HOSTS | {"127.0.0.1"}
    values: dict[str, Any] = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": hosts,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HUGGINGFACE_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
        "CHECK_FOR_UPDATE_DONE_PATH": str(home / ".check_for_update_done"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_UPDATE_CHECK": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_DOWNLOAD_TIMEOUT": 5,
        "HF_HUB_ETAG_TIMEOUT": 5,
    }
    for name, value in values.items():
        old = getattr(constants, name)
        monkeypatch.setattr(constants, name, value)
        # Modules that copied a constant at their import.
        for module in [module for key, module in sys.modules.items() if key.startswith("huggingface_hub.")]:
            if module is not constants and name in vars(module) and vars(module)[name] is old:
                monkeypatch.setattr(module, name, value)


def _patch_apis(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """Every HfApi that a module made at its import, as `huggingface_hub.hf_api.api` and those of other libraries."""
    from huggingface_hub import HfApi

    seen: set[int] = set()
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in CLIENTS]:
        for value in list(vars(module).values()):
            if type(value) is HfApi and id(value) not in seen:
                seen.add(id(value))
                monkeypatch.setattr(value, "endpoint", hub.url)
                monkeypatch.setattr(value, "_whoami_cache", {})


def _forget(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    from huggingface_hub import _tree_cache
    from huggingface_hub.utils import _http, _xet

    origin = ("http", "127.0.0.1", hub.port)
    monkeypatch.setattr(_http, "_HUB_ORIGINS", _http._HUB_ORIGINS | {origin})
    monkeypatch.setattr(_xet, "XET_CONNECTION_INFO_CACHE", {})
    # A session of hf_xet remembers the home that it began with.
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
    monkeypatch.setattr(_tree_cache, "_IN_MEMORY_TREE_CACHE", {})
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT", _own_client())


_kept: list[Any] = []


def _own_client() -> Any:
    """An HTTP client of the factory's making for all tests: each takes a while to read the world's certificates."""
    from huggingface_hub.utils import _http

    if not _kept or _kept[-1].is_closed or _kept[-2] is not _http._GLOBAL_CLIENT_FACTORY:
        _kept[:] = [_http._GLOBAL_CLIENT_FACTORY, _http._GLOBAL_CLIENT_FACTORY()]
    return _kept[-1]

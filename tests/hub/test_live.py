"""The one test that asks the real Hub: does it still answer under the names that the double uses?

It reads what is public about one model, without a token, and only with KZOO_LIVE_HUB=1.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from huggingface_hub.utils import httpx

from tests.hub import samples
from tests.hub.server import Hub

REAL = "https://huggingface.co"
NAME = "timm/resnet18.a1_in1k"
# What the real Hub says besides, and no client of kzoo reads.
MORE = {
    "widgetData",
    "transformersInfo",
    "inference",
    "inferenceProviderMapping",
    "mask_token",
    "resourceGroup",
    "gguf",
}
HEADERS = {"etag", "x-repo-commit", "x-request-id", "accept-ranges", "ratelimit", "ratelimit-policy", "location"}
LARGE = {"x-linked-size", "x-linked-etag", "x-xet-hash", "link"}

pytestmark = pytest.mark.skipif(os.environ.get("KZOO_LIVE_HUB") != "1", reason="asks the real Hub; set KZOO_LIVE_HUB=1")


@pytest.fixture
def double(hub: Hub) -> Hub:
    """A Hub with a model like the real one."""
    card = "---\nlibrary_name: timm\nlicense: apache-2.0\ntags: [image-classification, timm]\n---\n"
    files = {"README.md": card, "config.json": "{}", ".gitattributes": "", "pytorch_model.bin": b"\0"}
    hub.add_repo(NAME, {**files, "model.safetensors": samples.safetensors({"a": ("F32", [2])})}, pipeline_tag="x")
    hub.store_in_xet(NAME)
    hub.cdn = hub.resolve_cache = True
    return hub


def both(double: Hub, path: str, **words: Any) -> tuple[Any, Any]:
    """The answers of the real Hub and of the double."""
    with httpx.Client(timeout=20) as client:
        real, ours = (client.get(base + path, params=words) for base in (REAL, double.url))
    assert (real.status_code, ours.status_code) == (200, 200)
    return real.json(), ours.json()


def test_model_info(double: Hub) -> None:
    real, ours = both(double, f"/api/models/{NAME}", blobs="true")
    assert set(ours) - set(real) <= {"pipeline_tag"}
    assert set(real) - set(ours) - MORE <= {"model-index"}
    assert {key for each in real["siblings"] for key in each} == {key for each in ours["siblings"] for key in each}
    assert {key for each in real["siblings"] for key in each.get("lfs", {})} == {"sha256", "size", "pointerSize"}
    assert len(real["createdAt"]) == len(ours["createdAt"])


@pytest.mark.parametrize("full", ["true", "false"])
def test_list(double: Hub, full: str) -> None:
    real, ours = both(double, "/api/models", author="timm", search="resnet18.a1_in1k", full=full)
    assert set(ours[0]) <= set(real[0]) | {"sha", "disabled"}


def test_tree(double: Hub) -> None:
    real, ours = both(double, f"/api/models/{NAME}/tree/main", recursive="true", expand="true")
    for name in ("config.json", "model.safetensors"):
        [theirs], [mine] = ([each for each in tree if each["path"] == name] for tree in (real, ours))
        assert set(mine) <= set(theirs)
        assert set(mine["lastCommit"]) <= set(theirs["lastCommit"])
        assert set(mine.get("lfs", {})) == set(theirs.get("lfs", {}))


def test_refs_and_commits(double: Hub) -> None:
    real, ours = both(double, f"/api/models/{NAME}/refs", include_prs="1")
    assert set(ours) == set(real)
    assert set(ours["branches"][0]) == set(real["branches"][0])
    real, ours = both(double, f"/api/models/{NAME}/commits/main")
    assert set(ours[0]) <= set(real[0])


@pytest.mark.parametrize(("name", "more"), [("config.json", set()), ("model.safetensors", LARGE)])
def test_head(double: Hub, name: str, more: set[str]) -> None:
    with httpx.Client(timeout=20, follow_redirects=False) as client:
        real, ours = (client.head(f"{base}/{NAME}/resolve/main/{name}") for base in (REAL, double.url))
    assert real.status_code == ours.status_code
    wanted = (HEADERS | more) - ({"etag"} if name == "config.json" else set())
    assert wanted - set(ours.headers) <= wanted - set(real.headers)


def test_refusals(double: Hub) -> None:
    with httpx.Client(timeout=20) as client:
        for path in (
            "/api/models/timm/no-such-model-at-all",
            f"/{NAME}/resolve/main/none.json",
            f"/api/models/{NAME}/revision/none",
        ):
            real, ours = (client.get(base + path) for base in (REAL, double.url))
            assert (real.status_code, real.headers.get("x-error-code")) == (
                ours.status_code,
                ours.headers.get("x-error-code"),
            )

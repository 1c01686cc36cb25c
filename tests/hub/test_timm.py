"""timm's own way to pretrained weights leads to the Hub of the tests."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.hub.fixtures import Client
from tests.hub.server import WRITE, Hub

# Imported by the tests: it takes seconds, and whoever runs another file of this folder need not wait.
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")


@pytest.fixture
def weights(tmp_path: Path, hub: Hub) -> dict[str, Any]:
    """Random weights, seeded as timm's resnet18.a1_in1k."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = timm.create_model("resnet18").state_dict()
    path = tmp_path / "resnet18.safetensors"
    save_file(state, path, {"format": "pt"})
    hub.add_repo("timm/resnet18.a1_in1k", {"model.safetensors": path}, library_name="timm")
    return dict(state)


@needs_timm
def test_pretrained(hub_client: Client, weights: dict[str, Any]) -> None:
    import timm
    import torch

    hub = hub_client()
    model = timm.create_model("resnet18.a1_in1k", pretrained=True)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [(entry.method, entry.path) for entry in hub.log.entries] == [
        *[(method, "/timm/resnet18.a1_in1k/resolve/main/model.safetensors") for method in ("HEAD", "GET")],
    ]


@needs_timm
def test_pushed_and_loaded_by_its_address(hub_client: Client) -> None:
    import timm
    import torch

    hub = hub_client(WRITE)
    model = timm.create_model("test_resnet", num_classes=7)
    timm.models.push_to_hf_hub(model, "tester/mine", model_config={"architecture": "test_resnet"}, private=True)
    assert set(hub.head("tester/mine").files) >= {"config.json", "model.safetensors", "README.md"}
    again = timm.create_model("hf-hub:tester/mine", pretrained=True)
    assert again.num_classes == 7
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())

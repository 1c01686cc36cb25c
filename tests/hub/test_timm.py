"""timm's own way to pretrained weights leads to the Hub of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.fixtures import Client
from tests.hub.server import WRITE, Hub

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")


@pytest.fixture
def weights(tmp_path: Path, hub: Hub) -> dict[str, object]:
    """Random weights, seeded as timm's resnet18.a1_in1k."""
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = timm.create_model("resnet18").state_dict()
    path = tmp_path / "resnet18.safetensors"
    save_file(state, path, {"format": "pt"})
    hub.add_repo("timm/resnet18.a1_in1k", {"model.safetensors": path}, library_name="timm")
    return dict(state)


def test_pretrained(hub_client: Client, weights: dict[str, torch.Tensor]) -> None:
    hub = hub_client()
    model = timm.create_model("resnet18.a1_in1k", pretrained=True)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [(entry.method, entry.path) for entry in hub.log.entries] == [
        *[(method, "/timm/resnet18.a1_in1k/resolve/main/model.safetensors") for method in ("HEAD", "GET")],
    ]


def test_pushed_and_loaded_by_its_address(hub_client: Client) -> None:
    hub = hub_client(WRITE)
    model = timm.create_model("test_resnet", num_classes=7)
    timm.models.push_to_hf_hub(model, "tester/mine", model_config={"architecture": "test_resnet"}, private=True)
    assert set(hub.head("tester/mine").files) >= {"config.json", "model.safetensors", "README.md"}
    again = timm.create_model("hf-hub:tester/mine", pretrained=True)
    assert again.num_classes == 7
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())

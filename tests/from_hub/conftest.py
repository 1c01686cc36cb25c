"""The tests' Hub, and a registry of one's own."""

import pytest

from tests.hub.fixtures import hub, hub_client, hub_environment, no_waiting  # noqa: F401


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The registry of one's own that commands change and see."""
    folder = tmp_path / "own"
    monkeypatch.setenv("KZOO_REGISTRY", str(folder))
    return folder

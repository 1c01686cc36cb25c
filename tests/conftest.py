from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from kzoo.layers import Architecture
from kzoo.zoo import Model, Zoo, load_zoo

# Nobody's own models take part; the processes that tests start inherit this.
os.environ["KZOO_REGISTRY"] = ""


def trained(zoo: Zoo, space: str) -> dict[int, list[Model]]:
    """Checkpoints by place; places without any are absent."""
    by_place: dict[int, list[Model]] = {}
    for model in zoo.models.values():
        by_place.setdefault(model.places[space], []).append(model)
    return by_place


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    """The models of this checkout's registry."""
    return load_zoo()


@pytest.fixture(scope="session")
def built() -> Callable[[str, int | None], Architecture]:
    """Architectures built by their libraries, not read from the index."""
    from kzoo.readers.libraries import load_library

    @cache
    def build(name: str, classes: int | None = None) -> Architecture:
        library, _, architecture = name.partition(":")
        return load_library(library).build(architecture, classes)

    return build


@pytest.fixture(scope="session")
def kzoo_command() -> Run:
    """Run the command line in a process of its own."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kzoo", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]

    return run


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process: exit code, stdout, stderr."""
    from kzoo.cli.main import run

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kzoo", *map(str, arguments)])
        capsys.readouterr()
        code = run()
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="session")
def trained_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a small network with 7 classes, timm's resnet10t, as a safetensors file without a config.json."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(11)
        module = timm.create_model("resnet10t", num_classes=7)
    path = tmp_path_factory.mktemp("trained") / "resnet10t.safetensors"
    save_file(module.state_dict(), path)
    return path

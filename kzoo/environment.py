"""The class of a machine: what decides whether the same recipe gives the same bytes."""

from __future__ import annotations

import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import yaml

from kzoo.errors import InputError, KzooWarning
from kzoo.files import replacing
from kzoo.plain_yaml import read_plain
from kzoo.readers.safetensors import read_bounded

_LIBRARIES = ("torch", "torchvision", "timm", "numpy")
_MOST_BYTES = 100_000


def environment_class() -> dict[str, str]:
    """What of this machine decides the bytes of results: processor, device, Python and libraries."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {
        "machine": platform.machine(),
        # Vector instructions decide in which order sums are formed.
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    return found | {name: version(name).partition("+")[0] for name in _LIBRARIES}


def environment_text(environment: dict[str, str]) -> str:
    """The file ``environment.yaml``."""
    head = "# The class of machine that these results come from; kzoo environment tells that of this one\n"
    return head + yaml.safe_dump(environment, sort_keys=False)


def write_environment(path: Path) -> dict[str, str]:
    """Write the class of this machine as ``environment.yaml``, and give it.

    Raises:
        WorldError: the disk fails.
    """
    found = environment_class()
    with replacing(path) as temporary:
        temporary.write_text(environment_text(found), encoding="utf-8")
    return found


def read_environment(path: Path) -> dict[str, str]:
    """The class that a file names.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    data = read_plain(read_bounded(path, _MOST_BYTES).decode("utf-8", errors="replace")).data
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise InputError(f"{path} is no environment: write it with 'kzoo environment --write {path.name}'")
    return data


def tell_difference(path: Path, here: dict[str, str]) -> None:
    """Say so where this machine is of another class than the file says."""
    if not path.is_file():
        return
    named = read_environment(path)
    odd = [key for key in here if named.get(key) != here[key]]
    if odd:
        key = odd[0]
        warnings.warn(
            f"{path.name} was written on another class of machine ({key}: {named.get(key)} there, {here[key]} here), so "
            f"results may differ in their bytes; 'kzoo environment --write {path.name}' writes this one's",
            KzooWarning,
            stacklevel=2,
        )

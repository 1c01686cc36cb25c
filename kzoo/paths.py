"""Where the registry and its index are: inside an installed wheel, or at the top of a source checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def registry_directory() -> Path:
    """The registry that came with this kzoo."""
    installed = _PACKAGE / "_registry"
    return installed if installed.is_dir() else _PACKAGE.parent / "registry"


def index_file() -> Path:
    """The index compiled from that registry."""
    return registry_directory() / "index.npz"


def source_file(module: str) -> Path:
    """The file of a module of this package, given like ``readers/timm``."""
    return _PACKAGE / f"{module}.py"

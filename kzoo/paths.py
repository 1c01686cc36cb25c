"""Where registries and their indexes are: the one that came with kzoo, and one's own on top of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kzoo.errors import InputError

_PACKAGE = Path(__file__).parent
INDEX_NAME = "index.npz"


def registry_directory() -> Path:
    """The registry that came with this kzoo."""
    installed = _PACKAGE / "_registry"
    return installed if installed.is_dir() else _PACKAGE.parent / "registry"


def index_file(registry: Path | None = None) -> Path:
    """The index compiled from a registry; without one, from that which came with kzoo."""
    return (registry or registry_directory()) / INDEX_NAME


def own_registry() -> Path:
    """Where a user's own models are kept unless another place is named."""
    import click

    return Path(click.get_app_dir("kzoo")) / "registry"


def registry_layers(more: Iterable[Path] = ()) -> list[Path]:
    """One's own registries, in the order in which they lie on the one that came with kzoo, later ones on top.

    Those of the environment variable ``KZOO_REGISTRY`` (several are separated as in ``PATH``), or, where it is not set,
    `own_registry` if it exists; then ``more``.
    """
    layers = _named_layers()
    if "KZOO_REGISTRY" not in os.environ and any(own_registry().glob("*/*.yaml")):
        layers = [own_registry()]
    shipped = registry_directory().resolve()
    unique: dict[Path, Path] = {}
    for path in (*layers, *more):
        # Named twice, a folder lies where it was named last.
        unique.pop(path.resolve(), None)
        unique[path.resolve()] = path
    return [path for resolved, path in unique.items() if resolved != shipped]


def registry_to_change(directory: Path | None) -> Path:
    """The registry that a command changes: the one that was named, else the topmost of ``KZOO_REGISTRY``, else kzoo's."""
    return directory or next(reversed(_named_layers()), registry_directory())


def registry_for_local(directory: Path | None) -> Path:
    """Where a model of one's own is added: the folder that was named, the topmost of ``KZOO_REGISTRY``, `own_registry`.

    Raises:
        InputError: ``KZOO_REGISTRY`` is set but empty, so that nothing of one's own would be seen.
    """
    layers = [directory] if directory else _named_layers()
    if not layers and "KZOO_REGISTRY" in os.environ:
        raise InputError(
            "KZOO_REGISTRY is set but empty, so there is no registry of your own: give -C DIR, or unset it"
        )
    return layers[-1] if layers else own_registry()


def registry_for_locks(directory: Path | None) -> Path:
    """Where what is pulled is locked: the folder that was named, the topmost of ``KZOO_REGISTRY``, `own_registry`."""
    return directory or next(reversed(_named_layers()), own_registry())


def _named_layers() -> list[Path]:
    return [Path(text) for text in os.environ.get("KZOO_REGISTRY", "").split(os.pathsep) if text]


def source_file(module: str) -> Path:
    """The file of a module of this package, given like ``readers/timm``."""
    return _PACKAGE / f"{module}.py"

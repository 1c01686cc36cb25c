"""The libraries that kzoo reads architectures from, and what each must offer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from kzoo.errors import InputError
from kzoo.layers import Architecture
from kzoo.readers.variants import Variant
from kzoo.registry_files import HUB_FOLDER

if TYPE_CHECKING:
    from kzoo.catalog import ArchitectureEntry

#: In the order of the registry and the index.
LIBRARIES = ("timm", "torchvision")
#: The library of a model that is a file of one's own.
LOCAL = "local"
#: The library of a network in a repository of the Hub that was added; its architectures are ``hf:user/name``.
HUB = HUB_FOLDER
#: Libraries whose networks are known by what their files' headers tell.
BY_HEADER = (LOCAL, HUB)


class Library(Protocol):
    """The functions of `kzoo.readers.timm` and `kzoo.readers.torchvision`."""

    VERSION: str

    def families(self) -> dict[str, list[str]]:
        """Architecture names by family, both sorted."""

    def entry(self, name: str) -> ArchitectureEntry:
        """The registry's entry of an architecture."""

    def variants(self, entry: ArchitectureEntry) -> list[Variant]:
        """The forms that an architecture takes for its checkpoints, those included that only the registry knows."""

    def build(
        self,
        name: str,
        classes: int | None = None,
        in_chans: int | None = None,
        img_size: int | None = None,
        submodule: str | None = None,
    ) -> Architecture:
        """An architecture with options, or a submodule of it."""


def load_library(name: str) -> Library:
    """The reader of a library; imports it.

    Raises:
        InputError: the library is unknown or not installed.
    """
    if name not in LIBRARIES:
        raise InputError(f"library {name!r} is unknown: expected {' or '.join(LIBRARIES)}")
    try:
        return cast(Library, importlib.import_module(f"kzoo.readers.{name}"))
    except ImportError as error:
        raise InputError(
            f"this needs {name}, which cannot be imported ({error}): install torch, timm and torchvision"
        ) from None

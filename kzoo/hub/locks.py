"""Locks: which commit of a repository is meant, and what its files are, by size and digest.

A lock is the machine's half of an entry: ``locks/user--name.json`` in a registry's folder. It is written only when every
file that it names was fetched whole and found to be what the Hub says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kzoo.errors import InputError
from kzoo.faults import read_json
from kzoo.files import replacing
from kzoo.hub.repositories import is_plain_name

FOLDER = "locks"
_COMMIT, _SHA256 = r"^[0-9a-f]{40}$", r"^[0-9a-f]{64}$"


class LockedFile(BaseModel):
    """A file at the locked commit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class Lock(BaseModel):
    """A repository at a commit; the first file is the one to open.

    ``name`` is the repository as people write it, and ``repository`` what the Hub calls it, which differs where it was
    renamed; ``asked`` is the revision that led to the commit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1)
    repository: str = Field(min_length=1)
    asked: str | None = None
    commit: str = Field(pattern=_COMMIT)
    license: str | None = None
    files: tuple[LockedFile, ...] = Field(min_length=1, strict=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def lock_file(registry: Path, name: str) -> Path:
    """Where the lock of a repository is kept."""
    return registry / FOLDER / f"{name.replace('/', '--')}.json"


def find_lock(registries: Iterable[Path], name: str) -> Lock | None:
    """The lock of a repository, of the last registry that has one.

    Raises:
        InputError: it is damaged.
    """
    found = None
    for registry in registries:
        path = lock_file(registry, name)
        if path.is_file():
            found = _read(path, name)
    return found


def _read(path: Path, name: str) -> Lock:
    document = read_json(path, "a lock")
    lock = document.validated(Lock)
    # The name of a file leads to a place on the disk.
    if lock.name != name or not all(is_plain_name(file.name) for file in lock.files):
        raise InputError(f"{path} is no lock of {name}: delete it, and pull again")
    return lock


def write_lock(registry: Path, lock: Lock) -> Path:
    """Write a lock, whole or not at all.

    Raises:
        WorldError: the disk fails.
    """
    path = lock_file(registry, lock.name)
    with replacing(path) as temporary:
        temporary.write_text(lock.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return path

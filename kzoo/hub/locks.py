"""Locks: which commit of a repository is meant, what its files are, by size and digest, and what their headers say.

A lock is the machine's half of an entry: ``locks/<user>--<name>.json`` in a registry's folder. It says what the Hub said
of the commit, twice and alike; `kzoo.hub.pull` holds what comes against it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kzoo.errors import InputError
from kzoo.faults import read_json
from kzoo.files import replacing
from kzoo.hub.names import PREFIX, is_plain_name, is_repository
from kzoo.layers import MOST_SIZE
from kzoo.readers.files import WHOLE, WeightsFile
from kzoo.readers.safetensors import Tensor
from kzoo.registry_files import LOCKS, MOST_LOCK

COMMIT = r"^[0-9a-f]{40}$"
_SHA256 = r"^[0-9a-f]{64}$"
# A name of a file on the disk has at most 255 bytes.
_LONGEST_STEM = 200
_HEAD = 4096


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LockedFile(_Part):
    """A file at the locked commit."""

    name: str = Field(min_length=1)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class Network(_Part):
    """What the headers and the config.json tell of the network; a tensor is its type and shape, as in ``F32 64x3x7x7``."""

    claims: tuple[str, ...] = Field(default=(), strict=False)
    classes: int | None = None
    input_size: tuple[int, ...] | None = Field(default=None, strict=False)
    tensors: dict[str, str] = Field(min_length=1)


class Lock(_Part):
    """A network in a repository at a commit; the first file is the one to open.

    ``name`` is the network as a registry or people name it, and ``repository`` what the Hub calls its place, which differs
    where it was renamed; ``asked`` is the revision that led to the commit. ``told`` are fields of an entry as its page told
    them then.
    """

    name: str = Field(min_length=1)
    repository: str = Field(min_length=1)
    asked: str | None = None
    commit: str = Field(pattern=COMMIT)
    license: str | None = None
    told: dict[str, str | list[str]] = {}
    files: tuple[LockedFile, ...] = Field(min_length=1, strict=False)
    network: Network

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def pinned(self) -> str:
        """The network at this commit, as every command takes it, whatever else is locked."""
        file = "" if self.files[0].name == WHOLE else f"/{self.files[0].name}"
        return f"{PREFIX}{self.repository}{file}@{self.commit}"

    @property
    def weights(self) -> WeightsFile:
        """The network as its headers tell it.

        Raises:
            InputError: a tensor has no type or shape.
        """
        tensors = {name: _tensor(text, self.name) for name, text in self.network.tensors.items()}
        path = Path(f"{PREFIX}{self.repository}/{self.files[0].name}")
        network = self.network
        return WeightsFile(path, tensors, (), network.claims, network.classes, network.input_size)


def network_of(weights: WeightsFile) -> Network:
    """What a lock says of a network."""
    tensors = {
        name: " ".join([tensor.dtype, *(["x".join(map(str, tensor.shape))] if tensor.shape else [])])
        for name, tensor in weights.tensors.items()
    }
    return Network(claims=weights.claims, classes=weights.classes, input_size=weights.input_size, tensors=tensors)


def _tensor(text: str, name: str) -> Tensor:
    found = re.fullmatch(r"(\S{1,20})( (\d{1,19}(x\d{1,19}){0,63}))?", text, re.ASCII)
    shape = tuple(int(axis) for axis in found[3].split("x")) if found and found[3] else ()
    if found is None or any(axis > MOST_SIZE for axis in shape):
        raise InputError(f"the lock of {name} has the tensor {text!r:.60}: expected a type and a shape; add it again")
    return Tensor(found[1], shape)


def stem(name: str) -> str:
    """The name of a lock's file without its suffix; that of an endless or an ambiguous name ends in a digest."""
    text = name.replace("/", "--")
    if len(text.encode()) <= _LONGEST_STEM and "--" not in name:
        return text
    return f"{text.encode()[:120].decode(errors='ignore')}--{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def lock_file(registry: Path, name: str) -> Path:
    """Where the lock of a network is kept."""
    return registry / LOCKS / f"{stem(name)}.json"


def find_lock(registries: Iterable[Path], name: str) -> tuple[Path, Lock] | None:
    """The lock of a network, of the last registry that has one, with that registry.

    Raises:
        InputError: it is damaged.
    """
    found = None
    for registry in registries:
        lock = read_lock(registry, name)
        found = found if lock is None else (registry, lock)
    return found


def read_lock(registry: Path, name: str) -> Lock | None:
    """The lock that a registry has of a network.

    Raises:
        InputError: it is damaged.
    """
    path = lock_file(registry, name)
    return _read(path, name) if path.is_file() else None


def registry_locks(registry: Path) -> list[Lock]:
    """All locks of a registry, in the order of their names.

    Raises:
        InputError: one is damaged.
    """
    return sorted((_read(path) for path in (registry / LOCKS).glob("*.json")), key=lambda lock: lock.name)


def lock_of_commit(registries: Iterable[Path], repository: str, commit: str) -> Lock | None:
    """A lock of a repository at a commit, whatever its name.

    Raises:
        InputError: it is damaged.
    """
    for path in (path for registry in registries for path in sorted((registry / LOCKS).glob("*.json"))):
        # All begins with the names, so that most files need not be read.
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if commit.encode() in head and (lock := _read(path)).repository == repository:
            return lock
    return None


def _read(path: Path, name: str | None = None) -> Lock:
    lock = read_json(path, "a lock", MOST_LOCK).validated(Lock)
    # Names of files and of repositories lead to places on the disk.
    sound = is_repository(lock.repository) and all(is_plain_name(file.name) for file in lock.files)
    if lock.name != (name or lock.name) or path.stem != stem(lock.name) or not sound:
        raise InputError(f"{path} is no lock of {name or 'a network'}: delete it, and add or pull the model again")
    return lock


def lock_text(lock: Lock) -> str:
    """A lock as it is written.

    Raises:
        InputError: it is larger than what is read.
    """
    text = lock.model_dump_json(indent=2) + "\n"
    if len(text.encode()) > MOST_LOCK:
        raise InputError(f"{PREFIX}{lock.name} has more tensors than kzoo keeps: name a smaller file of it")
    return text


def write_lock(registry: Path, lock: Lock) -> Path:
    """Write a lock, whole or not at all.

    Raises:
        WorldError: the disk fails.
    """
    path = lock_file(registry, lock.name)
    with replacing(path) as temporary:
        temporary.write_text(lock_text(lock), encoding="utf-8")
    return path


def changes(before: Lock, after: Lock) -> Iterator[str]:
    """What is different in a later lock, a line each."""
    old, new = ({file.name: file for file in lock.files} for lock in (before, after))
    for name in sorted({*old, *new}):
        if name not in new:
            yield f"- {name}"
        elif name not in old:
            yield f"+ {name}, {new[name].size:,} bytes"
        elif old[name] != new[name]:
            yield f"~ {name}, {old[name].size:,} -> {new[name].size:,} bytes"
    yield from _changed_tensors(before.network.tensors, after.network.tensors)
    for what in ("repository", "license"):
        one, other = getattr(before, what), getattr(after, what)
        if one != other:
            yield f"{what}: {one or 'unknown'} -> {other or 'unknown'}"


def _changed_tensors(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    counts = {
        "new": len(new.keys() - old.keys()),
        "gone": len(old.keys() - new.keys()),
        "of another type or shape": sum(old[name] != new[name] for name in old.keys() & new.keys()),
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    if said:
        yield f"tensors: {', '.join(said)}"

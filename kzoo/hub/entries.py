"""Entries of networks on the Hub in a registry of one's own: what people read, beside the lock that machines read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kzoo.catalog import read_source
from kzoo.entries import entry_text, told_before, write_entries, written_checkpoint
from kzoo.hub.locks import Lock, lock_file, lock_text, stem, write_lock
from kzoo.locking import locked
from kzoo.processes import Progress
from kzoo.readers.libraries import HUB

_TAG = "weights"


def entry_file(directory: Path, name: str) -> Path:
    """Where the entry of a network of the Hub stands in a registry."""
    return directory / HUB / f"{stem(name)}.yaml"


def hub_entry(file: Path, lock: Lock, told: Mapping[str, Any]) -> str:
    """The text of the entry that a lock and what is told of a network amount to.

    Raises:
        InputError: a field is wrong, or the network has no such submodule.
    """
    submodule, weights = told.get("submodule"), lock.weights
    named = lock.name.count("/") > 1
    fields = {
        "id": lock.name,
        "tag": _TAG,
        "classes": weights.classes if submodule is None else None,
        "input_size": list(weights.input_size) if weights.input_size and submodule is None else None,
        "parameters": weights.architecture(submodule).entries,
        "hub": "/".join(lock.name.split("/")[:2]) if named else None,
        "filename": lock.files[0].name if named else None,
    }
    return entry_text(file, lock.name, fields | dict(told))


def write_moved(directory: Path, lock: Lock, progress: Progress) -> None:
    """Write a lock that was moved; with it, where a registry has the network's entry, that entry and the index.

    An entry of which the new lock tells nothing else stays as people have it.

    Raises:
        WorldError: the registry cannot be written, or is being changed by another process.
    """
    file = entry_file(directory, lock.name)
    if not file.exists():
        write_lock(directory, lock)
        return
    with locked(directory):
        text = hub_entry(file, lock, told_before(file, with_license=True))
        family = read_source(file).family
        same = family is not None and family.architectures[0].checkpoints == [written_checkpoint(file, text)]
        entry = {} if same else {file: text}
        write_entries(directory, {lock_file(directory, lock.name): lock_text(lock)} | entry, progress)

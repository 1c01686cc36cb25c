"""Entries of networks on the Hub in a registry of one's own: what people read, beside the lock that machines read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kzoo.catalog import Family, Fault, read_registry, read_source
from kzoo.entries import entry_text, told_before, write_entries, written_checkpoint
from kzoo.errors import InputError
from kzoo.hub.locks import Lock, lock_file, lock_text, read_lock, stem, write_lock
from kzoo.licenses import UNKNOWN
from kzoo.locking import locked
from kzoo.processes import Progress
from kzoo.readers.libraries import HUB, LOCAL
from kzoo.registry_files import WHOLE, family_files

_TAG = "weights"
_LICENSE = ("license", "license_name", "license_link")
#: How long an entry waits for another process that indexes the registry.
PATIENT = 30.0


def entry_file(directory: Path, name: str) -> Path:
    """Where the entry of a network of the Hub stands in a registry."""
    return directory / HUB / f"{stem(name)}.yaml"


def hub_entry(file: Path, lock: Lock, people: Mapping[str, Any]) -> str:
    """The text of an entry: what people say of the network, else what its page told when it was locked.

    Raises:
        InputError: a field is wrong, or the network has no such submodule.
    """
    if lock.name.partition("/")[0] == LOCAL:
        raise InputError(
            f"{lock.name} has the name of a file of your own: it cannot be added; use it as hf:{lock.name}"
        )
    told = {key: value for key, value in lock.told.items() if "license" not in people or key not in _LICENSE}
    fields = {"license": UNKNOWN} | told | dict(people)
    submodule, weights = fields.get("submodule"), lock.weights
    named = lock.name.count("/") > 1
    fields = {
        "id": lock.name,
        "tag": _TAG,
        "classes": weights.classes if submodule is None else None,
        "input_size": list(weights.input_size) if weights.input_size and submodule is None else None,
        "parameters": weights.architecture(submodule).entries,
        "hub": "/".join(lock.name.split("/")[:2]) if named else None,
        "filename": lock.files[0].name if named else None,
    } | fields
    return entry_text(file, lock.name, fields)


def people_say(file: Path, before: Lock | None) -> dict[str, Any]:
    """What people have said in an entry, other than what its page told when it was locked."""
    if not file.exists():
        return {}
    said = told_before(file, with_license=True)
    told: Mapping[str, Any] = {"license": UNKNOWN} | (before.told if before is not None else {})
    if all(said.get(key) == told.get(key) for key in _LICENSE):
        said = {key: value for key, value in said.items() if key not in _LICENSE}
    # The entry's place is the machine's to say.
    return {key: value for key, value in said.items() if key not in ("hub",) and told.get(key) != value}


def ids_elsewhere(directory: Path) -> set[str]:
    """The ids of a registry's checkpoints in files that are none of the Hub's."""
    if not directory.is_dir() or not family_files(directory):
        return set()
    families = [source.family for source in read_registry(directory) if source.path.parent.name != HUB]
    return {model.id for family in families if family for entry in family.architectures for model in entry.checkpoints}


def write_moved(directory: Path, before: Lock | None, lock: Lock, progress: Progress) -> None:
    """Write a lock that was moved; with it, where a registry has the network's entry, that entry and the index.

    An entry of which the new lock tells nothing else stays as people have it.

    Raises:
        WorldError: the registry cannot be written, or is being changed by another process.
    """
    file = entry_file(directory, lock.name)
    if not file.exists():
        write_lock(directory, lock)
        return
    with locked(directory, PATIENT):
        text = hub_entry(file, lock, people_say(file, before))
        family = read_source(file).family
        same = family is not None and family.architectures[0].checkpoints == [written_checkpoint(file, text)]
        entry = {} if same else {file: text}
        write_entries(directory, {lock_file(directory, lock.name): lock_text(lock)} | entry, progress)


def lock_faults(directory: Path, families: Sequence[Family]) -> Iterator[Fault]:
    """What is wrong with the locks of a registry's entries."""
    for family in (family for family in families if family.library == HUB):
        for model in (model for entry in family.architectures for model in entry.checkpoints):
            try:
                missing = read_lock(directory, model.id) is None
            except InputError as error:
                yield Fault(lock_file(directory, model.id), 1, WHOLE, str(error).partition(": ")[2] or str(error))
                continue
            if missing:
                problem = f"has no lock beside it: add {model.id} again with 'kzoo add --force'"
                yield Fault(directory / HUB / f"{family.family}.yaml", 1, WHOLE, problem)

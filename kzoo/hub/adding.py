"""Add a network of the Hub to a registry of one's own: an entry for people, a lock for machines, and the index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kzoo.entries import require_free, require_writable, told_before, write_entries
from kzoo.hub.client import endpoint
from kzoo.hub.entries import entry_file, hub_entry
from kzoo.hub.locks import Lock, lock_file, lock_text, write_lock
from kzoo.hub.models import look
from kzoo.hub.names import Wanted
from kzoo.hub.repositories import Repository
from kzoo.licenses import OTHER, UNKNOWN, is_known_license
from kzoo.locking import locked
from kzoo.processes import Progress
from kzoo.zoo import Zoo

_DATASET = "dataset:"
_INSTEAD = "'kzoo pull --update' moves its lock; give "


@dataclass(frozen=True)
class Added:
    """What was written: the entry, or the lock alone of a model that a registry has already; the model's id; the lock."""

    file: Path
    id: str
    lock: Lock


def add_from_hub(
    asked: Wanted, directory: Path, details: Mapping[str, Any], zoo: Zoo, progress: Progress, force: bool = False
) -> Added:
    """Lock a network of the Hub and write its entry into the registry at ``directory``, which is then indexed.

    Its headers are read, not its weights. ``details`` are fields of the entry that take the place of what the Hub says:
    ``license``, ``license_name``, ``license_link``, ``trained_on``, ``submodule``. Without any, a model that another
    registry of the zoo has is only locked.

    Raises:
        InputError: there is no such network, one may not see it, a field is wrong, or there is such an entry already
            (``force`` replaces it).
        WorldError: the Hub fails, or the registry cannot be written or is being changed by another process.
    """
    name = asked.key.partition("@")[0]
    given = {key: value for key, value in details.items() if value}
    file = entry_file(directory, name)
    require_free(file, force, _INSTEAD)
    require_writable(directory)
    remote = look(asked)
    lock = remote.lock(name, asked.name.revision)
    if name in zoo.models and not given and not file.exists():
        return Added(write_lock(directory, lock), name, lock)
    before = told_before(file, with_license="license" not in given) if file.exists() else {}
    text = hub_entry(file, lock, told_by_hub(remote.repository) | before | given)
    with locked(directory):
        require_free(file, force, _INSTEAD)
        write_entries(directory, {lock_file(directory, name): lock_text(lock), file: text}, progress)
    return Added(file, name, lock)


def told_by_hub(repository: Repository) -> dict[str, Any]:
    """License and data sets of an entry, as a repository's tags tell them."""
    license = repository.license
    told: dict[str, Any] = {"license": UNKNOWN}
    if license is not None and license != UNKNOWN:
        known = license != OTHER and is_known_license(license)
        page = f"{endpoint()}/{repository.id}"
        name = repository.license_name or (license if license != OTHER else "as its page says")
        told = {"license": license} if known else {
            "license": OTHER, "license_name": name, "license_link": repository.license_link or page,
        }  # fmt: skip
    data = [tag.removeprefix(_DATASET) for tag in repository.tags if tag.startswith(_DATASET)]
    return told | ({"trained_on": data} if data else {})

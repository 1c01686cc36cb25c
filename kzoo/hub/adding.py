"""Add a network of the Hub to a registry of one's own: an entry for people, a lock for machines, and the index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kzoo.entries import require_free, require_writable, write_entries
from kzoo.errors import InputError
from kzoo.hub.entries import PATIENT, entry_file, hub_entry, ids_elsewhere, people_say
from kzoo.hub.locks import Lock, lock_file, lock_text, read_lock, write_lock
from kzoo.hub.models import look
from kzoo.hub.names import Wanted
from kzoo.locking import locked
from kzoo.processes import Progress
from kzoo.readers.libraries import BY_HEADER
from kzoo.zoo import Zoo

_INSTEAD = "'kzoo pull --update' moves its lock; give "


@dataclass(frozen=True)
class Added:
    """What was written: the entry, or the lock alone of a model that a library's registry has; the model's id; the lock."""

    file: Path
    id: str
    lock: Lock


def add_from_hub(
    asked: Wanted, directory: Path, details: Mapping[str, Any], zoo: Zoo, progress: Progress, force: bool = False
) -> Added:
    """Lock a network of the Hub and write its entry into the registry at ``directory``, which is then indexed.

    Its headers are read, not its weights. What the registry has locked already stays so, unless a revision is named, or
    ``force`` is given. ``details`` are fields of the entry that take the place of what the Hub says: ``license``,
    ``license_name``, ``license_link``, ``trained_on``, ``submodule``. Without any, a model of timm's or torchvision's
    registry is only locked.

    Raises:
        InputError: there is no such network, one may not see it, a field is wrong, or there is such an entry already
            (``force`` replaces it).
        WorldError: the Hub fails, or the registry cannot be written or is being changed by another process.
    """
    name, given = _name(asked), {key: value for key, value in details.items() if value}
    file = entry_file(directory, name)
    require_free(file, force, _INSTEAD)
    require_writable(directory)
    before = read_lock(directory, name)
    held = before if not force and asked.name.revision is None else None
    lock = look(asked, held.commit if held else None).lock(name, held.asked if held else asked.name.revision)
    known = zoo.models.get(name)
    if known is not None and known.library not in BY_HEADER and not given and not file.exists():
        return Added(write_lock(directory, lock), name, lock)
    if name in ids_elsewhere(directory):
        raise InputError(f"{name} stands already in another file of {directory}: remove it there, or leave it as it is")
    text = hub_entry(file, lock, people_say(file, before) | given)
    with locked(directory, PATIENT):
        require_free(file, force, _INSTEAD)
        write_entries(directory, {lock_file(directory, name): lock_text(lock), file: text}, progress)
    return Added(file, name, lock)


def _name(asked: Wanted) -> str:
    name = asked.key.partition("@")[0]
    if "/" not in name:
        raise InputError(f"{asked.text} has no owner: add it by its whole name, user/name, as its page says it")
    return name

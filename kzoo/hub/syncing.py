"""``kzoo registry sync hub``: many networks of the Hub into a registry of one's own, by their headers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kzoo.entries import require_writable, write_text
from kzoo.errors import CheckFailed, InputError, WorldError
from kzoo.hub.client import BULK_PATIENCE, PAGE, get_pages, hub, patience
from kzoo.hub.entries import PATIENT, entry_file, hub_entry, ids_elsewhere, people_say
from kzoo.hub.locks import Lock, lock_file, lock_text, read_lock
from kzoo.hub.models import look
from kzoo.hub.names import PREFIX, RepositoryName, Wanted, is_repository
from kzoo.hub.pull import require_online
from kzoo.hub.repositories import file_names
from kzoo.indexing import build_index, check_index
from kzoo.locking import locked
from kzoo.paths import index_file
from kzoo.plots.text import clean
from kzoo.processes import Progress
from kzoo.registry_files import family_files
from kzoo.zoo import Zoo

#: What could not be read, and why, in the registry's folder.
UNREADABLE = "unreadable.json"
#: So many failures of the Hub in a row end a sync.
_MOST_FAILURES = 3
_READABLE = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True)
class Query:
    """Which repositories are listed: with all these tags, of an author, at most so many, those downloaded most first."""

    filters: tuple[str, ...] = ()
    author: str | None = None
    limit: int = 100

    @property
    def path(self) -> str:
        """The listing's path below the endpoint."""
        given = [("filter", text) for text in self.filters] + ([("author", self.author)] if self.author else [])
        page = min(self.limit, PAGE)
        return f"/api/models?{urlencode([*given, ('sort', 'downloads'), ('limit', page), ('full', 'true')])}"


@dataclass(frozen=True)
class Listed:
    """A repository in a listing: its id, the commit of its main branch, the names of its files."""

    id: str
    commit: str
    files: tuple[str, ...]


@dataclass
class HubSync:
    """What a sync did, or would do: ids by what became of them, and the reasons of those that could not be read.

    ``known`` are in another registry, or in another file of this one; ``changed`` have another commit than the one that is
    locked; ``pinned`` are locked at a revision that somebody has named. ``stopped`` says why it ended early.
    """

    listed: int = 0
    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None


def sync_hub(
    query: Query, directory: Path, zoo: Zoo, progress: Progress, *, dry_run: bool = False, update: bool = False
) -> HubSync:
    """Add every repository that a query lists to the registry at ``directory``, as far as its headers can be read.

    What is there is skipped, so that a sync that was interrupted goes on where it was; with ``update``, locks that are
    behind their main branch are moved. The index is compiled at the end, also where the Hub fails before. What could not
    be read is written to ``unreadable.json``.

    Raises:
        InputError: the Hub does not know such a query, ``HF_HUB_OFFLINE`` is set, or a lock is damaged.
        WorldError: the Hub does not answer at all, or the disk fails.
    """
    require_online("the list of models", "is needed")
    if not dry_run:
        require_writable(directory)
    others = {model.id for model in zoo.models.values() if model.origin != str(directory)} | ids_elsewhere(directory)
    run = _Sync(directory, others, dry_run, update)
    try:
        with patience(BULK_PATIENCE):
            run.all(_listing(query), query.limit, progress)
    finally:
        if not dry_run and run.done.listed:
            _note_unreadable(directory, run.done)
            _index(directory, progress)
    return run.done


def _listing(query: Query) -> Iterator[Listed]:
    what = f"the list of models of {query.author or 'the Hub'}"
    for item in islice(get_pages(query.path, what), query.limit):
        if not isinstance(item, dict) or not isinstance(item.get("id"), str):
            raise WorldError(f"the Hub at {hub()} lists something else than models: is it a Hub? Try again")
        yield Listed(item["id"], str(item.get("sha")), tuple(file_names(item)))


class _Sync:
    """One sync: where it writes, what it leaves alone, and what it has done so far."""

    def __init__(self, directory: Path, others: set[str], dry_run: bool, update: bool) -> None:
        self.directory, self.others, self.dry_run, self.update = directory, others, dry_run, update
        self.done = HubSync()

    def all(self, listing: Iterator[Listed], limit: int, progress: Progress) -> None:
        """Every repository of a listing, until the Hub fails too often."""
        failures = 0
        for number, listed in enumerate(listing):
            progress(f"reading {clean(listed.id)}", number / limit)
            self.done.listed += 1
            texts: dict[Path, str] = {}
            try:
                texts = self._read(listed)
                failures = 0
            except InputError as error:
                self.done.unreadable[clean(listed.id)] = str(error)
            except WorldError as error:
                self.done.unreadable[clean(listed.id)] = self.done.stopped = str(error)
                failures += 1
                if failures == _MOST_FAILURES:
                    return
            if texts:
                with locked(self.directory, PATIENT):
                    for path, text in texts.items():
                        write_text(path, text)
        self.done.stopped = None
        progress("reading", 1.0)

    def _read(self, listed: Listed) -> dict[Path, str]:
        """The files to write for a repository, if any; an entry comes last, for it cannot be indexed without its lock."""
        name, done = listed.id, self.done
        if not is_repository(name) or "/" not in name:
            raise InputError(f"{name!r:.120} is no name of a repository")
        if name in self.others:
            done.known.append(name)
            return {}
        file = entry_file(self.directory, name)
        before = read_lock(self.directory, name)
        if before is not None and file.exists() and (before.asked or before.commit == listed.commit or not self.update):
            kind = done.pinned if before.asked else done.unchanged if before.commit == listed.commit else done.changed
            kind.append(name)
            return {}
        if not any(each.endswith(_READABLE) for each in listed.files):
            raise InputError(f"{PREFIX}{name} holds no safetensors file")
        texts = {} if self.dry_run else self._texts(name, file, before)
        (done.updated if file.exists() else done.added).append(name)
        return texts

    def _texts(self, name: str, file: Path, before: Lock | None) -> dict[Path, str]:
        """Lock and entry; what is locked without an entry is not moved."""
        asked = Wanted(f"{PREFIX}{name}", RepositoryName(name), None, name)
        held = before if not file.exists() else None
        lock = look(asked, held.commit if held else None).lock(name, held.asked if held else None)
        text = hub_entry(file, lock, people_say(file, before))
        return {lock_file(self.directory, name): lock_text(lock), file: text}


def _note_unreadable(directory: Path, done: HubSync) -> None:
    path = directory / UNREADABLE
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    seen = {*done.added, *done.updated, *done.unchanged, *done.pinned, *done.changed, *done.known}
    kept = {name: said for name, said in before.items() if name not in seen} if isinstance(before, dict) else {}
    noted = dict(sorted((kept | done.unreadable).items()))
    if noted or path.exists():
        write_text(path, json.dumps(noted, indent=2, ensure_ascii=False) + "\n")


def _index(directory: Path, progress: Progress) -> None:
    """Compile the index, if there is something in the registry and the index is not of that."""
    with locked(directory, PATIENT):
        if not family_files(directory):
            return
        try:
            check_index(directory, index_file(directory))
        except (CheckFailed, InputError):
            build_index(directory, index_file(directory), progress)


def sync_data(done: HubSync) -> Mapping[str, Any]:
    """What a sync did, for programs."""
    unreadable = [{"model": name, "reason": reason} for name, reason in done.unreadable.items()]
    names: dict[str, Sequence[str]] = {
        what: getattr(done, what) for what in ("added", "updated", "unchanged", "pinned", "changed", "known")
    }
    return {"listed": done.listed, **names, "unreadable": unreadable, "stopped": done.stopped}

"""``kzoo registry sync hub``: many networks of the Hub into a registry of one's own, by their headers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kzoo.entries import told_before, write_text
from kzoo.errors import CheckFailed, InputError, WorldError
from kzoo.hub.adding import told_by_hub
from kzoo.hub.client import endpoint, get_pages, patience
from kzoo.hub.entries import entry_file, hub_entry
from kzoo.hub.locks import lock_file, lock_text, read_lock
from kzoo.hub.models import look
from kzoo.hub.names import PREFIX, RepositoryName, Wanted, is_repository
from kzoo.indexing import build_index, check_index
from kzoo.locking import locked
from kzoo.paths import index_file
from kzoo.processes import Progress
from kzoo.zoo import Zoo

#: What could not be read, and why, in the registry's folder.
UNREADABLE = "unreadable.json"
#: So many failures of the Hub in a row end a sync.
_MOST_FAILURES = 3
#: The Hub counts requests in windows of five minutes.
_PATIENCE = 330.0
_PAGE = 1000
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
        page = min(self.limit, _PAGE)
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

    ``known`` are in another registry already; ``changed`` have another commit than the one that is locked.
    """

    listed: int = 0
    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def sync_hub(
    query: Query, directory: Path, zoo: Zoo, progress: Progress, *, dry_run: bool = False, update: bool = False
) -> HubSync:
    """Add every repository that a query lists to the registry at ``directory``, as far as its headers can be read.

    What is there is skipped, so that a sync that was interrupted goes on where it was; with ``update``, locks that are
    behind their main branch are moved. The index is compiled at the end. What could not be read is written to
    ``unreadable.json``.

    Raises:
        InputError: the Hub does not know such a query, or a lock is damaged.
        WorldError: the Hub or the disk fails; what was added until then stays.
    """
    done = HubSync()
    others = {model.id for model in zoo.models.values() if model.origin != str(directory)}
    failures = 0
    with patience(_PATIENCE):
        for number, listed in enumerate(_listing(query)):
            progress(f"reading {listed.id}", number / query.limit)
            done.listed += 1
            try:
                _sync_one(listed, directory, others, done, dry_run, update)
                failures = 0
            except InputError as error:
                done.unreadable[listed.id] = str(error)
            except WorldError as error:
                done.unreadable[listed.id] = str(error)
                failures += 1
                if failures == _MOST_FAILURES:
                    raise WorldError(
                        f"{error}; {len(done.added) + len(done.updated)} networks were written until then: run this again to go on"
                    ) from None
    progress("reading", 1.0)
    if not dry_run:
        _note_unreadable(directory, done)
        _index(directory, progress)
    return done


def _listing(query: Query) -> Iterator[Listed]:
    what = f"the list of models of {query.author or 'the Hub'}"
    for item in islice(get_pages(query.path, what), query.limit):
        listed = _listed(item)
        if listed is None:
            raise WorldError(f"the Hub at {endpoint()} lists something else than models: is it a Hub? Try again")
        yield listed


def _listed(item: Any) -> Listed | None:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    siblings = item.get("siblings")
    names = [each.get("rfilename") for each in siblings if isinstance(each, dict)] if isinstance(siblings, list) else []
    return Listed(item["id"], str(item.get("sha")), tuple(name for name in names if isinstance(name, str)))


def _sync_one(listed: Listed, directory: Path, others: set[str], done: HubSync, dry_run: bool, update: bool) -> None:
    name = listed.id
    if not is_repository(name):
        raise InputError(f"{name!r:.120} is no name of a repository")
    if name in others:
        done.known.append(name)
        return
    file = entry_file(directory, name)
    lock = read_lock(directory, name) if file.exists() else None
    if lock is not None and lock.commit == listed.commit:
        done.unchanged.append(name)
        return
    if lock is not None and not update:
        done.changed.append(name)
        return
    if not any(each.endswith(_READABLE) for each in listed.files):
        raise InputError(f"{PREFIX}{name} holds no safetensors file")
    if not dry_run:
        _write(Wanted(f"{PREFIX}{name}", RepositoryName(name), None, name), directory)
    (done.added if lock is None else done.updated).append(name)


def _write(asked: Wanted, directory: Path) -> None:
    """Write entry and lock of a network; people's fields of an entry that is there stay."""
    remote = look(asked)
    lock = remote.lock(asked.key, None)
    file = entry_file(directory, asked.key)
    before = told_before(file, with_license=True) if file.exists() else told_by_hub(remote.repository)
    text = hub_entry(file, lock, before)
    with locked(directory):
        # An entry without a lock could not be indexed; a lock without an entry harms nobody.
        write_text(lock_file(directory, asked.key), lock_text(lock))
        write_text(file, text)


def _note_unreadable(directory: Path, done: HubSync) -> None:
    path = directory / UNREADABLE
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    seen = {*done.added, *done.updated, *done.unchanged, *done.changed, *done.known}
    kept = {name: said for name, said in before.items() if name not in seen} if isinstance(before, dict) else {}
    noted = dict(sorted((kept | done.unreadable).items()))
    if noted or path.exists():
        write_text(path, json.dumps(noted, indent=2, ensure_ascii=False) + "\n")


def _index(directory: Path, progress: Progress) -> None:
    """Compile the index, if it is not that of the registry."""
    with locked(directory):
        try:
            check_index(directory, index_file(directory))
        except (CheckFailed, InputError):
            build_index(directory, index_file(directory), progress)


def sync_data(done: HubSync) -> Mapping[str, Any]:
    """What a sync did, for programs."""
    unreadable = [{"model": name, "reason": reason} for name, reason in done.unreadable.items()]
    names: dict[str, Sequence[str]] = {
        what: getattr(done, what) for what in ("added", "updated", "unchanged", "changed", "known")
    }
    return {"listed": done.listed, **names, "unreadable": unreadable}

"""``kzoo registry check --remote``: entries and locks of a registry held against the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kzoo.catalog import Family
from kzoo.errors import InputError, WorldError
from kzoo.hub.client import BULK_PATIENCE, PAGE, exists, get_json, get_pages, patience
from kzoo.hub.locks import Lock, read_lock, registry_locks
from kzoo.hub.names import RepositoryName, is_repository
from kzoo.hub.pull import require_online
from kzoo.hub.repositories import file_names, read_repository
from kzoo.processes import Progress

#: From so many entries of one owner on, one listing takes the place of a request for each.
_MANY = 20
#: So many places one after another that do not answer end a check.
_MOST_FAILURES = 3


@dataclass(frozen=True)
class Place:
    """Where a registry says that weights are: a repository with a file where it is named, or an address; and the lock."""

    model: str
    repository: str | None
    filename: str | None = None
    url: str | None = None
    lock: Lock | None = None


@dataclass(frozen=True)
class Finding:
    """Something that is not, or no longer, as the registry says: ``problem`` is dead, moved, gated or changed."""

    model: str
    problem: str
    said: str


def places(families: Sequence[Family], directory: Path) -> list[Place]:
    """Every place that a registry names, in its order, then what is locked without an entry.

    Raises:
        InputError: a lock is damaged.
    """
    found = {}
    for family in families:
        for model in (model for entry in family.architectures for model in entry.checkpoints if model.path is None):
            repository = None if model.url else model.hub or model.id
            lock = read_lock(directory, model.id)
            found[model.id] = Place(model.id, repository, model.filename, model.url, lock)
    for lock in registry_locks(directory):
        found.setdefault(lock.name, Place(lock.name, "/".join(lock.name.partition("@")[0].split("/")[:2]), lock=lock))
    return list(found.values())


def check_places(wanted: Sequence[Place], progress: Progress) -> Iterator[Finding]:
    """What is dead, moved, gated or changed; ``unknown`` is a place of which nothing could be learned.

    Raises:
        InputError: ``HF_HUB_OFFLINE`` is set.
        WorldError: the Hub, or several places one after another, do not answer.
    """
    require_online("what is on the Hub", "is asked for")
    failures = 0
    with patience(BULK_PATIENCE):
        listed = _listings(wanted, progress)
        for number, place in enumerate(wanted):
            progress(f"asking for {place.model}", number / len(wanted))
            try:
                yield from _check(place, listed)
                failures = 0
            except WorldError as error:
                yield Finding(place.model, "unknown", str(error))
                failures += 1
                if failures == _MOST_FAILURES:
                    raise
        progress("asking", 1.0)


def _check(place: Place, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    if place.lock is not None:
        yield from _locked(place, place.lock)
    elif place.repository is not None:
        yield from _unlocked(place, listed.get(place.repository))
    elif place.url is not None and not exists(place.url):
        yield Finding(place.model, "dead", f"nothing is at {place.url}")


def _listings(wanted: Sequence[Place], progress: Progress) -> dict[str, Mapping[str, Any]]:
    """What the Hub lists of owners of many repositories, by id."""
    counts: dict[str, int] = {}
    for place in wanted:
        if place.repository is not None and place.lock is None:
            owner = place.repository.partition("/")[0]
            counts[owner] = counts.get(owner, 0) + 1
    found: dict[str, Mapping[str, Any]] = {}
    for owner in (owner for owner, count in counts.items() if count >= _MANY):
        progress(f"listing {owner}", 0.0)
        query = urlencode({"author": owner, "limit": PAGE, "full": "true"})
        for item in get_pages(f"/api/models?{query}", f"the list of models of {owner}"):
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                found[item["id"]] = item
    return found


def _unlocked(place: Place, listed: Mapping[str, Any] | None) -> Iterator[Finding]:
    repository = str(place.repository)
    if not is_repository(repository):
        yield Finding(place.model, "dead", f"{repository!r:.120} is no name of a repository")
        return
    try:
        data = listed if listed is not None else get_json(f"/api/models/{repository}", repository)[0]
    except InputError as error:
        yield Finding(place.model, "dead", str(error))
        return
    told = data if isinstance(data, dict) else {}
    yield from _moved(place, str(told.get("id", repository)))
    if told.get("gated"):
        yield _gated(place)
    names = file_names(told)
    if place.filename is not None and names and place.filename not in names:
        yield Finding(place.model, "dead", f"{repository} has no file {place.filename} any more")


def _locked(place: Place, lock: Lock) -> Iterator[Finding]:
    try:
        now = read_repository(RepositoryName(str(place.repository), lock.asked))
    except InputError as error:
        yield Finding(place.model, "dead", str(error))
        return
    yield from _moved(place, now.id)
    if now.gated:
        yield _gated(place)
    if now.commit == lock.commit:
        return
    lost = [file.name for file in lock.files if file.name not in now.files]
    others = [name for name in _large(lock) if name in now.files and now.files[name].sha256 != _large(lock)[name]]
    what = (
        f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} another" if others else "its weights are the same"
    )
    if now.license != lock.license:
        what += f", license {lock.license or 'unknown'} -> {now.license or 'unknown'}"
    moved = f"{lock.commit[:12]} -> {now.commit[:12]}: "
    if _is_gone(now.id, lock.commit):
        yield Finding(
            place.model, "dead", f"its locked commit is gone, {moved}{what}; 'kzoo pull {place.model} --update'"
        )
    elif lost:
        yield Finding(
            place.model, "dead", f"{moved}it has no {', '.join(lost)} any more; what is locked can still be pulled"
        )
    else:
        yield Finding(place.model, "changed", f"{moved}{what}; 'kzoo pull {place.model} --update' moves the lock")


def _large(lock: Lock) -> dict[str, str]:
    """The digests of a lock's weights; of small files the Hub says another kind of digest."""
    return {file.name: file.sha256 for file in lock.files if file.name.endswith(".safetensors")}


def _is_gone(repository: str, commit: str) -> bool:
    try:
        get_json(f"/api/models/{repository}/revision/{commit}", f"{repository}@{commit}")
    except InputError:
        return True
    return False


def _moved(place: Place, now: str) -> Iterator[Finding]:
    if now != place.repository:
        yield Finding(place.model, "moved", f"{place.repository} is now {now}: name it in the entry's 'hub'")


def _gated(place: Place) -> Finding:
    return Finding(
        place.model, "gated", f"{place.repository} is gated: its terms must be accepted before it can be pulled"
    )

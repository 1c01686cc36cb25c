"""From what a person writes to a network on this machine: ``hf:user/name``, or a model of a registry that lies on the Hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kzoo.entries import require_writable
from kzoo.errors import InputError, KzooWarning
from kzoo.hub.entries import write_moved
from kzoo.hub.locks import COMMIT, Lock, find_lock, lock_of_commit, network_of
from kzoo.hub.names import PREFIX, RepositoryName, Wanted, is_repository, parse_wanted
from kzoo.paths import own_registry
from kzoo.processes import Progress
from kzoo.readers.files import WeightsFile, read_weights_file
from kzoo.zoo import Model, Zoo

if TYPE_CHECKING:
    from kzoo.hub.headers import RemoteNetwork


def warn(text: str) -> None:
    """Say something to whoever called."""
    warnings.warn(text, KzooWarning, stacklevel=3)


def wanted(text: str, zoo: Callable[[], Zoo]) -> Wanted | None:
    """What on the Hub a string names: None where it names nothing there.

    An architecture (``timm:resnet18``) means its library's default checkpoint.

    Raises:
        InputError: it begins with ``hf:`` and has no such form.
    """
    model = _model(text, zoo())
    if model is None or not on_hub(model):
        return parse_wanted(text) if text.startswith(PREFIX) else None
    name = RepositoryName(str(model.fields.get("hub") or model.id))
    if not is_repository(name.id):
        raise InputError(f"the entry of {model.id} names no repository ({name.id!r:.80}): correct its 'hub'")
    return Wanted(text, name, model.fields.get("filename"), model.id)


def _model(text: str, zoo: Zoo) -> Model | None:
    found = zoo.model(text)
    if found is not None:
        return found
    named = zoo.named(text)
    if named is None:
        return None
    models = [model for model in zoo.models.values() if model.entry is named[0] and named[1] in ("", model.tag)]
    return min(models, key=lambda model: model.order, default=None)


def on_hub(model: Model) -> bool:
    """Whether the weights of a registry's model are on the Hub: neither a file here nor at an address elsewhere."""
    return "path" not in model.fields and "url" not in model.fields


def lock_folders(zoo: Zoo) -> list[Path]:
    """The registries whose locks count, later ones on top; the last is where new locks go."""
    return list(zoo.registries) if len(zoo.registries) > 1 else [*zoo.registries, own_registry()]


def find(asked: Wanted, registries: Sequence[Path]) -> tuple[Path, Lock] | None:
    """The lock that holds for what is asked, with its registry.

    A revision or a file may be named of a network that is locked without naming it.

    Raises:
        InputError: it is damaged.
    """
    name = asked.name
    with_file = [f"{name.id}/{asked.filename}"] if asked.filename is not None else []
    for key in dict.fromkeys([asked.key, *with_file, name.id]):
        found = find_lock(registries, key)
        if found is not None and (key == asked.key or _means(found[1], asked)):
            return found
    # A repository that was renamed is locked under the name that it had.
    pinned = name.revision is not None and re.fullmatch(COMMIT, name.revision)
    lock = lock_of_commit(registries, name.id, str(name.revision)) if pinned else None
    return (registries[-1], lock) if lock is not None and _means(lock, asked) else None


def _means(lock: Lock, asked: Wanted) -> bool:
    revision = asked.name.revision
    return revision in (None, lock.commit, lock.asked) and asked.filename in (None, lock.files[0].name)


def remote_weights(text: str, zoo: Zoo) -> WeightsFile:
    """The network that an ``hf:`` string names, by its headers: as it is locked, else as the Hub has it now.

    Raises:
        InputError: there is no such network, or one may not see it.
        WorldError: the Hub fails.
    """
    asked = parse_wanted(text)
    found = find(asked, lock_folders(zoo))
    return found[1].weights if found is not None else look(asked).weights


def look(asked: Wanted, revision: str | None = None) -> RemoteNetwork:
    """What the Hub has now, at a revision or at the one that is asked for; nothing is written.

    Raises:
        InputError: there is no such network, or one may not see it.
        WorldError: the Hub fails.
    """
    # What is locked is read without the client, which need not be there.
    from kzoo.hub.headers import read_network
    from kzoo.hub.pull import require_online
    from kzoo.hub.repositories import read_repository

    require_online(asked.text, "is not locked")
    repository = read_repository(RepositoryName(asked.name.id, revision or asked.name.revision))
    return read_network(repository, asked.filename)


@dataclass(frozen=True)
class Fetched:
    """A network on this machine: its lock, the lock that it took the place of, the file, and how many bytes came."""

    lock: Lock
    before: Lock | None
    path: Path
    fetched: int


class Fetcher:
    """Pulls networks, and remembers what was locked.

    ``registries`` are those whose locks count, later ones on top; new locks are written into ``own``. ``say`` is told
    what is about to be fetched.
    """

    def __init__(
        self, registries: Sequence[Path], own: Path, progress: Progress, say: Callable[[str], None] = warn
    ) -> None:
        self.registries, self.own, self.progress, self.say = registries, own, progress, say

    def fetch(self, asked: Wanted, update: bool = False) -> Fetched:
        """A network on this machine: as it is locked, or, where it is not (or with ``update``), as the Hub has it now.

        A locked network that is whole in the client's cache costs no request. With ``update`` the revision that led to
        the lock is resolved again.

        Raises:
            InputError: there is no such network, or one may not see it.
            WorldError: the Hub or the disk fails, or what came is not what the Hub, or the lock, said.
        """
        from kzoo.hub.pull import missing_files, pull, require_online

        registry, before = find(asked, self.registries) or (self.own, None)
        if before is None or update:
            # Whatever is fetched must be locked.
            require_writable(registry)
        lock = self._resolved(asked, before) if before is None or update else before
        missing = missing_files(lock)
        if missing:
            require_online(asked.text, "is locked, but not whole in the client's cache")
            size = sum(file.size for file in missing)
            self.say(
                f"fetching {size / 1e6:,.1f} MB of {PREFIX}{lock.repository} at {lock.commit[:12]} "
                f"(license: {lock.license or 'unknown'})"
            )
        pulled = pull(lock, missing, self.progress)
        # Headers that came alone were not held against any digest; the file was.
        lock = lock.model_copy(update={"network": network_of(read_weights_file(pulled.path))})
        if lock != before:
            write_moved(registry, before, lock, self.progress)
        return Fetched(lock, before, pulled.path, pulled.fetched)

    def _resolved(self, asked: Wanted, before: Lock | None) -> Lock:
        """The lock of what the Hub has now, under the name and of the revision that it had before."""
        revision = asked.name.revision or (before.asked if before else None)
        return look(asked, revision).lock(before.name if before else asked.key, revision)


def default_fetcher(zoo: Zoo) -> Fetcher:
    """What fetches for the registries of a zoo, and warns of what it fetches."""
    folders = lock_folders(zoo)
    return Fetcher(folders, folders[-1], lambda _what, _done: None)

"""From what a person writes to a network on this machine: ``hf:user/name``, or a model of a registry that lies on the Hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kzoo.errors import InputError, KzooWarning
from kzoo.hub.headers import RemoteNetwork, read_network
from kzoo.hub.locks import Lock, find_lock, write_lock
from kzoo.hub.pull import Pulled, cached, look, pull, require_online
from kzoo.hub.repositories import Repository, RepositoryName, parse_name, read_repository
from kzoo.paths import own_registry
from kzoo.zoo import Model, Zoo

Progress = Callable[[str, float], None]
PREFIX = "hf:"


def warn(text: str) -> None:
    """Say something to whoever called."""
    warnings.warn(text, KzooWarning, stacklevel=3)


@dataclass(frozen=True)
class Wanted:
    """A network on the Hub as somebody has named it: the repository, and the file where it is not the usual one."""

    text: str
    name: RepositoryName
    filename: str | None = None


def hub_name(text: str) -> Wanted:
    """What ``hf:user/name``, ``hf:user/name@revision`` or ``hf:user/name/path/of/file@revision`` names.

    Raises:
        InputError: it has no such form.
    """
    path, at, revision = text.removeprefix(PREFIX).partition("@")
    parts = path.split("/")
    name = parse_name("/".join(parts[:2]) + at + revision)
    return Wanted(text, name, "/".join(parts[2:]) or None)


def wanted(text: str, zoo: Callable[[], Zoo]) -> Wanted | None:
    """What on the Hub a string names: None where it names nothing there.

    An architecture (``timm:resnet18``) means its library's default checkpoint.
    """
    if text.startswith(PREFIX):
        return hub_name(text)
    model = _model(text, zoo())
    if model is None or not on_hub(model):
        return None
    filename = model.fields.get("filename")
    return Wanted(text, RepositoryName(str(model.fields.get("hub") or model.id)), filename)


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


def remote_network(text: str) -> RemoteNetwork:
    """The network that an ``hf:`` string names, by its headers alone.

    Raises:
        InputError: there is no such network, or one may not see it.
        WorldError: the Hub fails.
    """
    asked = hub_name(text)
    require_online(None, text)
    return look(asked.name, asked.filename)


class Fetcher:
    """Pulls networks, and remembers what was locked.

    ``registries`` are those whose locks count, later ones first; ``own`` is the one that new locks are written into.
    ``say`` is told what is about to be fetched.
    """

    def __init__(
        self, registries: Sequence[Path], own: Callable[[], Path], progress: Progress, say: Callable[[str], None]
    ) -> None:
        self.registries, self.own, self.progress, self.say = registries, own, progress, say

    def fetch(self, asked: Wanted, update: bool = False) -> Pulled:
        """A network on this machine: as it is locked, or, where it is not (or with ``update``), as the Hub has it now.

        A locked network that is whole in the client's cache costs no request.

        Raises:
            InputError: there is no such network, one may not see it, or it is another than the one that is locked.
            WorldError: the Hub or the disk fails, or what came is not what the Hub, or the lock, said.
        """
        lock = None if update else self.lock(asked)
        held = None if lock is None else cached(lock)
        if lock is not None and held is not None:
            return Pulled(lock, held, 0)
        require_online(lock, asked.text)
        commit = asked.name.revision if lock is None else lock.commit
        repository = read_repository(RepositoryName(asked.name.id, commit))
        remote = read_network(repository, asked.filename if lock is None else lock.files[0].name)
        self.say(self._announced(remote))
        pulled = pull(remote, asked.name.revision, self.progress)
        if lock is not None and pulled.lock.files != lock.files:
            raise InputError(
                f"{asked.text} is not what is locked, although its commit is: delete its lock if you trust the Hub, and pull again"
            )
        write_lock(self.own(), pulled.lock)
        return pulled

    def lock(self, asked: Wanted) -> Lock | None:
        """The lock that holds for what is asked: of that repository, and of that revision and file where they are named."""
        found = find_lock(self.registries, asked.name.id)
        if found is None:
            return None
        revision = asked.name.revision
        if revision is not None and revision not in (found.commit, found.asked):
            return None
        return found if asked.filename in (None, found.files[0].name) else None

    def _announced(self, remote: RemoteNetwork) -> str:
        repository: Repository = remote.repository
        license = repository.license or "unknown"
        return f"fetching {remote.size / 1e6:,.1f} MB of {PREFIX}{repository.id} at {repository.commit[:12]} (license: {license})"


def default_fetcher(
    zoo: Zoo, progress: Progress = lambda _what, _done: None, say: Callable[[str], None] = warn
) -> Fetcher:
    """What fetches for the registries of a zoo: new locks go into the topmost of one's own, or `own_registry`."""
    layers = [layer.path.parent for layer in zoo.layers]
    own = layers[-1] if len(layers) > 1 else own_registry()
    return Fetcher(list(dict.fromkeys([*layers, own])), lambda: own, progress, say)

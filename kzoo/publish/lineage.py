"""Where a model comes from: the tree of its parents across repositories, as far as their recipes and cards tell."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from kzoo.errors import InputError, KzooError
from kzoo.hashing import weights_sha256
from kzoo.hub.headers import Content
from kzoo.hub.names import PREFIX, is_repository, parse_wanted
from kzoo.hub.repositories import Repository, is_commit, read_repository
from kzoo.layout import CARD, RECIPE, WEIGHTS
from kzoo.methods.amalgamation.parameters import AMALGAMATION
from kzoo.plain_yaml import read_plain
from kzoo.plots.tree import Node
from kzoo.recipe import Recipe, SourceSection, is_no_path, read_recipe
from kzoo.zoo import Zoo

_MOST_RECIPE, _MOST_CARD = 1_000_000, 2_000_000
_Item = TypeVar("_Item")
_DEEPEST, _MOST_NODES = 20, 300
_SHORT = 12


@dataclass(frozen=True)
class Origin:
    """A model in a lineage, with what it was made from.

    ``pin`` is the commit it is meant at, None where it is not pinned or not on the Hub; ``sha256`` is that of the weights
    as its child's recipe, or the Hub, says; ``problem`` is what is wrong with it: a broken pin, other weights, a name
    that leads in a circle. ``role`` says what it is where it is no source of
    its child: what all of those, or the child itself, began with.
    """

    name: str
    pin: str | None = None
    sha256: str | None = None
    method: str | None = None
    license: str | None = None
    problem: str | None = None
    parents: tuple[Origin, ...] = ()
    role: str | None = None

    @property
    def node(self) -> Node:
        """The tree as `kzoo.plots.tree` draws it."""
        pin = f" @ {self.pin[:_SHORT]}" if self.pin else ""
        weights = f"sha256 {self.sha256[:_SHORT]}" if self.sha256 else ""
        note = ", ".join(text for text in (self.role, self.method, self.license, weights) if text)
        return Node(f"{self.name}{pin}", note, self.problem, tuple(parent.node for parent in self.parents))

    def walk(self) -> Iterator[Origin]:
        """It and all that it comes from, in the order of the tree."""
        yield self
        for parent in self.parents:
            yield from parent.walk()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "model": self.name,
            "commit": self.pin,
            "sha256": self.sha256,
            "method": self.method,
            "license": self.license,
            "problem": self.problem,
            "start": self.role is not None,
            "parents": [parent.to_dict() for parent in self.parents],
        }


def lineage(model: str, zoo: Callable[[], Zoo]) -> Origin:
    """The tree of a model: a folder that kzoo made, or a repository on the Hub, with or without ``hf:``.

    Of a parent that kzoo published the recipe tells more; of others the card's ``base_model``, which names no commit.

    Raises:
        InputError: there is no such model.
        WorldError: the Hub fails.
    """
    folder = Path(model)
    tracer = _Tracer(zoo)
    if folder.is_dir():
        if not (folder / RECIPE).is_file():
            raise InputError(
                f"{folder} holds no {RECIPE}: give a folder that kzoo transfer or kzoo run wrote, or user/name"
            )
        recipe = read_recipe(folder / RECIPE)
        weights = folder / WEIGHTS
        sha256 = weights_sha256([weights]) if weights.is_file() else None
        return Origin(folder.name or str(folder), None, sha256, recipe.method, None, None, tracer.sources(recipe, ()))
    name = model if model.startswith(PREFIX) else f"{PREFIX}{model}"
    repository = read_repository(parse_wanted(name).name)
    return tracer.of_repository(repository, repository.commit, None, ())


class _Tracer:
    """Follows parents; each repository is read once."""

    def __init__(self, zoo: Callable[[], Zoo]) -> None:
        self.zoo = zoo
        self.nodes = 0
        self.read: dict[str, Repository | KzooError] = {}

    def sources(self, recipe: Recipe, above: tuple[str, ...]) -> tuple[Origin, ...]:
        """The sources of a recipe, and what they began with where it names that."""
        start = [] if recipe.start is None else [recipe.start]
        role = "start of the student" if recipe.method in AMALGAMATION else "start of the others"

        def origin(source: SourceSection) -> Origin:
            found = self.source(source.path, source.sha256, above)
            return replace(found, role=role if source is recipe.start else None)

        return self._bounded([*recipe.sources, *start], origin)

    def _bounded(self, items: Sequence[_Item], make: Callable[[_Item], Origin]) -> tuple[Origin, ...]:
        """A node for each item, as long as the tree is not too large."""
        found: list[Origin] = []
        for place, item in enumerate(items):
            if self.nodes >= _MOST_NODES:
                rest = len(items) - place
                return (*found, Origin(f"and {rest:,} more", problem="the tree is too large to follow them"))
            self.nodes += 1
            found.append(make(item))
        return tuple(found)

    def source(self, path: str, sha256: str, above: tuple[str, ...]) -> Origin:
        """One source as a recipe names it."""
        if path.startswith(PREFIX):
            return self._on_hub(path, sha256, above)
        if path.startswith("local:"):
            model = self.zoo().model(path.replace("local:", "local/", 1))
            license = model.license_label if model is not None else None
            other = model is not None and model.fields.get("sha256") not in (None, sha256)
            problem = None if model is None or not other else "its weights here are others than the recipe's"
            return Origin(path, None, sha256, None, license, problem if model else "it is in no registry here")
        name = path if is_no_path(path) else Path(path).name
        return Origin(name, None, sha256, None, None, "it is not published, so nobody else can get it")

    def _on_hub(self, path: str, sha256: str | None, above: tuple[str, ...]) -> Origin:
        asked = parse_wanted(path)
        name = asked.name
        pinned = is_commit(name.revision)
        pin = name.revision if pinned else None
        shown = name.id if asked.filename is None else f"{name.id}/{asked.filename}"
        found = self._repository(str(name))
        if isinstance(found, KzooError):
            broken = pinned and isinstance(found, InputError)
            return Origin(shown, pin, sha256, problem=f"broken pin: {found}" if broken else str(found))
        return self.of_repository(found, pin, sha256, above, asked.filename)

    def _repository(self, text: str) -> Repository | KzooError:
        if text not in self.read:
            try:
                self.read[text] = read_repository(parse_wanted(text).name)
            except KzooError as error:
                # One that does not answer hides none of the others.
                self.read[text] = error
        return self.read[text]

    def of_repository(
        self,
        repository: Repository,
        pin: str | None,
        sha256: str | None,
        above: tuple[str, ...],
        filename: str | None = None,
    ) -> Origin:
        """A repository, and what its recipe or its card says of its parents."""
        key = f"{repository.id}@{repository.commit}"
        shown = repository.id if filename is None else f"{repository.id}/{filename}"
        file = repository.files.get(filename or WEIGHTS)
        there = file.sha256 if file is not None else None
        problem = None
        if pin is None:
            problem = "no commit is named, so it may be another network by now"
        elif sha256 is not None and there is not None and sha256 != there:
            problem = f"broken pin: its weights have the sha256 {there[:_SHORT]}..., not {sha256[:_SHORT]}..."
        if key in above:
            return Origin(shown, pin, sha256, problem="it comes from itself")
        if len(above) >= _DEEPEST:
            return Origin(shown, pin, sha256, problem="its own parents are not followed: the tree is too large")
        method, parents, odd = self._made(repository, (*above, key))
        return Origin(shown, pin, sha256 or there, method, repository.license, problem or odd, parents)

    def _made(
        self, repository: Repository, above: tuple[str, ...]
    ) -> tuple[str | None, tuple[Origin, ...], str | None]:
        """By which method from what, as the recipe says, else the card."""
        try:
            if RECIPE in repository.files:
                recipe = published_recipe(repository)
                return recipe.method, self.sources(recipe, above), None
            return None, self._bounded(_base_models(repository), lambda name: self._named(name, above)), None
        except KzooError as error:
            return None, (), f"what it is made from cannot be read: {error}"

    def _named(self, name: str, above: tuple[str, ...]) -> Origin:
        if not is_repository(name):
            return Origin(repr(name)[:120], problem="it is no name of a repository")
        return self._on_hub(f"{PREFIX}{name}", None, above)


def published_recipe(repository: Repository) -> Recipe:
    """The recipe on a model's page, which is data from a stranger.

    Raises:
        InputError: it is none.
        WorldError: the Hub fails.
    """
    content = Content(repository).whole(RECIPE, _MOST_RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RECIPE
        path.write_bytes(content)
        try:
            return read_recipe(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), f"{PREFIX}{repository.id}/{RECIPE}")) from None


def _base_models(repository: Repository) -> list[str]:
    """What a card names as ``base_model``."""
    if CARD not in repository.files or repository.files[CARD].size > _MOST_CARD:
        return []
    text = Content(repository).whole(CARD, _MOST_CARD).decode("utf-8", errors="replace")
    head = text.removeprefix("---\n").partition("\n---")[0] if text.startswith("---\n") else ""
    data = read_plain(head).data
    named = data.get("base_model") if isinstance(data, dict) else None
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return [name for name in names if isinstance(name, str)]

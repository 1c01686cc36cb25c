"""Make a published model again from its page alone, and compare it with what was published."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kzoo.environment import environment_class, read_environment
from kzoo.errors import InputError
from kzoo.hashing import weights_sha256
from kzoo.hub.headers import Content
from kzoo.hub.models import Fetcher, lock_folders
from kzoo.hub.names import PREFIX, RepositoryName, Wanted
from kzoo.hub.repositories import Repository, read_repository
from kzoo.layout import ENVIRONMENT, PLAN, RECIPE, WEIGHTS
from kzoo.loading import load_values
from kzoo.model_folder import load
from kzoo.publish.measured import fetch_side_inputs
from kzoo.publish.trust import needs_start, require_harmless
from kzoo.recipe import IMAGES, Recipe, library_versions, read_recipe
from kzoo.running import run_recipe
from kzoo.surroundings import Surroundings
from kzoo.zoo import Zoo

#: What is fetched of a page beside the weights, and how large each may be.
_MOST = {RECIPE: 1_000_000, PLAN: 20_000_000, ENVIRONMENT: 100_000}
#: On another class of machine: the largest difference of a weight, as a share of the tensor's largest entry.
WEIGHT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that is another: the largest difference of an entry, and that as a share of the largest entry.

    Both are None where type or shape differ, or one of the two is missing.
    """

    name: str
    largest: float | None
    share: float | None


@dataclass(frozen=True)
class Rebuilt:
    """What became of a rebuild.

    ``verdict`` is ``identical`` (the same bytes), ``equivalent`` (made on another class of machine, and as near as that
    allows) or ``different``; ``odd`` names what is different about this machine, published value first.
    """

    repository: str
    commit: str
    folder: Path | None
    published: str
    rebuilt: str
    verdict: str
    odd: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    tensors: tuple[TensorDifference, ...] = ()
    accuracy: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        accuracy = dict(zip(("published", "rebuilt"), self.accuracy, strict=True)) if self.accuracy else None
        tensors = [
            {"name": one.name, "largest": _finite(one.largest), "share": _finite(one.share)} for one in self.tensors
        ]
        return {
            "repository": self.repository,
            "commit": self.commit,
            "folder": None if self.folder is None else str(self.folder),
            "sha256": {"published": self.published, "rebuilt": self.rebuilt},
            "verdict": self.verdict,
            "environment": {key: {"published": a, "here": b} for key, (a, b) in self.odd.items()},
            "tensors": tensors,
            "accuracy": accuracy,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Nearness:
    """How near other bytes must be, and only where the machine is of another class.

    Where it trained, by the accuracies of both on the recipe's test images, which are measured here.
    """

    elsewhere: bool
    trained: bool
    tolerance: float

    def is_met(self, tensors: Sequence[TensorDifference], accuracy: tuple[float, float] | None) -> bool:
        """Whether these differences are what another class of machine makes."""
        if not self.elsewhere or any(one.largest is None or not math.isfinite(one.largest) for one in tensors):
            return False
        if self.trained:
            return accuracy is not None and abs(accuracy[0] - accuracy[1]) <= self.tolerance
        return all(one.share is not None and one.share <= WEIGHT_TOLERANCE for one in tensors)


def rebuild(
    name: RepositoryName,
    out: Path | None,
    zoo: Callable[[], Zoo],
    progress: Callable[[str, float], None],
    say: Callable[[str], None],
    *,
    threads: int | None = None,
    tolerance: float = 0.02,
    data: Path | None = None,
) -> Rebuilt:
    """Run the recipe of a published model on its pinned sources, and compare the weights.

    The result is written into the new folder ``out``, or thrown away. ``threads`` takes the place of the recipe's.
    ``tolerance`` is how far the accuracies of the two may lie apart on another class of machine. ``data`` is the folder of
    torchvision's data sets, where the recipe needs one.

    Raises:
        InputError: there is no such model, or its recipe cannot be run, or asks for what a stranger's may not.
        CheckFailed: a source, or an image, is not the one that the recipe names.
        WorldError: the Hub or the disk fails.
    """
    repository = read_repository(name)
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        recipe = _fetched_recipe(repository, place / "page")
        odd = _odd(recipe, threads, repository, place / "page" / ENVIRONMENT)
        for key, (there, here) in odd.items():
            say(f"it was made with {key} {there}, here it is {here}")
        folder = out or place / "rebuilt"
        fetch_side_inputs(repository, recipe.inputs, place / "page", progress, say)
        where = Surroundings(place / "page", zoo, progress=progress)
        asked = _for_weights(_with_data(_with_threads(recipe, threads), data), say)
        run_recipe(asked, where, folder)
        near = Nearness(bool(odd), recipe.training is not None, tolerance)
        comparison = _Comparison(repository, folder, where, asked, near)
        found = comparison.carried_out(lambda: _fetched_weights(repository, zoo, say))
        return replace(found, odd=odd, folder=out)


def _with_threads(recipe: Recipe, threads: int | None) -> Recipe:
    if threads is None:
        return recipe
    training = recipe.training and recipe.training.model_copy(update={"threads": threads})
    return recipe.model_copy(update={"threads": threads, "training": training})


def _with_data(recipe: Recipe, data: Path | None) -> Recipe:
    """The recipe with the folder of torchvision's data sets on this machine."""
    if data is None:
        return recipe
    root = {"root": str(data.resolve())}
    changes: dict[str, Any] = {
        name: section.model_copy(update=root) for name in IMAGES if (section := getattr(recipe, name)) is not None
    }
    changes["sources"] = [
        source.model_copy(update={"images": source.images and source.images.model_copy(update=root)})
        for source in recipe.sources
    ]
    return recipe.model_copy(update=changes)


def _for_weights(recipe: Recipe, say: Callable[[str], None]) -> Recipe:
    """The recipe without what changes no weights: what stands beside a fused network, and perhaps was trained for that."""
    if recipe.comparison is not None:
        say("what was measured beside it is not measured again: that changes no weights")
    start = recipe.start if needs_start(recipe) else None
    return recipe.model_copy(update={"comparison": None, "start": start})


def _fetched_recipe(repository: Repository, folder: Path) -> Recipe:
    """The recipe of a page, which is written into a folder with what it needs.

    Raises:
        InputError: there is none, or it asks for what a stranger's may not.
    """
    where = f"{PREFIX}{repository.id}"
    for needed in (RECIPE, WEIGHTS):
        if needed not in repository.files:
            raise InputError(
                f"{where} has no {needed}, so kzoo did not publish it and cannot make it again; 'kzoo lineage' tells what its card says"
            )
    content = Content(repository)
    folder.mkdir()
    for name, most in _MOST.items():
        if name in repository.files:
            (folder / name).write_bytes(content.whole(name, most))
    with _called(f"{where}/{RECIPE}", folder / RECIPE):
        recipe = read_recipe(folder / RECIPE)
    require_harmless(recipe, f"{where}/{RECIPE}")
    return recipe


@contextmanager
def _called(name: str, path: Path) -> Iterator[None]:
    """Let sentences about a file call it what it is on the Hub: its place here is gone when they are read."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None


def _odd(recipe: Recipe, threads: int | None, repository: Repository, file: Path) -> dict[str, tuple[str, str]]:
    """What decides bytes and is different here: versions, threads, and the class of the machine where the page tells it."""
    there = dict(recipe.versions)
    here = library_versions()
    if threads is not None and recipe.threads is not None:
        there["threads"], here["threads"] = str(recipe.threads), str(threads)
    if file.is_file():
        with _called(f"{PREFIX}{repository.id}/{ENVIRONMENT}", file):
            there |= read_environment(file)
        here |= environment_class()
    return {key: (there[key], here[key]) for key in there if key in here and there[key] != here[key]}


@dataclass(frozen=True)
class _Comparison:
    """A rebuilt folder, and what it is held against."""

    repository: Repository
    folder: Path
    where: Surroundings
    recipe: Recipe
    near: Nearness

    def carried_out(self, weights: Callable[[], Path]) -> Rebuilt:
        """What was found; ``weights`` fetches the published ones, which is done only if they differ."""
        rebuilt, published = weights_sha256([self.folder / WEIGHTS]), _published_sum(self.repository)
        told = Rebuilt(self.repository.id, self.repository.commit, None, published, rebuilt, "identical")
        if rebuilt == published:
            return told
        theirs = weights()
        tensors = tuple(_differences(theirs, self.folder / WEIGHTS))
        accuracy = self._accuracies(theirs)
        verdict = "equivalent" if self.near.is_met(tensors, accuracy) else "different"
        return replace(told, verdict=verdict, tensors=tensors, accuracy=accuracy)

    def _accuracies(self, theirs: Path) -> tuple[float, float] | None:
        """How good the published weights are on the recipe's test images, and the rebuilt: what a page says proves nothing."""
        from safetensors.torch import load_file

        from kzoo.training.evaluation import evaluate

        if self.recipe.data is None:
            return None
        module, task = load(self.folder), self.where.data(self.recipe.data)
        rebuilt = evaluate(module, task.test)["accuracy"]
        try:
            load_values(module, load_file(theirs))
        except RuntimeError:  # another network's
            return None
        return float(evaluate(module, task.test)["accuracy"]), float(rebuilt)


def _published_sum(repository: Repository) -> str:
    file = repository.files[WEIGHTS]
    if file.sha256 is not None:
        return file.sha256
    content = Content(repository)
    content.whole(WEIGHTS, file.size)
    return content.read[WEIGHTS].sha256


def _fetched_weights(repository: Repository, zoo: Callable[[], Zoo], say: Callable[[str], None]) -> Path:
    """The published weights, in the client's cache."""
    text = f"{PREFIX}{repository.id}@{repository.commit}"
    pinned = RepositoryName(repository.id, repository.commit)
    folders = lock_folders(zoo())
    fetcher = Fetcher(folders, folders[-1], lambda _what, _done: None, say)
    return fetcher.fetch(Wanted(text, pinned, WEIGHTS, text.removeprefix(PREFIX))).path


def _differences(published: Path, rebuilt: Path) -> list[TensorDifference]:
    """The tensors that are not the same, the ones that differ most first."""
    import torch
    from safetensors.torch import load_file

    theirs, ours = load_file(published), load_file(rebuilt)
    found = []
    for key in sorted({*theirs, *ours}):
        one, other = theirs.get(key), ours.get(key)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            found.append(TensorDifference(key, None, None))
        elif not torch.equal(one, other):
            wide = torch.complex128 if one.is_complex() else torch.float64
            apart = (one.to(wide) - other.to(wide)).abs().max().item()
            most = one.to(wide).abs().max().item()
            found.append(TensorDifference(key, apart, apart / most if most else float("inf")))
    return sorted(found, key=lambda one: (one.share is not None, -(one.share or 0.0), one.name))

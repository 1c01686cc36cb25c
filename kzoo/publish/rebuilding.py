"""Make a published model again from its page alone, and compare it with what was published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kzoo.environment import environment_class, read_environment
from kzoo.errors import InputError
from kzoo.faults import read_json
from kzoo.hashing import weights_sha256
from kzoo.hub.headers import Content
from kzoo.hub.models import Fetcher, lock_folders
from kzoo.hub.names import PREFIX, RepositoryName, Wanted
from kzoo.hub.repositories import Repository, read_repository
from kzoo.layout import ENVIRONMENT, METRICS, PLAN, RECIPE, WEIGHTS
from kzoo.publish.trust import require_harmless
from kzoo.recipe import Recipe, library_versions, read_recipe
from kzoo.running import Surroundings, run_recipe
from kzoo.zoo import Zoo

#: What is fetched of a page beside the weights, and how large each may be.
_MOST = {RECIPE: 1_000_000, PLAN: 20_000_000, ENVIRONMENT: 100_000, METRICS: 50_000_000}
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
        return {
            "repository": self.repository,
            "commit": self.commit,
            "folder": None if self.folder is None else str(self.folder),
            "sha256": {"published": self.published, "rebuilt": self.rebuilt},
            "verdict": self.verdict,
            "environment": {key: {"published": a, "here": b} for key, (a, b) in self.odd.items()},
            "tensors": [{"name": one.name, "largest": one.largest, "share": one.share} for one in self.tensors],
            "accuracy": accuracy,
        }


@dataclass(frozen=True)
class Nearness:
    """How near other bytes must be: only where the machine is of another class, and by the accuracy where it trained."""

    elsewhere: bool
    trained: bool
    tolerance: float

    def is_met(self, tensors: Sequence[TensorDifference], accuracy: tuple[float, float] | None) -> bool:
        """Whether these differences are what another class of machine makes."""
        if not self.elsewhere or any(one.share is None for one in tensors):
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
) -> Rebuilt:
    """Run the recipe of a published model on its pinned sources, and compare the weights.

    The result is written into the new folder ``out``, or thrown away. ``threads`` takes the place of the recipe's.
    ``tolerance`` is how far accuracies may lie apart that were measured on other classes of machines.

    Raises:
        InputError: there is no such model, or its recipe cannot be run, or asks for what a stranger's may not.
        CheckFailed: a source, or an image, is not the one that the recipe names.
        WorldError: the Hub or the disk fails.
    """
    repository = read_repository(name)
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        recipe = _fetched_recipe(repository, place / "page")
        if threads is not None:
            training = recipe.training and recipe.training.model_copy(update={"threads": threads})
            recipe = recipe.model_copy(update={"threads": threads, "training": training})
        odd = _odd(recipe, place / "page" / ENVIRONMENT)
        for key, (there, here) in odd.items():
            say(f"it was made with {key} {there}, here it is {here}")
        folder = out or place / "rebuilt"
        run_recipe(recipe, Surroundings(place / "page", zoo, progress=progress), folder)
        near = Nearness(bool(odd), recipe.training is not None, tolerance)
        found = _compared(repository, folder, place / "page", near, lambda: _fetched_weights(repository, zoo, say))
        return replace(found, odd=odd, folder=out)


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
    recipe = read_recipe(folder / RECIPE)
    require_harmless(recipe, f"{where}/{RECIPE}")
    return recipe


def _odd(recipe: Recipe, file: Path) -> dict[str, tuple[str, str]]:
    """What decides bytes and is different here: versions, and the class of the machine where the page tells it."""
    there = dict(recipe.versions)
    here = library_versions()
    if file.is_file():
        there |= read_environment(file)
        here |= environment_class()
    there.pop("kzoo", None)
    return {key: (there[key], here[key]) for key in there if key in here and there[key] != here[key]}


def _compared(repository: Repository, folder: Path, page: Path, near: Nearness, weights: Callable[[], Path]) -> Rebuilt:
    """What a rebuilt folder is beside a page; ``weights`` fetches the published ones, which is done only if they differ."""
    rebuilt = weights_sha256([folder / WEIGHTS])
    published = _published_sum(repository)
    accuracy = _accuracies(page / METRICS, folder / METRICS)
    tensors = () if rebuilt == published else tuple(_differences(weights(), folder / WEIGHTS))
    verdict = "identical" if rebuilt == published else "equivalent" if near.is_met(tensors, accuracy) else "different"
    return Rebuilt(
        repository.id, repository.commit, None, published, rebuilt, verdict, tensors=tensors, accuracy=accuracy
    )


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


def _accuracies(published: Path, rebuilt: Path) -> tuple[float, float] | None:
    if not (published.is_file() and rebuilt.is_file()):
        return None
    found = []
    for path in (published, rebuilt):
        test = read_json(path, "metrics", _MOST[METRICS]).data
        accuracy = (
            test.get("test", {}).get("accuracy")
            if isinstance(test, dict) and isinstance(test.get("test"), dict)
            else None
        )
        if not isinstance(accuracy, (int, float)):
            return None
        found.append(float(accuracy))
    return found[0], found[1]


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

"""A recipe: the YAML file that fully determines a result, and how the result is made from it.

Sources with their sha256, the target with its initial seed, the method with its parameters, data and training where
there are any, threads. The same recipe gives the same bytes on one class of machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

import kzoo
from kzoo.faults import read_yaml
from kzoo.layout import WEIGHTS
from kzoo.training.settings import TrainingSettings

_SHA256 = r"^[0-9a-f]{64}$"
_VERSION = 1
_IMAGE_FOLDER = "imagefolder:"
_LIBRARIES = ("torch", "torchvision", "timm")
#: Sections that recipes did not always have: without them their digests are those of recipes that never had them.
_YOUNGER = ("calibration", "start", "inputs", "comparison")
_YOUNGER_IMAGES = ("only", "classes", "validation", "split")
#: The sections that name images.
IMAGES = ("calibration", "recalibrate", "data")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """Images by the name of their task; see `kzoo.training.data.load_task`."""

    task: str = Field(min_length=1)
    train: int | None = Field(default=None, ge=1, description="So many training images")
    test: int | None = Field(default=None, ge=1, description="So many test images")
    size: int | None = Field(default=None, ge=1, description="Height and width in pixels")
    channels: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    root: str | None = Field(
        default=None, description="The folder of torchvision's data sets, seen from the recipe's folder"
    )
    fingerprint: str | None = Field(
        default=None, pattern=_SHA256, description="Of the images; checked where it is given"
    )
    only: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="Of these images only those of these classes, whose labels stay what they are",
    )
    classes: tuple[str, ...] | None = Field(
        default=None, strict=False, description="The same, and the task has these classes alone, in this order"
    )
    validation: int | None = Field(
        default=None, ge=1, description="Of the training images the last so many are held back"
    )
    split: Literal["validation"] | None = Field(
        default=None, description="Test on the images held back, in place of the test images"
    )


class SourceSection(_Section):
    """A trained network: where its weights are, seen from the recipe's folder, and what they are."""

    path: str = Field(
        min_length=1,
        description="A safetensors file or a folder that holds one; or local:NAME, hf:user/name@COMMIT, py:...",
    )
    sha256: str = Field(pattern=_SHA256, description="Of the weights")
    submodule: str | None = Field(default=None, min_length=1, description="Only this part of the network")
    images: DataSection | None = Field(default=None, description="Unlabelled images of what it knows, for fusion")
    classes: list[str] | None = Field(default=None, description="What its outputs stand for, in order, for fusion")
    network: str | None = Field(
        default=None, min_length=1, description="The network of a teacher's weights, where they do not say"
    )


class TargetSection(_Section):
    """The network to initialise, and the seed of its fresh weights."""

    model: str = Field(min_length=1, description="timm:NAME, torchvision:NAME or py:package.module:factory")
    classes: int | None = Field(default=None, ge=0)
    in_chans: int | None = Field(default=None, ge=1)
    img_size: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    edits: list[dict[str, Any]] = Field(
        default=[], description="Of the network's structure, before the method; see `kzoo.edits`"
    )


class PlanSection(_Section):
    """A plan that is carried out in place of the method's own: a file that `kzoo transfer --plan` wrote."""

    path: str = Field(min_length=1)
    sha256: str = Field(pattern=_SHA256)


class SideInput(_Section):
    """A file that fusion reads beside the networks: of one of the sources, counted from 0."""

    kind: Literal["fisher", "gram"]
    source: int = Field(ge=0)
    path: str = Field(min_length=1)
    sha256: str = Field(pattern=_SHA256)


class ComparisonSection(_Section):
    """What a fused network is measured against: its parents, their ensembles, their start, RegMean, and joint training.

    The images are those of the section ``data``.
    """

    joint: TrainingSettings | None = Field(
        default=None, description="How a network is trained on all of the data, as the ceiling; else there is none"
    )


class Recipe(_Section):
    """Everything that determines a result."""

    kzoo_recipe: int = Field(default=_VERSION, ge=_VERSION, le=_VERSION)
    sources: list[SourceSection] = Field(default=[])
    start: SourceSection | None = Field(default=None, description="The weights that all sources were trained from")
    inputs: list[SideInput] = Field(default=[], description="What was measured of the sources, for fusion")
    target: TargetSection
    method: str = "dpiat"
    parameters: dict[str, Any] = Field(default={})
    plan: PlanSection | None = None
    recalibrate: DataSection | None = Field(
        default=None, description="Unlabelled images for batch normalisation's statistics"
    )
    calibration: DataSection | None = Field(
        default=None, description="Unlabelled images that a network is grown with: for normalisations, and for DILS"
    )
    data: DataSection | None = Field(default=None, description="What to train and test on")
    training: TrainingSettings | None = None
    comparison: ComparisonSection | None = Field(default=None, description="Of a fusion with others, on the data")
    threads: int | None = Field(default=None, ge=1, le=1024)
    versions: dict[str, str] = Field(default={}, description="Of the libraries that made the result; for people")

    @property
    def digest(self) -> str:
        """SHA-256 of what people decide of the result.

        Where files are is none of it, nor what a run adds: threads, versions, fingerprints of images.
        """
        data = self.model_dump(exclude={"versions", "threads"})
        sources = [*data["sources"], *([data["start"]] if data["start"] is not None else [])]
        # Recipes without these are as old as recipes.
        images = [data[name] for name in IMAGES] + [source["images"] for source in sources]
        younger = [(data["target"], "edits"), *((data, name) for name in _YOUNGER)]
        younger += [(source, name) for source in sources for name in ("submodule", "images", "classes", "network")]
        younger += [(section, name) for section in images if section is not None for name in _YOUNGER_IMAGES]
        for section, name in younger:
            if not section[name]:
                del section[name]
        for section in (*sources, *data.get("inputs", ()), data["plan"], *images):
            if section is not None:
                for place in ("path", "root", "fingerprint"):
                    section.pop(place, None)
                if "task" in section:
                    section["task"] = plain_task(section["task"])
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def plain_task(task: str) -> str:
    """The name of a task without the place of its images."""
    return _IMAGE_FOLDER.removesuffix(":") if task.startswith(_IMAGE_FOLDER) else task


def is_no_path(source: str) -> bool:
    """Whether a source is a model of a registry or a factory, not a place on the disk."""
    return source.startswith(("local:", "py:", "hf:"))


def public_path(path: str) -> str:
    """What others are told of a source: where it is for all, or the name of a file."""
    return path if is_no_path(path) else PurePosixPath(path.replace("\\", "/")).name or WEIGHTS


def public_names(paths: Sequence[str]) -> list[str]:
    """What others are told of several sources: with their folders' names, where the names of files alone are the same."""
    names = [public_path(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return [
        name if is_no_path(path) else PurePosixPath(Path(path).resolve().parent.name, name).as_posix()
        for path, name in zip(paths, names, strict=True)
    ]


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        InputError: it cannot be read, is no plain YAML, or a field is missing, unknown or wrong: with its line.
    """
    return read_yaml(path, "a recipe").validated(Recipe)


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, with its defaults; what is not set is left out."""
    data = {key: value for key, value in recipe.model_dump(exclude_none=True).items() if value not in ([], {})}
    if not recipe.target.edits:
        del data["target"]["edits"]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def library_versions() -> dict[str, str]:
    """The versions of kzoo and of the libraries that decide its results."""
    return {"kzoo": kzoo.__version__} | {name: version(name).partition("+")[0] for name in _LIBRARIES}


def moved(recipe: Recipe, old: Path, new: Path) -> Recipe:
    """The recipe as it reads in another folder: relative paths lead to the same files."""

    def path_from(text: str) -> str:
        # A link in either path would lead a relative one astray.
        return Path(os.path.relpath((old / text).resolve(), new.resolve())).as_posix()

    return with_paths(recipe, path_from)


def with_paths(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    """The recipe with every path in it changed; what is no path, such as ``local:NAME``, stays."""

    def changed(text: str) -> str:
        return text if is_no_path(text) else change(text)

    def images_of(section: DataSection | None) -> DataSection | None:
        if section is None:
            return None
        update = {"root": changed(section.root)} if section.root is not None else {}
        if section.task.startswith(_IMAGE_FOLDER):
            update["task"] = _IMAGE_FOLDER + changed(section.task.removeprefix(_IMAGE_FOLDER))
        return section.model_copy(update=update)

    def source_of(source: SourceSection) -> SourceSection:
        return source.model_copy(update={"path": changed(source.path), "images": images_of(source.images)})

    changes: dict[str, Any] = {
        "sources": [source_of(source) for source in recipe.sources],
        "start": None if recipe.start is None else source_of(recipe.start),
        "inputs": [each.model_copy(update={"path": changed(each.path)}) for each in recipe.inputs],
    }
    if recipe.plan is not None:
        changes["plan"] = recipe.plan.model_copy(update={"path": changed(recipe.plan.path)})
    changes |= {name: images_of(getattr(recipe, name)) for name in IMAGES}
    return recipe.model_copy(update=changes)

"""Fuse weights of networks that kzoo does not know, as language models: files in, files out, without torch.

The target of such a recipe is ``tensors``. The result has the first parent's shards and ``config.json``, with kzoo's own part
added, so that what loads the parents loads it; kzoo itself cannot build it.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import kzoo
from kzoo.errors import CheckFailed, InputError, WorldError
from kzoo.files import new_folder, require_new
from kzoo.hashing import weights_sha256
from kzoo.layout import CARD, CONFIG, RECIPE, TENSORS, side_input
from kzoo.methods.fusion.parameters import FUSION, FusionParameters
from kzoo.methods.fusion.parents import check_digests
from kzoo.methods.fusion.roles import LEARNED
from kzoo.methods.parameters import checked_parameters
from kzoo.readers.files import MOST_CONFIG, WeightsFile, read_weights_file
from kzoo.readers.libraries import LIBRARIES
from kzoo.readers.safetensors import parse_object, read_bounded
from kzoo.recipe import Recipe, SourceSection, TargetSection, is_no_path, moved, public_names, recipe_text
from kzoo.refine import fitting
from kzoo.streamed_fusing import check_streams, fuse_streamed
from kzoo.streaming import Progress
from kzoo.weights import Located, locate
from kzoo.zoo import Zoo

_OF_NETWORKS = ("plan", "recalibrate", "calibration", "data", "training", "comparison")


@dataclass(frozen=True)
class FusedTensors:
    """What fusing files gave: the folder, its recipe, and what is told of it, with the keys of other reports of fusion."""

    folder: Path
    recipe: Recipe
    report: Mapping[str, Any]


def is_unknown(located: Located, zoo: Callable[[], Zoo]) -> bool:
    """Whether weights belong to no network that kzoo knows, as far as their files tell: neither by name nor by shapes."""
    if "architecture" in _config(located.file):
        return False
    named = zoo().named(located.name)
    if named is not None and named[0].library in LIBRARIES:
        return False
    found = fitting(zoo(), located.file.architecture())
    return not any(name.partition(":")[0] in LIBRARIES for name in found)


def fuse_tensors(
    sources: Sequence[Located],
    method: str,
    parameters: Mapping[str, Any],
    out: Path,
    *,
    start: Located | None = None,
    force: bool = False,
    progress: Progress = lambda _what, _done: None,
) -> FusedTensors:
    """Fuse such weights, and write them with their recipe into the new folder ``out``.

    Raises:
        InputError: the method cannot be used, the parents do not fit each other, or ``out`` exists (and ``force`` is not
            given).
        WorldError: the disk fails.
    """
    every = [*sources, *([start] if start is not None else [])]

    def recipe(digests: Sequence[str]) -> Recipe:
        sections = [SourceSection(path=one.path, sha256=digest) for one, digest in zip(every, digests, strict=True)]
        return Recipe(
            sources=sections[: len(sources)],
            start=None if start is None else sections[-1],
            target=TargetSection(model=TENSORS),
            method=method,
            parameters=dict(parameters),
        )

    # What is checked of a recipe is there before anybody knows the sha256 of the weights.
    planned = recipe([_UNREAD] * len(every))
    chosen = _parameters(planned)
    measured = measured_files(planned, Path()) if "fisher" in chosen.needs else None
    return _fused(_Work(sources, start, chosen, measured, Path(), out, force, progress), recipe)


def run_tensors(
    recipe: Recipe,
    base: Path,
    zoo: Callable[[], Zoo],
    out: Path,
    force: bool = False,
    progress: Progress = lambda _what, _done: None,
) -> FusedTensors:
    """Make the result of a recipe with the target ``tensors`` and write it into the new folder ``out``.

    ``base`` is the recipe's folder.

    Raises:
        InputError: something in the recipe cannot be used, the parents do not fit each other, or ``out`` exists (and
            ``force`` is not given).
        CheckFailed: a file is not the one that the recipe names.
        WorldError: the disk fails.
    """
    chosen = _parameters(recipe)
    named = [*recipe.sources, *([recipe.start] if recipe.start is not None else [])]
    every = [locate(one.path if is_no_path(one.path) else str(base / one.path), zoo) for one in named]

    def checked(digests: Sequence[str]) -> Recipe:
        for source, digest in zip(named, digests, strict=True):
            if digest != source.sha256:
                raise CheckFailed(
                    f"{source.path} has the sha256 {digest}, but the recipe was made with {source.sha256}: fetch that file, or "
                    "make a new recipe with the command that made this one"
                )
        return recipe

    sources, start = every[: len(recipe.sources)], every[-1] if recipe.start is not None else None
    measured = measured_files(recipe, base) if "fisher" in chosen.needs else None
    return _fused(_Work(sources, start, chosen, measured, base, out, force, progress), checked)


_UNREAD = "0" * 64


@dataclass(frozen=True)
class _Work:
    sources: Sequence[Located]
    start: Located | None
    parameters: FusionParameters
    measured: Sequence[WeightsFile] | None
    base: Path
    out: Path
    force: bool
    progress: Progress


class _Digests:
    """The sha256 of weights, read while they are fused: what the one has read of the disk, the other finds in memory."""

    def __init__(self, every: Sequence[Located]) -> None:
        self._found: list[str | Exception | None] = [None] * len(every)
        # Nobody waits for them where the fusion fails.
        self._threads = [
            threading.Thread(target=self._read, args=(place, one), daemon=True) for place, one in enumerate(every)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, place: int, one: Located) -> None:
        try:
            self._found[place] = one.sha256
        except OSError as error:
            self._found[place] = WorldError(f"{one.name} cannot be read ({error.strerror or error}): check the disk")

    def all(self) -> list[str]:
        """Them, in the order of the weights."""
        for thread in self._threads:
            thread.join()
        for found in self._found:
            if isinstance(found, Exception):
                raise found
        return [str(found) for found in self._found]


def _fused(work: _Work, recipe_of: Callable[[Sequence[str]], Recipe]) -> FusedTensors:
    require_new(work.out, work.force)
    files = [one.file for one in work.sources]
    names = public_names([one.path for one in work.sources])
    for one in work.sources:
        if any(shard.resolve().is_relative_to(work.out.resolve()) for shard in one.file.shards):
            raise InputError(f"{work.out} holds the source {one.name} itself: give another folder for the result")
    check_streams(names, files)
    digests = _Digests([*work.sources, *([work.start] if work.start is not None else [])])
    with new_folder(work.out, work.force) as folder:
        found = fuse_streamed(
            work.parameters,
            names,
            files,
            folder,
            start=work.start.file if work.start is not None else None,
            importance=work.measured,
            wrapped=True,
            progress=work.progress,
        )
        recipe = recipe_of(digests.all())
        check_digests(names, [source.sha256 for source in recipe.sources])
        recipe = recipe.model_copy(
            update={
                "parameters": work.parameters.model_dump(exclude_none=True),
                "versions": {"kzoo": kzoo.__version__, "numpy": version("numpy")},
            }
        )
        shares = {name: 1.0 for name in sorted(found.roles) if found.roles[name] in LEARNED}
        told = {"recipe": recipe.digest, "method": recipe.method, "network": TENSORS, "transferred": shares}
        _describe(folder, work, recipe, _config(files[0]) | {"kzoo": told}, names)
    return FusedTensors(work.out, recipe, _report(recipe, names, files[0], shares))


def _describe(folder: Path, work: _Work, recipe: Recipe, config: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write everything but the weights."""
    _write(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    inputs = []
    for each in recipe.inputs:
        inputs.append(each.model_copy(update={"path": side_input(each.kind, each.source)}))
        shutil.copyfile(work.base / each.path, folder / inputs[-1].path)
    kept = moved(recipe, work.base, work.out).model_copy(update={"inputs": inputs})
    _write(folder / RECIPE, recipe_text(kept))
    _write(folder / CARD, _card(recipe, names))


def _report(recipe: Recipe, names: Sequence[str], file: WeightsFile, shares: Mapping[str, float]) -> dict[str, Any]:
    return {
        "method": recipe.method,
        "parameters": recipe.parameters,
        "parents": list(names),
        "entries": sum(math.prod(file.tensors[name].shape) for name in shares),
        "shares": dict(shares),
        "alignments": [],
        "classes": [],
    }


def _parameters(recipe: Recipe) -> FusionParameters:
    """The parameters of the recipe's method, which must fuse every tensor by itself."""
    if recipe.method not in FUSION:
        raise InputError(
            f"the recipe's target is {TENSORS}, weights of a network that kzoo does not know: method {recipe.method!r:.80} needs "
            "to know it; expected weight_sum or nonessential"
        )
    parameters = checked_parameters(recipe.method, FUSION[recipe.method], recipe.parameters)
    assert isinstance(parameters, FusionParameters)
    extra = next((name for name in _OF_NETWORKS if getattr(recipe, name) is not None), None)
    submodule = any(source.submodule is not None for source in recipe.sources)
    if extra is not None or submodule or not parameters.by_tensor:
        what = (
            f"has {extra}"
            if extra is not None
            else "names a submodule"
            if submodule
            else "builds networks to fuse them"
        )
        raise InputError(
            f"the recipe's target is {TENSORS}, weights of a network that kzoo does not know, but it {what}: leave that out, or "
            "name the network"
        )
    if "start" in parameters.needs and recipe.start is None:
        raise InputError("this needs the weights that all parents were trained from: give them (--start)")
    return parameters


def measured_files(recipe: Recipe, base: Path) -> list[WeightsFile]:
    """The Fisher information of each source, as files that the recipe in the folder ``base`` names.

    Raises:
        InputError: it names none of a source, or a file is faulty.
        CheckFailed: one is another than the recipe names.
    """
    found = []
    for number in range(len(recipe.sources)):
        known = next((one for one in recipe.inputs if (one.kind, one.source) == ("fisher", number)), None)
        if known is None:
            raise InputError(
                "this needs to know how important each parent's weights are, which cannot be measured of a network that kzoo does "
                "not know: choose importance=magnitude, or name files of it as inputs of the recipe"
            )
        file = read_weights_file(base / known.path)
        if (digest := weights_sha256(file.shards)) != known.sha256:
            raise CheckFailed(f"{known.path} has the sha256 {digest}, but the recipe was made with {known.sha256}")
        found.append(file)
    return found


def _config(file: WeightsFile) -> dict[str, Any]:
    """What the config.json beside weights holds."""
    path = file.path.with_name(CONFIG)
    if not path.is_file():
        return {}
    return parse_object(read_bounded(path, MOST_CONFIG), f"{path} cannot be used", MOST_CONFIG)


def _card(recipe: Recipe, names: Sequence[str]) -> str:
    head = yaml.safe_dump({"library_name": "kzoo", "tags": ["kzoo", f"kzoo-{recipe.method}"]}, sort_keys=False)
    parents = ", ".join(
        f"`{name}` (sha256 `{source.sha256}`)" for name, source in zip(names, recipe.sources, strict=True)
    )
    return (
        f"---\n{head}---\n\n# Fused weights\n\nThey were fused without training from {parents}, by kzoo's method "
        f"{recipe.method}.\n\nkzoo does not know the network that they belong to: load them with the library that made the first of "
        f"these, whose `{CONFIG}` this is.\n\n`kzoo run {RECIPE} --out DIR` makes them again, byte for byte.\n"
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

"""Fuse weights of networks that kzoo does not know, as language models: files in, files out, without torch.

The target of such a recipe is ``tensors``. The result has the first parent's shards and ``config.json``, with kzoo's own part
added, so that what loads the parents loads it; kzoo itself cannot build it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import kzoo
from kzoo.errors import CheckFailed, InputError
from kzoo.files import new_folder, require_new
from kzoo.hashing import weights_sha256
from kzoo.layout import CARD, CONFIG, RECIPE
from kzoo.methods.fusion.parameters import FUSION, FusionParameters
from kzoo.methods.fusion.parents import check_digests
from kzoo.methods.fusion.roles import LEARNED
from kzoo.methods.parameters import checked_parameters
from kzoo.readers.files import MOST_CONFIG, WeightsFile, read_weights_file
from kzoo.readers.libraries import LIBRARIES
from kzoo.readers.safetensors import parse_object, read_bounded
from kzoo.recipe import Recipe, SourceSection, TargetSection, is_no_path, moved, public_path, recipe_text
from kzoo.refine import fitting
from kzoo.streamed_fusing import check_streams, fuse_streamed
from kzoo.streaming import Progress
from kzoo.weights import Located, locate
from kzoo.zoo import Zoo

#: The target of recipes that fuse weights of networks that kzoo does not know.
TENSORS = "tensors"
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


def tensors_recipe(
    sources: Sequence[Located], method: str, parameters: Mapping[str, Any], start: Located | None = None
) -> Recipe:
    """The recipe that fuses such weights; they are read whole, for their sha256."""
    every = [*sources, *([start] if start is not None else [])]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda one: one.sha256, every))
    sections = [SourceSection(path=one.path, sha256=digest) for one, digest in zip(every, digests, strict=True)]
    return Recipe(
        sources=sections[: len(sources)],
        start=None if start is None else sections[-1],
        target=TargetSection(model=TENSORS),
        method=method,
        parameters=dict(parameters),
    )


def fuse_tensors(
    recipe: Recipe,
    base: Path,
    zoo: Callable[[], Zoo],
    out: Path,
    force: bool = False,
    progress: Progress = lambda _what, _done: None,
    opened: Sequence[Located] = (),
) -> FusedTensors:
    """Make the result of a recipe with the target ``tensors`` and write it into the new folder ``out``.

    ``base`` is the recipe's folder; ``opened`` are sources whose sha256 is known already.

    Raises:
        InputError: something in the recipe cannot be used, the parents do not fit each other, or ``out`` exists (and
            ``force`` is not given).
        CheckFailed: a file is not the one that the recipe names.
        WorldError: the disk fails.
    """
    require_new(out, force)
    parameters = _parameters(recipe)
    known = {one.path: one for one in opened}
    sources = _checked(recipe.sources, base, zoo, known)
    start = _checked([recipe.start], base, zoo, known)[0] if recipe.start is not None else None
    names = [public_path(one.path) for one in recipe.sources]
    _require_parents(recipe.method, names, sources, out)
    recipe = recipe.model_copy(
        update={
            "parameters": parameters.model_dump(exclude_none=True),
            "versions": {"kzoo": kzoo.__version__, "numpy": version("numpy")},
        }
    )
    files = [one.file for one in sources]
    check_streams(names, files)
    measured = _measured(recipe, base, parameters)
    with new_folder(out, force) as folder:
        found = fuse_streamed(
            parameters,
            names,
            files,
            folder,
            start=start.file if start is not None else None,
            importance=measured,
            progress=progress,
        )
        learned = [name for name in sorted(found.roles) if found.roles[name] in LEARNED]
        told = {"recipe": recipe.digest, "method": recipe.method, "network": TENSORS}
        shares = dict.fromkeys(learned, 1.0)
        config = _config(files[0]) | {"kzoo": told | {"transferred": shares}}
        _write(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        beside = moved(recipe, base, out)
        for each in recipe.inputs:
            shutil.copyfile(base / each.path, folder / f"{each.kind}-{each.source}.safetensors")
        inputs = [one.model_copy(update={"path": f"{one.kind}-{one.source}.safetensors"}) for one in recipe.inputs]
        _write(folder / RECIPE, recipe_text(beside.model_copy(update={"inputs": inputs})))
        _write(folder / CARD, _card(recipe, names))
    shapes = {ours: files[0].tensors[key].shape for ours, key in files[0].names().items()}
    report = {
        "method": recipe.method,
        "parameters": recipe.parameters,
        "parents": names,
        "entries": sum(math.prod(shapes[name]) for name in learned),
        "shares": shares,
        "alignments": [],
        "classes": [],
    }
    return FusedTensors(out, recipe, report)


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
    return parameters


def _checked(
    sources: Sequence[SourceSection], base: Path, zoo: Callable[[], Zoo], known: Mapping[str, Located]
) -> list[Located]:
    """Sources of a recipe, which are those that it names."""
    found = []
    for source in sources:
        place = source.path if is_no_path(source.path) else str(base / source.path)
        found.append(known.get(source.path) or locate(place, zoo))
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda one: one.sha256, found))
    for source, digest in zip(sources, digests, strict=True):
        if digest != source.sha256:
            raise CheckFailed(
                f"{source.path} has the sha256 {digest}, but the recipe was made with {source.sha256}: fetch that file, or make a "
                "new recipe with the command that made this one"
            )
    return found


def _require_parents(method: str, names: Sequence[str], sources: Sequence[Located], out: Path) -> None:
    if len(sources) < 2:
        raise InputError(f"the recipe has {len(sources)} source: method {method} fuses two networks or more")
    check_digests(names, [one.sha256 for one in sources])
    for one in sources:
        if any(shard.resolve().is_relative_to(out.resolve()) for shard in one.file.shards):
            raise InputError(f"{out} holds the source {one.name} itself: give another folder for the result")


def _measured(recipe: Recipe, base: Path, parameters: FusionParameters) -> list[WeightsFile] | None:
    """The Fisher information of each source, as files that the recipe names."""
    if "fisher" not in parameters.needs:
        return None
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

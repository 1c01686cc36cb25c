"""Add a file of one's own to a registry of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kzoo.catalog import Checkpoint
from kzoo.entries import entry_text, require_free, require_writable, told_before, write_entries, written_checkpoint
from kzoo.errors import InputError
from kzoo.hashing import weights_sha256
from kzoo.layout import METRICS, RECIPE
from kzoo.locking import locked
from kzoo.processes import Progress
from kzoo.readers.files import WeightsFile, read_weights_file
from kzoo.readers.libraries import LOCAL
from kzoo.readers.safetensors import parse_object, read_bounded
from kzoo.recipe import DataSection, Recipe, plain_task, read_recipe

_TAG = "file"
_ANOTHER = "give another --name, or "
_MOST_METRICS = 5_000_000


def add_model(
    path: Path,
    directory: Path,
    details: Mapping[str, Any],
    progress: Progress,
    name: str | None = None,
    force: bool = False,
) -> tuple[Path, Checkpoint]:
    """Write an entry for the weights at ``path`` into the registry at ``directory``, and index it.

    The entry's file is ``local/<name>.yaml``; without a ``name`` it is made from the path. ``details`` are fields of the
    entry that the file does not tell: ``license``, ``license_name``, ``license_link``, ``trained_on``, ``submodule``.
    Where the weights are a result of `kzoo run`, its files beside them tell the data and the test accuracy. With
    ``force``, fields that nobody gives are kept from the entry that is replaced. Returns the entry's file and the
    checkpoint.

    Raises:
        InputError: the weights are not a whole safetensors file, a field is wrong, or there is such an entry already
            (``force`` replaces it).
        WorldError: the registry cannot be written, or is being changed by another process.
    """
    file = read_weights_file(path)
    name = _name(file.path) if name is None else name
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII) or name.startswith("."):
        raise InputError(f"name {name!r:.80} is no name for a model: expected letters, digits, '.', '_' and '-'")
    entry_file = directory / LOCAL / f"{name}.yaml"

    given = {key: value for key, value in details.items() if value}
    file, told = _as_result(file)
    details = told_before(entry_file, with_license="license" not in given) | told | given

    def text(sha256: str) -> str:
        return entry_text(entry_file, name, _fields(file, name, directory, details, sha256))

    # Reading all weights can take minutes: whatever else may be wrong is found before.
    text("0" * 64)
    require_free(entry_file, force, _ANOTHER)
    require_writable(directory)
    content = text(weights_sha256(file.shards, progress))
    with locked(directory):
        require_free(entry_file, force, _ANOTHER)
        write_entries(directory, {entry_file: content}, progress)
    return entry_file, written_checkpoint(entry_file, content)


def _as_result(file: WeightsFile) -> tuple[WeightsFile, dict[str, Any]]:
    """The file with the size of its images, and fields of its entry, as a result of `kzoo run` tells them beside it."""
    try:
        recipe = read_recipe(file.path.with_name(RECIPE))
        metrics = parse_object(read_bounded(file.path.with_name(METRICS), _MOST_METRICS), METRICS, _MOST_METRICS)
    except InputError:  # there are none, or they are somebody else's
        return file, {}
    if recipe.data is None:
        return file, {}
    size = file.input_size or _image_size(recipe.data)
    return replace(file, input_size=size), _tested(recipe, recipe.data, metrics.get("test"))


def _image_size(data: DataSection) -> tuple[int, ...] | None:
    return None if data.channels is None or data.size is None else (data.channels, data.size, data.size)


def _tested(recipe: Recipe, data: DataSection, test: object) -> dict[str, Any]:
    """The data sets and the accuracy of an entry."""
    task = plain_task(data.task)
    told: dict[str, Any] = {} if recipe.training is None else {"trained_on": [task]}
    accuracy = test.get("accuracy") if isinstance(test, dict) else None
    if isinstance(accuracy, float) and 0 <= accuracy <= 1:
        told["metrics"] = {task: {"accuracy": round(100 * accuracy, 3)}}
    return told


def _name(path: Path) -> str:
    """A name from the file's, or from its folder's where the file has the usual one."""
    stem = path.name.partition(".")[0]
    chosen = path.resolve().parent.name if stem == "model" else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", chosen).strip("-.") or "model"


def _fields(file: WeightsFile, name: str, directory: Path, details: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """The fields of the entry's checkpoint.

    Raises:
        InputError: the file has no such submodule.
    """
    submodule = details.get("submodule")
    return {
        "id": f"{LOCAL}/{name}",
        "tag": _TAG,
        "classes": file.classes if submodule is None else None,
        "input_size": list(file.input_size) if file.input_size and submodule is None else None,
        "parameters": file.architecture(submodule).entries,
        "path": _stored_path(file.path, directory),
        "sha256": sha256,
        "size": sum(shard.stat().st_size for shard in file.shards),
        **details,
    }


def _stored_path(path: Path, directory: Path) -> str:
    """Relative to the registry's folder where it lies inside, so that both can be moved together; else absolute."""
    resolved, root = path.resolve(), directory.resolve()
    if not str(resolved).isprintable():
        raise InputError(
            f"the path {str(resolved)!r:.200} cannot be written into a registry: give the file a plain name"
        )
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else str(resolved)

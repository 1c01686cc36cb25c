"""Model folders that studies take from the embedded zoo, or hand on."""

from __future__ import annotations

import shutil
from pathlib import Path

from kzoo.catalog import read_source
from kzoo.errors import CheckFailed, InputError
from kzoo.hashing import weights_sha256
from kzoo.layout import PLAN, RECIPE, WEIGHTS
from kzoo.paths import registry_directory
from kzoo.readers.libraries import LOCAL
from kzoo.recipe import moved, read_recipe, recipe_text


def zoo_folder(name: str) -> Path:
    """The folder of a model of the embedded zoo, with the weights that the registry names.

    Raises:
        InputError: there is no such model, or its files are gone.
        CheckFailed: its weights are others.
    """
    entry = registry_directory() / LOCAL / f"{name}.yaml"
    if Path(name).name != name or not entry.is_file():
        raise InputError(f"the embedded zoo has no model {name!r:.80}: 'kzoo list --library local' lists them")
    family = read_source(entry).family
    if family is None:
        raise InputError(f"{entry} is faulty: 'kzoo registry check' says how")
    fields = family.architectures[0].checkpoints[0]
    path = registry_directory() / str(fields.path)
    file = path / WEIGHTS if path.suffix != ".safetensors" else path
    if not file.is_file():
        raise InputError(f"the weights of local:{name} are not at {file}: fetch them with the repository again")
    if weights_sha256([file]) != fields.sha256:
        raise CheckFailed(f"{file} has not the sha256 that the registry names: fetch the file again")
    return file.parent


def copy_model(origin: Path, folder: Path) -> None:
    """Copy a model folder into a new or an empty one; its recipe leads to the same files from there."""
    shutil.copytree(origin, folder, dirs_exist_ok=True)
    recipe = moved(read_recipe(origin / RECIPE), origin, folder)
    if recipe.plan is not None:
        recipe = recipe.model_copy(update={"plan": recipe.plan.model_copy(update={"path": PLAN})})
    beside = [each.model_copy(update={"path": Path(each.path).name}) for each in recipe.inputs]
    recipe = recipe.model_copy(update={"inputs": beside})
    (folder / RECIPE).write_text(recipe_text(recipe), encoding="utf-8")

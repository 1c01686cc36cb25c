"""The stage ``train``: the zoo's networks trained again, each from the recipe that lies beside its weights."""

from __future__ import annotations

from kzoo.environment import environment_class
from kzoo.errors import InputError
from kzoo.layout import RECIPE, WEIGHTS
from kzoo.recipe import Recipe, read_recipe
from kzoo.studies.design import Run
from kzoo.studies.models import copy_model, zoo_folder
from kzoo.studies.work import Unit, Work
from kzoo.studies.zoo.design import Profile

TABLE, MODELS = "train.json", "models"


def carry_out(run: Run) -> None:
    """Write the networks, and their accuracy by epoch; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    units = [Unit(name, _recipe(name, profile.epochs), keep=True) for name in profile.networks]
    work = Work(run, __name__)
    rows = []
    records = work.carry_out(units, "train")
    with run.new_output(MODELS) as folder:
        for record in records:
            name = record["name"]
            if record["diverged"] is None:
                copy_model(work.model(name), folder / name)
                record |= {"weights": f"{MODELS}/{name}/{WEIGHTS}"}
            rows.append({"arm": name} | record)
    run.write_table(TABLE, {"environment": environment_class(), "profile": run.profile_name, "runs": rows})
    work.clear()


def _recipe(name: str, epochs: int | None) -> Recipe:
    recipe = read_recipe(zoo_folder(name) / RECIPE)
    if recipe.training is None or recipe.data is None:
        raise InputError(f"the recipe of {name} in the zoo trains nothing: it cannot be trained again")
    # A recipe that was written by a run names its library versions, which decide nothing.
    training = recipe.training if epochs is None else recipe.training.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"training": training})

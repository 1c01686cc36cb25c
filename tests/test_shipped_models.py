"""The small trained networks that come with kzoo: registry/zoo holds their folders, registry/local their entries."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import kzoo
from kzoo.recipe import Recipe, read_recipe
from kzoo.training.data import Task, load_task
from kzoo.training.evaluation import evaluate
from kzoo.zoo import Zoo

FOLDER = Path(__file__).parent.parent / "registry" / "zoo"
NAMES = sorted(path.name for path in FOLDER.iterdir())
FILES = ["README.md", "config.json", "metrics.json", "model.safetensors", "recipe.yaml"]
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    """The images of every network, drawn once for all that share them."""
    sections = {section for name in NAMES if (section := recipe_of(name).data) is not None}
    sizes = {"train", "test", "size", "channels", "seed"}
    return {section.task: load_task(section.task, **section.model_dump(include=sizes)) for section in sections}


def recipe_of(name: str) -> Recipe:
    return read_recipe(FOLDER / name / "recipe.yaml")


def metrics_of(name: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((FOLDER / name / "metrics.json").read_text())
    return found


def test_they_are_many_and_small(zoo: Zoo) -> None:
    assert [name for name in zoo.models if name.startswith("local/")] == [f"local/{name}" for name in NAMES]
    families = {name.split("-")[1] for name in NAMES}
    assert (len(NAMES), families) == (13, {"resnet", "vgg", "inception", "mobilenet", "convnext", "vit"})
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_its_folder_says(name: str, zoo: Zoo) -> None:
    assert sorted(path.name for path in (FOLDER / name).iterdir()) == FILES
    content = (FOLDER / name / "model.safetensors").read_bytes()
    recipe, model = recipe_of(name), zoo.models[f"local/{name}"]
    assert (model.fields["sha256"], model.fields["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    # Relative, so that it is found wherever the registry lies.
    assert model.fields["path"] == f"zoo/{name}/model.safetensors"
    assert recipe.data is not None and recipe.target.model == f"small:{name.partition('-')[2]}"
    assert (model.classes, model.input_size) == (recipe.target.classes, (1, 16, 16))
    assert (model.trained_on, model.license, model.accuracy) == ((recipe.data.task,), "apache-2.0", None)
    percent = round(100 * metrics_of(name)["test"]["accuracy"], 3)
    assert model.metrics == {recipe.data.task: {"accuracy": percent}}
    assert f"{percent:.1f}%" in (FOLDER / name / "README.md").read_text()


def test_the_docs_list_them_all() -> None:
    rows = [
        f"| `local:{name}` | {metrics_of(name)['test']['accuracy']:.1%} | "
        f"{(FOLDER / name / 'model.safetensors').stat().st_size / 1000:.0f} |"
        for name in NAMES
    ]
    page = (FOLDER.parent.parent / "docs" / "registry.md").read_text()
    assert "| --- | --- | --- |\n" + "\n".join(rows) + "\n\n" in page


@pytest.mark.parametrize("name", NAMES)
def test_its_weights_are_as_accurate_as_it_says(name: str, zoo: Zoo, tasks: dict[str, Task]) -> None:
    recipe, module = recipe_of(name), kzoo.load(FOLDER / name)
    assert recipe.data is not None
    task, before = tasks[recipe.data.task], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = evaluate(module, task.test)
    finally:
        torch.set_num_threads(before)
    assert task.fingerprint == recipe.data.fingerprint
    # Another processor may see one or two of the images differently.
    assert found["accuracy"] == pytest.approx(metrics_of(name)["test"]["accuracy"], abs=2 / len(task.test))
    # The index has the network itself, not what its header would tell.
    architecture = kzoo.architecture(f"local:{name}", registry=zoo)
    assert (architecture.approximate, architecture) == (False, kzoo.architecture(module))

"""Model folders to make cards of, without training anything."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from kzoo.paths import registry_directory
from kzoo.recipe import Recipe, recipe_text

SHA = "0a3c2c9e9e8c15d1fe6388750a475c657d1ff31d518dca11189377eb97f3c13e"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATA = "8a3d5a43581ac2ae1c8c1dce77ecde6ef4d2341c6208ade0af9ee4dbfd483f92"
IMAGES = {"task": "glyphs/lower", "train": 3840, "test": 1040, "size": 16, "channels": 1, "fingerprint": DATA}
TRAINING = {"epochs": 6, "lr": 0.006, "weight_decay": 0.05, "seed": 0, "threads": 1}
TEST = {"accuracy": 450 / 1040, "loss": 2.0845, "top5": 833 / 1040, "images": 1040}
#: The learned tensors of the network below, those of two layers not carried.
LEFT_OUT = ("layer2.0.downsample.1", "fc")


def model_folder(
    folder: Path,
    sources: tuple[str, ...] = ("local:glyphs-resnet-2x12",),
    method: str = "dpiat",
    test: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A folder as kzoo run writes it, of a network that comes with kzoo; ``test=None`` is one that was never tested."""
    trained = {"data": IMAGES, "training": TRAINING} if test is not None else {}
    data = {
        "sources": [{"path": source, "sha256": SHA} for source in sources],
        "target": {"model": "small:resnet-1x12", "classes": 26, "in_chans": 1, "seed": 0},
        "method": method,
        "parameters": {"variant": "full_state", "matching": "dp"} if method == "dpiat" else {},
        "threads": 1,
        "versions": {"kzoo": "0.1.0", "torch": "2.15.0"},
        **trained,
        **(recipe or {}),
    }
    made = Recipe.model_validate(data)
    shipped = registry_directory() / "zoo" / "glyphs-resnet-1x12"
    folder.mkdir(parents=True)
    shutil.copy(shipped / "model.safetensors", folder)
    (folder / "recipe.yaml").write_text(recipe_text(made))
    written = json.loads((shipped / "config.json").read_text())
    written["kzoo"] = {"recipe": made.digest, "method": method, "transferred": _shares() if sources else {}}
    (folder / "config.json").write_text(json.dumps(written | (config or {})))
    if test is not None:
        epochs = [{"epoch": 1, "test_accuracy": 0.25}, {"epoch": 2, "test_accuracy": 0.5}]
        (folder / "metrics.json").write_text(json.dumps({"test": test, "data": DATA, "training": {"epochs": epochs}}))
    return folder


def _shares() -> dict[str, float]:
    from kzoo.readers.safetensors import read_header

    names = read_header(registry_directory() / "zoo" / "glyphs-resnet-1x12" / "model.safetensors")
    learned = [name for name in names if name.endswith((".weight", ".bias"))]
    share = {name: 0.0 if name.rpartition(".")[0] in LEFT_OUT else 0.5 for name in learned}
    return share | {"conv1.weight": 1.0}


def front_matter(text: str) -> dict[str, Any]:
    """The metadata of a card."""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found is not None
    data = yaml.safe_load(found[1])
    assert isinstance(data, dict)
    return data

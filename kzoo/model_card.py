"""The card (README.md) of a model that kzoo made: metadata as the Hub defines it, then text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from kzoo.building import NetworkSpec
from kzoo.methods.transfers import TransferReport
from kzoo.recipe import Recipe


def transfer_card(
    spec: NetworkSpec, recipe: Recipe, report: TransferReport | None, metrics: Mapping[str, Any] | None
) -> str:
    """The card of a network that weights were carried into, trained or not."""
    library = spec.library if spec.library in ("timm", "torchvision") else "kzoo"
    metadata = {"library_name": library, "tags": ["kzoo", f"kzoo-{recipe.method}"]}
    if spec.library != "py" and recipe.target.classes != 0:
        metadata["pipeline_tag"] = "image-classification"
    head = yaml.safe_dump(metadata, sort_keys=False)
    parts = [f"# {spec}", _origin(recipe, report), *_trained(recipe, metrics), _loading(spec), _rebuilding()]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _origin(recipe: Recipe, report: TransferReport | None) -> str:
    if report is None or recipe.method == "random":
        return f"Initialised at random, seed {recipe.target.seed}."
    variant = recipe.parameters.get("variant", "full_state") if recipe.method == "dpiat" else ""
    how = f"{recipe.method} ({variant})" if variant else recipe.method
    return (
        f"Its initial weights come from {_name(report.source, recipe)} by kzoo's method {how}: {report.transferred_layers} of "
        f"{len(report.parts)} layers received something, {report.overwritten:.1%} of the learned entries. The rest was "
        f"initialised at random, seed {recipe.target.seed}."
    )


def _name(source: str, recipe: Recipe) -> str:
    """A file by its last name (or its folder's) and sha256: where it lies on this machine helps nobody else."""
    path = PurePath(source)
    name = path.name if path.suffix != ".safetensors" or path.stem != "model" else path.parent.name or path.name
    return f"`{name}` (sha256 `{recipe.sources[0].sha256}`)"


def _trained(recipe: Recipe, metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None or recipe.data is None:
        return ["It has not been trained since."]
    test = metrics["test"]
    what = "It has not been trained since." if recipe.training is None else f"Then trained on `{recipe.data.task}`."
    return [f"{what} Accuracy on the {test['images']:,} test images of `{recipe.data.task}`: {test['accuracy']:.1%}."]


def _loading(spec: NetworkSpec) -> str:
    if spec.library == "timm":
        return (
            '```python\nimport timm\n\nmodel = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)\n```'
        )
    return '```python\nimport kzoo\n\nmodel = kzoo.load("PATH_OF_THIS_FOLDER")\n```'


def _rebuilding() -> str:
    return "`kzoo run recipe.yaml --out DIR` makes it again, byte for byte on one class of machine."

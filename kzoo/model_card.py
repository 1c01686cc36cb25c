"""The card (README.md) of a model that kzoo made: metadata as the Hub defines it, then text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from kzoo.building import NetworkSpec
from kzoo.fusing import FusionReport
from kzoo.methods.growth import GrowthReport
from kzoo.methods.transfers import TransferReport
from kzoo.recipe import Recipe, plain_task


def transfer_card(
    spec: NetworkSpec,
    recipe: Recipe,
    report: TransferReport | GrowthReport | FusionReport | None,
    source: str,
    metrics: Mapping[str, Any] | None,
) -> str:
    """The card of a network that weights were carried into, trained or not; ``source`` is what people call the source."""
    library = spec.library if spec.library in ("timm", "torchvision") and not spec.edits else "kzoo"
    metadata = {"library_name": library, "tags": ["kzoo", f"kzoo-{recipe.method}"]}
    if spec.library != "py" and recipe.target.classes != 0:
        metadata["pipeline_tag"] = "image-classification"
    head = yaml.safe_dump(metadata, sort_keys=False)
    title = f"{spec}, grown" if spec.edits else str(spec)
    parts = [f"# {title}", _origin(recipe, report, source), *_trained(recipe, metrics), _loading(spec), _rebuilding()]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _origin(recipe: Recipe, report: TransferReport | GrowthReport | FusionReport | None, source: str) -> str:
    if isinstance(report, GrowthReport):
        return _growth(recipe, report, source)
    if isinstance(report, FusionReport):
        names = ", ".join(
            f"`{name}` (sha256 `{each.sha256}`)" for name, each in zip(report.parents, recipe.sources, strict=True)
        )
        variant = recipe.parameters.get("variant")
        how = f"{recipe.method} ({variant})" if variant else recipe.method
        near = ", a reconstruction of arXiv 1809.09399 from its abstract" if variant else ""
        return f"It was fused without training from {names}, by kzoo's method {how}{near}."
    if report is None or recipe.method == "random":
        return f"Initialised at random, seed {recipe.target.seed}."
    variant = recipe.parameters.get("variant", "full_state") if recipe.method == "dpiat" else ""
    how = f"{recipe.method} ({variant})" if variant else recipe.method
    return (
        f"Its initial weights come from `{source}` (sha256 `{recipe.sources[0].sha256}`) by kzoo's method {how}: "
        f"{report.transferred_layers} of "
        f"{len(report.parts)} layers received something, {report.overwritten:.1%} of the learned entries. The rest was "
        f"initialised at random, seed {recipe.target.seed}."
    )


def _growth(recipe: Recipe, report: GrowthReport, source: str) -> str:
    same = (
        f"On the images tried its outputs were the same but for {report.difference:.0e} of the largest."
        if report.kept
        else f"On the images tried its outputs differed by {report.difference:.1e} of the largest."
    )
    return (
        f"It is `{recipe.target.model}` with the weights of `{source}` (sha256 `{recipe.sources[0].sha256}`), grown by kzoo's "
        f"method {recipe.method} from {report.before:,} learned entries to {report.after:,}. {same}"
    )


def _trained(recipe: Recipe, metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None or recipe.data is None:
        return ["It has not been trained since."]
    test, task = metrics["test"], plain_task(recipe.data.task)
    what = "It has not been trained since." if recipe.training is None else f"Then trained on `{task}`."
    return [f"{what} Accuracy on the {test['images']:,} test images of `{task}`: {test['accuracy']:.1%}."]


def _loading(spec: NetworkSpec) -> str:
    if spec.library == "timm" and not spec.edits:
        return (
            '```python\nimport timm\n\nmodel = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)\n```'
        )
    trust = ", trust_code=True" if spec.library == "py" else ""
    return f'```python\nimport kzoo\n\nmodel = kzoo.load("PATH_OF_THIS_FOLDER"{trust})\n```'


def _rebuilding() -> str:
    return "`kzoo run recipe.yaml --out DIR` makes it again, byte for byte on one class of machine."

"""Classification architectures and checkpoints that torchvision knows, read without weights."""

from __future__ import annotations

import math
from typing import Any

import torchvision
from torch import nn
from torchvision.models import get_model_builder, get_model_weights, list_models

from kzoo.catalog import ArchitectureEntry, Checkpoint
from kzoo.errors import InputError
from kzoo.layers import Architecture
from kzoo.licenses import OTHER, UNKNOWN
from kzoo.readers.module import module_architecture, without_weights
from kzoo.readers.variants import Variant, head_layers

LIBRARY = "torchvision"
# A local version label ("+cu130") names the build, not what the package contains.
VERSION = torchvision.__version__.partition("+")[0]

# torchvision gives only the addresses of licenses; timm names the license of the same weights.
_LICENSES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "cc-by-nc-4.0"}
_CLASSES = 1000
_DEFAULT_SIZE = 224


def families() -> dict[str, list[str]]:
    """Classification architecture names by the module that defines them, both sorted."""
    by_family: dict[str, list[str]] = {}
    for name in sorted(list_models(module=torchvision.models)):
        by_family.setdefault(get_model_builder(name).__module__.rpartition(".")[2], []).append(name)
    return dict(sorted(by_family.items()))


def build(
    name: str,
    classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    submodule: str | None = None,
) -> Architecture:
    """The architecture ``name``, with another head or image size where given.

    Raises:
        InputError: other input channels are asked for, which torchvision's networks do not offer.
    """
    if in_chans not in (None, 3):
        raise InputError(
            f"torchvision:{name} takes 3 input channels only, not {in_chans}: use the timm network of that name"
        )
    # Only vision transformers have an entry for every place of the image; the others do not take its size.
    options = {"num_classes": classes, "image_size": img_size if name.startswith("vit_") else None}
    return module_architecture(_module(name, **options), f"{LIBRARY}:{name}", submodule)


def _module(name: str, **options: int | None) -> nn.Module:
    # RegNets compute their widths with tensors while they are built, which needs real ones.
    with without_weights(on_cpu=name.startswith("regnet")):
        module: nn.Module = get_model_builder(name)(
            **{key: value for key, value in options.items() if value is not None}
        )
    return module


def variants(entry: ArchitectureEntry) -> list[Variant]:
    """The forms that the checkpoints of ``entry`` need; the default is the first."""
    known = {weight.name for weight in get_model_weights(entry.name)}
    found = _variants(entry.name, tuple(checkpoint.tag for checkpoint in entry.checkpoints if checkpoint.tag in known))
    for checkpoint in entry.checkpoints:
        if checkpoint.tag not in known:
            # A checkpoint that people added: the registry says what torchvision does not know.
            size = None if checkpoint.input_size is None else checkpoint.input_size[1]
            found.append(Variant(build(entry.name, checkpoint.classes, img_size=size), (checkpoint.tag,)))
    return found


def _variants(name: str, tags: tuple[str, ...]) -> list[Variant]:
    """The form that all checkpoints of ``name`` share, and the headless one of those that are trained features only."""
    architecture, one_more = build(name), build(name, classes=_CLASSES + 1)
    growth = one_more.entries - architecture.entries
    headless = tuple(tag for tag in tags if _headless(name, tag))
    whole = tuple(tag for tag in tags if tag not in headless)
    found = [Variant(architecture, ("", *whole), head_layers(architecture, one_more), growth)]
    return [*found, Variant(_features(name), headless)] if headless else found


def _headless(name: str, tag: str) -> bool:
    return get_model_weights(name)[tag].meta["categories"] is None


def _features(name: str) -> Architecture:
    """``name`` without its classifier, whose entries such a checkpoint leaves without values."""
    module = _module(name)
    module.classifier = nn.Identity()
    return module_architecture(module, f"{LIBRARY}:{name}")


def entry(name: str) -> ArchitectureEntry:
    """The registry's entry for ``name`` with all its checkpoints, torchvision's default first."""
    weights = list(get_model_weights(name))
    default = get_model_weights(name).DEFAULT if weights else None
    weights.sort(key=lambda weight: (weight is not default, weight.name))
    forms = _variants(name, tuple(weight.name for weight in weights))
    parameters = {tag: form.architecture.entries for form in forms for tag in form.tags}
    return ArchitectureEntry(
        name=name,
        parameters=parameters[""],
        classes=_CLASSES,
        input_size=[3, _crop(default), _crop(default)],
        checkpoints=[_checkpoint(name, weight, parameters[weight.name]) for weight in weights],
    )


def _crop(weight: Any) -> int:
    return int(weight.transforms.keywords["crop_size"]) if weight is not None else _DEFAULT_SIZE


def _checkpoint(name: str, weight: Any, parameters: int) -> Checkpoint:
    link = weight.meta.get("license")
    swag = ["instagram-3.6b"] if "SWAG" in weight.name else []
    return Checkpoint(
        id=f"{LIBRARY}/{name}.{weight.name}",
        tag=weight.name,
        license=_LICENSES.get(link, OTHER) if link else UNKNOWN,
        license_name=None if link in _LICENSES else link,
        license_link=link,
        classes=len(weight.meta["categories"] or ()),
        input_size=[3, _crop(weight), _crop(weight)],
        trained_on=[*swag, "imagenet-1k"],
        parameters=parameters,
        metrics={
            dataset.lower(): {"top1": values["acc@1"], "top5": values["acc@5"]}
            for dataset, values in weight.meta["_metrics"].items()
            if not math.isnan(values["acc@1"])
        },
        url=weight.url,
    )

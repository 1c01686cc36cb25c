"""Fuse trained networks: what a recipe of fusion needs is read or measured, and the parents become one network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kzoo.building import NetworkSpec
from kzoo.errors import InputError
from kzoo.growing import example_of
from kzoo.layout import side_input
from kzoo.methods.fusion.importance import fisher
from kzoo.methods.fusion.inputs import input_grams
from kzoo.methods.fusion.methods import FusionParameters, Parents, described, fuse
from kzoo.methods.fusion.parents import check_digests, check_parents
from kzoo.methods.probing import example_images
from kzoo.recipe import Recipe, SideInput, public_path
from kzoo.side_inputs import read_side_input
from kzoo.surroundings import Surroundings
from kzoo.trained_modules import load_trained
from kzoo.training.batches import prepare
from kzoo.weights import TrainedNetwork

_MEASURED: Mapping[str, Callable[[nn.Module, Tensor], dict[str, Tensor]]] = {"fisher": fisher, "gram": input_grams}


@dataclass(frozen=True)
class FusionReport:
    """What a fusion did.

    ``parents`` are what people call the networks; ``alignments`` tell for each but the first how alike its weights, or
    activations, were to the first one's ``before`` its channels were put into that one's order, and then (``similarity``);
    ``entries`` counts learned entries. All of them come from the parents (``shares``).
    """

    method: str
    parameters: Mapping[str, Any]
    parents: tuple[str, ...]
    entries: int
    shares: Mapping[str, float]
    alignments: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class FusedStart:
    """A fused network, the report, and files that were measured on the way: what the recipe says of them, and contents."""

    module: nn.Module
    report: FusionReport
    inputs: tuple[SideInput, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def fused_start(recipe: Recipe, spec: NetworkSpec, where: Surroundings, parameters: FusionParameters) -> FusedStart:
    """The network that a recipe fuses.

    Raises:
        InputError: the parents do not fit each other, or something that the method needs is missing.
        CheckFailed: a file is not the one that the recipe names.
    """
    trained = [where.checked(source) for source in recipe.sources]
    names = [public_path(one.name) for one in trained]
    if len(trained) < 2:
        raise InputError(
            f"the recipe has {len(trained)} source: method {recipe.method} fuses two networks or more; to carry one "
            "network's weights into another there is kzoo transfer"
        )
    check_digests(names, [one.sha256 for one in trained])
    check_parents(names, [one.tensors for one in trained])
    modules = [load_trained(one, spec, where.zoo, where.trust_code) for one in trained]
    needed = parameters.needs
    images = _images(recipe, where, parameters)
    example = _example(recipe, images)
    if example is None:
        example = example_of(spec, modules[0])
    side, inputs, files = _side_inputs(recipe, where, modules, images, needed)
    parents = Parents(
        modules,
        example_images(modules[0]) if example is None else example,
        _start(recipe, where, trained[0]) if "start" in needed else None,
        side.get("fisher"),
        side.get("gram"),
        [one for one in images if one is not None]
        if "images" in needed and all(one is not None for one in images)
        else None,
    )
    found = fuse(recipe.method, parameters, parents)
    learned = dict(found.module.named_parameters())
    report = FusionReport(
        recipe.method,
        parameters.model_dump(exclude_none=True),
        tuple(names),
        sum(parameter.numel() for parameter in learned.values()),
        dict.fromkeys(learned, 1.0),
        tuple(described(found.alignments)),
    )
    return FusedStart(found.module, report, tuple(inputs), files)


def _images(recipe: Recipe, where: Surroundings, parameters: FusionParameters) -> list[Tensor | None]:
    """Unlabelled images of each source, ready for the networks; None where the recipe names none, or nothing needs them."""
    used = images_used(recipe, parameters)
    splits = [
        where.data(source.images).train if source.images is not None and use else None
        for source, use in zip(recipe.sources, used, strict=True)
    ]
    return [None if split is None else prepare(split.images[torch.arange(len(split))]) for split in splits]


def images_used(recipe: Recipe, parameters: FusionParameters) -> list[bool]:
    """Of each source, whether its images are looked at: not where all that they would be measured for is in files.

    An alignment traces the networks on images of the size that the recipe names, or else on the images themselves.
    """
    known = {(one.kind, one.source) for one in recipe.inputs}
    measured = parameters.needs & _MEASURED.keys()
    return [
        "images" in parameters.needs
        or any((kind, number) not in known for kind in measured)
        or bool(measured and parameters.align != "none" and source.images is not None and source.images.size is None)
        for number, source in enumerate(recipe.sources)
    ]


def _example(recipe: Recipe, images: Sequence[Tensor | None]) -> Tensor | None:
    """Images, or noise of the size of images, to trace networks on; None where the recipe says nothing of images."""
    for source, some in zip(recipe.sources, images, strict=True):
        if some is not None:
            return some[:2]
        if source.images is not None and source.images.size is not None and source.images.channels is not None:
            shape = (2, source.images.channels, source.images.size, source.images.size)
            return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return None


def _start(recipe: Recipe, where: Surroundings, like: TrainedNetwork) -> Mapping[str, Tensor] | None:
    """The weights that all sources were trained from.

    Raises:
        InputError: they are those of another network.
    """
    if recipe.start is None:
        return None
    trained = where.checked(recipe.start)
    for name, tensor in like.tensors.items():
        if name not in trained.tensors or trained.tensors[name].shape != tensor.shape:
            raise InputError(
                f"the start {public_path(trained.name)} is no network like {public_path(like.name)}: its {name} "
                f"{'differs in shape' if name in trained.tensors else 'is missing'}; give the weights that both began with"
            )
    return trained.tensors


def _side_inputs(
    recipe: Recipe,
    where: Surroundings,
    modules: Sequence[nn.Module],
    images: Sequence[Tensor | None],
    needed: frozenset[str],
) -> tuple[dict[str, list[dict[str, Tensor]]], list[SideInput], dict[str, bytes]]:
    """By kind, what is known of each source: from the recipe's files, or measured on its images; and the new files."""
    found: dict[str, list[dict[str, Tensor]]] = {}
    inputs: list[SideInput] = []
    files: dict[str, bytes] = {}
    for kind in sorted(needed & _MEASURED.keys()):
        each = []
        for number, (module, some) in enumerate(zip(modules, images, strict=True)):
            known = next((one for one in recipe.inputs if (one.kind, one.source) == (kind, number)), None)
            if known is not None:
                each.append(read_side_input(known, where.base, module))
            elif some is not None:
                tensors = {name: tensor.contiguous() for name, tensor in _MEASURED[kind](module, some).items()}
                content = save(tensors, metadata={"format": "pt"})
                name = side_input(kind, number)
                files[name] = content
                inputs.append(
                    SideInput(kind=kind, source=number, path=name, sha256=hashlib.sha256(content).hexdigest())  # type: ignore[arg-type]
                )
                each.append(tensors)
        if len(each) == len(modules):
            found[kind] = each
    return found, inputs, files

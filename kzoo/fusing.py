"""Fuse trained networks: what a recipe of fusion needs is read or measured, and the parents become one network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kzoo.building import NetworkSpec
from kzoo.errors import CheckFailed, InputError
from kzoo.growing import example_of
from kzoo.hashing import weights_sha256
from kzoo.methods.fusion.importance import fisher
from kzoo.methods.fusion.inputs import input_grams
from kzoo.methods.fusion.methods import FusionParameters, Parents, described, fuse
from kzoo.methods.fusion.parents import check_digests, check_parents
from kzoo.methods.probing import example_images
from kzoo.recipe import Recipe, SideInput, public_path
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
    images = _images(recipe, where, needed)
    example = next((one[:2] for one in images if one is not None), None)
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


def _images(recipe: Recipe, where: Surroundings, needed: frozenset[str]) -> list[Tensor | None]:
    """Unlabelled images of each source, ready for the networks; None where the recipe names none, or nothing needs them."""
    if not needed & {"images", "fisher", "gram"}:
        return [None] * len(recipe.sources)
    splits = [None if source.images is None else where.data(source.images).train for source in recipe.sources]
    return [None if split is None else prepare(split.images[torch.arange(len(split))]) for split in splits]


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
                each.append(_read(known, where.base))
            elif some is not None:
                tensors = {name: tensor.contiguous() for name, tensor in _MEASURED[kind](module, some).items()}
                content = save(tensors, metadata={"format": "pt"})
                name = f"{kind}-{number}.safetensors"
                files[name] = content
                inputs.append(
                    SideInput(kind=kind, source=number, path=name, sha256=hashlib.sha256(content).hexdigest())  # type: ignore[arg-type]
                )
                each.append(tensors)
        if len(each) == len(modules):
            found[kind] = each
    return found, inputs, files


def _read(known: SideInput, base: Path) -> dict[str, Tensor]:
    path = base / known.path
    try:
        digest = weights_sha256([path])
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error!s:.200}): give the file that the recipe names") from None
    if digest != known.sha256:
        raise CheckFailed(f"{known.path} has the sha256 {digest}, but the recipe was made with {known.sha256}")
    return found

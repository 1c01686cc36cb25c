"""Fuse trained networks: what a recipe of fusion needs is read or measured, and the parents become one network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kzoo.building import NetworkSpec, build_network, outline
from kzoo.edits import copied
from kzoo.errors import InputError
from kzoo.growing import example_of
from kzoo.layout import side_input
from kzoo.loading import load_values
from kzoo.methods.fusion.classifiers import check_outputs, expanded_state, union_of_classes
from kzoo.methods.fusion.importance import fisher
from kzoo.methods.fusion.inputs import input_grams
from kzoo.methods.fusion.methods import Fused, FusionParameters, Parents, described, fuse
from kzoo.methods.fusion.parents import check_classes, check_digests, check_parents, check_start
from kzoo.methods.fusion.states import module_roles
from kzoo.methods.probing import example_images
from kzoo.recipe import Recipe, SideInput, public_names
from kzoo.side_inputs import read_side_input, require_measured
from kzoo.streamed_fusing import check_streams, fuse_streamed
from kzoo.surroundings import Surroundings
from kzoo.tensor_fusing import measured_files
from kzoo.trained_modules import load_trained, require_fit
from kzoo.training.batches import prepare
from kzoo.training.evaluation import evaluation_mode, place
from kzoo.weights import TrainedNetwork

#: How what is known of a network beside its weights is measured on images.
MEASURED: Mapping[str, Callable[[nn.Module, Tensor], dict[str, Tensor]]] = {"fisher": fisher, "gram": input_grams}

#: Bytes that are fused in a moment, so that no progress is told.
_QUIET = 200_000_000


@dataclass(frozen=True)
class FusionReport:
    """What a fusion did.

    ``parents`` are what people call the networks; ``alignments`` tell for each but the first how alike its weights, or
    activations, were to the first one's ``before`` its channels were put into that one's order, and then (``similarity``);
    ``entries`` counts learned entries. All of them come from the parents (``shares``). ``classes`` are what the outputs
    stand for, where that is known.
    """

    method: str
    parameters: Mapping[str, Any]
    parents: tuple[str, ...]
    entries: int
    shares: Mapping[str, float]
    alignments: tuple[Mapping[str, Any], ...] = ()
    classes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class FusedStart:
    """A fused network, the report, and files that were measured on the way: what the recipe says of them, and contents.

    Where there is ``write``, the module has no weights, and that makes their files in a folder.
    """

    module: nn.Module
    report: FusionReport
    inputs: tuple[SideInput, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    write: Callable[[Path], object] | None = None

    def size(self) -> int:
        """The bytes of the network and of the files."""
        weights: int = sum(tensor.nbytes for tensor in self.module.state_dict().values())
        return weights + sum(len(content) for content in self.files.values())

    def copied(self) -> FusedStart:
        """The same with a network of its own, to train or measure anew."""
        return replace(self, module=copied(self.module))


def fused_start(recipe: Recipe, spec: NetworkSpec, where: Surroundings, parameters: FusionParameters) -> FusedStart:
    """The network that a recipe fuses.

    Raises:
        InputError: the parents do not fit each other, or something that the method needs is missing.
        CheckFailed: a file is not the one that the recipe names.
    """
    trained = [where.checked(source) for source in recipe.sources]
    names = public_names([one.name for one in trained])
    if len(trained) < 2:
        raise InputError(
            f"the recipe has {len(trained)} source: method {recipe.method} fuses two networks or more; to carry one "
            "network's weights into another there is kzoo transfer"
        )
    classes = _classes(recipe, spec, where, parameters)
    heads = head_tensors(spec, where) if parameters.heads == "joined" else ()
    check_digests(names, [one.sha256 for one in trained])
    began = where.checked(recipe.start) if recipe.start is not None and "start" in parameters.needs else None
    if streams(recipe, parameters, trained, began):
        return _streamed_start(recipe, spec, where, parameters, trained, classes)
    made = partial(_made, recipe, spec, where, parameters, trained, classes, heads)
    decides = (recipe.method, parameters.model_dump_json(), *_decides(recipe, spec))
    return where.remembered.once(decides, made, FusedStart.size, FusedStart.copied)


def _decides(recipe: Recipe, spec: NetworkSpec) -> tuple[Hashable, ...]:
    """What decides how parents are fused, beside the method and its parameters."""
    sources = tuple(
        (one.path, one.sha256, one.submodule, one.images, tuple(one.classes or ())) for one in recipe.sources
    )
    start = None if recipe.start is None else (recipe.start.sha256, recipe.start.submodule)
    inputs = tuple((one.kind, one.source, one.sha256) for one in recipe.inputs)
    return (repr(spec), sources, start, inputs, torch.get_num_threads())


def _made(
    recipe: Recipe,
    spec: NetworkSpec,
    where: Surroundings,
    parameters: FusionParameters,
    trained: Sequence[TrainedNetwork],
    classes: Sequence[Sequence[str]] | None,
    heads: Sequence[str],
) -> FusedStart:
    """The network that a recipe fuses, in memory."""
    names = public_names([one.name for one in trained])
    check_parents(names, [one.tensors for one in trained], heads)
    if heads and classes:
        for name, one, own in zip(names, trained, classes, strict=True):
            check_outputs(name, [one.tensors[head] for head in heads], own)
    specs = [_with_outputs(spec, one) for one in classes] if heads and classes else [spec] * len(trained)
    modules = [load_trained(one, own, where.zoo, where.trust_code) for one, own in zip(trained, specs, strict=True)]
    needed = parameters.needs
    images = _images(recipe, where, parameters)
    check_images(names, modules, images)
    example = _example(recipe, images)
    if example is None:
        example = example_of(specs[0], modules[0])
    side, inputs, files = _side_inputs(recipe, where, specs, modules, images, needed)
    parents = Parents(
        modules,
        example_images(modules[0]) if example is None else example,
        _start(recipe, where, trained[0], heads) if "start" in needed else None,
        side.get("fisher"),
        side.get("gram"),
        [one for one in images if one is not None]
        if "images" in needed and all(one is not None for one in images)
        else None,
    )
    if heads:
        assert classes is not None
        parents = _side_by_side(parents, classes, heads, lambda: build_network(spec, where.zoo, 0, where.trust_code))
    found = fuse(recipe.method, parameters, parents)
    report = fusion_report(recipe.method, parameters, names, found, classes)
    return FusedStart(found.module, report, tuple(inputs), files)


def streams(
    recipe: Recipe, parameters: FusionParameters, trained: Sequence[TrainedNetwork], start: TrainedNetwork | None
) -> bool:
    """Whether weights can be fused from file to file: nothing needs a network with weights, and all lie in files of one type.

    ``trained`` are the sources, and ``start`` what they were trained from, where the method needs it.
    """
    every = [*trained, *([start] if start is not None else [])]
    used = (recipe.data, recipe.training, recipe.recalibrate, recipe.comparison)
    known = {one.source for one in recipe.inputs if one.kind == "fisher"}
    measured = "fisher" not in parameters.needs or known == set(range(len(recipe.sources)))
    began = "start" not in parameters.needs or start is not None
    kinds = [{tensor.dtype for tensor in one.tensors.values()} for one in every]
    # A module has one type of fractions, and counts in 64 bits.
    plain = all(
        sum(kind.is_floating_point for kind in each) == 1
        and all(kind.is_floating_point or kind == torch.int64 for kind in each)
        for each in kinds
    )
    files = all(one.file is not None and one.submodule is None for one in every)
    return parameters.by_tensor and all(one is None for one in used) and measured and began and plain and files


def _streamed_start(
    recipe: Recipe,
    spec: NetworkSpec,
    where: Surroundings,
    parameters: FusionParameters,
    trained: Sequence[TrainedNetwork],
    classes: Sequence[Sequence[str]] | None,
) -> FusedStart:
    """The same network without weights; they are fused when they are written."""
    names = public_names([one.name for one in trained])
    files = [one.file for one in trained if one.file is not None]
    check_streams(names, files)
    module = outline(spec, where.zoo, where.trust_code)
    require_fit(trained[0], spec, module)
    if "start" in parameters.needs:
        _start(recipe, where, trained[0])
    start = where.checked(recipe.start).file if recipe.start is not None and "start" in parameters.needs else None
    measured = measured_files(recipe, where.base) if "fisher" in parameters.needs else None
    for known in recipe.inputs if measured is not None else ():
        require_measured(known, where.base / known.path, module)
    roles = module_roles(module)

    def write(folder: Path) -> None:
        told = where.progress if sum(one.path.stat().st_size for one in files) > _QUIET else None
        fuse_streamed(
            parameters,
            names,
            files,
            folder,
            start=start,
            importance=measured,
            roles=roles,
            sharded=False,
            progress=told or (lambda _what, _done: None),
        )

    return FusedStart(module, fusion_report(recipe.method, parameters, names, Fused(module), classes), write=write)


def fusion_report(
    method: str,
    parameters: FusionParameters,
    names: Sequence[str],
    found: Fused,
    classes: Sequence[Sequence[str]] | None,
) -> FusionReport:
    """What is told of a fusion."""
    learned = dict(found.module.named_parameters())
    return FusionReport(
        method,
        parameters.model_dump(exclude_none=True),
        tuple(names),
        sum(parameter.numel() for parameter in learned.values()),
        dict.fromkeys(learned, 1.0),
        tuple(described(found.alignments)),
        tuple(union_of_classes(classes)) if classes is not None else (),
    )


def head_tensors(spec: NetworkSpec, where: Surroundings) -> tuple[str, ...]:
    """The tensors of a network's classifiers: those that have more entries where there is one more class."""
    shapes = [
        {name: tensor.shape for name, tensor in outline(one, where.zoo, where.trust_code).state_dict().items()}
        for one in (spec, _with_outputs(spec, range((spec.options.classes or 0) + 1)))
    ]
    return tuple(name for name, shape in shapes[0].items() if shapes[1].get(name) != shape)


def _with_outputs(spec: NetworkSpec, classes: Sequence[Any]) -> NetworkSpec:
    return replace(spec, options=replace(spec.options, classes=len(classes)))


def _classes(
    recipe: Recipe, spec: NetworkSpec, where: Surroundings, parameters: FusionParameters
) -> list[list[str]] | None:
    """What the outputs of each parent stand for, where that is known of all.

    Raises:
        InputError: they do not fit the way in which classifiers are fused, the target, or the images to test on.
    """
    names = public_names([source.path for source in recipe.sources])
    known = [source.classes for source in recipe.sources if source.classes is not None]
    if len(known) < len(names):
        if parameters.heads == "joined":
            unnamed = next(name for name, one in zip(names, recipe.sources, strict=True) if one.classes is None)
            raise InputError(
                f"it is not known what the outputs of {unnamed} stand for: name its classes in order (--classes a,b,c, once for "
                "each network)"
            )
        return None
    union = union_of_classes(known)
    if parameters.heads == "shared":
        check_classes(names, known)
    if spec.options.classes not in (None, len(union)):
        raise InputError(
            f"the network has {spec.options.classes} outputs, and {len(union)} classes are named: name each output (--classes), or "
            f"set the recipe's target.classes to {len(union)} for classifiers that are joined"
        )
    tested = None if recipe.data is None else where.data(recipe.data)
    if tested is not None and list(tested.classes) != union:
        raise InputError(
            f"the outputs stand for {', '.join(union):.80}, and {tested.name} has the classes "
            f"{', '.join(tested.classes):.80}: give the networks in the order of the classes, or other images"
        )
    return known


def _side_by_side(
    parents: Parents, classes: Sequence[Sequence[str]], heads: Sequence[str], build: Callable[[], nn.Module]
) -> Parents:
    """The same parents with the outputs of the union of classes, as `build` makes such a network."""
    union = union_of_classes(classes)
    modules = []
    for module, names in zip(parents.modules, classes, strict=True):
        wide = build().to(place(module)[1]).eval()
        load_values(wide, expanded_state(module.state_dict(), heads, names, union))
        modules.append(wide)
    return parents.joined(modules, classes, heads)


def _images(recipe: Recipe, where: Surroundings, parameters: FusionParameters) -> list[Tensor | None]:
    """Unlabelled images of each source, ready for the networks; None where the recipe names none, or nothing needs them."""
    used = images_used(recipe, parameters)
    splits = [
        where.data(source.images).train if source.images is not None and use else None
        for source, use in zip(recipe.sources, used, strict=True)
    ]
    return [None if split is None else prepare(split.images[torch.arange(len(split))]) for split in splits]


def check_images(names: Sequence[str], modules: Sequence[nn.Module], images: Sequence[Tensor | None]) -> None:
    """Refuse images that a network does not take, or that are not finite.

    Raises:
        InputError: there are such.
    """
    for name, module, some in zip(names, modules, images, strict=True):
        if some is None:
            continue
        if not some.isfinite().all():
            raise InputError(f"the images of {name} hold values that are NaN or infinite: give others")
        try:
            with torch.no_grad(), evaluation_mode(module):
                module(some[:1].to(*place(module)))
        except Exception as error:  # networks raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{name} does not take images of {'x'.join(map(str, some.shape[1:]))} ({reason:.160}): give images of its "
                "channels and size (--image-size)"
            ) from None


def images_used(recipe: Recipe, parameters: FusionParameters) -> list[bool]:
    """Of each source, whether its images are looked at: not where all that they would be measured for is in files.

    An alignment traces the networks on images of the size that the recipe names, or else on the images themselves.
    """
    known = {(one.kind, one.source) for one in recipe.inputs}
    measured = parameters.needs & MEASURED.keys()
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


def _start(
    recipe: Recipe, where: Surroundings, like: TrainedNetwork, heads: Sequence[str] = ()
) -> Mapping[str, Tensor] | None:
    """The weights that all sources were trained from; their classifiers may be of any size where those are joined.

    Raises:
        InputError: they are those of another network.
    """
    if recipe.start is None:
        return None
    trained = where.checked(recipe.start)
    check_start(trained.tensors, like.tensors, heads)
    return trained.tensors


@dataclass(frozen=True)
class _Measured:
    """What was measured of a network: tensors by name, and the safetensors file that they are, with its sha256."""

    tensors: Mapping[str, Tensor]
    content: bytes
    sha256: str

    def size(self) -> int:
        """The bytes that it takes."""
        return len(self.content) + sum(tensor.nbytes for tensor in self.tensors.values())


def _measured(kind: str, module: nn.Module, images: Tensor) -> _Measured:
    tensors = {name: tensor.contiguous() for name, tensor in MEASURED[kind](module, images).items()}
    content = save(tensors, metadata={"format": "pt"})
    return _Measured(tensors, content, hashlib.sha256(content).hexdigest())


def _side_inputs(
    recipe: Recipe,
    where: Surroundings,
    specs: Sequence[NetworkSpec],
    modules: Sequence[nn.Module],
    images: Sequence[Tensor | None],
    needed: frozenset[str],
) -> tuple[dict[str, list[dict[str, Tensor]]], list[SideInput], dict[str, bytes]]:
    """By kind, what is known of each source: from the recipe's files, or measured on its images; and the new files."""
    found: dict[str, list[dict[str, Tensor]]] = {}
    inputs: list[SideInput] = []
    files: dict[str, bytes] = {}
    for kind in sorted(needed & MEASURED.keys()):
        each = []
        for number, (module, some) in enumerate(zip(modules, images, strict=True)):
            known = next((one for one in recipe.inputs if (one.kind, one.source) == (kind, number)), None)
            if known is not None:
                each.append(read_side_input(known, where.base, module))
            elif some is not None:
                source = recipe.sources[number]
                decides = (kind, source.sha256, source.submodule, source.images, repr(specs[number]))
                measured = where.remembered.once(
                    (*decides, torch.get_num_threads()), partial(_measured, kind, module, some), _Measured.size
                )
                name = side_input(kind, number)
                files[name] = measured.content
                inputs.append(SideInput(kind=kind, source=number, path=name, sha256=measured.sha256))  # type: ignore[arg-type]
                each.append(dict(measured.tensors))
        if len(each) == len(modules):
            found[kind] = each
    return found, inputs, files

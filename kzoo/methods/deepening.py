"""Net2DeeperNet (arXiv 1511.05641, section 2.3): a deeper network that computes the same function.

Three ways, whichever the architecture allows:

* a residual stage gets another block like its last one, of which every residual branch vanishes at its last layer scale,
  normalisation or projection; the rest of it is freshly initialised;
* behind an activation that is idempotent (ReLU, ReLU6) comes an identity layer with that activation; a batch
  normalisation in it is undone by gamma and beta, from statistics of calibration images;
* where asked for (``kind="residual"``), any layer gets a residual layer of zero output behind it.

Residual blocks and layers preserve the function in evaluation and in training mode. An inserted batch normalisation does
so exactly in evaluation mode, and in training mode on the calibration batch alone; on other batches approximately.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kzoo.building import seeded
from kzoo.edits import (
    ACTIVATIONS,
    Deeper,
    Edit,
    append_edit,
    computed_tensors,
    copied,
    find_module,
    insert_edit,
    is_stage,
)
from kzoo.errors import InputError
from kzoo.methods.preserving import (
    NoIdentity,
    Proposal,
    identity_kernel,
    make_identity,
    propose,
    tensors_of,
    undo_normalisation,
)
from kzoo.methods.probing import (
    Call,
    Output,
    calls,
    chain_of,
    example_images,
    measure_inputs,
    outputs_of,
    source_of,
    survey,
)
from kzoo.training.evaluation import evaluation_mode, place
from kzoo.unstriding import FORMS

Kind = Literal["auto", "identity", "residual"]
Init = Literal["fresh", "copy"]

ALL = "all"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Largest relative difference of the outputs, as a share of the largest output; by the type of the network's numbers.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_BLOCK_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
_ROUGH = 5e-2
_IDEMPOTENT = ("relu", "relu6")
_BATCH = 64
_PROBED = 2
_LARGEST_KERNEL = 3


@dataclass(frozen=True)
class Deepening:
    """A deepened copy of a network.

    ``edits`` make the same structure of the original (`kzoo.edits.apply_edits`); ``added`` are the names of the new parts;
    ``skipped`` tells of each stage that could not be deepened why.
    """

    module: nn.Module
    edits: list[Edit] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def deepen_module(
    module: nn.Module,
    at: str | Sequence[str] = ALL,
    *,
    calibration: Tensor | None = None,
    example: Tensor | None = None,
    kind: Kind = "auto",
    norm: bool | None = None,
    init: Init = "fresh",
    seed: int = 0,
) -> Deepening:
    """A deeper copy of a network that computes the same function.

    ``at`` names one or several places: a stage (a container of blocks; a block like its last is appended), a block with
    a shortcut (another like it comes behind), or a layer (an identity layer comes behind its activation). ``"all"`` deepens
    every stage by one block, or, in a network without residual stages, every resolution by one identity layer.

    ``calibration`` are images ready for the network (N x C x H x W, floats, normalised); needed where a batch
    normalisation is inserted, and for training mode where one is on the shortcut of a block (as in RepVGG). Without them the
    network is run on ``example``, or on noise of the size that it seems to take. ``norm`` says
    whether an identity layer has one (None: as the layer before it). ``kind`` ``"residual"`` puts a residual layer of zero
    output behind any layer. ``init`` is what the parameters of a new block that need not vanish hold: fresh values by
    ``seed``, or a copy of the block that it is like.

    Raises:
        InputError: a name is unknown, the function cannot be preserved there, or calibration images are missing.
    """
    for name, value, known in (("kind", kind, ("auto", "identity", "residual")), ("init", init, ("fresh", "copy"))):
        if value not in known:
            raise InputError(f"{name}={value!r} is not possible: expected one of {', '.join(known)}")
    images = _checked(calibration)
    if images is None:
        images = example_images(module) if example is None else example
    images = images.to(*place(module))
    work = _Work(copied(module), images, calibration is not None, norm, init, seed)
    if at == ALL:
        work.everywhere(kind)
    else:
        # A layer that is put into a chain changes the names behind it.
        parts = [find_module(work.module, name) for name in ([at] if isinstance(at, str) else at)]
        for part in parts:
            work.at(work.name_of(part), kind)
    for remembered, key, tensor in computed_tensors(work.module):
        # It would keep the graph of a pass, and nobody could copy the module.
        remembered[key] = tensor.detach()
    return Deepening(work.module, work.edits, work.added, work.skipped)


def _checked(calibration: Tensor | None) -> Tensor | None:
    if calibration is None:
        return None
    if not isinstance(calibration, Tensor) or not calibration.is_floating_point() or calibration.ndim < 2:
        raise InputError(
            "calibration images are no floats of N x C x H x W: prepare them as the network is trained on them"
        )
    if len(calibration) < _PROBED:
        raise InputError(f"there are {len(calibration)} calibration images: expected {_PROBED} or more")
    if not torch.isfinite(calibration).all():
        raise InputError("calibration images hold values that are not finite: give others")
    return calibration


class _Work:
    """A network that is being deepened."""

    def __init__(
        self, module: nn.Module, images: Tensor, calibrated: bool, norm: bool | None, init: Init, seed: int
    ) -> None:
        self.module, self.images, self.calibrated = module, images, calibrated
        self.norm, self.init, self.seed = norm, init, seed
        self.probe = images[:_PROBED]
        self.before = outputs_of(module, self.probe)
        self.edits: list[Edit] = []
        self.added: list[str] = []
        self.skipped: dict[str, str] = {}
        self.shapes: set[tuple[Any, ...]] = set()

    # Where

    def everywhere(self, kind: Kind) -> None:
        """A block per stage; or an identity layer per resolution."""
        if kind == "auto":
            for name, edits in stage_edits(self.module, self.probe, self.skipped):
                self._try(name, edits)
            stages = [str(edit["stage"]) for edit in self.edits]
            for block in lone_blocks(self.module, self.probe, stages, self.shapes):
                # Names behind one that was put into a chain are others by now.
                name = self.name_of(block)
                self._try(name, [{"edit": "insert", "after": name, "like": name}])
        if not self.edits:
            for output in resolutions(survey(self.module, self.probe), _IDEMPOTENT if kind != "residual" else None):
                self._insert_or_skip(output, kind)
        if not self.edits:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:2])
            raise InputError(
                f"{type(self.module).__name__} has neither a residual stage nor an idempotent activation (ReLU) that a layer "
                f"could follow{f' ({why:.300})' if why else ''}: use kind='residual', or DILS"
            )

    def _try(self, name: str, edits: Sequence[Edit]) -> None:
        """The first of several edits that preserves the function."""
        for edit in edits:
            try:
                self._add_block(edit, residual=True)
            except NoIdentity as reason:
                self.skipped.setdefault(name, str(reason))
            else:
                self.skipped.pop(name, None)
                return

    def _insert_or_skip(self, output: Output, kind: Kind) -> None:
        name = self.name_of(output.module)
        try:
            self._insert_layer(name, kind)
        except InputError as reason:
            self.skipped[name] = str(reason)

    def name_of(self, part: nn.Module) -> str:
        """What a part is called by now."""
        names: dict[nn.Module, str] = {one: name for name, one in self.module.named_modules()}
        return names[part]

    def at(self, name: str, kind: Kind) -> None:
        """A block or a layer at a named place."""
        part = find_module(self.module, name)
        if kind != "auto":
            self._insert_layer(name, kind)
            return
        reason = None
        if is_stage(part):
            edits = dict(stage_edits(self.module, self.probe, {})).get(name)
            for edit in edits or [{"edit": "append", "stage": name, "like": list(part._modules)[-1]}]:
                try:
                    self._add_block(edit)
                    return
                except NoIdentity as found:
                    reason = found
        elif not isinstance(part, (*_CONVOLUTIONS, nn.Linear, _BatchNorm)) and any(True for _ in part.parameters()):
            try:
                self._add_block({"edit": "insert", "after": name, "like": name}, residual=True)
                return
            except NoIdentity as found:
                reason = found
        try:
            self._insert_layer(name, kind)
        except InputError as refused:
            if reason is None:
                raise
            raise InputError(f"{name} cannot be deepened by a block ({reason}), nor by a layer: {refused}") from None

    # A block like another

    def _add_block(self, edit: Edit, residual: bool = False) -> None:
        """Carry an edit out that copies a block, and make the copy the identity; nothing is changed where that fails."""
        undo = _undo(self.module)
        try:
            name = append_edit(self.module, edit) if edit["edit"] == "append" else str(insert_edit(self.module, edit))
            block = self.module.get_submodule(name)
            if self.init == "fresh":
                reset(block, self.seed + len(self.edits))
            for parameter in block.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            self._make_identity(name, block, residual)
            self._verify(name)
        except InputError as error:
            undo()
            raise NoIdentity(
                f"its last block changes the shape of its input, and one like it without that does not fit ({error!s:.160})"
                if "unstrided" in edit
                else str(error)
            ) from None
        except NoIdentity:
            undo()
            raise
        self.edits.append(edit)
        self.added.append(name)

    def _make_identity(self, name: str, block: nn.Module, residual: bool) -> None:
        call = calls(self.module, [name], self.probe)[name]
        if call.count != 1:
            raise NoIdentity(f"a block there would be run {call.count} times")
        proposal = _proposal(block, call)
        if residual and not is_residual(block, proposal):
            raise NoIdentity("it has no shortcut")
        make_identity(block, proposal)
        found = tensors_of(_run(block, call))
        error = relative_difference(tensors_of(call.args)[: len(found)], found)
        if not error <= _BLOCK_TOLERANCES.get(found[0].dtype, _ROUGH):
            raise NoIdentity(f"its output would differ from its input by {error:.1e} of the largest value")
        if self.calibrated:
            self._calibrate(_undone(block, proposal))
        self.shapes.add(call.given[:1])

    def _calibrate(self, norms: Sequence[_BatchNorm]) -> None:
        """Let batch normalisations undo the statistics of the calibration images, as batches in training mode have them.

        One after the other: what a later one gets depends on the earlier ones.
        """
        for norm in norms:
            ((mean, variance),) = measure_inputs(self.module, [norm], torch.split(self.images, _BATCH))
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            undo_normalisation(norm)

    def _verify(self, name: str) -> None:
        after = outputs_of(self.module, self.probe)
        error = relative_difference(self.before, after)
        most = TOLERANCES.get(self.before[0].dtype, _ROUGH)
        if not error <= most:
            raise NoIdentity(f"the network's outputs would change by {error:.1e} of the largest (at {name})")

    # A new layer

    def _insert_layer(self, name: str, kind: Kind) -> None:
        found = survey(self.module, self.probe)
        point, source = (_any_point if kind == "residual" else _idempotent_point)(name, found)
        layer = _description(point, source, kind == "residual", self._epsilon(point, source, kind))
        if "norm" in layer and not self.calibrated:
            raise InputError(
                f"a batch normalisation behind {point.name} needs images to be undone: give unlabelled ones (--data TASK, or "
                "calibration=... in Python), or an identity layer without it (--no-norm, norm=False)"
            )
        undo = _undo(self.module)
        edit: Edit = {"edit": "insert", "after": point.name, "layer": layer}
        known = set(self.module.modules())
        with seeded(self.seed + len(self.edits)):
            new = str(insert_edit(self.module, edit))
        parts = [part for part in self.module.modules() if part not in known and not isinstance(part, Deeper)]
        try:
            self._fill(parts, layer)
            self._verify(new)
        except NoIdentity as reason:
            undo()
            raise InputError(f"the function cannot be preserved behind {point.name}: {reason}") from None
        self.edits.append(edit)
        self.added.append(new)

    def _epsilon(self, point: Output, source: Output | None, kind: Kind) -> float | None:
        """The epsilon of the new layer's batch normalisation; None for none."""
        own = next((part for part in point.module.modules() if isinstance(part, _BatchNorm)), None)
        between = point.norm if own is None else own
        if self.norm is None and kind != "residual" and between is not None:
            return float(between.eps)
        if self.norm and source is not None:
            return float(between.eps) if between is not None else 1e-5
        return None

    def _fill(self, parts: Sequence[nn.Module], layer: Edit) -> None:
        device, dtype = place(self.module)
        for part in parts:
            part.to(device, dtype)
        affine = [part for part in parts if isinstance(part, (*_CONVOLUTIONS, nn.Linear))]
        norms = [part for part in parts if isinstance(part, _BatchNorm)]
        with torch.no_grad():
            for part in affine[1:] if layer.get("residual") else affine:
                if layer.get("residual"):
                    part.weight.zero_()
                else:
                    part.weight.copy_(_identity_weight(part))
                if part.bias is not None:
                    part.bias.zero_()
        if norms and not layer.get("residual"):
            self._calibrate(norms)


def _identity_weight(layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Linear):
        return torch.eye(layer.in_features)
    assert isinstance(layer, _CONVOLUTIONS)
    return identity_kernel(layer)


def _undo(module: nn.Module) -> Any:
    """What gives the module the children back that it has now."""
    children = [(part, dict(part._modules)) for part in module.modules()]

    def undo() -> None:
        for part, known in children:
            part._modules.clear()
            part._modules.update(known)

    return undo


def relative_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest difference of two networks' outputs, as a share of the largest output."""
    if [one.shape for one in before] != [one.shape for one in after]:
        return math.inf
    worst = 0.0
    for one, other in zip(before, after, strict=True):
        one, other = one.detach(), other.detach()
        worst = max(worst, float((one - other).abs().max()) / (float(one.abs().max()) or 1.0))
        if not torch.isfinite(other).all():
            return math.inf
    return worst


# Stages


def _proposal(block: nn.Module, call: Call) -> Proposal:
    with evaluation_mode(block):
        try:
            return propose(block, call.args, call.kwargs)
        except (RuntimeError, TypeError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise NoIdentity(f"it cannot be run by itself ({reason:.120})") from None


@torch.no_grad()
def _run(block: nn.Module, call: Call) -> Any:
    with evaluation_mode(block):
        return block(*call.args, **call.kwargs)


def _undone(block: nn.Module, proposal: Proposal) -> list[_BatchNorm]:
    """The batch normalisations of a block that hand their input on, in their order."""
    known = [block.get_submodule(path) for path in proposal.identities]
    return [part for part in block.modules() if isinstance(part, _BatchNorm) and part in known]


def is_residual(block: nn.Module, proposal: Proposal, direct: bool = False) -> bool:
    """Whether a block has a shortcut; with ``direct`` there is at most a batch normalisation on it."""
    on_it = [block.get_submodule(path) for path in proposal.identities] if direct else []
    return proposal.residual and all(isinstance(part, _BatchNorm) for part in on_it)


def stage_edits(module: nn.Module, images: Tensor, skipped: dict[str, str]) -> Iterator[tuple[str, list[Edit]]]:
    """The residual stages of a network in their order, each with edits that append a block like its last, the best first.

    A stage is a container whose last block has a shortcut, and of which no part is such a container itself (unless it is a
    row of alike blocks). Where the only
    block of a container changes the shape, as those do that begin a stage, blocks like it without the change are proposed,
    if it has brothers or no other stage was found.
    """
    last = _last_blocks(module)
    called = calls(module, set(last.values()), images)
    stages: dict[str, list[Edit]] = {}
    for name, child in last.items():
        call, block = called[child], module.get_submodule(child)
        if call.count != 1 or not any(True for _ in block.parameters()):
            continue
        edit: Edit = {"edit": "append", "stage": name, "like": child.rpartition(".")[2]}
        try:
            if call.given[: len(call.shapes)] != call.shapes:
                if changed := _unstriding(block, call):
                    stages[name] = [edit | {"unstrided": one} for one in changed]
            elif is_residual(block, _proposal(block, call)):
                stages[name] = [edit]
        except NoIdentity as reason:
            skipped[name] = str(reason)
    inner = _chosen(module, images, stages, last)
    for name in [name for name in skipped if any(_inside(other, name) for other in inner)]:
        del skipped[name]
    yield from ((name, stages[name]) for name in stages if name in inner)


def _chosen(module: nn.Module, images: Tensor, stages: Collection[str], last: Mapping[str, str]) -> set[str]:
    """Of containers in containers those that are stages: the inner one, unless the outer one is a row of alike blocks."""
    nested = {name for name in stages if any(_inside(other, last[name]) for other in stages if other != name)}
    children = {name: [f"{name}.{child}" for child in module.get_submodule(name)._modules][1:] for name in nested}
    called = calls(module, {child for row in children.values() for child in row}, images) if nested else {}

    def alike(row: Sequence[str]) -> bool:
        shapes = {(called[child].given[:1], called[child].shapes[:1]) for child in row}
        kinds = {type(module.get_submodule(child)) for child in row}
        return len(row) > 0 and len(kinds) == len(shapes) == 1 and all(given == shape for given, shape in shapes)

    chosen: set[str] = set()
    for name in stages:  # outer ones come first
        if any(_inside(name, other) for other in chosen):
            continue
        if name not in nested or alike(children[name]):
            chosen.add(name)
    return chosen


def _last_blocks(module: nn.Module) -> dict[str, str]:
    """The name of the last child of each container that has children."""
    return {
        name: f"{name}.{list(part._modules)[-1]}" if name else list(part._modules)[-1]
        for name, part in module.named_modules()
        if is_stage(part)
    }


def _inside(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _unstriding(block: nn.Module, call: Call) -> list[Edit]:
    """How a block that changes the shape of one map of channels might not; nothing for what is no block of several layers."""
    if len(call.given) < 1 or len(call.shapes) != 1 or len(call.given[0]) != 4 or len(call.shapes[0]) != 4:
        return []
    if _layers(block) < 2 or isinstance(block, _CONTAINERS):
        return []
    inputs, outputs = call.given[0][1], call.shapes[0][1]
    return [{"inputs": inputs, "outputs": outputs, "shortcut": form} for form in FORMS]


def lone_blocks(
    module: nn.Module, images: Tensor, stages: Sequence[str] = (), shapes: Collection[tuple[Any, ...]] = ()
) -> list[nn.Module]:
    """Blocks with a shortcut that are at the end of no stage: for each shape the last, outermost first.

    Those in ``stages``, and those whose input has one of ``shapes``, are left out.
    """
    names = [
        name
        for name, part in module.named_modules()
        if name
        and _layers(part) > 1
        and type(part).forward not in (nn.Sequential.forward, nn.ModuleList.forward)
        and not any(_inside(name, stage) for stage in stages)
    ]
    found: list[str] = []
    by_shape: dict[tuple[Any, ...], str] = {}
    called = calls(module, names, images)
    for name in names:
        call = called[name]
        if any(name.startswith(f"{outer}.") for outer in found) or call.count != 1 or not call.shapes:
            continue
        if call.given[: len(call.shapes)] != call.shapes or call.given[:1] in shapes:
            continue
        block = module.get_submodule(name)
        try:
            if is_residual(block, _proposal(block, call), direct=True):
                found.append(name)
                by_shape[call.given[:1]] = name
        except NoIdentity:
            continue
    return [module.get_submodule(name) for name in by_shape.values()]


def _layers(part: nn.Module) -> int:
    return sum(isinstance(one, (*_CONVOLUTIONS, nn.Linear)) for one in part.modules())


# Points behind which a layer can come


def resolutions(found: Sequence[Output], activations: Sequence[str] | None) -> list[Output]:
    """Of each resolution (of the images, or of tokens) the last output that comes right from one of these activations."""
    last: dict[tuple[int, ...], Output] = {}
    seen: set[int] = set()
    for output in found:
        if output.tensor in seen or output.count != 1 or not output.direct:
            continue
        if activations is not None and output.activation not in activations:
            continue
        seen.add(output.tensor)
        key = output.shape[2:] if len(output.shape) > 3 else output.shape[1:-1]
        last[key] = output
    # Outputs of one place each are those of heads and of channel gates.
    wide = [output for key, output in last.items() if math.prod(key) > 1]
    return wide or list(last.values())


def _idempotent_point(name: str, found: Sequence[Output]) -> tuple[Output, Output | None]:
    """The first module, at a name or behind it, whose output comes from an idempotent activation; and what made it."""
    chain = chain_of(name, found)
    norm = None
    for number, output in enumerate(chain):
        if output.activation is not None:
            if output.activation not in _IDEMPOTENT:
                raise InputError(
                    f"an identity layer behind {output.name} would change the function, since {output.activation} applied twice "
                    "is not itself: use kind='residual' (a residual layer of zero output), or DILS, which approximates"
                )
            if output.count != 1:
                raise InputError(
                    f"{output.name} is run {output.count} times in one pass, so that a layer behind it would come in {output.count} "
                    "places: name a block, or another layer"
                )
            output.norm = norm or _norm_before(output, found)
            return output, source_of(output, found)
        if isinstance(output.module, _BatchNorm):
            norm = output.module
        elif number and isinstance(output.module, (*_CONVOLUTIONS, nn.Linear)):
            break
    raise InputError(
        f"no activation comes right behind {name}, so that an identity layer there would only be linear: name a layer that has "
        "one, or use kind='residual'"
    )


def _any_point(name: str, found: Sequence[Output]) -> tuple[Output, Output | None]:
    output = chain_of(name, found)[0]
    if output.count != 1:
        raise InputError(f"{name} is run {output.count} times in one pass: name another layer")
    return output, source_of(output, found)


def _norm_before(point: Output, found: Sequence[Output]) -> _BatchNorm | None:
    """The batch normalisation whose output a module takes."""
    return next((one.module for one in found if one.tensor == point.taken and isinstance(one.module, _BatchNorm)), None)


def _description(point: Output, source: Output | None, residual: bool, epsilon: float | None) -> Edit:
    """A layer as `kzoo.edits` describes them, of as many outputs as inputs."""
    activation = point.activation if point.activation in ACTIVATIONS else "relu"
    axes = len(point.shape) - 2
    part = source.module if source is not None else None
    if isinstance(part, _CONVOLUTIONS) and axes in (1, 2, 3):
        channels = point.shape[1]
        kernel = part.kernel_size[0]
        same = len(set(part.kernel_size)) == 1 and kernel % 2 == 1
        layer: Edit = {"kind": f"conv{axes}d", "inputs": channels, "outputs": channels}
        layer["kernel"] = min(kernel, _LARGEST_KERNEL) if same else _LARGEST_KERNEL
        if part.groups > 1 and channels % part.groups == 0:
            layer["groups"] = part.groups
        layer["bias"] = part.bias is not None
    else:
        layer = {"kind": "linear", "inputs": point.shape[-1], "outputs": point.shape[-1], "bias": True}
        epsilon = epsilon if len(point.shape) == 2 else None
    if epsilon is not None:
        layer["norm"] = epsilon
    return layer | {"activation": activation} | ({"residual": True} if residual else {})


# Fresh values


@torch.no_grad()
def reset(block: nn.Module, seed: int) -> None:
    """Fresh values for a block's layers, in place: He et al.'s for convolutions, a truncated normal of 0.02 for linear layers.

    Other layers reset themselves; normalisations become those of a new network. A parameter that no layer resets, such as a
    table of positions or a temperature, keeps the value of the block that this one is like.
    """
    with seeded(seed):
        for part in block.modules():
            if isinstance(part, _CONVOLUTIONS):
                fan_out = part.out_channels // part.groups * math.prod(part.kernel_size)
                part.weight.normal_(0, math.sqrt(2 / fan_out))
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding, _BatchNorm)):
                part.reset_parameters()

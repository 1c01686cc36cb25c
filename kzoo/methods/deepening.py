"""Net2DeeperNet (arXiv 1511.05641, section 2.3): a deeper network that computes the same function.

Three ways, the first that the architecture allows:

* a residual stage gets another block like its last one, of which every residual branch vanishes at its last layer scale,
  normalisation or projection; the rest of it is freshly initialised;
* behind an activation that is idempotent (ReLU, ReLU6) comes an identity layer with that activation; a batch
  normalisation in it is undone by gamma and beta, from statistics of calibration images;
* where asked for (``kind="residual"``), and behind the last block of a stage for which there is no other way, comes a
  residual layer of zero output: two layers with an activation between them, the second zero.

Residual blocks and layers preserve the function in evaluation and in training mode. An inserted batch normalisation does
so exactly in evaluation mode, and in training mode on the calibration batch alone; on other batches approximately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kzoo.building import seeded
from kzoo.edits import Deeper, Edit, append_edit, computed_tensors, copied, find_module, insert_edit, is_stage
from kzoo.errors import InputError
from kzoo.fresh import reset
from kzoo.methods.checking import relative_difference
from kzoo.methods.points import (
    IDEMPOTENT,
    any_point,
    describe,
    direct_activations,
    idempotent_point,
    last_activations,
)
from kzoo.methods.preserving import (
    NoIdentity,
    Proposal,
    identity_kernel,
    make_identity,
    tensors_of,
    undo_normalisation,
)
from kzoo.methods.probing import Call, Output, calls, example_images, measure_inputs, outputs_of, survey
from kzoo.methods.stages import (
    ResidualStage,
    Resolutions,
    is_residual,
    last_block,
    lone_blocks,
    proposal_of,
    residual_stages,
    stages_of,
)
from kzoo.training.evaluation import evaluation_mode, place

Kind = Literal["auto", "identity", "residual"]
Init = Literal["fresh", "copy"]

ALL = "all"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Largest relative difference of the outputs, as a share of the largest output; by the type of the network's numbers.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_BLOCK_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
_ROUGH = 5e-2
#: What a single batch normalisation may take of a tolerance.
_SHARE = 0.1
_BATCH = 64
_PROBED = 2
#: So many activations are tried, of a stage that gets a layer.
_TRIED = 3


@dataclass(frozen=True)
class Deepening:
    """A deepened copy of a network.

    ``edits`` make the same structure of the original (`kzoo.edits.apply_edits`); ``added`` are the names of the new parts;
    ``remarks`` say what else to know, and ``skipped`` tells of each stage that could not be deepened why.
    """

    module: nn.Module
    edits: list[Edit] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


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

    ``at`` names one or several places: a stage (blocks in a row; one like the last is appended), a block with
    a shortcut (another like it comes behind), or a layer (an identity layer comes behind its activation). ``"all"`` deepens
    every stage by one block; where none fits by an identity layer, and where its activations allow none by a residual layer.
    A network without blocks gets an identity layer for every resolution.

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
    work = _Work(module, images, calibration is not None, norm, init, seed)
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
    return Deepening(work.module, work.edits, work.added, work.skipped, work.remarks)


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
        self.module, self.images, self.calibrated = copied(module), images, calibrated
        self.norm, self.init, self.seed = norm, init, seed
        self.probe = images[:_PROBED]
        self.original, self.before = module, outputs_of(module, self.probe)
        self.before_in_training: list[Tensor] | None = None
        self.edits: list[Edit] = []
        self.added: list[str] = []
        self.skipped: dict[str, str] = {}
        self.remarks: list[str] = []
        self.uncalibrated: str | None = None

    # Where

    def everywhere(self, kind: Kind) -> None:
        """A block or a layer per stage; in a network without blocks an identity layer per resolution."""
        if kind == "auto":
            self._each_stage()
        if not self.edits:
            for output in last_activations(survey(self.module, self.probe), IDEMPOTENT if kind != "residual" else None):
                name = self.name_of(output.module)
                if reason := self._insert_first([name], kind):
                    self.skipped[name] = reason
        if not self.edits and self.uncalibrated:
            raise InputError(self.uncalibrated)
        if not self.edits:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:2])
            raise InputError(
                f"{type(self.module).__name__} has neither a residual stage nor an idempotent activation (ReLU) that a layer "
                f"could follow{f' ({why:.300})' if why else ''}: use kind='residual', or DILS"
            )

    def _each_stage(self) -> None:
        found = survey(self.module, self.probe)
        resolutions = Resolutions(found, len(self.probe))
        stages = stages_of(self.module, found, self.probe, resolutions)
        reasons: dict[int, str] = {}
        for stage in residual_stages(self.module, self.probe):
            places = self._places(stage, stages, resolutions)
            if reason := stage.reason or self._add_first(stage.edits):
                reasons.setdefault(places, reason)
            else:
                stages.pop(places, None)
        for places, groups in lone_blocks(self.module, self.probe, resolutions, stages).items() if stages else ():
            # Names behind a block that was put into a chain are others by now.
            tried = [self._add_first(self._edits_behind(blocks)) for blocks in groups]
            if None in tried:
                stages.pop(places)
        for places, blocks in stages.items():
            if reason := self._add_layer(places, blocks, resolutions):
                if places in reasons:
                    reason = f"no block fits ({reasons[places]}), nor a layer: {reason}"
                self.skipped[last_block(self.module, blocks)] = reason

    def _places(self, stage: ResidualStage, stages: Mapping[int, Sequence[nn.Module]], resolutions: Resolutions) -> int:
        """The resolution of a residual stage; where it works on windows, that of the innermost block around it."""
        places = resolutions.of(stage.shape)
        if places > 1 or not stage.name:
            return places
        container = self.module.get_submodule(stage.name)
        around = [
            (sum(1 for _ in block.modules()), size)
            for size, blocks in stages.items()
            for block in blocks
            if any(part is container for part in block.modules())
        ]
        return min(around)[1] if around else places

    def _edits_behind(self, blocks: Sequence[nn.Module]) -> list[Edit]:
        return [{"edit": "insert", "after": name, "like": name} for name in map(self.name_of, blocks)]

    def _add_first(self, edits: Sequence[Edit], residual: bool = True) -> str | None:
        """Carry the first of several edits out that preserves the function; the reason why there is none."""
        reasons: list[str] = []
        for edit in edits:
            try:
                self._add_block(edit, residual)
            except NoIdentity as reason:
                reasons.append(str(reason))
            else:
                return None
        return reasons[0]

    def _add_layer(self, places: int, blocks: Sequence[nn.Module], resolutions: Resolutions) -> str | None:
        """An identity layer at a resolution, or a residual layer behind its last block; the reason why there is none."""
        found = [one for one in survey(self.module, self.probe) if resolutions.of(one.shape) == places]
        end = max((number for number, one in enumerate(found) if one.module in blocks), default=-1)
        # What comes behind the last block begins the next stage.
        if points := direct_activations(found[: end + 1], IDEMPOTENT) or direct_activations(found, IDEMPOTENT):
            return self._insert_first([one.name for one in points[: -_TRIED - 1 : -1]], "identity")
        return self._insert_first([last_block(self.module, blocks)], "residual")

    def _insert_first(self, names: Sequence[str], kind: Kind) -> str | None:
        """Put a layer behind the first of several modules where that can be done; the reason why it cannot."""
        reasons: list[str] = []
        for name in names:
            try:
                self._insert_layer(name, kind)
            except InputError as reason:
                reasons.append(str(reason))
            else:
                return None
        return reasons[0]

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
        edits, residual = self._block_edits(name, part), not is_stage(part)
        reason = self._add_first(edits, residual) if edits else None
        if edits and reason is None:
            return
        try:
            self._insert_layer(name, kind)
        except InputError as refused:
            if reason is None:
                raise
            raise InputError(f"{name} cannot be deepened by a block ({reason}), nor by a layer: {refused}") from None

    def _block_edits(self, name: str, part: nn.Module) -> list[Edit]:
        """Edits that add a block to a stage, or behind a block; the best first."""
        if isinstance(part, (*_CONVOLUTIONS, nn.Linear, _BatchNorm)) or not any(True for _ in part.parameters()):
            return []
        stages = {stage.name: stage.edits for stage in residual_stages(self.module, self.probe) if stage.edits}
        if is_stage(part):
            return stages.get(name) or [{"edit": "append", "stage": name, "like": list(part._modules)[-1]}]
        # A module around a row of blocks, as one that begins with a layer of stride 2.
        inner = [stages[f"{name}.{child}"] for child in part._modules if f"{name}.{child}" in stages]
        return inner[-1] if inner else [{"edit": "insert", "after": name, "like": name}]

    # A block like another

    def _add_block(self, edit: Edit, residual: bool) -> None:
        """Carry an edit out that copies a block, and make the copy the identity; nothing is changed where that fails.

        With ``residual`` a block without a shortcut fails.
        """
        undo = _undo(self.module)
        try:
            name = append_edit(self.module, edit) if edit["edit"] == "append" else str(insert_edit(self.module, edit))
            block = self.module.get_submodule(name)
            if self.init == "fresh":
                with seeded(self.seed + len(self.edits)):
                    reset(block)
            for parameter in block.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            always = self._make_identity(name, block, residual)
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
        if not always:
            self.remarks.append(
                f"{name} keeps the outputs in evaluation mode only, for batch normalisation is on its shortcut: give images "
                "(--data TASK, or calibration=... in Python) for training mode"
            )

    def _make_identity(self, name: str, block: nn.Module, residual: bool) -> bool:
        """Make a new block the identity, in place; whether that holds in training mode too, as far as is known."""
        call = calls(self.module, [name], self.probe)[name]
        if call.count != 1:
            raise NoIdentity(f"a block there would be run {call.count} times")
        proposal = proposal_of(block, call)
        if residual and not is_residual(block, proposal):
            raise NoIdentity("it has no shortcut")
        make_identity(block, proposal)
        found = tensors_of(_run(block, call))
        error = relative_difference(tensors_of(call.args)[: len(found)], found)
        if not error <= _BLOCK_TOLERANCES.get(found[0].dtype, _ROUGH):
            raise NoIdentity(f"its output would differ from its input by {error:.1e} of the largest value")
        undone = _undone(block, proposal)
        if self.calibrated:
            self._calibrate(undone)
        return self.calibrated or not undone

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

    def _verify_training(self, name: str) -> None:
        """The same where batch normalisation normalises by batch, on the images that were calibrated on."""
        if len(self.images) > _BATCH:
            return
        if self.before_in_training is None:
            self.before_in_training = outputs_of(self.original, self.images, training=True)
        error = relative_difference(self.before_in_training, outputs_of(self.module, self.images, training=True))
        if not error <= _SHARE * TOLERANCES.get(self.before[0].dtype, _ROUGH):
            raise NoIdentity(
                f"the network's outputs in training mode would change by {error:.1e} of the largest (at {name})"
            )

    # A new layer

    def _insert_layer(self, name: str, kind: Kind) -> None:
        found = survey(self.module, self.probe)
        residual = kind == "residual"
        point = any_point(name, found) if residual else idempotent_point(name, found)
        layer = describe(point, found, residual, None if residual else self._epsilon(point))
        if "norm" in layer and not self.calibrated:
            self.uncalibrated = (
                f"a batch normalisation behind {point.name} needs images to be undone: give unlabelled ones (--data TASK, or "
                "calibration=... in Python), or an identity layer without it (--no-norm, norm=False)"
            )
            raise InputError(self.uncalibrated)
        try:
            self._carry_out(point.name, layer)
        except NoIdentity as reason:
            if self.norm is not None or "norm" not in layer:
                raise InputError(f"the function cannot be preserved behind {point.name}: {reason}") from None
            # Undoing a normalisation rounds; what is behind it may magnify that. An identity layer alone is exact.
            layer = {key: value for key, value in layer.items() if key != "norm"}
            self._carry_out(point.name, layer)

    def _carry_out(self, name: str, layer: Edit) -> None:
        """Put a layer behind a module, and make it the identity; nothing is changed where that fails."""
        undo = _undo(self.module)
        edit: Edit = {"edit": "insert", "after": name, "layer": layer}
        known = set(self.module.modules())
        with seeded(self.seed + len(self.edits)):
            new = str(insert_edit(self.module, edit))
        parts = [part for part in self.module.modules() if part not in known and not isinstance(part, Deeper)]
        try:
            self._fill(parts, layer)
            self._verify(new)
            if "norm" in layer:
                self._verify_training(new)
        except NoIdentity:
            undo()
            raise
        self.edits.append(edit)
        self.added.append(new)

    def _epsilon(self, point: Output) -> float | None:
        """The epsilon of an identity layer's batch normalisation; None for none."""
        own = next((part for part in point.module.modules() if isinstance(part, _BatchNorm)), None)
        between = own or point.norm
        if self.norm is None and between is not None:
            return float(between.eps)
        if self.norm:
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


@torch.no_grad()
def _run(block: nn.Module, call: Call) -> Any:
    with evaluation_mode(block):
        return block(*call.args, **call.kwargs)


def _undone(block: nn.Module, proposal: Proposal) -> list[_BatchNorm]:
    """The batch normalisations of a block that hand their input on, in their order."""
    known = [block.get_submodule(path) for path in proposal.identities]
    return [part for part in block.modules() if isinstance(part, _BatchNorm) and part in known]

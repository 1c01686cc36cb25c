"""The methods that grow a network, by name: what each may be told, and how it is carried out.

``net2wider`` and ``net2deeper`` are Net2Net's (arXiv 1511.05641), ``random_pad`` is its baseline, and ``dils`` is DILS,
reconstructed from its abstract (`kzoo.methods.dils`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from kzoo.edits import Edit, find_module, take_added
from kzoo.errors import InputError
from kzoo.methods import deepening
from kzoo.methods.checking import relative_difference
from kzoo.methods.deepening import deepen_module
from kzoo.methods.dils import DilsOptions, Insertion, insert
from kzoo.methods.probing import example_images, outputs_of
from kzoo.methods.stepwise import StepwiseOptions, deepen_stepwise
from kzoo.methods.widening import Choices, widen_module
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Task

_NEEDS_IMAGES = "needs images to solve for the new layers' weights: give unlabelled ones (--data TASK, or calibration=... in Python)"


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PadParameters(_Parameters):
    """Of ``random_pad``: how wide, and what decides the new values."""

    to: float | dict[str, int] = Field(1.5, description="A factor for all that can be widened, or widths by layer")
    seed: int = Field(0, ge=0, lt=2**32)


class WidenParameters(PadParameters):
    """Of ``net2wider``: how the weights of copied channels are divided, and noise on them (`kzoo.methods.widening`)."""

    division: Literal["unequal", "equal"] = "unequal"
    noise: float = Field(0.0, ge=0, description="Relative to the standard deviation of each tensor")


class DeepenParameters(_Parameters):
    """Of ``net2deeper``: where, and what kind of layers (`kzoo.methods.deepening.deepen_module`)."""

    at: str | list[str] = Field(deepening.ALL, min_length=1)
    kind: Literal["auto", "identity", "residual"] = "auto"
    norm: bool | None = Field(None, description="Whether an identity layer has batch normalisation; unset as before it")
    init: Literal["fresh", "copy"] = "fresh"
    seed: int = Field(0, ge=0, lt=2**32)


class DilsParameters(_Parameters):
    """Of ``dils``: where, how a layer's weights are found, and the outer loop where ``stepwise`` is set.

    See `kzoo.methods.dils.DilsOptions` and `kzoo.methods.stepwise.StepwiseOptions`.
    """

    at: str | list[str]
    where: Literal["after", "before"] = "after"
    activation: str | None = None
    method: Literal["analytic", "approximation"] = "analytic"
    ridge: float = Field(1e-6, ge=0)
    towards_identity: bool = True
    clamp: float = Field(1e-3, gt=0, lt=0.5)
    refinements: int = Field(20, ge=0, le=1000)
    lift: float | Literal["never"] = Field(
        0.6, description="Raise the bias in front where more than so much of identity's error is left"
    )
    projection: Literal["identity", "random", "svd"] = "identity"
    width: int | None = Field(None, ge=1, le=65_536)
    scale: float = Field(1.0, gt=0)
    start: Literal["analytic", "random", "identity"] = "analytic"
    epochs: int = Field(60, ge=0, le=10_000)
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(128, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    stepwise: bool = Field(False, description="Train after each insertion, keep the best, and stop by a rule")
    policy: Literal["order", "smallest_error"] = "order"
    most_lost: float = Field(0.02, ge=0, le=1)
    least_gain: float | None = None
    target_accuracy: float | None = Field(None, gt=0, le=1)
    most: int | None = Field(None, ge=1)

    @property
    def insertion(self) -> DilsOptions:
        """How one layer is inserted."""
        chosen = {name: getattr(self, name) for name in DilsOptions.__dataclass_fields__}
        return DilsOptions(**chosen | {"lift": None if self.lift == "never" else self.lift})

    @property
    def loop(self) -> StepwiseOptions:
        """How the outer loop goes on."""
        shared = {name: getattr(self, name) for name in ("policy", "most_lost", "least_gain", "most")}
        return StepwiseOptions(insertion=self.insertion, target=self.target_accuracy, **shared)


@dataclass(frozen=True)
class GrowthReport:
    """What growing did.

    ``before`` and ``after`` count learned entries. ``grown`` are the sets of tensors whose channels became more, each with
    its old and new size; ``added`` the new parts; ``left`` what stayed as it was, with the reason. ``difference`` is the
    largest relative difference of the outputs on the images tried, old network and new; ``kept`` says that the method is
    to keep them. ``insertions`` are DILS's, each with the ``error`` of the features that it had to hand on, as a share of
    them; ``remarks`` what else to know.
    ``shares`` tells of each tensor which share of its entries came from the old network; ``steps`` what the outer
    loop of DILS did.
    """

    method: str
    parameters: Mapping[str, Any]
    before: int
    after: int
    difference: float
    kept: bool
    shares: Mapping[str, float]
    grown: tuple[Mapping[str, Any], ...] = ()
    added: tuple[str, ...] = ()
    left: tuple[Mapping[str, Any], ...] = ()
    insertions: tuple[Mapping[str, Any], ...] = ()
    steps: Mapping[str, Any] | None = None
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Growth:
    """A grown copy of a network, the edits that make its structure of the old one, and the report."""

    module: nn.Module
    edits: list[Edit]
    report: GrowthReport


@dataclass(frozen=True)
class Material:
    """What a method may look at: images ready for the network, N x C x H x W; for DILS's loop also a task and settings.

    Without ``calibration`` images, ``example`` ones are those that a network is run on: of noise, where there are none.
    """

    calibration: Tensor | None = None
    example: Tensor | None = None
    task: Task | None = None
    training: TrainingSettings | None = None

    def images(self, module: nn.Module) -> Tensor:
        """Some images that the network takes, as far as is known."""
        if self.calibration is not None:
            return self.calibration
        return example_images(module) if self.example is None else self.example


@dataclass
class _Grown:
    """What a method gave, before it is looked at."""

    module: nn.Module
    edits: list[Edit]
    told: dict[str, Any] = field(default_factory=dict)
    kept: bool = True
    padded: bool = False


def _wider(module: nn.Module, parameters: WidenParameters, material: Material) -> _Grown:
    choices = Choices(parameters.division, parameters.noise, "copies", parameters.seed)
    found = widen_module(module, material.images(module)[:2], parameters.to, choices)
    return _Grown(found.module, found.edits, {"grown": found.grown, "left": found.left}, kept=parameters.noise == 0)


def _padded(module: nn.Module, parameters: PadParameters, material: Material) -> _Grown:
    choices = Choices(fill="random", seed=parameters.seed)
    found = widen_module(module, material.images(module)[:2], parameters.to, choices)
    return _Grown(found.module, found.edits, {"grown": found.grown, "left": found.left}, kept=False, padded=True)


def _deeper(module: nn.Module, parameters: DeepenParameters, material: Material) -> _Grown:
    choices = parameters.model_dump(exclude={"at"})
    found = deepen_module(module, parameters.at, calibration=material.calibration, example=material.example, **choices)
    left = tuple({"stage": name, "reason": reason} for name, reason in found.skipped.items())
    return _Grown(found.module, found.edits, {"left": left, "remarks": tuple(found.remarks)})


def _inserted(module: nn.Module, parameters: DilsParameters, material: Material) -> _Grown:
    """A layer at each place, from the last one to the first: names in front of it stay as they are."""
    if parameters.stepwise:
        return _stepwise(module, parameters, material)
    if material.calibration is None:
        raise InputError(f"dils {_NEEDS_IMAGES}")
    edits: list[Edit] = []
    found: list[Insertion] = []
    names = list(dict(module.named_modules()))
    for name in sorted(_places(module, parameters), key=names.index, reverse=True):
        made = insert(module, name, material.calibration, parameters.where, parameters.insertion, parameters.activation)
        module = made.module
        edits += made.edits
        found.append(made)
    told = {"insertions": tuple(_told(made) for made in found)}
    return _Grown(module, edits, told, kept=False)


def _told(made: Insertion) -> dict[str, Any]:
    return {"name": made.name, "error": made.error, "identity_error": made.identity_error, "lifted": made.lifted}


def _places(module: nn.Module, parameters: DilsParameters) -> Sequence[str]:
    places = [parameters.at] if isinstance(parameters.at, str) else parameters.at
    if not places or len(set(places)) < len(places):
        raise InputError("dils inserts one layer at each place: name places, each once (at)")
    for name in places:
        find_module(module, name)
    return places


def _stepwise(module: nn.Module, parameters: DilsParameters, material: Material) -> _Grown:
    if material.task is None or material.training is None:
        raise InputError("dils trains after each insertion where it is stepwise: give data and training too")
    positions = [{"at": name, "where": parameters.where} for name in _places(module, parameters)]
    found = deepen_stepwise(module, positions, material.task, material.training, parameters.loop)
    return _Grown(found.module, found.edits, {"steps": found.history}, kept=False)


@dataclass(frozen=True)
class GrowthMethod:
    """A method: the model of its parameters, and what makes the grown network."""

    parameters: type[BaseModel]
    carry_out: Callable[[nn.Module, Any, Material], _Grown]


GROWTH: Mapping[str, GrowthMethod] = MappingProxyType(
    {
        "net2wider": GrowthMethod(WidenParameters, _wider),
        "random_pad": GrowthMethod(PadParameters, _padded),
        "net2deeper": GrowthMethod(DeepenParameters, _deeper),
        "dils": GrowthMethod(DilsParameters, _inserted),
    }
)


def grow(method: str, module: nn.Module, parameters: BaseModel, material: Material | None = None) -> Growth:
    """A grown copy of a network, by one of `GROWTH`; ``parameters`` are of that method's model.

    A network in evaluation mode gives one in evaluation mode.

    Raises:
        InputError: the method cannot grow this network so, with the reason, or lacks images.
    """
    material = material or Material()
    found = GROWTH[method].carry_out(module, parameters, material)
    added = take_added(found.module)
    images = material.images(module)[:2]
    before, after = outputs_of(module, images), outputs_of(found.module, images)
    difference = relative_difference(before, after)
    if not before or not math.isfinite(difference):
        what = "gives nothing to compare" if not before else "would give outputs that are not finite"
        raise InputError(f"the network {what}: look at its weights, at the images, and at the noise")
    report = GrowthReport(
        method=method,
        parameters=parameters.model_dump(exclude_none=True),
        before=_learned(module),
        after=_learned(found.module),
        difference=difference,
        kept=found.kept,
        shares=_shares(module, found, added),
        added=tuple(added),
        **found.told,
    )
    return Growth(found.module if module.training else found.module.eval(), found.edits, report)


def _learned(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shares(module: nn.Module, found: _Grown, added: Sequence[str]) -> dict[str, float]:
    """Which share of each learned tensor comes from the old network: all of it, but for what is new or padded."""
    old = dict(module.named_parameters())

    def share(name: str, size: int) -> float:
        if any(name.startswith(f"{part}.") for part in added):
            return 0.0
        return old[name].numel() / size if found.padded and name in old else 1.0

    return {name: share(name, parameter.numel()) for name, parameter in found.module.named_parameters()}

"""DPIAT (arXiv 2212.13970): parameters move between different architectures along a dynamic programme's matching.

Standardization, matching and operator are choices of their own, as in the authors' code (notes, section 1). The variant
``paper`` is what that code does. ``full_state``, ours, also carries the layers that it leaves out (LayerNorm, GroupNorm,
embeddings, packed attention projections, layer scale and other raw parameters), the running statistics of batch
normalisation, keeps the variance of outputs whose fan-in changes (cropped weights are rescaled; inputs that the source
does not have start with zero weights in carried rows), fits input channels and positions with timm's functions, leaves
the classifier alone where the classes are others, and normalisation layers where the networks are too different.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kzoo.errors import InputError
from kzoo.matching import similarity
from kzoo.methods.operators import Operator
from kzoo.methods.parts import NORM_KINDS, classifiers
from kzoo.methods.plan import Step
from kzoo.methods.surgery import Body, Border, Choices
from kzoo.pairing import Kinds, MatchingName, Standardization, pair_layers

Variant = Literal["full_state", "paper"]
Norms = Literal["all", "similar", "none"]
#: Below this similarity (the paper's, symmetric) ``norms="similar"`` leaves normalisation layers alone: along a matching
#: that fits so little they hurt more than they help (docs/gain.md).
SIMILAR = 0.5


class DpiatParameters(BaseModel):
    """The choices of a transfer; None is what the variant does."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    variant: Variant = "full_state"
    standardization: Standardization = "blocks"
    matching: MatchingName = "dp"
    operator: Operator = "clip"
    kinds: Kinds | None = Field(default=None, description="Layers that are matched: the paper's, or more (extended)")
    statistics: bool | None = Field(default=None, description="Carry the running statistics of batch normalisation")
    packed: bool | None = Field(default=None, description="Treat query, key and value in one matrix as three")
    rescale: bool | None = Field(
        default=None, description="Keep output variance where fan-in changes and no norm follows"
    )
    norms: Norms | None = Field(
        default=None,
        description=f"Carry normalisation layers: all, none, or (similar) from a similarity of {SIMILAR} on",
    )
    border: Border | None = Field(default=None, description="Weights of inputs that the source does not have")
    adapt: bool | None = Field(default=None, description="Fit input channels and positions by timm's functions")
    head: bool | None = Field(
        default=None, description="Give a classifier only what a classifier of as many classes has"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="For the matching 'random' and the operator 'full'")

    def chosen(self, name: str) -> Any:
        """The value of a choice, the variant's where it is None."""
        value = getattr(self, name)
        if value is not None:
            return value
        full_state = self.variant == "full_state"
        in_words = {"kinds": ("paper", "extended"), "border": ("random", "zero"), "norms": ("all", "similar")}
        return in_words.get(name, (False, True))[full_state]


def steps(source: Body, target: Body, parameters: DpiatParameters) -> list[Step]:
    """The plan of a transfer: for every part of the target the matched one of the source.

    Raises:
        InputError: a network has no layer that can be matched.
    """
    pairs = pair_layers(
        source.architecture,
        target.architecture,
        parameters.chosen("kinds"),
        parameters.standardization,
        parameters.matching,
        parameters.seed,
    )
    partners = {pair.target.name: pair for pair in pairs if pair.source.name in source.parts}
    if parameters.chosen("head"):
        theirs = set(classifiers(source.architecture))
        for name in classifiers(target.architecture):
            pair = partners.get(name)
            if pair and (pair.source.name not in theirs or pair.source.shape[0] != pair.target.shape[0]):
                del partners[name]
    if not _carries_norms(source, target, parameters.chosen("norms")):
        partners = {name: pair for name, pair in partners.items() if pair.target.kind not in NORM_KINDS}
    return [
        Step(target=name, source=partners[name].source.name, score=round(partners[name].score, 6))
        if name in partners
        else Step(target=name)
        for name in target.parts
    ]


def _carries_norms(source: Body, target: Body, norms: Norms) -> bool:
    if norms != "similar":
        return norms == "all"
    try:
        return similarity(source.architecture, target.architecture) >= SIMILAR
    except InputError:  # nothing that the paper's measure sees
        return True


def choices(parameters: DpiatParameters) -> Choices:
    """How the parts are laid over each other."""
    return Choices(
        operator=parameters.operator,
        statistics=parameters.chosen("statistics"),
        packed=parameters.chosen("packed"),
        rescale=parameters.chosen("rescale"),
        border=parameters.chosen("border"),
        adapt=parameters.chosen("adapt"),
        seed=parameters.seed,
    )

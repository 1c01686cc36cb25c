"""The metrics that claims may name, with their units and options; the studies compute them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from kzoo.claims import MetricKind
from kzoo.studies.design import Section


class RatioOptions(Section):
    """Accuracy of an arm by that of another one, the geometric mean over seeds, then the mean over pairs."""

    arm: str
    against: str = "random"
    epoch: int = Field(ge=1)
    groups: list[str] | None = Field(default=None, description="Only pairs of these groups")
    most_directed: float | None = Field(
        default=None, ge=0, le=1, description="Only pairs of at most this directed similarity"
    )


class RatesOptions(Section):
    """The same ratio at every rate of the sweep, arm and control at the same one; the smallest of them."""

    arm: str
    against: str = "random"
    epoch: int = Field(ge=1)


class CorrelationOptions(Section):
    """Correlation, over pairs, of the similarity with the ratio of an arm to the control."""

    arm: str
    epoch: int = Field(ge=1)
    measure: Literal["symmetric", "directed"]
    kind: Literal["spearman", "pearson"]


class GroupsOptions(Section):
    """Mean ratio of the first group of pairs by that of the second."""

    arm: str
    epoch: int = Field(ge=1)
    first: str
    second: str


class PointsOptions(Section):
    """Accuracy of the networks trained again less that of the zoo's, in points: the largest, whatever its sign."""


class GrowthOptions(Section):
    """A case of a study of growth, and which of its teachers; null for all, of whom the mean is taken."""

    case: str
    teachers: list[str] | None = None


class ArmOptions(GrowthOptions):
    """One arm of a case."""

    arm: str


class DifferenceOptions(ArmOptions):
    """Test accuracy of an arm less that of another, or of the teacher, in points."""

    against: str = Field(description="Another arm, or teacher: the network before it was grown")
    epoch: int | None = Field(default=None, ge=0, description="After so many epochs; 0 for the start, null for the end")
    rate: Literal["own", "equal"] = Field(default="own", description="Each arm's best rate, or the control's for both")


class StepsOptions(ArmOptions):
    """Steps to an accuracy, by those of another arm with the same seed; a run without it counts as its whole training."""

    against: str
    level: str = Field(description="One of the profile's levels: so much above the teacher's accuracy")
    rate: Literal["own", "equal"] = "own"


class ReachedOptions(ArmOptions):
    """Test accuracy of an arm at the end, in percent."""


class ChangeOptions(ArmOptions):
    """How far the test loss before any training is from the teacher's, whatever the sign, in nats: the largest."""


class ResidualOptions(ArmOptions):
    """The change of the features that an inserted layer was to keep, by that of an identity layer at the same place."""


class LostOptions(ArmOptions):
    """The most accuracy, on images held back, that an insertion of the stepwise loop cost, in points."""


class FusionOptions(Section):
    """An arm of a study of fusion, in some of its cases: the mean over them is taken; null for all of a kind."""

    arm: str = Field(description="An arm, or what arms are compared with: chance, joint, ...")
    data: list[str] | None = None
    networks: list[str] | None = None
    starts: list[str] | None = None


class FusedOptions(FusionOptions):
    """Test accuracy on all classes, in percent."""


class AboveOptions(FusionOptions):
    """Test accuracy of an arm less that of another, in points."""

    against: str = Field(
        description="Another arm, chance, parent (the best one), ensemble_probability, ensemble_logit, ensemble (the better of "
        "the two), start or joint"
    )


class ApartOptions(AboveOptions):
    """The same of one network less that of another, in points."""

    networks: None = None
    first: str
    second: str


_KINDS: Mapping[str, Mapping[str, MetricKind]] = MappingProxyType(
    {
        "dpiat": {
            "ratio": MetricKind("ratio", RatioOptions),
            "ratio at every rate": MetricKind("ratio", RatesOptions),
            "correlation": MetricKind("correlation", CorrelationOptions),
            "ratio of groups": MetricKind("ratio", GroupsOptions),
        },
        "fusion": {
            "accuracy when fused": MetricKind("percent", FusedOptions),
            "points above": MetricKind("points", AboveOptions),
            "points apart": MetricKind("points", ApartOptions),
        },
        "growth": {
            "difference in accuracy": MetricKind("points", DifferenceOptions),
            "share of steps": MetricKind("ratio", StepsOptions),
            "accuracy at the end": MetricKind("percent", ReachedOptions),
            "change of the loss": MetricKind("nats", ChangeOptions),
            "error by identity's": MetricKind("ratio", ResidualOptions),
            "lost at an insertion": MetricKind("points", LostOptions),
        },
        "zoo": {"largest difference": MetricKind("points", PointsOptions)},
    }
)


def metric_kinds(kind: str | None = None) -> Mapping[str, MetricKind]:
    """The metrics of a kind of study by name, or of all kinds, whose names differ."""
    if kind is not None:
        return _KINDS[kind]
    return {name: metric for metrics in _KINDS.values() for name, metric in metrics.items()}

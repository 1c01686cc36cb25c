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


_KINDS: Mapping[str, Mapping[str, MetricKind]] = MappingProxyType(
    {
        "dpiat": {
            "ratio": MetricKind("ratio", RatioOptions),
            "ratio at every rate": MetricKind("ratio", RatesOptions),
            "correlation": MetricKind("correlation", CorrelationOptions),
            "ratio of groups": MetricKind("ratio", GroupsOptions),
        },
        "zoo": {"largest difference": MetricKind("points", PointsOptions)},
    }
)


def metric_kinds(kind: str | None = None) -> Mapping[str, MetricKind]:
    """The metrics of a kind of study by name, or of all kinds, whose names differ."""
    if kind is not None:
        return _KINDS[kind]
    return {name: metric for metrics in _KINDS.values() for name, metric in metrics.items()}

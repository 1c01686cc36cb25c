"""The metrics of the studies."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from kzoo.claims import MetricKind


class _Ratio(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    arm: str
    against: str = "random"
    epoch: int = Field(ge=0)


def metric_kinds() -> Mapping[str, MetricKind]:
    """Every metric that a claim can name."""
    return {"ratio": MetricKind("ratio", _Ratio)}

"""What the methods that fuse networks may be told, by name; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kzoo.methods.fusion import rules
from kzoo.methods.fusion.rules import Rule


class FusionParameters(BaseModel):
    """What all methods may be told: whether channels are aligned first, and what becomes of batch normalisation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    align: Literal["none", "weights", "activations"] = "none"
    restarts: int = Field(1, ge=0, le=1000, description="Random starts of the alignment")
    seed: int = Field(0, ge=0, lt=2**32)
    norms: Literal["average", "fold"] = Field("average", description="Fold batch normalisation into layers first")
    heads: Literal["shared", "joined"] = Field(
        "shared", description="One classifier for the same classes, or the parents' own side by side over the union"
    )

    @property
    def needs(self) -> frozenset[str]:
        """What is needed beside the parents: ``start``, ``fisher``, ``gram`` or ``images``."""
        return frozenset({"images"} if self.align == "activations" else ())

    @property
    def by_tensor(self) -> bool:
        """Whether every tensor is fused by itself, so that no network has to be built."""
        return False

    @property
    def _plain(self) -> bool:
        return (self.align, self.norms, self.heads) == ("none", "average", "shared")


class SumParameters(FusionParameters):
    """Of ``weight_sum``: which sum."""

    variant: Literal["average", "sum", "delta_sum", "scaled_delta"] = "average"
    scale: float = Field(0.5, description="Of what was learnt since the start, in scaled_delta")

    @property
    def needs(self) -> frozenset[str]:
        """See `FusionParameters.needs`."""
        return super().needs | ({"start"} if self.variant in ("delta_sum", "scaled_delta") else set())

    @property
    def by_tensor(self) -> bool:
        """See `FusionParameters.by_tensor`."""
        return self._plain

    @property
    def rule(self) -> Rule:
        """How entries are fused."""
        made = {"average": rules.average, "sum": rules.literal_sum, "delta_sum": rules.delta_sum}
        return rules.scaled_delta(self.scale) if self.variant == "scaled_delta" else made[self.variant]()


class NonessentialParameters(FusionParameters):
    """Of ``nonessential``: which weights change, and what says how important a weight is."""

    variant: Literal["threshold", "winner", "quadratic", "tempered", "null_space"] = "quadratic"
    importance: Literal["fisher", "magnitude", "distance", "saliency"] = "fisher"
    quantile: float = Field(
        0.7, ge=0, le=1, description="threshold: the share of the first parent's weights that change"
    )
    ratio: float = Field(
        1.0, gt=0, description="winner: what the importances of all but the first parent are taken times"
    )
    weight: float = Field(1.0, gt=0, description="quadratic, tempered: the same")
    power: float = Field(0.5, ge=0, le=1, description="tempered: of the importances")
    floor: float = Field(rules.FLOOR, gt=0, description="quadratic, tempered: importances count as that at least")
    energy: float = Field(
        0.99, ge=0, le=1, description="null_space: the share of the first parent's inputs that is kept"
    )

    @property
    def needs(self) -> frozenset[str]:
        """See `FusionParameters.needs`."""
        if self.variant == "null_space":
            return super().needs | {"gram", "start"}
        fisher = {"fisher"} if self.importance in ("fisher", "saliency") else set()
        return super().needs | fisher | ({"start"} if self.importance == "distance" else set())

    @property
    def by_tensor(self) -> bool:
        """See `FusionParameters.by_tensor`."""
        return self._plain and self.variant != "null_space"

    @property
    def rule(self) -> Rule:
        """How entries are fused; null_space has none."""
        if self.variant == "threshold":
            return rules.threshold_replace(self.quantile)
        if self.variant == "winner":
            return rules.winner(self.ratio)
        if self.variant == "quadratic":
            return rules.quadratic(self.weight, self.floor)
        return rules.tempered(self.power, self.weight, self.floor)


class RegMeanParameters(FusionParameters):
    """Of ``regmean``."""

    scale: float = Field(0.9, ge=0, le=1, description="What products of different inputs are taken times")
    ridge: float = Field(1e-6, ge=0)

    @property
    def needs(self) -> frozenset[str]:
        """See `FusionParameters.needs`."""
        return super().needs | {"gram"}


class LayerwiseParameters(FusionParameters):
    """Of ``layerwise``, which works on networks whose batch normalisation is folded."""

    norms: Literal["average", "fold"] = "fold"
    ridge: float = Field(1e-4, ge=0)

    @property
    def needs(self) -> frozenset[str]:
        """See `FusionParameters.needs`."""
        return super().needs | {"images"}


#: The methods' parameters, by the names that recipes use.
FUSION: Mapping[str, type[FusionParameters]] = MappingProxyType(
    {
        "weight_sum": SumParameters,
        "nonessential": NonessentialParameters,
        "regmean": RegMeanParameters,
        "layerwise": LayerwiseParameters,
    }
)

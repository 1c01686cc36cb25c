"""What the methods of knowledge amalgamation may be told, and the presets that say the rest."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from kzoo.methods.amalgamation.losses import Kernels

Overlap = Literal["sum", "max"]


def _listed(value: Any) -> Any:
    """One number, or several with commas, as people write them on a command line."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


#: Below, a kernel has no width that numbers could tell.
_Widths = Annotated[
    tuple[Annotated[float, Field(gt=1e-6, le=1e6, strict=False)], ...], BeforeValidator(_listed), Field(strict=False)
]
Parts = Literal["full", "mmd", "reconstruction"]


class KdParameters(BaseModel):
    """Of ``kd``: soft targets over all classes that the teachers know together."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    temperature: float = Field(1.0, gt=0, le=100, description="What logits are divided by, teachers' and student's")
    soft_weight: float = Field(1.0, gt=0, description="What the soft targets' loss is taken times")
    overlap: Overlap = Field(
        "sum", description="Of a class that several teachers know: the sum of probabilities, or the highest"
    )
    calibrate: Literal["none", "scale"] = Field(
        "none", description="scale: teachers' logits are brought to one spread, as measured on unlabelled images"
    )
    head_rate: float = Field(
        1.0, gt=0, description="What the learning rate is taken times for the student's classifier"
    )
    cache: float = Field(
        4.0, ge=0, le=1024, description="Teachers' answers are kept on disk up to so many GiB; 0 keeps none"
    )

    @property
    def compared(self) -> bool:
        """Whether the student's features are compared with the teachers'."""
        return False

    @property
    def rebuilt(self) -> bool:
        """Whether the teachers' features are rebuilt."""
        return False


class CflParameters(KdParameters):
    """Of ``cfl``: common feature learning beside the soft targets; ``preset`` says what is not said."""

    preset: Literal["default", "official"] = Field("default", description="official: the settings of the authors' code")
    parts: Parts = Field("full", description="mmd and reconstruction: that part alone, beside the soft targets")
    mmd_weight: float = Field(0.1, ge=0, description="What the discrepancies' sum is taken times")
    reconstruction_weight: float = Field(1.0, ge=0, description="What the reconstructions' sum is taken times")
    sigmas: _Widths = Field((), description="Bandwidths of the kernels; without any they go by the median distance")
    multiples: _Widths = Field((0.25, 0.5, 1.0, 2.0, 4.0), min_length=1, description="Of the median distance")
    aligned: int | None = Field(
        None, ge=1, le=4096, description="Channels behind adaption layers; unset: half of the student's, 256 at most"
    )
    common: int | None = Field(None, ge=1, le=4096, description="Channels of the common space; unset: half of aligned")
    blocks: int = Field(3, ge=1, le=20, description="Residual blocks of the extractor")
    scaled: bool = Field(
        True, description="Teachers' features are divided by their root mean square on unlabelled images"
    )
    blocks_rate: float = Field(
        1.0, gt=0, description="What the learning rate is taken times for the parts beside the student"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        known = PRESETS.get(values.get("preset", "default"), {}) if isinstance(values, Mapping) else {}
        return {**known, **values} if known else values

    @property
    def compared(self) -> bool:
        """See `KdParameters`."""
        return self.parts in ("full", "mmd")

    @property
    def rebuilt(self) -> bool:
        """See `KdParameters`."""
        return self.parts in ("full", "reconstruction")

    @property
    def kernels(self) -> Kernels:
        """The kernels of the discrepancy."""
        # Recipes are read, and published, without torch.
        from kzoo.methods.amalgamation.losses import Kernels

        return Kernels(self.sigmas, self.multiples)

    def widths(self, channels: int) -> tuple[int, int]:
        """The channels behind adaption layers and in the common space, beside a student of so many channels."""
        aligned = self.aligned or min(max(channels // 2, 16), 256)
        return aligned, self.common or max(aligned // 2, 8)


#: What a preset says. The official one is what the authors' published code sets; its rates are those of its ResNet34.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "official": {
            "temperature": 1.0,
            "soft_weight": 1.0,
            "mmd_weight": 10.0,
            "reconstruction_weight": 10.0,
            "sigmas": (0.001, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0),
            "aligned": 256,
            "common": 128,
            "blocks": 3,
            "scaled": False,
            "head_rate": 10.0,
            "blocks_rate": 5.0,
        }
    }
)
#: The methods' parameters, by the names that recipes use.
AMALGAMATION: Mapping[str, type[KdParameters]] = MappingProxyType({"kd": KdParameters, "cfl": CflParameters})

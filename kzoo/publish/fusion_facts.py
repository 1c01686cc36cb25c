"""What a card says of a network that was fused of others, as plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from kzoo.claims import Interval
from kzoo.errors import InputError
from kzoo.publish.intervals import proportion
from kzoo.readers.files import WeightsFile
from kzoo.recipe import Recipe

if TYPE_CHECKING:
    from kzoo.publish.facts import Images

_PARENT = re.compile(r"(?:parent|source)[ _-]?(\d{1,3})", re.ASCII)
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Measured:
    """A file with what was measured of a source, counted from 0; ``kind`` is ``fisher`` or ``gram``."""

    name: str
    kind: str
    source: int
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Compared:
    """A network beside the one that the card is of, on the same test: its accuracy, with an interval where images were counted.

    ``name`` is what it is called where it was measured (``fused`` or ``student``, ``parent_1``, ``ensemble_probability`` and so on).
    """

    name: str
    accuracy: Interval
    images: int

    @property
    def is_ours(self) -> bool:
        """Whether it is the model itself that the card is of."""
        return self.name.lower() in ("fused", "student")

    @property
    def parent(self) -> int | None:
        """Which source it is, counted from 0."""
        found = _PARENT.fullmatch(self.name.lower())
        return int(found[1]) - 1 if found and int(found[1]) else None

    def is_named(self, *words: str) -> bool:
        """Whether all words stand in its name."""
        return all(word in self.name.lower() for word in words)


@dataclass(frozen=True)
class Fusion:
    """What was fused and how well that went.

    ``images`` are what was looked at of each source, ``classes`` what the outputs of each stand for; ``compared`` is what
    was measured beside it, and ``left_out`` why something was not. ``norms`` says whether the network has running
    statistics, which were pooled.
    """

    measured: tuple[Measured, ...] = ()
    images: tuple[Images | None, ...] = ()
    classes: tuple[tuple[str, ...] | None, ...] = ()
    compared: tuple[Compared, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    norms: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the outputs of the fused network stand for: the union of the classes; nothing where one is not known."""
        if not self.classes or any(known is None for known in self.classes):
            return ()
        return tuple(dict.fromkeys(name for known in self.classes for name in known or ()))

    @property
    def disjoint(self) -> bool:
        """Whether some sources know classes that others do not."""
        known = {one for one in self.classes if one is not None}
        seen = {one.classes for one in self.images if one is not None}
        return len(known) > 1 or len(seen) > 1


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    accuracy: float = Field(ge=0, le=1)
    correct: int | None = Field(default=None, ge=0)
    images: int = Field(ge=1)


class Comparison(BaseModel):
    """What `metrics.json` says of networks beside the fused one."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    rows: dict[str, _Row] = Field(default={}, max_length=100)
    left_out: dict[str, str] = Field(default={}, max_length=100)

    def compared(self, where: str) -> Iterator[Compared]:
        """The rows.

        Raises:
            InputError: a share is not the one of its counts.
        """
        for name, row in self.rows.items():
            if row.correct is None:
                yield Compared(name, Interval(row.accuracy, None, None), row.images)
                continue
            if row.correct > row.images or not math.isclose(row.correct / row.images, row.accuracy, abs_tol=_SMALLEST):
                raise InputError(
                    f"{where}: comparison.rows.{name:.60}: {row.accuracy} is not {row.correct:,} of {row.images:,} images: make "
                    "the model again with kzoo run"
                )
            yield Compared(name, proportion(row.correct, row.images), row.images)


def fusion_of(
    recipe: Recipe,
    weights: WeightsFile,
    images: Sequence[Images | None],
    sizes: Mapping[str, int],
    comparison: Comparison | None,
    where: str,
) -> Fusion:
    """What a recipe and what lies beside it say of a fusion; ``sizes`` are those of the files, ``where`` of the metrics."""
    measured = (
        Measured(each.path, each.kind, each.source, each.sha256, sizes.get(each.path)) for each in recipe.inputs
    )
    return Fusion(
        measured=tuple(measured),
        images=tuple(images),
        classes=tuple(None if one.classes is None else tuple(one.classes) for one in recipe.sources),
        compared=tuple(comparison.compared(where)) if comparison is not None else (),
        left_out=dict(comparison.left_out) if comparison is not None else {},
        norms=any(name.endswith("running_var") for name in weights.tensors),
    )

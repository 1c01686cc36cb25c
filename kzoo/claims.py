"""Claims: sentences of a paper as data, each with a metric, a comparison and a threshold, and how it is judged.

`claims.yaml` in the folder of a paper's pipeline holds them. It is written before there are results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from kzoo.faults import Document, read_yaml

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Comparison = Literal["at least", "above", "at most", "below"]
Profile = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
#: A number whose distance to any other is one too.
Number = Annotated[float, Field(ge=-1e100, le=1e100)]


class MetricKind(NamedTuple):
    """A metric that a study can compute: the unit of its values, and the model of its options."""

    unit: str
    options: type[BaseModel]


class Interval(NamedTuple):
    """A metric's value with its 95 % interval; without ends where one pair or one seed gives none."""

    value: float
    low: float | None
    high: float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Claim(_Part):
    """One sentence of a paper that can be found to hold or not."""

    id: str = Field(pattern="^[a-z0-9-]+$", description="Its name among the paper's claims: a-z, 0-9 and -")
    headline: bool = Field(default=False, description="Whether a report shows it first")
    statement: str = Field(min_length=1, description="What is claimed, in one sentence")
    where: str = Field(min_length=1, description="Where in the paper it stands")
    setting: Literal["paper", "scaled"] = Field(description="paper: the paper's own data and networks; scaled: smaller")
    profiles: list[Profile] = Field(min_length=1, description="Of the pipeline, in which the metric can be computed")
    metric: str = Field(description="One of the study's metrics")
    of: dict[str, Any] = Field(default={}, description="The metric's options")
    comparison: Comparison = Field(description="How the metric must stand to the threshold")
    threshold: Number = Field(description="The number that the metric is compared with")
    unit: str = Field(description="Of the threshold, which must be the metric's")
    seeds: int = Field(ge=1, description="How many seeds the paper, or this study, uses")
    needs: str | None = Field(default=None, min_length=1, description="What is missing where it is not run")
    note: str | None = Field(default=None, min_length=1, description="Anything else that a reader should know")

    @property
    def wanted(self) -> str:
        """What the metric must be: ``at least 1.6 ratio``."""
        return f"{self.comparison} {self.threshold:.12g} {self.unit}"


class Claims(_Part):
    """The claims of one paper, and what of the paper was at hand."""

    paper: str = Field(min_length=1, description="A short name for people")
    title: str = Field(min_length=1, description="The paper's title")
    link: str | None = Field(default=None, pattern=r"^https?://\S+$", description="Where the paper can be read")
    known: str = Field(min_length=1, description="What of the paper was at hand; reconstructions are called so")
    claims: list[Claim] = Field(min_length=1, description="One or more")


def read_claims(path: Path, metrics: Mapping[str, MetricKind]) -> Claims:
    """The claims in a file, each with a metric out of ``metrics``.

    Raises:
        InputError: the file cannot be read, is no plain YAML, or a field is missing, unknown or wrong: with its line.
    """
    document = read_yaml(path, "a paper's claims")

    def unit_of(keys: tuple[str | int, ...]) -> str | None:
        if keys[-1] != "unit":
            return None
        kind = metrics.get(str(document.data["claims"][keys[1]].get("metric")))
        return f"a threshold means nothing without it{f', and the metric is in {kind.unit!r}' if kind else ''}"

    claims = document.validated(Claims, missing=unit_of)
    lines: dict[str, int] = {}
    checked = []
    for index, claim in enumerate(claims.claims):
        keys = ("claims", index)
        line = document.line((*keys, "id"))
        if claim.id in lines:
            raise document.fault(
                (*keys, "id"), f"{claim.id!r} is the id of line {lines[claim.id]} too: give it another"
            )
        lines[claim.id] = line
        checked.append(_checked(document, claim, index, metrics))
    return claims.model_copy(update={"claims": checked})


def _checked(document: Document, claim: Claim, index: int, metrics: Mapping[str, MetricKind]) -> Claim:
    """The claim with its options as the metric's model reads them."""
    keys = ("claims", index)
    if len(set(claim.profiles)) < len(claim.profiles):
        raise document.fault((*keys, "profiles"), "names a profile twice: keep one of them")
    if claim.metric not in metrics:
        known = ", ".join(metrics)
        raise document.fault(
            (*keys, "metric"), f"{claim.metric!r:.60} is no metric of the study: expected one of {known}"
        )
    kind = metrics[claim.metric]
    if claim.unit != kind.unit:
        problem = f"expected {kind.unit!r}, the unit of the metric {claim.metric}, found {claim.unit!r:.60}"
        raise document.fault((*keys, "unit"), problem)
    options = replace(document, what=f"the metric {claim.metric}")
    of = options.validated(kind.options, (*keys, "of"), data=claim.of)
    return claim.model_copy(update={"of": of.model_dump(exclude_unset=True)})


def verdict(claim: Claim, found: Interval | None) -> Verdict:
    """Whether a claim holds: only a whole interval on one side of the threshold decides."""
    if found is None:
        return "not run"
    if found.low is None or found.high is None:
        return "inconclusive"
    # Mirrored, "at most" and "below" are "at least" and "above".
    upward = claim.comparison in ("at least", "above")
    near, far, threshold = (
        (found.low, found.high, claim.threshold) if upward else (-found.high, -found.low, -claim.threshold)
    )
    if claim.comparison in ("at least", "at most"):
        holds, fails = near >= threshold, far < threshold
    else:
        holds, fails = near > threshold, far <= threshold
    return "reproduced" if holds else "not reproduced" if fails else "inconclusive"

"""The schema of `out/metrics.json`, in which a pipeline leaves what it found: metrics of claims, figures and tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from kzoo.claims import Interval, Number, Profile
from kzoo.faults import RULE, read_json
from kzoo.plots.text import clean
from kzoo.reporting.scales import SMALLEST

_MOST_BYTES = 20_000_000
# Nothing that would lead out of the repository, or be more than the name of a file.
_FILE = re.compile(r"(?!\.\.?(/|$))[\w.+=@-]+(/(?!\.\.?(/|$))[\w.+=@-]+)*")


def _one_line(text: str) -> str:
    return clean(" ".join(text.split()))


def _inside(file: str) -> str:
    if not _FILE.fullmatch(file):
        raise PydanticCustomError(
            RULE,
            "expected a file seen from the repository's folder, such as pipelines/paper/out/train.json, found {file}",
            {"file": ascii(file)[:80]},
        )
    return file


_Text = Annotated[str, AfterValidator(_one_line)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Found(_Part):
    """What was found of one claim's metric, from how much, and the file that holds the single runs."""

    value: Number
    low: Number | None = Field(description="The lower end of the 95 % interval, or null")
    high: Number | None = Field(description="The upper end of the 95 % interval, or null")
    unit: _Text
    counts: dict[_Text, int] = Field(default={})
    file: Annotated[str, AfterValidator(_inside)]

    @model_validator(mode="after")
    def _ordered(self) -> Found:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise PydanticCustomError(
                RULE, "low is {low}, which is above high, {high}", {"low": self.low, "high": self.high}
            )
        return self

    @property
    def interval(self) -> Interval:
        """The value with its interval alone."""
        return Interval(self.value, self.low, self.high)


class Point(_Part):
    """One point of a series, perhaps with an interval; in bars, x is the name of what stands there."""

    x: Number | _Text
    y: Number
    low: Number | None = None
    high: Number | None = None
    label: _Text = ""


class Series(_Part):
    """Points that belong together, with the name that a legend shows."""

    name: _Text
    points: list[Point]


class Axis(_Part):
    """What an axis shows, and whether on a logarithmic scale."""

    label: _Text
    log: bool = False


class Mark(_Part):
    """A line across a figure at a value of one of its axes."""

    at: Number
    axis: Literal["x", "y"]
    label: _Text = ""


class Figure(_Part):
    """A figure as data."""

    kind: Literal["scatter", "lines", "bars"]
    title: _Text
    caption: _Text = ""
    x: Axis
    y: Axis
    lines: list[Mark] = Field(default=[])
    series: list[Series]

    @property
    def points(self) -> list[Point]:
        """The points of all series."""
        return [point for series in self.series for point in series.points]

    @model_validator(mode="after")
    def _drawable(self) -> Figure:
        words = self.kind == "bars"
        odd = next((point.x for point in self.points if isinstance(point.x, str) is not words), None)
        if odd is not None:
            expected = "text" if words else "numbers"
            raise PydanticCustomError(
                RULE,
                "the x of {kind} must be {expected}, found {odd}",
                {"kind": self.kind, "expected": expected, "odd": ascii(odd)[:60]},
            )
        for name, axis in (("x", self.x), ("y", self.y)):
            values = [getattr(point, name) for point in self.points]
            values += [mark.at for mark in self.lines if mark.axis == name]
            if axis.log and any(isinstance(value, str) or value < SMALLEST for value in values):
                raise PydanticCustomError(
                    RULE, "a logarithmic {name} axis needs numbers above 0, and there are others", {"name": name}
                )
        return self


class Table(_Part):
    """A table as text."""

    title: _Text
    columns: list[_Text] = Field(min_length=1)
    rows: list[list[_Text]]

    @model_validator(mode="after")
    def _even(self) -> Table:
        uneven = next((len(row) for row in self.rows if len(row) != len(self.columns)), None)
        if uneven is not None:
            raise PydanticCustomError(
                RULE,
                "has {columns} columns, and a row of {cells} cells",
                {"columns": len(self.columns), "cells": uneven},
            )
        return self


class Results(_Part):
    """What a pipeline found in one profile."""

    paper: str = Field(description="The name of the pipeline's folder")
    profile: Profile
    environment: dict[_Text, JsonValue] = Field(default={}, description="The machine and the versions, for people")
    claims: dict[str, Found] = Field(description="By the claim's id; those of other profiles are absent")
    figures: list[Figure] = Field(default=[])
    tables: list[Table] = Field(default=[])


def read_results(path: Path, paper: str, units: dict[str, str]) -> Results:
    """The results in a file: of the pipeline ``paper``, for claims with these units.

    Raises:
        InputError: the file cannot be read or is no such JSON, or it does not fit the claims.
    """
    document = read_json(path, "a pipeline's metrics.json", _MOST_BYTES)
    results = document.validated(Results)
    if results.paper != paper:
        raise document.fault(("paper",), f"expected {paper!r}, the folder's name, found {results.paper!r:.60}")
    for name, found in results.claims.items():
        keys = ("claims", name)
        if name not in units:
            raise document.fault(keys, "is no claim of claims.yaml: run the pipeline again")
        if found.unit != units[name]:
            expected = f"expected {units[name]!r}, the claim's unit, found {found.unit!r:.60}"
            raise document.fault((*keys, "unit"), f"{expected}: run the pipeline again")
    return results

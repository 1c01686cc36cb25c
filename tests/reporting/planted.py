"""Pipelines of three made-up papers: eight claims with every verdict, and a figure of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from kzoo.claims import MetricKind

HOSTILE = "<script>alert('x')</script> & \"quotes\" | pipes `ticks` *stars*"


class _Ratio(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epoch: int = 1


METRICS = {"ratio": MetricKind("ratio", _Ratio)}

#: Verdicts by paper and claim.
EXPECTED = {
    "alpha": {
        "fast": "reproduced",
        "same": "reproduced",
        "harmless": "not reproduced",
        "alike": "inconclusive",
        "imagenet": "not run",
    },
    "beta": {"short": "inconclusive", "missing": "not run"},
    "gamma": {"later": "not run"},
}


def claim(name: str, comparison: str, threshold: float, **more: Any) -> dict[str, Any]:
    """A claim as claims.yaml has it."""
    return {
        "id": name,
        "statement": f"Statement of {name}.",
        "where": f"section {len(name)}",
        "setting": "scaled",
        "profiles": ["default"],
        "metric": "ratio",
        "comparison": comparison,
        "threshold": threshold,
        "unit": "ratio",
        "seeds": 5,
        **more,
    }


def found(paper: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    """A claim's result as metrics.json has it."""
    return {
        "value": value,
        "low": low,
        "high": high,
        "unit": "ratio",
        "counts": {"pairs": 12, "seeds": 1},
        "file": f"pipelines/{paper}/out/train.json",
    }


def figure(kind: str, **more: Any) -> dict[str, Any]:
    """A figure of two series as metrics.json has it."""
    places: list[Any] = ["resnet", "vgg with a long name", "mobilenet"] if kind == "bars" else [0.25, 0.5, 1]
    points = [{"x": x, "y": y, "low": y / 2, "high": y * 2} for x, y in zip(places, (0.5, 1.0, 2.5), strict=True)]
    return {
        "kind": kind,
        "title": f"A figure of {kind}",
        "caption": "With intervals.",
        "x": {"label": "similarity"},
        "y": {"label": "ratio"},
        "lines": [{"at": 1.0, "axis": "y", "label": "random"}],
        "series": [{"name": name, "points": points} for name in ("paper", "full_state")],
        **more,
    }


def about(name: str, claims: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole claims.yaml."""
    known = "The text was not at hand beyond its abstract."
    return {
        "paper": name.title(),
        "title": f"On {name}",
        "link": f"https://arxiv.org/abs/{name}",
        "known": known,
        "claims": claims,
    }


def results(paper: str, claims: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A whole metrics.json."""
    return {
        "paper": paper,
        "profile": "default",
        "environment": {"cpu": "AVX512", "threads": 2},
        "claims": claims,
        **more,
    }


def write(root: Path, paper: str, claims: dict[str, Any], metrics: dict[str, Any] | None) -> None:
    """The two files of one pipeline."""
    folder = root / "pipelines" / paper
    (folder / "out").mkdir(parents=True, exist_ok=True)
    (folder / "claims.yaml").write_text(yaml.safe_dump(claims, sort_keys=False, width=10_000))
    if metrics is not None:
        (folder / "out" / "metrics.json").write_text(json.dumps(metrics))


def plant(root: Path) -> Path:
    """Write all three; returns the folder that holds `pipelines`."""
    alpha = [
        claim("alike", "above", 0.5),
        claim("fast", "at least", 1.6, headline=True, statement=HOSTILE),
        claim("same", "at most", 0.001, note="Up to rounding."),
        claim("harmless", "above", 1, headline=True),
        claim("imagenet", "at least", 1.6, setting="paper", profiles=["paper", "gpu"], needs="ImageNet."),
    ]
    values = {
        "fast": found("alpha", 2.3, 1.9, 2.8),
        "same": found("alpha", 0.0, 0.0, 0.001),
        "harmless": found("alpha", 0.8, 0.7, 1.0),
        "alike": found("alpha", 0.61, 0.4996, 0.79),
        # Of a profile that is too small for it.
        "imagenet": found("alpha", 9.0, 8.0, 10.0),
    }
    table = {"title": "Pairs", "columns": ["pair", "ratio"], "rows": [["a -> b", "0.91"], ["<b>", "1|2"]]}
    figures = [figure("scatter", y={"label": "ratio", "log": True}), figure("lines"), figure("bars")]
    write(root, "alpha", about("alpha", alpha), results("alpha", values, figures=figures, tables=[table]))
    beta = [claim("short", "below", 2), claim("missing", "at least", 1)]
    write(root, "beta", about("beta", beta), results("beta", {"short": found("beta", 1.0, None, None)}))
    write(root, "gamma", about("gamma", [claim("later", "below", 0.5, headline=True, needs="a GPU")]), None)
    (root / "pipelines" / "common").mkdir(exist_ok=True)
    return root

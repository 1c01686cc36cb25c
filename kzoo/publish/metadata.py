"""The metadata of a card, as the Hub defines it and its client writes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kzoo.claims import Interval
from kzoo.layout import RECIPE
from kzoo.publish.facts import TESTED, CardFacts
from kzoo.publish.safe import line

HUB = "https://huggingface.co"
_TASK = "image-classification"


def front_matter(facts: CardFacts) -> str:
    """The metadata as YAML, without the lines around it; each value is one line of plain text."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [EvalResult(**fields) for fields in _results(facts)]
    sources = [*facts.parents, *([facts.start] if facts.start is not None else [])]
    parents = [source.repository for source in sources if source.repository is not None]
    related = facts.relation is not None and bool(parents)
    license = facts.license
    data = ModelCardData(
        base_model=list(dict.fromkeys(parents)) if related else None,
        datasets=[facts.data.dataset] if facts.data is not None and facts.data.dataset is not None else None,
        eval_results=results or None,
        library_name="timm" if facts.library == "timm" else "pytorch",
        license=line(license.license) if license is not None else None,
        license_name=_lined(license.license_name) if license is not None else None,
        license_link=_lined(license.license_link) if license is not None else None,
        metrics=["accuracy"] if results else None,
        model_name=line(facts.title) if results else None,
        pipeline_tag=_pipeline(facts),
        tags=_tags(facts),
        base_model_relation=facts.relation if related else None,
    )
    return str(data.to_yaml(line_break="\n"))


def _lined(text: str | None) -> str | None:
    return None if text is None else line(text)


def _tags(facts: CardFacts) -> list[str]:
    merged = ["merge"] if facts.relation == "merge" else []
    return ["kzoo", f"kzoo-{line(facts.method, 40)}", *merged]


def _pipeline(facts: CardFacts) -> str | None:
    """The Hub's task; a factory of somebody's own may give anything."""
    if facts.network.startswith("py:"):
        return None
    return "image-feature-extraction" if facts.classes == 0 else _TASK


def _results(facts: CardFacts) -> Iterable[dict[str, Any]]:
    """The test metrics as `EvalResult` takes them."""
    data, metrics = facts.data, facts.metrics
    if data is None or metrics is None:
        return
    args = {"size": data.size, "channels": data.channels, "seed": data.seed, "fingerprint": data.fingerprint}
    common = {
        "task_type": _TASK,
        "task_name": "Image Classification",
        "dataset_type": data.dataset or "imagefolder",
        "dataset_name": line(data.task),
        "dataset_split": "test" if facts.tested_on == TESTED else "validation",
        "dataset_args": {key: value for key, value in args.items() if value is not None} | {"images": metrics.images},
    }
    if facts.repository is not None:
        common |= {"source_name": f"kzoo {RECIPE}", "source_url": f"{HUB}/{facts.repository}/blob/main/{RECIPE}"}
    yield common | _metric("accuracy", "Accuracy", metrics.accuracy)
    if metrics.top5 is not None and tells_top5(facts):
        yield common | _metric("accuracy", "Top-5 accuracy", metrics.top5) | {"metric_config": "top-5"}
    yield common | {"metric_type": "loss", "metric_name": "Cross-entropy", "metric_value": round(metrics.loss, 6)}


def _metric(kind: str, name: str, found: Interval) -> dict[str, Any]:
    assert found.low is not None and found.high is not None  # of a share there is always an interval
    interval = {"low": round(found.low, 6), "high": round(found.high, 6), "confidence": 0.95, "method": "wilson"}
    return {"metric_type": kind, "metric_name": name, "metric_value": round(found.value, 6), "metric_args": interval}


def tells_top5(facts: CardFacts) -> bool:
    """Whether the right class among the first five says anything."""
    return facts.classes is None or facts.classes > 5

"""What was measured beside a model, as a card shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kzoo.publish.facts import CardFacts
from kzoo.publish.fusion_facts import Compared
from kzoo.publish.safe import Safe, code, prose
from kzoo.publish.wording import percent, spread

#: What the rows of an amalgamation are called, as plain text.
_TAUGHT: Mapping[str, str] = {
    "concatenated_probability": "the teachers side by side (probabilities)",
    "concatenated_logit": "the teachers side by side (logits)",
    "oracle": "for each image, a teacher that knows its class",
}


def compared_table(facts: CardFacts) -> dict[str, Any] | None:
    """What was measured beside a network, as rows, with what was not and why."""
    if not facts.compared:
        return None
    uneven = len({row.images for row in facts.compared}) > 1
    names = {row.name: row_as_markdown(row, facts) for row in facts.compared}
    left_out = facts.fusion.left_out if facts.fusion is not None else {}
    return {
        "uneven": uneven,
        "rows": [
            {
                "name": names[row.name],
                "accuracy": _bold(percent(row.accuracy.value), row),
                "interval": spread(row.accuracy) or Safe("-"),
                "images": f"{row.images:,}",
            }
            for row in facts.compared
        ],
        "left_out": [(prose(name.replace("_", " ")), reason) for name, reason in left_out.items()],
        "images": f"{facts.compared[0].images:,}",
    }


def mean_of(row: Compared) -> str | None:
    """Of what an ensemble takes the mean, where its name says it."""
    return next((word for word in ("probability", "logit") if row.is_named(word)), None)


def _bold(text: str, row: Compared) -> Safe:
    return Safe(f"**{text}**" if row.is_ours else text)


def row_as_markdown(row: Compared, facts: CardFacts) -> Safe:
    """What a row is called on the card, as Markdown."""
    if row.is_ours:
        return Safe("**this model**")
    if row.parent is not None and row.parent < len(facts.parents):
        return Safe(f"{code(facts.parents[row.parent].name)} alone")
    return prose(row_name(row, facts))


def row_name(row: Compared, facts: CardFacts) -> str:
    """What a row is called, as plain text."""
    if row.is_ours:
        return "this model"
    if row.parent is not None and row.parent < len(facts.parents):
        return f"{facts.parents[row.parent].name} alone"
    if row.is_named("ensemble"):
        mean = mean_of(row)
        return f"ensemble of the sources{f' (mean {mean})' if mean else ''}"
    known: dict[str, str] = {
        **_TAUGHT,
        "start": "the start of all sources",
        "regmean": "RegMean of the same sources",
        "joint": "one network trained on all data: the ceiling",
        "chance": "chance",
    }
    plain = row.name.replace("_", " ")
    return known.get(row.name.lower()) or known.get(plain.lower().split(" ")[0], plain)

"""What a card says of a student that several networks taught: who taught it what, and what must not be expected of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kzoo.publish.amalgamation_facts import Amalgamation, TeachersSlice
from kzoo.publish.facts import CardFacts
from kzoo.publish.safe import Safe, code, prose
from kzoo.publish.wording import classes_named, listed, percent, spread

_PARTS: Mapping[str, str] = {
    "full": "the student's are to be distributed as each teacher's, and each teacher's are rebuilt from there",
    "mmd": "the student's are to be distributed as each teacher's",
    "reconstruction": "each teacher's are rebuilt from there; that says nothing to the student",
}
_OVERLAP: Mapping[str, str] = {
    "sum": "of a class that several know, probabilities are added",
    "max": "of a class that several know, the highest probability counts",
}
_CALIBRATED: Mapping[str, str] = {
    "none": "the teachers' logits are taken as they are",
    "scale": "the teachers' logits are brought to one spread",
}
#: What the items of the list tell in words, or decides no byte of the student.
_NOT_TOLD = frozenset({"overlap", "calibrate", "temperature", "parts", "cache"})
#: Settings of parts that a student may be without.
_OF_PART: Mapping[str, str] = {
    "mmd_weight": "mmd",
    "sigmas": "mmd",
    "multiples": "mmd",
    "reconstruction_weight": "reconstruction",
}


def summary(facts: CardFacts) -> str:
    """What stands beside the result in the first paragraph."""
    found = {row.name: row.accuracy.value for row in facts.amalgamation.compared} if facts.amalgamation else {}
    if not found:
        return ""
    return (
        f"; its teachers side by side get {percent(found['concatenated_probability'])} by probabilities and "
        f"{percent(found['concatenated_logit'])} by logits, and those who are only asked about what they know "
        f"{percent(found['oracle'])}"
    )


def slices_table(facts: CardFacts) -> dict[str, Any] | None:
    """Who is right on the images of each teacher's classes, as rows."""
    taught = facts.amalgamation
    if taught is None or not taught.slices:
        return None
    rows = [
        {
            "teacher": code(parent.name),
            "knows": Safe(classes_named(known)),
            "images": f"{found.images:,}" if found is not None else "0",
            "shares": [_share(found, name) for name in ("teacher", "own", "joint")],
        }
        for parent, known, found in zip(facts.parents, taught.classes, taught.slices, strict=True)
    ]
    return {"rows": rows}


def _share(found: TeachersSlice | None, name: str) -> Safe:
    if found is None:
        return Safe("-")
    interval = getattr(found, name)
    return Safe(f"{percent(interval.value)} ({spread(interval)})")


def how(facts: CardFacts) -> Iterator[Safe]:
    """The choices of an amalgamation, as items of a list: Markdown."""
    taught, chosen = facts.amalgamation, facts.method_parameters
    if taught is None:
        return
    if not taught.slices:
        knows = [
            f"{code(parent.name)} knows {classes_named(known)}"
            for parent, known in zip(facts.parents, taught.classes, strict=True)
        ]
        yield _item("Teachers", f"{'; '.join(knows)}.")
    yield _item(
        "Labels",
        "none: what it was taught with has no place for them; the images' classes were used for the test alone.",
    )
    yield _item("Soft targets", f"{_soft_targets(taught, chosen)}.")
    if facts.method == "cfl":
        parts = _PARTS.get(str(chosen.get("parts", "full"))) or code(str(chosen["parts"]))
        yield _item("Common features", f"in a space that all networks share, {parts}.")
    if facts.start is not None:
        yield _item("Start", f"the weights of {code(facts.start.name)}.")


def _soft_targets(taught: Amalgamation, chosen: Mapping[str, Any]) -> str:
    calibrate = str(chosen.get("calibrate", "none"))
    told = ["one softmax over all teachers' logits", _CALIBRATED.get(calibrate) or str(code(calibrate))]
    if chosen.get("temperature", 1.0) != 1.0:
        told.append(f"at a temperature of {prose(str(chosen['temperature']))}")
    if taught.is_overlapping:
        overlap = str(chosen.get("overlap", "sum"))
        told.append(_OVERLAP.get(overlap) or str(code(overlap)))
    return "; ".join(told)


def settings(facts: CardFacts) -> dict[str, Any]:
    """The parameters of an amalgamation that decide something and stand in no item of `how`."""
    chosen = facts.method_parameters
    parts = chosen.get("parts", "full")
    return {
        name: value
        for name, value in chosen.items()
        if name not in _NOT_TOLD
        and (parts == "full" or _OF_PART.get(name, parts) == parts)
        and not (name == "sigmas" and not value)
        and not (name == "multiples" and chosen.get("sigmas"))
    }


def limits(facts: CardFacts) -> Iterator[Safe]:
    """What must not be expected of a student."""
    taught = facts.amalgamation
    if taught is None:
        return
    yield Safe(
        "All that it learned are its teachers' answers: where they are wrong, or sure of classes that they do not know, it was taught "
        "that."
    )
    found = {row.name: row.accuracy.value for row in taught.compared}
    ours = found.get("student", 0.0)
    best = max((value for name, value in found.items() if name.startswith("concatenated")), default=0.0)
    if best > ours:
        yield Safe(
            f"On the {facts.tested_on} its teachers side by side are right more often ({percent(best)}), where there is room and time "
            "for all of them."
        )
    behind = [
        f"{code(parent.name)} by {100 * (one.teacher.value - one.own.value):.1f} points"
        for parent, one in zip(facts.parents, taught.slices, strict=False)
        if one is not None and one.teacher.value > one.own.value
    ]
    if behind:
        yield Safe(f"On what they know themselves these teachers are better: {listed(behind)}.")


def _item(name: str, text: str) -> Safe:
    return Safe(f"**{name}:** {text}")

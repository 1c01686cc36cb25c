"""What a transfer is going to do, as plain data that people can read and edit: which target part receives from where.

A part is a layer, whose tensors travel together, or a single tensor that belongs to no layer. A plan names parts only;
what is cropped or pasted follows from the shapes.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.readers.safetensors import parse_object, read_bounded

_MOST_BYTES = 50_000_000
_VERSION = 1


class Step(BaseModel):
    """A part of the target, and the part of the source that it receives from; without one it stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    target: str
    source: str | None = None
    score: float | None = Field(default=None, ge=0.0, le=1.0)


class Plan(BaseModel):
    """The steps of a transfer in the order of the target's layers; ``source`` and ``target`` tell people what it is for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kzoo_plan: int = Field(default=_VERSION, ge=_VERSION, le=_VERSION)
    source: str
    target: str
    method: str
    steps: tuple[Step, ...]


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON, a line per step.

    Raises:
        WorldError: the file cannot be written.
    """
    data = plan.model_dump(exclude={"steps"})
    lines = ",\n".join("    " + json.dumps(step.model_dump(), ensure_ascii=False) for step in plan.steps)
    head = json.dumps(data, indent=2, ensure_ascii=False).removesuffix("\n}")
    with replacing(path) as temporary:
        temporary.write_text(f'{head},\n  "steps": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """A plan from a file that `write_plan` made and somebody may have edited.

    Raises:
        InputError: it cannot be read or is no plan, or names a target part twice.
    """
    data = parse_object(read_bounded(path, _MOST_BYTES), f"{path} is no plan", 10**6)
    try:
        plan = Plan.model_validate_json(json.dumps(data))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise InputError(f"{path} is no plan: {place}: {fault['msg']}; write one with --plan and edit that") from None
    seen: set[str] = set()
    for step in plan.steps:
        if step.target in seen:
            raise InputError(f"{path} names the target part {step.target!r:.100} twice: leave one of the two steps")
        seen.add(step.target)
    return plan

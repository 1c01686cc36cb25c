"""What a published recipe says, and what one from the Hub may ask for.

It is data from a stranger, so it names no code, no place, and nothing endless.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel

from kzoo.errors import InputError
from kzoo.hub.names import PREFIX, parse_wanted
from kzoo.hub.repositories import is_commit
from kzoo.layout import PLAN
from kzoo.readers.files import SMALL
from kzoo.readers.libraries import LIBRARIES
from kzoo.recipe import IMAGES, DataSection, Recipe, plain_task, public_path

#: By field: more than any result that is worth publishing needs.
_MOST = {
    "classes": 200_000,
    "in_chans": 4096,
    "img_size": 4096,
    "train": 10_000_000,
    "test": 10_000_000,
    "size": 4096,
    "channels": 4096,
    "epochs": 10_000,
    "batch_size": 1_000_000,
    "workers": 16,
    "threads": 512,
    "warmup_steps": 10_000_000,
}
_NUMBERED = ("target", *IMAGES, "training")
_MOST_IMAGES = 8 * 10**9
_MOST_TEXT, _MOST_PARAMETERS = 10_000, 100


def require_harmless(recipe: Recipe, where: str) -> None:
    """Refuse a recipe that asks for more than a stranger's recipe may.

    Raises:
        InputError: it names code, a place on a disk, or a number beyond all measure; with the field.
    """
    for field, problem in _faults(recipe):
        raise InputError(f"{where}: {field}: {problem}; it comes from the Hub, so it is not run")


def public_recipe(recipe: Recipe) -> Recipe:
    """A recipe without places on this machine: of a file only its name is left, of data folders nothing."""
    sources = [source.model_copy(update={"path": public_path(source.path)}) for source in recipe.sources]
    changes: dict[str, object] = {"sources": sources}
    for name in IMAGES:
        section = getattr(recipe, name)
        if section is not None:
            changes[name] = section.model_copy(update={"root": None, "task": _public_task(section.task)})
    if recipe.plan is not None:
        changes["plan"] = recipe.plan.model_copy(update={"path": PLAN})
    return recipe.model_copy(update=changes)


def _public_task(task: str) -> str:
    plain = plain_task(task)
    return task if plain == task else f"{plain}:{public_path(task.partition(':')[2])}"


def obstacles(recipe: Recipe) -> tuple[str, ...]:
    """Why others cannot make a published model again from its recipe: none where they can."""
    return tuple(problem for _, problem in _faults(public_recipe(recipe)))


def _faults(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for number, source in enumerate(recipe.sources):
        problem = _source_problem(source.path)
        if problem:
            yield f"sources.{number}.path", problem
    library = recipe.target.model.partition(":")[0]
    if ":" not in recipe.target.model or library not in (*LIBRARIES, SMALL):
        yield "target.model", f"{recipe.target.model!r:.80} names no network of timm, torchvision or kzoo"
    if recipe.plan is not None and recipe.plan.path != PLAN:
        yield "plan.path", f"{recipe.plan.path!r:.80} leads elsewhere than to {PLAN} beside the recipe"
    for name in IMAGES:
        section = getattr(recipe, name)
        yield from ((f"{name}.{field}", problem) for field, problem in _data_faults(section)) if section else ()
    yield from _number_faults(recipe)
    if len(recipe.parameters) > _MOST_PARAMETERS or len(repr(recipe.parameters)) > _MOST_TEXT:
        yield "parameters", "they are longer than any method's"


def _source_problem(path: str) -> str | None:
    if path.startswith(PREFIX):
        try:
            revision = parse_wanted(path).name.revision
        except InputError as error:
            return str(error)
        return None if is_commit(revision) else f"{path!r:.120} names no commit, so it may be another network by now"
    if path.startswith("local:") and "/" not in path and "\\" not in path:
        return None
    if path.startswith("py:"):
        return f"{path!r:.80} names code"
    return f"{path!r:.120} is a file of its maker's, which is not published"


def _data_faults(section: DataSection) -> Iterator[tuple[str, str]]:
    if section.root is not None:
        yield "root", f"{section.root!r:.80} is a place on a disk"
    if section.task.startswith("imagefolder:") or ":" in section.task:
        yield "task", "it needs images of its maker's, which are not published"
    asked = [(section.train or 0) + (section.test or 0), section.channels or 1, section.size or 1, section.size or 1]
    if math.prod(asked) > _MOST_IMAGES:
        yield "train", f"so many images of that size take {math.prod(asked) / 1e9:,.0f} GB"


def _number_faults(recipe: Recipe) -> Iterator[tuple[str, str]]:
    sections: dict[str, BaseModel | None] = {name: getattr(recipe, name) for name in _NUMBERED}
    for name, section in sections.items():
        for field, value in (section.model_dump() if section is not None else {}).items():
            if field in _MOST and isinstance(value, int) and value > _MOST[field]:
                yield f"{name}.{field}", f"{value:,} is more than the {_MOST[field]:,} that are allowed"
    if recipe.threads is not None and recipe.threads > _MOST["threads"]:
        yield "threads", f"{recipe.threads:,} is more than the {_MOST['threads']:,} that are allowed"

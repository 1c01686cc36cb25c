"""What a published recipe says, and what one from the Hub may ask for.

It is data from a stranger, so it names no code, no place, and nothing endless.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from kzoo.errors import InputError
from kzoo.hub.names import PREFIX, parse_wanted
from kzoo.hub.repositories import is_commit
from kzoo.layout import PLAN, side_input
from kzoo.methods.amalgamation.parameters import AMALGAMATION
from kzoo.methods.fusion.parameters import FUSION, FusionParameters
from kzoo.publish.papers import method_of
from kzoo.readers.files import SMALL
from kzoo.readers.libraries import LIBRARIES
from kzoo.recipe import IMAGES, DataSection, Recipe, SourceSection, is_no_path, plain_task, public_path

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
_MOST_SOURCES = 100
#: What a method may need of a source, as a file beside the recipe.
_MEASURED = ("fisher", "gram")
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
    changes: dict[str, object] = {
        "sources": [_public_source(source) for source in recipe.sources],
        "start": None if recipe.start is None else _public_source(recipe.start),
        "inputs": [each.model_copy(update={"path": side_input(each.kind, each.source)}) for each in recipe.inputs],
    }
    changes |= {name: _public_images(getattr(recipe, name)) for name in IMAGES}
    if recipe.plan is not None:
        changes["plan"] = recipe.plan.model_copy(update={"path": PLAN})
    return recipe.model_copy(update=changes)


def _public_source(source: SourceSection) -> SourceSection:
    return source.model_copy(update={"path": public_path(source.path), "images": _public_images(source.images)})


def _public_images(section: DataSection | None) -> DataSection | None:
    return section and section.model_copy(update={"root": None, "task": _public_task(section.task)})


def _public_task(task: str) -> str:
    plain = plain_task(task)
    return task if plain == task else f"{plain}:{public_path(task.partition(':')[2])}"


def obstacles(recipe: Recipe) -> tuple[str, ...]:
    """Why others cannot make a published model again from its recipe: none where they can."""
    return tuple(dict.fromkeys(problem for _, problem in _faults(public_recipe(recipe))))


def _faults(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if len(recipe.sources) > _MOST_SOURCES:
        yield "sources", f"{len(recipe.sources):,} are more than the {_MOST_SOURCES} that are allowed"
    yield from _fusion_faults(recipe)
    used = _images_used(recipe)
    for name, source in _sources(recipe).items():
        problem = _source_problem(source.path)
        if problem and not (name == "start" and _is_only_a_name(source.path) and not needs_start(recipe)):
            yield f"{name}.path", problem
        if source.network is not None and source.network.partition(":")[0] not in (*LIBRARIES, SMALL):
            yield f"{name}.network", f"{source.network!r:.80} names no network of timm, torchvision or kzoo"
        if source.images is not None:
            found = _data_faults(source.images, name in used)
            yield from ((f"{name}.images.{field}", problem) for field, problem in found)
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


def needs_start(recipe: Recipe) -> bool:
    """Whether the start of a recipe decides its weights, and not only what they are put beside."""
    if recipe.method in AMALGAMATION:
        return recipe.start is not None
    return method_of(recipe.method).fuses and "start" in _parameters(recipe).needs


def _is_only_a_name(path: str) -> bool:
    return not is_no_path(path) and public_path(path) == path


def _sources(recipe: Recipe) -> dict[str, SourceSection]:
    """The sources and the start, by field."""
    start = {} if recipe.start is None else {"start": recipe.start}
    return {f"sources.{number}": source for number, source in enumerate(recipe.sources)} | start


def _fusion_faults(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What is wrong with the files that a fusion reads beside the networks, all of which lie beside the recipe."""
    if not method_of(recipe.method).fuses:
        if recipe.inputs or (recipe.start is not None and recipe.method not in AMALGAMATION):
            yield "inputs" if recipe.inputs else "start", f"method {recipe.method:.80} has no use for it"
        return
    if len(recipe.inputs) > len(_MEASURED) * len(recipe.sources):
        yield "inputs", f"{len(recipe.inputs):,} files are more than {len(recipe.sources):,} sources can have"
    known = [(each.kind, each.source) for each in recipe.inputs]
    for number, each in enumerate(recipe.inputs):
        if each.source >= len(recipe.sources):
            yield f"inputs.{number}.source", f"there is no source {each.source}"
        if each.path != side_input(each.kind, each.source):
            there = side_input(each.kind, each.source)
            yield f"inputs.{number}.path", f"{each.path!r:.80} leads elsewhere than to {there} beside the recipe"
        if known.index((each.kind, each.source)) != number:
            yield f"inputs.{number}", f"a {each.kind} of source {each.source} is named twice"
    needed = _parameters(recipe).needs
    for kind in (kind for kind in _MEASURED if kind in needed):
        missing = [number for number in range(len(recipe.sources)) if (kind, number) not in known]
        if missing:
            # What is measured anew, elsewhere and later, may be something else, and nobody would see it.
            yield "inputs", f"the {kind} of source {missing[0]} is not beside the recipe, and is not measured anew"


def _parameters(recipe: Recipe) -> FusionParameters:
    """What a method of fusion is told; the defaults where that is wrong, which running it will say."""
    try:
        return FUSION[recipe.method].model_validate(recipe.parameters)
    except ValidationError:
        return FUSION[recipe.method].model_validate({})


def _images_used(recipe: Recipe) -> set[str]:
    """The fields of the sources whose images a run of the recipe looks at."""
    if not any(source.images for source in recipe.sources) or not method_of(recipe.method).fuses:
        return set()
    from kzoo.fusing import images_used

    used = images_used(recipe, _parameters(recipe))
    return {f"sources.{number}" for number, one in enumerate(used) if one}


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


def _data_faults(section: DataSection, used: bool = True) -> Iterator[tuple[str, str]]:
    if section.root is not None:
        yield "root", f"{section.root!r:.80} is a place on a disk"
    if plain_task(section.task) != section.task and used:
        yield "task", "it needs images of its maker's, which are not published"
    elif section.task != _public_task(section.task):
        yield "task", f"{section.task!r:.80} is a place on a disk"
    # Two are what a network is traced on.
    asked = [
        max((section.train or 0) + (section.test or 0), 2),
        section.channels or 1,
        section.size or 1,
        section.size or 1,
    ]
    if math.prod(asked) > _MOST_IMAGES:
        yield "train", f"so many images of that size take {math.prod(asked) / 1e9:,.0f} GB"


def _number_faults(recipe: Recipe) -> Iterator[tuple[str, str]]:
    sections: dict[str, BaseModel | None] = {name: getattr(recipe, name) for name in _NUMBERED}
    sections |= {f"{name}.images": source.images for name, source in _sources(recipe).items()}
    sections["comparison.joint"] = recipe.comparison and recipe.comparison.joint
    for name, section in sections.items():
        for field, value in (section.model_dump() if section is not None else {}).items():
            if field in _MOST and isinstance(value, int) and value > _MOST[field]:
                yield f"{name}.{field}", f"{value:,} is more than the {_MOST[field]:,} that are allowed"
    if recipe.threads is not None and recipe.threads > _MOST["threads"]:
        yield "threads", f"{recipe.threads:,} is more than the {_MOST['threads']:,} that are allowed"

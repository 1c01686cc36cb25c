"""Everything that a repository on the Hub gets from a model folder: its files, the card, and the license that they may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from kzoo.errors import CheckFailed, InputError
from kzoo.layout import CARD, CONFIG, ENVIRONMENT, METRICS, PICTURE, PLAN, RECIPE, WEIGHTS
from kzoo.licenses import OTHER, UNKNOWN
from kzoo.publish.card import checked_card
from kzoo.publish.data_licenses import data_part
from kzoo.publish.facts import CardFacts, CardLicense, read_facts
from kzoo.publish.licensing import NOT_ADVICE, JointLicense, Part, joint_license
from kzoo.publish.picture import matching_picture
from kzoo.recipe import Recipe, is_no_path, plain_task, read_recipe, recipe_text
from kzoo.zoo import Zoo

#: Every file that kzoo writes into a repository.
FILES = (WEIGHTS, CONFIG, RECIPE, METRICS, ENVIRONMENT, PLAN, PICTURE, CARD)
_COPIED = (CONFIG, METRICS, ENVIRONMENT, PLAN)


@dataclass(frozen=True)
class Choice:
    """What a user says of the license: an id of the Hub with name and address where it is ``other``; and a permission."""

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    permission: str | None = None


@dataclass(frozen=True)
class Page:
    """What is published: content by name, a path for the weights, text for all else; and what it says.

    ``unpublished`` are sources that nobody else can get.
    """

    files: Mapping[str, Path | str]
    facts: CardFacts
    license: JointLicense
    unpublished: tuple[str, ...]


def read_page(
    folder: Path, repository: str | None, choice: Choice, beside: Sequence[Path], zoo: Callable[[], Zoo]
) -> Page:
    """What the model folder ``folder`` becomes on the Hub; nothing is sent, and nothing written.

    Raises:
        InputError: it is no folder that kzoo made, or something in it cannot be published.
        CheckFailed: the licenses of what it was made from do not allow to publish it, or not under the one that is chosen.
        WorldError: the disk fails.
    """
    facts = read_facts(folder, repository, None, beside, zoo)
    joint = chosen_license(facts, choice)
    facts = replace(facts, license=card_license(joint))
    picture = matching_picture(folder, facts, zoo)
    facts = replace(facts, picture=PICTURE if picture is not None else None)
    files: dict[str, Path | str] = {WEIGHTS: folder / WEIGHTS}
    files |= {name: _text(folder / name) for name in _COPIED if (folder / name).is_file()}
    files[RECIPE] = recipe_text(public_recipe(read_recipe(folder / RECIPE)))
    if picture is not None:
        files[PICTURE] = picture
    files[CARD] = checked_card(facts)
    return Page(
        files={name: files[name] for name in FILES if name in files},
        facts=facts,
        license=joint,
        unpublished=tuple(parent.name for parent in facts.parents if not parent.published),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: make the model again with kzoo run") from None


def public_recipe(recipe: Recipe) -> Recipe:
    """A recipe without places on this machine: of a file only its name is left, of data folders nothing."""
    sources = [source.model_copy(update={"path": _public(source.path)}) for source in recipe.sources]
    changes: dict[str, object] = {"sources": sources}
    for name in ("data", "recalibrate"):
        section = getattr(recipe, name)
        if section is not None:
            changes[name] = section.model_copy(update={"root": None, "task": _public_task(section.task)})
    if recipe.plan is not None:
        changes["plan"] = recipe.plan.model_copy(update={"path": PLAN})
    return recipe.model_copy(update=changes)


def _public(path: str) -> str:
    return path if is_no_path(path) else PurePosixPath(path.replace("\\", "/")).name or WEIGHTS


def _public_task(task: str) -> str:
    plain = plain_task(task)
    return task if plain == task else f"{plain}:{PurePosixPath(task.partition(':')[2].replace(chr(92), '/')).name}"


def chosen_license(facts: CardFacts, choice: Choice) -> JointLicense:
    """The license that everything a model was made from allows, or the chosen one, if all allows that.

    Raises:
        InputError: the choice is no license.
        CheckFailed: nothing is allowed, or not what is chosen; with the ways out.
    """
    parts = _parts(facts)
    joint = joint_license(parts, choice.permission)
    if joint.blocked:
        raise CheckFailed(_refusal("it may not be published", joint))
    if choice.license is None:
        return joint
    mine = Part("your choice", "model", choice.license, choice.license_name, choice.license_link)
    alone = joint_license([mine])
    models = any(part.kind == "model" for part in parts)
    fits = joint_license([*parts, mine])
    if choice.permission is None and models and (fits.blocked or fits.license != alone.license):
        asked = (
            "no license is known of all its sources"
            if joint.license in (None, UNKNOWN)
            else (f"its sources ask for {joint.license_name or joint.license}")
        )
        raise CheckFailed(
            f"it may not be published under {choice.license}: {asked}; leave out --license, or say who has allowed it with "
            f"--i-have-permission TEXT. {NOT_ADVICE}"
        )
    return replace(joint, license=alone.license, license_name=choice.license_name, license_link=choice.license_link)


def _refusal(what: str, joint: JointLicense) -> str:
    reasons, ways = "; ".join(text.rstrip(".") for text in joint.reasons), "; ".join(joint.ways_out)
    return f"{what}: {reasons}. What can be done: {ways} {NOT_ADVICE}"


def _parts(facts: CardFacts) -> list[Part]:
    models = [
        Part(parent.name, "model", parent.license or UNKNOWN, parent.license_name, parent.license_link)
        for parent in facts.parents
        if facts.relation is not None
    ]
    data = [facts.data, facts.recalibration]
    return [*models, *(data_part(images.task) for images in data if images is not None)]


def card_license(joint: JointLicense) -> CardLicense | None:
    """What the card says of a license; None where nobody has said any."""
    if joint.license is None:
        return None
    return CardLicense(
        license=joint.license,
        license_name=joint.license_name if joint.license == OTHER else None,
        license_link=joint.license_link if joint.license == OTHER else None,
        reasons=joint.reasons,
        duties=joint.duties,
        permission=joint.permission,
    )

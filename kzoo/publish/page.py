"""Everything that a repository on the Hub gets from a model folder: its files, the card, and the license that they may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kzoo.environment import read_environment
from kzoo.errors import CheckFailed, InputError, WorldError
from kzoo.hub.headers import told_by_page
from kzoo.hub.names import RepositoryName
from kzoo.hub.repositories import read_repository
from kzoo.layout import CARD, COMPARISON, CONFIG, ENVIRONMENT, METRICS, PICTURE, PLAN, RECIPE, WEIGHTS, is_side_input
from kzoo.licenses import OTHER, UNKNOWN
from kzoo.methods.plan import read_plan
from kzoo.publish.card import checked_card
from kzoo.publish.data_licenses import data_part
from kzoo.publish.facts import CardFacts, CardLicense, Parent, read_facts
from kzoo.publish.licensing import NOT_ADVICE, JointLicense, Part, joint_license, refusing
from kzoo.publish.measured import side_inputs
from kzoo.publish.picture import card_picture
from kzoo.publish.trust import public_recipe
from kzoo.readers.safetensors import read_bounded
from kzoo.recipe import read_recipe, recipe_text
from kzoo.zoo import Zoo

_FILES = (WEIGHTS, CONFIG, RECIPE, METRICS, ENVIRONMENT, PLAN, PICTURE, COMPARISON, CARD)
_MOST_BYTES = 50_000_000


def is_ours(name: str) -> bool:
    """Whether a file of a repository is one that kzoo writes there."""
    return name in _FILES or is_side_input(name)


@dataclass(frozen=True)
class Choice:
    """What a user says of the license: an id of the Hub with name and address where it is ``other``; and a permission.

    Raises:
        InputError: a name or an address without ``other``, or ``other`` without them.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    permission: str | None = None

    def __post_init__(self) -> None:
        named = self.license_name is not None and self.license_link is not None
        if self.license == OTHER and not named:
            raise InputError("--license other says nothing by itself: give --license-name and --license-link with it")
        if self.license != OTHER and (self.license_name, self.license_link) != (None, None):
            raise InputError("--license-name and --license-link say what --license other is: give that with them")


@dataclass(frozen=True)
class Page:
    """What is published: content by name, a path for what may be large, bytes for all else; and what it says."""

    files: Mapping[str, Path | bytes]
    facts: CardFacts
    license: JointLicense


def read_page(
    folder: Path,
    repository: str | None,
    choice: Choice,
    beside: Sequence[Path],
    zoo: Callable[[], Zoo],
    say: Callable[[str], None] | None = None,
) -> Page:
    """What the model folder ``folder`` becomes on the Hub; nothing is sent, and nothing written.

    The licenses of parents on the Hub are asked for there, at their commits. Where that cannot be, ``say`` is told, and
    what is known here counts; without ``say`` it is an error.

    Raises:
        InputError: it is no folder that kzoo made, or something in it cannot be published.
        CheckFailed: the licenses of what it was made from do not allow to publish it, or not under the one that is chosen.
        WorldError: the disk, or the Hub, fails.
    """
    facts = read_facts(folder, repository, None, beside, zoo)
    start = facts.start and _asked(facts.start, say)
    facts = replace(facts, parents=tuple(_asked(parent, say) for parent in facts.parents), start=start)
    joint = chosen_license(facts, choice)
    facts = replace(facts, license=card_license(joint))
    picture = card_picture(folder, facts, zoo)
    facts = replace(facts, picture=picture[0] if picture is not None else None)
    recipe = read_recipe(folder / RECIPE)
    files: dict[str, Path | bytes] = {WEIGHTS: folder / WEIGHTS}
    copied = [CONFIG, METRICS, ENVIRONMENT, *([PLAN] if recipe.plan is not None else [])]
    files |= {name: _copied(folder / name) for name in copied if (folder / name).is_file()}
    files[RECIPE] = recipe_text(public_recipe(recipe)).encode()
    if picture is not None:
        files[picture[0]] = picture[1].encode()
    files[CARD] = checked_card(facts).encode()
    measured = side_inputs(folder, recipe)
    first, *others = (name for name in _FILES if name in files)
    return Page({first: files[first], **measured, **{name: files[name] for name in others}}, facts, joint)


def _asked(parent: Parent, say: Callable[[str], None] | None) -> Parent:
    """A parent with the license that its page on the Hub tells."""
    if parent.repository is None:
        return parent
    try:
        told = told_by_page(read_repository(RepositoryName(parent.repository, parent.revision)))
    except InputError:  # it is gone, or closed to whoever asks
        return parent
    except WorldError as error:
        if say is None:
            raise
        say(f"the license of {parent.name} cannot be asked for ({error})")
        return parent
    license, name, link = (told.get(key) for key in ("license", "license_name", "license_link"))
    return replace(
        parent,
        license=license if isinstance(license, str) else None,
        license_name=name if isinstance(name, str) else None,
        license_link=link if isinstance(link, str) else None,
    )


def _copied(path: Path) -> bytes:
    """A file as it is, if it is what its name says."""
    if path.name == ENVIRONMENT:
        read_environment(path)
    if path.name == PLAN:
        read_plan(path)
    return read_bounded(path, _MOST_BYTES)


def chosen_license(facts: CardFacts, choice: Choice) -> JointLicense:
    """The license that everything a model was made from allows, or the chosen one, if all allows that.

    Raises:
        InputError: the choice is no license.
        CheckFailed: nothing is allowed, or not what is chosen; with the ways out.
    """
    parts = license_parts(facts)
    joint = joint_license(parts, choice.permission)
    if joint.blocked:
        raise CheckFailed(_refusal(joint))
    if choice.license is None:
        return joint
    mine = Part("your choice", "model", choice.license, choice.license_name, choice.license_link)
    alone = joint_license([mine])
    if choice.permission is None and (against := refusing(parts, mine)):
        raise CheckFailed(
            f"it may not be published under {choice.license}: {', '.join(against)} does not allow it, as far as is known; leave out "
            f"--license, or say who has allowed it with --i-have-permission TEXT. {NOT_ADVICE}"
        )
    name, link = (choice.license_name, choice.license_link) if alone.license == OTHER else (None, None)
    return replace(joint, license=alone.license, license_name=name, license_link=link)


def _refusal(joint: JointLicense) -> str:
    reasons, ways = "; ".join(text.rstrip(".") for text in joint.reasons), "; ".join(joint.ways_out)
    return f"it may not be published: {reasons}. What can be done: {ways} {NOT_ADVICE}"


def license_parts(facts: CardFacts) -> list[Part]:
    """Everything that went into a model, with its license."""
    sources = [*facts.parents, *([facts.start] if facts.start is not None else [])]
    models = [
        Part(source.name, "model", source.license or UNKNOWN, source.license_name, source.license_link)
        for source in sources
        if facts.relation is not None
    ]
    # What one model is twice, as a parent and as the start, is one part.
    models = list(dict.fromkeys(models))
    data = [facts.data, facts.recalibration, facts.calibration, *facts.looked_at]
    tasks = dict.fromkeys(images.task for images in data if images is not None)
    return [*models, *(data_part(task) for task in tasks)]


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

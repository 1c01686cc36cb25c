"""The joint license of a model made from several parents: one that all of them allow, or why there is none.

Each parent's license allows some licenses for what is made from it (``kzoo.license_terms``); a joint license is one that
all allow. Licenses of data are told and never decide: whether weights are a work made from their training data is not
settled. Everything here is plain data; nothing is fetched. ``docs/licenses.md`` says how, and where it is careful.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Literal, get_args

from license_expression import get_spdx_licensing

from kzoo.errors import InputError
from kzoo.license_terms import CATEGORIES, TERMS, Category, Terms, terms_of
from kzoo.licenses import HUB_LICENSES, OTHER, UNKNOWN, is_known_license

NOT_ADVICE = (
    "This compares licenses by a table and is not legal advice: nobody has checked whether they hold for these weights, "
    "or whether the sources had the right to give them."
)
#: Where a card's reader finds the terms that no single license states.
CARD = "README.md"
PERMISSION_OPTION = "--i-have-permission TEXT"
Kind = Literal["model", "data"]

_SAYS: Mapping[Category, str] = {
    "permissive": "it asks for notices only",
    "weak copyleft": "what is made from it stays under it",
    "share-alike": "what is made from it stays under it",
    "strong copyleft": "what is made from it stays under it",
    "use-restricted": "it forbids some uses, which has to be passed on",
    "non-commercial": "it does not allow commercial use",
    "no derivatives": "it does not allow to publish changed versions",
    "unknown": "its terms are not known here",
}
_COPYLEFT = ("weak copyleft", "share-alike", "strong copyleft")


@dataclass(frozen=True)
class Part:
    """Something that goes into a model: trained weights, or the data it was trained on.

    ``license`` is an SPDX id or expression or an id of the Hub, in upper or lower case; ``other``, with a name and a
    link where there are any; or ``unknown``.

    Raises:
        InputError: the kind is another, or the name is empty.
    """

    name: str
    kind: Kind
    license: str
    license_name: str | None = None
    license_link: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"{self.name}: {self.kind!r} is no kind of part: expected 'model' or 'data'")
        if not self.name.strip():
            raise InputError("a part has no name: give the id of the model or data set that goes into the new model")


@dataclass(frozen=True)
class JointLicense:
    """What a model made from some parts may be published under, and why.

    ``license``, ``license_name`` and ``license_link`` are for the Hub's card: an id that the Hub knows, or ``other`` with
    name and link, or ``unknown``; None where nothing can be published, or no parent restricts the choice. ``category``
    is the narrowest of the parents' and the license's. ``reasons`` tell what each part brings, in the order of the
    parts, then why nothing fits; ``duties`` are for the card, ``ways_out`` for the user. With a ``permission`` nothing
    is blocked.
    """

    license: str | None
    license_name: str | None
    license_link: str | None
    category: Category
    reasons: tuple[str, ...]
    duties: tuple[str, ...]
    blocked: bool
    ways_out: tuple[str, ...]
    permission: str | None


def joint_license(parts: Iterable[Part], permission: str | None = None) -> JointLicense:
    """The license of a model made from ``parts``; their order matters to the order of the sentences only.

    ``permission`` is the user's word that the owners allow what the licenses do not; it is recorded.

    Raises:
        InputError: a license is none, or the permission is empty.
    """
    if permission is not None and not permission.strip():
        raise InputError(
            f"the permission is empty: expected who allowed what, and when; give it by {PERMISSION_OPTION}, or leave it out"
        )
    read = [_Read(part, _licenses(part)) for part in dict.fromkeys(parts)]
    models = [one for one in read if one.part.kind == "model"]
    beside = {license.terms.family for one in models for license in one.node.all()}
    target = _joint_target(models, beside)
    chosen = {one.part: _chosen(one, target, beside) for one in read}
    conflicts = [] if target else _conflicts(models, beside)
    blocked = target is None and permission is None
    used = [license.terms for one in models for license in chosen[one.part]]
    license, name, link = _for_card(models, chosen, target, permission)
    return JointLicense(
        license=license,
        license_name=name,
        license_link=link,
        category=CATEGORIES[max((terms.rank for terms in (*used, *([target] if target else []))), default=0)],
        reasons=tuple(dict.fromkeys(_reasons(read, chosen, target, conflicts))),
        duties=() if blocked else tuple(dict.fromkeys(_duties(read, chosen, target))),
        blocked=blocked,
        ways_out=tuple(dict.fromkeys(_ways_out(conflicts))) if blocked else (),
        permission=permission,
    )


def refusing(parts: Iterable[Part], choice: Part) -> tuple[str, ...]:
    """The models among ``parts`` whose licenses do not allow to publish what is made from them under another license.

    One whose terms are unknown allows its own license only.

    Raises:
        InputError: a license is none.
    """
    models = [_Read(part, _licenses(part)) for part in dict.fromkeys(parts) if part.kind == "model"]
    beside = {license.terms.family for one in models for license in one.node.all()}
    wanted = [license.terms for license in _licenses(choice).all()]
    return tuple(one.part.name for one in models if not all(_is_allowed(one.node, target, beside) for target in wanted))


def _is_allowed(node: _Node, target: Terms, beside: Iterable[str]) -> bool:
    chosen = _choose(node, target, beside)
    return chosen is not None and all(
        license.terms.category != "unknown" or license.terms.id == target.id for license in chosen
    )


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class _License:
    """One license of an expression: its terms, what it is called, where its text is, an exception that is not used."""

    terms: Terms
    shown: str
    link: str | None = None
    exception: str | None = None

    def all(self) -> Iterator[_License]:
        yield self


@dataclass(frozen=True)
class _Several:
    """Licenses that all apply, or of which one may be chosen."""

    nodes: tuple[_Node, ...]
    choice: bool

    def all(self) -> Iterator[_License]:
        for node in self.nodes:
            yield from node.all()


_Node = _License | _Several


@dataclass(frozen=True)
class _Read:
    part: Part
    node: _Node


def _licenses(part: Part) -> _Node:
    """What a part's license says."""
    lower = part.license.lower()
    if lower == OTHER:
        # Only a name is known, and people give the same name to different texts.
        return _License(
            Terms(f"other {part.license_name}", "unknown", ""), part.license_name or OTHER, part.license_link
        )
    if lower == UNKNOWN:
        return _License(Terms(UNKNOWN, "unknown", ""), UNKNOWN)
    if lower in HUB_LICENSES:
        return _License(terms_of(lower), lower)
    if not is_known_license(part.license):
        raise InputError(
            f"{part.name}: {part.license!r:.80} is no license: expected an SPDX id or expression such as 'MIT OR Apache-2.0', "
            "an id of the Hub, 'other' or 'unknown'; correct it where it stands, or write 'unknown'"
        )
    return _node(_spdx().parse(part.license), part.license_link)


@cache
def _spdx() -> Any:
    return get_spdx_licensing()


def _node(parsed: Any, link: str | None) -> _Node:
    """A parsed expression without the library's own classes."""
    if isinstance(parsed, _spdx().OR | _spdx().AND):
        return _Several(tuple(_node(arg, link) for arg in parsed.args), choice=isinstance(parsed, _spdx().OR))
    if hasattr(parsed, "exception_symbol"):
        base, exception = parsed.license_symbol.key, parsed.exception_symbol.key
        whole = f"{base} WITH {exception}"
        # An exception allows more and may be left unused, unless the table knows it.
        known = whole.lower() in TERMS
        return _symbol(whole if known else base, link, None if known else exception)
    return _symbol(parsed.key, link, None)


def _symbol(key: str, link: str | None, exception: str | None) -> _License:
    # "Apache-2.0+" is this version or a later one; this one will do.
    key = key.removesuffix("+")
    if not key.lower().startswith("licenseref-"):
        link = f"https://spdx.org/licenses/{key.split(' ')[0]}.html"
    return _License(terms_of(key), key, link, exception)


# ------------------------------------------------------------------------------------------------ choosing

# Terms of several licenses side by side, all of which are passed on.
_TOGETHER = Terms(OTHER, "permissive", "")


def _goes(terms: Terms, target: Terms | None, beside: Iterable[str]) -> bool:
    """Whether a license allows a target; None for a target stands for anything."""
    if target is _TOGETHER:
        return terms.stackable or terms.category in ("permissive", "unknown")
    return target is None or terms.may_become(target, beside)


def _choose(node: _Node, target: Terms | None, beside: Iterable[str]) -> tuple[_License, ...] | None:
    """The licenses of an expression that are used for a target, the least restrictive of a choice; None where none allows it."""
    if isinstance(node, _License):
        return (node,) if _goes(node.terms, target, beside) else None
    chosen = [_choose(inner, target, beside) for inner in node.nodes]
    if node.choice:
        return min((one for one in chosen if one is not None), key=_by_restriction, default=None)
    kept = [one for one in chosen if one is not None]
    return tuple(license for one in kept for license in one) if len(kept) == len(chosen) else None


def _by_restriction(licenses: Sequence[_License]) -> tuple[int, int, list[str]]:
    terms = [license.terms for license in licenses]
    return max(one.rank for one in terms), max(one.demands for one in terms), sorted(one.id for one in terms)


def _chosen(one: _Read, target: Terms | None, beside: Iterable[str]) -> tuple[_License, ...]:
    """The licenses used of a part; of data, and where nothing fits, the least restrictive."""
    return _choose(one.node, target if one.part.kind == "model" else None, beside) or _choose(one.node, None, ()) or ()


def _joint_target(models: Sequence[_Read], beside: Iterable[str]) -> Terms | None:
    """The license that all allow: least restrictive first, then one that is among them; None where there is none."""
    here = {license.terms.id for one in models for license in one.node.all()}
    best: tuple[tuple[int, bool, int, int], Terms] | None = None
    for place, target in enumerate((*TERMS.values(), _TOGETHER)):
        chosen = [_choose(one.node, target, beside) for one in models]
        if all(licenses is not None for licenses in chosen):
            ranks = [license.terms.rank for licenses in chosen for license in licenses or ()]
            order = (max((target.rank, *ranks)), target.id not in here, target.demands, place)
            best = min(best or (order, target), (order, target), key=lambda pair: pair[0])
    return best and best[1]


def _conflicts(models: Sequence[_Read], beside: Iterable[str]) -> list[tuple[_Read, ...]]:
    """Small groups of parts that have no joint license: single ones, else pairs, else one group that needs all its parts."""
    for size in (1, 2):
        found = [group for group in combinations(models, size) if _joint_target(group, beside) is None]
        if found:
            return found
    group = tuple(models)
    for one in models:
        rest = tuple(other for other in group if other is not one)
        if _joint_target(rest, beside) is None:
            group = rest
    return [group]


# ------------------------------------------------------------------------------------------------ the card


_Card = tuple[str | None, str | None, str | None]


def _for_card(
    models: Sequence[_Read], chosen: Mapping[Part, Sequence[_License]], target: Terms | None, permission: str | None
) -> _Card:
    """The card's license, license_name and license_link."""
    used = list(dict.fromkeys(license for one in models for license in chosen[one.part]))
    if not models or (target is None and permission is None):
        return None, None, None
    if target is None:
        return OTHER, f"{_slug(used)}-by-permission", CARD
    unknown = [license for license in used if license.terms.category == "unknown"]
    if unknown:
        others = [license for license in used if license.terms.category not in ("unknown", "permissive")]
        return _named(unknown[0]) if len({u.terms.id for u in unknown}) == 1 and not others else (UNKNOWN, None, None)
    if target is _TOGETHER:
        return OTHER, _slug([license for license in used if license.terms.category != "permissive"]), CARD
    same = [license for license in used if license.terms.id == target.id]
    return _named(same[0] if same else _License(target, target.id))


def _named(license: _License) -> _Card:
    """One license as the Hub spells it; ``other`` with its name where the Hub has no id for it."""
    if license.terms.id == UNKNOWN:
        return UNKNOWN, None, None
    name = license.terms.id.split(" with ")[0]
    for spelling in (name, name.removesuffix("-only").removesuffix("-or-later")):
        if spelling in HUB_LICENSES:
            return spelling, None, None
    return OTHER, license.shown, license.link


def _slug(licenses: Iterable[_License]) -> str:
    """A name for several licenses, in the characters that the Hub's names have."""
    ids = sorted({license.shown.lower().replace("+", "p") for license in licenses})
    return re.sub(r"[^a-z0-9.]+", "-", "-and-".join(ids)).strip("-")


# ------------------------------------------------------------------------------------------------ sentences


def _shown(licenses: Sequence[_License]) -> str:
    return " AND ".join(license.shown for license in licenses)


def _reason(one: _Read, licenses: Sequence[_License]) -> str:
    """What a part brings."""
    part, worst = one.part, max(licenses, key=lambda license: license.terms.rank)
    category = worst.terms.category
    if worst.terms.id == UNKNOWN:
        said = f"{part.name} ({part.kind}): nobody says under which license it is."
    else:
        said = f"{part.name} ({part.kind}) brings {_shown(licenses)}, {category}: {_SAYS[category]}."
    if category == "unknown":
        said += " What may be done with it is unknown, and stays so."
    if any(inner.choice for inner in _severals(one.node)):
        said += f" Of the choice that {part.license} gives, {_shown(licenses)} is taken."
    unused = [license.exception for license in licenses if license.exception]
    if unused:
        said += f" The exception {unused[0]} is not made use of."
    return said + (_data_reason(licenses) if part.kind == "data" else "")


def _reasons(
    read: Sequence[_Read],
    chosen: Mapping[Part, Sequence[_License]],
    target: Terms | None,
    conflicts: Iterable[Sequence[_Read]],
) -> Iterator[str]:
    """What each part brings, then what follows."""
    for one in read:
        yield _reason(one, chosen[one.part])
    models = [license.terms for one in read if one.part.kind == "model" for license in chosen[one.part]]
    if not models:
        yield "No trained parent goes into it: the license is yours to choose."
    elif target is _TOGETHER:
        yield "No single license states all of this; the terms of all hold side by side."
    elif target and target not in models and not any(terms.category == "unknown" for terms in models):
        yield f"All of them allow {_named(_License(target, target.id))[0]} for what is made from them."
    for group in conflicts:
        yield _conflict_reason(group)


def _severals(node: _Node) -> Iterator[_Several]:
    if isinstance(node, _Several):
        yield node
        for inner in node.nodes:
            yield from _severals(inner)


def _data_reason(licenses: Sequence[_License]) -> str:
    limiting = [license for license in licenses if license.terms.category != "permissive"]
    if not limiting:
        return ""
    if all(license.terms.results_free for license in limiting):
        return " It leaves what is made by use of the data free."
    return " Whether that reaches weights trained on the data is not settled, so it decides nothing here; the card tells it."


def _conflict_reason(group: Sequence[_Read]) -> str:
    """Why some parts have no joint license."""
    names = " and ".join(f"{one.part.name} ({_called(one)})" for one in group)
    licenses = [license for one in group for license in one.node.all()]
    # What goes anywhere stands against nothing.
    against = [one for one in licenses if one.terms.category != "permissive" or one.terms.gnu != "2 and 3"]
    rules = "; ".join(dict.fromkeys(map(_rule, against)))
    verb = "cannot be published in a changed version" if len(group) == 1 else "cannot be published as one model"
    return f"{names} {verb}: {rules}."


def _called(one: _Read) -> str:
    """The license of a part as people call it."""
    return (one.part.license_name or one.part.license) if one.part.license.lower() == OTHER else one.part.license


def _rule(license: _License) -> str:
    """The part of a license that stands against others."""
    terms, name = license.terms, license.shown
    if terms.category == "no derivatives":
        return f"{name} does not allow to publish changed versions"
    if terms.category == "permissive" and terms.gnu == "3":
        return f"{name} is compatible with version 3 of the GNU licenses only"
    if terms.category == "permissive":
        return f"nobody entitled to it says that {name} is compatible with the GNU licenses"
    if terms.category in _COPYLEFT:
        also = sorted(terms.onward | terms.joins)
        return f"what is made from {name} stays under it" + (f", or goes under {', '.join(also)}" if also else "")
    if terms.category == "use-restricted":
        if terms.stackable:
            return f"{name} forbids some uses, and wants that passed on"
        return f"{name} wants what is made from it published under it alone"
    if terms.category == "non-commercial":
        alone = "" if terms.stackable else ", and wants the same license for what is made from it"
        return f"{name} does not allow commercial use{alone}"
    return f"the terms of {name} are unknown"


def _ways_out(conflicts: Sequence[Sequence[_Read]]) -> Iterator[str]:
    """What the user can do; the permission comes last."""
    involved = list(dict.fromkeys(one for group in conflicts for one in group))
    names = ", ".join(one.part.name for one in involved)
    if all(len(group) == 1 for group in conflicts):
        yield f"Leave out {names}; nothing made from it may be published."
    else:
        yield f"Leave out one of these, or keep the model to yourself: {names}."
    yield "Take another source: kzoo recommend TARGET --license permissive."
    for one in involved:
        for license in one.node.all():
            if license.terms.id == "gpl-2.0-only" and license.shown == "gpl-2.0":
                yield (
                    f"Look up whether {one.part.name} may be used under later versions of the GPL too, "
                    "which the Hub's id does not tell; then its license is GPL-2.0-or-later."
                )
            if license.terms.id in ("gpl", "lgpl", "bsd", "openrail"):
                yield f"Look up which version of {license.shown} {one.part.name} is under, and name that."
    yield f"Ask the owners of {names}; {PERMISSION_OPTION} then records who allowed it, in the card."


def _duties(read: Sequence[_Read], chosen: Mapping[Part, Sequence[_License]], target: Terms | None) -> Iterator[str]:
    """What the publisher has to do, and users of the model have to keep."""
    for one in read:
        licenses = chosen[one.part]
        yield from _data_duties(one.part, licenses) if one.part.kind == "data" else _model_duties(one.part, licenses)
    models = [license.terms for one in read if one.part.kind == "model" for license in chosen[one.part]]
    if any(terms.changes for terms in models):
        yield "Say that the weights were changed, and how."
    for terms in dict.fromkeys([*models, *([target] if target else [])]):
        if terms.category == "use-restricted":
            yield f"Pass on the restrictions of use of {terms.id}: {terms.source}"
    if any(terms.category == "non-commercial" for terms in models):
        yield "Say that commercial use is not allowed."
    if target and (target.category in _COPYLEFT or (target.category == "non-commercial" and not target.stackable)):
        yield f"Say that what is made from this model has to be under {_named(_License(target, target.id))[0]} too."
    if target and target.category in ("weak copyleft", "strong copyleft"):
        yield "Publish with it what is needed to make it again (recipe and code); what the source of weights is, is not settled."


def _model_duties(part: Part, licenses: Sequence[_License]) -> Iterator[str]:
    for license in licenses:
        if license.terms.category == "unknown":
            yield f"Find out what the license of {part.name} allows before you publish."
        elif license.terms.notice:
            yield f"Name the authors of {part.name}, and keep their notices and the text of {license.shown}."
        for sentence in license.terms.naming:
            yield f"{sentence} ({part.name})"


def _data_duties(part: Part, licenses: Sequence[_License]) -> Iterator[str]:
    for license in licenses:
        terms = license.terms
        if terms.category == "unknown":
            yield f"Say that the model was trained on {part.name}, whose license is unknown."
        elif terms.category in ("non-commercial", "no derivatives", "use-restricted") and not terms.results_free:
            yield (
                f"Warn that the model was trained on {part.name}, under {license.shown}: {_SAYS[terms.category]}; "
                "whether that reaches the weights is not settled."
            )
        elif terms.notice and not terms.results_free:
            yield f"Name {part.name} and its authors as the data ({license.shown})."

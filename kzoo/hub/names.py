"""Names on the Hub as people write them, and names of files that may be written below a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kzoo.errors import InputError
from kzoo.readers.files import looks_like_path
from kzoo.readers.libraries import LIBRARIES

PREFIX = "hf:"
_PAGES = ("https://huggingface.co/", "https://hf.co/")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_LONGEST_REVISION = 200
_LONGEST_PART, _LONGEST_NAME = 255, 1000


@dataclass(frozen=True, order=True)
class RepositoryName:
    """A repository, and the revision that is asked for: a branch, a tag or a commit; None for its main branch."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


@dataclass(frozen=True)
class Wanted:
    """A network on the Hub: the repository, the file where it is not the usual one, and what people have written.

    ``key`` is what its lock is known by: the name without its revision for what a registry has, else with it.
    """

    text: str
    name: RepositoryName
    filename: str | None
    key: str


def parse_name(text: str) -> RepositoryName:
    """The repository that ``user/name``, ``user/name@revision``, or either after ``hf:``, names.

    Raises:
        InputError: it has no such form.
    """
    name, at, revision = text.removeprefix(PREFIX).partition("@")
    if not is_repository(name) or (at and not _sound_revision(revision)):
        raise InputError(f"{text!r:.120} names no repository: expected hf:user/name or hf:user/name@revision")
    return RepositoryName(name, revision or None)


def parse_wanted(text: str) -> Wanted:
    """What ``hf:user/name``, ``hf:user/name@revision`` or ``hf:user/name/path/of/file@revision`` names.

    Raises:
        InputError: it has no such form.
    """
    key = text.removeprefix(PREFIX)
    path, at, revision = key.partition("@")
    parts = path.split("/")
    name = parse_name("/".join(parts[:2]) + at + revision)
    filename = "/".join(parts[2:])
    if len(parts) > 2 and not is_plain_name(filename):
        raise InputError(f"{text!r:.120} names no file of a repository: expected hf:user/name/FILE.safetensors")
    return Wanted(text, name, filename or None, key)


def meant_on_hub(text: str) -> Wanted | None:
    """What on the Hub is to be added; None where a place on this machine is meant.

    ``user/name[@revision]`` is on the Hub unless there is such a file; so is the address of its page.

    Raises:
        InputError: it begins with ``hf:`` and has no such form, or names an architecture.
    """
    for page in _PAGES:
        if text.startswith(page):
            return parse_wanted(PREFIX + text.removeprefix(page).strip("/"))
    if text.startswith(PREFIX):
        return parse_wanted(text)
    library, colon, _ = text.partition(":")
    if colon and library in LIBRARIES:
        raise InputError(f"{text!r:.120} names an architecture, not weights: expected a path, or user/name on the Hub")
    plain = text.partition("@")[0].count("/") == 1 and is_repository(text.partition("@")[0])
    return parse_wanted(PREFIX + text) if plain and not looks_like_path(text) else None


def is_repository(name: str) -> bool:
    """Whether ``name`` has the form of a repository's id."""
    return bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name


def _sound_revision(revision: str) -> bool:
    return bool(revision) and len(revision) <= _LONGEST_REVISION and revision.isprintable() and ".." not in revision


def is_plain_name(name: str) -> bool:
    """Whether a file's name is one that may be written below a folder: relative, printable, and without a way up."""
    parts = name.split("/")
    sound = all(part not in ("", ".", "..") and len(part.encode()) <= _LONGEST_PART for part in parts)
    return sound and name.isprintable() and "\\" not in name and len(name.encode()) <= _LONGEST_NAME

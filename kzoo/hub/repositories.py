"""What a repository on the Hub holds at one revision, without any of its content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kzoo.errors import WorldError
from kzoo.hub.client import endpoint, get_json, hub
from kzoo.hub.names import RepositoryName, is_repository

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 100_000
_LONGEST_LINE = 200


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; ``sha256`` is known of large ones, ``oid`` (git's SHA-1 of its blob) of the others."""

    name: str
    size: int
    sha256: str | None
    oid: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit. ``asked`` is the id that was asked for; a renamed one has another id."""

    id: str
    asked: str
    commit: str
    files: Mapping[str, RemoteFile]
    tags: tuple[str, ...]
    gated: bool
    private: bool
    license: str | None
    license_name: str | None = None
    license_link: str | None = None


def read_repository(name: RepositoryName) -> Repository:
    """What lies in a repository; one request.

    Raises:
        InputError: there is no such repository or revision, or one may not see it.
        WorldError: the Hub cannot be reached, or answers nonsense.
    """
    revision = f"/revision/{quote(name.revision, safe='')}" if name.revision is not None else ""
    data, _ = get_json(f"/api/models/{name.id}{revision}?blobs=true", str(name))
    try:
        return _repository(name, data)
    except (KeyError, TypeError, ValueError) as error:
        raise WorldError(
            f"the Hub at {hub()} answered something else than a repository for {name} ({error!s:.100}): try again"
        ) from None


def _repository(name: RepositoryName, data: Any) -> Repository:
    commit = data["sha"]
    if not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
        raise ValueError("no commit")
    if name.revision is not None and _COMMIT.fullmatch(name.revision) and commit != name.revision:
        raise ValueError(f"another commit, {commit}")
    siblings = data["siblings"]
    if len(siblings) > _MOST_FILES:
        raise ValueError("too many files")
    files = [_file(sibling) for sibling in siblings]
    card = data.get("cardData")
    card = card if isinstance(card, dict) else {}
    tags = tuple(tag for tag in map(_line, data.get("tags") or ()) if tag is not None)
    license = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None) or None
    found = data.get("id", name.id)
    if not (isinstance(found, str) and is_repository(found)):
        raise ValueError("no id")
    return Repository(
        id=found,
        asked=name.id,
        commit=commit,
        files={file.name: file for file in files},
        tags=tags,
        gated=bool(data.get("gated")),
        private=bool(data.get("private")),
        license=license,
        license_name=_line(card.get("license_name")),
        license_link=_line(card.get("license_link")),
    )


def _line(text: Any) -> str | None:
    """A text of somebody's card in one line, if it is one."""
    return " ".join(text.split())[:_LONGEST_LINE] if isinstance(text, str) and text.isprintable() and text else None


def _file(sibling: Any) -> RemoteFile:
    name, size = sibling["rfilename"], sibling["size"]
    if not isinstance(name, str) or type(size) is not int or size < 0:
        raise ValueError("a file without name or size")
    lfs = sibling.get("lfs") or {}
    sha256, oid = lfs.get("sha256"), sibling.get("blobId")
    return RemoteFile(
        name,
        size,
        sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None,
        oid if isinstance(oid, str) and _COMMIT.fullmatch(oid) else None,
    )


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which stays what it is; a branch or a tag may be as long."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def file_names(data: Any) -> list[str]:
    """The names of a repository's files in what the Hub says of it, also in a listing."""
    siblings = data.get("siblings") if isinstance(data, dict) else None
    names = (each.get("rfilename") for each in siblings if isinstance(each, dict)) if isinstance(siblings, list) else ()
    return [name for name in names if isinstance(name, str)]


def file_url(repository: Repository, file: str) -> str:
    """Where a file of the repository's commit is fetched from."""
    return f"{endpoint()}/{repository.id}/resolve/{repository.commit}/{quote(file)}"


def git_oid(content: bytes) -> str:
    """The name that git gives to a file of this content; of small files the Hub says no other digest."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

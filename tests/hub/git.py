"""The numbers that git gives to files, folders and commits, and LFS pointers, computed without git."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

Tree = dict[str, "Tree | tuple[str, str]"]


def object_id(kind: str, content: bytes) -> str:
    """The oid of a git object."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def blob_id(content: bytes) -> str:
    """The oid of a file's content."""
    return object_id("blob", content)


def pointer(sha256: str, size: int) -> bytes:
    """What git holds in the place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def folder_ids(files: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The oids of all folders of a tree of path -> (mode, oid); the root is "".

    >>> folder_ids({})
    {'': '4b825dc642cb6eb9a060e54bf8d69288fbee4904'}
    """
    root: Tree = {}
    for path, entry in files.items():
        *folders, name = path.split("/")
        here = root
        for folder in folders:
            inside = here.setdefault(folder, {})
            # A file and a folder of one name: git cannot hold both, a hostile listing can. The folder wins.
            if not isinstance(inside, dict):
                inside = here[folder] = {}
            here = inside
        here[name] = entry
    found: dict[str, str] = {}
    _note_folder(root, "", found)
    return found


def _note_folder(tree: Tree, path: str, found: dict[str, str]) -> str:
    entries = []
    for name, entry in tree.items():
        if isinstance(entry, dict):
            oid = _note_folder(entry, f"{path}/{name}".removeprefix("/"), found)
            entries.append((_bytes(name) + b"/", "40000", name, oid))
        else:
            entries.append((_bytes(name), entry[0], name, entry[1]))
    content = b"".join(
        mode.encode() + b" " + _bytes(name) + b"\0" + bytes.fromhex(oid) for _, mode, name, oid in sorted(entries)
    )
    found[path] = object_id("tree", content)
    return found[path]


def commit_id(tree: str, parents: list[str], author: str, date: datetime, message: str) -> str:
    """The oid of a commit."""
    seconds = int(date.timestamp())
    person = f"{author} <{author}@users.noreply.hub> {seconds} +0000"
    lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {person}", f"committer {person}"]
    return object_id("commit", _bytes("\n".join(lines) + "\n\n" + message))


def date_text(date: datetime) -> str:
    """A date as the Hub writes it.

    >>> date_text(datetime(2026, 1, 2, 3, 4, 5, 678901))
    '2026-01-02T03:04:05.678Z'
    """
    return date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"


SECOND = timedelta(seconds=1)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

"""What the Hub of the tests holds: repositories with branches, tags, commits and files; users and their tokens."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tests.hub import git

# What a new repository's .gitattributes names, and what is sent to large file storage at any size.
SUFFIXES = """
7z arrow bin bz2 ckpt ftz gz h5 joblib lfs mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar
safetensors tar tflite tgz wasm xz zip zst
"""
LARGE = frozenset(SUFFIXES.split())
LARGE_SIZE = 10 * 2**20
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LARGE)).encode()


@dataclass(frozen=True)
class File:
    """The content of a file and what the Hub says about it, which need not be true.

    `size`, `sha256` and `oid` are lies: what listings and headers say, whatever the content is. `link` makes it a
    symbolic link in the git tree, with its target as content.
    """

    source: bytes | str | Path
    lfs: bool | None = None
    size: int | None = None
    sha256: str | None = None
    oid: str | None = None
    link: bool = False


@dataclass(frozen=True)
class Blob:
    """A file as it is stored: where its bytes are, and what is said about them."""

    source: bytes | Path
    lfs: bool
    size: int
    sha256: str
    oid: str
    mode: str = "100644"

    @property
    def length(self) -> int:
        """How many bytes there are in truth."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self, limit: int = -1) -> bytes:
        """The first bytes, or all."""
        if isinstance(self.source, bytes):
            return self.source[: limit if limit >= 0 else None]
        with self.source.open("rb") as file:
            return file.read(limit)

    @property
    def pointer_size(self) -> int:
        """The size of the LFS pointer."""
        return len(git.pointer(self.sha256, self.size))


@dataclass(frozen=True)
class Commit:
    """A commit: all files after it."""

    oid: str
    parents: list[str]
    author: str
    date: datetime
    title: str
    message: str
    files: dict[str, Blob]
    folders: dict[str, str]


@dataclass
class Repo:
    """A repository and what the Hub knows about it."""

    id: str
    number: int
    private: bool = False
    gated: bool | str = False
    disabled: bool = False
    tags: list[str] = field(default_factory=list)
    card_data: dict[str, Any] | None = None
    library_name: str | None = None
    pipeline_tag: str | None = None
    downloads: int = 0
    likes: int = 0
    # Fields that override the answers of model_info and list_models, under the names of the answers.
    info: dict[str, Any] = field(default_factory=dict)
    created: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    branches: dict[str, str] = field(default_factory=dict)
    tag_refs: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    discussions: dict[int, dict[str, Any]] = field(default_factory=dict)
    # Users who may see the files of a gated repository, besides its owner.
    accepted: set[str] = field(default_factory=set)

    @property
    def owner(self) -> str:
        """The user or organization."""
        return self.id.partition("/")[0]

    def resolve(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag, refs/pr/N or a commit's (shortened) oid names."""
        refs: dict[str, str] = {f"refs/pr/{number}": oid for number, oid in self.pulls.items()}
        for names, prefix in ((self.tag_refs, "refs/tags/"), (self.branches, "refs/heads/")):
            refs |= {prefix + name: oid for name, oid in names.items()} | names
        if revision in refs:
            return self.commits[refs[revision]]
        if revision in self.commits:
            return self.commits[revision]
        short = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        return self.commits[short[0]] if len(short) == 1 else None

    def move(self, revision: str, oid: str) -> None:
        """Let a branch or a pull request point to another commit."""
        if revision.startswith("refs/pr/"):
            self.pulls[int(revision.rpartition("/")[2])] = oid
        else:
            self.branches[revision.removeprefix("refs/heads/")] = oid

    def history(self, commit: Commit) -> list[Commit]:
        """A commit and those before it, the latest first."""
        found = [commit]
        while found[-1].parents:
            found.append(self.commits[found[-1].parents[0]])
        return found


@dataclass(frozen=True)
class User:
    """Somebody with a token."""

    name: str
    role: str = "write"
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        """Whether a namespace is theirs."""
        return namespace == self.name or namespace in self.organizations


class Store:
    """Everything; nothing here speaks HTTP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.users: dict[str, User] = {}
        # Large files by their sha256, and those that a redirect has led to by the number in its address.
        self.objects: dict[str, Blob] = {}
        self.signed: list[Blob] = []
        # Every commit is a second after the one before: the same seeds give the same oids on every run.
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)

    def tick(self) -> datetime:
        """The next second."""
        self.clock += git.SECOND
        return self.clock

    def add(self, name: str, **settings: Any) -> Repo:
        """A repository without any commit."""
        with self.lock:
            repo = Repo(name, number=len(self.repos) + 1, created=self.tick(), **settings)
            self.repos[name] = repo
            self.renamed.pop(name, None)
            return repo

    def commit(
        self,
        repo: Repo,
        files: Mapping[str, bytes | str | Path | File | Blob | None],
        *,
        title: str = "Add files",
        message: str = "",
        author: str | None = None,
        revision: str = "main",
        delete: tuple[str, ...] = (),
    ) -> Commit:
        """Commit files to a branch (None deletes one); a name in `delete` with a slash at its end is a folder."""
        with self.lock:
            parent = repo.resolve(revision)
            content = dict(parent.files) if parent else {}
            for name in [*delete, *(path for path, file in files.items() if file is None)]:
                for path in [
                    path for path in content if path == name or (name.endswith("/") and path.startswith(name))
                ]:
                    del content[path]
            content |= {path: self.blob(path, file) for path, file in files.items() if file is not None}
            commit = self._new_commit(
                repo, content, [parent.oid] if parent else [], author or repo.owner, title, message
            )
            repo.move(revision, commit.oid)
            return commit

    def _new_commit(
        self, repo: Repo, files: dict[str, Blob], parents: list[str], author: str, title: str, message: str
    ) -> Commit:
        folders = git.folder_ids({path: (blob.mode, blob.oid) for path, blob in files.items()})
        date = self.tick()
        oid = git.commit_id(folders[""], parents, author, date, f"{title}\n\n{message}")
        commit = repo.commits[oid] = Commit(oid, parents, author, date, title, message, files, folders)
        return commit

    def blob(self, path: str, file: bytes | str | Path | File | Blob) -> Blob:
        """A file as it is stored; text is the content, a Path names a file on disk that stays where it is."""
        if isinstance(file, Blob):
            return file
        file = file if isinstance(file, File) else File(file)
        source = file.source.encode() if isinstance(file.source, str) else file.source
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        lfs = not file.link and (is_large(path, size, b"") if file.lfs is None else file.lfs)
        if not lfs and isinstance(source, Path):
            source = source.read_bytes()
        sha256 = file.sha256 or (digest(source) if lfs else hashlib.sha256(source).hexdigest())
        size = size if file.size is None else file.size
        oid = file.oid or git.blob_id(git.pointer(sha256, size) if lfs else source)
        blob = Blob(source, lfs, size, sha256, oid, "120000" if file.link else "100644")
        # A file with a sha256 that is not its own must not be taken for the one that has it.
        if lfs and file.sha256 is None:
            self.objects[sha256] = blob
        return blob


_digests: dict[tuple[Path, int, int], str] = {}


def digest(source: bytes | Path) -> str:
    """The sha256 of bytes or of a file, which is read in pieces and once only."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    state = source.stat()
    key = (source.resolve(), state.st_size, state.st_mtime_ns)
    if key not in _digests:
        with source.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether a file goes to large file storage: by its suffix, its size, or because it is no text."""
    return PurePosixPath(path).suffix.removeprefix(".") in LARGE or size > LARGE_SIZE or b"\0" in sample

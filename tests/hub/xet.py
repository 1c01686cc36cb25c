"""Xet storage without its servers: clients read and write folders.

Where a Hub names the address of its storage, hf_xet also takes `local://FOLDER`, which its authors made for tests.
Chunks, hashes, tokens and commits are then the real ones; what is left out is the HTTP protocol of the storage.
hf_xet locks a folder for one process. So every upload and every download gets a folder of its own: an upload is copied
into the pool when a commit names its files, a download reads a copy of the pool that shares its large files.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.hub import access
from tests.hub.messages import Request, Response, as_json
from tests.hub.storage import Blob, Repo, digest

if TYPE_CHECKING:
    from tests.hub.server import Hub

DAY = 86400
# Where hf_xet keeps its files below the folder of the address.
INSIDE = Path("xet/xorbs")
RECORD = 48
VERIFICATION, METADATA = 1 << 31, 1 << 30


class Stored(NamedTuple):
    """A file in xet storage."""

    xet: str
    sha256: str
    size: int


class Xet:
    """The folders of one Hub, and which file has which xet hash."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder
        self.hub = hub
        self.pool = folder / "pool"
        self.hashes: dict[Blob, str] = {}
        self._uploads: list[Path] = []
        self._numbers = count(1)

    def hash_of(self, blob: Blob) -> str | None:
        """The xet hash of a file that is in the pool."""
        return self.hashes.get(blob)

    def token(self, hub: Hub, request: Request, repo: Repo, revision: str, *, write: bool) -> Response:
        """The address of the storage, which is a folder, for one upload or download."""
        folder = self.folder / f"{'upload' if write else 'download'}-{next(self._numbers)}"
        if write:
            access.writer(request.user, request.user.name if request.flag("create_pr") and request.user else repo.owner)
            self._uploads.append(folder)
            folder.mkdir(parents=True)
        else:
            access.files_of(repo, request.user)
            access.revision(repo, revision)
            _share(self.pool, folder)
        answer = {"casUrl": f"local://{folder}", "accessToken": f"xet_{folder.name}", "exp": int(time.time()) + DAY}
        names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
        response = as_json(answer)
        response.headers |= dict(zip(names, map(str, answer.values()), strict=True))
        return response

    def fetch(self, sha256: str) -> Blob | None:
        """A file that some client has uploaded; all files of its upload go to the large files and into the pool."""
        for upload in self._uploads:
            files = [file for shard in sorted((upload / INSIDE).glob("shards/*.mdb")) for file in _files(shard)]
            if any(file.sha256 == sha256 for file in files):
                self._take(upload, files)
                self._uploads.remove(upload)
                return self.hub.store.objects[sha256]
        return None

    def _take(self, upload: Path, files: list[Stored]) -> None:
        # The client may hold the folder still.
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            _share(upload, Path(name) / "cas")
            paths = [str(Path(name) / file.xet) for file in files]
            _run(
                "get",
                Path(name) / "cas",
                [(file.xet, file.size, path) for file, path in zip(files, paths, strict=True)],
            )
            blobs = [self.hub.keep(Path(path), digest(Path(path))) for path in paths]
        self.add(blobs)

    def add(self, blobs: list[Blob]) -> None:
        """Put large files into the pool: from then on clients get them through xet."""
        self.folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            paths = [blob.source if isinstance(blob.source, Path) else _written(blob, Path(name)) for blob in blobs]
            hashes = _run("put", self.pool, [str(path) for path in paths])
        self.hashes |= zip(blobs, hashes, strict=True)


def _written(blob: Blob, folder: Path) -> Path:
    path = folder / blob.sha256
    path.write_bytes(blob.read())
    return path


def _share(old: Path, new: Path) -> None:
    """Copy a folder of xet storage: the small database in truth, the chunks by another name of the same file."""

    def copy(source: str, target: str) -> None:
        (shutil.copyfile if source.endswith(".redb") else os.link)(source, target)

    (new / INSIDE).mkdir(parents=True)
    if (old / INSIDE).exists():
        shutil.copytree(old / INSIDE, new / INSIDE, copy_function=copy, dirs_exist_ok=True)


def _run(task: str, folder: Path, items: list[Any]) -> list[str]:
    with tempfile.TemporaryDirectory() as home:
        answer = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("cas.py"))],
            input=json.dumps([task, str(folder), items]),
            env=os.environ | {"HF_HOME": home},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    if answer.returncode:
        raise RuntimeError(answer.stderr)
    return list(json.loads(answer.stdout))


def _files(shard: Path) -> Iterator[Stored]:
    """The files that a shard describes: a head, then a record of each file and records of its pieces."""
    data = shard.read_bytes()
    place = RECORD
    while place + RECORD <= len(data) and (name := data[place : place + 32]) != b"\xff" * 32:
        flags, pieces = struct.unpack_from("<II", data, place + 32)
        place += RECORD
        size = sum(struct.unpack_from("<I", data, place + RECORD * piece + 36)[0] for piece in range(pieces))
        place += RECORD * pieces * (2 if flags & VERIFICATION else 1)
        if flags & METADATA:
            yield Stored(_hex(name), _hex(data[place : place + 32]), size)
            place += RECORD


def _hex(number: bytes) -> str:
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", number))


@cache
def why_not() -> str | None:
    """Why xet cannot be tested here; None if it can."""
    try:
        with tempfile.TemporaryDirectory() as name:
            path, back = Path(name) / "file", Path(name) / "back"
            path.write_bytes(b"0123456789" * 1000)
            [xet] = _run("put", Path(name) / "cas", [str(path)])
            _run("get", Path(name) / "cas", [(xet, 10000, str(back))])
            [stored] = [file for shard in (Path(name) / "cas" / INSIDE).glob("shards/*.mdb") for file in _files(shard)]
            assert stored == Stored(xet, digest(path), 10000), "shards have another format"
            assert back.read_bytes() == path.read_bytes(), "files come back changed"
    except Exception as error:
        return f"this hf_xet has no storage in folders (local://): {error}"
    return None

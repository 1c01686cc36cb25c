"""Fetch a network from the Hub into the client's cache, verified; and the lock of what was fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import disable_progress_bars

from kzoo.errors import InputError, WorldError
from kzoo.hashing import weights_sha256
from kzoo.hub.client import endpoint, hub_errors
from kzoo.hub.headers import RemoteNetwork, read_network
from kzoo.hub.locks import Lock, LockedFile
from kzoo.hub.repositories import RemoteFile, RepositoryName, git_oid, read_repository

Progress = Callable[[str, float], None]
#: So many times a file is fetched before its content counts as wrong.
_TRIES = 2
#: Beside the files themselves; a disk that is filled to its last byte fails elsewhere.
_SPARE = 50_000_000


@dataclass(frozen=True)
class Pulled:
    """A network on this machine: its lock, the file to open, and how many bytes were fetched for it."""

    lock: Lock
    path: Path
    fetched: int


def cached(lock: Lock) -> Path | None:
    """The file to open, if all files of a lock are in the client's cache, whole; nobody is asked.

    Raises:
        WorldError: the disk fails.
    """
    paths = []
    for file in lock.files:
        found = try_to_load_from_cache(lock.repository, file.name, revision=lock.commit)
        if not isinstance(found, str) or not _is(Path(found), file.size, file.sha256):
            return None
        paths.append(Path(found))
    return paths[0]


def look(name: RepositoryName, filename: str | None = None) -> RemoteNetwork:
    """What would be pulled: the repository, its network by its headers, and the files.

    Raises:
        InputError: there is no such network, or one may not see it.
        WorldError: the Hub fails.
    """
    return read_network(read_repository(name), filename)


def pull(remote: RemoteNetwork, asked: str | None, progress: Progress) -> Pulled:
    """Fetch a network's files into the client's cache, and verify each.

    Raises:
        InputError: one may not have them.
        WorldError: the Hub or the disk fails, or what came is not what the Hub said.
    """
    repository = remote.repository
    _require_space(remote)
    paths, locked, fetched = [], [], 0
    for done, file in enumerate(remote.files):
        progress(f"fetching {file.name}", done / len(remote.files))
        path, sha256, new = _fetched(remote, file)
        paths.append(path)
        locked.append(LockedFile(name=file.name, size=file.size, sha256=sha256))
        fetched += file.size if new else 0
    progress("fetching", 1.0)
    lock = Lock(
        name=repository.asked,
        repository=repository.id,
        asked=asked,
        commit=repository.commit,
        license=repository.license,
        files=tuple(locked),
    )
    return Pulled(lock, paths[0], fetched)


def _fetched(remote: RemoteNetwork, file: RemoteFile) -> tuple[Path, str, bool]:
    """A file in the cache that is what the Hub says, its sha256, and whether it had to be fetched."""
    repository = remote.repository
    what = f"hf:{repository.id}/{file.name}"
    held = try_to_load_from_cache(repository.id, file.name, revision=repository.commit)
    new = not isinstance(held, str)
    for _ in range(_TRIES):
        disable_progress_bars()
        with hub_errors(what):
            try:
                path = Path(hf_hub_download(repository.id, file.name, revision=repository.commit))
            except OSError as error:
                raise _disk_or_network(error, what) from None
        if _is_as_said(path, file):
            return path, weights_sha256([path]), new
        # Neither the link nor what it leads to may be taken for good by anybody.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        new = True
    raise WorldError(
        f"{what} has come twice with another content than the Hub at {endpoint()} says: nothing is kept of it; try again later, "
        "or tell its owner"
    )


def _disk_or_network(error: OSError, what: str) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error
    if error.errno is not None and error.filename is not None:
        return WorldError(f"{error.filename} cannot be written ({error.strerror}): check the disk and HF_HOME")
    return WorldError(
        f"{what} cannot be fetched ({' '.join(str(error).split())[:160]}): check the network and the disk"
    )


def _is_as_said(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return weights_sha256([path]) == file.sha256
    if file.oid is not None:
        return git_oid(path.read_bytes()) == file.oid
    return True


def _is(path: Path, size: int, sha256: str) -> bool:
    try:
        return path.stat().st_size == size and weights_sha256([path]) == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WorldError(f"{path} cannot be read ({error.strerror}): check the disk and HF_HOME") from None


def _require_space(remote: RemoteNetwork) -> None:
    """Refuse what does not fit on the disk before a byte of it is fetched."""
    folder = Path(constants.HF_HUB_CACHE)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if remote.size + _SPARE > free:
        raise WorldError(
            f"hf:{remote.repository.id} needs {remote.size / 1e6:,.0f} MB, but {there} has {free / 1e6:,.0f} MB free: make room, or "
            "set HF_HOME to another disk"
        )


def require_online(lock: Lock | None, text: str) -> None:
    """Refuse to ask the Hub where ``HF_HUB_OFFLINE`` is set.

    Raises:
        InputError: it is, so that what is not in the cache cannot be had.
    """
    if constants.HF_HUB_OFFLINE:
        known = "is locked, but not whole in the client's cache" if lock else "has not been pulled"
        raise InputError(f"{text} {known}, and HF_HUB_OFFLINE is set: unset it, and pull it")

"""Fetch a locked network from the Hub into the client's cache, and hold every file against its lock."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils.logging import set_verbosity

from kzoo.errors import InputError, WorldError
from kzoo.hashing import weights_sha256
from kzoo.hub.client import hub, hub_errors
from kzoo.hub.locks import Lock, LockedFile
from kzoo.hub.names import PREFIX, RepositoryName
from kzoo.hub.repositories import read_repository
from kzoo.processes import Progress

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


def missing_files(lock: Lock) -> list[LockedFile]:
    """The files of a lock that are not in the client's cache as they are locked; nobody is asked.

    Raises:
        WorldError: the disk fails.
    """
    return [file for file in lock.files if (held := _held(lock, file)) is None or not _is(held, file)]


def absent_files(lock: Lock) -> list[LockedFile]:
    """The files of a lock that are not in the client's cache, by their sizes alone: nothing is read, and nobody is asked."""
    return [file for file in lock.files if (held := _held(lock, file)) is None or held.stat().st_size != file.size]


def pull(lock: Lock, missing: Sequence[LockedFile], progress: Progress) -> Pulled:
    """Fetch the files of a locked network that are not in the client's cache, and verify each.

    Raises:
        InputError: one may not have them, or they are no longer there.
        WorldError: the Hub or the disk fails, or what came is not what is locked.
    """
    if missing:
        _require_space(lock, sum(file.size for file in missing))
        # The client asks a Hub that is dead for half a minute; this is said within seconds.
        _require_there(lock, missing)
    for done, file in enumerate(missing):
        progress(f"fetching {file.name}", done / len(missing))
        _fetch(lock, file)
    progress("fetching", 1.0)
    return Pulled(lock, cached_file(lock, lock.files[0]), sum(file.size for file in missing))


def _require_there(lock: Lock, missing: Sequence[LockedFile]) -> None:
    """Refuse what the Hub no longer has, or calls another, before the cache is touched."""
    what = f"{PREFIX}{lock.repository}"
    try:
        there = read_repository(RepositoryName(lock.repository, lock.commit)).files
    except InputError as error:
        raise InputError(f"{error} (it is locked at {lock.commit[:12]}; --update takes what is there now)") from None
    for file in missing:
        now = there.get(file.name)
        if now is None:
            raise InputError(
                f"{what} no longer has {file.name} at {lock.commit[:12]}: 'kzoo pull --update' takes what is there"
            )
        if now.size != file.size or now.sha256 not in (None, file.sha256):
            raise WorldError(
                f"the Hub at {hub()} calls {what}/{file.name} another file than is locked: if you trust it, take it with "
                "'kzoo pull --update'"
            )


def _held(lock: Lock, file: LockedFile) -> Path | None:
    """Where a file is in the client's cache, whatever it holds."""
    path = _storage(lock) / "snapshots" / lock.commit / file.name
    return path if path.is_file() else None


def cached_file(lock: Lock, file: LockedFile) -> Path:
    """Where a file that was pulled is.

    Raises:
        WorldError: it is gone again.
    """
    path = _held(lock, file)
    if path is None:
        raise WorldError(
            f"{PREFIX}{lock.repository}/{file.name} was fetched, but is gone from the cache again: do this once more"
        )
    return path


def _storage(lock: Lock) -> Path:
    """The folder of a repository in the client's cache."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=lock.repository, repo_type="model")


def _fetch(lock: Lock, file: LockedFile) -> None:
    """Bring a file into the cache; nothing else than what is locked stays there."""
    what = f"{PREFIX}{lock.repository}/{file.name}"
    disable_progress_bars()
    # What goes wrong is said below.
    set_verbosity(logging.ERROR)
    for _ in range(_TRIES):
        held = _held(lock, file)
        if held is not None and _is(held, file):
            return  # somebody else has fetched it meanwhile
        # What is there and is wrong would be taken for the file.
        _drop(held)
        with hub_errors(what):
            try:
                path = Path(hf_hub_download(lock.repository, file.name, revision=lock.commit))
            except OSError as error:
                raise _disk_or_network(error, what) from None
        if path == _held(lock, file) and _is(path, file):
            return
        _drop(path)
        # Where the Hub has said another commit, the client remembers that one for this.
        _drop(_storage(lock) / "refs" / lock.commit)
    raise WorldError(
        f"{what} has come twice with another content than is locked (sha256 {file.sha256[:12]}...): nothing is kept of it; try "
        f"again later, tell its owner, or, if you trust the Hub at {hub()}, move the lock with 'kzoo pull --update'"
    )


def _drop(path: Path | None) -> None:
    """Remove a file of the cache and what it leads to: neither may be taken for good by anybody."""
    if path is None:
        return
    blob, cache = path.resolve(), Path(constants.HF_HUB_CACHE).resolve()
    try:
        # A link may have been made to lead anywhere.
        if blob.is_relative_to(cache):
            blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WorldError(f"{path} cannot be removed ({error.strerror}): check the permissions of HF_HOME") from None


def _disk_or_network(error: OSError, what: str) -> Exception:
    if isinstance(error, HfHubHTTPError):
        return error
    if error.errno is not None and error.filename is not None:
        return WorldError(f"{error.filename} cannot be written ({error.strerror}): check the disk and HF_HOME")
    return WorldError(
        f"{what} cannot be fetched ({' '.join(str(error).split())[:160]}): check the network and the disk"
    )


def _is(path: Path, file: LockedFile) -> bool:
    """Whether a file on the disk is the one that is locked."""
    try:
        return path.stat().st_size == file.size and weights_sha256([path]) == file.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WorldError(f"{path} cannot be read ({error.strerror}): check the disk and HF_HOME") from None


def _require_space(lock: Lock, needed: int) -> None:
    """Refuse what does not fit on the disk before a byte of it is fetched."""
    folder = Path(constants.HF_HUB_CACHE)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed + _SPARE > free:
        raise WorldError(
            f"{PREFIX}{lock.repository} needs {needed / 1e6:,.0f} MB, but {there} has {free / 1e6:,.0f} MB free: make room, or "
            "set HF_HOME to another disk"
        )


def require_online(text: str, known: str) -> None:
    """Refuse to ask the Hub where ``HF_HUB_OFFLINE`` is set; ``known`` says what is known of what ``text`` names.

    Raises:
        InputError: it is, so that what is not in the cache cannot be had.
    """
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{text} {known}, and HF_HUB_OFFLINE is set: unset it, and pull it")

"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kzoo.errors import InputError, WorldError
from kzoo.registry_files import LOCK_FILE


@contextmanager
def locked(directory: Path, timeout: float = 5.0) -> Iterator[None]:
    """Hold the lock of a registry folder, which is made where it is missing.

    Raises:
        InputError: the folder is a file.
        WorldError: another process holds it for longer than ``timeout`` seconds, or the folder cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"registry {directory} is a file: give a folder")
    busy = f"registry {directory} is being changed by another kzoo: wait until it is done, then run this again"
    with held(directory / LOCK_FILE, busy, f"registry {directory}", timeout):
        yield


@contextmanager
def held(file: Path, busy: str, what: str, timeout: float) -> Iterator[None]:
    """Hold a lock file, whose folder is made where it is missing; ``what`` names what cannot be written in sentences.

    Raises:
        WorldError: another process holds it for longer than ``timeout`` seconds (``busy``), or it cannot be written.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except Timeout:
        raise WorldError(busy) from None
    # Some network file systems have no locks.
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WorldError(f"{what} cannot be written ({reason}): check its permissions") from None
    try:
        yield
    finally:
        lock.release()

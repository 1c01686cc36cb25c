"""The files of a registry's folder: which there are, what they hold in bytes, and their digest. Imports next to nothing."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from kzoo.errors import InputError

#: What a fault of no single field is about.
WHOLE = "the file"
#: What one process at a time holds, while it changes the registry.
LOCK_FILE = ".lock"
#: The folder of the locks, a file for each network of the Hub.
LOCKS = "locks"
#: The folder of the networks whose layers stand in locks.
HUB_FOLDER = "hf"
_LARGEST = 10_000_000
#: A lock lists every tensor, in fewer bytes than the largest header that is read.
MOST_LOCK = 30_000_000


def family_files(directory: Path) -> list[Path]:
    """The registry's YAML files in sorted order; what stands elsewhere or is hidden is none of them.

    Raises:
        InputError: the directory does not exist, is not a directory or cannot be read.
    """
    return [path for path in visible_files(directory) if path.suffix == ".yaml" and path.parent != directory]


def registry_files(directory: Path) -> list[Path]:
    """The registry's YAML files in sorted order, at least one.

    Raises:
        InputError: the directory does not exist, is not a directory, cannot be read or holds no YAML file.
    """
    files = family_files(directory)
    if not files:
        raise InputError(
            f"registry {directory} holds no <library>/<family>.yaml file: give another folder, or fill it with 'kzoo add' or 'kzoo registry sync'"
        )
    return files


def visible_files(directory: Path) -> list[Path]:
    """What stands in a registry's folder and in the folders in it."""
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise InputError(f"registry {directory} {what}: give the folder that holds <library>/<family>.yaml files")
    try:
        # A glob would skip a folder that it may not enter; listing the folder says so.
        top = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        below = [path for folder in top if folder.is_dir() for path in sorted(folder.iterdir())]
    except OSError as error:
        raise InputError(f"registry {directory} cannot be read ({error.strerror}): check its permissions") from None
    return [*(path for path in top if not path.is_dir()), *(path for path in below if not path.name.startswith("."))]


def read_bounded_file(path: Path, largest: int = _LARGEST) -> bytes | str:
    """The content of a registry file, or in words why it cannot be had."""
    try:
        # Opening a pipe would wait for whoever writes to it.
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a file: expected a YAML file, move it away"
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        return f"cannot be read ({error.strerror}): check its permissions"
    if len(content) > largest:
        return f"is larger than {largest // 10**6} MB: split it into several families"
    return content


def registry_digest(directory: Path) -> str:
    """SHA-256 over names and bytes of all registry files, and of the locks of networks on the Hub.

    Raises:
        InputError: the directory is missing, unreadable or holds no YAML file, or a file cannot be read.
    """
    digest = hashlib.sha256()
    files = registry_files(directory)
    locks = [directory / LOCKS / f"{path.stem}.json" for path in files if path.parent.name == HUB_FOLDER]
    for path in (*files, *(lock for lock in locks if lock.is_file())):
        digest.update(f"{path.relative_to(directory).as_posix()}\n".encode())
        content = read_bounded_file(path, MOST_LOCK if path.suffix == ".json" else _LARGEST)
        if isinstance(content, str):
            raise InputError(f"{path}:1: {WHOLE}: {content}")
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()

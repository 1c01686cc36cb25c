"""Write files so that nothing is ever half-written."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kzoo.errors import InputError, WorldError
from kzoo.layout import RECIPE

_NEW, _OLD = ".tmp", ".old"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed otherwise.

    Raises:
        WorldError: the disk is full, the folder cannot be written, and the like.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WorldError(
            f"{path} cannot be written ({error.strerror or error}): check the disk and its permissions"
        ) from None


@contextmanager
def new_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path`` that becomes ``path`` when the block ends well, and is removed otherwise.

    Whatever happens, ``path`` is the whole new folder, or what it was before. Where ``force`` replaces a folder there is
    an instant with none; the old one is brought back by the next call if the process is killed just then.

    Raises:
        InputError: ``path`` exists (and ``force`` is not given, or it is no folder).
        WorldError: the disk is full, the parent folder cannot be written, and the like.
    """
    temporary = old = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        require_new(path, force)
        temporary = _beside(path, _NEW)
        yield temporary
        # mkdtemp makes a folder that nobody else may read.
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            require_new(path, force)
            old = _beside(path, _OLD)
            path.rename(old / path.name)
        temporary.rename(path)
    except OSError as error:
        raise WorldError(
            f"{path} cannot be written ({error.strerror or error}): check the disk and its permissions"
        ) from None
    finally:
        for left in (old, temporary):
            if left is not None:
                _tidy(left, path)


def require_new(path: Path, force: bool) -> None:
    """Refuse an output folder that exists, unless ``force`` is to replace it and it is empty or a result of kzoo.

    Raises:
        InputError: it does.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path} exists and is no folder: give another place for the results")
    if path.exists() and not force:
        raise InputError(f"{path} exists: give another folder, or --force to replace it")
    if path.exists() and any(path.iterdir()) and not (path / RECIPE).exists():
        raise InputError(f"{path} holds other things than a model of kzoo, so it is not replaced: give another folder")


def _beside(path: Path, suffix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=suffix, dir=path.parent))


def _remove_leftovers(path: Path) -> None:
    """Clear away what processes that were killed have left of ``path``."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.\w+({_NEW}|{_OLD})")
    for found in sorted(path.parent.glob(".*")):
        named = pattern.fullmatch(found.name)
        if named and not _runs(int(named[1])):
            _tidy(found, path)


def _tidy(left: Path, path: Path) -> None:
    """Remove a temporary folder; if it holds the old ``path``, and there is no new one, that is put back first."""
    if left.name.endswith(_OLD) and (left / path.name).exists() and not path.exists():
        (left / path.name).rename(path)
    shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

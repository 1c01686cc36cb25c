"""Cores shared by processes that do not know each other: as many lock files as there are cores, held while one is used.

The kernel gives a lock back when its holder ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

#: Names the folder of the lock files to the processes that share them.
SLOTS = "KZOO_SLOTS"


class Slots:
    """The lock files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made(cls, folder: Path, count: int) -> Slots:
        """A folder of ``count`` lock files, and no others; those that are there are kept."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir()):
            if not (file.name.isdecimal() and int(file.name) < count):
                file.unlink()
        for number in range(count):
            (folder / str(number)).touch()
        return cls(folder)

    def take(self) -> Slot | None:
        """A slot that nobody holds, or None; none either where the folder is gone."""
        try:
            files = sorted(self.folder.iterdir())
        except OSError:
            return None
        for file in files:
            try:
                handle = file.open("rb")
            except OSError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.close()
                continue
            return Slot(handle)
        return None


class Slot:
    """One that is held, until it is given back or the process ends."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle

    def give_back(self) -> None:
        """Let others have it."""
        # A process that was forked meanwhile has the file open, too: closing alone would leave it locked.
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        self._handle.close()


def shared_slots() -> Slots | None:
    """The slots that this process shares with others; None where it need not ask."""
    folder = os.environ.get(SLOTS)
    return Slots(Path(folder)) if folder else None

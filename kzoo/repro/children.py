"""Commands as process groups that can be stopped whole, and that end with this process however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kzoo.errors import WorldError
from kzoo.paths import source_file

_GUARD = source_file("repro/guard")
_EVERY = 0.05


class Child:
    """A command under `kzoo.repro.guard`, in a session of its own, with what it says in a file."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
        """Start the command.

        Raises:
            WorldError: the log cannot be written, or no process can be started.
        """
        self.log = log
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as said:
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_GUARD), *command],
                    cwd=folder,
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise WorldError(f"{' '.join(command)} cannot be started ({error.strerror or error})") from None

    def ended(self) -> bool:
        """Whether the command has ended; then nothing that it had started is left."""
        if self._guard.returncode is not None:
            return True
        # The group is killed while its leader is not yet collected, so that its number means this group and no other.
        if os.waitid(os.P_PID, self._guard.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self._signal(signal.SIGKILL)
        self._guard.communicate()
        return True

    @property
    def code(self) -> int:
        """The exit code of a command that has ended."""
        return self._guard.returncode

    def interrupt(self) -> None:
        """Ask the whole group to end, as Ctrl-C does."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the whole group at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._guard.returncode is None:
            # The group may be gone, or hold nothing but the leader, which waits to be collected.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._guard.pid, number)


def stop(children: Iterable[Child], patience: float) -> None:
    """End children with all that they have started: asked first, and killed after ``patience`` seconds."""
    children = list(children)
    for child in children:
        child.interrupt()
    deadline = time.monotonic() + patience
    while not all(child.ended() for child in children) and time.monotonic() < deadline:
        time.sleep(_EVERY)
    for child in children:
        child.kill()
    while not all(child.ended() for child in children):
        time.sleep(_EVERY)

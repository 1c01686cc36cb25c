"""Kill a process of its own when it makes a certain request."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from tests.hub import faults
from tests.hub.server import Hub


def killed_at(hub: Hub, nth: int, command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Run a command that is killed when it makes its nth request; whether it came to that."""
    known = threading.Event()

    def kill() -> None:
        known.wait(20)
        os.kill(process.pid, signal.SIGKILL)

    hub.fail(faults.first(kill), nth=nth, times=1)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        known.set()
        process.communicate(timeout=60)
    hub.heal()
    return process.returncode == -signal.SIGKILL

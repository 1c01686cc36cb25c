"""A program of its own: runs a command, and ends it with all that it has started when kzoo is gone.

``python guard.py COMMAND...`` as the leader of a process group, with a pipe from kzoo as its standard input: a process
that is killed by ``kill -9`` cannot stop its children, but its end of a pipe is closed for it. Nothing of kzoo is imported.
"""

import os
import select
import signal
import subprocess
import sys

_EVERY = 0.05


def main() -> int:
    """Run the command and give its exit code; a signal is 128 and its number, as shells have it."""
    # A handler, not SIG_IGN, which the command would inherit: Ctrl-C is for the command, whose end is told here.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while command.poll() is None:
        if select.select([sys.stdin], [], [], _EVERY)[0]:
            # Nothing is ever written into the pipe: it can be read because kzoo has ended.
            os.killpg(0, signal.SIGKILL)
    # A command that was killed leaves behind what it had started.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


if __name__ == "__main__":
    assert os.getpgrp() == os.getpid(), "to be started in a process group of its own"
    sys.exit(main())

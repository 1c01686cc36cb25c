"""How much memory is free, and refusing what does not fit into it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from kzoo.errors import InputError


def require_memory(what: str, needed: int, reserved: int = 0) -> None:
    """Refuse what does not fit into the memory that is free.

    Raises:
        InputError: ``needed`` and ``reserved`` bytes are more than that.
    """
    free = free_memory()
    if needed + reserved > free:
        beside = f" and {reserved / 2**30:.1f} GiB for its source" if reserved > needed / 20 else ""
        raise InputError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory{beside}, and {free / 2**30:.1f} GiB are free: take a smaller "
            "network, or a machine with more memory"
        )


def free_memory() -> int:
    """Bytes of memory that this process can still use, as the system or its control group allows."""
    import psutil

    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        free = min(free, _free_in_group(Path("/sys/fs/cgroup")))
    return free


def _free_in_group(group: Path) -> int:
    """What a control group leaves; pages of files that nobody uses count as used there, but make room."""
    used = int((group / "memory.current").read_text())
    cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    return int((group / "memory.max").read_text()) - used + int(cached[1] if cached else 0)

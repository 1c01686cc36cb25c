"""Start-up of the command line beside dvc's and hf's, and a whole recommendation for an indexed target."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import summary, write

RUNS = 15
BIN = Path(sys.executable).parent
COMMANDS = {
    "kzoo --help": ("kzoo", "--help"),
    "dvc --help": ("dvc", "--help"),
    "hf --help": ("hf", "--help"),
    "kzoo recommend timm:resnet26d --json": ("kzoo", "recommend", "timm:resnet26d", "--json"),
    "kzoo recommend timm:resnet26d --classes 10 --json": (
        "kzoo",
        "recommend",
        "timm:resnet26d",
        "--classes",
        "10",
        "--json",
    ),
}


def measure(command: tuple[str, ...]) -> tuple[float, float]:
    """Wall time in seconds and peak memory in MB of one process."""
    quiet = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    started = time.perf_counter()
    process = subprocess.Popen(
        [BIN / command[0], *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quiet
    )
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - started
    assert status == 0, command
    return elapsed, usage.ru_maxrss / 1024


def main() -> None:
    result = {}
    for name, command in COMMANDS.items():
        measure(command)
        runs = [measure(command) for _ in range(RUNS)]
        result[name] = {
            "wall_s": summary([wall for wall, _ in runs], 3),
            "peak_memory_mb": round(max(memory for _, memory in runs), 1),
        }
    write("startup", {"runs": RUNS, **result})


if __name__ == "__main__":
    main()

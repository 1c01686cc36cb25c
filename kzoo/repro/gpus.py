"""GPUs by the names that the driver gives them."""

from __future__ import annotations

import re
import subprocess

from kzoo.errors import InputError

_PATIENCE = 60


def read_gpus(text: str) -> tuple[str, ...]:
    """``0,1`` as single GPUs: numbers as ``nvidia-smi -L`` lists them, or its UUIDs.

    Raises:
        InputError: one is named twice, or is not there.
    """
    gpus = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"\d+|(GPU|MIG)-[\w./-]+", gpu, re.ASCII) for gpu in gpus):
        raise InputError(f"--gpus {text!r:.80}: expected numbers as 'nvidia-smi -L' lists them, such as 0,1")
    twice = next((gpu for gpu in gpus if gpus.count(gpu) > 1), None)
    if twice is not None:
        raise InputError(f"--gpus {text!r:.80} names {twice} twice, but each stage gets a GPU of its own: name it once")
    here = present()
    missing = [gpu for gpu in gpus if gpu not in here]
    if missing:
        numbers = ", ".join(name for name in here if name.isdecimal())
        raise InputError(
            f"--gpus {text!r:.80}: {', '.join(missing)} is not here; "
            + (f"'nvidia-smi -L' lists {numbers}" if here else "'nvidia-smi -L' finds no GPU: leave --gpus out")
        )
    return gpus


def present() -> list[str]:
    """Numbers and UUIDs of the GPUs of this machine, and of their parts; empty without a driver."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    numbers = re.findall(r"^GPU (\d+):", listed.stdout, re.MULTILINE)
    return [*numbers, *re.findall(r"UUID: ([\w./-]+)", listed.stdout)]

"""The same bytes from the same seed: where random numbers come from, and torch's switches."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kzoo.errors import InputError

#: Streams of random numbers of an epoch; tasks use the keys below 2**16.
ORDER, SHIFT_DOWN, SHIFT_RIGHT, FLIP, GLOBAL = range(5)
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
# torch makes this attribute at run time only.
_FILL = "fill_uninitialized_memory"


def words(seed: int, epoch: int, purpose: int, count: int) -> NDArray[np.uint64]:
    """Random 64-bit words that depend on these numbers only, whatever came before, with every version of numpy."""
    stream = (epoch + 1) << 16 | purpose
    return np.random.Philox(key=(stream << 64) | seed).random_raw(count)


def seed_everything(seed: int, epoch: int) -> None:
    """Seed what layers such as dropout draw from, for one epoch."""
    word = int(words(seed, epoch, GLOBAL, 1)[0])
    random.seed(word)
    # Other people's layers may draw from it.
    np.random.seed(word % 2**32)  # noqa: NPY002
    torch.manual_seed(word)


@contextmanager
def reproducible(threads: int | None, deterministic: bool) -> Iterator[None]:
    """Torch with these threads and switches; afterwards they, and all global generators, are as they were.

    Raises:
        InputError: the block used an operation that has no deterministic form on this device.
    """
    kept = _global_state()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        if deterministic:
            os.environ.setdefault(_CUBLAS, ":4096:8")
            torch.use_deterministic_algorithms(True)
            # Costs time, and helps only those who read memory before they write it.
            setattr(torch.utils.deterministic, _FILL, False)
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
        yield
    except RuntimeError as error:
        if deterministic and "does not have a deterministic implementation" in str(error):
            said = " ".join(str(error).split())
            raise InputError(f"{said[:160]}: use another layer, or the training setting deterministic=false") from None
        raise
    finally:
        _restore(kept)


def _global_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "fill": getattr(torch.utils.deterministic, _FILL),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "cublas": os.environ.get(_CUBLAS),
    }


def _restore(kept: dict[str, Any]) -> None:
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])  # noqa: NPY002
    torch.set_rng_state(kept["torch"])
    if kept["cuda"] is not None:
        torch.cuda.set_rng_state_all(kept["cuda"])
    if torch.get_num_threads() != kept["threads"]:
        torch.set_num_threads(kept["threads"])
    enabled, warn_only = kept["algorithms"]
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    setattr(torch.utils.deterministic, _FILL, kept["fill"])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = kept["cudnn"]
    if kept["cublas"] is None:
        os.environ.pop(_CUBLAS, None)
    else:
        os.environ[_CUBLAS] = kept["cublas"]

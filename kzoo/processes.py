"""Work over libraries in as many processes as there are cores: they hold the interpreter lock."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

_CHUNK = 8
# A few chunks are done before other processes would have imported torch.
_INLINE = 4

#: Told what is under way and how much of it is done, from 0 to 1.
Progress = Callable[[str, float], None]
_Work = TypeVar("_Work")
_Result = TypeVar("_Result")


def chunks(values: Sequence[_Result]) -> Iterator[list[_Result]]:
    """``values`` in lists of a few."""
    for first in range(0, len(values), _CHUNK):
        yield list(values[first : first + _CHUNK])


def in_processes(
    function: Callable[[_Work], _Result], work: Sequence[_Work], what: str, progress: Progress
) -> list[_Result]:
    """``function`` over ``work`` in as many processes as there are cores, in order."""
    results = []
    with ExitStack() as stack:
        run: Callable[..., Iterator[_Result]] = map
        if len(work) > _INLINE:
            # A fresh interpreter each: forking a process that has imported torch is not safe.
            pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
            run = stack.enter_context(pool).map
        for result in run(function, work):
            results.append(result)
            progress(what, len(results) / len(work))
    return results

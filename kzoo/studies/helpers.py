"""Processes that help this one with a list of work, as many as it may have at the moment."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from kzoo.slots import Slot, Slots, shared_slots

_WATCHED_EVERY = 1.0
#: Between two attempts to get a slot; longer than `kzoo repro` waits between its own, so that a new stage comes first.
_PAUSE = 0.4
_Work = TypeVar("_Work")
_Result = TypeVar("_Result")


def end_with(parent: int) -> None:
    """Let this process end soon after its parent has: one that is killed cannot tell its children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCHED_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def helped(function: Callable[[_Work], _Result], work: Sequence[_Work], processes: int) -> Iterator[_Result]:
    """``function`` over ``work``, the results as they come, in this process and at most ``processes - 1`` others.

    Where slots are shared with other programs (`kzoo.slots`), each of the others works only while it holds one; this
    process needs none. Others are started only when there is something for them to do.

    Raises:
        BrokenProcessPool: one of the others was ended from outside.
        Exception: what ``function`` raises.
    """
    others = min(processes, len(work)) - 1
    if others < 1:
        yield from map(function, work)
        return
    helpers = _Helpers(function, work, others)
    try:
        while (item := helpers.next()) is not None:
            yield function(item[0])
            yield from helpers.results()
        yield from helpers.rest()
    finally:
        helpers.end()


class _Helpers(Generic[_Work, _Result]):
    """Threads of which each hands one piece of work after the other to a process."""

    def __init__(self, function: Callable[[_Work], _Result], work: Sequence[_Work], count: int) -> None:
        self._function = function
        self._waiting = deque((piece,) for piece in work)
        self._found: SimpleQueue[_Result | BaseException] = SimpleQueue()
        self._over = threading.Event()
        # A fresh interpreter each: forking a process that has imported torch is not safe.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, initializer=end_with, initargs=(os.getpid(),))
        self._threads = [
            threading.Thread(target=self._work, args=(shared_slots(),), name=f"helper-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def next(self) -> tuple[_Work] | None:
        """The next piece of work, or None."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def results(self) -> Iterator[_Result]:
        """What has been found since; what went wrong is raised."""
        while True:
            try:
                found = self._found.get_nowait()
            except Empty:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def rest(self) -> Iterator[_Result]:
        """What is still to come, once no work is left for this process."""
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_PAUSE / 4)
                yield from self.results()
        yield from self.results()

    def end(self) -> None:
        """Let what is under way end, begin nothing, and end the processes."""
        self._over.set()
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)
        for thread in self._threads:
            thread.join()

    def _work(self, slots: Slots | None) -> None:
        try:
            while self._waiting and not self._over.is_set():
                slot = slots.take() if slots is not None else None
                if slots is None or slot is not None:
                    self._do_one(slot)
                if slots is not None and self._waiting:
                    self._over.wait(_PAUSE)
        except BaseException as error:
            # It is raised where the results are read; there is no use in what would come after it.
            self._waiting.clear()
            self._found.put(error)

    def _do_one(self, slot: Slot | None) -> None:
        try:
            item = self.next()
            if item is not None:
                self._found.put(self._pool.submit(self._function, item[0]).result())
        finally:
            if slot is not None:
                slot.give_back()

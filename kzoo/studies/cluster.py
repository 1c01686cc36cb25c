"""Units of work on the workers of a dask cluster: one that is there already, or one of processes of this machine.

Dask decides which worker does what, and gives a unit to another one when a worker is lost. What a unit is, what a worker
does, and what comes back, stands in `kzoo.studies.remote`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kzoo.errors import InputError, KzooError, WorldError
from kzoo.studies.remote import MOST_SENT, Data, accept, identity, job_of, work_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client, Future, LocalCluster, Worker

    from kzoo.studies.records import Record
    from kzoo.studies.work import Order

#: In place of an address: processes of this machine.
LOCAL = "local"
_ADDRESS = re.compile(r"(?:tcp|tls)://(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")
_CONNECTED_WITHIN, _CLOSED_WITHIN, _LOOKED_EVERY = 10.0, 5.0, 5.0


class DaskCluster:
    """A cluster by its address, or ``local``; it is connected when there is something to do, and left by ``close``.

    Raises:
        InputError: the address is none.
    """

    def __init__(self, address: str, jobs: int, say: Callable[[str], None]) -> None:
        if address != LOCAL and not _ADDRESS.fullmatch(address):
            raise InputError(
                f"{address!r:.80} is no scheduler: expected tcp://HOST:PORT as 'dask scheduler' prints it, or {LOCAL}"
            )
        self.address, self.jobs, self.say = address, jobs, say
        self._local: LocalCluster | None = None
        self._client: Client | None = None

    def carry_out(self, orders: Sequence[Order]) -> Iterator[Record]:
        """The records of units, as they are done; see `kzoo.studies.design.Cluster`.

        Raises:
            InputError: a worker must not take part, or a file is too large to be sent to it.
            InputError, CheckFailed, WorldError: what the first unit that fails raises.
            WorldError: there is no scheduler at the address, or it has gone away, or a unit has ended its workers.
        """
        if orders:
            errand = _Errand(self._connected(), self.address, self.say)
            try:
                yield from errand.results(orders)
            finally:
                errand.cancel()

    def close(self) -> None:
        """Leave the cluster; one that is of this machine's processes ends."""
        for left in (self._client, self._local):
            if left is not None:
                # Of a scheduler that is gone nothing can be asked.
                with suppress(OSError, TimeoutError, CancelledError):
                    left.close(timeout=_CLOSED_WITHIN)
        self._client = self._local = None

    def _connected(self) -> Client:
        if self._client is not None:
            return self._client
        from distributed import Client, LocalCluster

        _silence()
        try:
            if self.address == LOCAL:
                # Others on this machine could reach its port, so it is encrypted. Memory is left to the system, as elsewhere.
                self._local = LocalCluster(
                    n_workers=self.jobs,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                    security=True,
                )
            found = self._client = Client(
                self._local or self.address, timeout=_CONNECTED_WITHIN, set_as_default=False, name="kzoo"
            )
        except (TypeError, ValueError, RuntimeError) as error:
            # Such as tls without certificates in dask's configuration.
            reason = " ".join(str(error).split())
            raise InputError(
                f"the cluster at {self.address} cannot be used as dask is configured ({reason:.200})"
            ) from None
        except OSError:
            raise WorldError(
                f"no dask scheduler answers at {self.address} within {_CONNECTED_WITHIN:.0f} s: start one ('dask scheduler'), "
                "or check the address, and the certificates if it is encrypted (tls)"
            ) from None
        count = _workers(found)
        self.say(f"the cluster at {self.address} has {count} worker{'s' if count != 1 else ''}")
        return found


class _Errand:
    """Units that are on their way: what was asked for, and the files that were sent along."""

    def __init__(self, client: Client, address: str, say: Callable[[str], None]) -> None:
        self.client, self.address, self.say = client, address, say
        self.caller, self.mine = uuid4().hex, identity()
        self.done: SimpleQueue[Future[Any]] = SimpleQueue()
        self.waiting: dict[Any, tuple[Order, Future[Any], list[str]]] = {}
        self.files: dict[str, Future[Any]] = {}

    def results(self, orders: Sequence[Order]) -> Iterator[Record]:
        """The records, each as it comes."""
        for order in orders:
            self._ask(order, [])
        while self.waiting:
            order, future, sent = self.waiting.pop(self._next().key)
            answer = self._answer(order, future)
            if "missing" in answer:
                self._ask(order, list(dict.fromkeys([*sent, *answer["missing"]])))
            else:
                yield accept(order, answer)
            future.release()

    def cancel(self) -> None:
        """Give up what is still waited for, so that workers are free for others."""
        left = [future for _, future, _ in self.waiting.values()] + list(self.files.values())
        with suppress(OSError, TimeoutError, CancelledError):
            if left and self.client.status == "running":
                self.client.cancel(left)
        self.waiting.clear()
        self.files.clear()

    def _ask(self, order: Order, files: list[str]) -> None:
        job = job_of(order, self.caller, self.mine)
        sent = [self._file(sha256, job) for sha256 in files]
        key = hashlib.sha256(json.dumps([job, files], sort_keys=True).encode()).hexdigest()
        future = self._submit(_errand(), job, files, *sent, key=f"kzoo-{key}")
        self.waiting[future.key] = (order, future, files)
        future.add_done_callback(self.done.put)

    def _file(self, sha256: str, job: Data) -> Future[Any]:
        """A file that goes to the scheduler once, from there to the workers, and to others again if they are lost."""
        if sha256 not in self.files:
            path = next(
                (Path(each["path"]) if each["is_folder"] else Path(each["path"]).parent) / name
                for each in job["sources"]
                for name, found in each["files"].items()
                if found == sha256
            )
            if path.stat().st_size > MOST_SENT:
                raise InputError(
                    f"a worker has no {path} of the sha256 {sha256}, and files above {MOST_SENT >> 20} MB are not sent: put the "
                    "study into a folder that all machines have at the same path"
                )
            self.files[sha256] = self._submit(bytes, path.read_bytes(), key=f"kzoo-file-{self.caller}-{sha256}")
        return self.files[sha256]

    def _submit(self, function: Callable[..., object], *arguments: object, key: str) -> Future[Any]:
        with warnings.catch_warnings():
            # Of arguments of many megabytes: they are meant.
            warnings.simplefilter("ignore")
            return self.client.submit(function, *arguments, key=key)

    def _next(self) -> Future[Any]:
        """The next future that is done, however that ended."""
        told = False
        while True:
            try:
                return self.done.get(timeout=_LOOKED_EVERY)
            except Empty:
                if not told and _workers(self.client) == 0:
                    told = True
                    self.say(f"the cluster at {self.address} has no worker: waiting for one (Ctrl-C ends this)")

    def _answer(self, order: Order, future: Future[Any]) -> Data:
        from distributed import KilledWorker

        try:
            answer: Data = future.result()
        except KzooError:
            raise
        except KilledWorker as error:
            raise WorldError(
                f"{order.unit.name} is given up: workers that carried it out were lost, {error.allowed_failures + 1} in all, perhaps "
                f"for lack of memory: see the log of {error.last_worker.address}; what is done is kept, and the same command goes on"
            ) from None
        except (CancelledError, OSError, TimeoutError):
            if future.status == "error":
                # The unit's own.
                raise
            raise WorldError(
                f"the scheduler at {self.address} has gone away: what is done is kept, and the same command goes on when there is "
                "one again"
            ) from None
        if "unable" in answer:
            raise InputError(
                f"the worker {answer['worker']} cannot load this kzoo ({answer['unable']!s:.120}): install the same checkout with its "
                "extras training and cluster on all machines"
            )
        return answer


def _errand() -> Callable[..., Data]:
    """What a worker is sent: a function that is pickled whole, so that one without this kzoo can say so."""

    def carry_out(job: Data, files: Sequence[str], *sent: bytes) -> Data:
        from distributed import get_worker

        try:
            from kzoo.studies.cluster import work_here
        except ImportError as error:
            return {"unable": str(error), "worker": get_worker().address}
        return work_here(job, files, *sent)

    return carry_out


def work_here(job: Data, files: Sequence[str], *sent: bytes) -> Data:
    """On a worker: carry a unit out, in a folder that goes with the worker; ``files`` are the sha256 of what is ``sent``.

    Raises:
        InputError: the worker must not take part.
        InputError, CheckFailed, WorldError: what the unit raises.
    """
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads != 1:
        raise InputError(
            f"the worker {worker.address} has {worker.state.nthreads} threads, which would disturb each other's random numbers: "
            "start it with --nthreads 1, and as many of them as you want (--nworkers)"
        )
    wanted = partial(_require_wanted, worker, worker.get_current_task())
    return work_on(
        job, dict(zip(files, sent, strict=True)), Path(worker.local_directory) / "kzoo", worker.address, wanted
    )


def _require_wanted(worker: Worker, key: Any) -> None:
    """End a unit that nobody waits for any more: dask itself does not end what has begun."""
    from distributed import Reschedule

    if worker.status.name in ("closing", "closed", "failed"):
        raise Reschedule
    task = worker.state.tasks.get(key)
    if task is None or task.state == "cancelled":
        raise RuntimeError("nobody waits for this unit any more")


def _workers(client: Client) -> int:
    """How many workers there are; 1 where that cannot be asked just now."""
    try:
        return len(client.scheduler_info(n_workers=-1)["workers"])
    except (OSError, TimeoutError, CancelledError, KeyError):
        return 1


def _silence() -> None:
    """Keep dask's own lines from between kzoo's: what matters is told in sentences."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

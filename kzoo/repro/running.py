"""Run the stages of a schedule side by side, each by a DVC of its own."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kzoo.errors import CheckFailed, InputError, KzooError, WorldError
from kzoo.locking import held
from kzoo.plots.text import clean, counted
from kzoo.repro.children import Child, stop
from kzoo.repro.progress import StageStatus, Teller, percent_in
from kzoo.repro.project import Project, with_programs
from kzoo.repro.schedule import Schedule, State
from kzoo.slots import SLOTS, Slot, Slots
from kzoo.studies.running import JOBS

_EVERY = 0.1
#: How long children that were asked to end may take.
_PATIENCE = 5.0
_TAIL_BYTES = 8_000
_TAIL_LINES = 12
_BUSY = re.compile(r"^ERROR: .*(Unable to acquire lock|is busy, it is being blocked by)", re.MULTILINE)
#: Seconds before each further attempt when another DVC holds what a stage needs.
_AGAIN_AFTER = (1.0, 2.0, 4.0, 8.0, 16.0)
_OUTCOMES = (("didn't change, skipping", "up to date"), ("is cached - skipping run", "taken from DVC's cache"))
_EXITED = re.compile(r"^ERROR: .*exited with (-?\d+)", re.MULTILINE)
_MEANINGS: Mapping[int, type[KzooError]] = {1: CheckFailed, 2: InputError, 3: WorldError}


@dataclass(frozen=True)
class Resources:
    """What stages get: ``at_once`` of them at a time, ``processes`` for their trainings, a GPU each where any are named."""

    at_once: int
    processes: int
    gpus: tuple[str, ...] = ()


@dataclass
class _Job:
    status: StageStatus
    child: Child | None
    attempts: int = 1
    again: float = 0.0
    slot: Slot | None = None


@dataclass(frozen=True)
class Failure:
    """A stage that failed: the exit code of its command, or of DVC, its log, and the log's last lines."""

    status: StageStatus
    code: int
    log: Path
    tail: tuple[str, ...]

    @property
    def error(self) -> type[KzooError]:
        """The error whose exit code says the same; a command that was killed is the world's doing."""
        return _MEANINGS.get(self.code, WorldError)


class Reproduction:
    """One run of ``kzoo repro``."""

    def __init__(self, project: Project, targets: Sequence[str], resources: Resources) -> None:
        self.project, self.resources = project, resources
        stages = project.graph.stages
        self.stages = {name: StageStatus(name, stages[name].paper, stages[name].name) for name in targets}
        self.failures: list[Failure] = []
        self._schedule = Schedule(project.graph, targets, project.seconds())
        self._jobs: list[_Job] = []
        self._slots: Slots | None = None

    def run(self, write: Callable[[str], None], columns: int | None) -> None:
        """Run the stages; what fails is told in ``failures``. However this ends, no process is left running.

        Raises:
            WorldError: another ``kzoo repro`` is at work here, or the disk fails.
        """
        own = self.project.own
        busy = f"another kzoo repro is running in {self.project.root}: wait until it is done"
        with held(own / "lock", busy, str(own), 0.5):
            shutil.rmtree(own / "logs", ignore_errors=True)
            # With GPUs a training may take hours, and a stage must not wait for that of another one.
            if not self.resources.gpus:
                self._slots = Slots.made(own / "slots", self.resources.processes)
            teller = Teller(list(self.stages.values()), write, columns)
            try:
                while self._step(teller):
                    time.sleep(_EVERY)
                    teller.tick()
            finally:
                stop([job.child for job in self._jobs if job.child is not None], _PATIENCE)

    def to_dict(self) -> dict[str, Any]:
        """What was done, as plain data: ``stages`` in their order, and ``failures``."""
        stages = [
            {
                "target": status.target,
                "paper": status.paper,
                "stage": status.name,
                "state": status.state.value,
                "how": status.how,
                "seconds": round(status.seconds, 1),
                "gpu": status.gpu,
            }
            for status in self.stages.values()
        ]
        failures = [
            {"target": failure.status.target, "code": failure.code, "log": str(failure.log), "tail": list(failure.tail)}
            for failure in self.failures
        ]
        return {"stages": stages, "failures": failures}

    def _step(self, teller: Teller) -> bool:
        """Look after what runs, start what can be; False when there is nothing more to do."""
        for job in list(self._jobs):
            self._look_after(job, teller)
        while len(self._jobs) < self.resources.at_once and (target := self._schedule.next()) is not None:
            self._start(self.stages[target], teller)
        return bool(self._jobs)

    def _start(self, status: StageStatus, teller: Teller) -> None:
        taken = [job.status.gpu for job in self._jobs]
        status.gpu = next((gpu for gpu in self.resources.gpus if gpu not in taken), None)
        status.started = time.monotonic()
        job = _Job(status, self._child(status))
        self._jobs.append(job)
        self._schedule.start(status.target)
        status.state = State.RUNNING
        teller.changed(status, "begins" if status.gpu is None else f"begins on GPU {status.gpu}")

    def _child(self, status: StageStatus) -> Child:
        command = (self.project.dvc, "--wait-for-lock", "repro", "--single-item", status.target)
        log = self.project.own / "logs" / f"{status.paper}-{status.name}.log"
        return Child(command, self.project.root, self._environment(status), log)

    def _environment(self, status: StageStatus) -> dict[str, str]:
        environment = with_programs(os.environ)
        if self._slots is not None:
            return environment | {JOBS: str(self.resources.processes), SLOTS: str(self._slots.folder)}
        share = max(1, self.resources.processes // self.resources.at_once)
        # Without the order, numbers are those of CUDA, which need not be those of nvidia-smi.
        gpu = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": status.gpu or ""}
        return environment | {JOBS: str(share)} | gpu

    def _look_after(self, job: _Job, teller: Teller) -> None:
        # A stage counts as one core at work. Where all are taken for now it works nevertheless, and gets the next.
        if job.slot is None and self._slots is not None:
            job.slot = self._slots.take()
        if job.child is None:
            if time.monotonic() >= job.again:
                job.child = self._child(job.status)
            return
        if not job.child.ended():
            if teller.wants_percent:
                job.status.percent = percent_in(_tail(job.child.log))
            return
        said = _tail(job.child.log)
        if job.child.code != 0 and _BUSY.search(said) and job.attempts <= len(_AGAIN_AFTER):
            job.again = time.monotonic() + _AGAIN_AFTER[job.attempts - 1]
            job.attempts, job.child = job.attempts + 1, None
            return
        self._end(job, job.child, said, teller)

    def _end(self, job: _Job, child: Child, said: str, teller: Teller) -> None:
        status = job.status
        self._jobs.remove(job)
        if job.slot is not None:
            job.slot.give_back()
        status.seconds, status.percent = time.monotonic() - status.started, None
        if child.code == 0:
            status.how = next((how for sign, how in _OUTCOMES if sign in said), "run")
            self._schedule.finish(status.target)
            status.state = State.DONE
            if status.how == "run":
                # It decides nothing but the order.
                with suppress(WorldError):
                    self.project.keep_seconds({status.target: round(status.seconds, 1)})
            teller.changed(status, f"{status.how}, {status.seconds:.1f} s")
            return
        exited = _EXITED.findall(said)
        code = int(exited[-1]) if exited else child.code
        status.how = f"exit code {code}"
        self.failures.append(Failure(status, code, child.log, _last_lines(said)))
        self._schedule.fail(status.target)
        for target, state in self._schedule.states.items():
            self.stages[target].state = state
        teller.changed(status, f"failed, {status.how}")

    def require_done(self) -> None:
        """Raise for what has failed.

        Raises:
            CheckFailed, InputError, WorldError: a stage has failed; which of them, the first one's exit code says.
        """
        if not self.failures:
            return
        failed = ", ".join(failure.status.title for failure in self.failures)
        left = sum(status.state is State.LEFT_OUT for status in self.stages.values())
        rest = f"; left out because of that: {counted(left, 'stage')}" if left else ""
        raise self.failures[0].error(
            f"{counted(len(self.failures), 'stage')} failed: {failed}{rest}; what is done is kept, and the same command goes on"
        )


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _last_lines(said: str) -> tuple[str, ...]:
    lines = [clean(line.rstrip()) for line in re.split(r"[\r\n]+", said)]
    return tuple([line for line in lines if line][-_TAIL_LINES:])

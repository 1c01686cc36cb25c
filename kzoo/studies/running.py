"""Carry out the stages of a study."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from kzoo.environment import environment_class, tell_difference
from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.locking import held
from kzoo.studies.design import Cluster, Progress, Run
from kzoo.studies.params import Study
from kzoo.studies.stages import ENVIRONMENT, Stage, stage_module

OUT, JOBS, SCHEDULER = "out", "KZOO_JOBS", "KZOO_SCHEDULER"
#: Says that a folder is a study's to write into.
_MARK = ".kzoo-study"
_PATIENCE = 1.0


def run_stages(
    study: Study,
    stages: Sequence[Stage],
    out: Path | None = None,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    progress: Progress = lambda _what, _done: None,
    say: Callable[[str], None] = lambda _text: None,
) -> Path:
    """Carry stages out, in their order, and give the folder of the results: ``out`` beside ``params.yaml`` unless named.

    ``jobs`` processes work at once: by default ``KZOO_JOBS``, or as many as there are cores. With a ``scheduler`` (by
    default ``KZOO_SCHEDULER``), the workers of that dask cluster do: its address, or ``local``.

    Raises:
        InputError: something that a stage needs is missing or wrong.
        CheckFailed: a file is not the one that was named.
        WorldError: the disk fails, or a process is ended from outside, or the scheduler does not answer.
    """
    run = study_run(study, out, jobs or default_jobs(), progress, say)
    if out is not None:
        _require_own(run.out)
    if any(stage.computes for stage in stages):
        tell_difference(study.folder / ENVIRONMENT, environment_class())
    with _cluster(scheduler or os.environ.get(SCHEDULER, ""), run) as cluster, _alone(run, stages):
        for stage in stages:
            stage_module(stage).carry_out(replace(run, cluster=cluster))
    return study.folder / OUT if out is None else out


def study_run(
    study: Study,
    out: Path | None = None,
    jobs: int = 1,
    progress: Progress = lambda _what, _done: None,
    say: Callable[[str], None] = lambda _text: None,
) -> Run:
    """What the stages of a study are given."""
    base = study.folder.resolve()
    where = base / OUT if out is None else out.resolve()
    return Run(base, where, study.profile_name, study.profile, jobs, progress, say)


def _require_own(out: Path) -> None:
    """Refuse a folder that holds other things than results of a study: stages replace what is in it.

    Raises:
        InputError: it does, or is no folder.
        WorldError: it cannot be written.
    """
    mark = out / _MARK
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is no folder: give another place for the results")
    if out.is_dir() and any(out.iterdir()) and not mark.exists():
        raise InputError(
            f"{out} holds other things than a study's results, which would be replaced: give another folder"
        )
    with replacing(mark) as temporary:
        temporary.write_text(
            "Results of a study of kzoo; its stages replace what is in this folder.\n", encoding="utf-8"
        )


@contextmanager
def _alone(run: Run, stages: Sequence[Stage]) -> Iterator[None]:
    """Keep others from running these stages into the same folder, and leave no empty folder of work.

    Other stages of the study may be under way: whoever starts them knows that they need none of these.

    Raises:
        WorldError: somebody else does already.
    """
    busy = f"another kzoo is writing into {run.out}: wait until it is done, or give another folder (--out)"
    with ExitStack() as locks:
        for stage in stages:
            file = run.work.with_name(f"{run.work.name}.{stage.name}.lock")
            locks.enter_context(held(file, busy, str(run.work.parent), _PATIENCE))
        try:
            yield
        finally:
            # That of another stage is not empty.
            with suppress(OSError):
                run.work.rmdir()


@contextmanager
def _cluster(scheduler: str, run: Run) -> Iterator[Cluster | None]:
    """The cluster at an address, left at the end; None where no address is given.

    Raises:
        InputError: it is no address.
    """
    if not scheduler:
        yield None
        return
    from kzoo.studies.cluster import DaskCluster

    cluster = DaskCluster(scheduler, run.jobs, run.say)
    try:
        yield cluster
    finally:
        cluster.close()


def default_jobs() -> int:
    """``KZOO_JOBS``, else as many as there are cores for this process."""
    text = os.environ.get(JOBS, "")
    if text and not (text.isdecimal() and int(text) >= 1):
        raise InputError(f"{JOBS} is {text!r:.40}: expected a whole number of 1 or more")
    return int(text) if text else len(os.sched_getaffinity(0))

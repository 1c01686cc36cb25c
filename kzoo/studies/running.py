"""Carry out the stages of a study."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.studies.design import Progress, Run
from kzoo.studies.environment import environment_class, tell_difference
from kzoo.studies.params import Study
from kzoo.studies.stages import ENVIRONMENT, Stage, stage_module

OUT, JOBS = "out", "KZOO_JOBS"


def run_stages(
    study: Study,
    stages: Sequence[Stage],
    out: Path | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = lambda _what, _done: None,
    say: Callable[[str], None] = lambda _text: None,
) -> Path:
    """Carry stages out, in their order, and give the folder of the results: ``out`` beside ``params.yaml`` unless named.

    ``jobs`` processes work at once: by default ``KZOO_JOBS``, or as many as there are cores.

    Raises:
        InputError: something that a stage needs is missing or wrong.
        CheckFailed: a file is not the one that was named.
        WorldError: the disk fails, or a process is ended from outside.
    """
    where = study.folder / OUT if out is None else out
    run = Run(study.folder, where, study.profile_name, study.profile, jobs or _default_jobs(), progress, say)
    if any(stage.computes for stage in stages):
        tell_difference(study.folder / ENVIRONMENT, environment_class())
    for stage in stages:
        stage_module(stage).carry_out(run)
    if run.work.is_dir() and not any(run.work.iterdir()):
        shutil.rmtree(run.work)
    return where


def _default_jobs() -> int:
    """``KZOO_JOBS``, else as many as there are cores for this process."""
    text = os.environ.get(JOBS, "")
    if text and not (text.isdecimal() and int(text) >= 1):
        raise InputError(f"{JOBS} is {text!r:.40}: expected a whole number of 1 or more")
    return int(text) if text else len(os.sched_getaffinity(0))


def write_environment(path: Path) -> dict[str, str]:
    """Write the class of this machine as ``environment.yaml``, and give it."""
    from kzoo.studies.environment import environment_text

    found = environment_class()
    with replacing(path) as temporary:
        temporary.write_text(environment_text(found), encoding="utf-8")
    return found

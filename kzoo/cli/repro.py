"""``kzoo repro``: the stages of the papers' pipelines side by side."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from kzoo.cli.common import as_json, hint, print_json, print_table
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.repro.running import Reproduction

_USUAL = 2


@click.command(epilog="\b\nExamples:\n  kzoo repro -j 2\n  kzoo repro dpiat net2net -j 2\n  kzoo repro --gpus 0,1")
@click.argument("papers", nargs=-1, metavar="[PAPER]...")
@click.option(
    "-j",
    "at_once",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stages at once: by default as many as GPUs are named, or 2.",
)
@click.option(
    "--gpus", metavar="N,N...", help="GPUs as 'nvidia-smi -L' numbers them; each stage under way has one of its own."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Trainings at once, of all stages together; by default KZOO_JOBS, or as many as there are cores.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The repository; without it, the one around this folder.",
)
@as_json
def repro(
    papers: tuple[str, ...],
    at_once: int | None,
    gpus: str | None,
    jobs: int | None,
    root: Path | None,
    as_json: bool,
) -> None:
    """Run what has changed of the papers' pipelines, independent stages side by side.

    PAPER is a folder of pipelines; without one, all papers, the index and the report. Each stage is run by 'dvc repro',
    which alone would run one after the other and gives the same results. A stage that fails keeps those that need it from
    being started, and no others; what is done is kept, and the same command goes on after any interruption.
    """
    from kzoo.repro.gpus import read_gpus
    from kzoo.repro.project import open_project
    from kzoo.repro.running import Reproduction, Resources
    from kzoo.studies.running import default_jobs

    project = open_project(Path() if root is None else root)
    targets = project.graph.of_papers(papers)
    named = () if gpus is None else read_gpus(gpus)
    count = at_once or len(named) or _USUAL
    if named and count > len(named):
        raise InputError(
            f"-j {count} with {len(named)} GPUs: each stage gets a GPU of its own, so at most as many run at once"
        )
    processes = jobs or default_jobs()
    # The process of a stage trains, too.
    count = count if named else min(count, processes)
    run = Reproduction(project, targets, Resources(count, processes, named))
    columns = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    with _ended_by_signals():
        run.run(_tell, columns)
    if as_json:
        print_json(run.to_dict())
    else:
        _show(run)
    run.require_done()


def _tell(text: str) -> None:
    # Somebody who reads no further is no reason to stop stages that are under way.
    with suppress(OSError):
        click.echo(text, err=True, nl=False)


def _show(run: Reproduction) -> None:
    rows = [
        (stage.title, stage.how or stage.state.value, f"{stage.seconds:.1f}" if stage.seconds else "-")
        for stage in run.stages.values()
    ]
    print_table(rows, ("stage", "what was done", "seconds"), right=("seconds",))
    for failure in run.failures:
        hint(f"\n{failure.status.title} failed; the last lines of {os.path.relpath(failure.log)}:")
        hint("\n".join(f"  {line}" for line in failure.tail))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal that would end this process at once end it by an exception, so that nothing is left running."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    # What nohup has told this process to ignore stays ignored.
    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

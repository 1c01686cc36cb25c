"""What is told of stages while they run: one table that is rewritten on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kzoo.plots.text import clean, shorten
from kzoo.repro.schedule import State

_PERCENT = re.compile(r"^[^:]{1,60}: +(\d{1,3})%")
_EVERY = 0.25


@dataclass
class StageStatus:
    """A stage as it is shown; ``how`` is what DVC did, or why the stage failed."""

    target: str
    paper: str
    name: str
    state: State = State.WAITING
    how: str = ""
    percent: int | None = None
    started: float = 0.0
    seconds: float = 0.0
    gpu: str | None = None

    @property
    def title(self) -> str:
        """For a line: paper and stage."""
        return self.name if self.name == self.paper else f"{self.paper} {self.name}"


def percent_in(said: str) -> int | None:
    """How far a stage is, by the last line of kzoo's that says it."""
    for line in reversed(re.split(r"[\r\n]+", said)):
        found = _PERCENT.match(line)
        if found:
            return min(int(found[1]), 100)
    return None


def duration(seconds: float) -> str:
    """``1:05``, or ``1:00:05`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def table(stages: Sequence[StageStatus], now: float, since: float) -> list[str]:
    """The lines of the table: a paper each with what is done and what is under way, and all in one."""
    papers: dict[str, list[StageStatus]] = {}
    for stage in stages:
        papers.setdefault(stage.paper, []).append(stage)
    width = max(len(paper) for paper in papers)
    lines = [f"{'paper':<{width}}  {'done':>5}  now"]
    for paper, group in papers.items():
        done = sum(stage.state is State.DONE for stage in group)
        lines.append(f"{paper:<{width}}  {f'{done}/{len(group)}':>5}  {_now(group, now)}")
    return [*lines, f"{_counts(stages)}, {duration(now - since)}"]


def _now(group: Sequence[StageStatus], now: float) -> str:
    told = [f"{stage.name} failed" for stage in group if stage.state is State.FAILED]
    for stage in group:
        if stage.state is State.RUNNING:
            percent = "" if stage.percent is None else f" {stage.percent}%"
            gpu = "" if stage.gpu is None else f" on GPU {stage.gpu}"
            told.append(f"{stage.name}{percent}{gpu}, {duration(now - stage.started)}")
    if told:
        return "; ".join(told)
    if all(stage.state is State.DONE for stage in group):
        return f"done, {duration(sum(stage.seconds for stage in group))}"
    return "left out" if any(stage.state is State.LEFT_OUT for stage in group) else "waits"


def _counts(stages: Sequence[StageStatus]) -> str:
    count = {state: sum(stage.state is state for stage in stages) for state in State}
    text = f"{count[State.DONE]} of {len(stages)} stages done, {count[State.RUNNING]} under way"
    return text + (f", {count[State.FAILED]} failed" if count[State.FAILED] else "")


class Teller:
    """Tells of stages by ``write``, which gets text for a terminal of ``columns``, or lines where that is None."""

    def __init__(
        self,
        stages: Sequence[StageStatus],
        write: Callable[[str], None],
        columns: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages, self._write, self._columns, self._clock = stages, write, columns, clock
        self._since = clock()
        self._shown: list[str] = []
        self._last = -_EVERY

    @property
    def wants_percent(self) -> bool:
        """Whether anybody would see how far a stage is, and sees it now."""
        return self._columns is not None and self._clock() - self._last >= _EVERY

    def changed(self, stage: StageStatus, what: str) -> None:
        """A stage has begun, or has ended; ``what`` says so."""
        if self._columns is None:
            self._write(
                f"{duration(self._clock() - self._since)} {clean(stage.title)}: {what} ({_counts(self._stages)})\n"
            )
        else:
            self._last = -_EVERY
            self.tick()

    def tick(self) -> None:
        """Time goes by: rewrite the table, now and then."""
        now = self._clock()
        if self._columns is None or now - self._last < _EVERY:
            return
        self._last = now
        lines = [shorten(line, self._columns - 1) for line in table(self._stages, now, self._since)]
        if lines != self._shown:
            up = f"\x1b[{len(self._shown)}F" if self._shown else ""
            self._write(up + "".join(f"\x1b[K{line}\n" for line in lines))
            self._shown = lines

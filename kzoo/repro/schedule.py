"""Which stage is started next, and what becomes of those that need one that failed. Plain data, without processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from kzoo.repro.stage_graph import StageGraph, chains


class State(Enum):
    """Where a stage is; `LEFT_OUT` are those that need one that failed."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LEFT_OUT = "not started"


class Schedule:
    """The states of the stages ``targets`` of a graph; ``seconds`` is what single stages took the last time."""

    def __init__(self, graph: StageGraph, targets: Iterable[str], seconds: Mapping[str, float]) -> None:
        self.graph = graph
        self.states = dict.fromkeys(targets, State.WAITING)
        self._chains = chains(graph, seconds)

    def next(self) -> str | None:
        """The stage to start next: of those whose needs are done, the one with the longest chain of stages behind it."""
        ready = [target for target in self.of(State.WAITING) if self._is_ready(target)]
        return max(ready, key=lambda target: self._chains[target], default=None)

    def of(self, state: State) -> list[str]:
        """The targets in a state."""
        return [target for target, found in self.states.items() if found is state]

    def start(self, target: str) -> None:
        """A stage has been started."""
        self.states[target] = State.RUNNING

    def finish(self, target: str) -> None:
        """A stage is done."""
        self.states[target] = State.DONE

    def fail(self, target: str) -> None:
        """A stage has failed: what needs it is left out."""
        self.states[target] = State.FAILED
        pending = list(self.graph.after[target])
        while pending:
            other = pending.pop()
            if self.states.get(other) is State.WAITING:
                self.states[other] = State.LEFT_OUT
                pending += self.graph.after[other]

    def _is_ready(self, target: str) -> bool:
        # What is not to be reproduced is taken as it is.
        return all(self.states.get(other, State.DONE) is State.DONE for other in self.graph.before[target])

"""The stages of all ``dvc.yaml`` files as a graph: which must be done before which. Plain data, without DVC."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from kzoo.errors import InputError
from kzoo.faults import nearest

#: The name of a file of stages, and the folder that holds the papers.
FILE, PIPELINES = "dvc.yaml", "pipelines"


@dataclass(frozen=True)
class StageNode:
    """A stage: ``folder`` is that of its file seen from the root (``""`` there), and so are ``deps`` and ``outs``."""

    folder: str
    name: str
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """What DVC calls it."""
        return f"{self.folder}/{FILE}:{self.name}" if self.folder else self.name

    @property
    def paper(self) -> str:
        """The paper it belongs to; of a stage at the root, its own name."""
        return PurePosixPath(self.folder).name or self.name


@dataclass(frozen=True)
class StageGraph:
    """Stages by target, papers between what they need and what is made of them, and the targets that each needs and is needed by."""

    stages: Mapping[str, StageNode]
    before: Mapping[str, tuple[str, ...]]
    after: Mapping[str, tuple[str, ...]]

    @property
    def papers(self) -> list[str]:
        """The names of the papers, sorted."""
        return sorted({stage.paper for stage in self.stages.values() if stage.folder})

    def of_papers(self, papers: Sequence[str]) -> list[str]:
        """The targets of papers with all that they need, or all targets where no paper is named.

        Raises:
            InputError: there is no paper of that name.
        """
        if not papers:
            return list(self.stages)
        for paper in papers:
            if paper not in self.papers:
                raise InputError(
                    f"{paper!r:.80} is no paper with a {FILE} in {PIPELINES}; nearest: {nearest(paper, self.papers)}"
                )
        wanted = [target for target, stage in self.stages.items() if stage.folder and stage.paper in papers]
        found = set(wanted)
        while wanted:
            new = [target for target in self.before[wanted.pop()] if target not in found]
            found.update(new)
            wanted += new
        return [target for target in self.stages if target in found]


def stage_graph(files: Mapping[str, Any]) -> StageGraph:
    """The graph of the stages in ``files``, which are the contents of ``dvc.yaml`` by folder (``""`` is the root).

    Raises:
        InputError: a file holds something else, a stage that DVC would make others of (``foreach``, ``matrix``), two
            stages that write one place, or stages that need each other in a circle.
    """
    nodes = [node for folder, data in files.items() for node in _stages(folder, data)]
    stages = {node.target: node for node in nodes}
    writers: dict[str, str] = {}
    for node in nodes:
        for out in node.outs:
            if out in writers:
                raise InputError(f"{out} is written by {writers[out]} and by {node.target}: one of them must not")
            writers[out] = node.target
    before = {node.target: _needed(node, writers) for node in nodes}
    # For people: the papers stand between what they need and what is made of them.
    stages = dict(sorted(stages.items(), key=lambda item: 1 if item[1].folder else 2 if before[item[0]] else 0))
    after: dict[str, list[str]] = {target: [] for target in stages}
    for target, needed in before.items():
        for other in needed:
            after[other].append(target)
    graph = StageGraph(stages, before, {target: tuple(others) for target, others in after.items()})
    in_order(graph)
    return graph


def in_order(graph: StageGraph) -> list[str]:
    """All targets, none before one that it needs.

    Raises:
        InputError: there is no such order.
    """
    missing = {target: len(needed) for target, needed in graph.before.items()}
    order = [target for target, count in missing.items() if count == 0]
    for target in order:
        for other in graph.after[target]:
            missing[other] -= 1
            if missing[other] == 0:
                order.append(other)
    stuck = [target for target in graph.stages if missing[target] > 0]
    if stuck:
        raise InputError(f"stages need each other in a circle, so none can be the first: {', '.join(stuck)}")
    return order


def chains(graph: StageGraph, seconds: Mapping[str, float]) -> dict[str, float]:
    """For each target the time from its start to the end of the longest chain of stages that begins with it.

    ``seconds`` are the times of single stages; those of the others are taken for the mean of these, or 1.
    """
    usual = sum(seconds.values()) / len(seconds) if seconds else 1.0
    found: dict[str, float] = {}
    for target in reversed(in_order(graph)):
        rest = max((found[other] for other in graph.after[target]), default=0.0)
        found[target] = seconds.get(target, usual) + rest
    return found


def _stages(folder: str, data: Any) -> list[StageNode]:
    where = posixpath.join(folder, FILE)
    stages = data.get("stages") if isinstance(data, dict) else None
    if not isinstance(stages, dict):
        raise InputError(f"{where}: expected stages, as 'make wiring' writes them")
    return [_stage(folder, where, str(name), fields) for name, fields in stages.items()]


def _stage(folder: str, where: str, name: str, fields: Any) -> StageNode:
    if not isinstance(fields, dict) or "cmd" not in fields:
        raise InputError(
            f"{where}: the stage {name!r:.80} has no cmd of its own (foreach, matrix?), which only 'dvc repro' can run"
        )
    base = posixpath.join(folder, _text(where, name, fields.get("wdir", ".")))
    deps, outs = (_paths(fields.get(key), base, where, name) for key in ("deps", "outs"))
    # Of parameters, those with a file of their own are texts that lead to names.
    files = [entry for entry in fields.get("params") or () if isinstance(entry, dict)]
    deps += _paths(files, base, where, name)
    written = [path for key in ("metrics", "plots") for path in _paths(fields.get(key), base, where, name)]
    return StageNode(folder, name, tuple(deps), tuple(dict.fromkeys((*outs, *written))))


def _paths(entries: Any, base: str, where: str, name: str) -> list[str]:
    """Paths as DVC writes them: a text, or one that leads to settings."""
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise InputError(f"{where}: the stage {name!r:.80}: expected lists of paths")
    texts = [next(iter(entry), None) if isinstance(entry, dict) else entry for entry in entries]
    return [posixpath.normpath(posixpath.join(base, _text(where, name, text))) for text in texts]


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: the stage {name!r:.80}: {value!r:.80} is no path")
    return value


def _needed(node: StageNode, writers: Mapping[str, str]) -> tuple[str, ...]:
    """The targets that write what a stage reads: the place itself, one above it or one below."""
    found = []
    for dep in node.deps:
        found += [writers[path] for path in _with_parents(dep) if path in writers]
        found += [target for out, target in writers.items() if out.startswith(f"{dep}/")]
    return tuple(dict.fromkeys(target for target in found if target != node.target))


def _with_parents(path: str) -> Iterable[str]:
    return (path, *(str(parent) for parent in PurePosixPath(path).parents))

"""What the code of modules does not follow when channels grow, found by running them.

Most modules take sizes from their weights or from attributes that `kzoo.graph.attributes` renews. Where a wider network
fails or gives other outputs, `Limits.relent` asks less of the first module that went wrong, and the caller tries again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

from torch import nn

from kzoo.errors import InputError
from kzoo.graph import Axis, ChannelGraph, groups_of
from kzoo.graph.attributes import ambiguous_attributes
from kzoo.methods.checking import Difference

#: Of so few sets in a module each is stopped alone.
_MOST_ALONE = 4
#: Of so many attributes that could mean several sizes pairs and triples are kept.
_MOST_UNSURE = 5


@dataclass(frozen=True)
class Step:
    """Less to ask of the module at ``path``.

    ``keep``: the attributes ``names`` of all modules of its class stay. ``join``: in each module of its class all groups
    grow by one whole number. ``stop one``: the one ``group`` stays; ``stop local``: those that are in no other module;
    ``stop all``: all that it handles.
    """

    path: str
    kind: Literal["keep", "join", "stop one", "stop local", "stop all"]
    names: tuple[str, ...] = ()
    group: int = -1

    @property
    def is_trial(self) -> bool:
        """Whether the step is a guess, to be taken back where it does not help."""
        return self.kind not in ("stop local", "stop all")


@dataclass
class Limits:
    """The attributes that stay (by path and name), groups that grow together (by path), and groups that stay, and why."""

    kept: set[tuple[str, str]] = field(default_factory=set)
    joined: dict[str, set[int]] = field(default_factory=dict)
    stopped: dict[int, str] = field(default_factory=dict)
    tried: set[Step] = field(default_factory=set)
    trial: Step | None = None

    def stop(self, axes: Iterable[Axis], reason: str) -> None:
        """All groups in these axes stay."""
        self.stopped.update({group.index: reason for axis in axes for group in groups_of(axis)})

    def relent(self, module: nn.Module, graph: ChannelGraph, sizes: Mapping[int, int], found: Difference) -> None:
        """Take the next step, at the module that went wrong when groups grew to ``sizes``, or at one around it.

        Raises:
            InputError: there is no step left.
        """
        path, why = found.module, found.failed or "its outputs change"
        if self.trial is not None and f"{path}.".startswith(f"{self.trial.path}."):
            path = self.trial.path
            self._take_back(module, self.trial)
        reason = f"{found.module or 'the network'} does not follow: {why}"
        for place in _outwards(path):
            for step in _steps(module, graph, sizes, place):
                if step in self.tried:
                    continue
                self._remember(module, step)
                if self._take(module, graph, sizes, step, reason):
                    self.trial = step if step.is_trial else None
                    return
        raise InputError(f"{type(module).__name__} cannot be widened: {why}")

    def _remember(self, module: nn.Module, step: Step) -> None:
        """A step is tried once; attributes kept together, once for all modules of the class."""
        paths = _alike(module, step.path) if len(step.names) > 1 else [step.path]
        self.tried |= {replace(step, path=path) for path in paths}

    def _take(self, module: nn.Module, graph: ChannelGraph, sizes: Mapping[int, int], step: Step, reason: str) -> bool:
        """Take a step; whether that changes anything."""
        if step.kind == "keep":
            self.kept |= {(path, name) for path in _alike(module, step.path) for name in step.names}
            return True
        if step.kind == "join":
            found = {path: _inside(graph, path) & sizes.keys() for path in _alike(module, step.path)}
            self.joined = {path: groups for path, groups in found.items() if len(groups) > 1} | self.joined
            return len(found[step.path]) > 1
        groups = _inside(graph, step.path) & sizes.keys()
        if step.kind == "stop one":
            groups = {step.group}
        elif step.kind == "stop local":
            groups = {group for group in groups if _is_local(graph, group, step.path)}
        self.stopped.update(dict.fromkeys(sorted(groups), reason))
        return bool(groups)

    def _take_back(self, module: nn.Module, step: Step) -> None:
        if step.kind == "keep":
            self.kept -= {(path, name) for path in _alike(module, step.path) for name in step.names}
        elif step.kind == "join":
            for path in _alike(module, step.path):
                self.joined.pop(path, None)
        else:
            self.stopped.pop(step.group, None)


def _steps(module: nn.Module, graph: ChannelGraph, sizes: Mapping[int, int], path: str) -> Iterator[Step]:
    """All that can be asked less of the module at a path, from the least to the most."""
    unsure = ambiguous_attributes(module, graph, sizes, path)
    for name in unsure:
        yield Step(path, "keep", (name,))
    yield Step(path, "join")
    for count in (2, 3):
        for names in combinations(unsure[:_MOST_UNSURE], count):
            yield Step(path, "keep", names)
    yield Step(path, "stop local")
    inside = sorted(_inside(graph, path) & sizes.keys())
    if 1 < len(inside) <= _MOST_ALONE:
        for group in inside:
            yield Step(path, "stop one", group=group)
    yield Step(path, "stop all")


def _outwards(path: str) -> Iterator[str]:
    """The path, and those of the modules around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _alike(module: nn.Module, path: str) -> list[str]:
    """The paths of the modules of one class, which have one code."""
    kind = type(module.get_submodule(path))
    return [other for other, part in module.named_modules() if type(part) is kind]


def _inside(graph: ChannelGraph, path: str) -> set[int]:
    """The groups that a module and those in it handle."""
    prefix = f"{path}." if path else ""
    return {
        group.index
        for place, axes in graph.seen.items()
        if place == path or (path and place.startswith(prefix))
        for axis in axes
        for group in groups_of(axis)
    }


def _is_local(graph: ChannelGraph, group: int, path: str) -> bool:
    return all(name.startswith(f"{path}.") for name, _ in graph.members(group))

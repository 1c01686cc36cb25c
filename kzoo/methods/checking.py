"""Two networks that should compute the same: where and how far their outputs differ."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.building import seeded
from kzoo.training.evaluation import evaluation_mode


@dataclass(frozen=True)
class Difference:
    """The ``largest`` relative difference of the outputs; ``module`` is the first one that differs or failed, and why."""

    largest: float = 0.0
    module: str = ""
    failed: str | None = None


@dataclass(frozen=True)
class Run:
    """What a network gave: its ``outputs``, the extremes of what its modules gave, or where and why it ``failed``."""

    outputs: list[Tensor]
    extremes: dict[str, list[tuple[float, float]]]
    failed: tuple[str, str] | None = None

    @classmethod
    def of(cls, module: nn.Module, example: Sequence[Any], values: bool = True) -> Run:
        """Run ``module`` in evaluation mode on the example; without ``values`` only whether it runs is kept."""
        running: list[str] = []
        extremes: dict[str, list[tuple[float, float]]] = {}
        try:
            with (
                evaluation_mode(module),
                torch.no_grad(),
                seeded(0),
                _watched(module, running, extremes if values else None),
            ):
                found = list(tensors_in(module(*copy.deepcopy(tuple(example)))))
            return cls(found if values else [], extremes)
        except Exception as error:  # whatever a network's own code raises
            return cls([], {}, (running[-1] if running else "", " ".join(str(error).split())[:200]))


def compare(before: Run, after: Run) -> Difference:
    """How far two runs on the same example are apart."""
    if after.failed is not None:
        return Difference(float("inf"), *after.failed)
    return Difference(relative_difference(before.outputs, after.outputs), _first_apart(before.extremes, after.extremes))


def relative_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest absolute difference over the largest absolute value; infinite where shapes or finiteness differ."""
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return float("inf")
    worst = 0.0
    for left, right in zip(one, other, strict=True):
        if not left.numel():
            continue
        left, right = left.double(), right.double()
        found = float((left - right).abs().max() / left.abs().max().clamp(min=1e-30))
        worst = max(worst, found) if found == found else float("inf")
    return worst


def tensors_in(found: Any) -> Iterator[Tensor]:
    """The tensors in what a network gives."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict):
        for item in found.values():
            yield from tensors_in(item)
    elif isinstance(found, (list, tuple)):
        for item in found:
            yield from tensors_in(item)


@contextmanager
def _watched(
    module: nn.Module, running: list[str], seen: dict[str, list[tuple[float, float]]] | None
) -> Iterator[None]:
    """Keep the paths of the modules that run, and the extremes of what each gives."""
    handles = []
    for path, part in module.named_modules():

        def enter(_: nn.Module, __: Any, path: str = path) -> None:
            running.append(path)

        def leave(_: nn.Module, __: Any, found: Any, path: str = path) -> None:
            running.pop()
            for tensor in tensors_in(found) if seen is not None else ():
                if seen is not None and tensor.is_floating_point() and tensor.numel():
                    seen.setdefault(path, []).append((float(tensor.min()), float(tensor.max())))

        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_apart(before: dict[str, list[tuple[float, float]]], after: dict[str, list[tuple[float, float]]]) -> str:
    """The first module whose outputs have other extremes: copies change none."""
    for path, theirs in before.items():
        for (low, high), (new_low, new_high) in zip(theirs, after.get(path, []), strict=False):
            size = max(abs(low), abs(high), 1e-30)
            if max(abs(low - new_low), abs(high - new_high)) > 1e-4 * size:
                return path
    return ""

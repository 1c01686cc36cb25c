"""Fusion layer by layer, in the order of the network: each layer is solved for what the fused network gives it by then.

RegMean solves every layer for the inputs that it has in the parents; but behind a fused layer inputs are others, and errors
add up with depth. Here a layer takes what the fused layers before it give on each parent's images, and is to give what that
parent's layer gives on them: least squares, in closed form, one pass for each layer. That is no method of a paper; it needs
images of every parent (no labels), where RegMean needs their Grams alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from kzoo.edits import copied
from kzoo.errors import InputError
from kzoo.loading import load_values
from kzoo.methods.dils import one_thread
from kzoo.methods.fusion.rules import average
from kzoo.methods.fusion.states import fuse_states, module_roles
from kzoo.methods.least_squares import HELD, MOST_INPUTS, Sums, rows_of
from kzoo.training.evaluation import evaluation_mode, place

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Call = tuple[Tensor, Tensor]
#: Outputs of the parents' layers of up to so many bytes are kept, others computed anew.
_HELD_BYTES = 512 << 20


@torch.no_grad()
def fuse_layerwise(
    modules: Sequence[nn.Module],
    images: Sequence[Tensor],
    *,
    start: Mapping[str, Tensor] | None = None,
    ridge: float = 1e-4,
    batch: int = 64,
) -> dict[str, Tensor]:
    """The state dict of the fused network, in the first parent's types; all run in evaluation mode and stay as they are.

    ``images`` are N x C x H x W of each parent, ready for the networks; more images of a parent count more. ``start`` is
    what the layers are solved from, the average by default: norms, embeddings, layers of more than 16,384 inputs and such as
    share a weight keep it, and ``ridge``, relative to the mean of a Gram's diagonal, is what deviations from it cost. Fold batch normalisation
    before: its statistics are those of the start.

    Raises:
        InputError: there are not as many collections of images as parents, one is empty, or the ridge is negative.
    """
    if len(images) != len(modules) or not all(len(some) for some in images):
        raise InputError(
            f"there are {len(modules)} parents and images for {sum(len(some) > 0 for some in images)}: give some of each"
        )
    if not 0 <= ridge < float("inf"):
        raise InputError(f"ridge={ridge:g} is not possible: expected 0 or more")
    states = [module.state_dict() for module in modules]
    fused = copied(modules[0]).eval()
    load_values(fused, start or fuse_states(states, average(), roles=module_roles(modules[0])))
    given = [torch.split(some.to(*place(module)), batch) for module, some in zip(modules, images, strict=True)]
    with one_thread(), ExitStack() as modes:
        for module in modules:
            modes.enter_context(evaluation_mode(module))
        runs, size = _layers(fused, given[0][0][:1])
        wanted = _Wanted(modules, given, runs, keep=size * sum(map(len, images)) <= _HELD_BYTES)
        for name, times in runs.items():
            layer = fused.get_submodule(name)
            assert isinstance(layer, (nn.Linear, *_CONVOLUTIONS))
            sums = _Solver(layer)
            for number, parts in enumerate(given):
                for place_of, part in enumerate(parts):
                    taken = [inputs for inputs, _ in _calls(fused, {name: times}, part)[name]]
                    sums.add(taken, wanted.outputs(name, number, place_of))
            sums.solve(ridge)
    return {name: tensor.to(states[0][name].dtype) for name, tensor in fused.state_dict().items()}


def _layers(module: nn.Module, image: Tensor) -> tuple[dict[str, int], int]:
    """The layers that are solved, in the order in which they first run, how often each runs, and the bytes that they give."""
    runs: dict[str, int] = {}
    size = 0
    owners = Counter(id(tensor) for part in module.modules() for _, tensor in part.named_parameters(recurse=False))

    def count(name: str, output: Tensor) -> None:
        nonlocal size
        runs[name] = runs.get(name, 0) + 1
        size += output.nbytes

    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: count(name, output))
        for name, part in module.named_modules()
        if isinstance(part, (nn.Linear, *_CONVOLUTIONS))
        and part.weight[0].numel() <= MOST_INPUTS
        # Solved for one layer, a weight that others have too would be wrong for them.
        and owners[id(part.weight)] == 1
    ]
    try:
        module(image)
    finally:
        for handle in handles:
            handle.remove()
    return runs, size


class _SeenAll(Exception):
    """Every layer has run as often as it does."""


def _calls(module: nn.Module, runs: Mapping[str, int], images: Tensor) -> dict[str, list[_Call]]:
    """What layers take and give, each time that they run; the network runs no further than the last of them."""
    seen: dict[str, list[_Call]] = {name: [] for name in runs}
    left = sum(runs.values())

    def see(name: str, taken: Tensor, output: Tensor) -> None:
        nonlocal left
        # What comes next may work in place.
        seen[name].append((taken.detach().clone(), output.detach().clone()))
        left -= 1
        if not left:
            raise _SeenAll

    handles = [
        module.get_submodule(name).register_forward_hook(
            lambda _, taken, output, name=name: see(name, taken[0], output)
        )
        for name in runs
    ]
    try:
        module(images)
    except _SeenAll:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


class _Wanted:
    """What the parents' layers give, batch by batch: kept of one run where there is room for it, else computed anew."""

    def __init__(
        self, modules: Sequence[nn.Module], given: Sequence[Sequence[Tensor]], runs: Mapping[str, int], keep: bool
    ) -> None:
        self.modules, self.given, self.runs = modules, given, runs
        self.kept: dict[tuple[int, int], dict[str, list[Tensor]]] | None = {} if keep else None

    def outputs(self, name: str, number: int, batch: int) -> list[Tensor]:
        """Those of a layer of the parent of that number, each time that it runs, for one of its batches."""
        if self.kept is None:
            return self._computed({name: self.runs[name]}, number, batch)[name]
        if (number, batch) not in self.kept:
            self.kept[number, batch] = self._computed(self.runs, number, batch)
        return self.kept[number, batch].pop(name)

    def _computed(self, runs: Mapping[str, int], number: int, batch: int) -> dict[str, list[Tensor]]:
        found = _calls(self.modules[number], runs, self.given[number][batch])
        return {name: [output for _, output in each] for name, each in found.items()}


class _Solver:
    """Least squares of one layer, group by group."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        self.layer = layer
        self.groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        self.width, self.outputs = layer.weight[0].numel(), len(layer.weight) // self.groups
        self.sums = [Sums(self.width, self.outputs) for _ in range(self.groups)]

    def add(self, taken: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
        """Inputs of the fused layer, and outputs of the parent's."""
        for inputs, outputs in zip(taken, wanted, strict=True):
            each = outputs[:1].numel() // len(self.layer.weight) * self.groups * self.width
            step = max(HELD // max(each, 1), 1)
            for some, goal in zip(torch.split(inputs, step), torch.split(outputs, step), strict=True):
                axis = -1 if isinstance(self.layer, nn.Linear) else 1
                targets = goal.movedim(axis, -1).reshape(-1, self.groups, self.outputs).double()
                rows = rows_of(self.layer, some).reshape(-1, self.groups, self.width).double()
                if self.layer.bias is None:
                    # With each row's opposite all means are zero, and nothing is left for an intercept.
                    rows, targets = torch.cat([rows, -rows]), torch.cat([targets, -targets])
                for group, one in enumerate(self.sums):
                    one.add(rows[:, group], targets[:, group])

    def solve(self, ridge: float) -> None:
        """Put the solution into the layer; where inputs do not vary, its weights stay."""
        towards = self.layer.weight.double().cpu().reshape(self.groups, self.outputs, self.width)
        solved = [one.solve(ridge, there) for one, there in zip(self.sums, towards, strict=True)]
        self.layer.weight.copy_(torch.cat([weight for weight, _ in solved]).reshape(self.layer.weight.shape))
        if self.layer.bias is not None:
            self.layer.bias.copy_(torch.cat([bias for _, bias in solved]))

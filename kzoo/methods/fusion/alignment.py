"""Find the permutation of a network's channels that brings its weights, or activations, nearest to another network's.

Networks trained from different starts know the same channels in another order, which has to be undone before weights are
summed. As in Git Re-Basin (arXiv 2209.04836), one set of tied channels after the other is assigned best while the others
are held, until nothing improves; a linear assignment is exact for one set. That search alone can end in a poor place, so it
is started several times: from no permutation, from channels compared by what no permutation of others changes (their sorted
weights, which finds a permuted copy at once), and from random permutations. The best end counts.

Every tensor is divided by its size, so that statistics of large features do not decide alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.graph import Axis, Fixed
from kzoo.methods.fusion.layouts import Box, boxes, permuted, take
from kzoo.methods.fusion.permutations import Permutation, State, Symmetries, identity, permute, random_permutation
from kzoo.training.evaluation import evaluation_mode, place

#: Of what a channel does not share with others so many quantiles are compared.
_QUANTILES = 32
_MOST_SWEEPS = 100
#: An assignment must be better by so much, relative to the whole, to be taken.
_GAIN = 1e-12


@dataclass(frozen=True)
class Alignment:
    """A permutation, and how alike the tensors are with it: 1 for equal ones, about 0 for unrelated ones.

    ``before`` is the same measure without a permutation, ``start`` tells from where the best one was found.
    """

    permutation: dict[int, Tensor]
    similarity: float
    before: float
    start: str


def match_weights(reference: State, state: State, found: Symmetries, *, restarts: int = 1, seed: int = 0) -> Alignment:
    """The permutation of ``state`` that brings it nearest to ``reference``; `permute` carries it out.

    ``found`` are the network's `symmetries`; ``restarts`` random starts are tried beside the two that are not.

    Raises:
        InputError: a tensor is missing, differs in shape, or holds values that are not finite.
    """
    return _match(reference, state, found, found.axes, restarts, seed)


def align_states(
    parents: Sequence[State], found: Symmetries, *, restarts: int = 1, seed: int = 0
) -> tuple[list[State], list[Alignment]]:
    """The parents with their channels in the order of the first one's, by weights; and how each but the first was aligned.

    Raises:
        InputError: a tensor is missing, differs in shape, or holds values that are not finite.
    """
    alignments = [match_weights(parents[0], parent, found, restarts=restarts, seed=seed) for parent in parents[1:]]
    moved = [permute(parent, found, one.permutation) for parent, one in zip(parents[1:], alignments, strict=True)]
    return [parents[0], *moved], alignments


def match_activations(
    reference: nn.Module, module: nn.Module, found: Symmetries, images: Tensor, *, restarts: int = 1, seed: int = 0
) -> Alignment:
    """Like `match_weights`, by what the layers of both networks give for the same images (N x C x H x W).

    Channels in which no layer ends, as the width of a residual stream's positions, are matched by weights.

    Raises:
        InputError: there are no images, or the networks differ.
    """
    one, other = (_activations(part, found, images, seed) for part in (reference, module))
    axes: dict[str, Sequence[Axis]] = {
        name: (axis, Fixed(one[name].shape[1])) for name, axis in _ends(reference, found).items() if name in one
    }
    seen = {side.group for layout in axes.values() for box in boxes(layout) for side in box.sides}
    rest = {
        name: layout
        for name, layout in found.axes.items()
        if any(side.group in found.sets and side.group not in seen for box in boxes(layout) for side in box.sides)
    }
    left, right = reference.state_dict(), module.state_dict()
    return _match(
        one | {name: left[name] for name in rest},
        {**other} | {name: right[name] for name in rest},
        found,
        {**axes, **rest},
        restarts,
        seed,
    )


def _match(
    reference: State, state: State, found: Symmetries, axes: Mapping[str, Sequence[Axis]], restarts: int, seed: int
) -> Alignment:
    with torch.no_grad():
        search = _Search(found, _pairs(reference, state, found, axes))
        start = identity(found)
        before = search.value(start)
        best, value, origin = start, before, "identity"
        starts = [("profile", search.by_profile(start)), ("identity", start)]
        for number in range(restarts):
            starts.append((f"random {seed + number}", random_permutation(found, seed + number)))
        for name, given in starts:
            if search.is_best(value):
                break
            ended = given if search.is_best(search.value(given)) else search.improved(given, seed)
            reached = search.value(ended)
            if reached > value + _GAIN * search.most:
                best, value, origin = ended, reached, name
    size = search.most or 1.0
    return Alignment(best, value / size, before / size, origin)


@dataclass
class _Pair:
    """The same box of both networks."""

    box: Box
    one: Tensor
    other: Tensor
    groups: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = frozenset(side.group for side in self.box.sides if side.group is not None)


def _pairs(reference: State, state: State, found: Symmetries, axes: Mapping[str, Sequence[Axis]]) -> list[_Pair]:
    pairs: list[_Pair] = []
    for name, layout in axes.items():
        parts = [box for box in boxes(layout) if any(side.group in found.sets for side in box.sides)]
        if not parts:
            continue
        one, other = _known(reference, name, layout), _known(state, name, layout)
        if not one.is_floating_point():
            continue
        one, other = one.detach().double().contiguous().cpu(), other.detach().double().contiguous().cpu()
        size = (float(one.square().sum()) * float(other.square().sum())) ** 0.5 / max(one.numel(), 1)
        if not size < float("inf"):
            raise InputError(
                f"{name} holds values that are not finite: expected trained weights; train the parent again"
            )
        scale = size**0.5 or 1.0
        one, other = one / scale, other / scale
        pairs += [_Pair(box, box.view(one), box.view(other)) for box in parts]
    return pairs


def _known(state: State, name: str, layout: Sequence[Axis]) -> Tensor:
    shape = tuple(axis.size for axis in layout)
    if name not in state or tuple(state[name].shape) != shape:
        there = f"is {tuple(state[name].shape)}" if name in state else "is missing"
        raise InputError(f"{name} {there}: expected {shape}; align networks of one architecture")
    return state[name]


class _Search:
    """Coordinate descent over sets of channels."""

    def __init__(self, found: Symmetries, pairs: Sequence[_Pair]) -> None:
        self.sets = found.sets
        self.within = found.within
        self.pairs = pairs
        self.inner = {
            index: [other for other, one in found.sets.items() if one.within == index] for index in found.sets
        }
        self.having: dict[int, list[_Pair]] = {
            index: [pair for pair in pairs if index in pair.groups] for index in found.sets
        }
        self.beside: dict[int, set[int]] = {
            index: {group for pair in self.having[index] for group in pair.groups if group in self.sets}
            for index in found.sets
        }
        for index, one in found.sets.items():
            if one.within is not None:
                # A set with others inside is assigned by what is inside, too.
                self.beside[index].add(one.within)

    @cached_property
    def most(self) -> float:
        """The value of two equal networks of these sizes."""
        ones, others = (
            sum(float(view.square().sum()) for view in views)
            for views in ([pair.one for pair in self.pairs], [pair.other for pair in self.pairs])
        )
        return (ones + others) / 2

    def is_best(self, value: float) -> bool:
        """Whether nothing can be nearer."""
        return value >= self.most * (1 - _GAIN)

    def value(self, permutation: Permutation, pairs: Sequence[_Pair] | None = None) -> float:
        """The sum of products of both networks' entries."""
        return sum(
            float((pair.one * permuted(pair.box, pair.other, permutation, self.within)).sum())
            for pair in (self.pairs if pairs is None else pairs)
        )

    def improved(self, permutation: Permutation, seed: int) -> dict[int, Tensor]:
        """Assign one set after the other, in an order that the seed draws, until nothing improves."""
        current = dict(permutation)
        generator = torch.Generator().manual_seed(seed)
        indices = list(self.sets)
        waiting = set(indices)
        for _ in range(_MOST_SWEEPS):
            order = [indices[place] for place in torch.randperm(len(indices), generator=generator).tolist()]
            for index in order:
                if index in waiting:
                    waiting.discard(index)
                    for group in self._step(current, index):
                        waiting |= self.beside[group]
            if not waiting:
                break
        return current

    def _step(self, current: dict[int, Tensor], index: int) -> list[int]:
        """Assign a set, and those inside it, anew where that is better; the sets that changed."""
        touched = {index, *self.inner[index]}
        pairs = [pair for pair in self.pairs if touched & pair.groups]
        before = self.value(current, pairs)
        proposals = self._with_inner(current, index) if self.inner[index] else {index: self._assigned(current, index)}
        changed = {group: order for group, order in proposals.items() if not torch.equal(order, current[group])}
        if not changed or self.value(current | changed, pairs) <= before + _GAIN * self.most:
            return []
        current.update(changed)
        return list(changed)

    def _assigned(self, current: Permutation, index: int) -> Tensor:
        """The best permutation of a set that has no other inside; for each channel of the set that it is in, if it is."""
        one = self.sets[index]
        outer_size = 1 if one.within is None else self.sets[one.within].size
        score = torch.zeros(outer_size, one.size, one.size, dtype=torch.float64)
        for pair in self.having[index]:
            for at in pair.box.places(index):
                other = permuted(pair.box, pair.other, current, self.within, (at,))
                outer = None if one.within is None else pair.box.outer(at, one.within)
                left, right = (_rows(view, at, outer) for view in (pair.one, other))
                score += left @ right.mT
        found = torch.stack([_assign(part) for part in score])
        return found[0] if one.within is None else found

    # A set with others inside: every pair of its channels is compared with the best orders of those inside.

    def _with_inner(self, current: Permutation, index: int, profile: bool = False) -> dict[int, Tensor]:
        size = self.sets[index].size
        orders: dict[int, Tensor] = {}
        scores: dict[int, Tensor] = {}
        # What is inside depends on each other where one tensor has several: twice, so that each knows the others.
        for _ in range(1 if profile else 2):
            for inner in self.inner[index]:
                orders[inner], scores[inner] = _assign_each(self._inner_scores(current, index, inner, orders, profile))
        total = sum(scores.values(), torch.zeros(size, size, dtype=torch.float64))
        chosen = _assign(total + self._own_scores(current, index, profile))
        picked = torch.arange(size)
        return {index: chosen} | {inner: order[picked, chosen] for inner, order in orders.items()}

    def _bound(self, pair: _Pair, at: int, index: int) -> dict[int, int]:
        """The sides of sets inside a set's side ``at``, and their sets."""
        return {
            place: side.group
            for place, side in enumerate(pair.box.sides)
            if side.group in self.inner[index] and pair.box.outer(place, index) == at
        }

    def _own_scores(self, current: Permutation, index: int, profile: bool) -> Tensor:
        """How alike the channels of a set are by tensors that have none of the sets inside."""
        size = self.sets[index].size
        score = torch.zeros(size, size, dtype=torch.float64)
        for pair in self.having[index]:
            for at in pair.box.places(index):
                if not self._bound(pair, at, index):
                    other = pair.other if profile else permuted(pair.box, pair.other, current, self.within, (at,))
                    score += _alike(_side(pair.one, at, None, profile)[0], _side(other, at, None, profile)[0], profile)
        return score

    def _inner_scores(
        self, current: Permutation, index: int, inner: int, orders: Mapping[int, Tensor], profile: bool
    ) -> Tensor:
        """For each pair of a set's channels, how alike the channels inside are: size x size x inner x inner."""
        size, width = self.sets[index].size, self.sets[inner].size
        table = torch.zeros(size, size, width, width, dtype=torch.float64)
        for pair in self.having[inner]:
            for at in pair.box.places(inner):
                outer = pair.box.outer(at, index)
                assert outer is not None
                others = {place: group for place, group in self._bound(pair, outer, index).items() if place != at}
                if not profile and any(group not in orders for group in others.values()):
                    continue
                kept = (at, outer, *others)
                view = pair.other if profile else permuted(pair.box, pair.other, current, self.within, kept)
                left, right = (_side(part, at, outer, profile) for part in (pair.one, view))
                if profile or not others:
                    every = _alike(left.flatten(0, 1), right.flatten(0, 1), profile)
                    table += every.reshape(size, width, size, width).transpose(1, 2)
                    continue
                for one in range(size):
                    known = view
                    for side, group in others.items():
                        known = take(known, orders[group][one], outer, side)
                    table[one] += left[one] @ _rows(known, at, outer).mT
        return table

    # A start from what no permutation changes

    def by_profile(self, start: Permutation) -> dict[int, Tensor]:
        """Channels assigned by their sorted entries in every tensor, whatever the order of the other channels."""
        found = dict(start)
        for index, one in self.sets.items():
            if self.inner[index]:
                found.update(self._with_inner(start, index, profile=True))
            elif one.within is None:
                found[index] = _assign(self._own_scores(start, index, profile=True))
        return found


def _rows(view: Tensor, at: int, outer: int | None = None) -> Tensor:
    """Outer x channels x the rest; one outer where there is none."""
    if outer is None:
        return view.movedim(at, 0).reshape(1, view.shape[at], -1)
    return view.movedim((outer, at), (0, 1)).reshape(view.shape[outer], view.shape[at], -1)


def _side(view: Tensor, at: int, outer: int | None, profile: bool) -> Tensor:
    rows = _rows(view, at, outer)
    return _profile(rows) if profile else rows


def _alike(left: Tensor, right: Tensor, profile: bool) -> Tensor:
    """Products of all rows of both, or minus the squared distances of their profiles."""
    if not profile:
        return left @ right.mT
    # The other mode subtracts large numbers, which hides small differences.
    return -torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square()


def _profile(rows: Tensor) -> Tensor:
    """Quantiles of the entries of each row, weighted as all of them."""
    ordered = rows.sort(-1).values
    count = ordered.shape[-1]
    if count > _QUANTILES:
        chosen = torch.linspace(0, count - 1, _QUANTILES).round().long()
        ordered = ordered[..., chosen] * (count / _QUANTILES) ** 0.5
    return ordered


def _assign(score: Tensor) -> Tensor:
    """For each row the column, such that the sum of the scores is largest."""
    return torch.from_numpy(linear_sum_assignment(score.numpy(), maximize=True)[1])


def _assign_each(table: Tensor) -> tuple[Tensor, Tensor]:
    """The assignments of many matrices (the last two axes), and the sum of the scores of each."""
    columns = np.stack([linear_sum_assignment(one, maximize=True)[1] for one in table.flatten(0, 1).numpy()])
    found = torch.from_numpy(columns).reshape(table.shape[:-1])
    return found, table.gather(-1, found[..., None]).sum((-1, -2))


# Activations as tensors: channels x samples

_MOST_SAMPLES = 2048


def _ends(module: nn.Module, found: Symmetries) -> dict[str, Axis]:
    """By the name of its weight, the axis of the outputs of each layer that has channels to permute."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    names = {f"{path}.weight": part for path, part in module.named_modules() if isinstance(part, kinds)}
    return {
        name: found.axes[name][0]
        for name in names
        if name in found.axes
        and any(side.group in found.sets for box in boxes(found.axes[name][:1]) for side in box.sides)
    }


@torch.no_grad()
def _activations(module: nn.Module, found: Symmetries, images: Tensor, seed: int) -> dict[str, Tensor]:
    """By the name of its weight, what each layer gives, standardised by channel: channels x samples, the same for both."""
    if not len(images):
        raise InputError("there are no images to match activations on: expected one or more")
    ends = _ends(module, found)
    seen: dict[str, list[Tensor]] = {name: [] for name in ends}
    share = max(_MOST_SAMPLES // len(images), 1)

    def hook(name: str) -> torch.utils.hooks.RemovableHandle:
        part = module.get_submodule(name.removesuffix(".weight"))
        channels = -1 if isinstance(part, (nn.Linear, nn.LayerNorm)) else 1

        def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            flat = output.movedim(channels, -1).flatten(1, -2) if output.ndim > 2 else output[:, None]
            generator = torch.Generator().manual_seed(seed)
            some = torch.randperm(flat.shape[1], generator=generator)[:share]
            seen[name].append(flat[:, some].flatten(0, 1).double().cpu())

        return part.register_forward_hook(keep)

    handles = [hook(name) for name in ends]
    try:
        with evaluation_mode(module):
            for batch in torch.split(images.to(*place(module)), 64):
                module(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _standardised(torch.cat(parts).T) for name, parts in seen.items() if parts}


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(spread > 0, centred / spread.clamp(min=1e-300), 0.0)

"""Fusion by what layers take in: RegMean, and the change of weights in directions that the first parent does not use.

Both need, for every linear layer and convolution, the Gram matrix of its inputs on a parent's own images: that is all of the
data that is handed on, as a file. Both give weights whose every row (all that makes one output) is a sum of the same row of
each source times a matrix, so that weights can be fused a few rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.graph.program import first_names
from kzoo.methods.dils import one_thread
from kzoo.methods.fusion.permutations import Permutation, Symmetries, permute
from kzoo.methods.fusion.roles import LEARNED, Role, mean_beside
from kzoo.methods.fusion.rules import mean
from kzoo.methods.fusion.states import fuse_unlearned, state_roles
from kzoo.methods.least_squares import HELD, MOST_INPUTS, eigenvectors, rows_of
from kzoo.training.evaluation import evaluation_mode, place

State = Mapping[str, Tensor]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def input_grams(module: nn.Module, images: Tensor, *, batch: int = 64) -> dict[str, Tensor]:
    """By the path of each linear layer and convolution, the mean of x x' over its inputs x, with a 1 behind each.

    The result is float64, groups x (inputs + 1) x (inputs + 1); a convolution's inputs are patches (im2col) of each group.
    ``images`` are N x C x H x W, ready for the network, which is in evaluation mode meanwhile. Layers of more than 16,384
    inputs are left out, as are those that do not run.

    Raises:
        InputError: there are no images, or what layers take is not finite.
    """
    if not len(images):
        raise InputError("there are no images to measure layers' inputs on: expected one or more")
    sums: dict[str, _Products] = {}
    handles = []
    for path, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
            found = _Products(layer)
            if found.width <= MOST_INPUTS:
                sums[path] = found
                handles.append(layer.register_forward_hook(found.hook))
    try:
        with evaluation_mode(module), one_thread():
            for some in torch.split(images.to(*place(module)), batch):
                module(some)
    finally:
        for handle in handles:
            handle.remove()
    grams = {path: found.total / found.count for path, found in sums.items() if found.count}
    if any(not gram.isfinite().all() for gram in grams.values()):
        raise InputError(
            "what layers take is not finite for these images: expected finite weights and images; look for NaN"
        )
    return grams


def pooled_grams(grams: State, module: nn.Module) -> dict[str, Tensor]:
    """The Grams of layers that share a weight as one, their mean, under the path of the first of them."""
    first = first_names(module)
    paths: dict[str, list[str]] = {}
    for path in grams:
        name = f"{path}.weight"
        paths.setdefault(first.get(name, name).removesuffix(".weight"), []).append(path)
    pooled: dict[str, Tensor] = {}
    for owner, alike in paths.items():
        found = [grams[path] for path in alike if grams[path].shape == grams[alike[0]].shape]
        pooled[owner] = found[0] if len(found) == 1 else torch.stack(found).mean(0)
    return pooled


class _Products:
    """Sums of products of the inputs of one layer, of all its groups at once."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        self.groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        self.outputs, self.width = len(layer.weight), layer.weight[0].numel()
        self.count = 0
        self.total = torch.zeros(0)

    def hook(self, layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        """Add what a layer took in."""
        if not self.count:
            self.total = torch.zeros(self.groups, self.width + 1, self.width + 1, dtype=torch.float64)
        each = output[:1].numel() // self.outputs * self.groups * self.width
        for some in torch.split(given[0], max(HELD // max(each, 1), 1)):
            rows = rows_of(layer, some).double().cpu().reshape(-1, self.groups, self.width).movedim(1, 0)
            rows = nn.functional.pad(rows, (0, 1), value=1.0)
            self.total += rows.mT @ rows
            self.count += rows.shape[1]


def permute_grams(grams: State, found: Symmetries, permutation: Permutation) -> dict[str, Tensor]:
    """The Grams of the network whose channels `permute` permutes, of those of the network before.

    Raises:
        InputError: a Gram is that of another architecture.
    """
    permuted: dict[str, Tensor] = {}
    for path, gram in grams.items():
        name = f"{path}.weight"
        shape = tuple(axis.size for axis in found.axes.get(name, ()))
        groups, width = len(gram), gram.shape[-1] - 1
        if shape and (math.prod(shape[1:]) != width or shape[0] % groups):
            raise InputError(f"the Gram of {path} is {tuple(gram.shape)}: it does not fit a weight of {shape}")
        if not found.boxes(name):
            permuted[path] = gram
            continue
        # Where each entry of the weight is in its group's rows, and which group that is.
        inputs = torch.arange(width).expand(shape[0], width)
        owners = torch.arange(groups).repeat_interleave(shape[0] // groups)[:, None]
        moved = permute({name: (owners * width + inputs).reshape(shape)}, found, permutation)[name]
        rows = moved.reshape(groups, -1, width)[:, 0]
        order = torch.cat([rows % width, torch.full((groups, 1), width)], 1)
        owner = rows[:, 0] // width
        permuted[path] = gram[owner[:, None, None], order[:, :, None], order[:, None, :]]
    return permuted


@dataclass(frozen=True)
class RowMaps:
    """How the rows of one layer's weights are fused: the sum of each source's rows times its matrix.

    ``matrices`` are groups x inputs x inputs, one for each source: the parents in order, and then the common start where
    ``from_start``. With ``intercept`` they are larger by one, and a row has its bias as its last entry.
    """

    matrices: tuple[Tensor, ...]
    intercept: bool = False
    from_start: bool = False

    def fuse(self, weights: Sequence[Tensor], biases: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """The rows of the weight (outputs x ...) and of the bias, in double precision, of the same rows of all sources.

        Of a layer without groups that may be any of its rows, with groups it must be all.
        """
        assert not self.intercept or biases is not None
        groups = len(self.matrices[0])
        total: Tensor | None = None
        for place_of, weight in enumerate(weights):
            rows = weight.double().flatten(1)
            if self.intercept and biases is not None:
                rows = torch.cat([rows, biases[place_of].double()[:, None]], 1)
            part = rows.reshape(groups, -1, rows.shape[1]) @ self.matrices[place_of]
            total = part if total is None else total + part
        assert total is not None
        rows = total.flatten(0, 1)
        if not self.intercept:
            return rows.reshape(weights[0].shape), None
        return rows[:, :-1].reshape(weights[0].shape), rows[:, -1]


def regmean_maps(grams: Sequence[Tensor], intercept: bool, scale: float = 0.9, ridge: float = 1e-6) -> RowMaps:
    """RegMean (arXiv 2212.09849, section 3): the weights that give, on all parents' inputs, what theirs give, best.

    ``grams`` are those of one layer, see `input_grams`. Entries off their diagonal are multiplied by ``scale`` (section 3.3).
    ``ridge``, relative to the mean of the diagonal, is what deviations from the mean of the parents cost; directions that no
    parent's inputs have keep that mean. With ``intercept`` the bias is solved for, too.

    Raises:
        InputError: scale or ridge are not possible, or Grams differ in shape.
    """
    if not 0 <= scale <= 1 or not 0 <= ridge < float("inf"):
        raise InputError(f"scale={scale:g} and ridge={ridge:g} are not possible: expected 0 to 1, and 0 or more")
    if len({tuple(gram.shape) for gram in grams}) > 1:
        raise InputError(
            "the Grams of one layer differ in shape between the parents: collect them from one architecture"
        )
    with one_thread():
        known = [_scaled(gram.double() if intercept else gram.double()[:, :-1, :-1], scale) for gram in grams]
        total = torch.stack(known).sum(0)
        inverse = torch.stack([_inverse(one, ridge) for one in total])
        rest = (torch.eye(total.shape[-1], dtype=torch.float64) - total @ inverse) / len(known)
        return RowMaps(tuple(gram @ inverse + rest for gram in known), intercept)


def _scaled(gram: Tensor, scale: float) -> Tensor:
    diagonal = torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    return scale * gram + (1 - scale) * diagonal


def _inverse(gram: Tensor, ridge: float) -> Tensor:
    """The inverse of a Gram with a ridge; without one, of the directions that it has."""
    size = float(gram.diagonal().mean())
    if not size > 0:
        return torch.zeros_like(gram)
    if ridge > 0:
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * size * torch.eye(len(gram), dtype=torch.float64))
        if not failed:
            return torch.cholesky_inverse(factor)
    values, vectors = eigenvectors(gram)
    kept = values > values.max() * len(values) * torch.finfo(torch.float64).eps
    inverse = torch.where(kept, 1 / torch.where(kept, values + ridge * size, 1.0), 0.0)
    found: Tensor = (vectors * inverse) @ vectors.T
    return found


def null_space_maps(gram: Tensor, intercept: bool, energy: float = 0.99) -> RowMaps:
    """2e of the reconstruction: W_A + (W_B - W_0)(I - V V'), V the directions that hold ``energy`` of the first's inputs.

    Raises:
        InputError: the energy is not from 0 to 1.
    """
    if not 0 <= energy <= 1:
        raise InputError(
            f"energy={energy:g} is not possible: expected 0 (the delta sum) to 1 (almost the first parent)"
        )
    with one_thread():
        known = gram.double() if intercept else gram.double()[:, :-1, :-1]
        unit = torch.eye(known.shape[-1], dtype=torch.float64)
        free = torch.stack([unit - _used(one, energy) for one in known])
    return RowMaps((unit.expand_as(free), free, -free), intercept, from_start=True)


def _used(gram: Tensor, energy: float) -> Tensor:
    """The projection on the fewest directions that hold a share of a Gram's trace."""
    values, vectors = eigenvectors(gram)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    held = values.cumsum(0)
    count = int((held < energy * held[-1]).sum()) + 1 if energy > 0 and held[-1] > 0 else 0
    used: Tensor = vectors[:, :count] @ vectors[:, :count].T
    return used


def regmean(
    parents: Sequence[State],
    grams: Sequence[State],
    *,
    scale: float = 0.9,
    ridge: float = 1e-6,
    intercept: bool = True,
    roles: Mapping[str, Role] | None = None,
) -> dict[str, Tensor]:
    """The state dict of RegMean; layers without Grams, embeddings and normalisations are averaged.

    ``grams`` are what `input_grams` found of each parent, on its own images. Without ``intercept`` biases are averaged, too.

    Raises:
        InputError: there are not as many Grams as parents, or they do not fit.
    """
    if len(grams) != len(parents):
        raise InputError(
            f"there are {len(parents)} parents and {len(grams)} collections of Grams: give those of each one"
        )
    maps = {
        path: regmean_maps([one[path] for one in grams], intercept and f"{path}.bias" in parents[0], scale, ridge)
        for path in grams[0]
        if all(path in one for one in grams)
    }
    return _mapped(parents, maps, parents, roles)


def null_space(
    parents: Sequence[State],
    start: State,
    gram: State,
    *,
    energy: float = 0.99,
    roles: Mapping[str, Role] | None = None,
) -> dict[str, Tensor]:
    """The state dict of the null-space variant (2e): the second parent changes what the first one's inputs do not reach.

    ``gram`` is what `input_grams` found of the first parent. Weights of layers without a Gram are the first parent's,
    normalisations are averaged.

    Raises:
        InputError: there are not two parents, or the Grams do not fit.
    """
    if len(parents) != 2:
        raise InputError(
            f"null_space fuses two networks, the first of which is protected, not {len(parents)}: fuse two at a time"
        )
    maps = {path: null_space_maps(one, f"{path}.bias" in parents[0], energy) for path, one in gram.items()}
    return _mapped([*parents, start], maps, parents, roles, protect=True)


def _mapped(
    sources: Sequence[State],
    maps: Mapping[str, RowMaps],
    parents: Sequence[State],
    roles: Mapping[str, Role] | None,
    protect: bool = False,
) -> dict[str, Tensor]:
    first = parents[0]
    known = roles or state_roles(first)
    fused: dict[str, Tensor] = {}
    for path, one in maps.items():
        weights = [_known(source, f"{path}.weight", one) for source in sources]
        biases = [source[f"{path}.bias"] for source in sources] if one.intercept else None
        weight, bias = one.fuse(weights, biases)
        fused[f"{path}.weight"] = weight
        if bias is not None:
            fused[f"{path}.bias"] = bias
    for name in first:
        if name not in fused:
            versions = [parent[name] for parent in parents]
            beside = [parent[mean_beside(name)] for parent in parents] if known[name] is Role.VARIANCE else None
            if known[name] in LEARNED:
                fused[name] = versions[0].double() if protect else mean(versions)
            else:
                fused[name] = fuse_unlearned(known[name], versions, beside)
    return {name: fused[name].to(old.dtype) for name, old in first.items()}


def _known(source: State, name: str, maps: RowMaps) -> Tensor:
    width = maps.matrices[0].shape[-1] - maps.intercept
    if name not in source or source[name][0].numel() != width:
        there = f"has {source[name][0].numel()} inputs" if name in source else "is missing"
        raise InputError(f"{name} {there}: its Gram has {width}; collect Grams from the networks that are fused")
    return source[name]

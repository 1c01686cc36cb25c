"""The weights of a layer by least squares, from sums over batches; and by Gauss-Newton, through its activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from scipy.linalg import eigh as scipy_eigh
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.activations import apply_activation, slope

#: Batch by batch what a layer takes, and what it is to give.
Features = Callable[[], Iterator[tuple[Tensor, Tensor]]]
Solution = tuple[Tensor, Tensor]

#: Layers of more inputs are not solved for: their Gram matrix would be too large.
MOST_INPUTS = 16_384
#: Entries of a matrix of patches that are held at a time.
HELD = 1 << 24
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MOST_UNKNOWNS = 20_000
#: Rows of a matrix of patches that are held at a time.
_ROWS = 16_384
#: A Gram matrix for each output takes outputs x inputs^2 products per row: rows are left out where it would be more.
_MOST_PRODUCTS = 2e9
#: So many times as many rows as unknowns are needed for that.
_FEWEST_ROWS = 4
#: A step that makes the error smaller by less is the last.
_WORTH = 0.99


def rows_of(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer's weights are multiplied with, one row for each of its outputs: features, or patches (im2col).

    Of a convolution a row has in_channels x kernel entries, whatever its groups.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(layer, _CONVOLUTIONS)
    axes = len(layer.kernel_size)
    padding = [width for sides in reversed(padding_of(layer)) for width in sides]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    patches = nn.functional.pad(inputs, padding, mode)
    for axis, (size, step, gap) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        patches = patches.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
    # N x C x positions x kernel -> rows of C x kernel
    order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    return patches.permute(order).reshape(-1, layer.in_channels * math.prod(layer.kernel_size))


def padding_of(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[tuple[int, int], ...]:
    """How much a convolution adds in front of and behind each axis."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return ((0, 0),) * len(layer.kernel_size)
        totals = [(size - 1) * gap for size, gap in zip(layer.kernel_size, layer.dilation, strict=True)]
        # What is odd goes behind, as in torch.
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((size, size) for size in layer.padding)


def target_rows(layer: nn.Module, outputs: Tensor) -> Tensor:
    """A layer's outputs as rows, in the order of `rows_of`."""
    if isinstance(layer, nn.Linear):
        return outputs.reshape(-1, outputs.shape[-1])
    return outputs.movedim(1, -1).reshape(-1, outputs.shape[1])


def set_weights(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Give a linear layer or a convolution, which has a bias, its weight (in any shape of as many entries) and bias."""
    assert isinstance(layer, (nn.Linear, *_CONVOLUTIONS)) and layer.bias is not None
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    layer.bias.copy_(bias)


def eigenvectors(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, and eigenvectors as columns, of a symmetric matrix (n x n)."""
    try:
        found: tuple[Tensor, Tensor] = torch.linalg.eigh(gram)
        return found
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # LAPACK's divide and conquer, which torch takes, gives up on some Grams of inputs that are mostly zero.
        values, vectors = scipy_eigh(gram.numpy(), driver="evr")
        return torch.from_numpy(values), torch.from_numpy(vectors)


class Sums:
    """What least squares with an intercept needs of rows X and targets T, streamed: counts, means, centred products."""

    def __init__(self, inputs: int, outputs: int) -> None:
        if inputs > _MOST_UNKNOWNS:
            raise InputError(
                f"a layer of {inputs:,} inputs is too large to solve for: expected {_MOST_UNKNOWNS:,} at most; give a smaller kernel, or "
                "method='approximation' with start='identity'"
            )
        self.count = 0
        self.mean, self.target_mean = (torch.zeros(size, dtype=torch.float64) for size in (inputs, outputs))
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64)

    def add(self, rows: Tensor, targets: Tensor) -> None:
        """Rows (n x inputs) and what is wanted of them (n x outputs)."""
        rows, targets = rows.double().cpu(), targets.double().cpu()
        count, total = len(rows), self.count + len(rows)
        mean, target_mean = rows.mean(0), targets.mean(0)
        centred, share = rows - mean, self.count * count / total
        # Two samples' products about their common mean (Chan et al.): no large numbers are subtracted.
        off, target_off = mean - self.mean, target_mean - self.target_mean
        self.gram += centred.T @ centred + share * torch.outer(off, off)
        self.cross += centred.T @ (targets - target_mean) + share * torch.outer(off, target_off)
        self.mean += off * (count / total)
        self.target_mean += target_off * (count / total)
        self.count = total

    def solve(self, ridge: float, towards: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weight (outputs x inputs) and bias that map rows to targets best.

        ``ridge`` times the mean of the Gram matrix's diagonal is what deviations from ``towards`` (zero) cost; with 0 it is the
        solution of least deviation. Directions in which the rows do not vary keep ``towards``.
        """
        base = torch.zeros_like(self.cross.T) if towards is None else towards.double()
        wanted = self.cross - self.gram @ base.T
        size = float(self.gram.diagonal().mean())
        if not size > 0:
            change = torch.zeros_like(wanted)
        elif ridge > 0:
            damped = self.gram + ridge * size * torch.eye(len(self.gram), dtype=torch.float64)
            factor, failed = torch.linalg.cholesky_ex(damped)
            change = self._truncated(wanted, ridge * size) if failed else torch.cholesky_solve(wanted, factor)
        else:
            change = self._truncated(wanted, 0.0)
        weight = base + change.T
        return weight, self.target_mean - weight @ self.mean

    def _truncated(self, wanted: Tensor, ridge: float) -> Tensor:
        values, vectors = eigenvectors(self.gram)
        kept = values > values.max() * len(values) * torch.finfo(torch.float64).eps
        inverse = torch.where(kept, 1 / torch.where(kept, values + ridge, 1.0), 0.0)
        found: Tensor = vectors @ (inverse[:, None] * (vectors.T @ wanted))
        return found


def layer_outputs(layer: nn.Module) -> int:
    """How many features or channels a linear layer or a convolution gives."""
    return layer.out_features if isinstance(layer, nn.Linear) else int(layer.out_channels)  # type: ignore[arg-type]


def solve_layer(
    layer: nn.Module, stream: Features, target: Callable[[Tensor], Tensor], ridge: float, towards: Tensor | None
) -> Solution:
    """The weight (outputs x a row's entries) and bias of a layer that give ``target`` of what it is to give best.

    Grouped convolutions are solved group by group. ``towards`` is the weight that ``ridge`` pulls to.
    """
    groups = int(getattr(layer, "groups", 1))
    outputs = layer_outputs(layer) // groups
    sums: list[Sums] = []
    for given, wanted in stream():
        rows = rows_of(layer, given)
        targets = target(target_rows(layer, wanted))
        size = rows.shape[1] // groups
        sums = sums or [Sums(size, outputs) for _ in range(groups)]
        for first in range(0, len(rows), _ROWS):
            part, goal = rows[first : first + _ROWS], targets[first : first + _ROWS]
            for group, one in enumerate(sums):
                one.add(part[:, group * size : (group + 1) * size], goal[:, group * outputs : (group + 1) * outputs])
    solved = [
        one.solve(ridge, None if towards is None else towards[group * outputs : (group + 1) * outputs])
        for group, one in enumerate(sums)
    ]
    return torch.cat([weight for weight, _ in solved]), torch.cat([bias for _, bias in solved])


def refined(layer: nn.Module, activation: str, stream: Features, solution: Solution, ridge: float) -> Solution | None:
    """One Gauss-Newton step from a solution, which makes the error of the activations smaller, not of their inverses.

    None where it would be too much work, or makes nothing better.
    """
    weight, bias = solution
    outputs, inputs = weight.shape
    count = sum(len(target_rows(layer, wanted)) for _, wanted in stream())
    every = math.ceil(count * outputs * (inputs + 1) ** 2 / _MOST_PRODUCTS)
    if every > 1 and count // every < _FEWEST_ROWS * inputs:
        return None
    gram = torch.zeros(outputs, inputs + 1, inputs + 1, dtype=torch.float64)
    cross = torch.zeros(outputs, inputs + 1, dtype=torch.float64)
    for given, wanted in stream():
        rows = nn.functional.pad(rows_of(layer, given)[::every].double(), (0, 1), value=1.0)
        before = rows[:, :-1] @ weight.T + bias
        slopes = slope(activation, before)
        rest = target_rows(layer, wanted)[::every].double() - apply_activation(activation, before)
        cross += (slopes * rest).T @ rows
        for output in range(outputs):
            scaled = rows * slopes[:, output, None]
            gram[output] += scaled.T @ scaled
    size = gram.diagonal(dim1=1, dim2=2).mean(1)
    damping = (ridge + 1e-9) * size + torch.finfo(torch.float64).tiny
    change = torch.linalg.solve(gram + damping[:, None, None] * torch.eye(inputs + 1, dtype=torch.float64), cross)
    return _best_step(layer, activation, stream, solution, change)


def _best_step(
    layer: nn.Module, activation: str, stream: Features, solution: Solution, change: Tensor
) -> Solution | None:
    """As much of a step as makes the error smallest, of a few shares of it; None if none does."""
    weight, bias = solution
    if not torch.isfinite(change).all():
        return None
    tried = [(weight + share * change[:, :-1], bias + share * change[:, -1]) for share in (0.0, 0.25, 0.5, 1.0)]
    errors = [_error_at(layer, one, activation, stream) for one in tried]
    best = min(range(len(tried)), key=errors.__getitem__)
    return tried[best] if errors[best] < _WORTH * errors[0] else None


def _error_at(layer: nn.Module, solution: Solution, activation: str, stream: Features) -> float:
    weight, bias = solution
    missed = total = 0.0
    for given, wanted in stream():
        goal = target_rows(layer, wanted).double()
        found = apply_activation(activation, rows_of(layer, given).double() @ weight.T + bias)
        missed += float((found - goal).square().sum())
        total += float(goal.square().sum())
    return math.sqrt(missed / total) if total else math.sqrt(missed)

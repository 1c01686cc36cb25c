"""The losses of knowledge amalgamation: soft targets over all classes, the distance of two sets of features, reconstruction.

See section 3 of arXiv 1906.10546, as far as its code tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize, threshold

from kzoo.methods.amalgamation.parameters import Overlap

#: Squared distances of rows of length 1 are not known better than to so many times the numbers' precision.
_ROUNDING = 8


@dataclass(frozen=True)
class Kernels:
    """Gaussian kernels exp(-d^2 / (2 sigma^2)), of which the sum is taken.

    ``sigmas`` are fixed bandwidths. Without them each 2 sigma^2 is the median squared distance of a batch's points, of both
    sets together, times one of ``multiples``: then they have a gradient whatever the features are.
    """

    sigmas: tuple[float, ...] = ()
    multiples: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)

    def widths(self, squares: Tensor) -> list[Tensor | float]:
        """2 sigma^2 of each kernel, for squared distances 2N x 2N; nothing flows back through the median."""
        if self.sigmas:
            return [2 * sigma**2 for sigma in self.sigmas]
        rows, columns = torch.triu_indices(len(squares), len(squares), offset=1, device=squares.device)
        apart = squares.detach()[rows, columns]
        # Points that all coincide have no distance to go by.
        middle = apart.median().clamp(min=torch.finfo(squares.dtype).eps)
        return [middle * multiple for multiple in self.multiples]


def squared_distances(points: Tensor) -> Tensor:
    """Squared distances between rows (n x d) of length 1, or 0: n x n, exactly 0 between rows that are the same."""
    lengths = (points != 0).any(1).to(points.dtype)
    squares = lengths[:, None] + lengths - 2 * points @ points.T
    # What rounding leaves would be as large as the narrowest kernels.
    squares = threshold(squares, _ROUNDING * torch.finfo(points.dtype).eps, 0.0)
    return squares * (1 - torch.eye(len(points), dtype=squares.dtype, device=squares.device))


def maximum_mean_discrepancy(one: Tensor, other: Tensor, kernels: Kernels) -> Tensor:
    """How different two sets of as many features are: N x C x H x W each, or N x d; a scalar, 0 or more.

    Each image's features are one point of length 1. It is the biased estimate (V-statistic) of the squared discrepancy,
    with each point's similarity to itself counted, and at least 0; it goes by the sets, not by which image is which.
    """
    count = len(one)
    points = torch.cat([normalize(one.flatten(1)), normalize(other.flatten(1))])
    squares = squared_distances(points)
    similarity = torch.stack([torch.exp(squares / -width) for width in kernels.widths(squares)]).sum(0)
    within = similarity[:count, :count].sum() + similarity[count:, count:].sum()
    return ((within - 2 * similarity[:count, count:].sum()) / count**2).clamp(min=0)


def reconstruction(rebuilt: Tensor, features: Tensor) -> Tensor:
    """The mean square of what a decoder gives less what the teacher's features are."""
    return (rebuilt - features).square().mean()


def soft_targets(logits: Tensor, places: Tensor, classes: int, temperature: float, overlap: Overlap = "sum") -> Tensor:
    """Probabilities over the classes that all teachers know together: N x classes.

    ``logits`` are those of all teachers side by side (N x outputs), under one softmax; ``places`` says which class each
    stands for (outputs). Where several stand for one class, their probabilities are added; or the highest is taken, and
    each image's probabilities are divided by what they then sum up to.
    """
    chances = (logits / temperature).softmax(1)
    if overlap == "sum":
        return chances.new_zeros(len(chances), classes).index_add(1, places, chances)
    merged = merged_max(chances, places, classes)
    return merged / merged.sum(1, keepdim=True)


def merged_max(values: Tensor, places: Tensor, classes: int) -> Tensor:
    """The highest value for each class of those that stand for it: N x outputs to N x classes."""
    low = values.new_full((len(values), classes), -torch.inf)
    return low.scatter_reduce(1, places.expand(len(values), -1), values, "amax")


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The mean cross-entropy of a student's logits (N x classes) with soft targets, times the squared temperature.

    The square keeps gradients as large as they are at a temperature of 1.
    """
    return -(targets * log_softmax(logits / temperature, 1)).sum(1).mean() * temperature**2


def spreads(logits: Sequence[Tensor]) -> list[float]:
    """How far each teacher's logits (N x its classes) lie apart: the root mean square about each image's mean."""
    return [float((each - each.mean(1, keepdim=True)).double().square().mean().sqrt()) for each in logits]

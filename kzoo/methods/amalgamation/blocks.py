"""The parts of common feature learning that only training needs: they lie beside the student, which stays as it is.

Each network has an adaption layer of its own (a convolution of 1x1 and ReLU); one extractor, the same for all, brings what
these give into the common space; a decoder for each teacher rebuilds its features from there (arXiv 1906.10546, figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate


class ResidualBlock(nn.Module):
    """Two convolutions of 3x3 with a shortcut, which is a convolution of 1x1 where channels change; no normalisation."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """N x before x H x W to N x after x H x W, not negative."""
        found: Tensor = (self.second(self.first(features).relu()) + self.shortcut(features)).relu()
        return found


class CommonSpace(nn.Module):
    """Adaption layers, the shared extractor, and decoders.

    ``teachers`` are the channels of each teacher's features, ``student`` those of the student's; ``aligned`` are the channels
    behind the adaption layers, ``common`` those of the common space, ``blocks`` the residual blocks of the extractor. What
    is not asked for is not there: without ``compared`` the student has no adaption layer, without ``rebuilt`` there are no
    decoders.
    """

    def __init__(
        self,
        teachers: Sequence[int],
        student: int,
        aligned: int = 256,
        common: int = 128,
        blocks: int = 3,
        *,
        compared: bool = True,
        rebuilt: bool = True,
    ) -> None:
        super().__init__()
        self.adaptions = nn.ModuleList(_adaption(channels, aligned) for channels in teachers)
        self.extractor = nn.Sequential(
            *(ResidualBlock(aligned if number == 0 else common, common) for number in range(blocks))
        )
        self.decoders = nn.ModuleList(_decoder(common, channels) for channels in teachers) if rebuilt else None
        # Last, so that the other parts begin alike with it and without it.
        self.adaption = _adaption(student, aligned) if compared else None

    def forward(self, features: Sequence[Tensor], student: Tensor) -> tuple[list[Tensor], Tensor | None, list[Tensor]]:
        """Teachers' features in the common space, the student's there, and the teachers' rebuilt.

        All are N x C x H x W of one H x W; the lists are in the teachers' order.
        """
        aligned = [layer(each) for layer, each in zip(self.adaptions, features, strict=True)]
        if self.adaption is not None:
            aligned.append(self.adaption(student))
        # One pass for all: the extractor's weights are shared.
        shared = list(self.extractor(torch.cat(aligned)).split(len(student)))
        own = shared.pop() if self.adaption is not None else None
        decoders = () if self.decoders is None else self.decoders
        return shared, own, [decoder(each) for decoder, each in zip(decoders, shared, strict=self.decoders is not None)]


def _adaption(channels: int, aligned: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, aligned, 1, bias=False), nn.ReLU())


def _decoder(common: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(common, channels, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False)
    )


def fitted(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features (N x C x H x W) of another grid: means where it is coarser, bilinear where it is finer.

    It is the teachers' features that are fitted to the student's, once and before anything learned: so no gradient has to
    go through it, and what is kept of them on the disk is no larger than needed.
    """
    coarse = (min(features.shape[2], grid[0]), min(features.shape[3], grid[1]))
    if features.shape[2:] != coarse:
        features = adaptive_avg_pool2d(features, coarse)
    if features.shape[2:] != grid:
        features = interpolate(features, grid, mode="bilinear", align_corners=False)
    return features

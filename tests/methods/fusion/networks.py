"""Small networks to fuse, their channels known by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import timm
import torch
from timm.models.densenet import DenseNet
from timm.models.regnet import RegNet, RegNetCfg
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.realistic import make_realistic, without_chance


class Plain(nn.Module):
    """Convolutions one after the other, flattened into a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 7, 3)
        self.hidden, self.fc = nn.Linear(7 * 4, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.fc(F.relu(self.hidden(F.adaptive_max_pool2d(x, 2).flatten(1))))


class ResidualNorm(nn.Module):
    """Two residual blocks with batch normalisation on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv3, self.bn3 = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = F.relu(x + self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))


class Joined(nn.Module):
    """Concatenation, normalised before the next convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 5, 3, padding=1)
        self.bn3, self.fc = nn.BatchNorm2d(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat((x, self.conv1(F.relu(self.bn1(x)))), 1)
        x = torch.cat((x, self.conv2(F.relu(self.bn2(x)))), 1)
        return self.fc(F.relu(self.bn3(x)).mean((2, 3)))


def mlp(*sizes: int, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [nn.ReLU()] if number else []
        layers.append(nn.Linear(inputs, outputs, bias=bias))
    return nn.Sequential(*layers)


def of_timm(name: str) -> nn.Module:
    """A network of timm with 7 classes; of families without a small one, a small one."""
    if name == "densenet":
        return DenseNet(8, (2, 2), num_classes=7, bn_size=2)
    if name == "regnet":
        return RegNet(RegNetCfg(depth=4, w0=16, wa=10.0, wm=1.5, group_size=8, se_ratio=0.25), num_classes=7)
    return timm.create_model(name, num_classes=7)


def trained(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network in double precision with weights as training leaves them."""
    torch.manual_seed(seed)
    return without_chance(make_realistic(build(), seed=seed)).double().eval()


def images(count: int = 2, size: int = 8, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

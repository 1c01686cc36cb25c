"""Small networks whose tied channels are known by hand, and how to compare networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.inner(x))
        return self.head(x.mean((2, 3)))


class Branches(nn.Module):
    """Two branches concatenated, and the input of both beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.left = nn.Conv2d(4, 3, 3, padding=1)
        self.right = nn.Conv2d(4, 5, 1)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.norm(torch.cat((self.left(x), x, self.right(x)), 1)))).mean((2, 3))


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.first, self.second = nn.Linear(4 * 16, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 4)
        return self.second(F.relu(self.first(x.flatten(1))))


class Inverted(nn.Module):
    """Depthwise convolution with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.reduce, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.depthwise(F.silu(self.norm(self.expand(x)))))
        x = x * self.excite(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(x.mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.norm = nn.GroupNorm(4, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.norm(self.grouped(self.stem(x)))).mean((2, 3)))


class Attention(nn.Module):
    """One block of a vision transformer."""

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.norm, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.num_heads, self.head_dim, self.fused = 2, 4, fused
        self.scale = 4**-0.5
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 5)

    def plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v

    def attend(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v) if self.fused else self.plain(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.attend(self.norm(x))
        x = x + self.down(F.gelu(self.up(self.after(x))))
        return self.head(x.mean(1))


class Auxiliary(nn.Module):
    """A classifier beside the trunk, in training mode only, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.side = nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        found = self.head(x.mean((2, 3)))
        return torch.cat((found, self.side(x).mean((2, 3))), 1) if self.training else found


class Shared(nn.Module):
    """One table that looks tokens up and gives the scores of the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.outer = nn.Embedding(7, 4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.outer(torch.relu(self.inner(self.table(tokens)))), self.table.weight)


NETWORKS = (Residual, Branches, Flattened, Inverted, Grouped, Attention, Auxiliary)


def linears() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))


def image(batch: int = 2, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def difference(one: nn.Module, other: nn.Module, example: Tensor) -> float:
    """The largest relative difference of the outputs."""
    with torch.no_grad():
        left, right = one(example.clone()), other(example.clone())
    assert left.shape == right.shape
    return float((left - right).abs().max() / left.abs().max())

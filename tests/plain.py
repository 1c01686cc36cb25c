"""A factory for ``py:tests.plain:relu``."""

from torch import nn


def relu() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.ReLU())

"""Networks of the DPIAT notes that no library carries."""

from __future__ import annotations

from torch import nn


class _Residual(nn.Module):
    """conv-BN-ReLU-conv-BN-ReLU; the last of a stage doubles the channels and has a convolution as its shortcut.

    The shortcut is registered first: the notes' values for different widths tell so.
    """

    def __init__(self, channels: int, last: bool) -> None:
        super().__init__()
        out, stride = (2 * channels, 2) if last else (channels, 1)
        if last:
            self.shortcut = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )


def cifar_resnet(blocks: int, width: int, classes: int = 10) -> nn.Module:
    """The authors' CIFAR-ResNet (section 4.2): three stages of residual blocks of width w, 2w and 4w."""
    stages = [
        nn.Sequential(*(_Residual(width * 2**stage, last=stage < 2 and block == blocks - 1) for block in range(blocks)))
        for stage in range(3)
    ]
    stem = (nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))

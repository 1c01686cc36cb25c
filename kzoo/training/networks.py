"""Small networks by name, of five families: for experiments that must end within minutes on a processor.

A name is ``FAMILY-DEPTHxWIDTH``: blocks (or convolutions) per stage, and channels of the first stage. Each stage has
twice the channels of the one before and half its resolution; a ViT has one stage.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from timm.models._efficientnet_builder import decode_arch_def
from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXtStage
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from kzoo.errors import InputError

__all__ = ["SMALL_NETWORKS", "small_network"]

_STAGES = 3
#: Pixels of a side of the images that a ViT takes, and of its patches.
_VIT_SIZE, _VIT_PATCH = 16, 4


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


def _residual_stage(before: int, after: int, blocks: int, stride: int) -> nn.Module:
    """Basic blocks of timm's; the first changes channels and resolution, and has a convolution as its shortcut."""
    shortcut = None
    if before != after or stride != 1:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    first = BasicBlock(before, after, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(blocks - 1)))


def _initialised(module: nn.Module) -> nn.Module:
    """Convolutions as He et al. start them."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def _resnet(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    widths = [width * 2**stage for stage in range(_STAGES)]
    stem = nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), *_norm_relu(width))
    stages = [
        _residual_stage(widths[max(stage - 1, 0)], after, depth, 1 if stage == 0 else 2)
        for stage, after in enumerate(widths)
    ]
    head = nn.Linear(widths[-1], classes)
    return _initialised(nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))


def _vgg(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    """Stages of convolutions that each end in a maximum over 2x2 pixels; the first convolution has a stride of 2."""
    stages: list[nn.Module] = []
    before = channels
    for stage in range(_STAGES):
        layers: list[nn.Module] = []
        after = width * 2**stage
        for index in range(depth):
            stride = 2 if stage == index == 0 else 1
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), *_norm_relu(after)]
            before = after
        stages.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if stage < _STAGES - 1 else [])))
    return _initialised(nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)))


def _mobilenet(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    """MobileNetV2's inverted residuals, by timm: three times wider inside."""
    stages = [[f"ds_r1_k3_s1_c{width}"], *([f"ir_r{depth}_k3_s2_e3_c{width * 2**stage}"] for stage in (1, 2))]
    return EfficientNet(
        decode_arch_def(stages),
        num_classes=classes,
        num_features=8 * width,
        in_chans=channels,
        stem_size=width,
        fix_stem=True,
        round_chs_fn=int,
        act_layer=nn.ReLU,
    )


def _convnext(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    """Stages of ConvNeXt by timm, with 3x3 instead of 7x7 pixels and layer scale from 0.1, for they are few."""
    widths = [width * 2**stage for stage in range(_STAGES)]
    stem = nn.Sequential(nn.Conv2d(channels, width, 2, stride=2), LayerNorm2d(width))
    stages = [
        ConvNeXtStage(
            widths[max(stage - 1, 0)],
            after,
            kernel_size=3,
            stride=1 if stage == 0 else 2,
            depth=depth,
            ls_init_value=1.0,
            conv_mlp=True,
            norm_layer=LayerNorm2d,
        )
        for stage, after in enumerate(widths)
    ]
    head = nn.Linear(widths[-1], classes)
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1]), head)


def _vit(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    return VisionTransformer(
        img_size=_VIT_SIZE,
        patch_size=_VIT_PATCH,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=max(1, width // 16),
        mlp_ratio=2,
    )


_Build = Callable[[int, int, int, int], nn.Module]
_FAMILIES: Mapping[str, tuple[_Build, str, tuple[tuple[int, int], ...]]] = {
    "resnet": (_resnet, "residual, {0} basic blocks of two convolutions in each of 3 stages, {1} to {2} channels", ()),
    "vgg": (_vgg, "plain, {0} convolutions with batch normalisation in each of 3 stages, {1} to {2} channels", ()),
    "mobilenet": (_mobilenet, "", ()),
    "convnext": (_convnext, "", ()),
    "vit": (_vit, "", ()),
}


def small_network(name: str, *, classes: int, channels: int) -> nn.Module:
    m = re.fullmatch(r"([a-z]+)-(\d+)x(\d+)", name)
    return _FAMILIES[m[1]][0](int(m[2]), int(m[3]), classes, channels)

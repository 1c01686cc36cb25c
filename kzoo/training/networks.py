"""Small networks by name, of several families: for experiments that must end within minutes on a processor.

A name is ``FAMILY-DEPTHxWIDTH``: blocks (or convolutions) per stage, and channels of the first stage. Convolutional
networks have three stages, each with twice the channels of the one before and half its resolution, then the mean over all
positions; they take images of any size from 16 pixels on. A ViT has one stage, and takes images of 16 pixels. An MLP has so
many hidden layers, all of one width, and sees images of any size as the means of 8x8 parts; ``mlp-tanh`` and the like have
another activation than ReLU.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

from timm.layers.norm import LayerNorm2d
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXtStage
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, cat, nn

from kzoo.errors import InputError

__all__ = ["SMALL_NETWORKS", "small_network"]

_STAGES = 3
#: Pixels of a side of the images that a ViT takes, and of its patches.
_VIT_SIZE, _VIT_PATCH = 16, 4
_VIT_HEAD_WIDTH = 16
#: What an MLP sees of an image: the means of so many by so many parts.
_MLP_SIDE = 8
_MOST_DEPTH, _WIDTHS = 9, range(8, 129, 4)


def _widths(width: int) -> list[int]:
    return [width * 2**stage for stage in range(_STAGES)]


def _he(module: nn.Module) -> nn.Module:
    """Convolutions as He et al. initialise them."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return module


def _named(**parts: nn.Module) -> nn.Sequential:
    """Modules one after the other, by names; those of two families differ, as they do in libraries."""
    found = nn.Sequential()
    for name, part in parts.items():
        found.add_module(name, part)
    return found


def _basic_blocks(before: int, after: int, depth: int, stride: int) -> nn.Module:
    """timm's basic blocks; where channels or resolution change, the first has a convolution as its shortcut."""
    shortcut = None
    if before != after or stride != 1:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    first = BasicBlock(before, after, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(depth - 1)))


def _resnet(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    first, second, third = _widths(width)
    return _he(
        _named(
            conv1=nn.Conv2d(channels, first, 3, stride=2, padding=1, bias=False),
            bn1=nn.BatchNorm2d(first),
            act1=nn.ReLU(inplace=True),
            layer1=_basic_blocks(first, first, depth, 1),
            layer2=_basic_blocks(first, second, depth, 2),
            layer3=_basic_blocks(second, third, depth, 2),
            global_pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(third, classes),
        )
    )


def _plain_stage(before: int, after: int, depth: int, stride: int) -> Iterator[nn.Module]:
    for index in range(depth):
        yield nn.Conv2d(
            before if index == 0 else after, after, 3, stride=stride if index == 0 else 1, padding=1, bias=False
        )
        yield nn.BatchNorm2d(after)
        yield nn.ReLU(inplace=True)


def _vgg(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    """The first convolution has a stride of 2, for the sake of speed; the other stages begin with a maximum."""
    layers: list[nn.Module] = []
    before = channels
    for stage, after in enumerate(_widths(width)):
        layers += [nn.MaxPool2d(2)] if stage else []
        layers += _plain_stage(before, after, depth, 1 if stage else 2)
        before = after
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    return _he(_named(features=nn.Sequential(*layers), classifier=head))


def _normed_conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
    return _named(
        conv=nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False),
        bn=nn.BatchNorm2d(after),
        act=nn.ReLU(inplace=True),
    )


class _Inception(nn.Module):
    """Four branches side by side, each a quarter of the output; they run in the order in which they are registered.

    GoogLeNet's module, with batch normalisation, under the names that torchvision gives it.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        part = after // 4
        self.branch1 = _normed_conv(before, part, 1)
        self.branch2 = nn.Sequential(_normed_conv(before, part, 1), _normed_conv(part, part, 3))
        self.branch3 = nn.Sequential(_normed_conv(before, part, 1), _normed_conv(part, part, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _normed_conv(before, part, 1))

    def forward(self, images: Tensor) -> Tensor:
        return cat([branch(images) for branch in self.children()], dim=1)


def _inception(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    parts: dict[str, nn.Module] = {"conv1": _normed_conv(channels, width, 3, stride=2)}
    before = width
    for stage, after in enumerate(_widths(width), 1):
        if stage > 1:
            parts[f"maxpool{stage - 1}"] = nn.MaxPool2d(2)
        for letter in string.ascii_lowercase[:depth]:
            parts[f"inception{stage}{letter}"] = _Inception(before, after)
            before = after
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(before, classes)}
    return _he(_named(**parts, **head))


def _mobilenet(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    stages = [f"ds_r1_k3_s1_c{width}", *(f"ir_r{depth}_k3_s2_e3_c{after}" for after in _widths(width)[1:])]
    network: nn.Module = EfficientNet(
        decode_arch_def([[stage] for stage in stages]),  # type: ignore[no-untyped-call]
        num_classes=classes,
        num_features=8 * width,
        in_chans=channels,
        stem_size=width,
        fix_stem=True,
        round_chs_fn=int,
        act_layer=nn.ReLU,
    )
    return network


def _convnext(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    widths = _widths(width)
    stages = [
        ConvNeXtStage(
            widths[max(stage - 1, 0)],
            after,
            # 7 pixels are more than the later stages have.
            kernel_size=3,
            stride=1 if stage == 0 else 2,
            depth=depth,
            # Networks of so few blocks need no layer scale near zero, and learn faster so.
            ls_init_value=0.1,
            conv_mlp=True,
            norm_layer=LayerNorm2d,
        )
        for stage, after in enumerate(widths)
    ]
    stem = nn.Sequential(nn.Conv2d(channels, width, 2, stride=2), LayerNorm2d(width))
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], classes)
    )
    return _named(stem=stem, stages=nn.Sequential(*stages), head=head)


def _vit(depth: int, width: int, classes: int, channels: int) -> nn.Module:
    network: nn.Module = VisionTransformer(
        img_size=_VIT_SIZE,
        patch_size=_VIT_PATCH,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=width // _VIT_HEAD_WIDTH,
        mlp_ratio=2,
    )
    return network


def _mlp(activation: type[nn.Module], depth: int, width: int, classes: int, channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = channels * _MLP_SIDE**2
    for _ in range(depth):
        layers += [nn.Linear(before, width), activation()]
        before = width
    return _named(
        pool=nn.AdaptiveAvgPool2d(_MLP_SIDE),
        flatten=nn.Flatten(),
        hidden=nn.Sequential(*layers),
        fc=nn.Linear(width, classes),
    )


_FAMILIES: Mapping[str, tuple[Callable[[int, int, int, int], nn.Module], str]] = {
    "resnet": (_resnet, "residual: 3 stages of {depth} basic blocks of timm's, {width} to {widest} channels"),
    "vgg": (_vgg, "plain: 3 stages of {depth} convolutions with batch normalisation, {width} to {widest} channels"),
    "inception": (
        _inception,
        "parallel branches: 3 stages of {depth} Inception modules, {width} to {widest} channels",
    ),
    "mobilenet": (_mobilenet, "inverted residuals of timm's, {depth} per stage, {width} to {widest} channels"),
    "convnext": (
        _convnext,
        "3 stages of {depth} ConvNeXt blocks of timm's (layer norm, scale), {width} to {widest} channels",
    ),
    "vit": (_vit, "timm's vision transformer of {depth} blocks of width {width}, for images of 16 pixels"),
    "mlp": (partial(_mlp, nn.ReLU), "{depth} hidden layers of {width} units with ReLU"),
    "mlp-tanh": (partial(_mlp, nn.Tanh), "{depth} hidden layers of {width} units with tanh"),
    "mlp-sigmoid": (partial(_mlp, nn.Sigmoid), "{depth} hidden layers of {width} units with the logistic function"),
    "mlp-gelu": (partial(_mlp, nn.GELU), "{depth} hidden layers of {width} units with GELU"),
}
_LISTED = (
    *("resnet-1x16", "resnet-2x16", "resnet-3x16", "resnet-2x12", "resnet-2x24"),
    *("vgg-2x16", "vgg-3x16"),
    *("inception-1x32", "inception-2x32"),
    *("mobilenet-1x16", "mobilenet-2x16", "mobilenet-3x16", "mobilenet-2x12"),
    *("convnext-1x16", "convnext-2x16"),
    *("vit-2x48", "vit-4x48"),
    *("mlp-2x64", "mlp-tanh-2x64"),
)


def _parsed(name: str) -> tuple[str, int, int] | None:
    """Family, depth and width of a name; None if it is none."""
    found = re.fullmatch(r"([a-z]+(?:-[a-z]+)?)-([1-9])x([1-9]\d{0,2})", name)
    if found is None or found[1] not in _FAMILIES:
        return None
    width = int(found[3])
    wanted = _VIT_HEAD_WIDTH if found[1] == "vit" else 4
    return (found[1], int(found[2]), width) if width in _WIDTHS and width % wanted == 0 else None


def _described(name: str) -> str:
    parsed = _parsed(name)
    assert parsed is not None
    family, depth, width = parsed
    return _FAMILIES[family][1].format(depth=depth, width=width, widest=_widths(width)[-1])


#: Some of the names, with a line on each.
SMALL_NETWORKS: Mapping[str, str] = MappingProxyType({name: _described(name) for name in _LISTED})


def small_network(name: str, *, classes: int, channels: int) -> nn.Module:
    """A small network, initialised from torch's global random numbers.

    ``name`` is one of ``SMALL_NETWORKS`` or another of that form: depth 1 to 9, width 8 to 128 in steps of 4 (of 16 for
    a ViT). ``classes`` is the number of outputs, ``channels`` that of the images.

    Raises:
        InputError: there is no such network, or a number is not positive.
    """
    parsed = _parsed(name)
    if parsed is None:
        near = ", ".join(difflib.get_close_matches(name, SMALL_NETWORKS, n=3, cutoff=0.0))
        raise InputError(
            f"{name!r:.80} is no small network: expected FAMILY-DEPTHxWIDTH with a family of {', '.join(_FAMILIES)}, depth "
            f"1 to {_MOST_DEPTH}, width {_WIDTHS[0]} to {_WIDTHS[-1]} in steps of {_WIDTHS.step} ({_VIT_HEAD_WIDTH} for "
            f"vit); nearest: {near}"
        )
    for what, value in (("classes", classes), ("channels", channels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{what}={value!r} is not possible: expected a whole number, 1 or more")
    family, depth, width = parsed
    return _FAMILIES[family][0](depth, width, classes, channels)

"""The final feature map of a network and its logits, in one forward pass; the network stays as it is.

Networks of timm say it themselves (``forward_features``, ``forward_head``). Of others it is found once, with an example: what
goes into the last pooling over positions, or the last output that has positions, or else what the classifier gets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.classifiers import output_layer
from kzoo.training.evaluation import evaluation_mode

_MAP, _TOKENS, _VECTOR = 4, 3, 2
_Side = Literal["input", "output"]


@dataclass(frozen=True)
class Tap:
    """Where a network's final features are, and how they lie: C x H x W for each image.

    ``layer`` and ``side`` name a module of the network whose input or output they are; without a layer the network is one
    of timm's and says so itself. ``last`` means that channels come last; ``prefix`` tokens before those of positions are
    left out; ``grid`` is H x W.
    """

    channels: int
    grid: tuple[int, int]
    layer: str | None = None
    side: _Side = "output"
    last: bool = False
    prefix: int = 0

    def __call__(self, module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N x C x H x W) and logits (N x outputs) of images that are ready for the network."""
        if self.layer is None:
            found = module.forward_features(images)  # type: ignore[operator]
            return self._laid(found), module.forward_head(found)  # type: ignore[operator]
        found, logits = _hooked(module, images, self.layer, self.side)
        return self._laid(found), logits

    def _laid(self, found: Tensor) -> Tensor:
        if found.ndim == _MAP:
            return found.permute(0, 3, 1, 2) if self.last else found
        if found.ndim == _VECTOR:
            return found[:, :, None, None]
        tokens = found[:, self.prefix :]
        height = isqrt(tokens.shape[1])
        # A sequence that is no square is a grid of one row.
        height = height if height**2 == tokens.shape[1] else 1
        return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], height, tokens.shape[1] // height)


def tap_of(module: nn.Module, example: Tensor) -> Tap:
    """Where the features of a network are, tried out on an example that is ready for it (n x C x H x W).

    Raises:
        InputError: it has no features that can be told from its outputs.
    """
    with torch.no_grad(), evaluation_mode(module):
        given = module(example)
        if not isinstance(given, Tensor) or given.ndim != _VECTOR:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise InputError(
                f"{type(module).__name__} gives {shape}, not a score for each class of each image: give a classifier"
            )
        found = _told(module, example, given) or _searched(module, example)
        features, logits = found(module, example)
    if not _same(logits, given):
        raise InputError(f"{type(module).__name__} gives other outputs when it is asked again: it cannot be distilled")
    return Tap(
        features.shape[1], (features.shape[2], features.shape[3]), found.layer, found.side, found.last, found.prefix
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are the same bit for bit; those that are no number are alike."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _told(module: nn.Module, example: Tensor, given: Tensor) -> Tap | None:
    """The tap of a network of timm's, where its own two steps give its outputs."""
    if not callable(getattr(module, "forward_features", None)) or not callable(getattr(module, "forward_head", None)):
        return None
    features = module.forward_features(example)  # type: ignore[operator]
    if not isinstance(features, Tensor) or features.ndim not in (_MAP, _TOKENS, _VECTOR):
        return None
    if not _same(module.forward_head(features), given):  # type: ignore[operator]
        return None
    width = getattr(module, "num_features", None)
    last = features.ndim == _MAP and (
        getattr(module, "output_fmt", None) == "NHWC" or (features.shape[1] != width and features.shape[3] == width)
    )
    return Tap(0, (0, 0), None, last=last, prefix=_prefix(module, features))


def _prefix(module: nn.Module, features: Tensor) -> int:
    """How many tokens stand before those of positions: what the network says, or one that a square leaves over."""
    if features.ndim != _TOKENS:
        return 0
    said = getattr(module, "num_prefix_tokens", None)
    if isinstance(said, int):
        return said
    count = features.shape[1]
    return int(isqrt(count) ** 2 != count and isqrt(count - 1) ** 2 == count - 1)


def _searched(module: nn.Module, example: Tensor) -> Tap:
    """The tap of any network, by what its modules get and give."""
    best: Tap | None = None
    learned, pooled = False, 1
    calls = _calls(module, example)
    # Scores of classes are no features, even where they still have positions, as those of SqueezeNet.
    scored = max((at for at, (_, part, _, _) in enumerate(calls) if _has_weights(part)), default=len(calls))
    for name, part, taken, output in calls[:scored]:
        if isinstance(part, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)) and learned and taken.ndim == _MAP:
            best, pooled = Tap(0, (0, 0), name, "input"), taken[0, 0].numel()
        learned = learned or _has_weights(part)
        if not learned or output.ndim not in (_MAP, _TOKENS) or len(output) != len(example):
            continue
        # What comes out of a pooling, such as in squeeze and excitation, has lost its positions.
        if output.ndim == _TOKENS or output[0, 0].numel() > 1 or pooled == 1:
            last = output.ndim == _MAP and _is_channels_last(part, output)
            best = Tap(0, (0, 0), name, "output", last, _prefix(part, output))
    return best or Tap(0, (0, 0), output_layer(module, example), "input")


def _has_weights(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None


def _is_channels_last(part: nn.Module, output: Tensor) -> bool:
    """Whether a normalisation over the last axes has seen channels there; some change the axes for that and back again."""
    return type(part) is nn.LayerNorm and tuple(output.shape[-len(part.normalized_shape) :]) == part.normalized_shape


def _calls(module: nn.Module, example: Tensor) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """Each call of a module without parts: its name, the module, the first tensor that it got, and what it gave."""
    found: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(part: nn.Module, taken: Any, output: Any) -> None:
            if isinstance(output, Tensor) and taken and isinstance(taken[0], Tensor):
                found.append((name, part, taken[0], output))

        return hook

    leaves = [(name, part) for name, part in module.named_modules() if next(part.children(), None) is None]
    handles = [part.register_forward_hook(note(name)) for name, part in leaves]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _hooked(module: nn.Module, images: Tensor, layer: str, side: _Side) -> tuple[Tensor, Tensor]:
    """What a layer got or gave in its last call, and what the network gave."""
    kept: list[Tensor] = []

    def note(_part: nn.Module, taken: Any, output: Any) -> None:
        kept[:] = [taken[0] if side == "input" else output]

    handle = module.get_submodule(layer).register_forward_hook(note)
    try:
        logits = module(images)
    finally:
        handle.remove()
    return kept[0], logits

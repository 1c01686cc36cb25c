"""Which network of a library a changed network has become: the same parts, under the same names, of the same shapes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from torch import nn

from kzoo.readers.module import without_weights

_SCALARS = (bool, int, float, str, tuple)
# What a network does in training only, and what tells how it came to be, makes no other architecture.
_IGNORED = ("drop", "training", "pretrained", "momentum", "inplace", "checkpointing", "stochastic")


def equal_architecture(module: nn.Module, among: Collection[str] | None = None) -> str | None:
    """The name of timm's or torchvision's network that computes what this module computes, such as ``timm:resnet34``.

    Its state_dict has the same keys and shapes, its parts have the same classes and the same settings (dropout aside).
    Candidates are those of the module's own family, ``among`` these names where they are given, nearest name first, built
    without memory for weights. None where there is none.
    """
    for name, build in _candidates(module):
        if among is not None and name not in among:
            continue
        try:
            with without_weights(on_cpu=name.partition(":")[2].startswith("regnet")):
                other = build()
        except Exception:  # constructors do, for a number of classes or channels that they do not take
            continue
        if is_same(module, other):
            return name
    return None


def is_same(module: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same parts, under the same names, of the same shapes and settings."""
    shapes, others = ({key: value.shape for key, value in one.state_dict().items()} for one in (module, other))
    return shapes == others and _settings(module) == _settings(other)


def _settings(module: nn.Module) -> list[tuple[str, type[nn.Module], dict[str, Any]]]:
    return [
        (name, type(part), {key: value for key, value in vars(part).items() if _counts(key, value)})
        for name, part in module.named_modules()
        # One network may have no module where another has one that does nothing.
        if "drop" not in type(part).__name__.lower() and not isinstance(part, nn.Identity)
    ]


def _counts(key: str, value: object) -> bool:
    return isinstance(value, _SCALARS) and not key.startswith("_") and not any(word in key for word in _IGNORED)


def _candidates(module: nn.Module) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    place = type(module).__module__
    classes, channels = getattr(module, "num_classes", None), _channels(module)
    if place.startswith("timm.models."):
        import timm

        names = timm.list_models(module=place.rpartition(".")[2])
        config = getattr(module, "pretrained_cfg", None) or {}
        own = config.get("architecture", "") if isinstance(config, dict) else ""
        for name in _nearest(own, names):
            options: dict[str, Any] = {"num_classes": classes, "in_chans": channels, "pretrained": False}
            yield f"timm:{name}", partial(timm.create_model, name, **options)
    elif place.startswith("torchvision.models."):
        from torchvision.models import get_model_builder, list_models

        last = [part for part in module.modules() if isinstance(part, nn.Linear)]
        count = last[-1].out_features if last else 1000
        for name in list_models():
            builder = get_model_builder(name)
            if builder.__module__ != place:
                continue
            yield f"torchvision:{name}", partial(builder, weights=None, num_classes=count)


def _channels(module: nn.Module) -> int:
    return next((part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)), 3)


def _nearest(own: str, names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: -difflib.SequenceMatcher(None, own, name).ratio())

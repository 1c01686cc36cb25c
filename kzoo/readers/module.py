"""Read the architecture of a torch module; build modules without allocating or initialising weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kzoo.errors import InputError
from kzoo.layers import Architecture, Layer
from kzoo.standardize import ModuleTree, standardize

# Tested in this order by isinstance, as the paper's code does (section 1.1).
_TYPED: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.BatchNorm1d, "bn1d"),
    (nn.BatchNorm2d, "bn2d"),
    (nn.BatchNorm3d, "bn3d"),
    (nn.Linear, "linear"),
)


def module_architecture(module: nn.Module, name: str = "") -> Architecture:
    """The standardized architecture of ``module``; its weights may live on the meta device.

    Raises:
        InputError: a lazy layer has no shape yet.
    """
    parameters = sum(parameter.numel() for parameter in _materialised(module))
    return Architecture(standardize(_tree(module, "")), name or type(module).__name__, parameters)


def _materialised(module: nn.Module) -> Iterator[nn.Parameter]:
    for path, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(f"parameter {path} has no shape yet: run the network once, then read its architecture")
        yield parameter


def _tree(module: nn.Module, path: str) -> ModuleTree:
    layer = _layer(module, path)
    if layer.typed:
        return ModuleTree(layer)
    prefix = f"{path}." if path else ""
    return ModuleTree(layer, tuple(_tree(child, prefix + name) for name, child in module.named_children()))


def _layer(module: nn.Module, path: str) -> Layer:
    for kind_class, kind in _TYPED:
        if isinstance(module, kind_class):
            weight, bias = cast(nn.Parameter | None, module.weight), module.bias
            # Batch normalisation without affine parameters has no weight to match (the paper's code stops there).
            if weight is None:
                break
            return Layer(kind, tuple(weight.shape), path, bias=bias is not None)
    return Layer("other", (), path)


class _SkipInitialisation(TorchFunctionMode):
    """Leave tensors as they are where an initialiser would fill them.

    Building on meta takes half the time, and building on the CPU touches no memory for the large weights.
    """

    _RANDOM = frozenset(getattr(torch.Tensor, name) for name in ("normal_", "uniform_", "bernoulli_", "erfinv_"))
    _ARITHMETIC = frozenset(
        getattr(torch.Tensor, name) for name in ("zero_", "fill_", "mul_", "add_", "clamp_", "div_", "copy_")
    )

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in self._RANDOM or (func in self._ARITHMETIC and args[0].is_meta):
            return args[0]
        return func(*args, **kwargs)


@contextmanager
def without_weights(on_cpu: bool = False) -> Iterator[None]:
    """Build modules inside this context with no memory for weights and no initialisation.

    They live on the meta device, or, ``on_cpu``, in memory that is reserved but not touched: their values are
    meaningless, and only their shapes may be used. Libraries' warnings about deprecated names and default
    initialisation are silenced: what is read here depends on neither.
    """
    with torch.device("cpu" if on_cpu else "meta"), _SkipInitialisation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Read the architecture of a torch module; build modules without allocating or initialising weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kzoo.errors import InputError
from kzoo.layers import EXTENDED_KINDS, PAPER_KINDS, Architecture, Layer, raw_parameter
from kzoo.standardize import ModuleTree, tree_architecture

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
    (nn.LayerNorm, "layer_norm"),
    (nn.GroupNorm, "group_norm"),
    (nn.RMSNorm, "rms_norm"),
    # Instance normalisation is group normalisation with one channel per group.
    (nn.modules.instancenorm._InstanceNorm, "group_norm"),
    (nn.Embedding, "embedding"),
)
_NORM_NAMES = (("rmsnorm", "rms_norm"), ("layernorm", "layer_norm"), ("groupnorm", "group_norm"))


def module_architecture(module: nn.Module, name: str = "", submodule: str | None = None) -> Architecture:
    """The standardized architecture of ``module``, or of the ``submodule`` at that path in it.

    The weights may live on the meta device.

    Raises:
        InputError: a lazy layer has no shape yet, or there is no such submodule.
    """
    if submodule is not None:
        try:
            module = module.get_submodule(submodule)
        except AttributeError:
            known = ", ".join(child for child, _ in module.named_children())
            raise InputError(
                f"{name or type(module).__name__} has no submodule {submodule!r}: its outermost ones are {known:.200}"
            ) from None
    parameters = sum(parameter.numel() for parameter in _materialised(module))
    return tree_architecture(_tree(module, ""), name or type(module).__name__, parameters)


def _materialised(module: nn.Module) -> Iterator[nn.Parameter]:
    for path, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(f"parameter {path} has no shape yet: run the network once, then read its architecture")
        yield parameter


def _tree(module: nn.Module, path: str) -> ModuleTree:
    layer = _layer(module, path)
    if layer.kind in PAPER_KINDS:
        return ModuleTree(layer)
    prefix = f"{path}." if path else ""
    children = tuple(_tree(child, prefix + name) for name, child in module.named_children())
    return ModuleTree(layer, children if layer.typed else (*_raw_parameters(module, prefix), *children))


def _layer(module: nn.Module, path: str) -> Layer:
    kind = next((kind for kind_class, kind in _TYPED if isinstance(module, kind_class)), None) or _norm_kind(module)
    # A normalisation without affine parameters has no weight to match (the paper's code stops there).
    weight = getattr(module, "weight", None)
    if kind is None or not isinstance(weight, torch.Tensor):
        return Layer("other", (), path)
    shape = tuple(weight.shape)
    if kind in EXTENDED_KINDS and kind != "embedding":
        shape = (weight.numel(),)
    return Layer(kind, shape, path, bias=getattr(module, "bias", None) is not None)


def _norm_kind(module: nn.Module) -> str | None:
    """The kind of a normalisation that a library wrote itself, by its class's name."""
    name = type(module).__name__.lower()
    return next((kind for text, kind in _NORM_NAMES if text in name), None)


def _raw_parameters(module: nn.Module, prefix: str) -> Iterator[ModuleTree]:
    """Parameters that ``module`` holds itself; torch does not tell their place among its children, so they come first."""
    parameters = dict(module.named_parameters(recurse=False))
    packed_bias = parameters.pop("in_proj_bias", None) if isinstance(module, nn.MultiheadAttention) else None
    for name, parameter in parameters.items():
        shape = tuple(parameter.shape)
        if isinstance(module, nn.MultiheadAttention) and len(shape) == 2:
            # Query, key and value in one matrix, which other libraries keep in a linear layer of this very shape.
            yield ModuleTree(Layer("linear", shape, prefix + name, bias=packed_bias is not None), raw=True)
        else:
            yield ModuleTree(raw_parameter(shape, prefix + name), raw=True)


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

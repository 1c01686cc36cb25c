"""What a network does with images, module by module: who is called with what, and which activation gave each output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kzoo.errors import InputError
from kzoo.methods.preserving import normalisations, operands, operation, tensors_of
from kzoo.training.evaluation import evaluation_mode, place

#: Operations that only move values, or choose among them; an activation before them is still that of the output.
_MOVE = frozenset((
    "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "Clone", "Squeeze", "Unsqueeze",
    "MaxPool2DWithIndices", "MaxPool2D", "AvgPool2D", "Slice", "Alias", "ToCopy", "NativeDropout",
    "AdaptiveAvgPool2D",
))  # fmt: skip
#: Activations by the name of autograd's operation.
OPERATIONS = {
    "Relu": "relu",
    "Hardtanh": "relu6",
    "LeakyRelu": "leaky_relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Gelu": "gelu",
    "Silu": "silu",
    "Elu": "elu",
    "Softplus": "softplus",
    "Hardswish": "hardswish",
    "Mish": "mish",
}
#: What an activation is told where it is the one of that name and no other; by what autograd remembers of it.
_USUAL: Mapping[str, Mapping[str, float | str]] = {
    "relu6": {"min_val": 0.0, "max_val": 6.0},
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0, "scale": 1.0, "input_scale": 1.0},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "gelu": {"approximate": "none"},
    "gelu_tanh": {"approximate": "tanh"},
}
_DEFAULT_SIZE = 224
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Call:
    """How a module was called first, and how often: its arguments, and its output, which it may have changed since."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    shapes: tuple[tuple[int, ...], ...] = ()
    given: tuple[tuple[int, ...], ...] = ()


def calls(module: nn.Module, names: Collection[str], images: Tensor) -> dict[str, Call]:
    """How the modules of these names are called on images, in evaluation mode.

    Raises:
        InputError: the network does not take the images.
    """
    found = {name: Call() for name in names}

    def before(call: Call, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call.count += 1
        if call.count == 1:
            # Copies, for what comes behind may change them in place.
            call.args, call.kwargs = _copied(args), _copied(kwargs)
            call.given = tuple(tuple(tensor.shape) for tensor in tensors_of(args))

    def after(call: Call, _: nn.Module, __: Any, output: Any) -> None:
        call.shapes = call.shapes or tuple(tuple(tensor.shape) for tensor in tensors_of(output))

    handles = []
    for name, call in found.items():
        part = module.get_submodule(name)
        handles.append(part.register_forward_pre_hook(partial(before, call), with_kwargs=True))
        handles.append(part.register_forward_hook(partial(after, call)))
    try:
        outputs_of(module, images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(part) for part in value)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return value


@torch.no_grad()
def outputs_of(module: nn.Module, images: Tensor, training: bool = False) -> list[Tensor]:
    """What the network gives for images, in evaluation mode; with ``training`` batch normalisation normalises by batch.

    Statistics stay as they are.

    Raises:
        InputError: the network does not take the images.
    """
    with evaluation_mode(module), _kept_statistics(module):
        if training:
            for norm in normalisations(module):
                norm.training = True
        try:
            return tensors_of(module(images))
        except Exception as error:  # networks raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            shape = "x".join(map(str, images.shape))
            raise InputError(
                f"the network does not take images of {shape} ({reason:.200}): give calibration images"
            ) from None


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    buffers = [(buffer, buffer.clone()) for norm in normalisations(module) for buffer in norm.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def example_images(module: nn.Module, count: int = 2, seed: int = 0) -> Tensor:
    """Images of noise in the size that a network takes, as far as it tells: N x C x H x W, standard normal.

    A network that begins with a linear layer gets vectors, N x features.
    """
    first = next((part for part in module.modules() if isinstance(part, (*_CONVOLUTIONS, nn.Linear))), None)
    if isinstance(first, nn.Linear) and not hasattr(module, "pretrained_cfg"):
        return _noise(module, (count, first.in_features), seed)
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    size = tuple(config["input_size"]) if "input_size" in config else None
    taken = [part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)]
    # A network may transform its images before its first convolution.
    channels = next((count for count in taken if count in (1, 3)), taken[0] if taken else 3)
    if size is None:
        side = getattr(module, "image_size", None)
        side = side if isinstance(side, int) else _DEFAULT_SIZE
        size = (channels, side, side)
    embedding = getattr(module, "patch_embed", None)
    if isinstance(fixed := getattr(embedding, "img_size", None), tuple) and len(fixed) == 2:
        size = (size[0], *fixed)
    return _noise(module, (count, *size), seed)


def _noise(module: nn.Module, shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(*place(module))


@dataclass
class Output:
    """What a module gave first: its shape, the activation that made it (None: another operation), how often it was called.

    ``given`` is the shape of what it took. ``direct`` tells that nothing came behind the activation. ``tensor`` and ``taken``
    are the identities of its output and of its input, ``norm`` is the batch normalisation before the activation, where
    somebody looked for it.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    given: tuple[int, ...]
    activation: str | None
    direct: bool
    tensor: int
    taken: int
    count: int = 1
    norm: _BatchNorm | None = None


def survey(module: nn.Module, images: Tensor) -> list[Output]:
    """Every module that gives one tensor, in the order in which they end, in evaluation mode.

    Raises:
        InputError: the network does not take the images.
    """
    found: dict[str, Output] = {}
    held: list[Tensor] = []  # as long as they live, no two have one id

    def after(name: str, part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if name in found:
            found[name].count += 1
        elif isinstance(output, Tensor) and output.is_floating_point() and output.ndim >= 2:
            held.append(output)
            taken = args[0] if args and isinstance(args[0], Tensor) else None
            if taken is not None:
                held.append(taken)
            activation, direct = activation_of(output)
            given = () if taken is None else tuple(taken.shape)
            found[name] = Output(name, part, tuple(output.shape), given, activation, direct, id(output), id(taken))

    handles = [part.register_forward_hook(partial(after, name)) for name, part in module.named_modules() if name]
    frozen = [value for value in module.parameters() if not value.requires_grad and value.is_floating_point()]
    try:
        for value in frozen:
            value.requires_grad_(True)
        with evaluation_mode(module), torch.enable_grad():
            module(images)
    except Exception as error:  # networks raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the network cannot be traced ({reason:.200}): give calibration images that it takes"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
        for value in frozen:
            value.requires_grad_(False)
    return list(found.values())


def activation_of(output: Tensor) -> tuple[str | None, bool]:
    """The activation that made a tensor, by autograd's graph, and whether nothing came behind it; None for none."""
    node, direct = output.grad_fn, True
    while node is not None:
        name = operation(node)
        if name in OPERATIONS:
            return _usual(OPERATIONS[name], node), direct
        if name not in _MOVE:
            return None, False
        node, direct = next((part for part in operands(node) if part is not None), None), False
    return None, False


def _usual(name: str, node: Any) -> str | None:
    """The activation that a node computes: None where it has other bounds or slopes than the one of that name."""
    names = ("gelu", "gelu_tanh") if name == "gelu" else (name,)
    return next(
        (one for one in names if all(_is(node, key, value) for key, value in _USUAL.get(one, {}).items())), None
    )


def _is(node: Any, key: str, value: float | str) -> bool:
    found = getattr(node, f"_saved_{key}", value)
    return found == value if isinstance(value, str) else abs(float(found) - value) < 1e-6


def chain_of(name: str, found: Sequence[Output]) -> list[Output]:
    """A module's output, and those of the modules that take it one after the other."""
    places = [number for number, output in enumerate(found) if output.name == name]
    if not places:
        raise InputError(f"{name} is not run, or gives no tensor: name a layer whose output is one")
    chain = [found[places[0]]]
    for output in found[places[0] + 1 :]:
        around = output.tensor == chain[-1].tensor and output.taken != chain[-1].tensor
        if output.taken == chain[-1].tensor or around:
            chain.append(output)
    return chain


def source_of(point: Output, found: Sequence[Output]) -> Output | None:
    """The convolution or linear layer that ran last before (or in) a module and has as many outputs."""
    source = None
    for output in found:
        part = output.module
        wide = isinstance(part, _CONVOLUTIONS) and len(point.shape) > 2 and part.out_channels == point.shape[1]
        if wide or (isinstance(part, nn.Linear) and part.out_features == point.shape[-1]):
            source = output
        if output is point:
            break
    return source


@torch.no_grad()
def measure_inputs(
    module: nn.Module, norms: Sequence[nn.Module], batches: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Mean and biased variance by channel of what goes into each of ``norms``, over all batches together, in float64.

    Batch normalisation normalises by batch meanwhile, as it will in training; everything else is in evaluation mode.
    """
    sums: list[list[Tensor]] = [[] for _ in norms]

    def before(into: list[Tensor], _: nn.Module, args: tuple[Tensor, ...]) -> None:
        values = args[0].detach().double().movedim(1, 0).flatten(1)
        count = torch.full_like(values[:, 0], values.shape[1])
        mean = values.mean(1)
        into.append(torch.stack([count, mean, (values - mean[:, None]).square().sum(1)]))

    handles = [norm.register_forward_pre_hook(partial(before, into)) for norm, into in zip(norms, sums, strict=True)]
    try:
        for batch in batches:
            outputs_of(module, batch, training=True)
    finally:
        for handle in handles:
            handle.remove()
    return [_pooled(parts) for parts in sums]


def _pooled(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of several samples by their counts, means and sums of squares about them."""
    counts, means, squares = torch.stack(list(parts)).unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    return mean, (squares + counts * (means - mean).square()).sum(0) / total

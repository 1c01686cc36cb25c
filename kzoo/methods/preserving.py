"""How a block can be made the identity: which of its parameters must be zero, and which must pass values on.

The block is run once and the graph that autograd keeps of it is read from the output backwards. The value at a node
either has to *be* the block's input (it is handed on along a shortcut) or has to *vanish* (everything that is added to
it). A branch vanishes at the parameter nearest to the sum: a layer scale, the gamma of a normalisation, a projection.
Where there is no shortcut, convolutions, linear layers and batch normalisations can be identities themselves, as in
Net2DeeperNet (arXiv 1511.05641). What is found is only a proposal: whoever uses it checks it on numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: What becomes of a parameter. ``identity`` is for a weight that hands its input on.
Value = Literal["zero", "one", "identity"]
#: A node of autograd's graph; torch names no public type with these attributes.
Node = Any

_NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "NativeGroupNorm", "FusedRmsNorm", "FusedRMSNorm")
# A sum of products of both operands: one of them must vanish.
_PRODUCTS = ("Mul", "Bmm", "Mm", "Dot", "Mv", "Einsum")
_SUMS_OF_TWO = ("Add", "Sub", "CopySlices")  # the last is what is added in place to a part of a tensor
_SUMS = (*_SUMS_OF_TWO, "Cat", "Stack")
# Functions whose value at zero is not zero, or is not defined.
_NEVER_ZERO = frozenset(
    ["Sigmoid", "Softmax", "LogSoftmax", "Exp", "Hardsigmoid", "Cos", "Softplus", "Rsqrt", "Reciprocal", "Pow", "Erfc"]
)
# They give what they are given, up to the order or the shape of it; activations do so where they are idempotent.
_HAND_ON = frozenset((
    "View", "UnsafeView", "Reshape", "ReshapeAlias", "Permute", "Transpose", "T", "Clone", "Alias", "Expand",
    "Squeeze", "Unsqueeze", "ToCopy", "Slice", "Split", "SplitWithSizes", "Select", "Unbind", "Index", "IndexSelect",
    "AsStrided", "Roll", "ConstantPadNd", "Relu", "Hardtanh", "LeakyRelu", "Gelu", "Silu", "Hardswish", "Tanh", "Elu",
    "Mish", "PreluKernel", "Movedim", "Chunk", "Contiguous", "NativeDropout", "Unfold", "Flatten", "Unflatten",
    "PixelShuffle", "PixelUnshuffle", "NanToNum", "ClampMin", "Clamp", "Threshold", "Im2Col", "Col2Im",
))  # fmt: skip
# A parameter that they are applied to is still that parameter.
_SHOWS = ("View", "Reshape", "ReshapeAlias", "T", "Transpose", "Permute", "Unsqueeze", "Squeeze", "Expand")


@dataclass(frozen=True)
class Proposal:
    """What to set the block's parameters to, by the parameter's name, so that it gives its input back.

    ``identities`` are layers that hand the input on; ``residual`` tells that there are branches beside a shortcut, which vanish.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    identities: frozenset[str] = frozenset()
    residual: bool = False


class NoIdentity(Exception):
    """The block cannot be made the identity; the text says at which operation the input is lost."""


@dataclass(frozen=True)
class _Found:
    """Parameters by identity with their values, and how many layers must be identities."""

    values: Mapping[int, Value]
    identities: int = 0
    # Branches beside a shortcut, which vanish.
    branches: int = 0

    @property
    def cost(self) -> tuple[int, int]:
        return self.identities, len(self.values)


def propose(block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Proposal:
    """How ``block(*args, **kwargs)`` can be made to give its first arguments back.

    The block is run in the mode that it is in; its buffers may change as they do in a forward pass.

    Raises:
        NoIdentity: there is no way, with the operation that is in the way.
    """
    leaves: list[Tensor] = []

    def traced(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            leaf = value.detach().clone().requires_grad_()
            leaves.append(leaf)
            # Not the leaf itself: blocks may change their input in place.
            return leaf.clone()
        if isinstance(value, (list, tuple)):
            return type(value)(traced(part) for part in value)
        return value

    with torch.enable_grad(), _trainable(block):
        outputs = tensors_of(block(*[traced(value) for value in args], **dict(kwargs)))
        walk = _Walk({id(leaf): place for place, leaf in enumerate(leaves)})
        found: list[_Found] = []
        for place, (output, leaf) in enumerate(zip(outputs, leaves, strict=False)):
            if output.shape != leaf.shape:
                raise NoIdentity(f"it turns {tuple(leaf.shape)} into {tuple(output.shape)}")
            found.append(walk.keep(output.grad_fn, place))
        if not found:
            raise NoIdentity("it gives no tensor back")
        return _named(block, _union(found))


def _named(block: nn.Module, found: _Found) -> Proposal:
    names = {id(value): name for name, value in block.named_parameters()}
    values = {names[key]: value for key, value in found.values.items() if key in names}
    if len(values) < len(found.values):
        raise NoIdentity("a parameter that would have to vanish belongs to another part of the network")
    identities = frozenset(name.rpartition(".")[0] for name, value in values.items() if value == "identity")
    return Proposal(values, identities, found.branches > 0)


class _trainable:
    """Every parameter asks for a gradient inside, so that it has a node in the graph."""

    def __init__(self, block: nn.Module) -> None:
        self._frozen = [value for value in block.parameters() if not value.requires_grad and value.is_floating_point()]

    def __enter__(self) -> None:
        for value in self._frozen:
            value.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for value in self._frozen:
            value.requires_grad_(False)


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of what a module takes or gives, in order."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, (list, tuple)):
        return [tensor for part in outputs for tensor in tensors_of(part)]
    if isinstance(outputs, dict):
        return [tensor for part in outputs.values() for tensor in tensors_of(part)]
    return []


def operation(node: Node) -> str:
    """The name of a node's operation, without what torch puts behind it."""
    return str(node.name()).rpartition("::")[2].split("Backward")[0].lstrip("_")


def operands(node: Node) -> list[Node | None]:
    """The nodes that a node computes with; None for what needs no gradient."""
    return [child for child, _ in node.next_functions]


def _union(parts: Sequence[_Found]) -> _Found:
    values: dict[int, Value] = {}
    for part in parts:
        for key, value in part.values.items():
            if values.setdefault(key, value) != value:
                raise NoIdentity("a parameter would have to be two things at once")
    return _Found(values, sum(part.identities for part in parts), sum(part.branches for part in parts))


class _Walk:
    """One graph, read from the output backwards; each node is looked at once."""

    def __init__(self, inputs: Mapping[int, int]) -> None:
        self._inputs = inputs
        self._kept: dict[tuple[Node, int], _Found | NoIdentity] = {}
        self._zeroed: dict[Node, _Found | NoIdentity] = {}

    # The value at a node is an input of the block.

    def keep(self, node: Node | None, place: int) -> _Found:
        """How the value at a node can be the input of that place."""
        if node is None:
            raise NoIdentity("its output does not depend on its input")
        return _once(self._kept, (node, place), lambda: self._keep(node, place))

    def _keep(self, node: Node, place: int) -> _Found:
        name, parts = operation(node), operands(node)
        if name == "AccumulateGrad" or name.endswith("AccumulateGrad"):
            if self._inputs.get(id(node.variable)) == place:
                return _Found({})
            raise NoIdentity("its output is a parameter of its own")
        if name in _SUMS_OF_TWO:
            return self._keep_one(parts[:1] if name == "Sub" else parts, parts, place)
        if name == "Cat":
            return _union([self.keep(part, place) for part in parts])
        if name == "Mul":
            return self._keep_scaled(parts, place)
        if name == "Convolution" or name.endswith("BatchNorm"):
            return self._layer(parts[0], parts[1], parts[2:], place, name)
        if name == "Addmm":
            return self._layer(parts[1], parts[2], parts[:1], place, name)
        if name == "Mm":
            return self._layer(parts[0], parts[1], [], place, name)
        if name in _HAND_ON:
            return self.keep(next(iter(parts), None), place)
        raise NoIdentity(f"its input goes through the operation {name}, which changes it")

    def _keep_one(self, candidates: Sequence[Node | None], parts: Sequence[Node | None], place: int) -> _Found:
        """One summand is the input, the others vanish."""
        found: list[_Found] = []
        reasons: list[NoIdentity] = []
        for chosen in range(len(candidates)):
            try:
                others = [part for number, part in enumerate(parts) if number != chosen]
                # A parameter that is added is a bias, not a branch.
                branches = sum(_parameter(part) is None for part in others)
                vanished = [self.vanish(part) for part in others]
                found.append(_union([self.keep(parts[chosen], place), *vanished, _Found({}, 0, branches)]))
            except NoIdentity as reason:
                reasons.append(reason)
        if not found:
            raise reasons[0]
        return min(found, key=lambda one: one.cost)

    def _keep_scaled(self, parts: Sequence[Node | None], place: int) -> _Found:
        """The input times a parameter, which must then be one; times a constant that is one, as far as numbers show."""
        known = [part for part in parts if part is not None]
        if len(known) == 1:
            return self.keep(known[0], place)
        for data, factor in (known, known[::-1]):
            parameter = _parameter(factor)
            if parameter is not None and id(parameter) not in self._inputs:
                return _union([self.keep(data, place), _Found({id(parameter): "one"})])
        raise NoIdentity("its input is multiplied by something that is computed")

    def _layer(
        self, data: Node | None, weight: Node | None, biases: Sequence[Node | None], place: int, name: str
    ) -> _Found:
        """A layer that hands its input on: an identity weight, and no bias."""
        parameter = _parameter(weight)
        if parameter is None:
            raise NoIdentity(f"its input goes through the operation {name}, whose weight is no parameter")
        values: dict[int, Value] = {id(parameter): "identity"}
        for bias in biases:
            if (one := _parameter(bias)) is not None:
                values[id(one)] = "zero"
        return _union([self.keep(data, place), _Found(values, 1)])

    # The value at a node is zero.

    def vanish(self, node: Node | None) -> _Found:
        """How the value at a node can be zero."""
        if node is None:
            # A constant may be the zero that a sum begins with; numbers will tell.
            return _Found({})
        return _once(self._zeroed, node, lambda: self._vanish(node))

    def _vanish(self, node: Node) -> _Found:
        name, parts = operation(node), operands(node)
        if name.endswith("AccumulateGrad"):
            if id(node.variable) in self._inputs:
                raise NoIdentity("its input is added to itself")
            return _Found({id(node.variable): "zero"})
        if name in _SUMS:
            return _union([self.vanish(part) for part in parts])
        if name == "Convolution" or name.startswith(_NORMS):
            return _union([self.vanish(part) for part in (parts[1], *filter(None, parts[2:3]))])
        if name == "Addmm":
            first = [self.vanish(parts[0])] if parts[0] is not None else []
            return _union([*first, self._vanish_factor(parts[:0:-1])])
        if name in _PRODUCTS:
            return self._vanish_factor(parts)
        if name.startswith("ScaledDotProduct"):
            return self.vanish(parts[2])
        if name in _NEVER_ZERO:
            raise NoIdentity(f"what is added to its input comes from the operation {name}, which is never zero")
        return _union([self.vanish(part) for part in parts if part is not None])

    def _vanish_factor(self, parts: Sequence[Node | None]) -> _Found:
        """One factor is enough: a parameter where one is, else what costs least."""
        found: list[_Found] = []
        for part in parts:
            if part is None:
                continue
            parameter = _parameter(part)
            if parameter is not None and id(parameter) not in self._inputs:
                return _Found({id(parameter): "zero"})
            try:
                found.append(self.vanish(part))
            except NoIdentity:
                continue
        if not found:
            raise NoIdentity("what is added to its input is a product without a parameter that could be zero")
        return min(found, key=lambda one: one.cost)


def _once(known: dict[Any, _Found | NoIdentity], key: Any, find: Callable[[], _Found]) -> _Found:
    """What was found for a key before, or what is found now; failures are remembered too."""
    if key not in known:
        try:
            known[key] = find()
        except NoIdentity as reason:
            known[key] = reason
    answer = known[key]
    if isinstance(answer, NoIdentity):
        raise answer
    return answer


def _parameter(node: Node | None) -> Tensor | None:
    """The leaf that a node only shows in another shape; None if it is computed from more than one, or in another way."""
    while node is not None:
        name = operation(node)
        if name.endswith("AccumulateGrad"):
            found: Tensor = node.variable
            return found
        if name not in _SHOWS:
            return None
        node = next(iter(operands(node)), None)
    return None


@torch.no_grad()
def make_identity(block: nn.Module, proposal: Proposal) -> None:
    """Set the block's parameters to what was proposed, in place.

    A batch normalisation that is to be the identity gets gamma and beta that undo its running statistics.

    Raises:
        NoIdentity: a weight cannot be an identity in its shape.
    """
    parameters = dict(block.named_parameters())
    for name, value in proposal.values.items():
        if value == "zero":
            parameters[name].zero_()
        elif value == "one":
            parameters[name].fill_(1)
    for path in proposal.identities:
        _make_layer_identity(block.get_submodule(path), path)


def _make_layer_identity(layer: nn.Module, path: str) -> None:
    if isinstance(layer, _BatchNorm):
        undo_normalisation(layer)
        return
    weight = getattr(layer, "weight", None)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        kernel = identity_kernel(layer)
    elif isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
        kernel = torch.eye(layer.in_features)
    else:
        raise NoIdentity(f"its layer {path} cannot be an identity")
    assert isinstance(weight, Tensor)
    weight.copy_(kernel)


def identity_kernel(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Tensor:
    """The kernel with which a convolution gives its input back: one in the middle, for each channel its own.

    Raises:
        NoIdentity: channels, stride or padding change the shape, or the kernel has no middle.
    """
    if layer.in_channels != layer.out_channels or any(step != 1 for step in layer.stride):
        raise NoIdentity(
            f"a convolution of {layer.in_channels} to {layer.out_channels} channels, stride {layer.stride}"
        )
    if any(size % 2 == 0 for size in layer.kernel_size):
        raise NoIdentity(f"a kernel of {layer.kernel_size} has no middle")
    kernel = torch.zeros_like(layer.weight)
    width = layer.weight.shape[1]
    channels = torch.arange(layer.out_channels, device=kernel.device)
    kernel.flatten(2)[channels, channels % width, kernel[0, 0].numel() // 2] = 1
    return kernel


@torch.no_grad()
def undo_normalisation(norm: _BatchNorm) -> None:
    """Set gamma and beta so that, with its running statistics, the layer gives its input back.

    gamma = sqrt(running_var + eps) and beta = running_mean (Net2Net, section on batch normalisation).

    Raises:
        NoIdentity: it has no gamma and beta, or no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None or not norm.affine:
        raise NoIdentity("a batch normalisation without running statistics, gamma or beta cannot be undone")
    norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean)


def normalisations(module: nn.Module) -> Iterator[_BatchNorm]:
    """The batch normalisations of a module."""
    return (part for part in module.modules() if isinstance(part, _BatchNorm))

"""The parts of a network that a transfer moves: layers with all their tensors, and tensors that belong to no layer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from kzoo.layers import Architecture, Layer

#: What training changes; the rest of a part are statistics that a network keeps on the way.
LEARNED = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
NORM_KINDS = ("bn1d", "bn2d", "bn3d", "layer_norm", "group_norm", "rms_norm")
#: A layer's weight is looked at in the axes of its kind; a tensor without a layer in its own.
NO_LAYER = "tensor"
_HEAD = re.compile(r"[a-z_]*(head|classif|fc|last_linear|logits|output)|\d*\Z|\d+\.", re.ASCII)
_PACKED_NAMES = ("qkv", "in_proj_weight", "to_qkv", "Wqkv")


@dataclass(frozen=True)
class Part:
    """A layer or a lone tensor: its name, its kind, the names of its tensors by role, and its weight's shape.

    ``normalised`` tells that a normalisation of its outputs comes right behind it, so that their scale has no effect.
    """

    name: str
    kind: str
    tensors: Mapping[str, str]
    shape: tuple[int, ...]
    normalised: bool = False

    @cached_property
    def output_axis(self) -> int:
        """The axis of the weight that its bias goes along."""
        return 1 if self.kind.startswith("conv_transpose") else 0

    @cached_property
    def channel_axes(self) -> tuple[int, ...]:
        """The axes of channels or features, not of space."""
        return tuple(range(min(2, len(self.shape)))) if self.kind.startswith("conv") else tuple(range(len(self.shape)))

    @cached_property
    def fan_in_axes(self) -> tuple[int, ...]:
        """The axes that one output is a sum over; none for a part that is no weighted sum."""
        if not (self.kind.startswith("conv") or self.kind == "linear"):
            return ()
        return tuple(axis for axis in range(len(self.shape)) if axis != self.output_axis)

    @cached_property
    def packed(self) -> int:
        """How many projections lie one after the other along the output axis: 3 for query, key and value, else 1."""
        is_packed = self.kind == "linear" and self.name.rpartition(".")[2] in _PACKED_NAMES and self.shape[0] % 3 == 0
        return 3 if is_packed else 1


def network_parts(
    architecture: Architecture, shapes: Mapping[str, tuple[int, ...]], learned: Collection[str] | None = None
) -> dict[str, Part]:
    """The parts of a network by name: its layers in order, then the tensors that are in none.

    ``shapes`` are those of the network's tensors, ``learned`` the names of those that training changes (all, where
    nobody knows); other tensors without a layer are left out. A layer whose weight is not among the tensors (it is made
    from others when the network runs) is no part; the tensors that it is made from are.
    """
    typed = [layer for layer in architecture.extended.layers if layer.typed]
    layers = [
        replace(part, normalised=follower is not None and _normalises(follower, layer))
        for layer, follower in zip_longest(typed, typed[1:])
        for part in _layer_part(layer, shapes)
    ]
    taken = {key for part in layers for key in part.tensors.values()}
    lone = (
        Part(key, NO_LAYER, {"weight": key}, shape)
        for key, shape in shapes.items()
        if key not in taken and (learned is None or key in learned)
    )
    return {part.name: part for part in (*layers, *lone)}


def _normalises(follower: Layer, layer: Layer) -> bool:
    """Whether the next layer in the order of registration normalises the outputs of this one.

    What follows a linear layer as layer normalisation mostly stands behind a residual sum, where scales do count.
    """
    axis = 1 if layer.kind.startswith("conv_transpose") else 0
    if not (layer.kind.startswith("conv") or layer.kind == "linear") or follower.shape[0] != layer.shape[axis]:
        return False
    own = ("bn1d", "bn2d", "bn3d", "group_norm")
    return follower.kind in own or (layer.kind.startswith("conv") and follower.kind in ("layer_norm", "rms_norm"))


def _layer_part(layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
    if layer.name in shapes:
        # A parameter that a container holds itself; of MultiheadAttention's packed projection the bias is another.
        bias = layer.name.removesuffix("weight") + "bias"
        tensors = {"weight": layer.name} | ({"bias": bias} if layer.bias_entries and bias in shapes else {})
        yield Part(layer.name, layer.kind, tensors, layer.shape)
        return
    prefix = f"{layer.name}." if layer.name else ""
    tensors = {role: prefix + role for role in (*LEARNED, *STATISTICS) if prefix + role in shapes}
    if "weight" in tensors:
        yield Part(layer.name, layer.kind, tensors, layer.shape)


def classifiers(architecture: Architecture) -> list[str]:
    """The names of the layers that give the classes' scores, as far as order and names tell them.

    They are linear layers or 1x1 convolutions of one number of outputs at the end of the network, inside something that is
    called a head (or, in a chain of modules, has a number only); what ends a network without a head is no classifier.
    """
    typed = [layer for layer in architecture.paper.layers if layer.typed]
    found: list[str] = []
    for layer in reversed(typed):
        if not _HEAD.match(layer.name):
            break
        scores = layer.kind == "linear" or (layer.kind == "conv2d" and layer.shape[2:] == (1, 1))
        if scores and layer.shape[0] == typed[-1].shape[0]:
            found.append(layer.name)
    return found


def first_convolution(architecture: Architecture) -> str | None:
    """The name of the layer that sees the image: the first one, if it is a convolution of two axes."""
    first = next((layer for layer in architecture.paper.layers if layer.typed), None)
    return first.name if first is not None and first.kind == "conv2d" else None

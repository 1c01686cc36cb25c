"""From the names and shapes of a network's tensors to its tree of modules, as far as they tell it.

A state dict tells which modules hold weights and of what shape; not their order (safetensors sorts by type and name),
nor the modules without weights, nor whether a weight of two axes is a linear layer or an embedding. What is guessed is
said in the comments; an architecture made this way is approximate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from kzoo.errors import InputError
from kzoo.layers import MOST_SIZE, Architecture, Layer, raw_parameter
from kzoo.readers.safetensors import Tensor
from kzoo.standardize import ModuleTree, tree_architecture

#: Names that frameworks wrap a whole network in: DataParallel, Lightning and the like, detectors.
WRAPPERS = ("module.", "model.", "backbone.")
_Value = TypeVar("_Value")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_MOST_DEPTH = 100
_MOST_WRAPPERS = 8
# The time of a search grows with the cube of the layers; timm's deepest networks have some 1,100.
_MOST_MODULES = 3000
_CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}
_NORMALISATIONS = ("bn2d", "layer_norm", "rms_norm")
_EMBEDDING = re.compile(r"(\A|_)(wte|wpe|embed_tokens|embeddings?)\Z")


@dataclass
class _Module:
    """A module while the tree is grown: its own tensors and its children by name."""

    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    children: dict[str, _Module] = field(default_factory=dict)


def without_wrappers(tensors: Mapping[str, _Value]) -> dict[str, _Value]:
    """What is known by the names of tensors, by names without the prefixes of `WRAPPERS`.

    They are taken off as long as two names do not become one.
    """
    found = dict(tensors)
    for _ in range(_MOST_WRAPPERS):
        for wrapper in WRAPPERS:
            bare = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
            if len(bare) == len(found):
                found = bare
    return found


def learned_entries(tensors: Mapping[str, Tensor]) -> int:
    """Entries of all tensors that training changes, which batch statistics, masks and counters are not."""
    return sum(
        math.prod(tensor.shape)
        for name, tensor in tensors.items()
        if _learned(name.rpartition(".")[2], tensor) and name.rpartition(".")[2] not in _STATISTICS
    )


def _learned(name: str, tensor: Tensor) -> bool:
    # Quantised weights are integers too, and keep their names.
    return tensor.floating or name in ("weight", "bias")


def shapes_architecture(tensors: Mapping[str, Tensor], name: str) -> Architecture:
    """The approximate architecture of a network of which only these tensors are known.

    Raises:
        InputError: there are more modules, or deeper ones, than in any network.
    """
    return tree_architecture(shapes_tree(tensors, name), name, learned_entries(tensors), approximate=True)


def shapes_tree(tensors: Mapping[str, Tensor], name: str) -> ModuleTree:
    """The tree of modules that these tensors belong to; ``name`` is what messages call the file.

    Raises:
        InputError: there are more modules, or deeper ones, than in any network.
    """
    modules = len({key.rpartition(".")[0] for key in tensors})
    if modules > _MOST_MODULES:
        raise InputError(
            f"{name} holds the tensors of {modules:,} modules, more than the {_MOST_MODULES:,} that are compared: take a "
            "part of it with --submodule"
        )
    root = _Module()
    for key, tensor in tensors.items():
        *path, last = key.split(".")
        if len(path) > _MOST_DEPTH:
            raise InputError(
                f"{name}: tensor {key!r:.80} lies {len(path)} modules deep: expected at most {_MOST_DEPTH}"
            )
        module = root
        for part in path:
            module = module.children.setdefault(part, _Module())
        if _learned(last, tensor):
            module.tensors[last] = tensor.shape
    return _with_batch_norms(_tree(root, ""))


def _tree(module: _Module, path: str) -> ModuleTree:
    layer = _layer(module.tensors, path)
    prefix = f"{path}." if path else ""
    children: list[ModuleTree] = [] if layer.typed else list(_raw_parameters(module.tensors, prefix))
    for name in registration_order(module.children):
        child = _tree(module.children[name], prefix + name)
        children.append(child)
        if child.layer.kind in _NORMALISATIONS:
            # What most often follows one has no weights: an activation, or the identity in its place.
            children.append(ModuleTree(Layer("other")))
    return ModuleTree(layer, tuple(children))


def _layer(tensors: Mapping[str, tuple[int, ...]], path: str) -> Layer:
    """The layer that a module with these tensors is; a container or anything strange is opaque."""
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or not weight or min(weight) < 1 or max(weight) > MOST_SIZE:
        return Layer("other", (), path)
    kind = _CONVOLUTIONS.get(len(weight))
    if kind and bias and bias[0] != weight[0] and bias[0] == weight[1]:
        # The weight of a transposed convolution is (in, out, ...), and the bias has the size of the output.
        kind = kind.replace("conv", "conv_transpose")
    elif len(weight) == 2:
        kind = "embedding" if bias is None and _EMBEDDING.search(path.rpartition(".")[2]) else "linear"
    elif len(weight) == 1:
        # The number of axes of a batch normalisation follows from its neighbours; see _with_batch_norms. A group
        # normalisation has the tensors of a layer normalisation.
        kind = "bn2d" if "running_mean" in tensors else "layer_norm" if bias else "rms_norm"
    return Layer(kind, weight, path, bias=bias is not None) if kind else Layer("other", (), path)


def _raw_parameters(tensors: Mapping[str, tuple[int, ...]], prefix: str) -> Iterator[ModuleTree]:
    for name in registration_order(tensors):
        if name in _STATISTICS or (name == "in_proj_bias" and "in_proj_weight" in tensors):
            continue
        shape = tensors[name]
        if name == "in_proj_weight" and len(shape) == 2 and 1 <= min(shape) <= max(shape) <= MOST_SIZE:
            # Query, key and value in one matrix: what `kzoo.readers.module` makes of torch's MultiheadAttention.
            yield ModuleTree(Layer("linear", shape, prefix + name, bias="in_proj_bias" in tensors), raw=True)
        else:
            yield ModuleTree(raw_parameter(shape, prefix + name), raw=True)


def _with_batch_norms(tree: ModuleTree) -> ModuleTree:
    """Batch normalisations with as many axes as the convolution (1 for a linear layer) that comes before them."""
    axes = "2"

    def visit(node: ModuleTree) -> ModuleTree:
        nonlocal axes
        layer = node.layer
        if layer.kind == "bn2d":
            layer = Layer(f"bn{axes}d", layer.shape, layer.name, layer.bias)
        elif layer.kind.startswith("conv"):
            axes = layer.kind[-2]
        elif layer.kind == "linear" and not node.raw:
            axes = "1"
        return ModuleTree(layer, tuple(visit(child) for child in node.children), node.raw)

    return visit(tree)


def registration_order(names: Iterable[str]) -> list[str]:
    """The children of a module as networks usually register them, which mostly is the order they run in.

    Numbers count as numbers and before words, so that ``conv1, bn1, conv2, bn2`` stay together; then the names of
    `_USUAL_ORDER` change places among themselves.
    """
    ordered = sorted(names, key=_natural)
    usual = iter(sorted(filter(_USUAL_PLACES.__contains__, ordered), key=_USUAL_PLACES.__getitem__))
    return [next(usual) if name in _USUAL_PLACES else name for name in ordered]


def _natural(name: str) -> tuple[bool, int, int, list[tuple[bool, int, str]]]:
    numbered = _NUMBERED.fullmatch(name)
    parts = [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.findall(r"\d{1,9}|\D+", name)
    ]
    if numbered is None:
        return True, 0, 0, parts
    return False, int(numbered[2]), _WORDS.index(numbered[1]), parts


# The words that number the layers of one step, in the order they take within it.
_WORDS = ("norm", "ln", "conv", "attn", "fc", "mlp", "linear", "dwconv", "bn", "gn", "ls", "act")
_NUMBERED = re.compile(rf"({'|'.join(_WORDS)})(\d{{1,9}})", re.ASCII)
#: In this order the networks of timm, torchvision and transformers mostly register children of these names.
_USUAL_ORDER = """
    embeddings wte wpe embed_tokens stem conv_stem patch_embed features conv conv_exp conv_pw conv1 conv1_1x1 fc1
    input_layernorm norm1 q kv k v q_proj k_proj v_proj query key value qkv rel_pos self_attn attn attn_block attn_grid
    proj o_proj out_proj ls1 bn bn1 layer1 layer2 layer3 layer4 conv_dw shortcut conv2 conv2_kxk
    post_attention_layernorm norm2 bn2 se conv_reduce conv_expand conv_pwl conv3 conv3_1x1 norm3 bn3 downsample stages
    layers blocks encoder decoder norm mlp gate_proj up_proj down_proj ls2 pre_logits final_conv conv_head head
    classifier fc fc2 lm_head
"""
_USUAL_PLACES = {name: place for place, name in enumerate(_USUAL_ORDER.split())}

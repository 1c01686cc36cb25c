"""Structural edits of a network as plain data, so that a deepened network can be built again from its base.

An edit is a mapping with the key ``edit``; `apply_edits` carries a list of them out, one after the other, and names in a
later edit are those that earlier ones left. They change structure alone: which values the new parameters get is the
business of the method that thought of the edit, and afterwards of the weights file.

``{"edit": "append", "stage": "layer1", "like": "1"}`` appends to a stage (a container of blocks) a block like its child
``like``; with ``"unstrided": {"inputs": 64, "outputs": 128, "shortcut": "identity" or "none"}`` one without that child's
stride, of as many inputs as outputs. ``{"edit": "insert", "after": NAME, "like": NAME}`` puts a block like ``like`` behind another module.
``{"edit": "insert", "after" or "before": NAME, "layer": {...}}`` puts a new layer there, see `LAYER_KEYS`; a layer that
one comes before takes its outputs, and with ``"bias": true`` gets a bias. Where the parent
runs numbered children one after the other, what follows is renumbered; elsewhere the module and the new one become
``NAME.base`` and ``NAME.deeper``.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.unstriding import FORMS, unstride

Edit = dict[str, Any]

#: What the description of an inserted layer may hold. ``kind`` is ``linear`` or ``conv1d`` to ``conv3d``; ``inputs`` and
#: ``outputs`` count features or channels; ``activation`` is one of `ACTIVATIONS`; ``norm`` is the epsilon of a batch
#: normalisation between layer and activation; ``residual`` makes it a shortcut around two layers; ``last`` says that
#: channels lie on the last axis.
LAYER_KEYS = ("kind", "inputs", "outputs", "kernel", "groups", "bias", "norm", "activation", "residual", "last")
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
}
_CONVOLUTIONS = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
_NORMS = {"linear": nn.BatchNorm1d, "conv1d": nn.BatchNorm1d, "conv2d": nn.BatchNorm2d, "conv3d": nn.BatchNorm3d}
_MOST_EDITS, _MOST_CHANNELS, _MOST_KERNEL, _MOST_NAME = 1000, 65_536, 63, 300
#: So many parameters at most may one inserted layer have: a list of edits may come from a stranger.
_MOST_PARAMETERS = 1 << 28
#: How many times its parameters and its modules a network may have, beside one such layer and so many modules.
_MOST_GROWTH, _MOST_MODULES = 64, 1000


class Deeper(nn.Sequential):
    """A module and what was put behind (or before) it; attributes that it does not have are those of ``base``.

    Code around a layer reads its attributes now and then, such as the number of its outputs.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not by self._modules: while a copy is being made there is none yet.
            base = vars(self).get("_modules", {}).get("base")
            if base is None or name.startswith("__"):
                raise
            found: Any = getattr(base, name)
            return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The parts one after the other; further arguments go to each block, as they went to ``base``."""
        first, *others = args
        for part in self:
            alone = isinstance(part, InsertedLayer)
            first = part(first) if alone else part(first, *others, **kwargs)
        return first


class InsertedLayer(nn.Sequential):
    """A layer, a batch normalisation if it has one, and an activation; made from a description, see `LAYER_KEYS`."""

    def __init__(self, parts: Mapping[str, nn.Module], residual: bool, moved: bool) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.residual, self.moved = residual, moved

    def forward(self, inputs: Tensor) -> Tensor:
        """The parts one after the other, and the input added where it is residual."""
        outputs = inputs.movedim(-1, 1) if self.moved else inputs
        for part in self:
            outputs = part(outputs)
        outputs = outputs.movedim(1, -1) if self.moved else outputs
        return inputs + outputs if self.residual else outputs


def apply_edits(module: nn.Module, edits: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The module with the structure that ``edits`` describe, in place; state_dict keys and shapes as after deepening.

    New parameters hold whatever their constructor, or the block that they are like, gave them.

    Raises:
        InputError: an edit is malformed, of an unknown kind, names no module or asks for something too large. The module
            may then be half changed.
    """
    if isinstance(edits, (str, bytes, Mapping)) or not isinstance(edits, Sequence):
        raise InputError(f"edits are {type(edits).__name__}: expected a list of mappings, each with the key 'edit'")
    if len(edits) > _MOST_EDITS:
        raise InputError(f"there are {len(edits):,} edits: expected {_MOST_EDITS} at most")
    most = _parameters(module) * _MOST_GROWTH + _MOST_PARAMETERS
    modules = _modules(module) * _MOST_GROWTH + _MOST_MODULES
    for number, edit in enumerate(edits, 1):
        if not isinstance(edit, Mapping):
            raise InputError(f"edit {number} is {edit!r:.80}: expected a mapping with the key 'edit'")
        kind = edit.get("edit")
        if not isinstance(kind, str) or kind not in EDITS:
            raise InputError(f"edit {number} is of the kind {kind!r:.80}: expected one of {', '.join(EDITS)}")
        try:
            EDITS[kind](module, edit)
            _require_bounded(module, most, modules)
        except InputError as error:
            raise InputError(f"edit {number}: {error}") from None
    return module


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _modules(module: nn.Module) -> int:
    return sum(1 for _ in module.modules())


def _require_bounded(module: nn.Module, most: int, modules: int) -> None:
    """A block that is put behind itself again and again doubles each time."""
    if _modules(module) > modules or _parameters(module) > most:
        raise InputError(
            f"the network would become too large: expected {most:,} parameters and {modules:,} modules at most"
        )


def append_edit(module: nn.Module, edit: Mapping[str, Any]) -> str:
    """Carry an ``append`` out, in place; gives the new block's name.

    Raises:
        InputError: it is malformed, or names no stage.
    """
    _require_keys(edit, {"edit", "stage", "like"}, {"unstrided"})
    stage = find_module(module, _text(edit, "stage"))
    like = _text(edit, "like")
    if not is_stage(stage):
        raise InputError(f"{edit['stage']!r:.120} is a {type(stage).__name__}: expected a container of blocks")
    if like not in stage._modules:
        raise InputError(f"{edit['stage']!r:.120} has no block {like!r:.80}: it has {', '.join(stage._modules):.200}")
    name = next_name(list(stage._modules))
    block = _clone(stage._modules[like])
    if "unstrided" in edit:
        block = _unstrided(block, edit["unstrided"])
    stage.add_module(name, block)
    return f"{edit['stage']}.{name}" if edit["stage"] else name


def insert_edit(module: nn.Module, edit: Mapping[str, Any]) -> str:
    """Carry an ``insert`` out, in place; gives the new module's name (of several, the first's).

    Raises:
        InputError: it is malformed, names no module, or describes a layer that is not allowed.
    """
    place = "before" if "before" in edit else "after"
    what = "like" if "like" in edit else "layer"
    _require_keys(edit, {"edit", place, what}, {"bias"} if place == "before" and what == "layer" else set())
    name = _text(edit, place)
    there = find_module(module, name)
    if not name:
        raise InputError(f"nothing can be put {place} the whole network: name one of its layers")
    if what == "like":
        parts: dict[str, nn.Module] = {"": _clone(find_module(module, _text(edit, "like")))}
        inserted = parts[""]
    else:
        parts = layer_parts(edit["layer"])
        residual, last = (_flag(edit["layer"], key) for key in ("residual", "last"))
        inserted = InsertedLayer(parts, residual, last and edit["layer"]["kind"] != "linear")
    if place == "before" and what == "layer":
        _take_inputs(there, edit["layer"], name)
        if _flag(edit, "bias"):
            _add_bias(there)
    parent_name, _, child = name.rpartition(".")
    parent = find_module(module, parent_name)
    if is_chain(parent) and child in parent._modules:
        whole = isinstance(inserted, InsertedLayer) and (inserted.residual or inserted.moved)
        return _splice(parent, parent_name, child, [inserted] if whole else list(parts.values()), place)
    wrapper = Deeper()
    if place == "after":
        wrapper.add_module("base", there)
        wrapper.add_module("deeper", inserted)
    else:
        wrapper.add_module("deeper", inserted)
        wrapper.add_module("base", there)
    parent.add_module(child, wrapper)
    return f"{name}.deeper"


#: Each kind of edit, and what carries it out on a module, in place.
EDITS: dict[str, Callable[[nn.Module, Mapping[str, Any]], object]] = {"append": append_edit, "insert": insert_edit}


def find_module(module: nn.Module, name: str) -> nn.Module:
    """The part of a module that has this name; the module itself for an empty one.

    Raises:
        InputError: there is none, with the nearest names.
    """
    known: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, [one for one in known if one], n=3, cutoff=0.0)
    raise InputError(f"{name!r:.120} names no layer of {type(module).__name__}; nearest: {', '.join(near)}")


def is_chain(container: nn.Module) -> bool:
    """Whether a container runs its children one after the other under the numbers 0, 1, 2, ..."""
    plain = isinstance(container, nn.Sequential) and type(container).forward is nn.Sequential.forward
    return plain and list(container._modules) == [str(number) for number in range(len(container._modules))]


def is_stage(part: nn.Module) -> bool:
    """Whether a module may be a container of blocks: one of torch's, or one of several children of a class with numbers."""
    if isinstance(part, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return len(part) > 0 and not isinstance(part, Deeper)
    names = [re.fullmatch(r"(.*?)\d+", name) for name in part._modules]
    kinds = {type(child) for child in part._modules.values()}
    return len(names) > 1 and None not in names and len({found[1] for found in names if found}) == len(kinds) == 1


def next_name(names: Sequence[str]) -> str:
    """The name of a child that comes behind these: the last one's with its last number raised by one."""
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", names[-1])
    name = f"{found[1]}{int(found[2]) + 1}{found[3]}" if found else f"{names[-1]}_2"
    while name in names:
        name += "_2"
    return name


def _clone(block: nn.Module | None) -> nn.Module:
    if block is None:
        raise InputError("the block to copy is empty: name another one")
    return copied(block)


def copied(module: nn.Module) -> nn.Module:
    """A copy; of tensors that were computed, which modules of some libraries keep beside their parameters, the values."""
    found: nn.Module = copy.deepcopy(
        module, {id(tensor): tensor.detach().clone() for _, _, tensor in computed_tensors(module)}
    )
    return found


def computed_tensors(module: nn.Module) -> list[tuple[Any, Any, Tensor]]:
    """What modules remember of computed tensors: the mapping, the key, the tensor."""
    mappings = [vars(part) for part in module.modules()]
    mappings += [value for known in list(mappings) for value in known.values() if type(value) is dict]
    return [
        (known, key, value)
        for known in mappings
        for key, value in known.items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]


def _unstrided(block: nn.Module, given: object) -> nn.Module:
    if not isinstance(given, Mapping):
        raise InputError(
            f"unstrided={given!r:.80} is not possible: expected a mapping with inputs, outputs and shortcut"
        )
    _require_keys(given, {"inputs", "outputs", "shortcut"}, set())
    inputs, outputs = (_count(given, key, _MOST_CHANNELS) for key in ("inputs", "outputs"))
    if given["shortcut"] not in FORMS:
        raise InputError(f"shortcut={given['shortcut']!r:.80} is not possible: expected one of {', '.join(FORMS)}")
    return unstride(block, inputs, outputs, given["shortcut"])


def _splice(parent: nn.Module, parent_name: str, child: str, parts: list[nn.Module], place: str) -> str:
    """Put modules into a chain and number it anew."""
    where = int(child) + (place == "after")
    children = list(parent._modules.values())
    children[where:where] = parts
    parent._modules.clear()
    for number, part in enumerate(children):
        assert part is not None
        parent.add_module(str(number), part)
    return f"{parent_name}.{where}" if parent_name else str(where)


# Descriptions of layers


def layer_parts(layer: object) -> dict[str, nn.Module]:
    """The modules of a described layer in their order: ``layer``, and ``norm``, ``act``, ``out`` where it has them.

    Raises:
        InputError: the description is malformed or asks for something too large.
    """
    if not isinstance(layer, Mapping):
        raise InputError(f"layer is {layer!r:.80}: expected a mapping with kind, inputs, outputs and activation")
    _require_keys(layer, {"kind", "inputs", "outputs", "activation"}, set(LAYER_KEYS))
    kind, activation = layer["kind"], layer["activation"]
    if not isinstance(kind, str) or kind not in _NORMS:
        raise InputError(f"layer kind {kind!r:.80} is not possible: expected one of {', '.join(_NORMS)}")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(f"activation {activation!r:.80} is not possible: expected one of {', '.join(ACTIVATIONS)}")
    inputs, outputs = (_count(layer, key, _MOST_CHANNELS) for key in ("inputs", "outputs"))
    norm = layer.get("norm")
    if norm is not None and (isinstance(norm, bool) or not isinstance(norm, (int, float)) or not 0 < norm <= 1):
        raise InputError(f"norm={norm!r:.80} is not possible: expected the epsilon of a batch normalisation, 0 to 1")
    residual = _flag(layer, "residual")
    if residual and inputs != outputs:
        raise InputError(f"a residual layer of {inputs} inputs and {outputs} outputs is not possible: expected as many")
    parts: dict[str, nn.Module] = {"layer": _affine(layer, kind, inputs, outputs)}
    if norm is not None:
        parts["norm"] = _NORMS[kind](outputs, eps=float(norm))
    if activation != "identity":
        parts["act"] = ACTIVATIONS[activation]()
    if residual:
        parts["out"] = _affine(layer, kind, outputs, outputs)
    return parts


def _affine(layer: Mapping[str, Any], kind: str, inputs: int, outputs: int) -> nn.Module:
    bias = _flag(layer, "bias", True)
    if kind == "linear":
        _require_size(inputs * outputs)
        return nn.Linear(inputs, outputs, bias=bias)
    kernel = _count(layer, "kernel", _MOST_KERNEL) if "kernel" in layer else 3
    groups = _count(layer, "groups", _MOST_CHANNELS) if "groups" in layer else 1
    if kernel % 2 == 0:
        raise InputError(f"a kernel of {kernel} has no middle: expected an odd number")
    if inputs % groups or outputs % groups:
        raise InputError(f"{groups} groups do not divide {inputs} inputs and {outputs} outputs: give another number")
    axes = int(kind[4])
    _require_size(inputs // groups * outputs * kernel**axes)
    found: nn.Module = _CONVOLUTIONS[kind](inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)
    return found


def _take_inputs(there: nn.Module, layer: Mapping[str, Any], name: str) -> None:
    """Let the layer behind an inserted one take that one's outputs; a new weight, if they are not as many as before."""
    found = layer_inputs(there)
    inputs, outputs = layer["inputs"], layer["outputs"]
    if found is None or found != inputs:
        has = "no inputs that can be counted" if found is None else f"{found} inputs"
        raise InputError(
            f"{name!r:.120} is a {type(there).__name__} with {has}, not {inputs}: expected a layer with as many"
        )
    if inputs == outputs:
        return
    weight = there.weight
    assert isinstance(weight, Tensor)
    if isinstance(there, nn.Linear):
        there.in_features = outputs
    elif isinstance(there, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if there.groups != 1:
            raise InputError(
                f"{name!r:.120} has {there.groups} groups: a layer before it must keep its {inputs} inputs"
            )
        there.in_channels = outputs
    _require_size(weight.numel() // inputs * outputs)
    shape = (weight.shape[0], outputs, *weight.shape[2:])
    there.weight = nn.Parameter(torch.empty(shape, dtype=weight.dtype, device=weight.device), weight.requires_grad)
    if not there.weight.is_meta:
        nn.init.kaiming_uniform_(there.weight, a=5**0.5)


def _add_bias(layer: nn.Module) -> None:
    assert isinstance(layer.weight, Tensor)
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.detach().new_zeros(len(layer.weight)))


def layer_inputs(layer: nn.Module) -> int | None:
    """How many features or channels a layer takes; None for what is neither linear nor a convolution."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None


# Values from strangers


def _require_keys(given: Mapping[str, Any], needed: set[str], allowed: set[str]) -> None:
    if missing := needed - given.keys():
        raise InputError(f"{min(missing)!r} is missing: expected {', '.join(sorted(needed))}")
    if strange := [key for key in given if key not in needed | allowed]:
        raise InputError(f"{strange[0]!r:.80} is unknown: expected {', '.join(sorted(needed | allowed))}")


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given[key]
    if not isinstance(value, str) or len(value) > _MOST_NAME:
        raise InputError(f"{key}={value!r:.80} is not possible: expected the name of a part of the network")
    return value


def _count(given: Mapping[str, Any], key: str, most: int) -> int:
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{key}={value!r:.80} is not possible: expected a whole number from 1 to {most:,}")
    return value


def _flag(given: Mapping[str, Any], key: str, otherwise: bool = False) -> bool:
    value = given.get(key, otherwise)
    if not isinstance(value, bool):
        raise InputError(f"{key}={value!r:.80} is not possible: expected true or false")
    return value


def _require_size(count: int) -> None:
    if count > _MOST_PARAMETERS:
        raise InputError(f"a layer of {count:,} parameters is too large: expected {_MOST_PARAMETERS:,} at most")

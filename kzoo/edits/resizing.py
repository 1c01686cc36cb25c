"""Edits that make a network wider: attributes of modules and tensors get new sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.edits.finding import meant
from kzoo.edits.values import Edit, require_keys
from kzoo.errors import InputError
from kzoo.graph.attributes import is_channel_name
from kzoo.memory import require_memory

#: More entries than any network that this machine could hold has in one tensor, and more than any layer has channels.
_MOST_ENTRIES = 2**33
_MOST_SIZE = 2**24
_BYTES = 4


def resize_edit(attributes: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, Sequence[int]]) -> Edit:
    """The edit that sets attributes of modules and gives tensors new shapes."""
    modules = {
        path: {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in changed.items()}
        for path, changed in attributes.items()
    }
    return {"edit": "resize", "modules": modules, "tensors": {name: list(shape) for name, shape in shapes.items()}}


def apply_resize(module: nn.Module, edit: Mapping[str, Any]) -> None:
    """Carry a ``resize`` out, in place.

    Tensors of another shape repeat the module's own entries, so that buffers that no file holds keep their meaning;
    weights are to be loaded afterwards.

    Raises:
        InputError: it names what the module does not have, or what no edit may change. Nothing is changed then.
    """
    resize(module, *_checked(module, edit))


def resize(module: nn.Module, modules: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Sequence[int]]) -> None:
    """Set attributes and give tensors new shapes; parameters that are one in two places stay one."""
    for path, changed in modules.items():
        part = module.get_submodule(path)
        for name, value in changed.items():
            old = getattr(part, name)
            setattr(part, name, type(old)(value) if isinstance(old, (list, tuple)) else value)
    replace_tensors(module, {name: _repeated(_tensor(module, name), shape) for name, shape in tensors.items()})


def replace_tensors(module: nn.Module, new: Mapping[str, Tensor]) -> None:
    """Put tensors in the places of parameters and buffers, by name, and wherever else the same tensor stands."""
    replaced = {id(_tensor(module, name)): tensor for name, tensor in new.items()}
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and id(parameter) in replaced:
                fresh = nn.Parameter(replaced[id(parameter)], requires_grad=parameter.requires_grad)
                part._parameters[name] = made.setdefault(id(parameter), fresh)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and id(buffer) in replaced:
                part._buffers[name] = replaced[id(buffer)]


def unsaved_buffers(module: nn.Module, wider: nn.Module, edits: Sequence[Edit]) -> list[str]:
    """The buffers in no state dict that ``edits`` would not make of those of ``module`` as they are in ``wider``."""
    found: list[str] = []
    for path, part in module.named_modules():
        for name in part._non_persistent_buffers_set:
            full = f"{path}.{name}" if path else name
            shape = edits[-1]["tensors"].get(full)
            if shape is not None and not torch.equal(_repeated(_tensor(module, full), shape), _tensor(wider, full)):
                found.append(full)
    return found


def _tensor(module: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    part = module.get_submodule(path)
    found = part._parameters.get(last)
    return found if found is not None else part._buffers[last]  # type: ignore[return-value]


def _repeated(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    found = tensor.detach()
    for axis, size in enumerate(shape):
        if found.shape[axis] != size:
            indices = torch.arange(size, device=found.device) % found.shape[axis]
            found = found.index_select(axis, indices)
    return found.clone()


def _checked(module: nn.Module, edit: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, list[int]]]:
    require_keys(edit, {"edit"}, {"modules", "tensors"})
    modules, tensors = edit.get("modules", {}), edit.get("tensors", {})
    if not isinstance(modules, Mapping) or not isinstance(tensors, Mapping):
        raise InputError("an edit's modules and tensors must be mappings from names")
    parts = dict(module.named_modules())
    for path, changed in modules.items():
        if path not in parts:
            raise InputError(f"an edit names the module {path!r:.200}, which is not there{meant(path, parts)}")
        if not isinstance(changed, Mapping):
            raise InputError(f"the edit of {path!r:.200} must be a mapping from attributes to numbers")
        for name, value in changed.items():
            _check_attribute(parts[path], path, name, value)
    shapes = {name: tuple(tensor.shape) for name, tensor in _named(module)}
    for name, shape in tensors.items():
        if name not in shapes:
            raise InputError(f"an edit names the tensor {name!r:.200}, which is not there{meant(name, shapes)}")
        _check_shape(name, shapes[name], shape)
    require_memory("the network that the edits make", sum(math.prod(shape) for shape in tensors.values()) * _BYTES)
    return {path: dict(changed) for path, changed in modules.items()}, {
        name: list(shape) for name, shape in tensors.items()
    }


def _named(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _check_attribute(part: nn.Module, path: str, name: object, value: object) -> None:
    if not isinstance(name, str) or not is_channel_name(name) or name not in vars(part):
        raise InputError(
            f"an edit may not set {name!r:.80} of {path!r:.200}: only numbers of channels, features and heads"
        )
    old = vars(part)[name]
    new = value if isinstance(value, (list, tuple)) else [value]
    is_list = isinstance(old, (list, tuple))
    if is_list != isinstance(value, (list, tuple)) or (is_list and len(old) != len(new)) or not _are_sizes(new):
        raise InputError(f"an edit sets {name} of {path!r:.200} to {value!r:.80}: expected numbers like {old!r:.80}")
    if not _are_sizes(old if is_list else [old]):
        raise InputError(f"an edit may not set {name!r:.80} of {path!r:.200}, which is no number of channels")


def _are_sizes(values: Iterable[object]) -> bool:
    return all(type(value) is int and 1 <= value <= _MOST_SIZE for value in values)


def _check_shape(name: str, old: tuple[int, ...], new: object) -> None:
    if (
        not isinstance(new, (list, tuple))
        or len(new) != len(old)
        or not _are_sizes(new)
        or math.prod(new) > _MOST_ENTRIES
    ):
        raise InputError(
            f"an edit gives {name!r:.200} the shape {new!r:.80}: expected {len(old)} sizes like {list(old)}"
        )
    if any(size < before for size, before in zip(new, old, strict=True)):
        raise InputError(
            f"an edit gives {name!r:.200} the shape {list(new)}, smaller than {list(old)}: only wider ones are known"
        )

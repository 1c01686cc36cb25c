"""Parts of a network that edits speak of: by name, containers of blocks, and copies."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from kzoo.edits.modules import Deeper
from kzoo.errors import InputError

#: What a new part remembers, so that it is found when names have changed; copies carry it along.
_ADDED = "_kzoo_added"


def mark_added(part: nn.Module) -> None:
    """Remember that a part is new."""
    for each in part.modules():
        vars(each)[_ADDED] = True


def take_added(module: nn.Module) -> list[str]:
    """The names of the outermost parts that are new, in their order; afterwards none is any more."""
    names: list[str] = []
    for name, part in module.named_modules():
        if vars(part).pop(_ADDED, False) and not any(name.startswith(f"{outer}.") for outer in names):
            names.append(name)
    return names


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


def meant(name: object, known: Iterable[str]) -> str:
    """A hint with the nearest of the known names."""
    close = difflib.get_close_matches(str(name), list(known), 3, 0.0)
    return f"; nearest: {', '.join(close)}" if close else ""

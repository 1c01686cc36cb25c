"""A list of edits carried out on a network, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kzoo.edits.finding import take_added
from kzoo.edits.insertions import append_edit, insert_edit
from kzoo.edits.resizing import apply_resize
from kzoo.edits.values import MOST_PARAMETERS
from kzoo.errors import InputError

_MOST_EDITS = 1000
#: How many times its parameters and its modules a network may have, beside one such layer and so many modules.
_MOST_GROWTH, _MOST_MODULES = 64, 1000
#: Each kind of edit, and what carries it out on a module, in place.
EDITS: dict[str, Callable[[nn.Module, Mapping[str, Any]], object]] = {
    "append": append_edit,
    "insert": insert_edit,
    "resize": apply_resize,
}


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
    most = _parameters(module) * _MOST_GROWTH + MOST_PARAMETERS
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
    _require_consistent(module)
    take_added(module)
    return module


def _require_consistent(module: nn.Module) -> None:
    """Refuse layers whose sizes and tensors contradict each other."""
    for name, part in module.named_modules():
        wanted: tuple[int, ...] | None = None
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            wanted = (part.out_channels, part.in_channels // part.groups, *part.kernel_size)
            if part.in_channels % part.groups or part.out_channels % part.groups:
                wanted = ()
        elif isinstance(part, nn.Linear):
            wanted = (part.out_features, part.in_features)
        weight = getattr(part, "weight", None)
        if wanted is not None and isinstance(weight, Tensor) and tuple(weight.shape) != wanted:
            raise InputError(
                f"the edits give {name!r:.120} sizes that its weight of {tuple(weight.shape)} does not have"
            )


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

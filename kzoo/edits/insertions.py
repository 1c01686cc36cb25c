"""Edits that make a network deeper: a block appended to a stage, a block or a layer inserted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kzoo.edits.finding import copied, find_module, is_chain, is_stage, mark_added, next_name
from kzoo.edits.layers import add_bias, layer_parts, take_inputs
from kzoo.edits.modules import Deeper, InsertedLayer
from kzoo.edits.values import MOST_CHANNELS, count_of, flag_of, require_keys, text_of
from kzoo.errors import InputError
from kzoo.unstriding import FORMS, unstride


def append_edit(module: nn.Module, edit: Mapping[str, Any]) -> str:
    """Carry an ``append`` out, in place; gives the new block's name.

    Raises:
        InputError: it is malformed, or names no stage.
    """
    require_keys(edit, {"edit", "stage", "like"}, {"unstrided"})
    stage = find_module(module, text_of(edit, "stage"))
    like = text_of(edit, "like")
    if not is_stage(stage):
        raise InputError(f"{edit['stage']!r:.120} is a {type(stage).__name__}: expected a container of blocks")
    if like not in stage._modules:
        raise InputError(f"{edit['stage']!r:.120} has no block {like!r:.80}: it has {', '.join(stage._modules):.200}")
    name = next_name(list(stage._modules))
    block = _clone(stage._modules[like])
    if "unstrided" in edit:
        block = _unstrided(block, edit["unstrided"])
    mark_added(block)
    stage.add_module(name, block)
    return f"{edit['stage']}.{name}" if edit["stage"] else name


def insert_edit(module: nn.Module, edit: Mapping[str, Any]) -> str:
    """Carry an ``insert`` out, in place; gives the new module's name (of several, the first's).

    Raises:
        InputError: it is malformed, names no module, or describes a layer that is not allowed.
    """
    place = "before" if "before" in edit else "after"
    what = "like" if "like" in edit else "layer"
    require_keys(edit, {"edit", place, what}, {"bias"} if place == "before" and what == "layer" else set())
    name = text_of(edit, place)
    there = find_module(module, name)
    if not name:
        raise InputError(f"nothing can be put {place} the whole network: name one of its layers")
    if what == "like":
        parts: dict[str, nn.Module] = {"": _clone(find_module(module, text_of(edit, "like")))}
        inserted = parts[""]
    else:
        parts = layer_parts(edit["layer"])
        residual, last = (flag_of(edit["layer"], key) for key in ("residual", "last"))
        inserted = InsertedLayer(parts, residual, last and edit["layer"]["kind"] != "linear")
    for part in (inserted, *parts.values()):
        mark_added(part)
    if place == "before" and what == "layer":
        take_inputs(there, edit["layer"], name)
        if flag_of(edit, "bias"):
            add_bias(there)
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


def _clone(block: nn.Module | None) -> nn.Module:
    if block is None:
        raise InputError("the block to copy is empty: name another one")
    return copied(block)


def _unstrided(block: nn.Module, given: object) -> nn.Module:
    if not isinstance(given, Mapping):
        raise InputError(
            f"unstrided={given!r:.80} is not possible: expected a mapping with inputs, outputs and shortcut"
        )
    require_keys(given, {"inputs", "outputs", "shortcut"}, set())
    inputs, outputs = (count_of(given, key, MOST_CHANNELS) for key in ("inputs", "outputs"))
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

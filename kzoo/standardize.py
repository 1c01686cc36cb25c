"""From a tree of modules to an ordered list of layers and blocks: DPIAT's standardization, section 1.2 of the notes.

The deepest containers that hold mostly plain layers, at least two of them with a dimensional weight, become blocks
(a residual unit, an MBConv); stages dissolve; the root is never collapsed into one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from kzoo.layers import DIMENSIONAL_KINDS, EXTENDED_KINDS, Architecture, Item, Layer


@dataclass(frozen=True, slots=True)
class ModuleTree:
    """A network's modules as plain data, children in registration order.

    ``layer`` is what the module itself is: a typed layer has no children that count; a container or an opaque leaf is
    of kind ``other``. ``raw`` marks a parameter that a container holds itself, as if it were a module; only the
    ``extended`` measure sees those.
    """

    layer: Layer
    children: tuple[ModuleTree, ...] = ()
    raw: bool = False


def paper_tree(tree: ModuleTree) -> ModuleTree:
    """The tree as the paper sees it: extended kinds are opaque, parameters that a container holds are not there."""
    layer = Layer("other", (), tree.layer.name) if tree.layer.kind in EXTENDED_KINDS else tree.layer
    return ModuleTree(layer, tuple(paper_tree(child) for child in tree.children if not child.raw))


def tree_architecture(tree: ModuleTree, name: str, parameters: int | None, approximate: bool = False) -> Architecture:
    """The standardized architecture of a network, with its extended form made when it is asked for.

    ``approximate`` says that the tree lacks modules without weights: then a container with as many plain layers as
    blocks becomes a block itself, since the missing modules would have been plain layers.
    """
    items = standardize(paper_tree(tree), approximate)
    return Architecture(items, name, parameters, approximate, partial(standardize, tree, approximate))


@dataclass(frozen=True, slots=True)
class _Folded:
    """What a subtree became: ``depth`` 0 a layer, 1 a block (or one unwrapped item), 2 a sequence of items."""

    depth: int
    dimensional: int
    result: Layer | list[Item]


def standardize(tree: ModuleTree, approximate: bool = False) -> tuple[Item, ...]:
    """The items of the network whose root is ``tree`` (section 1.2, steps 1 to 5); see `tree_architecture`."""
    result = _fold(tree, 0, approximate).result
    return (result,) if isinstance(result, Layer) else tuple(result)


def _fold(tree: ModuleTree, level: int, approximate: bool) -> _Folded:
    if tree.layer.typed:
        return _Folded(0, int(tree.layer.kind in DIMENSIONAL_KINDS), tree.layer)
    # A module with a single child is a mere wrapper: it does not make its child one level deeper.
    child_level = level if len(tree.children) == 1 else level + 1
    dimensional = 0
    items: list[Item] = []
    for child in tree.children:
        folded = _fold(child, child_level, approximate)
        dimensional += folded.dimensional
        items.extend(_contribution(folded))
    return _close(tree.layer, items, dimensional, level, approximate)


def _contribution(child: _Folded) -> list[Item]:
    """Step 2: a sequence, or a block with fewer than two dimensional layers, is spliced; the rest is one item."""
    if isinstance(child.result, Layer):
        return [child.result]
    if child.depth > 1 or child.dimensional < 2:
        return child.result
    return [_as_block(child.result)]


def _close(opaque: Layer, items: list[Item], dimensional: int, level: int, approximate: bool) -> _Folded:
    """Steps 3 and 4: become a block where plain layers prevail, unwrap a single item, stay opaque when empty."""
    depth = 2
    singles = sum(isinstance(item, Layer) for item in items)
    blocks = len(items) - singles
    if (singles > blocks or (approximate and singles == blocks)) and level > 0:
        items, depth = list(_as_block(items)), 1
    if not items:
        return _Folded(0, dimensional, opaque)
    if len(items) == 1:
        only = items[0]
        return _Folded(1, dimensional, only if isinstance(only, Layer) else list(only))
    return _Folded(depth, dimensional, items)


def _as_block(items: list[Item]) -> tuple[Layer, ...]:
    return tuple(layer for item in items for layer in ((item,) if isinstance(item, Layer) else item))

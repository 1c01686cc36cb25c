"""Structural edits of a network as plain data, so that a grown network can be built again from its base.

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
``{"edit": "resize", "modules": {NAME: {ATTRIBUTE: SIZE}}, "tensors": {NAME: SHAPE}}`` makes layers wider: sizes that modules
remember, and the shapes of parameters and buffers.
"""

from kzoo.edits.applying import EDITS, apply_edits
from kzoo.edits.finding import computed_tensors, copied, find_module, is_stage, meant, take_added
from kzoo.edits.insertions import append_edit, insert_edit
from kzoo.edits.layers import ACTIVATIONS, LAYER_KEYS, layer_inputs, layer_parts
from kzoo.edits.modules import Deeper, InsertedLayer
from kzoo.edits.resizing import replace_tensors, resize, resize_edit, unsaved_buffers
from kzoo.edits.values import Edit

__all__ = [
    "ACTIVATIONS",
    "EDITS",
    "LAYER_KEYS",
    "Deeper",
    "Edit",
    "InsertedLayer",
    "append_edit",
    "apply_edits",
    "computed_tensors",
    "copied",
    "find_module",
    "insert_edit",
    "is_stage",
    "layer_inputs",
    "layer_parts",
    "meant",
    "replace_tensors",
    "resize",
    "resize_edit",
    "take_added",
    "unsaved_buffers",
]

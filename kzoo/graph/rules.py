"""The rules of all operations: importing them makes them known."""

from kzoo.graph import entry_rules, layer_rules, shape_rules
from kzoo.graph.propagation import RULES, propagate

__all__ = ["RULES", "entry_rules", "layer_rules", "propagate", "shape_rules"]

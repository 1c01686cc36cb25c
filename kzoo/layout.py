"""The names of the files in a model folder."""

from __future__ import annotations

import re

WEIGHTS, CONFIG, RECIPE, CARD = "model.safetensors", "config.json", "recipe.yaml", "README.md"
#: Only of a network that was tested, and of one whose plan was given.
METRICS, PLAN = "metrics.json", "plan.json"
#: The class of machine that made it; and the pictures, which `kzoo card` draws: of the matching, or of what a fused network was
#: measured beside.
ENVIRONMENT, PICTURE, COMPARISON = "environment.yaml", "matching.svg", "comparison.svg"
#: The target of recipes that fuse weights of networks that kzoo does not know, and what their results call the network.
TENSORS = "tensors"
_SIDE_INPUT = re.compile(r"(?:fisher|gram)-(?:0|[1-9][0-9]{0,3})\.safetensors", re.ASCII)


def side_input(kind: str, source: int) -> str:
    """The file with what was measured of one of a fusion's sources, counted from 0: ``fisher-0.safetensors``."""
    return f"{kind}-{source}.safetensors"


def is_side_input(name: str) -> bool:
    """Whether a file is named like one of those."""
    return bool(_SIDE_INPUT.fullmatch(name))

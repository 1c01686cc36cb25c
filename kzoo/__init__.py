"""Which trained network should my new network start from, and how do I carry its knowledge over?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kzoo.carrying import carry_optimizer, initialize, param_groups, report, transfer
    from kzoo.errors import CheckFailed, InputError, KzooError, WorldError
    from kzoo.facade import architecture, match, recommend, similarity
    from kzoo.growing import deepen, widen
    from kzoo.layers import Architecture, Layer
    from kzoo.model_folder import load
    from kzoo.search import Filters

__all__ = [
    "Architecture",
    "CheckFailed",
    "Filters",
    "InputError",
    "KzooError",
    "Layer",
    "WorldError",
    "__version__",
    "architecture",
    "carry_optimizer",
    "deepen",
    "fuse",
    "initialize",
    "load",
    "match",
    "param_groups",
    "recommend",
    "report",
    "similarity",
    "transfer",
    "widen",
]

_HOMES = {
    "Architecture": "kzoo.layers",
    "Layer": "kzoo.layers",
    "Filters": "kzoo.search",
    "CheckFailed": "kzoo.errors",
    "InputError": "kzoo.errors",
    "KzooError": "kzoo.errors",
    "WorldError": "kzoo.errors",
    "architecture": "kzoo.facade",
    "match": "kzoo.facade",
    "recommend": "kzoo.facade",
    "similarity": "kzoo.facade",
    "carry_optimizer": "kzoo.carrying",
    "deepen": "kzoo.growing",
    "widen": "kzoo.growing",
    "fuse": "kzoo.fusion_facade",
    "initialize": "kzoo.carrying",
    "load": "kzoo.model_folder",
    "param_groups": "kzoo.carrying",
    "report": "kzoo.carrying",
    "transfer": "kzoo.carrying",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import kzoo`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kzoo' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Tensors by name put into a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def load_values(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors as `torch.nn.Module.load_state_dict` does, of the version that the module itself would save.

    Files and plain mappings do not tell versions, and some networks take none but a known one (torchvision's MNASNet).

    Raises:
        RuntimeError: names or shapes are not the module's.
    """
    state = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)

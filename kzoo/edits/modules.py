"""The modules that edits put into a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

#: Of a base that was deepened itself these are no concern of others.
_OWN = ("base", "deeper")


class Deeper(nn.Sequential):
    """A module and what was put behind (or before) it; attributes that it does not have are those of ``base``.

    Code around a layer reads its attributes now and then, such as the number of its outputs.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not by self._modules: while a copy is being made there is none yet.
            base = vars(self).get("_modules", {}).get("base")
            if base is None or name in _OWN or name.startswith("__"):
                raise
            found: Any = getattr(base, name)
            return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The parts one after the other; further arguments go to each block, as they went to ``base``."""
        first, *others = args
        for part in self:
            alone = isinstance(part, InsertedLayer)
            first = part(first) if alone else part(first, *others, **kwargs)
        return first


class InsertedLayer(nn.Sequential):
    """A layer, a batch normalisation if it has one, and an activation; made from a description, see `LAYER_KEYS`."""

    def __init__(self, parts: Mapping[str, nn.Module], residual: bool, moved: bool) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.residual, self.moved = residual, moved

    def forward(self, inputs: Tensor) -> Tensor:
        """The parts one after the other, and the input added where it is residual."""
        outputs = inputs.movedim(-1, 1) if self.moved else inputs
        for part in self:
            outputs = part(outputs)
        outputs = outputs.movedim(1, -1) if self.moved else outputs
        return inputs + outputs if self.residual else outputs

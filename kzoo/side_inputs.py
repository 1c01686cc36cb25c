"""Files that a fusion reads beside the networks: found to be the ones that the recipe names, and to fit the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kzoo.errors import CheckFailed, InputError
from kzoo.hashing import weights_sha256
from kzoo.memory import require_memory
from kzoo.readers.safetensors import Tensor as Header
from kzoo.readers.safetensors import read_header
from kzoo.recipe import SideInput

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Shape = tuple[int, ...]


def read_side_input(known: SideInput, base: Path, module: nn.Module) -> dict[str, Tensor]:
    """What was measured of ``module``, one of a recipe's sources, from the file in ``base`` that the recipe names.

    Of kind ``fisher`` it is a tensor of a parameter's shape for each parameter, of kind ``gram`` one of the shape
    groups x (inputs + 1) x (inputs + 1) for linear layers and convolutions.

    Raises:
        InputError: it cannot be read, was measured of another network, or holds what no measurement gives.
        CheckFailed: it is another file than the recipe names.
    """
    path = base / known.path
    try:
        digest = weights_sha256([path])
        if digest != known.sha256:
            raise CheckFailed(f"{known.path} has the sha256 {digest}, but the recipe was made with {known.sha256}")
        there = require_measured(known, path, module)
        require_memory(known.path, sum(8 * math.prod(tensor.shape) for tensor in there.values()))
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error!s:.200}): give the file that the recipe names") from None
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all() or (known.kind == "fisher" and (tensor < 0).any()):
            raise InputError(
                f"{known.path}: {name:.80} holds values that no measurement gives (NaN, infinite or below 0): measure it again"
            )
    return found


def require_measured(known: SideInput, path: Path, module: nn.Module) -> dict[str, Header]:
    """The header of a file that was measured of a network; ``module`` may be without weights.

    Raises:
        InputError: it was measured of another network, or cannot be read.
    """
    wanted = _fishers(module) if known.kind == "fisher" else dict(_grams(module))
    there = read_header(path)
    for name in (*there, *(wanted if known.kind == "fisher" else ())):
        shape, tensor = wanted.get(name), there.get(name)
        if shape is None or tensor is None or tensor.shape != shape or not tensor.floating:
            told = "is missing" if tensor is None else f"is {tensor.dtype} {'x'.join(map(str, tensor.shape))}"
            expected = "no such tensor" if shape is None else f"a floating-point tensor of {'x'.join(map(str, shape))}"
            raise InputError(
                f"{known.path}: {name:.80} {told}: expected {expected}, as source {known.source} of the recipe has; give "
                "what was measured of that network"
            )
    return there


def _fishers(module: nn.Module) -> Mapping[str, _Shape]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _grams(module: nn.Module) -> Iterator[tuple[str, _Shape]]:
    for path, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
            width = layer.weight[0].numel() + 1
            yield path, (1 if isinstance(layer, nn.Linear) else layer.groups, width, width)

"""Where a single layer can come in a network, and what it has to look like there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kzoo.edits import ACTIVATIONS, Edit
from kzoo.errors import InputError
from kzoo.methods.probing import Output, chain_of, source_of

#: Applied twice they are what they are once.
IDEMPOTENT = ("relu", "relu6")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LARGEST_KERNEL = 3


def last_activations(found: Sequence[Output], activations: Sequence[str] | None) -> list[Output]:
    """Of each resolution (of the images, or of tokens) the last output that comes right from one of these activations.

    The network's own output is left out.
    """
    last: dict[tuple[int, ...], Output] = {}
    inner = [output for output in direct_activations(found, activations) if output.tensor != found[-1].tensor]
    for output in inner:
        last[output.shape[2:] if len(output.shape) > 3 else output.shape[1:-1]] = output
    # Outputs of one place each are those of heads and of channel gates.
    wide = [output for key, output in last.items() if math.prod(key) > 1]
    return wide or list(last.values())


def direct_activations(found: Sequence[Output], activations: Sequence[str] | None) -> list[Output]:
    """Outputs that come right from one of these activations (None: from anything), each by the innermost module."""
    seen: set[int] = set()
    chosen: list[Output] = []
    for output in found:
        if output.tensor in seen or output.count != 1 or not output.direct:
            continue
        if activations is None or output.activation in activations:
            seen.add(output.tensor)
            chosen.append(output)
    return chosen


def idempotent_point(name: str, found: Sequence[Output]) -> Output:
    """The first module, at a name or behind it, whose output comes from an idempotent activation.

    Raises:
        InputError: there is no activation, one that is not idempotent, or the module is run several times, or gives the
            network's output.
    """
    chain = chain_of(name, found)
    norm = None
    for number, output in enumerate(chain):
        if output.activation is not None:
            if output.activation not in IDEMPOTENT:
                raise InputError(
                    f"an identity layer behind {output.name} would change the function, since {output.activation} applied twice "
                    "is not itself: use kind='residual' (a residual layer of zero output), or DILS, which approximates"
                )
            if output.count != 1:
                raise InputError(
                    f"{output.name} is run {output.count} times in one pass, so that a layer behind it would come in {output.count} "
                    "places: name a block, or another layer"
                )
            output.norm = norm or _norm_before(output, found)
            return output
        if isinstance(output.module, _BatchNorm):
            norm = output.module
        elif number and isinstance(output.module, (*_CONVOLUTIONS, nn.Linear)):
            break
    require_inner(chain[0], found)
    raise InputError(
        f"no activation comes right behind {name}, so that an identity layer there would only be linear: name a layer that has "
        "one, or use kind='residual'"
    )


def any_point(name: str, found: Sequence[Output]) -> Output:
    """The module itself.

    Raises:
        InputError: it is run several times, or gives the network's output.
    """
    output = chain_of(name, found)[0]
    require_inner(output, found)
    if output.count != 1:
        raise InputError(f"{name} is run {output.count} times in one pass: name another layer")
    return output


def require_inner(output: Output, found: Sequence[Output]) -> None:
    """Refuse what gives the network's output.

    Raises:
        InputError: it does.
    """
    if output.tensor == found[-1].tensor:
        raise InputError(f"{output.name} is the network's output layer: name a layer before it")


def _norm_before(point: Output, found: Sequence[Output]) -> _BatchNorm | None:
    """The batch normalisation whose output a module takes."""
    return next((one.module for one in found if one.tensor == point.taken and isinstance(one.module, _BatchNorm)), None)


def describe(point: Output, found: Sequence[Output], residual: bool, epsilon: float | None) -> Edit:
    """A layer as `kzoo.edits` describes them, of as many outputs as inputs: one like the last that made the point's shape.

    ``epsilon`` is that of its batch normalisation; None for none.
    """
    activation = point.activation if point.activation in ACTIVATIONS else _activation_before(point, found)
    source = source_of(point, found)
    axes = len(point.shape) - 2
    before = source if source is not None else _convolution_at(point, found)
    part = before.module if before is not None else None
    if axes in (1, 2, 3) and isinstance(part, _CONVOLUTIONS):
        channels, kernel = point.shape[1], part.kernel_size
        layer: Edit = {"kind": f"conv{axes}d", "inputs": channels, "outputs": channels}
        odd = len(set(kernel)) == 1 and kernel[0] % 2
        layer["kernel"] = min(kernel[0], _LARGEST_KERNEL) if odd else _LARGEST_KERNEL
        if part.groups > 1 and channels % part.groups == 0:
            layer["groups"] = part.groups
        layer["bias"] = part.bias is not None
    else:
        layer = {"kind": "linear", "inputs": point.shape[-1], "outputs": point.shape[-1], "bias": True}
        epsilon = epsilon if len(point.shape) == 2 else None
    if epsilon is not None:
        layer["norm"] = epsilon
    return layer | {"activation": activation} | ({"residual": True} if residual else {})


def _convolution_at(point: Output, found: Sequence[Output]) -> Output | None:
    """The last convolution before the end of a module whose map has the size that the module's output has."""
    last = None
    for output in found:
        if isinstance(output.module, _CONVOLUTIONS) and output.shape[2:] == point.shape[2:]:
            last = output
        if output is point:
            break
    return last


def _activation_before(point: Output, found: Sequence[Output]) -> str:
    """The activation that came last before a module, those of gates aside; ReLU, where none did."""
    known = "relu"
    for output in found:
        name = output.activation
        if name is not None and name in ACTIVATIONS and name != "sigmoid" and output.direct:
            known = name
        if output is point:
            break
    return known

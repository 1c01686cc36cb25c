"""Grow networks: ``kzoo.widen`` and ``kzoo.deepen``, and what a grown network is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kzoo.building import NetworkSpec, outline
from kzoo.carrying import remember
from kzoo.errors import InputError
from kzoo.methods.equality import equal_architecture, is_same
from kzoo.methods.growth import GROWTH, Growth, Material, grow
from kzoo.methods.probing import example_images
from kzoo.methods.transfers import checked_parameters
from kzoo.readers.files import SMALL
from kzoo.readers.module import module_architecture, without_weights
from kzoo.refine import fitting
from kzoo.sources import small_module
from kzoo.training.evaluation import place
from kzoo.zoo import Zoo

_SMALL_SIZE = 16
_COLOURS = 3
_MOST_DEPTH = 9


def widen(
    module: nn.Module,
    to: float | Mapping[str, int] = 1.5,
    *,
    method: Literal["net2wider", "random_pad"] = "net2wider",
    example: Tensor | None = None,
    **parameters: Any,
) -> nn.Module:
    """A wider copy of a network that gives the same outputs (Net2WiderNet, arXiv 1511.05641, section 2.2).

    ``to`` is a factor for all that can be widened (rounded up to a whole one where a norm forces that), or the new widths
    of layers by name; layers whose channels are tied to those grow with them. ``parameters`` are the method's
    (`kzoo.methods.growth.WidenParameters`): ``division="equal"``, ``noise=0.01``, ``seed=1``. ``example`` is an input to
    trace and to check with (N x C x H x W, 2 or more); by default noise of the size that the network takes.
    `kzoo.report` tells what grew, and what did not and why.

    Raises:
        InputError: the network cannot be traced, nothing can be widened so, a width is below the present one, or a layer
            is unknown.
    """
    _require_module(module, example)
    if method not in ("net2wider", "random_pad"):
        raise InputError(f"method {method!r:.80} does not widen: expected net2wider or random_pad")
    wanted = dict(to) if isinstance(to, Mapping) else to
    return _grown(method, module, {"to": wanted} | parameters, Material(example=example))


def deepen(
    module: nn.Module,
    at: str | Sequence[str] = "all",
    *,
    method: Literal["net2deeper", "dils"] = "net2deeper",
    solve: Literal["analytic", "approximation"] | None = None,
    calibration: Tensor | None = None,
    example: Tensor | None = None,
    **parameters: Any,
) -> nn.Module:
    """A deeper copy of a network, which gives the same outputs (Net2DeeperNet, arXiv 1511.05641, section 2.3).

    ``at`` names places: a stage (a block like its last is appended), a block, or a layer; ``"all"`` is every stage.
    ``calibration`` are images ready for the network (N x C x H x W floats), needed where a batch normalisation is put
    behind an activation, and by ``method="dils"``, which solves for the weights of the new layers so that they hand on
    what was there as nearly as they can (reconstructed from the abstract of the paper): in closed form, or by training
    them where ``solve`` is ``"approximation"``. ``parameters`` are the method's
    (`kzoo.methods.growth.DeepenParameters`, ``DilsParameters``). Without calibration images the network is run on
    ``example``, or on noise of the size that it takes. `kzoo.report` tells what was added, and what was not and why.

    Raises:
        InputError: a name is unknown, the function cannot be preserved there, or images are needed.
    """
    _require_module(module, example)
    if method not in ("net2deeper", "dils"):
        raise InputError(f"method {method!r:.80} does not deepen: expected net2deeper or dils")
    if not isinstance(at, str) and not (isinstance(at, Sequence) and at and all(isinstance(one, str) for one in at)):
        raise InputError(
            f"at={at!r:.80} names no places: expected the name of a layer, block or stage, or a list of names"
        )
    if method == "dils" and at == "all":
        raise InputError("dils needs a place: name the layer that a new one comes after (at)")
    if solve is not None:
        parameters["method"] = solve
    places = at if isinstance(at, str) else list(at)
    return _grown(method, module, {"at": places} | parameters, Material(calibration, example))


def _require_module(module: object, example: object = None) -> None:
    if not isinstance(module, nn.Module):
        raise InputError(
            f"a torch module is needed, not {type(module).__name__}: kzoo.load(DIR) gives that of a folder, and the commands "
            "'kzoo widen' and 'kzoo deepen' take files"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a scripted module cannot be changed: give the module that it was made from")
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise InputError(
            f"{type(module).__name__} has no weights, but lies on the meta device: load a checkpoint first"
        )
    if example is not None and not (isinstance(example, Tensor) and len(example)):
        raise InputError(f"an example is a tensor of images, N x C x H x W, 1 or more, not {type(example).__name__}")


def _grown(method: str, module: nn.Module, parameters: Mapping[str, Any], material: Material) -> nn.Module:
    checked = checked_parameters(method, GROWTH[method].parameters, parameters)
    found = grow(method, module, checked, material)
    remember(found.module, found.report.shares, found.report)
    return found.module


def grown_network(spec: NetworkSpec, found: Growth, zoo: Callable[[], Zoo]) -> NetworkSpec:
    """What a network has become: one with a name of its own, where there is one like it, else ``spec`` with more edits."""
    if spec.library == SMALL:
        name = _small_twin(spec, found.module)
    else:
        # The index knows networks by their layers, for images of three channels.
        known = spec.options.in_chans in (None, _COLOURS)
        among = fitting(zoo(), module_architecture(found.module)) if known else None
        name = equal_architecture(found.module, among)
    if name is not None:
        library, _, own = name.partition(":")
        return NetworkSpec(library, own, spec.options)
    return replace(spec, edits=(*spec.edits, *found.edits))


def take_configuration(module: nn.Module, spec: NetworkSpec, zoo: Callable[[], Zoo]) -> None:
    """Let a grown network of timm that has a name of its own say what timm's network of that name says of itself."""
    if spec.library == "timm" and not spec.edits:
        known: Any = outline(spec, zoo)
        module.pretrained_cfg = module.default_cfg = known.pretrained_cfg


def _small_twin(spec: NetworkSpec, module: nn.Module) -> str | None:
    """The small network of the same family that a grown one has become."""
    family = spec.name.rpartition("-")[0]
    convolutions = [part.out_channels for part in module.modules() if isinstance(part, nn.Conv2d)]
    # Networks of linear layers alone have the width of their first.
    linear = [part.out_features for part in module.modules() if isinstance(part, nn.Linear)]
    widths = dict.fromkeys((convolutions or linear)[:2])
    for width in widths:
        for depth in range(1, _MOST_DEPTH + 1):
            name = f"{family}-{depth}x{width}"
            try:
                with without_weights():
                    other = small_module(name, spec.options)
            except InputError:
                continue
            if is_same(module, other):
                return f"{SMALL}:{name}"
    return None


def example_of(spec: NetworkSpec, module: nn.Module) -> Tensor | None:
    """Noise of the size that a network takes, 2 x C x H x W; None where the module knows that itself."""
    options = spec.options
    noise = example_images(module)
    channels = options.in_chans or noise.shape[1]
    size = _SMALL_SIZE if spec.library == SMALL else options.img_size or noise.shape[-1]
    if noise.shape[1:] == (channels, size, size):
        return None
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)).to(*place(module))

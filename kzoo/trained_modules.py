"""The torch module of a trained network: which network its weights belong to, and that network with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from kzoo.building import NetworkSpec, build_network, network_spec, outline
from kzoo.errors import InputError
from kzoo.loading import load_values
from kzoo.model_folder import config_network, read_config
from kzoo.readers.libraries import LIBRARIES
from kzoo.refine import fitting
from kzoo.sources import Options
from kzoo.weights import TrainedNetwork
from kzoo.zoo import Zoo

_MOST_NAMED = 5


def trained_network(
    trained: TrainedNetwork,
    zoo: Callable[[], Zoo],
    wanted: str | None = None,
    options: Options | None = None,
    trust_code: bool = False,
) -> NetworkSpec:
    """The network that trained weights belong to, with the sizes that they have.

    That is ``wanted`` where it is given; else what the ``config.json`` beside the weights, or the registry, says; else the
    only known network that has these layers. ``options`` are sizes that somebody knows better.

    Raises:
        InputError: it is not known, or the weights do not fit it.
    """
    options = options or Options()
    spec = network_spec(wanted, zoo, options) if wanted is not None else _told(trained, zoo, options)
    return _fitted(trained, spec, zoo, trust_code)


def load_trained(
    trained: TrainedNetwork, spec: NetworkSpec, zoo: Callable[[], Zoo], trust_code: bool = False
) -> nn.Module:
    """The network with the trained weights in it, in evaluation mode.

    Raises:
        InputError: they do not fit it, or it does not fit into memory.
    """
    faulty = next((name for name, tensor in trained.tensors.items() if not bool(tensor.isfinite().all())), None)
    if faulty is not None:
        raise InputError(f"{trained.name}: tensor {faulty} holds values that are not finite: give other weights")
    reserved = sum(tensor.nbytes for tensor in trained.tensors.values())
    first = next((tensor.dtype for tensor in trained.tensors.values() if tensor.is_floating_point()), None)
    # Before the values are there: on their way through single precision doubles would be rounded.
    module = build_network(spec, zoo, 0, trust_code, reserved).to(first)
    try:
        load_values(module, trained.tensors)
    except RuntimeError as error:
        raise _misfit(trained, spec, " ".join(str(error).split())) from None
    return module.eval()


def require_fit(trained: TrainedNetwork, spec: NetworkSpec, module: nn.Module) -> None:
    """Refuse weights that are not those of a network; ``module`` is its outline.

    Raises:
        InputError: they are not.
    """
    differing = _differing(module, {name: tuple(tensor.shape) for name, tensor in trained.tensors.items()})
    if differing:
        name, (ours, theirs) = next(iter(differing.items()))
        raise _misfit(trained, spec, f"{name} is {_text(ours)} in the weights, and {_text(theirs)} in the network")


def _told(trained: TrainedNetwork, zoo: Callable[[], Zoo], options: Options) -> NetworkSpec:
    folder = trained.shards[0].parent if trained.shards else None
    config = read_config(folder) if folder is not None else {}
    if folder is not None and "architecture" in config:
        found = config_network(folder, config)
        return replace(found, options=_merged(found.options, options))
    named = zoo().named(trained.name)
    if trained.name.startswith("py:") or (named is not None and named[0].library in LIBRARIES):
        return network_spec(trained.name, zoo, options)
    known = [name for name in fitting(zoo(), trained.architecture) if name.partition(":")[0] in LIBRARIES]
    if len(known) == 1:
        return network_spec(known[0], zoo, options)
    may = f"they fit {', '.join(known[:_MOST_NAMED])}" if known else "they fit none that kzoo knows"
    raise InputError(
        f"{trained.name} does not say which network its weights belong to, and {may}: name it (--network timm:NAME)"
    )


def _merged(known: Options, better: Options) -> Options:
    given = {
        name: value for name in ("classes", "in_chans", "img_size") if (value := getattr(better, name)) is not None
    }
    return replace(known, **given)


def _fitted(trained: TrainedNetwork, spec: NetworkSpec, zoo: Callable[[], Zoo], trust_code: bool) -> NetworkSpec:
    """The network with classes and input channels as the weights have them, where nothing else was said.

    Raises:
        InputError: it still does not have their shapes.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in trained.tensors.items()}
    differing = _differing(outline(spec, zoo, trust_code), shapes)
    if not differing or spec.library == "py":
        return spec
    alike = [(ours, theirs) for ours, theirs in differing.values() if len(ours) == len(theirs) > 0]
    classes = {ours[0] for ours, theirs in alike if ours[1:] == theirs[1:]}
    channels = {ours[1] for ours, theirs in alike if ours[1:2] != theirs[1:2]}
    found: dict[str, Any] = {"classes": spec.options.classes, "in_chans": spec.options.in_chans}
    for name, sizes in (("classes", classes), ("in_chans", channels)):
        if found[name] is None and len(sizes) == 1:
            found[name] = sizes.pop()
    sized = replace(spec, options=replace(spec.options, **found))
    left = {} if sized == spec else _differing(outline(sized, zoo, trust_code), shapes)
    if sized == spec or left:
        name, (ours, theirs) = next(iter((left or differing).items()))
        raise _misfit(trained, spec, f"{name} is {_text(ours)} in the weights, and {_text(theirs)} in the network")
    return sized


def _differing(
    module: nn.Module, shapes: dict[str, tuple[int, ...]]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The tensors of both, each with the shape that it has in the weights and that in the module; () where it is missing."""
    theirs = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    names = [*shapes, *(name for name in theirs if name not in shapes)]
    pairs = {name: (shapes.get(name, ()), theirs.get(name, ())) for name in names}
    absent = {name for name in names if (name in shapes) != (name in theirs)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] or name in absent}


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number, or missing"


def _misfit(trained: TrainedNetwork, spec: NetworkSpec, reason: str) -> InputError:
    return InputError(
        f"the weights of {trained.name} are not those of {spec} ({reason:.200}): name their network (--network), and its "
        "--classes, --in-chans and --img-size where they are not the usual ones"
    )

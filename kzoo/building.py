"""Build the network that a string names, freshly initialised from a seed."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kzoo.errors import InputError, KzooError
from kzoo.memory import require_memory
from kzoo.readers.files import SMALL
from kzoo.readers.libraries import LIBRARIES
from kzoo.sources import Options, python_module, resolve, small_module
from kzoo.zoo import Zoo

if TYPE_CHECKING:
    from torch import nn

_BYTES_PER_ENTRY = 4
_PYTHON = "py"
_COPIES = 3


@dataclass(frozen=True)
class NetworkSpec:
    """A network to build: its library (``timm``, ``torchvision``, ``small`` or ``py``), its name there, what is changed.

    ``edits`` are those of its structure (`kzoo.edits`), carried out after it has been built.
    """

    library: str
    name: str
    options: Options = field(default_factory=Options)
    edits: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.library}:{self.name}"


def network_spec(
    text: str, zoo: Callable[[], Zoo], options: Options | None = None, edits: Sequence[Mapping[str, Any]] = ()
) -> NetworkSpec:
    """The network that ``text`` names, with these sizes and edits.

    That is ``timm:NAME``, ``torchvision:NAME``, ``small:NAME``, a registry id, or ``py:package.module:factory``.

    Raises:
        InputError: it names no network that can be built, or a part of one is asked for.
    """
    options = options or Options()
    library, _, name = text.partition(":")
    if options.submodule is not None:
        raise InputError("a part of a network cannot be initialised by itself: leave out submodule")
    if library == _PYTHON:
        if options != Options():
            raise InputError(
                "classes, in-chans and img-size change a network that kzoo builds by name; build your own with the sizes that it needs"
            )
        return NetworkSpec(_PYTHON, name, options, tuple(edits))
    known = zoo().named(text)
    if known is not None and known[0].library in LIBRARIES:
        entry, tag = known
        return NetworkSpec(
            entry.library,
            f"{entry.name}.{tag}" if tag and entry.library == "timm" else entry.name,
            options,
            tuple(edits),
        )
    if library in (*LIBRARIES, SMALL) and name:
        return NetworkSpec(library, name, options, tuple(edits))
    raise InputError(
        f"{text!r} names no network that can be built: expected timm:NAME, torchvision:NAME, small:NAME, a registry id "
        f"like timm/resnet18.a1_in1k, or py:package.module:factory; nearest: {', '.join(zoo().nearest(text))}"
    )


def build_network(
    spec: NetworkSpec, zoo: Callable[[], Zoo], seed: int = 0, trust_code: bool = False, reserved: int = 0
) -> nn.Module:
    """The network with fresh weights, on the CPU; the same seed gives the same weights.

    ``reserved`` is how many bytes of memory are needed beside it. The state of torch's and Python's random generators is
    left as it was.

    Raises:
        InputError: the library does not know the network or cannot build it so, or it does not fit into memory.
    """
    if spec.library != _PYTHON:
        architecture = resolve(str(spec), zoo, spec.options)
        require_memory(str(spec), architecture.entries * _BYTES_PER_ENTRY, reserved)
    if spec.edits:
        _require_memory_for_edits(spec, zoo, trust_code, reserved)
    with seeded(seed):
        module = _edited(_created(spec, trust_code), spec)
        if spec.edits:
            from kzoo.fresh import reset

            # Edits leave channels that repeat each other, and blocks that are copies.
            reset(module)
        return module


def _require_memory_for_edits(spec: NetworkSpec, zoo: Callable[[], Zoo], trust_code: bool, reserved: int) -> None:
    """Refuse edits whose network would not fit, before any of it is made."""
    module = outline(spec, zoo, trust_code)
    tensors = (*module.parameters(), *module.buffers())
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    # A tensor and its larger copies are there at once while it is made.
    require_memory(f"{spec}, edited,", _COPIES * needed, reserved)


def outline(spec: NetworkSpec, zoo: Callable[[], Zoo], trust_code: bool = False) -> nn.Module:
    """The network without values: its names and shapes, and no memory for weights (but for a factory's own).

    Raises:
        InputError: the library does not know the network or cannot build it so.
    """
    if spec.library == _PYTHON:
        return _edited(_created(spec, trust_code), spec)
    from kzoo.readers.module import without_weights

    resolve(str(spec), zoo, spec.options)
    # RegNets compute their widths with tensors while they are built, which needs real ones.
    with without_weights(on_cpu=spec.name.startswith("regnet")):
        return _edited(_created(spec, trust_code), spec)


def _edited(module: nn.Module, spec: NetworkSpec) -> nn.Module:
    if not spec.edits:
        return module
    from kzoo.edits import apply_edits

    return apply_edits(module, spec.edits)


def _created(spec: NetworkSpec, trust_code: bool) -> nn.Module:
    if spec.library == _PYTHON:
        return python_module(spec.name, trust_code)
    create = {"timm": _timm_network, "torchvision": _torchvision_network, SMALL: small_module}[spec.library]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return create(spec.name, spec.options)
    except KzooError:
        raise
    except Exception as error:  # constructors raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{spec} cannot be built with these options ({reason:.200}): give other ones") from None


def _timm_network(name: str, options: Options) -> nn.Module:
    import timm

    config = timm.get_pretrained_cfg(name)
    # Where the input size is not fixed, no layer depends on it and the constructor does not take it.
    size = options.img_size if config is not None and config.fixed_input_size else None
    module: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=options.classes, in_chans=options.in_chans, img_size=size
    )
    return module


def _torchvision_network(name: str, options: Options) -> nn.Module:
    from torchvision.models import get_model_builder

    given: dict[str, Any] = {"num_classes": options.classes}
    given["image_size"] = options.img_size if name.startswith("vit_") else None
    module: nn.Module = get_model_builder(name)(
        weights=None, **{key: value for key, value in given.items() if value is not None}
    )
    return module


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch and Python from ``seed`` inside; their generators go on outside as if nothing had been."""
    import torch

    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)

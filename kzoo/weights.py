"""Trained networks on this machine: their architecture and their tensors, of a file, a folder or a torch module."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kzoo.building import outline, seeded
from kzoo.errors import InputError, KzooWarning
from kzoo.hashing import weights_sha256
from kzoo.hub.names import PREFIX
from kzoo.layers import Architecture
from kzoo.readers.files import WeightsFile, looks_like_path, read_weights_file
from kzoo.readers.libraries import BY_HEADER, LOCAL
from kzoo.refine import fits, fitting
from kzoo.sources import claimed_architecture, is_torch_module, python_module
from kzoo.zoo import Model, Zoo

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kzoo.hub.models import Fetched

# Types that torch has too; of the others there is nothing to carry.
_LOADABLE = frozenset(
    {
        "F64",
        "F32",
        "F16",
        "BF16",
        "F8_E4M3",
        "F8_E5M2",
        "I64",
        "I32",
        "I16",
        "I8",
        "U8",
        "U16",
        "U32",
        "U64",
        "BOOL",
        "C64",
    }
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with weights: what people call it, its architecture, its tensors by the architecture's names.

    ``shards`` are the files that hold them, none for a module in memory; ``model`` is the checkpoint of one's own
    registries, where it is one; ``pinned`` names a network of the Hub at its commit, as ``hf:user/name@COMMIT``;
    ``submodule`` is the part of the network that this is, where it is not all of it; ``file`` is what holds it.
    """

    name: str
    architecture: Architecture
    tensors: Mapping[str, Tensor]
    shards: tuple[Path, ...] = ()
    model: Model | None = None
    pinned: str | None = None
    submodule: str | None = None
    file: WeightsFile | None = None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, or of the list of shards as `kzoo.hashing.weights_sha256` makes it.

        Of a module in memory, that of the safetensors file that it would be.
        """
        if self.shards:
            return weights_sha256(self.shards)
        from safetensors.torch import save

        contents = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in self.tensors.items()}
        return hashlib.sha256(save(contents)).hexdigest()


@dataclass(frozen=True)
class Located:
    """Weights in files on this machine: what people call them, their header, and where they come from.

    ``model`` is the checkpoint of one's own registries, and ``pinned`` the network of the Hub at its commit, where they
    are one.
    """

    name: str
    file: WeightsFile
    model: Model | None = None
    pinned: str | None = None

    @cached_property
    def sha256(self) -> str:
        """As `kzoo.hashing.weights_sha256` makes it."""
        return weights_sha256(self.file.shards)

    @property
    def path(self) -> str:
        """How a recipe names them."""
        if self.pinned is not None:
            return self.pinned
        return self.model.architecture if self.model is not None else self.name


@contextmanager
def in_any_order() -> Iterator[None]:
    """Without the warning that the order of a file's layers is a guess, where it decides nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*the order of its layers is a guess", KzooWarning)
        yield


def open_trained(
    source: str | Path | nn.Module, zoo: Callable[[], Zoo], trust_code: bool = False, submodule: str | None = None
) -> TrainedNetwork:
    """A network with weights that are on this machine, or a part of it: ``submodule``, else what its registry says.

    ``source`` is a torch module, a safetensors file or a folder that holds one, ``local:NAME``, the id of a model in a
    registry, ``hf:user/name``, or ``py:package.module:factory`` (with ``trust_code``). What lies on the Hub is fetched.
    Tensors of files are mapped into memory and read when they are used.

    Raises:
        InputError: it names nothing, or a network of which there are no weights here, or the file is faulty.
    """
    if is_torch_module(source):
        return _of_module(source, type(source).__name__)
    text = str(source)
    if text.startswith("py:"):
        with seeded(0):
            return _of_module(python_module(text.removeprefix("py:"), trust_code), text)
    found = locate(text, zoo)
    trusted = trust_code and found.pinned is None
    return _of_file(found.file, text, zoo(), found.model, found.pinned, submodule, trusted)


def locate(text: str, zoo: Callable[[], Zoo]) -> Located:
    """The files of a network, by a string as `open_trained` takes it, read up to their headers; without torch.

    Raises:
        InputError: it names nothing that lies in files, or the file is faulty.
    """
    model = _model(text, zoo)
    if model is not None and model.library == LOCAL:
        path = model.entry.index.path.parent / str(model.fields["path"])
        return Located(text, read_weights_file(path), model)
    if model is None and zoo().named(text) is None and not text.startswith(PREFIX) and looks_like_path(text):
        return Located(str(Path(text).expanduser()), read_weights_file(Path(text)))
    if text.startswith(f"{LOCAL}:") and model is None:
        raise InputError(
            f"no registry here holds {text}: name the folder of its registry (kzoo -C DIR, or KZOO_REGISTRY)"
        )
    fetched = _fetched(text, zoo)
    if fetched is not None:
        return Located(text, read_weights_file(fetched.path), model, fetched.lock.pinned)
    if zoo().named(text) is None:
        raise InputError(
            f"{text!r} names no trained network: expected the path of a safetensors file or of a folder that holds one, "
            f"local:NAME, hf:user/name, or the id of a model in a registry; nearest: {', '.join(zoo().nearest(text))}"
        )
    raise InputError(
        f"{text} names a network, but its weights are not on the Hub, and not on this machine: save them as a safetensors file "
        "(safetensors.torch.save_file) and give its path, or 'kzoo add' it and give local:NAME"
    )


def _fetched(text: str, zoo: Callable[[], Zoo]) -> Fetched | None:
    """A network on the Hub, fetched where it is not in the client's cache; None where the string names nothing there."""
    from kzoo.hub.models import default_fetcher, wanted

    asked = wanted(text, zoo)
    return None if asked is None else default_fetcher(zoo()).fetch(asked)


def _model(text: str, zoo: Callable[[], Zoo]) -> Model | None:
    """The model of one's own registries that a string names."""
    named = zoo().named(text)
    if named is None or named[0].library not in BY_HEADER:
        return None
    entry, tag = named
    models = (model for model in zoo().models.values() if model.entry is entry and tag in ("", model.tag))
    return next(models, None)


def _of_module(module: nn.Module, name: str) -> TrainedNetwork:
    from kzoo.readers.module import module_architecture

    architecture = module_architecture(module, name)
    tensors = module.state_dict()
    missing = next((key for key, tensor in tensors.items() if tensor.is_meta), None)
    if missing is not None:
        raise InputError(
            f"{name} has no weights: its tensor {missing} lies on the meta device; load a checkpoint first"
        )
    return TrainedNetwork(name, architecture, tensors)


def _edited(file: WeightsFile, zoo: Zoo, trust_code: bool) -> Architecture | None:
    """The architecture of a network whose structure kzoo has changed, as the config.json beside the file tells it."""
    from kzoo.model_folder import config_network, read_config
    from kzoo.readers.module import module_architecture

    config = read_config(file.path.parent)
    if not config.get("edits"):
        return None
    spec = config_network(file.path.parent, config)
    if spec.library == "py" and not trust_code:
        return None
    found = module_architecture(outline(spec, lambda: zoo, trust_code), str(file.path))
    return found if fits(found, file.architecture()) else None


def _of_file(
    file: WeightsFile,
    name: str,
    zoo: Zoo,
    model: Model | None = None,
    pinned: str | None = None,
    submodule: str | None = None,
    trust_code: bool = False,
) -> TrainedNetwork:
    from safetensors.torch import load_file

    submodule = submodule or (model.fields.get("submodule") if model else None)
    approximate = file.architecture(submodule)
    exact = (
        (_edited(file, zoo, trust_code) or claimed_architecture(zoo, approximate, file)) if submodule is None else None
    )
    # Of several known networks with these layers any will do: they differ in what has no weights.
    architecture = exact or next(iter(fitting(zoo, approximate).values()), approximate)
    if architecture.approximate:
        warnings.warn(
            f"{file.path} is no network that kzoo knows, so the order of its layers is a guess from their names",
            KzooWarning,
            stacklevel=3,
        )
    for key, tensor in file.tensors.items():
        if tensor.dtype not in _LOADABLE:
            raise InputError(
                f"{file.path}: tensor {key} has the type {tensor.dtype}, so it is quantised: give a checkpoint of "
                "floating-point weights"
            )
    stored: dict[str, Tensor] = {}
    for shard in file.shards:
        stored |= load_file(shard)
    tensors = {ours: stored[key] for ours, key in file.names(submodule).items()}
    return TrainedNetwork(name, architecture, tensors, file.shards, model, pinned, submodule, file)

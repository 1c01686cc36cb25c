"""Networks in files: a safetensors file, the index of a sharded one, or a folder that holds one, with its config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kzoo.errors import InputError
from kzoo.layers import Architecture
from kzoo.readers.libraries import LIBRARIES
from kzoo.readers.safetensors import Tensor, parse_object, read_bounded, read_header, read_shards
from kzoo.readers.shapes import shapes_architecture, without_wrappers

#: kzoo's own small networks, as they are named everywhere.
SMALL = "small"
WHOLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors\Z")
# The names of 21,000 classes take one of these megabytes.
MOST_CONFIG = 5_000_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class WeightsFile:
    """What a file's header and the config.json beside it tell of a network; ``path`` is the file itself.

    ``tensors`` have the names of the file; ``shards`` are the files that hold them. ``claims`` are the architectures
    that the config.json may mean, as ``library:name``; ``classes`` and ``input_size`` (channels, height, width) are what
    it says of them.
    """

    path: Path
    tensors: dict[str, Tensor]
    shards: tuple[Path, ...]
    claims: tuple[str, ...] = ()
    classes: int | None = None
    input_size: tuple[int, ...] | None = None

    def architecture(self, submodule: str | None = None) -> Architecture:
        """The approximate architecture of the network, or of one of its submodules.

        Raises:
            InputError: there is no such submodule, or no tensor at all.
        """
        names = self.names(submodule)
        return shapes_architecture({name: self.tensors[key] for name, key in names.items()}, str(self.path))

    def names(self, submodule: str | None = None) -> dict[str, str]:
        """The tensors of the network, or of one of its submodules: their names in it, and in the file.

        Raises:
            InputError: there is no such submodule.
        """
        keys = {key: key for key in self.tensors}
        if submodule is not None:
            keys = _inside(without_wrappers(keys), submodule) or _inside(keys, submodule)
            if not keys:
                names = (*self.tensors, *without_wrappers(self.tensors))
                known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
                raise InputError(f"{self.path} has no submodule {submodule!r}: its outermost ones are {known:.200}")
        return without_wrappers(keys)


def looks_like_path(text: str) -> bool:
    """Whether a string that names no known network is meant as a path."""
    path = Path(text)
    return bool(text) and (
        text.startswith((".", "/", "~"))
        or path.suffix in (".safetensors", *PICKLES)
        or text.endswith(SHARDED)
        or _exists(path)
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, a NUL in it
        return False


def is_shard(name: str) -> bool:
    """Whether a file's name says that it is one of several that belong together."""
    found = _SHARD.search(name)
    return found is not None and int(found[1]) != 1


def read_weights_file(path: Path) -> WeightsFile:
    """Read the header of ``path``, a weights file or a folder that holds one.

    Raises:
        InputError: nothing that can be read is there, or it is faulty.
    """
    try:
        path = _locate(path.expanduser())
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a home that nobody has, a NUL
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): give a file that exists and may be read") from None
    if is_shard(path.name):
        raise InputError(f"{path} is one shard of several: give their index, {SHARDED}, or the folder")
    tensors, shards = read_shards(path) if path.suffix == ".json" else (read_header(path), (path,))
    if not tensors:
        raise InputError(f"{path} holds no tensors: give the file of a trained network")
    return WeightsFile(path, tensors, shards, *_config(path.with_name("config.json")))


def _locate(path: Path) -> Path:
    if path.suffix in PICKLES:
        raise InputError(
            f"{path} may be a pickle, which can run code when it is read: save its tensors with safetensors.torch.save_file"
        )
    if not path.is_dir():
        return path
    for name in (WHOLE, SHARDED):
        if (path / name).exists():
            return path / name
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        what = "several .safetensors files: name one of them" if found else f"no .safetensors file: expected {WHOLE}"
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
        if pickles and not found:
            what += f"; {pickles[0]} may be a pickle: save its tensors with safetensors.torch.save_file"
        raise InputError(f"folder {path} holds {what}")
    return found[0]


def _inside(keys: Mapping[str, str], submodule: str) -> dict[str, str]:
    prefix = f"{submodule}."
    return {name.removeprefix(prefix): key for name, key in keys.items() if name.startswith(prefix)}


def _config(path: Path) -> tuple[tuple[str, ...], int | None, tuple[int, ...] | None]:
    """What a config.json in timm's layout says: the architectures it may mean, classes and input size."""
    if not path.is_file():
        return (), None, None
    return config_claims(read_bounded(path, MOST_CONFIG), str(path))


def config_claims(content: bytes, name: str) -> tuple[tuple[str, ...], int | None, tuple[int, ...] | None]:
    """What the content of a config.json in timm's layout says: architectures it may mean, classes and input size.

    Raises:
        InputError: it is no JSON object; ``name`` is what the message calls it.
    """
    config = parse_object(content, f"{name} cannot be used", MOST_CONFIG)
    pretrained = config.get("pretrained_cfg")
    nested = pretrained if isinstance(pretrained, dict) else {}
    arguments = config.get("model_args")
    given = arguments if isinstance(arguments, dict) else {}
    architecture = config.get("architecture", nested.get("architecture"))
    classes = config.get("num_classes", nested.get("num_classes", given.get("num_classes")))
    size = nested.get("input_size", config.get("input_size"))
    sized = isinstance(size, list) and len(size) == 3 and all(type(axis) is int and axis > 0 for axis in size)
    known = type(classes) is int and classes >= 0
    return _claims(architecture, config), classes if known else None, tuple(size) if sized and size else None


def _claims(name: Any, config: Mapping[str, Any]) -> tuple[str, ...]:
    if not isinstance(name, str):
        return ()
    library = config.get("library_name", config.get("library"))
    prefix, colon, rest = name.partition(":")
    if prefix == SMALL and colon:
        return (name,)
    if colon and prefix not in LIBRARIES:
        # A factory of somebody's own, or a library that kzoo does not know.
        return ()
    libraries = (library,) if library in LIBRARIES else LIBRARIES
    if colon and prefix in LIBRARIES:
        libraries, name = (prefix,), rest
    return tuple(f"{each}:{name.partition('.')[0]}" for each in libraries)

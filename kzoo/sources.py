"""The one parser of the strings that name a network, and how each becomes an architecture.

``timm:resnet18`` · ``torchvision:resnet18`` · ``timm/resnet18.a1_in1k`` (a registry id) · ``local:NAME`` ·
``small:resnet-2x16`` (`kzoo.training.networks`) · ``path/to/file.safetensors`` or a folder holding one ·
``py:package.module:factory``. The zoo answers where it can,
without torch; what it does not hold is built by the library, or read from the file's header.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from kzoo.errors import InputError, KzooError, KzooWarning
from kzoo.heads import with_classes
from kzoo.hub.names import PREFIX
from kzoo.index import Entry
from kzoo.layers import MOST_SIZE, Architecture
from kzoo.readers.files import SMALL, WeightsFile, looks_like_path, read_weights_file
from kzoo.readers.libraries import BY_HEADER, LIBRARIES, LOCAL, load_library
from kzoo.refine import as_claimed, fits, identify
from kzoo.zoo import Zoo

if TYPE_CHECKING:
    from torch import nn

#: What one of `kzoo.training.networks` has unless something else is asked for.
SMALL_CLASSES, SMALL_CHANNELS = 10, 3
_EXPECTED = (
    "expected timm:NAME, torchvision:NAME, small:NAME, local:NAME, a registry id like timm/resnet18.a1_in1k, hf:user/name, the path of a "
    "safetensors file or of a folder that holds one, or py:package.module:factory"
)


@dataclass(frozen=True)
class Options:
    """What a target may change of the network that its string names; None leaves it as it is.

    ``submodule`` takes a part of it, by its path.
    """

    classes: int | None = None
    in_chans: int | None = None
    img_size: int | None = None
    submodule: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("classes", self.classes), ("in-chans", self.in_chans), ("img-size", self.img_size)):
            least = 0 if name == "classes" else 1
            if value is not None and not (isinstance(value, int) and least <= value <= MOST_SIZE):
                raise InputError(f"{name} is {value}: expected a whole number from {least} to {MOST_SIZE}")
        if self.submodule is not None and not (isinstance(self.submodule, str) and self.submodule):
            raise InputError(f"submodule is {self.submodule!r}: expected the path of a module, such as layer1.0")


def resolve(
    source: object, zoo: Callable[[], Zoo], options: Options | None = None, trust_code: bool = False
) -> Architecture:
    """The architecture of an Architecture, a torch module or a string.

    ``zoo`` is called only when a string needs it. ``trust_code`` allows ``py:``, which imports and runs code.

    Raises:
        InputError: the string has no such form, names nothing known, or needs a library that is not installed.
    """
    options = options or Options()
    source = str(source) if isinstance(source, Path) else source
    if isinstance(source, str) and not source.startswith("py:"):
        return _resolve_string(source, zoo(), options)
    if options != Options(submodule=options.submodule):
        raise InputError(
            "classes, in-chans and img-size change a network that kzoo builds by name; build your own with the sizes that it needs"
        )
    if isinstance(source, Architecture):
        if options.submodule is not None:
            raise InputError("a kzoo.Architecture has no submodules: give its items of that part")
        return source
    if isinstance(source, str):
        return _from_python(source.removeprefix("py:"), trust_code, options.submodule)
    if is_torch_module(source):
        return _read_module(source, type(source).__name__, options.submodule)
    raise InputError(
        f"cannot read an architecture from {type(source).__name__}: give a torch module, a kzoo.Architecture or a string"
    )


def is_torch_module(value: object) -> TypeGuard[nn.Module]:
    """Whether ``value`` is a torch module, without importing torch where nobody has."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _resolve_string(text: str, zoo: Zoo, options: Options) -> Architecture:
    library, colon, name = text.partition(":")
    known = zoo.named(text)
    if known is not None:
        _tell_version(known[0])
        return _form_of(*known, text, options)
    if library == SMALL and colon:
        return _small(name, options)
    if library in LIBRARIES and colon:
        return _from_library(text, library, name, zoo, options)
    if text.startswith(PREFIX):
        return _from_hub(text, zoo, options)
    if not text.startswith(f"{LOCAL}:") and looks_like_path(text):
        return _from_file(Path(text), zoo, options)
    raise InputError(f"{text!r} names no network: {_EXPECTED}; nearest: {', '.join(zoo.nearest(text))}")


def small_module(name: str, options: Options) -> nn.Module:
    """One of kzoo's own small networks, initialised from torch's global random numbers.

    Raises:
        InputError: there is none of that name, or another image size is asked for.
    """
    from kzoo.training.networks import small_network

    if options.img_size is not None:
        raise InputError(
            f"{SMALL}:{name} is not built for a size of images (a small ViT takes 16 pixels, the others any): leave out img-size"
        )
    classes = SMALL_CLASSES if options.classes is None else options.classes
    return small_network(name, classes=classes, channels=options.in_chans or SMALL_CHANNELS)


def _small(name: str, options: Options) -> Architecture:
    try:
        from kzoo.readers.module import without_weights

        with without_weights():
            module = small_module(name, options)
    except ImportError as error:
        raise InputError(
            f"{SMALL}:{name} is built by torch and timm, which cannot be imported ({error}): install torch, timm and torchvision"
        ) from None
    return _read_module(module, f"{SMALL}:{name}", options.submodule)


def _from_library(text: str, library: str, name: str, zoo: Zoo, options: Options) -> Architecture:
    """A network that the zoo does not hold: another version of its library may know more."""
    installed = installed_version(library)
    if installed not in (None, zoo.version(library)):
        try:
            found = _build(library, name, options)
        except Exception as error:  # constructors raise what they like
            _reraise_own(error)
        else:
            warnings.warn(
                f"{text} is not in the index, which was built with {library} {zoo.version(library)}: it was read from "
                f"the installed {library} {installed}; 'kzoo registry sync {library}' and 'kzoo index' add it",
                KzooWarning,
                stacklevel=2,
            )
            return found
    raise InputError(f"{library} has no architecture {name!r}; nearest: {', '.join(zoo.nearest(text))}")


def _tell_version(entry: Entry) -> None:
    """Say so where the installed library is newer than the one that the entry's index was built with."""
    library = entry.library
    installed, known = installed_version(library), entry.index.meta["libraries"].get(library)
    if installed is None or known is None or installed == known:
        return
    from packaging.version import InvalidVersion, Version

    with suppress(InvalidVersion):
        if Version(installed) <= Version(known):
            return
        warnings.warn(
            f"{library} {installed} is installed, but the index was built with {known}: what is new in it is not ranked; "
            f"'kzoo registry sync {library}' and 'kzoo index' add it",
            KzooWarning,
            stacklevel=2,
        )


def _build(library: str, name: str, options: Options) -> Architecture:
    reader = load_library(library)
    return reader.build(name, options.classes, options.in_chans, options.img_size, options.submodule)


def _reraise_own(error: Exception) -> None:
    """Let kzoo's own sentences through where a library's errors are caught."""
    if isinstance(error, KzooError):
        raise error


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution without its local label, without importing it; None if absent."""
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _form_of(entry: Entry, tag: str, text: str, options: Options) -> Architecture:
    """A form from the zoo; a head of another size is put on where that changes nothing else."""
    form = entry.forms[tag]
    size = entry.fields.get("input_size")
    plain = options.in_chans in (None, size and size[0]) and options.img_size is None and options.submodule is None
    if plain and options.classes is None:
        return entry.architecture(form, text)
    if plain and options.classes and form.heads is not None:
        return with_classes(entry.architecture(form, text), form, options.classes)
    if entry.library in BY_HEADER:
        raise InputError(f"{text} is a file of weights, which has one shape only: leave out the options that change it")
    name = f"{entry.name}.{tag}" if tag and entry.library == "timm" else entry.name
    try:
        return _build(entry.library, name, options)
    except Exception as error:  # constructors raise what they like
        _reraise_own(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{text} cannot be built with these options ({reason:.200}): give other ones") from None


def _from_hub(text: str, zoo: Zoo, options: Options) -> Architecture:
    """The network in a repository on the Hub, by the headers of its weights."""
    if options != Options(submodule=options.submodule):
        raise InputError(
            f"{text} holds trained weights, which have one shape only: leave out --classes, --in-chans and --img-size, or name "
            "the network instead"
        )
    from kzoo.hub.models import remote_weights

    return weights_architecture(remote_weights(text, zoo), zoo, options.submodule)


def _from_file(path: Path, zoo: Zoo, options: Options) -> Architecture:
    if options != Options(submodule=options.submodule):
        raise InputError(
            f"{path} is a file of weights, which has one shape only: leave out --classes, --in-chans and --img-size, "
            "or name the network instead of its file"
        )
    return file_architecture(path, zoo, options.submodule)


def file_architecture(path: Path, zoo: Zoo, submodule: str | None = None) -> Architecture:
    """The architecture of the network in a file: exact where its config.json names one that fits, else approximate.

    Raises:
        InputError: the file cannot be read or is faulty, or there is no such submodule.
    """
    return weights_architecture(read_weights_file(path), zoo, submodule)


def weights_architecture(file: WeightsFile, zoo: Zoo, submodule: str | None = None) -> Architecture:
    """The same of a file whose header has been read, wherever it is.

    Raises:
        InputError: there is no such submodule.
    """
    approximate = file.architecture(submodule)
    if submodule is not None or not file.claims:
        return approximate
    exact = claimed_architecture(zoo, approximate, file)
    if exact is None:
        warnings.warn(
            f"the config.json beside {file.path} names {' or '.join(file.claims)}, which kzoo does not know with the "
            "tensors of this file: its architecture is approximate",
            KzooWarning,
            stacklevel=2,
        )
    return exact or approximate


def claimed_architecture(zoo: Zoo, approximate: Architecture, file: WeightsFile) -> Architecture | None:
    """The exact architecture that the config.json beside a file names, if the file has its layers; else None."""
    small = [claim.removeprefix(f"{SMALL}:") for claim in file.claims if claim.startswith(f"{SMALL}:")]
    if small:
        found = _small_with_sizes_of(approximate, small[0])
    else:
        found = as_claimed(zoo, approximate, file.claims) or _built_as_claimed(zoo, approximate, file)
    return found if found is not None and fits(found, approximate) else None


def _built_as_claimed(zoo: Zoo, approximate: Architecture, file: WeightsFile) -> Architecture | None:
    """A known network with other input channels or another image size, built by its library as the file says."""
    if file.input_size is None:
        return None
    channels, size, _ = file.input_size
    for claim in file.claims:
        library, _, name = claim.partition(":")
        if claim in zoo.entries and installed_version(library) is not None:
            # What the library makes of sizes that somebody else wrote is its own affair.
            with suppress(Exception):
                found = _build(library, name, Options(file.classes, channels, size))
                if fits(found, approximate):
                    return replace(found, name=approximate.name)
    return None


def _small_with_sizes_of(approximate: Architecture, name: str) -> Architecture | None:
    """A small network with the classes and input channels of a file's; None if it has other layers."""
    try:
        plain = _small(name, Options())
    except InputError:
        return None
    shapes = {layer.name: layer.shape for layer in approximate.layers if layer.typed}
    typed = [layer.name for layer in plain.layers if layer.typed]
    first, last = shapes.get(typed[0], ()), shapes.get(typed[-1], ())
    if len(first) < 2 or not last:
        return None
    found = _small(name, Options(classes=last[0], in_chans=first[1]))
    return replace(found, name=approximate.name)


def refine(architecture: Architecture, zoo: Zoo) -> Architecture:
    """The exact architecture behind an approximate one, where a known network has its layers; else as it is."""
    if not architecture.approximate:
        return architecture
    exact = identify(zoo, architecture)
    if exact is None:
        warnings.warn(
            f"{architecture.name} stays approximate: no known network has its layers", KzooWarning, stacklevel=2
        )
    return exact or architecture


def _from_python(rest: str, trust_code: bool, submodule: str | None) -> Architecture:
    made = _made(rest, trust_code)
    if isinstance(made, Architecture) and submodule is None:
        return made
    return _read_module(_required_module(made, rest), f"py:{rest}", submodule)


def python_module(rest: str, trust_code: bool) -> nn.Module:
    """The torch module that ``py:<rest>`` makes.

    Raises:
        InputError: code is not trusted, fails, or makes something else.
    """
    return _required_module(_made(rest, trust_code), rest)


def _required_module(made: Any, rest: str) -> nn.Module:
    if not is_torch_module(made):
        raise InputError(f"'py:{rest}' returned {type(made).__name__}: expected a torch module")
    return made


def _made(rest: str, trust_code: bool) -> Any:
    module_name, colon, factory = rest.partition(":")
    if not (module_name and colon and factory):
        raise InputError(f"'py:{rest}' is incomplete: expected py:package.module:factory")
    if not trust_code:
        raise InputError(
            f"'py:{rest}' would import and run code: add --trust-code (trust_code=True in Python) if you trust it"
        )
    path = list(sys.path)
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module_name), factory)()
    except (Exception, SystemExit) as error:
        # The code is not ours: whatever it raises is an answer about it.
        reason = " ".join(str(error).split())
        raise InputError(
            f"'py:{rest}' failed with {type(error).__name__} ({reason:.200}): "
            "give a module that Python can import from here (or set PYTHONPATH), and a function in it that needs no arguments"
        ) from None
    finally:
        sys.path[:] = path


def _read_module(module: nn.Module, name: str, submodule: str | None) -> Architecture:
    from kzoo.readers.module import module_architecture

    return module_architecture(module, name, submodule)

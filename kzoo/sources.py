"""The one parser of the strings that name a network, and how each becomes an architecture.

``timm:resnet18`` · ``torchvision:resnet18`` · ``timm/resnet18.a1_in1k`` (a registry id) · ``py:package.module:factory``.
The index answers where it can, without torch; what it does not hold is built by the library.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from kzoo.errors import InputError, KzooError
from kzoo.index import Entry, Form, Index
from kzoo.layers import MOST_SIZE, Architecture, Layer
from kzoo.paths import index_file
from kzoo.readers.libraries import LIBRARIES, load_library
from kzoo.readers.variants import resized

if TYPE_CHECKING:
    from torch import nn

_EXPECTED = (
    "expected timm:NAME, torchvision:NAME, a registry id like timm/resnet18.a1_in1k, or py:package.module:factory"
)


@dataclass(frozen=True)
class Options:
    """What a target may change of the network that its string names; None leaves it as it is."""

    classes: int | None = None
    in_chans: int | None = None
    img_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("classes", self.classes), ("in-chans", self.in_chans), ("img-size", self.img_size)):
            least = 0 if name == "classes" else 1
            if value is not None and not (isinstance(value, int) and least <= value <= MOST_SIZE):
                raise InputError(f"{name} is {value}: expected a whole number from {least} to {MOST_SIZE}")


def resolve(
    source: object, index: Callable[[], Index], options: Options | None = None, trust_code: bool = False
) -> Architecture:
    """The architecture of an Architecture, a torch module or a string.

    ``index`` is called only when a string needs it. ``trust_code`` allows ``py:``, which imports and runs code.

    Raises:
        InputError: the string has no such form, names nothing known, or needs a library that is not installed.
    """
    options = options or Options()
    if isinstance(source, str) and not source.startswith("py:"):
        return _resolve_string(source, index(), options)
    if options != Options():
        raise InputError("classes, in-chans and img-size change a named network only: build your own with them")
    if isinstance(source, Architecture):
        return source
    if isinstance(source, str):
        return _from_python(source.removeprefix("py:"), trust_code)
    if is_torch_module(source):
        return _read_module(source, type(source).__name__)
    raise InputError(
        f"cannot read an architecture from {type(source).__name__}: give a torch module, a kzoo.Architecture or a string"
    )


def is_torch_module(value: object) -> TypeGuard[nn.Module]:
    """Whether ``value`` is a torch module, without importing torch where nobody has."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _resolve_string(text: str, index: Index, options: Options) -> Architecture:
    scheme, colon, rest = text.partition(":")
    if scheme in LIBRARIES and colon:
        return _from_library(text, scheme, rest, index, options)
    identifier = index.aliases.get(text, text)
    if identifier in index.models:
        model = index.models[identifier]
        return _form_of(index, index.entries[model.architecture], model.tag, text, options)
    if index.path != index_file():
        return _resolve_string(text, Index(index_file()), options)
    raise InputError(f"{text!r} names no network: {_EXPECTED}; nearest: {', '.join(index.nearest(text))}")


def _from_library(text: str, library: str, name: str, index: Index, options: Options) -> Architecture:
    if text in index.entries:
        return _form_of(index, index.entries[text], "", text, options)
    if text in index.aliases or f"{library}/{name}" in index.models:
        model = index.models[index.aliases.get(text, f"{library}/{name}")]
        return _form_of(index, index.entries[model.architecture], model.tag, text, options)
    if index.path != index_file():
        # A registry of one's own need not hold the target.
        return _from_library(text, library, name, Index(index_file()), options)
    if installed_version(library) not in (None, index.meta["libraries"].get(library)):
        # Another version than the index was built from may know more.
        try:
            return load_library(library).build(name, options.classes, options.in_chans, options.img_size)
        except Exception as error:  # constructors raise what they like
            _reraise_own(error)
    raise InputError(f"{library} has no architecture {name!r}; nearest: {', '.join(index.nearest(text))}")


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


def _form_of(index: Index, entry: Entry, tag: str, text: str, options: Options) -> Architecture:
    """A form from the index; a head of another size is put on where that changes nothing else."""
    form = entry.forms[tag]
    channels = entry.fields["input_size"][0]
    plain = options.in_chans in (None, channels) and options.img_size is None
    if plain and options.classes is None:
        return index.architecture(entry, form, text)
    if plain and options.classes and form.heads is not None:
        return with_classes(index.architecture(entry, form, text), form, options.classes)
    name = f"{entry.name}.{tag}" if tag and entry.library == "timm" else entry.name
    try:
        return load_library(entry.library).build(name, options.classes, options.in_chans, options.img_size)
    except Exception as error:  # constructors raise what they like
        _reraise_own(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{text} cannot be built with these options ({reason:.200}): give other ones") from None


def with_classes(architecture: Architecture, form: Form, classes: int) -> Architecture:
    """The architecture with heads of ``classes`` outputs, as its library would build it; the form must know its heads."""
    assert form.heads is not None
    layers = list(architecture.layers)
    before = layers[form.heads[0]].shape[0]
    for place in form.heads:
        layers[place] = resized(layers[place], classes)
    rest = iter(layers)
    items = tuple(
        next(rest) if isinstance(item, Layer) else tuple(next(rest) for _ in item) for item in architecture.items
    )
    return Architecture(items, architecture.name, form.parameters + form.parameters_per_class * (classes - before))


def _from_python(rest: str, trust_code: bool) -> Architecture:
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
        made: Any = getattr(importlib.import_module(module_name), factory)()
    except (Exception, SystemExit) as error:
        # The code is not ours: whatever it raises is an answer about it.
        reason = " ".join(str(error).split())
        raise InputError(
            f"'py:{rest}' failed with {type(error).__name__} ({reason:.200}): "
            "give a module that Python can import and a function in it that needs no arguments"
        ) from None
    finally:
        sys.path[:] = path
    if isinstance(made, Architecture):
        return made
    if not is_torch_module(made):
        raise InputError(f"'py:{rest}' returned {type(made).__name__}: expected a torch module")
    return _read_module(made, f"py:{rest}")


def _read_module(module: nn.Module, name: str) -> Architecture:
    from kzoo.readers.module import module_architecture

    return module_architecture(module, name)

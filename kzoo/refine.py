"""From an approximate architecture to the exact one: find the known network that has its layers' names and shapes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from kzoo.errors import KzooWarning
from kzoo.heads import with_classes
from kzoo.index import SPACES, Entry, Form, Index, Space
from kzoo.layers import Architecture, Item
from kzoo.zoo import Zoo


def fits(exact: Architecture, approximate: Architecture) -> bool:
    """Whether a file whose header gave ``approximate`` can hold the weights of ``exact``.

    All layers and parameters that the ``extended`` measure sees must agree in name, shape and bias, and both must have
    as many learned entries. Their kinds may differ: a header does not tell a group from a layer normalisation.
    """
    return exact.entries == approximate.entries and _shapes(exact) == _shapes(approximate)


def _shapes(architecture: Architecture) -> dict[str, tuple[tuple[int, ...], bool]]:
    return {layer.name: (layer.shape, layer.bias_entries > 0) for layer in architecture.extended.layers if layer.typed}


def as_claimed(zoo: Zoo, approximate: Architecture, claims: Iterable[str]) -> Architecture | None:
    """The exact architecture if it is one of ``claims`` (``library:name``); else None."""
    found = (exact for claim in claims for exact in _fitting(zoo, claim, approximate))
    return next(found, None)


def identify(zoo: Zoo, approximate: Architecture) -> Architecture | None:
    """The exact architecture of a network that some library builds, with any head; None if no known one has its layers.

    Warns where several have them that differ in layers without weights, which no header tells apart: the first in the
    order of the zoo is taken.
    """
    found = fitting(zoo, approximate)
    if len({exact.fingerprint for exact in found.values()}) > 1:
        first, *others = found
        warnings.warn(
            f"{approximate.name} has the layers of {first}, which it is taken for, and of {', '.join(others)}, which differ "
            "in layers without weights: name the network instead of its file if it is one of those",
            KzooWarning,
            stacklevel=2,
        )
    return next(iter(found.values()), None)


def fitting(zoo: Zoo, approximate: Architecture) -> dict[str, Architecture]:
    """All known networks that have the layers of ``approximate``, by ``library:name``, in the order of the zoo."""
    found = {name: next(_fitting(zoo, name, approximate), None) for name in zoo.entries}
    return {name: exact for name, exact in found.items() if exact is not None}


def _fitting(zoo: Zoo, name: str, approximate: Architecture) -> Iterator[Architecture]:
    """The forms of an entry, with a head of the right size, that have the layers of ``approximate``."""
    entry = zoo.entries.get(name)
    seen: list[Form] = []
    for form in entry.forms.values() if entry is not None else ():
        if form.approximate or form in seen:
            continue
        seen.append(form)
        assert entry is not None
        exact = _of_size(entry, form, approximate)
        if exact is not None and fits(exact, approximate):
            yield exact


def _of_size(entry: Entry, form: Form, approximate: Architecture) -> Architecture | None:
    """The form with the number of classes that gives it as many entries as ``approximate`` has, if there is one."""
    more = approximate.entries - form.parameters
    if more == 0:
        return entry.architecture(form, approximate.name)
    if form.heads is None or not form.parameters_per_class or more % form.parameters_per_class:
        return None
    exact = entry.architecture(form, approximate.name)
    classes = exact.layers[form.heads[0]].shape[0] + more // form.parameters_per_class
    return with_classes(exact, form, classes) if classes > 0 else None


def refined(zoo: Zoo) -> Zoo:
    """The zoo with every approximate architecture that can be identified replaced by the exact one."""
    layers, origins = list(zoo.layers), list(zoo.origins)
    for layer, origin in zip(zoo.layers, zoo.origins, strict=True):
        found = list(_identified(zoo, layer))
        if found:
            layers.append(RefinedIndex(layer, found))
            origins.append(origin)
    return Zoo(layers, origins, zoo.registries)


def _identified(zoo: Zoo, layer: Index) -> Iterator[tuple[Entry, dict[str, Architecture]]]:
    """The approximate entries of a layer of which every form can be identified, with their exact forms by tag."""
    for entry in layer.entries.values():
        if any(form.approximate for form in entry.forms.values()):
            forms = {tag: identify(zoo, entry.architecture(form, entry.name)) for tag, form in entry.forms.items()}
            exact = {tag: form for tag, form in forms.items() if form is not None}
            if len(exact) == len(forms):
                yield entry, exact


class RefinedIndex(Index):
    """Entries of another index with exact architectures in place of approximate ones; lives in memory only."""

    def __init__(self, layer: Index, found: Sequence[tuple[Entry, Mapping[str, Architecture]]]) -> None:
        self.path, self.meta = layer.path, {"libraries": {}}
        self._found = found
        self._exact = [form for _, forms in found for form in forms.values()]

    @cached_property
    def spaces(self) -> dict[str, Space]:
        """The exact architectures, each at the place of its own."""
        return {
            "paper": RefinedSpace([form.paper for form in self._exact]),
            "extended": RefinedSpace([form.extended for form in self._exact]),
        }

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The refined entries by ``library:name``."""
        places = iter(range(len(self._exact)))
        entries = {}
        for entry, exact in self._found:
            forms = {tag: _exact_form(form, next(places)) for tag, form in exact.items()}
            entries[f"{entry.library}:{entry.name}"] = replace(entry, forms=forms, index=self)
        return entries

    def named_items(self, entry: Entry, form: Form, space: str) -> tuple[Item, ...]:
        """The items of one of the exact architectures, with its layers' names."""
        exact = self._exact[form.places[space]]
        return exact.extended.items if space == "extended" else exact.items


class RefinedSpace(Space):
    """Architectures in memory, as a space of an index."""

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        self._architectures = architectures

    @cached_property
    def fingerprints(self) -> list[str]:
        """The fingerprint at each place."""
        return [architecture.fingerprint for architecture in self._architectures]

    def items(self, place: int) -> tuple[Item, ...]:
        """The items at ``place``."""
        return self._architectures[place].items


def _exact_form(architecture: Architecture, place: int) -> Form:
    places = dict.fromkeys(SPACES, place)
    return Form(places, places, architecture.entries, None, 0, False)

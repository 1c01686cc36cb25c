"""From an approximate architecture to the exact one: find the known network that has its layers' names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from kzoo.heads import with_classes
from kzoo.index import SPACES, Entry, Form, Index, Space
from kzoo.layers import Architecture, Item
from kzoo.zoo import Zoo


def fits(exact: Architecture, approximate: Architecture) -> bool:
    """Whether a file whose header gave ``approximate`` can hold the weights of ``exact``: same names, shapes, biases."""
    found = _shapes(approximate)
    wanted = _shapes(exact)
    if any(found.get(name) != shape for name, shape in wanted.items()):
        return False
    # What the header has beyond them must be what the paper does not see, such as an embedding.
    unseen = {layer.name for layer in exact.extended.layers}
    return all(name in wanted or name in unseen for name in found)


def _shapes(architecture: Architecture) -> dict[str, tuple[tuple[int, ...], bool]]:
    return {layer.name: (layer.shape, layer.bias) for layer in architecture.layers if layer.typed}


def as_claimed(zoo: Zoo, approximate: Architecture, claims: Iterable[str], classes: int | None) -> Architecture | None:
    """The exact architecture if it is one of ``claims`` (``library:name``), with that many classes; else None."""
    for claim in claims:
        for entry, form in _forms(zoo, claim):
            exact = _exact(entry, form, approximate, classes)
            if exact is not None:
                return exact
    return None


def identify(zoo: Zoo, approximate: Architecture) -> Architecture | None:
    """The exact architecture of a network that some library builds, with any head; None if no known one has its layers."""
    for name in zoo.entries:
        for entry, form in _forms(zoo, name):
            classes = _classes(entry, form, approximate.entries)
            if classes is not None:
                exact = _exact(entry, form, approximate, classes or None)
                if exact is not None:
                    return exact
    return None


def _forms(zoo: Zoo, name: str) -> Iterator[tuple[Entry, Form]]:
    entry = zoo.entries.get(name)
    seen: list[Form] = []
    for form in entry.forms.values() if entry else ():
        if form not in seen and not form.approximate:
            seen.append(form)
            assert entry is not None
            yield entry, form


def _classes(entry: Entry, form: Form, entries: int) -> int | None:
    """How many classes give this form so many entries: 0 where it has them as it is, None where no number does."""
    more = entries - form.parameters
    if more == 0:
        return 0
    if form.heads is None or not form.parameters_per_class or more % form.parameters_per_class:
        return None
    classes: int = entry.fields["classes"] + more // form.parameters_per_class
    return classes if classes > 0 else None


def _exact(entry: Entry, form: Form, approximate: Architecture, classes: int | None) -> Architecture | None:
    for count in (None, classes):
        if count is not None and form.heads is None:
            continue
        exact = entry.architecture(form, approximate.name)
        if count:
            exact = with_classes(exact, form, count)
        if fits(exact, approximate):
            return replace(exact, parameters=approximate.parameters)
    return None


def refined(zoo: Zoo) -> Zoo:
    """The zoo with every approximate architecture that can be identified replaced by the exact one."""
    layers, origins = list(zoo.layers), list(zoo.origins)
    for layer, origin in zip(zoo.layers, zoo.origins, strict=True):
        found = list(_identified(zoo, layer))
        if found:
            layers.append(RefinedIndex(layer, found))
            origins.append(origin)
    return Zoo(layers, origins)


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

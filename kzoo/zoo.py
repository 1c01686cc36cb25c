"""All trained models that a search can see: the index that came with kzoo, and those of one's own registries on top.

Layers are in order: of two architectures with one name, or two checkpoints with one id, that of the later layer counts.
A later layer adds and replaces; what it does not name stays visible.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from kzoo.encoding import Encoding, encode
from kzoo.errors import InputError, KzooWarning
from kzoo.index import Entry, Form, Index, Space
from kzoo.layers import Architecture, Item
from kzoo.paths import index_file, registry_directory, registry_layers
from kzoo.registry_files import LOCK_FILE, LOCKS, family_files, registry_digest, registry_files

SHIPPED = "shipped"


@dataclass(frozen=True, slots=True)
class Model:
    """One trained checkpoint; `places` says where its architecture stands in each space of the zoo."""

    id: str
    tag: str
    license: str
    license_name: str | None
    classes: int | None
    input_size: tuple[int, ...] | None
    trained_on: tuple[str, ...]
    parameters: int
    metrics: Mapping[str, Mapping[str, float]]
    places: Mapping[str, int]
    order: int
    origin: str
    fields: Mapping[str, Any]
    entry: Entry = field(repr=False)

    @property
    def library(self) -> str:
        """The library that builds the network, or ``local`` for a file of one's own."""
        return self.entry.library

    @property
    def name(self) -> str:
        """The architecture's name in its library."""
        return self.entry.name

    @property
    def form(self) -> Form:
        """The architecture as built for this checkpoint."""
        return self.entry.forms[self.tag]

    @property
    def architecture(self) -> str:
        """The architecture as every command takes it."""
        return f"{self.library}:{self.name}"

    @property
    def task(self) -> str | None:
        """The Hub's pipeline tag: classification with a head, else feature extraction; None where nobody knows."""
        if self.classes is None:
            return None
        return "image-classification" if self.classes else "image-feature-extraction"

    @property
    def accuracy(self) -> float | None:
        """ImageNet-1k top-1 accuracy in percent where it is known."""
        return self.metrics.get("imagenet-1k", {}).get("top1")

    @property
    def license_label(self) -> str:
        """The license as people call it: its name where the id is only ``other``."""
        return (self.license_name or self.license) if self.license.lower() == "other" else self.license


class Places:
    """The architectures of all layers in one space, one place per fingerprint; the first layer's keep their places."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self.first = spaces[0]
        self.by_fingerprint: dict[str, int] = {}
        #: Where each layer's own places stand here.
        self.of_layer: list[list[int]] = []
        self._homes: list[tuple[Space, int]] = []
        for space in spaces:
            for local, fingerprint in enumerate(space.fingerprints):
                if self.by_fingerprint.setdefault(fingerprint, len(self._homes)) == len(self._homes):
                    self._homes.append((space, local))
            self.of_layer.append([self.by_fingerprint[fingerprint] for fingerprint in space.fingerprints])

    def __len__(self) -> int:
        return len(self._homes)

    def items(self, place: int) -> tuple[Item, ...]:
        """The items at ``place``, without layer names."""
        space, local = self._homes[place]
        return space.items(local)

    def encode(self, places: Sequence[int]) -> Encoding:
        """The architectures at some places, in their order."""
        return encode([Architecture(self.items(place)) for place in places])


class Zoo:
    """Several indexes in layers, later ones on top.

    ``origins`` name the layers for people; the first is usually ``shipped``. ``registries`` are the folders of all, with
    those that hold locks only. `load_zoo` makes one from folders.
    """

    def __init__(
        self,
        layers: Sequence[Index],
        origins: Sequence[str] | None = None,
        registries: Sequence[Path] | None = None,
    ) -> None:
        self.layers = tuple(layers)
        self.origins = tuple(origins or (str(layer.path.parent) for layer in layers))
        self.registries = tuple(registries or (layer.path.parent for layer in layers))

    @cached_property
    def spaces(self) -> _Spaces:
        """The places of all layers by space."""
        return _Spaces(self.layers)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every architecture by ``library:name``, in the order of layers and their registries."""
        return {name: entry for layer in self.layers for name, entry in layer.entries.items()}

    @cached_property
    def models(self) -> dict[str, Model]:
        """Every checkpoint by id, in the order of layers and their registries."""
        found: dict[str, Model] = {}
        for layer, origin in enumerate(self.origins):
            with self.layers[layer].reading():
                found |= {model.id: model for model in self._models(layer, origin)}
        return found

    def _models(self, layer: int, origin: str) -> Iterator[Model]:
        for entry in self.layers[layer].entries.values():
            for order, fields in enumerate(entry.fields.get("checkpoints", ())):
                form = entry.forms[fields["tag"]]
                places = form.places if layer == 0 else _LayerPlaces(self, layer, form)
                yield _model(entry, fields, order, origin, places)

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Other names that people know a checkpoint by, to its id: ``library:name.tag`` and ``library/name.tag``."""
        spelled = (
            (f"{model.library}{mark}{model.name}.{model.tag}", model.id)
            for model in self.models.values()
            for mark in ":/"
        )
        return {alias: identifier for alias, identifier in spelled if alias != identifier}

    def ranked_places(self, space: str) -> set[int]:
        """Places whose architectures the stored rankings know: those with a checkpoint in the first layer."""
        return {
            entry.forms[checkpoint["tag"]].places[space]
            for entry in self.layers[0].entries.values()
            for checkpoint in entry.fields.get("checkpoints", ())
        }

    def version(self, library: str) -> str | None:
        """The version of a library that the index was built with; None where no layer holds anything of it."""
        versions = (layer.meta["libraries"].get(library) for layer in reversed(self.layers))
        return next((version for version in versions if version is not None), None)

    def architecture_of(self, name: str) -> str | None:
        """``library:name`` of an architecture or a checkpoint by any of its names; None for anything else."""
        known = self.named(name)
        return f"{known[0].library}:{known[0].name}" if known else None

    def model(self, name: str) -> Model | None:
        """A checkpoint by its id, else by any of its other names."""
        return self.models.get(name) or self.models.get(self.aliases.get(name, ""))

    def named(self, name: str) -> tuple[Entry, str] | None:
        """The entry that a string names, and the tag of the checkpoint or the empty one; None for anything else.

        ``library:name`` is an architecture, or else the checkpoint ``library/name``.
        """
        if name in self.entries:
            return self.entries[name], ""
        model = self.model(name) or self.model(name.replace(":", "/", 1))
        return (model.entry, model.tag) if model else None

    def nearest(self, name: str, count: int = 3) -> list[str]:
        """The known names most like ``name``, for an error message."""
        known = {spelled.lower(): spelled for spelled in (*self.models, *self.entries)}
        return [known[match] for match in difflib.get_close_matches(name.lower(), known, n=count, cutoff=0.0)]


class _Spaces(dict[str, Places]):
    """Places by space, read when they are asked for: most searches need one space only."""

    def __init__(self, layers: Sequence[Index]) -> None:
        super().__init__()
        self._layers = layers

    def __missing__(self, space: str) -> Places:
        self[space] = places = Places([layer.spaces[space] for layer in self._layers])
        return places


class _LayerPlaces(Mapping[str, int]):
    """The places in a zoo of a form that is not in its first layer; fingerprints are read when they are asked for."""

    def __init__(self, zoo: Zoo, layer: int, form: Form) -> None:
        self._zoo, self._layer, self._own = zoo, layer, form.places

    def __getitem__(self, space: str) -> int:
        with self._zoo.layers[self._layer].reading():
            return self._zoo.spaces[space].of_layer[self._layer][self._own[space]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def _model(entry: Entry, fields: Mapping[str, Any], order: int, origin: str, places: Mapping[str, int]) -> Model:
    size = fields.get("input_size")
    return Model(
        id=fields["id"],
        tag=fields["tag"],
        license=fields["license"],
        license_name=fields.get("license_name"),
        classes=fields.get("classes"),
        input_size=None if size is None else tuple(size),
        trained_on=tuple(fields.get("trained_on", ())),
        parameters=fields["parameters"],
        metrics=fields.get("metrics", {}),
        places=places,
        order=order,
        origin=origin,
        fields=fields,
        entry=entry,
    )


def load_zoo(more: Sequence[Path] = (), new: Path | None = None) -> Zoo:
    """What came with kzoo, with one's own registries on top: see `kzoo.paths.registry_layers`.

    ``new`` is a registry that is about to be filled: it may be missing or empty.

    Warns where an index is older than the registry beside it, which is then searched as the index knows it, and where a
    registry of one's own has no index that can be read, which is then left out.

    Raises:
        InputError: a registry's folder is missing, unreadable or holds nothing, or the index of kzoo itself is missing.
    """
    layers, origins = [_load(registry_directory())], [SHIPPED]
    directories = registry_layers(more)
    for directory in directories:
        if directory == new and not (directory.is_dir() and family_files(directory)):
            continue
        made = (index_file(directory), directory / LOCKS, directory / LOCK_FILE)
        if not family_files(directory) and any(path.exists() for path in made):
            # Its last model was removed, or there never was one.
            continue
        registry_files(directory)
        try:
            layers.append(_load(directory))
        except InputError as error:
            warnings.warn(f"{error}; models of {directory} are left out", KzooWarning, stacklevel=2)
        else:
            origins.append(str(directory))
    return Zoo(layers, origins, [registry_directory(), *directories])


def shipped_zoo() -> Zoo:
    """What came with kzoo alone."""
    return Zoo([_load(registry_directory())], [SHIPPED])


def _load(directory: Path) -> Index:
    path = index_file(directory)
    index = _read(path, path.stat().st_mtime_ns if path.exists() else 0)
    if registry_digest(directory) != index.meta["registry"]:
        warnings.warn(
            f"the registry {directory} has changed since its index was compiled: models are ranked as the index knows "
            f"them; run '{index.command}'",
            KzooWarning,
            stacklevel=3,
        )
    return index


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int) -> Index:
    return Index(path)

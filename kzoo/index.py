"""The index: the registry in compiled, searchable form, one place per fingerprint. Loads without torch.

The file is an uncompressed zip whose members are compressed one by one, so that a search reads only what it needs:
``meta.json`` (digests, library versions), ``registry.json`` (every field of the registry), arrays (the encoding of all
architectures, their fingerprints, the stored rankings) and ``names/<library>.<family>.json`` (layer names, which only
``compare`` and ``show`` need). `kzoo.indexing` builds it; nobody edits it.
"""

from __future__ import annotations

import difflib
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kzoo.encoding import Encoding, Ints, Sequences, decode
from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.layers import Architecture, Item, Layer
from kzoo.paths import index_file

FORMAT = 1
_SEQUENCE_FIELDS = ("start", "length", "unit", "position", "group")
_TABLE_FIELDS = ("kinds", "shapes", "biases", "typed")


@dataclass(frozen=True, slots=True)
class Model:
    """One trained checkpoint as the index knows it; `place` is where its architecture stands in the index."""

    id: str
    library: str
    family: str
    name: str
    tag: str
    license: str
    classes: int
    input_size: tuple[int, ...]
    trained_on: tuple[str, ...]
    parameters: int
    metrics: Mapping[str, Mapping[str, float]]
    place: int
    order: int
    fields: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """The architecture as every command takes it."""
        return f"{self.library}:{self.name}"

    @property
    def task(self) -> str:
        """The Hub's pipeline tag: classification with a head, else feature extraction."""
        return "image-classification" if self.classes else "image-feature-extraction"

    @property
    def accuracy(self) -> float | None:
        """ImageNet-1k top-1 accuracy in percent where the library carries it."""
        return self.metrics.get("imagenet-1k", {}).get("top1")


@dataclass(frozen=True, slots=True)
class Form:
    """An architecture as built for some of its checkpoints; see `kzoo.readers.variants.Variant`."""

    place: int
    parameters: int
    names: int
    heads: tuple[int, ...] | None
    parameters_per_class: int


@dataclass(frozen=True)
class Entry:
    """One architecture of the registry: its default form, and the form of each checkpoint by tag."""

    library: str
    family: str
    name: str
    fields: Mapping[str, Any]
    forms: Mapping[str, Form]

    @property
    def default(self) -> Form:
        """The form with the default head."""
        return self.forms[""]


class Index:
    """A loaded index file.

    Raises:
        InputError: the file is missing, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta: dict[str, Any] = self._json("meta.json")
        found = self.meta.get("format") if isinstance(self.meta, dict) else None
        if found != FORMAT:
            raise InputError(
                f"the index {path} has format {found}, this kzoo reads {FORMAT}: build it anew with '{self._command}'"
            )

    def _read(self, name: str, parse: Callable[[bytes], Any]) -> Any:
        try:
            return parse(self._archive.read(name))
        except FileNotFoundError:
            raise InputError(f"there is no index at {self.path}: build it with '{self._command}'") from None
        except (
            OSError,
            EOFError,
            KeyError,
            ValueError,
            NotImplementedError,
            zipfile.BadZipFile,
            lzma.LZMAError,
        ) as error:
            raise InputError(
                f"the index {self.path} cannot be read ({error}): build it anew with '{self._command}'"
            ) from None

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    @property
    def _command(self) -> str:
        return "kzoo index" if self.path == index_file() else f"kzoo -C {self.path.parent} index"

    def _json(self, name: str) -> Any:
        return self._read(name, json.loads)

    def _array(self, name: str) -> Any:
        return self._read(f"{name}.npy", lambda content: np.load(io.BytesIO(content), allow_pickle=False))

    @cached_property
    def encoding(self) -> Encoding:
        """All architectures, one place per fingerprint."""

        def sequences(prefix: str) -> Sequences:
            return Sequences(*(self._array(f"{prefix}/{field}").astype(np.int32) for field in _SEQUENCE_FIELDS))

        tables = {field: self._array(field).astype(np.int32) for field in _TABLE_FIELDS}
        return Encoding(**tables, blocks=sequences("blocks"), items=sequences("items"))

    @cached_property
    def fingerprints(self) -> list[str]:
        """The fingerprint at each place."""
        return [str(fingerprint) for fingerprint in self._array("fingerprints").tolist()]

    @cached_property
    def places(self) -> dict[str, int]:
        """Place by fingerprint."""
        return {fingerprint: place for place, fingerprint in enumerate(self.fingerprints)}

    def ranking(self, measure: str) -> Ints | None:
        """Stored ranking per place: the places of the most similar trained architectures, best first; None if not stored."""
        if measure not in self.meta["rankings"]:
            return None
        return np.asarray(self._array(f"rankings/{measure}"), dtype=np.int32)

    @cached_property
    def _registry(self) -> Any:
        return self._json("registry.json")

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every architecture by ``library:name``, in the registry's order."""
        entries = {}
        for family in self._registry:
            for data in family["architectures"]:
                forms = {
                    tag: Form(place, parameters, names, None if heads is None else tuple(heads), growth)
                    for tags, place, parameters, names, heads, growth in data["forms"]
                    for tag in tags
                }
                entry = Entry(family["library"], family["family"], data["fields"]["name"], data["fields"], forms)
                entries[f"{entry.library}:{entry.name}"] = entry
        return entries

    @cached_property
    def models(self) -> dict[str, Model]:
        """Every checkpoint by id, in the registry's order."""
        found = [
            _model(entry, fields, order)
            for entry in self.entries.values()
            for order, fields in enumerate(entry.fields.get("checkpoints", ()))
        ]
        return {model.id: model for model in found}

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Other names that people know a checkpoint by, to its id: ``library:name.tag`` and ``library/name.tag``."""
        spelled = (
            (f"{model.library}{mark}{model.name}.{model.tag}", model.id)
            for model in self.models.values()
            for mark in ":/"
        )
        return {alias: identifier for alias, identifier in spelled if alias != identifier}

    @cached_property
    def trained(self) -> dict[int, list[Model]]:
        """Checkpoints by place; places without any are absent."""
        by_place: dict[int, list[Model]] = {}
        for model in self.models.values():
            by_place.setdefault(model.place, []).append(model)
        return by_place

    def items(self, place: int) -> tuple[Item, ...]:
        """The items at ``place``, without layer names."""
        return decode(self.encoding, place)

    def architecture(self, entry: Entry, form: Form, name: str) -> Architecture:
        """An architecture with its layer names."""
        texts = self._json(f"names/{entry.library}.{entry.family}.json")
        names = iter(texts[form.names].split("\n"))

        def named(layer: Layer) -> Layer:
            return Layer(layer.kind, layer.shape, next(names), layer.bias)

        items = (
            named(item) if isinstance(item, Layer) else tuple(named(layer) for layer in item)
            for item in self.items(form.place)
        )
        return Architecture(tuple(items), name, form.parameters)

    def architecture_of(self, name: str) -> str | None:
        """``library:name`` of an architecture or a checkpoint by any of its names; None for anything else."""
        if name in self.entries:
            return name
        model = self.models.get(self.aliases.get(name, name))
        return model.architecture if model else None

    def nearest(self, name: str, count: int = 3) -> list[str]:
        """The known names most like ``name``, for an error message."""
        known = {spelled.lower(): spelled for spelled in (*self.models, *self.entries)}
        return [known[match] for match in difflib.get_close_matches(name.lower(), known, n=count, cutoff=0.0)]


def _model(entry: Entry, fields: Mapping[str, Any], order: int) -> Model:
    return Model(
        id=fields["id"],
        library=entry.library,
        family=entry.family,
        name=entry.name,
        tag=fields["tag"],
        license=fields["license"],
        classes=fields["classes"],
        input_size=tuple(fields["input_size"]),
        trained_on=tuple(fields.get("trained_on", ())),
        parameters=fields["parameters"],
        metrics=fields.get("metrics", {}),
        place=entry.forms[fields["tag"]].place,
        order=order,
        fields=fields,
    )


def write_index(
    path: Path, meta: Mapping[str, Any], registry: Any, names: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write an index file; the same content gives the same bytes.

    Raises:
        WorldError: the file cannot be written.
    """
    members: list[tuple[str, bytes]] = [("meta.json", _json(meta)), ("registry.json", _json(registry))]
    members += [(f"{name}.npy", _npy(array)) for name, array in arrays.items()]
    members += [(f"names/{family}.json", _json(texts)) for family, texts in names.items()]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in members:
            # A fixed date, so that only the content decides the bytes.
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, content, compress_type=zipfile.ZIP_LZMA)


def encoding_arrays(encoding: Encoding) -> dict[str, Any]:
    """The arrays of an encoding under their names in the file, in the smallest integer type that holds them."""
    arrays = {field: getattr(encoding, field) for field in _TABLE_FIELDS}
    for prefix, sequences in (("blocks", encoding.blocks), ("items", encoding.items)):
        arrays |= {f"{prefix}/{field.name}": getattr(sequences, field.name) for field in fields(sequences)}
    return {name: array.astype(np.min_scalar_type(int(array.max(initial=0)))) for name, array in arrays.items()}


def _json(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()

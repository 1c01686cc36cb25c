"""One index file: the architectures of a registry folder in compiled, searchable form. Loads without torch.

The file is an uncompressed zip whose members are compressed one by one, so that a search reads only what it needs:
``meta.json`` (digests, library versions), ``registry.json`` (every field of the registry), per space (``paper``,
``extended``) the encoding of all architectures with their fingerprints and stored rankings, and
``names/<library>.<family>.json`` (layer names, which only ``compare`` and ``show`` need). `kzoo.indexing` builds it;
nobody edits it. `kzoo.zoo` puts several of them in layers.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kzoo.encoding import Encoding, Ints, Sequences, decode, require_sound
from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.layers import Architecture, Item, Layer
from kzoo.paths import index_file

FORMAT = 2
#: What a measure looks at: the paper's kinds of layers, or ours too. Each has its own list of items, and so its own
#: fingerprints and places.
SPACES = ("paper", "extended")
_LARGEST_MEMBER = 200_000_000
_SEQUENCE_FIELDS = ("start", "length", "unit", "position", "group")
_TABLE_FIELDS = ("kinds", "shapes", "biases", "typed")


@dataclass(frozen=True, slots=True)
class Form:
    """An architecture as built for some of its checkpoints; see `kzoo.readers.variants.Variant`.

    ``places`` says where it stands in each space, ``names`` which text holds its layers' names there.
    """

    places: Mapping[str, int]
    names: Mapping[str, int]
    parameters: int
    heads: tuple[int, ...] | None
    parameters_per_class: int
    approximate: bool


@dataclass(frozen=True)
class Entry:
    """One architecture of a registry: its default form, and the form of each checkpoint by tag."""

    library: str
    family: str
    version: str
    name: str
    fields: Mapping[str, Any]
    forms: Mapping[str, Form]
    index: Index = field(repr=False)

    @property
    def default(self) -> Form:
        """The form with the default head."""
        return self.forms[""]

    def architecture(self, form: Form, name: str) -> Architecture:
        """One of the forms as an architecture with its layers' names."""
        items = self.index.named_items(self, form, "paper")
        return Architecture(
            items, name, form.parameters, form.approximate, lambda: self.index.named_items(self, form, "extended")
        )


class Space:
    """All architectures of an index as some measures see them, one place per fingerprint."""

    def __init__(
        self, array: Callable[[str], Any], rankings: list[str], reading: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._array, self._rankings, self._reading = array, rankings, reading

    @cached_property
    def encoding(self) -> Encoding:
        """The architecture at each place."""

        def sequences(prefix: str) -> Sequences:
            return Sequences(*(self._array(f"{prefix}/{field}").astype(np.int32) for field in _SEQUENCE_FIELDS))

        with self._reading():
            tables = {field: self._array(field).astype(np.int32) for field in _TABLE_FIELDS}
            encoding = Encoding(**tables, blocks=sequences("blocks"), items=sequences("items"))
            require_sound(encoding)
            if len(encoding) != len(self.fingerprints):
                raise ValueError("its arrays contradict one another")
            return encoding

    @cached_property
    def fingerprints(self) -> list[str]:
        """The fingerprint at each place."""
        with self._reading():
            return [str(fingerprint) for fingerprint in self._array("fingerprints").tolist()]

    def ranking(self, measure: str) -> Ints | None:
        """Stored ranking per place: the places of the most similar trained architectures, best first; None if not stored."""
        if measure not in self._rankings:
            return None
        with self._reading():
            ranking = np.asarray(self._array(f"rankings/{measure}"), dtype=np.int32)
            if len(ranking) != len(self.fingerprints) or not np.all((ranking >= 0) & (ranking < len(ranking))):
                raise ValueError("its rankings point nowhere")
            return ranking

    def items(self, place: int) -> tuple[Item, ...]:
        """The items at ``place``, without layer names."""
        return decode(self.encoding, place)


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
                f"the index {path} has format {found}, this kzoo reads {FORMAT}: build it anew with '{self.command}'"
            )
        with self.reading():
            _require_types(self.meta, _META_TYPES)
            _require(all(isinstance(version, str) for version in self.meta["libraries"].values()), "libraries")
            _require(all(isinstance(self.meta["rankings"].get(space), list) for space in SPACES), "rankings")

    def _read(self, name: str, parse: Callable[[bytes], Any]) -> Any:
        with self.reading():
            # What a member says of its size is how much of it is unpacked.
            if self._archive.getinfo(name).file_size > _LARGEST_MEMBER:
                raise ValueError(f"{name} is larger than {_LARGEST_MEMBER // 10**6} MB")
            return parse(self._archive.read(name))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn whatever a damaged file makes Python say into a sentence."""
        try:
            yield
        except FileNotFoundError:
            raise InputError(f"there is no index at {self.path}: build it with '{self.command}'") from None
        except InputError:
            raise
        except Exception as error:  # zip, lzma, json and numpy raise a dozen kinds for bytes that are not theirs
            raise InputError(
                f"the index {self.path} cannot be read ({type(error).__name__}: {error!s:.200}): "
                f"build it anew with '{self.command}'"
            ) from None

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    @property
    def command(self) -> str:
        """What builds this file anew."""
        return "kzoo index" if self.path == index_file() else f"kzoo -C {self.path.parent} index"

    def _json(self, name: str) -> Any:
        return self._read(name, json.loads)

    def _array(self, name: str) -> Any:
        return self._read(f"{name}.npy", lambda content: np.load(io.BytesIO(content), allow_pickle=False))

    @cached_property
    def spaces(self) -> dict[str, Space]:
        """The architectures as the paper's measures and as ours see them."""

        def of(name: str) -> Space:
            return Space(lambda array: self._array(f"{name}/{array}"), self.meta["rankings"][name], self.reading)

        with self.reading():
            return {name: of(name) for name in SPACES}

    @cached_property
    def _registry(self) -> Any:
        return self._json("registry.json")

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every architecture by ``library:name``, in the registry's order."""
        entries = {}
        with self.reading():
            for family in self._registry:
                for data in family["architectures"]:
                    _require_types(data["fields"], _ENTRY_TYPES)
                    for checkpoint in data["fields"].get("checkpoints", ()):
                        _require_types(checkpoint, _CHECKPOINT_TYPES)
                        _require(all(isinstance(text, str) for text in checkpoint.get("trained_on", ())), "trained_on")
                        values = [value for found in checkpoint.get("metrics", {}).values() for value in found.values()]
                        _require(all(isinstance(value, int | float) for value in values), "metrics")
                    forms = {tag: _form(values) for tags, *values in data["forms"] for tag in tags}
                    entry = Entry(
                        family["library"],
                        family["family"],
                        family["version"],
                        data["fields"]["name"],
                        data["fields"],
                        forms,
                        self,
                    )
                    entries[f"{entry.library}:{entry.name}"] = entry
        return entries

    def named_items(self, entry: Entry, form: Form, space: str) -> tuple[Item, ...]:
        """The items of one of this index's forms, with its layers' names."""
        with self.reading():
            texts = self._json(f"names/{entry.library}.{entry.family}.json")
            names = iter(texts[form.names[space]].split("\n"))

            def named(layer: Layer) -> Layer:
                return Layer(layer.kind, layer.shape, next(names), layer.bias)

            return tuple(
                named(item) if isinstance(item, Layer) else tuple(named(layer) for layer in item)
                for item in self.spaces[space].items(form.places[space])
            )


_ENTRY_TYPES = {"name": str, "parameters": int, "classes": int, "input_size": list, "checkpoints": list}
_CHECKPOINT_TYPES = {
    "id": str, "tag": str, "license": str, "parameters": int, "license_name": str, "classes": int, "input_size": list,
    "trained_on": list, "metrics": dict,
}  # fmt: skip
_META_TYPES = {"registry": str, "code": str, "libraries": dict, "rankings": dict}
_NEEDED = ("id", "tag", "license", "parameters", "name", *_META_TYPES)


def _require_types(fields: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Raise TypeError where a field that searches use is missing or of another type."""
    for name, kind in types.items():
        if not isinstance(fields.get(name, None if name in _NEEDED else kind()), kind):
            raise TypeError(f"{name} is {fields.get(name)!r:.40}")


def _require(sound: bool, what: str) -> None:
    if not sound:
        raise TypeError(f"{what} holds something else than it should")


def _form(values: list[Any]) -> Form:
    places, names, parameters, heads, growth, approximate = values
    return Form(
        dict(zip(SPACES, places, strict=True)),
        dict(zip(SPACES, names, strict=True)),
        parameters,
        None if heads is None else tuple(heads),
        growth,
        bool(approximate),
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

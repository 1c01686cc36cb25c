"""The registry's YAML: its schema, loading it with errors that name file, line and field, and writing it.

One file per model family and library, at ``registry/<library>/<family>.yaml``. People review these files; programs
check and extend them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from yaml.representer import SafeRepresenter

from kzoo.errors import InputError
from kzoo.licenses import OTHER, UNKNOWN, is_known_license
from kzoo.plain_yaml import Keys, Plain, read_plain, shown
from kzoo.registry_files import WHOLE, family_files, read_bounded_file, registry_files, visible_files

_SHA256 = r"^[0-9a-f]{64}$"
_ID = r"^[^/\s]+(/[^/\s]+)+$"
_WORD = r"^\S+$"
#: Patterns in words.
_EXPECTED = {
    _SHA256: "64 lower-case hexadecimal digits",
    _ID: "words with a slash between them, such as timm/resnet18.a1_in1k",
    _WORD: "a name without spaces",
}
_Text = Annotated[str, Field(min_length=1)]
_Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Checkpoint(_Entry):
    """Trained weights of an architecture, and where they live."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {"path": ["sha256"]},
            "if": {"properties": {"license": {"const": OTHER}}, "required": ["license"]},
            "then": {"required": ["license_name", "license_link"]},
        }
    )

    id: str = Field(
        min_length=3,
        pattern=_ID,
        description="The Hub's repository id where there is one, with a file in it where that is meant; unique in the registry",
    )
    tag: str = Field(pattern=_WORD, description="The library's own name for these weights")
    license: _Text = Field(
        description="SPDX id or expression, or the Hub's id; 'other' with name and link; or 'unknown'",
    )
    license_name: _Text | None = Field(
        default=None, validate_default=True, description="Name of a license that is 'other'"
    )
    license_link: _Text | None = Field(
        default=None, validate_default=True, description="Address of the license's text; needed where it is 'other'"
    )
    classes: int | None = Field(default=None, ge=0, description="Outputs of the head; 0 means no head; absent, unknown")
    input_size: _Size | None = Field(default=None, description="Channels, height, width; absent where unknown")
    trained_on: list[_Text] = Field(default=[], description="Data sets in order of use, as far as the tag names them")
    parameters: int = Field(ge=0, description="Learned entries of these weights")
    metrics: dict[str, dict[str, float]] = Field(default={}, description="Data set to metric to value, in percent")
    hub: _Text | None = Field(default=None, description="The Hub repository where it is not the id")
    filename: _Text | None = Field(
        default=None, description="The weights' file in that repository where it is not the usual one"
    )
    url: _Text | None = Field(default=None, description="Direct address of the weights where they are not on the Hub")
    path: _Text | None = Field(
        default=None, description="A local weights file or folder, absolute or relative to the registry's folder"
    )
    sha256: str | None = Field(
        default=None,
        pattern=_SHA256,
        validate_default=True,
        description="SHA-256 of the weights; needed beside a path",
    )
    size: int | None = Field(default=None, ge=0, description="Bytes of the weights")
    submodule: _Text | None = Field(
        default=None, description="The part of the network that the weights are for, as a dotted name"
    )
    paper: _Text | None = Field(default=None, description="Where the weights are described, such as arXiv:1512.03385")

    @field_validator("license")
    @classmethod
    def _known(cls, license: str) -> str:
        if license.lower() not in (OTHER, UNKNOWN) and not is_known_license(license):
            raise PydanticCustomError(
                "rule",
                "expected an SPDX id or expression, an id of the Hub, 'other' with license_name and license_link, "
                "or 'unknown', found {found}",
                {"found": shown(license)},
            )
        return license

    @field_validator("license_name", "license_link", "sha256")
    @classmethod
    def _needed(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Fields are validated in their order; one that is faulty itself is not in the data.
        if value is None and info.field_name == "sha256" and info.data.get("path") is not None:
            raise PydanticCustomError("rule", "is missing: weights with a path need the SHA-256 of their content")
        if value is None and info.field_name != "sha256" and str(info.data.get("license")).lower() == OTHER:
            raise PydanticCustomError(
                "rule", "is missing: a license that is 'other' needs license_name and license_link"
            )
        return value


class ArchitectureEntry(_Entry):
    """One architecture that a library can build, with every known checkpoint; the default one comes first."""

    name: str = Field(pattern=_WORD, description="The library's name for the architecture; unique in the library")
    parameters: int = Field(ge=0, description="Learned entries with the default head")
    classes: int | None = Field(default=None, ge=0, description="Outputs of the default head; absent where unknown")
    input_size: _Size | None = Field(default=None, description="Channels, height, width; absent where unknown")
    checkpoints: list[Checkpoint] = Field(default=[], description="Trained weights, the library's default first")


class Family(_Entry):
    """The content of one registry file."""

    library: _Text = Field(description="The library that builds the networks: the name of the file's folder")
    family: _Text = Field(description="The library's module, or any name: the name of the file without .yaml")
    version: _Text = Field(description="Version of the library that the entries were read from")
    architectures: list[ArchitectureEntry] = Field(description="The family's architectures")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in a registry file: where, and in one sentence what, what was expected, and what to do."""

    file: Path
    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        return " ".join(f"{self.file}:{self.line}: {self.field}: {self.problem}".split())


@dataclass(frozen=True)
class Check:
    """What a registry holds, and everything that is wrong with it."""

    files: int
    architectures: int
    checkpoints: int
    faults: list[Fault]


@dataclass(frozen=True)
class Source:
    """A registry file: its text, where everything stands in it, and its family unless it has faults."""

    path: Path
    text: str
    plain: Plain
    family: Family | None
    faults: list[Fault]


def load_registry(directory: Path) -> list[Family]:
    """All families in the order of their files, checked against the schema; ids and names are unique.

    Raises:
        InputError: names file, line and field of the first fault.
    """
    sources = read_registry(directory)
    for fault in source_faults(sources):
        raise InputError(str(fault))
    return [source.family for source in sources if source.family is not None]


def faults(directory: Path) -> list[Fault]:
    """Everything that is wrong in a registry, in the order of files and lines.

    Raises:
        InputError: the directory is missing, unreadable or holds no YAML file.
    """
    return check_registry(directory).faults


def check_registry(directory: Path) -> Check:
    """What a registry holds, and everything that is wrong with it; entries of faulty files count too.

    Raises:
        InputError: the directory is missing, unreadable or holds no YAML file.
    """
    misplaced = _misplaced(directory)
    # Nothing but misplaced files is a fault of theirs.
    sources = [] if misplaced and not family_files(directory) else read_registry(directory)
    entries = [entry for source in sources for _, entry in _mappings(source.plain.data, "architectures")]
    checkpoints = sum(1 for entry in entries for _ in _mappings(entry, "checkpoints"))
    return Check(len(sources), len(entries), checkpoints, [*misplaced, *source_faults(sources)])


def _misplaced(directory: Path) -> list[Fault]:
    """YAML files that nobody would read."""
    problem = "is not read here: move it to <library>/<family>.yaml"
    return [
        Fault(path, 1, WHOLE, problem)
        for path in visible_files(directory)
        if path.suffix == ".yml" or (path.suffix == ".yaml" and path.parent == directory)
    ]


def read_registry(directory: Path) -> list[Source]:
    """Every registry file with its own faults.

    Raises:
        InputError: the directory is missing, unreadable or holds no YAML file.
    """
    return [read_source(path) for path in registry_files(directory)]


_MOST_FAULTS = 1000


def read_source(path: Path) -> Source:
    """One registry file with its faults; what cannot be read is a fault too."""
    content = read_bounded_file(path)
    if isinstance(content, str):
        return Source(path, "", Plain(), None, [Fault(path, 1, WHOLE, content)])
    try:
        return checked_source(path, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Source(path, "", Plain(), None, [Fault(path, line, WHOLE, "is not UTF-8 text: save it as UTF-8")])


def checked_source(path: Path, text: str) -> Source:
    """A registry file with the given text, and everything that is wrong with it alone."""
    # Some editors put a mark before the first character; it is no part of the text.
    plain = read_plain(text.removeprefix("\ufeff"))
    found = [Fault(path, blemish.line, _dotted(blemish.keys), blemish.problem) for blemish in plain.blemishes]
    family = None
    if plain.places:
        try:
            family = Family.model_validate(plain.data)
        except ValidationError as error:
            found += _schema_faults(path, plain, error)
        found += _place_faults(path, plain)
    found = sorted(found, key=lambda fault: fault.line)
    if len(found) > _MOST_FAULTS:
        more = Fault(path, found[_MOST_FAULTS].line, WHOLE, f"has {len(found) - _MOST_FAULTS:,} faults more")
        found = [*found[:_MOST_FAULTS], more]
    return Source(path, text, plain, None if found else family, found)


def _schema_faults(path: Path, plain: Plain, error: ValidationError) -> list[Fault]:
    details = error.errors(include_url=False)
    refused = {blemish.keys for blemish in plain.blemishes}
    nearest: dict[Keys, str | None] = {}
    for detail in details:
        if detail["type"] == "extra_forbidden":
            keys = tuple(detail["loc"])
            close = difflib.get_close_matches(str(keys[-1])[:40], _fields(keys), 1)
            nearest[keys] = close[0] if close else None
    meant = {(*keys[:-1], name) for keys, name in nearest.items() if name}
    found = []
    for detail in details:
        keys = tuple(detail["loc"])
        # What the reader has refused is None here; a misspelled field is both unknown and missing.
        if keys in refused or (detail["type"] == "missing" and keys in meant):
            continue
        problem = _unknown(keys, nearest[keys]) if keys in nearest else _sentence(detail)
        found.append(Fault(path, plain.line(keys), _dotted(keys), problem))
    return found


def _fields(keys: Keys) -> list[str]:
    """The fields that may stand where ``keys`` ends."""
    models: dict[int, type[_Entry]] = {1: Family, 3: ArchitectureEntry}
    model = models.get(len(keys), Checkpoint)
    return list(model.model_fields)


def _unknown(keys: Keys, nearest: str | None) -> str:
    hint = f"did you mean {nearest}?" if nearest else f"remove it, expected one of {', '.join(_fields(keys))}"
    return f"is not a known field: {hint}"


def _sentence(detail: ErrorDetails) -> str:
    """What pydantic says, in plain words."""
    kind, context, found = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "rule":
        return detail["msg"]
    if kind == "missing":
        return "is missing: add it"
    expected = {
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "text",
        "string_too_short": "text of {min_length} characters or more",
        "list_type": "a list",
        "dict_type": "fields with values",
        "model_type": "fields with values",
        "greater_than_equal": "a number of {ge} or more",
        "too_short": "{min_length} items",
        "too_long": "{max_length} items",
    }.get(kind)
    if kind == "string_pattern_mismatch":
        expected = _EXPECTED[context["pattern"]]
    words = f"expected {expected.format(**context)}" if expected else detail["msg"]
    unquoted = kind == "string_type" and isinstance(found, bool | int | float)
    return f"{words}, found {shown(found)}{': write it in quotes' if unquoted else ''}"


def _place_faults(path: Path, plain: Plain) -> list[Fault]:
    data = plain.data if isinstance(plain.data, dict) else {}
    return [
        Fault(
            path,
            plain.line((field,)),
            field,
            f"is {shown(data[field])}, but the file's place says {expected!r}: move the file or correct the field",
        )
        for field, expected in (("library", path.parent.name), ("family", path.stem))
        if isinstance(data.get(field), str) and data[field] != expected
    ]


def source_faults(sources: Iterable[Source]) -> Iterator[Fault]:
    """The faults of every file, and what several of them claim."""
    owners: dict[str, str] = {}
    for source in sources:
        found = list(source.faults)
        for keys, label in _identities(source):
            line = source.plain.line(keys)
            if label in owners:
                problem = f"{label!r} stands already at {owners[label]}: remove one of them"
                found.append(Fault(source.path, line, _dotted(keys), problem))
            owners.setdefault(label, f"{source.path}:{line}")
        yield from sorted(found, key=lambda fault: fault.line)


def _identities(source: Source) -> Iterator[tuple[Keys, str]]:
    """What may stand in a registry only once, also in a file with faults."""
    library = source.path.parent.name
    for a, entry in _mappings(source.plain.data, "architectures"):
        name = entry.get("name")
        if isinstance(name, str):
            yield ("architectures", a, "name"), f"{library}:{name}"
        for c, checkpoint in _mappings(entry, "checkpoints"):
            keys = ("architectures", a, "checkpoints", c)
            identifier, tag = checkpoint.get("id"), checkpoint.get("tag")
            if isinstance(identifier, str):
                yield (*keys, "id"), identifier
            if isinstance(name, str) and isinstance(tag, str):
                yield (*keys, "tag"), f"{library}:{name}.{tag}"


def _mappings(data: Any, field: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    items = data.get(field) if isinstance(data, dict) else None
    for place, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield place, item


def _dotted(keys: Keys) -> str:
    """A field as people read it; a name that somebody made endless is cut."""
    return ".".join(text if len(text) <= 60 else f"{text[:57]}..." for text in map(str, keys)) or WHOLE


def family_data(family: Family) -> dict[str, Any]:
    """The plain data of a registry file, fields at their default left out."""
    return family.model_dump(exclude_defaults=True)


def dump_family(family: Family) -> str:
    """The YAML text of a registry file."""
    return dump_plain(family_data(family))


class _Style(SafeRepresenter):
    """Lists of single values and mappings of numbers on one line, everything else on lines of its own."""

    def represent_sequence(
        self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = all(isinstance(child, yaml.ScalarNode) for child in node.value)
        return node

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = all(child.tag.endswith((":int", ":float")) for _, child in node.value)
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_plain(data: Any) -> str:
    """The YAML text of plain data in the registry's style, from top-level lines on."""
    node: Any = _Style(sort_keys=False).represent_data(data)
    node.flow_style = False
    return yaml.serialize(node, Dumper=yaml.CSafeDumper, width=120, allow_unicode=True)


def schema_text() -> str:
    """The JSON Schema of a registry file, for editors and other programs."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Family.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"

"""The registry's YAML: its schema, loading it with errors that name file, line and field, and writing it.

One file per model family and library, at ``registry/<library>/<family>.yaml``. People review these files; programs
check and extend them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kzoo.errors import InputError


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Checkpoint(_Entry):
    """Trained weights of an architecture, and where they live."""

    id: str = Field(
        min_length=3,
        pattern=r"^[^/\s]+/[^/\s]+$",
        description="The Hub's repository id where there is one; unique in the registry",
    )
    tag: str = Field(min_length=1, description="The library's own name for these weights")
    license: str = Field(min_length=1, description="SPDX or Hub license id; 'other' with a link; or 'unknown'")
    license_link: str | None = None
    classes: int = Field(ge=0, description="Outputs of the head; 0 means no head")
    input_size: list[int] = Field(min_length=3, max_length=3, description="Channels, height, width")
    trained_on: list[str] = Field(default=[], description="Data sets in order of use, as far as the tag names them")
    parameters: int = Field(ge=0)
    metrics: dict[str, dict[str, float]] = Field(default={}, description="Data set to metric to value, in percent")
    hub: str | None = Field(default=None, description="The Hub repository where it is not the id")
    filename: str | None = Field(
        default=None, description="The weights' file in that repository where it is not the usual one"
    )
    url: str | None = Field(default=None, description="Direct address of the weights where they are not on the Hub")
    paper: str | None = None


class ArchitectureEntry(_Entry):
    """One architecture that a library can build, with every known checkpoint; the default one comes first."""

    name: str = Field(pattern=r"^\S+$")
    parameters: int = Field(ge=0, description="Learned entries with the default head")
    classes: int = Field(ge=0)
    input_size: list[int] = Field(min_length=3, max_length=3)
    checkpoints: list[Checkpoint] = []


class Family(_Entry):
    """The content of one registry file."""

    library: str = Field(min_length=1)
    family: str = Field(min_length=1)
    version: str = Field(min_length=1, description="Version of the library that the entries were read from")
    architectures: list[ArchitectureEntry]


def registry_files(directory: Path) -> list[Path]:
    """The registry's YAML files in sorted order.

    Raises:
        InputError: the directory does not exist, is not a directory, cannot be read or holds no YAML file.
    """
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise InputError(f"registry {directory} {what}: give the folder that holds <library>/<family>.yaml files")
    try:
        # A glob would skip a folder that it may not enter; listing the folder says so.
        libraries = sorted(path for path in directory.iterdir() if path.is_dir())
        files = [path for library in libraries for path in sorted(library.iterdir()) if path.suffix == ".yaml"]
    except OSError as error:
        raise InputError(f"registry {directory} cannot be read ({error.strerror}): check its permissions") from None
    if not files:
        raise InputError(
            f"registry {directory} holds no <library>/<family>.yaml file: give another folder, or fill it with 'kzoo registry sync'"
        )
    return files


def load_registry(directory: Path) -> list[Family]:
    """All families in the order of their files, checked against the schema; ids and names are unique.

    Raises:
        InputError: names file, line and field of the first fault.
    """
    families = []
    owners: dict[str, str] = {}
    for path in registry_files(directory):
        family, lines = load_family(path)
        for field, expected in (("library", path.parent.name), ("family", path.stem)):
            if getattr(family, field) != expected:
                raise InputError(
                    f"{path}:{_line(lines, (field,))}: {field}: is {getattr(family, field)!r}, but the file's place says "
                    f"{expected!r}: move the file or correct the field"
                )
        for keys, label in _identities(family):
            place = f"{path}:{_line(lines, keys)}"
            if label in owners:
                raise InputError(
                    f"{place}: {_dotted(keys)}: {label!r} stands already at {owners[label]}: remove one of them"
                )
            owners[label] = place
        families.append(family)
    return families


def _identities(family: Family) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for a, architecture in enumerate(family.architectures):
        yield ("architectures", a, "name"), f"{family.library}:{architecture.name}"
        for c, checkpoint in enumerate(architecture.checkpoints):
            yield ("architectures", a, "checkpoints", c, "id"), checkpoint.id
            yield (
                ("architectures", a, "checkpoints", c, "tag"),
                f"{family.library}:{architecture.name}.{checkpoint.tag}",
            )


_Keys = tuple[str | int, ...]


def load_family(path: Path) -> tuple[Family, dict[_Keys, int]]:
    """One registry file and the line of each of its fields.

    Raises:
        InputError: the file is not plain YAML data or does not follow the schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text: registry files are YAML in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    reader = _PlainReader(path)
    lines = reader.lines
    try:
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        data = reader.read(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InputError(
            f"{path}:{mark.line + 1 if mark else 1}: is not valid YAML ({error.problem}): correct that line"
        ) from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply: registry files are a few levels of plain data") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML ({str(error).splitlines()[0]})") from None
    try:
        return Family.model_validate(data), lines
    except ValidationError as error:
        # A misspelled field is both unknown and missing; the first says more.
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        keys = tuple(first["loc"])
        expected = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(
            f"{path}:{_line(lines, keys)}: {_dotted(keys) or 'the file'}: {expected}, found {first['input']!r:.60}"
        ) from None


class _PlainReader:
    """Plain data from composed YAML with each field's line; refuses what plain data has no need of."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[_Keys, int] = {}
        self._path = path
        self._seen: set[int] = set()
        self._scalars = yaml.SafeLoader("")

    def read(self, node: yaml.Node, keys: _Keys = ()) -> Any:
        """The data of a node."""
        line = self.lines.setdefault(keys, node.start_mark.line + 1)
        if id(node) in self._seen:
            raise self._fault(node, keys, "is an alias")
        self._seen.add(id(node))
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN_TAGS:
            raise self._fault(node, keys, f"has the tag {node.tag}")
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*keys, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return dict(self._entry(key, value, keys) for key, value in node.value)
        try:
            return self._scalars.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            raise InputError(
                f"{self._path}:{line}: {_dotted(keys)}: {node.value!r:.60} is not what its tag says"
            ) from None

    def _entry(self, key: yaml.Node, value: yaml.Node, keys: _Keys) -> tuple[str, Any]:
        if not isinstance(key, yaml.ScalarNode):
            raise self._fault(key, keys, "has a field whose name is not text")
        path = (*keys, key.value)
        if path in self.lines:
            raise self._fault(key, path, f"repeats the field of line {self.lines[path]}")
        return key.value, self.read(value, path)

    def _fault(self, node: yaml.Node, keys: _Keys, what: str) -> InputError:
        place = f"{self._path}:{node.start_mark.line + 1}: {_dotted(keys) or 'the file'}"
        return InputError(f"{place}: {what}: registry files hold plain data only, every field once")


_PLAIN_TAGS = frozenset({"null", "bool", "int", "float", "str", "seq", "map"})


def _line(lines: dict[_Keys, int], keys: _Keys) -> int:
    """The line of a field, or of the nearest enclosing one that exists."""
    while keys and keys not in lines:
        keys = keys[:-1]
    return lines.get(keys, 1)


def _dotted(keys: _Keys) -> str:
    return ".".join(str(key) for key in keys)


def family_data(family: Family) -> dict[str, Any]:
    """The plain data of a registry file, fields at their default left out."""
    return family.model_dump(exclude_defaults=True)


def dump_family(family: Family) -> str:
    """The YAML text of a registry file."""
    return yaml.dump(
        family_data(family),
        Dumper=yaml.CSafeDumper,
        sort_keys=False,
        width=120,
        default_flow_style=None,
        allow_unicode=True,
    )


def registry_digest(directory: Path) -> str:
    """SHA-256 over names and bytes of all registry files."""
    digest = hashlib.sha256()
    for path in registry_files(directory):
        digest.update(f"{path.relative_to(directory).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()

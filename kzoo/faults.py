"""Files that people write, checked against a schema: every fault is one sentence with file, line and field."""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kzoo.errors import InputError
from kzoo.plain_yaml import Keys, Plain, read_plain, shown
from kzoo.readers.safetensors import parse_object, read_bounded

_Model = TypeVar("_Model", bound=BaseModel)

MOST_BYTES = 1_000_000
#: The type of a schema's own errors (`pydantic_core.PydanticCustomError`) whose message is a whole sentence.
RULE = "rule"
_MOST_OBJECTS = 100_000
_DEEPEST = 20
_LONGEST_NAME = 60
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", re.ASCII)
#: What the reader says of registries, which are not the only files that it reads.
_OF_REGISTRIES = {
    ", registry files hold plain data only": ", only plain data is read",
    ": registry files are a few levels of plain data": ": expected a few levels of plain data",
    "split it into several families": "shorten it",
}


@dataclass(frozen=True)
class Document:
    """The data of a file, with the line of each field where the file's format has any.

    ``what`` says what the file holds, with its article: "a recipe".
    """

    path: Path
    what: str
    data: Any
    plain: Plain | None = None

    def fault(self, keys: Keys, sentence: str) -> InputError:
        """The error that a field is wrong; ``sentence`` says how, what was expected and what to do."""
        place = f"{self.path}" if self.plain is None else f"{self.path}:{self.line(keys)}"
        return InputError(f"{place}: {_dotted(keys)}: {sentence}" if keys else f"{place}: {sentence}")

    def line(self, keys: Keys) -> int:
        """The line of a field, or of the nearest enclosing one that exists; 1 in a file without lines."""
        return self.plain.line(keys) if self.plain is not None else 1

    def validated(
        self,
        model: type[_Model],
        keys: Keys = (),
        data: Any = None,
        missing: Callable[[Keys], str | None] = lambda _: None,
    ) -> _Model:
        """The data, or the part of it at ``keys``, as a model; ``data`` stands for a part that may be absent.

        ``missing`` may add to the sentence on a field that is missing.

        Raises:
            InputError: a field is missing, unknown or wrong; the first in the file is named.
        """
        data = at(self.data, keys) if data is None else data
        try:
            return model.model_validate(data if self.plain is None else _with_numbers(model, data))
        except ValidationError as error:
            found = _first(model, data, error, lambda inner: self.line((*keys, *inner)))
            sentence = _sentence(model, found, self.what)
            if found.kind == "missing" and (more := missing((*keys, *found.keys))):
                sentence = f"{sentence}; {more}"
            raise self.fault((*keys, *found.keys), sentence) from None


def read_yaml(path: Path, what: str, most: int = MOST_BYTES) -> Document:
    """A YAML file of plain fields.

    Raises:
        InputError: it cannot be read, is no UTF-8, or is no plain YAML with fields at its top.
    """
    content = read_bounded(path, most)
    try:
        # Some editors put a mark before the first character; it is no part of the text.
        plain = read_plain(content.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: is not UTF-8 text: save it as UTF-8") from None
    document = Document(path, what, plain.data, plain)
    if plain.blemishes:
        line, keys, problem = plain.blemishes[0]
        field = f"{_dotted(keys)}: " if keys else ""
        raise InputError(f"{path}:{line}: {field}{_of_any_file(problem, what)}")
    if not isinstance(plain.data, dict):
        raise document.fault((), f"expected the fields of {what}, found {shown(plain.data)}")
    return document


def read_json(path: Path, what: str, most: int = MOST_BYTES) -> Document:
    """A JSON file that holds an object, all of whose numbers are finite.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    document = Document(path, what, parse_object(read_bounded(path, most), str(path), _MOST_OBJECTS))
    for keys, value in _values(document.data):
        if len(keys) > _DEEPEST:
            raise document.fault(keys[:1], f"is nested more than {_DEEPEST} levels deep: expected a few")
        if isinstance(value, float) and not math.isfinite(value):
            raise document.fault(keys, f"expected a finite number, found {json.dumps(value)}")
    return document


def at(data: Any, keys: Iterable[str | int]) -> Any:
    """The part of nested lists and mappings to which keys lead."""
    for key in keys:
        data = data[key]
    return data


def nearest(name: str, known: Iterable[str]) -> str:
    """Up to three of the known names, those most like ``name`` first."""
    return ", ".join(difflib.get_close_matches(name.lower()[:_LONGEST_NAME], list(known), n=3, cutoff=0.0))


@dataclass(frozen=True)
class _Found:
    """What is wrong with one field: all that was said of it."""

    keys: Keys
    kind: str
    details: tuple[ErrorDetails, ...]


def _first(model: type[BaseModel], data: Any, error: ValidationError, line: Callable[[Keys], int]) -> _Found:
    """The fault that stands first in the file."""
    places: dict[Keys, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        places.setdefault(_place(data, detail), []).append(detail)
    found = [_Found(keys, details[0]["type"], tuple(details)) for keys, details in places.items()]
    unknown = [fault.keys for fault in found if fault.kind == "extra_forbidden"]
    # A misspelled field is both unknown and missing.
    meant = {(*keys[:-1], nearest(str(keys[-1]), _fields(model, keys[:-1])).partition(",")[0]) for keys in unknown}
    return min(
        (fault for fault in found if fault.kind != "missing" or fault.keys not in meant),
        key=lambda fault: line(fault.keys),
    )


def _place(data: Any, detail: ErrorDetails) -> Keys:
    """Where in the data a fault is: pydantic also names the alternatives of a type, which are no place."""
    keys: list[str | int] = []
    for key in detail["loc"]:
        if _leads(data, key):
            data = data[key]
            keys.append(key)
    return (*keys, detail["loc"][-1]) if detail["type"] == "missing" else tuple(keys)


def _leads(data: Any, key: int | str) -> bool:
    return key in data if isinstance(data, dict) else isinstance(data, list) and key in range(len(data))


def _with_numbers(model: type[BaseModel], data: Any) -> Any:
    """The data with 1e-3 as the number that people mean, where a number belongs; YAML takes it for text, without a dot."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        places = {_place(data, detail) for detail in error.errors() if detail["type"] == "float_type"}
        places = {keys for keys in places if isinstance(at(data, keys), str) and _EXPONENT.fullmatch(at(data, keys))}
        data = copy.deepcopy(data) if places else data
        for keys in places:
            at(data, keys[:-1])[keys[-1]] = float(at(data, keys))
    return data


def _sentence(model: type[BaseModel], found: _Found, what: str) -> str:
    """What is wrong with a field, in plain words."""
    if found.kind == "extra_forbidden":
        near = nearest(str(found.keys[-1]), _fields(model, found.keys[:-1]))
        return f"is no field of {what}; {f'nearest: {near}' if near else 'it has none, so remove it'}"
    description = _description(model, found.keys) if found.kind in ("missing", "string_pattern_mismatch") else ""
    meaning = f" ({description})" if description else ""
    if found.kind == "missing":
        return f"is missing: add it{meaning}"
    if found.kind == RULE:
        return str(found.details[0]["msg"])
    said = " or ".join(dict.fromkeys(map(_expectation, found.details))).replace(" or expected ", " or ")
    return f"{said}{meaning}, found {shown(found.details[0]['input'])}"


def _expectation(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    expected = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "text",
        "string_too_short": "text of {min_length} or more characters",
        "string_pattern_mismatch": "text of the form {pattern}",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "fields with values",
        "model_type": "fields with values",
        "literal_error": "{expected}",
        "greater_than_equal": "a number of {ge} or more",
        "greater_than": "a number above {gt}",
        "less_than_equal": "a number of at most {le}",
        "less_than": "a number below {lt}",
        "too_short": "a list of {min_length} or more",
    }.get(detail["type"])
    return f"expected {expected.format(**context)}" if expected else str(detail["msg"])


def _fields(model: type[BaseModel], keys: Keys) -> list[str]:
    """The fields that may stand where keys lead to."""
    return list(dict.fromkeys(name for one in _models_at(model, keys) for name in one.model_fields))


def _description(model: type[BaseModel], keys: Keys) -> str:
    fields = (one.model_fields.get(str(keys[-1])) for one in _models_at(model, keys[:-1]))
    return next((field.description for field in fields if field is not None and field.description), "")


def _models_at(model: type[BaseModel], keys: Keys) -> list[type[BaseModel]]:
    """The models, one but for alternatives, that a part of the data is checked against."""
    models = [model]
    for key in keys:
        # A position in a list, or a name in a mapping, leads to the same models.
        named = [one.model_fields[key] for one in models if isinstance(key, str) and key in one.model_fields]
        models = [inner for field in named for inner in _models_of(field.annotation)] if named else models
    return models


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_of(part)]


def _values(data: Any) -> Iterator[tuple[Keys, Any]]:
    """Everything that nested lists and mappings hold, in order and with its place."""
    waiting: list[tuple[Keys, Any]] = [((), data)]
    while waiting:
        keys, value = waiting.pop()
        yield keys, value
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += reversed([((*keys, key), one) for key, one in inner])


def _of_any_file(problem: str, what: str) -> str:
    if problem.startswith("is empty: "):
        return f"is empty: expected the fields of {what}"
    for said, better in _OF_REGISTRIES.items():
        problem = problem.replace(said, better)
    return problem


def _dotted(keys: Keys) -> str:
    names = (str(key) if isinstance(key, int) or key.isprintable() else ascii(key) for key in keys)
    return ".".join(name[:_LONGEST_NAME] for name in names)

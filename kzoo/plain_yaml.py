"""YAML that is nothing but plain data, read with the place of every value and with every fault.

The text is read as a stream of events and never composed: an alias is refused where it stands, so nothing is expanded,
and nesting is bounded, so nothing overflows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

#: Names of fields and positions in lists, from the top of a file to a value.
Keys = tuple[str | int, ...]

_DEEPEST = 20
_MOST_VALUES = 100_000
_LONGEST_TEXT = 10_000
_LONGEST_NUMBER = 40
_PLAIN_TAGS = frozenset({"null", "bool", "int", "float", "str"})
_NAMES = {"timestamp": "a date", "merge": "a merge key", "value": "a default key"}


class Place(NamedTuple):
    """Where a value stands: offsets into the text, lines from 1, columns from 0."""

    line: int
    #: Behind the name of the value's field; -1 for an item of a list.
    key_end: int
    start: int
    #: Behind the last character of the value, comments left out.
    end: int
    #: Of the names or dashes inside the value; -1 for a single value.
    column: int
    #: Whether the value is written in brackets.
    flow: bool


class Blemish(NamedTuple):
    """Something that plain data has no need of, and where."""

    line: int
    keys: Keys
    problem: str


@dataclass(frozen=True)
class Plain:
    """The data of a text, the place of every value, and what is wrong with the text."""

    data: Any = None
    places: dict[Keys, Place] = field(default_factory=dict)
    blemishes: list[Blemish] = field(default_factory=list)

    def line(self, keys: Keys) -> int:
        """The line of a field, or of the nearest enclosing one that exists."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places[keys].line if keys in self.places else 1


def read_plain(text: str) -> Plain:
    """The plain data of a YAML text; what is refused or unreadable is None, and named among the blemishes."""
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        problem = f"holds the character U+{ord(odd[0]):04X}, which is no text: remove it"
        return Plain(blemishes=[Blemish(line, (), problem)])
    reader = _Reader(text)
    try:
        data = reader.document()
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        # The parser may stop behind the last line.
        line = min(mark.line + 1, len(text.splitlines())) if mark else 1
        reader.blemishes.append(Blemish(line, (), f"is not valid YAML ({error.problem}): correct that line"))
    except _Stop as stop:
        reader.blemishes.append(stop.blemish)
    else:
        return Plain(data, reader.places, reader.blemishes)
    return Plain(None, {}, reader.blemishes)


class _Stop(Exception):
    """Reading on would take too much."""

    def __init__(self, blemish: Blemish) -> None:
        super().__init__(blemish.problem)
        self.blemish = blemish


class _Reader:
    def __init__(self, text: str) -> None:
        self.places: dict[Keys, Place] = {}
        self.blemishes: list[Blemish] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._scalars: Any = yaml.SafeLoader("")
        self._end = 0
        self._values = 0

    def document(self) -> Any:
        """The data of the only document."""
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            self.blemishes.append(Blemish(1, (), "is empty: expected the fields of a model family"))
            return None
        data = self._value(next(self._events), (), 1, -1)
        next(self._events)
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            line = event.start_mark.line + 1
            self.blemishes.append(Blemish(line, (), "holds several documents: keep one, without further '---'"))
        return data

    def _value(self, event: Any, keys: Keys, line: int, key_end: int) -> Any:
        self._count(event, keys, len(keys))
        start, column, flow, data = event.start_mark.index, -1, False, None
        self._end = event.end_mark.index
        if isinstance(event, yaml.AliasEvent):
            self._blemish(event, keys, f"is the alias *{event.anchor}: write the value out")
            return None
        if event.anchor is not None:
            self._blemish(event, keys, f"has the anchor &{event.anchor}: remove it")
        if event.tag is not None:
            self._blemish(event, keys, f"has the tag {event.tag}: remove it, registry files hold plain data only")
        if isinstance(event, yaml.ScalarEvent):
            data = self._scalar(event, keys) if event.tag is None else None
        else:
            flow = bool(event.flow_style)
            if isinstance(event, yaml.SequenceStartEvent):
                data, column = self._sequence(event, keys)
            else:
                data, column = self._mapping(event, keys)
        self.places[keys] = Place(line, key_end, start, self._end, column, flow)
        return data

    def _count(self, event: Any, keys: Keys, depth: int) -> None:
        self._values += 1
        if depth > _DEEPEST:
            problem = f"is nested more than {_DEEPEST} levels deep: registry files are a few levels of plain data"
            keys = keys[:1]
        elif self._values > _MOST_VALUES:
            problem = f"holds more than {_MOST_VALUES:,} values: split it into several families"
            keys = ()
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_TEXT:
            problem = f"is longer than {_LONGEST_TEXT:,} characters: shorten it"
        else:
            return
        raise _Stop(Blemish(event.start_mark.line + 1, keys, problem))

    def _sequence(self, event: Any, keys: Keys) -> tuple[list[Any], int]:
        items: list[Any] = []
        while not isinstance(child := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(child, (*keys, len(items)), child.start_mark.line + 1, -1))
        self._close(child, event)
        return items, event.start_mark.column

    def _mapping(self, start: Any, keys: Keys) -> tuple[dict[str, Any], int]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        column = -1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            column = event.start_mark.column if column < 0 else column
            name = self._name(event, keys)
            if name is None or name in lines:
                if name is not None:
                    problem = f"repeats the field of line {lines[name]}: remove one of them"
                    self._blemish(event, (*keys, name), problem)
                self._skip(next(self._events), keys)
                continue
            line = lines[name] = event.start_mark.line + 1
            data[name] = self._value(next(self._events), (*keys, name), line, event.end_mark.index)
        self._close(event, start)
        return data, column

    def _close(self, event: Any, start: Any) -> None:
        # A block ends, for the parser, where the next one starts; what it holds has ended before.
        if start.flow_style:
            self._end = event.end_mark.index

    def _name(self, event: Any, keys: Keys) -> str | None:
        if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
            self._skip(event, keys)
            self._blemish(event, keys, "has a field whose name is not plain text: write the name alone")
            return None
        kind = self._kind(event)
        if kind == "merge":
            self._blemish(event, keys, "has a merge key (<<): write the fields out")
            return None
        if kind != "str" or not event.value.isprintable():
            shown = f"{event.value[:40]!r}"
            self._blemish(event, keys, f"has a field named {shown}, which is not text: write the name in quotes")
            return None
        return str(event.value)

    def _kind(self, event: Any) -> str:
        tag: str = self._scalars.resolve(yaml.ScalarNode, event.value, event.implicit)
        return tag.rpartition(":")[2]

    def _scalar(self, event: Any, keys: Keys) -> Any:
        kind = self._kind(event)
        if kind not in _PLAIN_TAGS:
            self._blemish(event, keys, f"is {_NAMES.get(kind, kind)}, not plain text: write it in quotes")
            return None
        if kind == "str":
            if not event.value.isprintable():
                self._blemish(event, keys, "holds a line break or another control character: keep to one line of text")
                return None
            return event.value
        try:
            node = yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", event.value)
            # Numbers in base 60 take a time that grows with the square of their length.
            value = self._scalars.construct_object(node) if len(event.value) <= _LONGEST_NUMBER else None
        except ValueError:
            value = None
        if kind != "null" and (value is None or (kind == "int" and value.bit_length() > 63)):
            shown = f"{event.value[:_LONGEST_NUMBER]!r}"
            self._blemish(event, keys, f"is {shown}, which is no number of 64 bits: correct it, or write it in quotes")
            return None
        return value

    def _skip(self, event: Any, keys: Keys) -> None:
        depth = 0
        while True:
            self._count(event, keys, len(keys) + depth)
            self._end = event.end_mark.index
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth == 0:
                return
            event = next(self._events)

    def _blemish(self, event: Any, keys: Keys, problem: str) -> None:
        self.blemishes.append(Blemish(event.start_mark.line + 1, keys, problem))


def shown(value: Any) -> str:
    """A value of a registry file in few characters."""
    if isinstance(value, list):
        single = not any(isinstance(item, list | dict) for item in value)
        return f"[{', '.join(map(shown, value))}]" if single and len(value) <= 5 else f"a list of {len(value)}"
    if isinstance(value, dict):
        return "fields with values" if value else "no fields"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    return json.dumps(value) if value is not None else "nothing"

"""Bring a registry file up to what a library says, and keep what people wrote in it.

The file's text is edited in place: only the characters of what is added, replaced or removed change, so comments,
quotes, order and spacing stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from kzoo.catalog import ArchitectureEntry, Checkpoint, Family, dump_plain, family_data
from kzoo.errors import InputError
from kzoo.plain_yaml import Keys, Place, read_plain

_Data = dict[str, Any]
#: The lists of entries, and the field that names an entry of each.
_NAMES = {"architectures": "name", "checkpoints": "tag"}
#: The schema's order of fields, by how many keys lead to the mapping that holds them.
_ORDERS = {2: list(ArchitectureEntry.model_fields), 4: list(Checkpoint.model_fields)}


@dataclass(frozen=True, slots=True)
class Added:
    """An entry that the library has and the file had not."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Vanished:
    """An entry of the file that the library does not have."""

    line: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Differing:
    """A field in which the file and the library differ; the file's value is None where it did not have the field."""

    line: int
    field: str
    file_value: Any
    library_value: Any


@dataclass
class MergeResult:
    """A file's new text, or None where nothing is left in it, and how it came about; lines are the old text's."""

    text: str | None
    added: list[Added] = field(default_factory=list)
    changed: list[Differing] = field(default_factory=list)
    kept: list[Differing] = field(default_factory=list)
    vanished: list[Vanished] = field(default_factory=list)


def merge_family(text: str, wanted: Family, *, prune: bool = False, take_library: bool = False) -> MergeResult:
    """Merge what a library says into the text of a registry file without faults.

    A value that differs is a person's edit and stays, unless ``take_library``; what the library does not have stays,
    unless ``prune``. Merging twice changes nothing the second time.

    Raises:
        InputError: the text is laid out in a way that cannot be edited in place.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    body = text.removeprefix(mark)
    newline = "\r\n" if "\r\n" in body else "\n"
    merge = _Merge(body if body.endswith("\n") else body + newline, newline, prune, take_library)
    data = merge.family(family_data(wanted))
    result = merge.result
    if not merge.edits:
        result.text = text
    elif not data["architectures"]:
        result.text = None
    else:
        result.text = mark + merge.text()
        again = read_plain(merge.text())
        if again.blemishes or again.data != data:
            raise InputError(
                f"{wanted.library}/{wanted.family}.yaml cannot be edited in place: write every field on a line of its own"
            )
    return result


class _Merge:
    def __init__(self, text: str, newline: str, prune: bool, take_library: bool) -> None:
        self.result = MergeResult(None)
        self.edits: list[tuple[int, int, str]] = []
        self._text = text
        self._plain = read_plain(text)
        self._prune = prune
        self._take_library = take_library
        self._newline = newline

    def text(self) -> str:
        """The text with all edits."""
        pieces, position = [], 0
        # What is inserted where something is removed comes before it; else the order of the edits counts.
        for start, end, piece in sorted(self.edits, key=lambda edit: edit[:2]):
            pieces += [self._text[position:start], piece.replace("\n", self._newline)]
            position = end
        return "".join((*pieces, self._text[position:]))

    def family(self, wanted: _Data) -> _Data:
        """Merge a whole file; returns what its new text says."""
        have: _Data = self._plain.data
        # The version belongs to what the library says; a file of which it says nothing stays as it is.
        if wanted["architectures"] and have["version"] != wanted["version"]:
            self.result.changed.append(self._differing(("version",), have["version"], wanted["version"]))
            self._replace(("version",), wanted["version"])
            have = {**have, "version": wanted["version"]}
        entries = wanted["architectures"]
        if entries and not have["architectures"]:
            self._add_field((), have, "architectures", entries)
        else:
            entries = self._entries(("architectures",), have["architectures"], entries)
        return {**have, "architectures": entries}

    def _fields(self, keys: Keys, have: _Data, wanted: Mapping[str, Any]) -> _Data:
        """Merge the fields of a mapping."""
        merged = dict(have)
        missing = {}
        for name, value in wanted.items():
            path = (*keys, name)
            if name not in have or (_is_list_of_entries(path) and not have[name]):
                missing[name] = value
            elif _is_list_of_entries(path):
                merged[name] = self._entries(path, have[name], value)
            elif isinstance(value, dict) and isinstance(have[name], dict) and have[name]:
                merged[name] = self._fields(path, have[name], value)
            elif have[name] != value:
                difference = self._differing(path, have[name], value)
                (self.result.changed if self._take_library else self.result.kept).append(difference)
                if self._take_library:
                    self._replace(path, value)
                    merged[name] = value
        # Where both end on one line, what comes into a field must come before what comes behind it.
        for name, value in missing.items():
            self._add_field(keys, have, name, value)
        if len(keys) == 2 and "checkpoints" in have and "checkpoints" not in wanted:
            merged["checkpoints"] = self._entries((*keys, "checkpoints"), have["checkpoints"], [])
        return merged | missing

    def _add_field(self, keys: Keys, have: _Data, name: str, value: Any) -> None:
        path = (*keys, name)
        if _is_list_of_entries(path):
            self._tell_added(name, value)
        else:
            self.result.changed.append(self._differing(path, None, value))
        if name in have:
            self._replace(path, value, block=True)
            return
        order = _ORDERS.get(len(keys), [*have, name])
        before = [known for known in order[: order.index(name)] if known in have]
        place = self._place((*keys, before[-1]))
        outer = self._place(keys)
        if outer.flow:
            self._edit(place.end, place.end, f", {_inline({name: value})[1:-1]}")
        else:
            self._insert(self._behind(place, outer.column), {name: value}, outer.column)

    def _entries(self, keys: Keys, have: Sequence[_Data], wanted: Sequence[_Data]) -> list[_Data]:
        """Merge a list of entries: those of the file in its order, new ones behind their neighbours in the library."""
        field = str(keys[-1])
        pairs = _pairs(field, have, wanted)
        matched = set(pairs.values())
        gone = [h for h in range(len(have)) if h not in matched]
        merged: list[tuple[float, _Data]] = []
        self._tell_vanished(keys, have, gone)
        if self._prune:
            self._remove(keys, len(have), gone, bool(matched) or len(pairs) < len(wanted))
        else:
            merged += [(h, have[h]) for h in gone]
        for w, h in pairs.items():
            merged.append((h, self._fields((*keys, h), have[h], wanted[w])))
        anchor = -1
        for w, entry in enumerate(wanted):
            anchor = pairs.get(w, anchor)
            if w not in pairs:
                self._tell_added(field, [entry])
                merged.append((anchor + 0.5, entry))
                self._add_entry(keys, anchor, entry)
        return [entry for _, entry in sorted(merged, key=lambda pair: pair[0])]

    def _add_entry(self, keys: Keys, anchor: int, entry: _Data) -> None:
        """Insert an entry behind the item ``anchor``, or first."""
        outer = self._place(keys)
        if outer.flow:
            at = self._place((*keys, anchor)).end if anchor >= 0 else outer.start + 1
            self._edit(at, at, f", {_inline(entry)}" if anchor >= 0 else f"{_inline(entry)}, ")
        elif anchor >= 0:
            self._insert(self._behind(self._place((*keys, anchor)), outer.column), [entry], outer.column)
        else:
            # Comments above the first item belong to it.
            at = self._line_end(self._text.index(":", outer.key_end) + 1)
            self._insert(at, [entry], outer.column)

    def _remove(self, keys: Keys, count: int, gone: Sequence[int], rest: bool) -> None:
        """Remove items; comments between them stay."""
        outer = self._place(keys)
        if gone and not rest:
            colon = self._text.index(":", outer.key_end) + 1
            self._edit(*((outer.start, outer.end, "[]") if outer.flow else (colon, colon, " []")))
            if outer.flow:
                return
        leading = 0
        for h in gone:
            place = self._place((*keys, h))
            if not outer.flow:
                self._edit(self._dash(keys, h), self._line_end(place.end), "")
            elif h == leading and h + 1 < count:
                self._edit(place.start, self._place((*keys, h + 1)).start, "")
                leading += 1
            elif h == leading:
                self._edit(place.start, outer.end - 1, "")
            else:
                self._edit(self._place((*keys, h - 1)).end, place.end, "")

    def _dash(self, keys: Keys, item: int) -> int:
        """The start of the line on which an item of a list begins."""
        column = self._place(keys).column
        at = self._line_start(self._place((*keys, item)).start)
        while at and self._text[at : at + column + 1] != f"{' ' * column}-":
            at = self._line_start(at - 1)
        return at

    def _replace(self, keys: Keys, value: Any, block: bool = False) -> None:
        """Write another value of a field, on lines of its own where ``block`` says so and the place allows it."""
        place, outer = self._place(keys), self._place(keys[:-1])
        colon = self._text.index(":", place.key_end) + 1
        if block and not outer.flow:
            lines = self._indented({str(keys[-1]): value}, outer.column)
            self._edit(colon, place.end, lines.partition(":")[2].rstrip("\n"))
            return
        end = place.end
        # A folded text ends behind its last line.
        tail = "\n" if self._text[end - 1] == "\n" else ""
        self._edit(colon, end, f" {_inline(value)}{tail}")

    def _insert(self, at: int, data: Any, column: int) -> None:
        self._edit(at, at, self._indented(data, column))

    def _edit(self, start: int, end: int, piece: str) -> None:
        self.edits.append((start, end, piece))

    @staticmethod
    def _indented(data: Any, column: int) -> str:
        return "".join(f"{' ' * column}{line}" for line in dump_plain(data).splitlines(keepends=True))

    def _behind(self, place: Place, column: int) -> int:
        """The start of the line behind a value and the comments that are indented more than ``column``."""
        at = behind = self._line_end(place.end)
        while at < len(self._text):
            start, at = at, self._line_end(at + 1)
            line = self._text[start:at].lstrip(" ")
            if line.startswith("#") and at - start - len(line) > column:
                behind = at
            elif not line.isspace():
                break
        return behind

    def _line_start(self, offset: int) -> int:
        return self._text.rfind("\n", 0, offset) + 1

    def _line_end(self, offset: int) -> int:
        """The start of the next line, or ``offset`` where a line starts there."""
        if self._text[offset - 1 : offset] == "\n":
            return offset
        end = self._text.find("\n", offset) + 1
        return end or len(self._text)

    def _place(self, keys: Keys) -> Place:
        return self._plain.places[keys]

    def _differing(self, keys: Keys, file: Any, library: Any) -> Differing:
        return Differing(self._plain.line(keys), ".".join(map(str, keys)), file, library)

    def _tell_added(self, field: str, entries: Iterable[_Data]) -> None:
        for entry in entries:
            self.result.added.append(Added(field[:-1], _label(field, entry)))
            if field == "architectures":
                self._tell_added("checkpoints", entry.get("checkpoints", ()))

    def _tell_vanished(self, keys: Keys, have: Sequence[_Data], gone: Iterable[int]) -> None:
        field = str(keys[-1])
        for h in gone:
            line = self._plain.line((*keys, h))
            self.result.vanished.append(Vanished(line, field[:-1], _label(field, have[h])))


def _is_list_of_entries(keys: Keys) -> bool:
    # A data set of the metrics may have any name.
    return len(keys) <= 3 and keys[-1] in _NAMES


def _label(field: str, entry: Mapping[str, Any]) -> str:
    return str(entry["name" if field == "architectures" else "id"])


def _inline(data: Any) -> str:
    """Data on one line, in brackets where it is a collection."""
    text: str = yaml.dump(
        [data], Dumper=yaml.CSafeDumper, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True
    )
    return text.strip()[1:-1]


def _pairs(field: str, have: Sequence[_Data], wanted: Sequence[_Data]) -> dict[int, int]:
    """Places of wanted entries to those of the file that are theirs: by name, else by a checkpoint's id."""
    named = {entry[_NAMES[field]]: h for h, entry in enumerate(have)}
    pairs = {w: named[entry[_NAMES[field]]] for w, entry in enumerate(wanted) if entry[_NAMES[field]] in named}
    # People may have named it otherwise.
    taken = set(pairs.values())
    owners = {ident: h for h, entry in enumerate(have) if h not in taken for ident in _ids(field, entry)}
    for w, entry in enumerate(wanted):
        found = next((owners[ident] for ident in _ids(field, entry) if ident in owners), None)
        if w not in pairs and found is not None and found not in taken:
            pairs[w] = found
            taken.add(found)
    return dict(sorted(pairs.items()))


def _ids(field: str, entry: Mapping[str, Any]) -> list[str]:
    if field == "checkpoints":
        return [entry["id"]]
    return [checkpoint["id"] for checkpoint in entry.get("checkpoints", ())]

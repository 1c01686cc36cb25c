"""Merging what a library says into files that people have edited, and writing the files."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from kzoo import InputError
from kzoo.catalog import (
    ArchitectureEntry,
    Checkpoint,
    Family,
    checked_source,
    dump_family,
    faults,
    load_registry,
)
from kzoo.cli.main import run
from kzoo.errors import WorldError
from kzoo.locking import locked
from kzoo.merging import Added, Differing, Vanished, merge_family
from kzoo.paths import registry_directory
from kzoo.registry_files import registry_files
from kzoo.sync import SyncResult, plan_sync, reports, sync_data, sync_library, write_sync


def checkpoint(name: str, tag: str, **more: Any) -> Checkpoint:
    fields: dict[str, Any] = {"license": "mit", "classes": 2, "input_size": [3, 8, 8], "parameters": 10}
    return Checkpoint(**{"id": f"timm/{name}.{tag}", "tag": tag, **fields, **more})


def entry(name: str, *tags: str, **more: Any) -> ArchitectureEntry:
    fields: dict[str, Any] = {"parameters": 10, "classes": 2, "input_size": [3, 8, 8]}
    return ArchitectureEntry(name=name, checkpoints=[checkpoint(name, tag) for tag in tags], **{**fields, **more})


def family(*entries: ArchitectureEntry, name: str = "toy", version: str = "1.0.31") -> Family:
    return Family(library="timm", family=name, version=version, architectures=list(entries))


def read(text: str, name: str = "toy") -> Family:
    source = checked_source(Path(f"timm/{name}.yaml"), text)
    assert source.faults == []
    assert source.family is not None
    return source.family


EDITED = """\
# The toys, reviewed in May.
library: timm
family: toy
version: "1.0.31"   # of timm

architectures:
# The second one first: it is the better one.
- name: toy_b
  parameters: 10
  classes: 2
  input_size: [ 3,8,8 ]
- name:   toy_a
  parameters: 11  # counted by hand
  classes: 2
  input_size:
  - 3
  - 8
  - 8
  # the better one
  checkpoints:
    # trained at home
    - id: timm/toy_a.x
      tag: x
      license: apache-2.0
      license_link: 'https://example.org/license'
      parameters: 10
      paper: >-
        A long
        title
      # the last word on x

    # end of toy_a
# end of the toys
"""


MERGED = """\
# The toys, reviewed in May.
library: timm
family: toy
version: '1.1'   # of timm

architectures:
# The second one first: it is the better one.
- name: toy_b
  parameters: 10
  classes: 2
  input_size: [ 3,8,8 ]
- name: toy_c
  parameters: 10
  classes: 2
  input_size: [3, 8, 8]
  checkpoints:
  - id: timm/toy_c.z
    tag: z
    license: mit
    classes: 2
    input_size: [3, 8, 8]
    parameters: 10
- name:   toy_a
  parameters: 11  # counted by hand
  classes: 2
  input_size:
  - 3
  - 8
  - 8
  # the better one
  checkpoints:
    - id: timm/toy_a.w
      tag: w
      license: mit
      classes: 2
      input_size: [3, 8, 8]
      parameters: 10
    # trained at home
    - id: timm/toy_a.x
      tag: x
      license: apache-2.0
      license_link: 'https://example.org/license'
      classes: 2
      input_size: [3, 8, 8]
      parameters: 10
      paper: >-
        A long
        title
      # the last word on x
    - id: timm/toy_a.y
      tag: y
      license: mit
      classes: 2
      input_size: [3, 8, 8]
      parameters: 10

    # end of toy_a
- name: toy_aa
  parameters: 10
  classes: 2
  input_size: [3, 8, 8]
# end of the toys
"""


def test_a_sync_keeps_what_people_wrote() -> None:
    wanted = family(entry("toy_a", "w", "x", "y"), entry("toy_aa"), entry("toy_b"), entry("toy_c", "z"), version="1.1")
    result = merge_family(EDITED, wanted)
    assert result.text == MERGED
    assert result.kept == [
        Differing(13, "architectures.1.parameters", 11, 10),
        Differing(24, "architectures.1.checkpoints.0.license", "apache-2.0", "mit"),
    ]
    assert result.added == [
        Added("checkpoint", "timm/toy_a.w"),
        Added("checkpoint", "timm/toy_a.y"),
        Added("architecture", "toy_aa"),
        Added("architecture", "toy_c"),
        Added("checkpoint", "timm/toy_c.z"),
    ]
    assert result.changed == [
        Differing(4, "version", "1.0.31", "1.1"),
        Differing(22, "architectures.1.checkpoints.0.classes", None, 2),
        Differing(22, "architectures.1.checkpoints.0.input_size", None, [3, 8, 8]),
    ]
    assert result.vanished == []


@pytest.mark.parametrize("odd", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_line_ends_and_marks_of_editors_stay(odd: Any) -> None:
    wanted = family(entry("toy_a", "w", "x", "y"), entry("toy_aa"), entry("toy_b"), entry("toy_c", "z"), version="1.1")
    assert merge_family(odd(EDITED), wanted).text == odd(MERGED)


def test_the_librarys_values_are_taken_when_asked_for() -> None:
    wanted = family(entry("toy_a", "x", input_size=[3, 9, 9]), entry("toy_b"), version="1.0.31")
    text = merge_family(EDITED, wanted, take_library=True).text
    expected = EDITED.replace("parameters: 11", "parameters: 10").replace("license: apache-2.0", "license: mit")
    expected = expected.replace("input_size:\n  - 3\n  - 8\n  - 8\n", "input_size: [3, 9, 9]\n")
    more = "      classes: 2\n      input_size: [3, 8, 8]\n"
    assert text == expected.replace("org/license'\n", f"org/license'\n{more}")


def test_what_vanished_goes_only_when_asked_to() -> None:
    wanted = family(entry("toy_b"))
    vanished = [Vanished(12, "architecture", "toy_a")]
    kept = merge_family(EDITED, wanted)
    assert (kept.text, kept.vanished) == (EDITED, vanished)
    pruned = merge_family(EDITED, wanted, prune=True)
    assert pruned.vanished == vanished
    start, end = EDITED.index("- name:   toy_a"), EDITED.index("      # the last word")
    assert pruned.text == EDITED[:start] + EDITED[end:]
    wanted = family(entry("toy_a", parameters=11), entry("toy_b"))
    assert merge_family(EDITED, wanted).vanished == [Vanished(22, "checkpoint", "timm/toy_a.x")]
    bare = merge_family(EDITED, wanted, prune=True).text
    start = EDITED.index("    - id:")
    assert bare == (EDITED[:start] + EDITED[end:]).replace("  checkpoints:\n", "  checkpoints: []\n")
    assert merge_family(bare, family(entry("toy_a", "x", parameters=11), entry("toy_b"))).text == (
        EDITED[:start] + EDITED[end:]
    ).replace("  checkpoints:\n", "  checkpoints:\n" + CHECKPOINT_X)
    assert merge_family(EDITED, family(), prune=True).text is None


CHECKPOINT_X = """\
  - id: timm/toy_a.x
    tag: x
    license: mit
    classes: 2
    input_size: [3, 8, 8]
    parameters: 10
"""


def test_files_written_in_brackets_stay_so() -> None:
    flow = json.dumps({**yaml.safe_load(dump_family(family(entry("b", "x", "y"), entry("c", "z"))))}, indent=1)
    wanted = family(entry("a", "x"), entry("b", "w", "y"), version="2")
    data = yaml.safe_load(str(merge_family(flow, wanted).text))
    assert [(e["name"], [c["tag"] for c in e["checkpoints"]]) for e in data["architectures"]] == [
        ("a", ["x"]),
        ("b", ["w", "x", "y"]),
        ("c", ["z"]),
    ]
    data = yaml.safe_load(str(merge_family(flow, wanted, prune=True).text))
    assert data == yaml.safe_load(dump_family(wanted))
    pruned = merge_family(flow, family(entry("c")), prune=True).text
    assert yaml.safe_load(str(pruned))["architectures"][0]["checkpoints"] == []


def test_metrics_are_merged_one_by_one() -> None:
    old = family(
        ArchitectureEntry(name="a", parameters=1, checkpoints=[checkpoint("a", "x", metrics={"in": {"top1": 1.5}})])
    )
    new = {"in": {"top1": 2.5, "top5": 3.5}, "real": {"top1": 4.5}}
    wanted = family(ArchitectureEntry(name="a", parameters=1, checkpoints=[checkpoint("a", "x", metrics=new)]))
    text = dump_family(old)
    result = merge_family(text, wanted)
    assert result.text == text.replace("in: {top1: 1.5}\n", "in: {top1: 1.5, top5: 3.5}\n      real: {top1: 4.5}\n")
    assert [kept.field for kept in result.kept] == ["architectures.0.checkpoints.0.metrics.in.top1"]


def test_a_data_set_may_have_any_name() -> None:
    metrics = [{"checkpoints": {"top1": 1.5}}, {"architectures": {"name": 2.5}, "checkpoints": {"top1": 1.5}}]
    old, new = (
        family(entry("a").model_copy(update={"checkpoints": [checkpoint("a", "x", metrics=m)]})) for m in metrics
    )
    assert read(str(merge_family(dump_family(old), new).text)).architectures == new.architectures


def test_fields_that_end_on_one_line_come_in_from_the_innermost() -> None:
    text = dump_family(family(entry("a", "x"))) + "    metrics:\n      i:\n        top1: 1.0\n"
    metrics = {"r": {"top1": 2.0}, "i": {"top1": 1.0, "top5": 3.0}}
    new = checkpoint("a", "x", metrics=metrics, paper="p")
    wanted = family(entry("a").model_copy(update={"checkpoints": [new, checkpoint("a", "y")]}), entry("b"))
    result = str(merge_family(text, wanted).text)
    assert result.startswith(f"{text}        top5: 3.0\n      r: {{top1: 2.0}}\n    paper: p\n  - id: timm/a.y\n")
    assert [c.tag for c in read(result).architectures[0].checkpoints] == ["x", "y"]


def test_a_renamed_entry_is_known_by_its_checkpoints() -> None:
    text = (
        dump_family(family(entry("a", "x"), entry("b", "y")))
        .replace("name: a", "name: mine")
        .replace("tag: y", "tag: z")
    )
    result = merge_family(text, family(entry("a", "x"), entry("b", "y")))
    assert (result.text, result.added, result.vanished) == (text, [], [])
    assert [(kept.file_value, kept.library_value) for kept in result.kept] == [("mine", "a"), ("z", "y")]


words = st.sampled_from(["v", "w", "x", "y", "z"])
tags = st.lists(words, unique=True, max_size=4)
entries = st.builds(
    lambda name, found, size, more: entry(name, *found, input_size=[3, size, size], **more),
    st.sampled_from(["ma", "mb", "mc", "md", "me"]),
    tags,
    st.integers(1, 3),
    st.sampled_from([{}, {"classes": None}, {"classes": 0}]),
)
families = st.builds(
    lambda found, version: family(*found, version=version),
    st.lists(entries, unique_by=lambda found: found.name, min_size=1, max_size=4),
    st.sampled_from(["1.0.31", "2"]),
)


def decorated(text: str, draw: Any) -> str:
    """The same data in another layout: comments, blank lines, spaces and line ends as people write them."""
    lines = []
    for place, line in enumerate(text.splitlines()):
        kind = draw(st.sampled_from(["", "", "", "above", "beside", "blank", "wide", "deep"]))
        indent = " " * (len(line) - len(line.lstrip(" -")))
        lines += {"above": [f"{indent}# é {place} 😀"], "blank": [""], "deep": [f"      # deep {place}"]}.get(kind, [])
        line = line.replace(": ", ":   ", 1) if kind == "wide" else line
        lines.append(f"{line}  # beside {place}" if kind == "beside" else line)
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines) + draw(st.sampled_from(["", "\n", "\n\n# the end"]))


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


@settings(max_examples=40, deadline=None)
@given(families, families, st.booleans(), st.booleans(), st.data())
def test_syncing_twice_changes_nothing(
    old: Family, new: Family, prune: bool, take_library: bool, data: st.DataObject
) -> None:
    text = decorated(dump_family(old), data.draw)
    result = merge_family(text, new, prune=prune, take_library=take_library)
    assert result.text is not None
    assert not Counter(comments(text)) - Counter(comments(result.text)) or prune or take_library
    assert ("\r\n" in text) == ("\r\n" in result.text)
    merged = read(result.text)
    again = merge_family(result.text, new, prune=prune, take_library=take_library)
    assert (again.text, again.added, again.changed) == (result.text, [], [])
    assert again.kept == [] if take_library else True
    names = [found.name for found in merged.architectures]
    gone = [found.name for found in old.architectures if found.name not in {e.name for e in new.architectures}]
    assert [v.name for v in result.vanished if v.kind == "architecture"] == gone
    assert not set(names) & set(gone) if prune else set(gone) <= set(names)
    assert {found.name for found in new.architectures} <= set(names)
    # People's order stays.
    assert [name for name in names if name in {e.name for e in old.architectures}] == [
        found.name for found in old.architectures if not (prune and found.name in gone)
    ]
    if take_library:
        for found in new.architectures:
            (own,) = (one for one in merged.architectures if one.name == found.name)
            assert {
                name: getattr(own, name) for name in found.model_dump(exclude_defaults=True, exclude={"checkpoints"})
            } == (found.model_dump(exclude_defaults=True, exclude={"checkpoints"}))
    elif not prune and old.version == new.version:
        # Nothing but whole lines has come in.
        left = iter(result.text.splitlines())
        assert all(line in left for line in text.splitlines())


@settings(deadline=None)
@given(families, st.data())
def test_an_edit_of_one_field_stays(old: Family, data: st.DataObject) -> None:
    lines = dump_family(old).splitlines(keepends=True)
    fields = {
        "parameters": "77",
        "classes": "7",
        "input_size": "[1, 2, 3]",
        "license": "isc",
        "id": "my/own",
        "tag": "own",
    }
    places = [place for place, line in enumerate(lines) if line.strip(" -").partition(":")[0] in fields]
    place = data.draw(st.sampled_from(places))
    start, name = lines[place].partition(":")[0], lines[place].strip(" -").partition(":")[0]
    lines[place] = f"{start}: {fields[name]}  # mine\n"
    text = "".join(lines)
    result = merge_family(text, old)
    assert result.text == text
    (kept,) = result.kept
    assert (kept.line, kept.field.rpartition(".")[2]) == (place + 1, name)
    assert yaml.safe_load(f"a: {fields[name]}")["a"] == kept.file_value


@settings(deadline=None)
@given(families, families, entries)
def test_an_entry_that_people_added_stays(old: Family, new: Family, own: ArchitectureEntry) -> None:
    own = own.model_copy(
        update={"name": "own", "checkpoints": [checkpoint("own", "mine", paper="arXiv:1", metrics={"a": {"b": 1.0}})]}
    )
    text = dump_family(old.model_copy(update={"architectures": [*old.architectures, own]}))
    result = merge_family(text, new)
    assert own in read(str(result.text)).architectures
    assert "own" in [vanished.name for vanished in result.vanished]
    assert own not in read(str(merge_family(text, new, prune=True).text)).architectures


def write(folder: Path, *found: Family) -> None:
    (folder / "timm").mkdir(exist_ok=True)
    for one in found:
        (folder / "timm" / f"{one.family}.yaml").write_text(dump_family(one))


def plan(folder: Path, *found: Family, **options: bool) -> SyncResult:
    return plan_sync("timm", "2", [one.model_copy(update={"version": "2"}) for one in found], folder, **options)


def test_a_whole_library(tmp_path: Path) -> None:
    write(tmp_path, family(entry("a", "x"), name="fa"), family(entry("b", "x"), entry("c"), name="fb"))
    gone = family(entry("old", "x"), entry("older"), name="fo")
    write(tmp_path, gone)
    # The library has moved b to another module; new is a family of its own.
    result = plan(
        tmp_path,
        family(entry("a", "x", classes=3), entry("b", "x"), name="fa"),
        family(entry("c"), name="fb"),
        family(entry("n", "x", "y"), name="new"),
    )
    assert [path.name for path in result.written] == ["fa.yaml", "fb.yaml", "new.yaml"]
    assert reports(result) == [
        f"kept yours: {tmp_path}/timm/fa.yaml:7 architectures.0.classes: file says 2, timm 2 says 3",
        f"not in timm 2: family fo ({tmp_path}/timm/fo.yaml:1)",
    ]
    assert result.files[0].diff().splitlines() == [
        f"--- {tmp_path}/timm/fa.yaml",
        f"+++ {tmp_path}/timm/fa.yaml",
        "@@ -1,6 +1,6 @@",
        " library: timm",
        " family: fa",
        "-version: 1.0.31",
        "+version: '2'",
        " architectures:",
        " - name: a",
        "   parameters: 10",
    ]
    assert result.files[3].diff() == f"new file {tmp_path}/timm/new.yaml: 1 architectures, 2 checkpoints\n"
    assert not (tmp_path / "timm" / "new.yaml").exists()
    write_sync(result)
    assert faults(tmp_path) == []
    found = {one.family: [e.name for e in one.architectures] for one in load_registry(tmp_path)}
    assert found == {"fa": ["a"], "fb": ["b", "c"], "fo": ["old", "older"], "new": ["n"]}
    assert (tmp_path / "timm" / "fo.yaml").read_text() == dump_family(gone)
    again = plan(tmp_path, *(one for one in load_registry(tmp_path) if one.family != "fo"))
    assert (again.written, again.deleted) == ([], [])
    data = sync_data(result)
    assert list(data) == ["library", "version", "written", "deleted", "added", "changed", "kept", "vanished"]
    assert data["vanished"] == [{"file": f"{tmp_path}/timm/fo.yaml", "line": 1, "kind": "family", "name": "fo"}]
    assert json.loads(json.dumps(data)) == data


def test_pruning_deletes_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path, family(entry("a", "x"), name="fa"), family(entry("b", "x"), name="fb"))
    result = plan(tmp_path, family(entry("b", "x"), name="fb"), prune=True)
    assert [path.name for path in result.deleted] == ["fa.yaml"]
    assert result.files[0].diff().splitlines()[1] == "+++ /dev/null"
    write_sync(result)
    assert [path.name for path in (tmp_path / "timm").iterdir()] == ["fb.yaml"]


def test_a_faulty_file_stops_the_sync(tmp_path: Path) -> None:
    write(tmp_path, family(entry("a"), name="fa"))
    (tmp_path / "timm" / "fb.yaml").write_text("library: timm\n")
    with pytest.raises(InputError, match=r"fb\.yaml:1: family: is missing: add it \(nothing was written\)"):
        plan(tmp_path, family(entry("a"), name="fa"))


def test_a_sync_that_would_make_a_fault_is_refused(tmp_path: Path) -> None:
    write(tmp_path, family(entry("a", "x"), name="fa"))
    with pytest.raises(InputError, match=r"the registry would have a fault .*fb\.yaml:.*'timm/a\.x' stands already at"):
        plan(tmp_path, family(ArchitectureEntry(name="b", parameters=1, checkpoints=[checkpoint("a", "x")]), name="fb"))


def test_a_layout_that_cannot_be_edited_is_refused() -> None:
    text = (
        dump_family(family(entry("a"))).replace("architectures:\n- ", "? architectures\n: - ").replace("\n  ", "\n    ")
    )
    assert read(text)
    with pytest.raises(InputError, match=r"timm/toy\.yaml cannot be edited in place: write every field on a line"):
        merge_family(text, family(entry("b")), prune=True)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, family(entry("a", "x"), name="fa"))
    before = (tmp_path / "timm" / "fa.yaml").read_bytes()
    result = plan(tmp_path, family(entry("a", "x", "y"), name="fa"))

    def full(path: Path, text: str, **_options: str) -> None:
        path.open("w").write(text[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WorldError, match=r"fa\.yaml cannot be written \(No space left on device\)"):
        write_sync(result)
    assert [path.name for path in (tmp_path / "timm").iterdir()] == ["fa.yaml"]
    assert (tmp_path / "timm" / "fa.yaml").read_bytes() == before


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path; from kzoo.locking import locked\nwith locked(Path({str(tmp_path)!r}), 0.1): pass"
    )
    with locked(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    with locked(tmp_path):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"registry {tmp_path} is being changed by another kzoo: wait until it is done" in done.stderr
    with locked(tmp_path):
        pass


def test_a_registry_that_cannot_be_written(tmp_path: Path) -> None:
    # Tests may run as root, whom no permission bits stop; nobody makes a folder below a file.
    (tmp_path / "file").touch()
    with (
        pytest.raises(WorldError, match=r"registry .*file/below cannot be written \(Not a directory\): check"),
        locked(tmp_path / "file" / "below"),
    ):
        pass


@pytest.fixture
def sync(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command on a library of two small families, which is read in no time."""
    import kzoo.sync

    library = [family(entry("a", "x", "y"), name="fa", version="2"), family(entry("b", "x"), name="fb", version="2")]
    monkeypatch.setattr(kzoo.sync, "load_library", lambda name: SimpleNamespace(VERSION="2"))
    monkeypatch.setattr(kzoo.sync, "read_families", lambda name, progress: library)

    def command(folder: Path, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kzoo", "-C", str(folder), "registry", "sync", "timm", *options])
        code = run()
        return code, *capsys.readouterr()

    return command


def test_the_command_shows_what_changes(sync: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    write(tmp_path, family(entry("a", "x", classes=7), entry("old"), name="fa", version="2"))
    path, other = tmp_path / "timm" / "fa.yaml", tmp_path / "timm" / "fb.yaml"
    before = path.read_text()
    code, out, err = sync(tmp_path, "--dry-run")
    assert (code, err) == (0, "")
    shown = out.splitlines()
    assert shown[:2] == [f"--- {path}", f"+++ {path}"]
    assert "+  - id: timm/a.y" in shown
    assert shown[-4:] == [
        f"new file {other}: 1 architectures, 1 checkpoints",
        f"kept yours: {path}:7 architectures.0.classes: file says 7, timm 2 says 2",
        f"not in timm 2: architecture old ({path}:16)",
        "timm 2: 2 files would be written.",
    ]
    assert (path.read_text(), other.exists()) == (before, False)

    code, out, err = sync(tmp_path)
    assert (code, out.splitlines()[:-1]) == (0, shown[:-1])
    assert out.endswith("timm 2: 2 files written.\n")
    assert err == f"Next: kzoo -C {tmp_path} index\n"
    assert faults(tmp_path) == []

    code, out, err = sync(tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [*(line.replace(":16)", ":22)") for line in shown[-3:-1]), "timm 2: 0 files written."]

    data = json.loads(sync(tmp_path, "--json", "--prune", "--take-library")[1])
    assert (data["written"], data["kept"]) == ([str(path)], [])
    assert data["vanished"] == [{"file": str(path), "line": 22, "kind": "architecture", "name": "old"}]
    assert data["changed"] == [
        {"file": str(path), "line": 7, "field": "architectures.0.classes", "file_value": 7, "library_value": 2}
    ]
    assert path.read_text() == dump_family(family(entry("a", "x", "y"), name="fa", version="2"))


def test_the_commands_exit_codes(
    sync: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    code, out, err = sync(tmp_path / "file" / "below")
    assert (code, out) == (3, "")
    assert re.fullmatch(r"Error: registry \S+ cannot be written \(Not a directory\): check its permissions\n", err)
    write(tmp_path, family(entry("a"), name="other"))
    (tmp_path / "timm" / "fa.yaml").write_text("library: [")
    code, out, err = sync(tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "fa.yaml:1: the file: is not valid YAML" in err
    (tmp_path / "timm" / "fa.yaml").unlink()

    def full(*_arguments: str, **_options: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    code, out, err = sync(tmp_path)
    assert (code, out) == (3, "")
    assert re.fullmatch(r"Error: \S+ cannot be written \(No space left on device\): check the disk .*\n", err)
    assert [path.name for path in (tmp_path / "timm").iterdir()] == ["other.yaml"]


def test_ruamel_writes_the_files_that_ship_back_unchanged() -> None:
    """Other programs that keep comments and order can edit the files too."""
    ruamel = YAML()
    # A long address stays on its line.
    ruamel.width = 200
    for path in registry_files(registry_directory()):
        stream = io.StringIO()
        ruamel.dump(ruamel.load(path.read_text()), stream)
        assert stream.getvalue() == path.read_text()


def test_sync_writes_what_the_library_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kzoo.readers import torchvision as reader

    monkeypatch.setattr(reader, "families", lambda: {"alexnet": ["alexnet"], "vgg": ["vgg11", "vgg16"]})
    folder = tmp_path / "new"
    assert len(sync_library("torchvision", folder, lambda what, done: None, dry_run=True).written) == 2
    assert not folder.exists()
    written = sync_library("torchvision", folder, lambda what, done: None).written
    assert [path.relative_to(folder).as_posix() for path in written] == [
        "torchvision/alexnet.yaml",
        "torchvision/vgg.yaml",
    ]
    shipped = (registry_directory() / "torchvision" / "alexnet.yaml").read_text()
    assert written[0].read_text() == shipped
    assert sync_library("torchvision", folder, lambda what, done: None).files == []

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kzoo import InputError
from kzoo.catalog import (
    ArchitectureEntry,
    Checkpoint,
    Family,
    Fault,
    checked_source,
    dump_family,
    faults,
    load_registry,
    read_source,
    schema_text,
)
from kzoo.paths import registry_directory
from kzoo.registry_files import registry_digest, registry_files
from tests.conftest import Run

GOOD = """\
library: timm
family: toy
version: 1.0.31
architectures:
- name: toy
  parameters: 10
  classes: 2
  input_size: [3, 8, 8]
  checkpoints:
  - id: timm/toy.a
    tag: a
    license: mit
    classes: 2
    input_size: [3, 8, 8]
    trained_on: [imagenet-1k]
    parameters: 10
    metrics:
      imagenet-1k: {top1: 50.5}
  - id: timm/toy.b
    tag: b
    license: unknown
    classes: 0
    input_size: [3, 8, 8]
    parameters: 8
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "toy.yaml").write_text(GOOD)
    return tmp_path


def test_a_good_file(folder: Path) -> None:
    (family,) = load_registry(folder)
    (entry,) = family.architectures
    assert (family.library, family.family, entry.name) == ("timm", "toy", "toy")
    first, second = entry.checkpoints
    assert (first.classes, first.metrics, first.trained_on) == (2, {"imagenet-1k": {"top1": 50.5}}, ["imagenet-1k"])
    assert (second.classes, second.metrics, second.trained_on) == (0, {}, [])
    assert dump_family(family) == GOOD


CHECKPOINT = "architectures.0.checkpoints.0"


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "problem"),
    [
        ("classes: 2\n  i", "classes: two\n  i", 7, "architectures.0.classes", "expected a whole number, found 'two'"),
        ("classes: 2\n  i", "classes: 2.5\n  i", 7, "architectures.0.classes", "expected a whole number, found 2.5"),
        ("classes: 2\n  i", "classes: yes\n  i", 7, "architectures.0.classes", "expected a whole number, found true"),
        ("    license: mit\n", "", 10, f"{CHECKPOINT}.license", "is missing: add it"),
        ("license: mit", "licence: mit", 12, f"{CHECKPOINT}.licence", "is not a known field: did you mean license?"),
        (
            "  checkpoints:\n",
            "  colour: red\n  checkpoints:\n",
            9,
            "architectures.0.colour",
            "is not a known field: remove it, expected one of name, parameters, classes, input_size, checkpoints",
        ),
        ("[3, 8, 8]\n    t", "[3, 8]\n    t", 14, f"{CHECKPOINT}.input_size", "expected 3 items, found [3, 8]"),
        (
            "[3, 8, 8]\n    t",
            "[3, 8, 0]\n    t",
            14,
            f"{CHECKPOINT}.input_size.2",
            "expected a number of 1 or more, found 0",
        ),
        ("[imagenet-1k]", "imagenet-1k", 15, f"{CHECKPOINT}.trained_on", "expected a list, found 'imagenet-1k'"),
        (
            "timm/toy.b",
            "toy",
            19,
            "architectures.0.checkpoints.1.id",
            "expected words with a slash between them, such as timm/resnet18.a1_in1k, found 'toy'",
        ),
        ("tag: b", "tag: 1.5", 20, "architectures.0.checkpoints.1.tag", "expected text, found 1.5: write it in quotes"),
        ("tag: b", "tag: b b", 20, "architectures.0.checkpoints.1.tag", "expected a name without spaces, found 'b b'"),
        ("tag: b", "tag:", 20, "architectures.0.checkpoints.1.tag", "expected text, found nothing"),
        ("top1: 50.5", "top1: high", 18, f"{CHECKPOINT}.metrics.imagenet-1k.top1", "expected a number, found 'high'"),
        (
            "top1: 50.5",
            "top1: .nan",
            18,
            f"{CHECKPOINT}.metrics.imagenet-1k.top1",
            "expected a finite number, found NaN",
        ),
        ("{top1: 50.5}", "50.5", 18, f"{CHECKPOINT}.metrics.imagenet-1k", "expected fields with values, found 50.5"),
        (
            "parameters: 8",
            "parameters: -8",
            24,
            "architectures.0.checkpoints.1.parameters",
            "expected a number of 0 or more, found -8",
        ),
        (
            "parameters: 8",
            f"parameters: {2**63}",
            24,
            "architectures.0.checkpoints.1.parameters",
            f"is '{2**63}', which is no number of 64 bits: correct it, or write it in quotes",
        ),
        (
            "license: mit",
            "license: mitt",
            12,
            f"{CHECKPOINT}.license",
            "expected an SPDX id or expression, an id of the Hub, 'other' with license_name and license_link, "
            "or 'unknown', found 'mitt'",
        ),
        (
            "license: mit",
            "license: other\n    license_link: https://example.org",
            10,
            f"{CHECKPOINT}.license_name",
            "is missing: a license that is 'other' needs license_name and license_link",
        ),
        (
            "license: mit",
            "license: other\n    license_name: house",
            10,
            f"{CHECKPOINT}.license_link",
            "is missing: a license that is 'other' needs license_name and license_link",
        ),
        (
            "parameters: 8",
            "parameters: 8\n    path: weights.safetensors",
            19,
            "architectures.0.checkpoints.1.sha256",
            "is missing: weights with a path need the SHA-256 of their content",
        ),
        (
            "parameters: 8",
            "parameters: 8\n    sha256: ABC",
            25,
            "architectures.0.checkpoints.1.sha256",
            "expected 64 lower-case hexadecimal digits, found 'ABC'",
        ),
        (
            "  parameters: 10\n  classes",
            "  name: twice\n  parameters: 10\n  classes",
            6,
            "architectures.0.name",
            "repeats the field of line 5: remove one of them",
        ),
        (
            "family: toy",
            "family: !!python/object:os.system x",
            2,
            "family",
            "has the tag tag:yaml.org,2002:python/object:os.system: remove it, registry files hold plain data only",
        ),
        ("family: toy", "family: 2020-01-01", 2, "family", "is a date, not plain text: write it in quotes"),
        ("family: toy", "family: &a toy", 2, "family", "has the anchor &a: remove it"),
        (
            "family: toy",
            'family: "a\\nb"',
            2,
            "family",
            "holds a line break or another control character: keep to one line of text",
        ),
        (
            "family: toy",
            "? [a, b]\n: 1\nfamily: toy",
            2,
            "the file",
            "has a field whose name is not plain text: write the name alone",
        ),
        (
            "family: toy",
            "1: 1\nfamily: toy",
            2,
            "the file",
            "has a field named '1', which is not text: write the name in quotes",
        ),
        (
            "family: toy",
            "family: other",
            2,
            "family",
            "is 'other', but the file's place says 'toy': move the file or correct the field",
        ),
        (
            "library: timm",
            "library: keras",
            1,
            "library",
            "is 'keras', but the file's place says 'timm': move the file or correct the field",
        ),
        (
            "- name: toy",
            "- name: [toy",
            6,
            "the file",
            "is not valid YAML (did not find expected ',' or ']'): correct that line",
        ),
        (
            "    tag: a\n",
            "\ttag: a\n",
            11,
            "the file",
            "is not valid YAML (found a tab character that violates indentation): correct that line",
        ),
        ("family: toy", "family: to\0y", 2, "the file", "holds the character U+0000, which is no text: remove it"),
        (
            "    parameters: 8\n",
            "    parameters: 8\n---\na: 1\n",
            25,
            "the file",
            "holds several documents: keep one, without further '---'",
        ),
    ],
)
def test_a_fault_is_named_by_file_line_and_field(
    folder: Path, old: str, new: str, line: int, field: str, problem: str
) -> None:
    path = folder / "timm" / "toy.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    assert faults(folder) == [Fault(path, line, field, problem)]
    with pytest.raises(InputError) as caught:
        load_registry(folder)
    assert str(caught.value) == f"{path}:{line}: {field}: {problem}"
    assert str(read_source(path).faults[0]) == f"{path}:{line}: {field}: {problem}"


def test_every_fault_of_every_file_is_found(folder: Path) -> None:
    text = GOOD.replace("classes: 2", "classes: two").replace("licens", "licenc").replace("tag: b", "tag: a")
    text = text.replace("version: 1.0.31", "version: &v 1.0.31").replace("trained_on: [imagenet-1k]", "trained_on: *v")
    (folder / "timm" / "toy.yaml").write_text(text.replace("family: toy", "<<: {x: 1}\nfamily: toy"))
    other = GOOD.replace("family: toy", "family: toys").replace("name: toy", "name: boy").replace("toy.b", "boy.b")
    (folder / "timm" / "toys.yaml").write_text(other)
    (folder / "timm" / "old.yml").write_text(GOOD)
    (folder / "loose.yaml").write_text(GOOD)
    found = [(fault.file.name, fault.line, fault.field, fault.problem) for fault in faults(folder)]
    assert found == [
        ("loose.yaml", 1, "the file", "is not read here: move it to <library>/<family>.yaml"),
        ("old.yml", 1, "the file", "is not read here: move it to <library>/<family>.yaml"),
        ("toy.yaml", 2, "the file", "has a merge key (<<): write the fields out"),
        ("toy.yaml", 4, "version", "has the anchor &v: remove it"),
        ("toy.yaml", 8, "architectures.0.classes", "expected a whole number, found 'two'"),
        ("toy.yaml", 13, f"{CHECKPOINT}.licence", "is not a known field: did you mean license?"),
        ("toy.yaml", 14, f"{CHECKPOINT}.classes", "expected a whole number, found 'two'"),
        ("toy.yaml", 16, f"{CHECKPOINT}.trained_on", "is the alias *v: write the value out"),
        (
            "toy.yaml",
            21,
            "architectures.0.checkpoints.1.tag",
            f"'timm:toy.a' stands already at {folder / 'timm' / 'toy.yaml'}:12: remove one of them",
        ),
        ("toy.yaml", 22, "architectures.0.checkpoints.1.licence", "is not a known field: did you mean license?"),
        (
            "toys.yaml",
            10,
            f"{CHECKPOINT}.id",
            f"'timm/toy.a' stands already at {folder / 'timm' / 'toy.yaml'}:11: remove one of them",
        ),
    ]


def test_names_are_unique_in_a_library_only(folder: Path) -> None:
    (folder / "keras").mkdir()
    other = folder / "keras" / "toy.yaml"
    other.write_text(GOOD.replace("library: timm", "library: keras").replace("timm/", "keras/"))
    assert faults(folder) == []
    other.rename(folder / "timm" / "toys.yaml")
    (folder / "timm" / "toys.yaml").write_text(GOOD.replace("family: toy", "family: toys").replace("timm/", "x/"))
    first = folder / "timm" / "toy.yaml"
    assert [(fault.line, fault.field) for fault in faults(folder)] == [
        (5, "architectures.0.name"),
        (11, f"{CHECKPOINT}.tag"),
        (20, "architectures.0.checkpoints.1.tag"),
    ]
    assert f"stands already at {first}:5" in faults(folder)[0].problem


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b"", 1, "is empty: expected the fields of a model family"),
        (b"# nothing\n", 1, "is empty: expected the fields of a model family"),
        (b"\n- 1\n", 1, "expected fields with values, found [1]"),
        (b"just text", 1, "expected fields with values, found 'just text'"),
        (b"library: timm\nfamily: \xff", 2, "is not UTF-8 text: save it as UTF-8"),
        (b"\n\x1b[31m", 2, "holds the character U+001B, which is no text: remove it"),
    ],
)
def test_the_whole_file_may_be_wrong(folder: Path, content: bytes, line: int, problem: str) -> None:
    path = folder / "timm" / "toy.yaml"
    path.write_bytes(content)
    assert faults(folder) == [Fault(path, line, "the file", problem)]


def test_hostile_files_are_refused_quickly(folder: Path) -> None:
    path = folder / "timm" / "toy.yaml"
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)]
    for content, what in (
        ("a0: &a0 [x, x]\n" + "".join(lines), "a0: has the anchor &a0"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "a: is nested more than 20 levels deep"),
        ("a: 1\na: " + "[" * 1_000_000, "a: repeats the field of line 1"),
        ("- " * 10_000 + "a", "is nested more than 20 levels deep"),
        ("- a\n" * 200_000, "the file: holds more than 100,000 values"),
        ("a: " + "9:" * 4_000_000 + "9", "a: is longer than 10,000 characters"),
        ("a: 0x" + "f" * 100, "a: is '0xffff"),
        ("#" * 10_000_001, "the file: is larger than 10 MB: split it into several families"),
    ):
        path.write_text(content)
        found = faults(folder)
        assert what in str(found[0])
        assert all("\n" not in str(fault) and len(str(fault)) < 500 for fault in found)


def test_no_more_than_a_thousand_faults_of_a_file(folder: Path) -> None:
    path = folder / "timm" / "toy.yaml"
    path.write_text(GOOD + "".join(f"k{place}: 1\n" for place in range(1200)))
    found = faults(folder)
    assert len(found) == 1001
    assert found[-1] == Fault(path, 1025, "the file", "has 200 faults more")


def test_what_is_no_file_is_a_fault(folder: Path) -> None:
    timm = folder / "timm"
    (timm / "folder.yaml").mkdir()
    (timm / "loop.yaml").symlink_to("loop.yaml")
    (timm / "broken.yaml").symlink_to("nowhere")
    os.mkfifo(timm / "pipe.yaml")
    assert [(fault.file.name, fault.problem) for fault in faults(folder)] == [
        ("broken.yaml", "cannot be read (No such file or directory): check its permissions"),
        ("folder.yaml", "is not a file: expected a YAML file, move it away"),
        ("loop.yaml", "cannot be read (Too many levels of symbolic links): check its permissions"),
        ("pipe.yaml", "is not a file: expected a YAML file, move it away"),
    ]
    with pytest.raises(InputError, match=r"broken\.yaml:1: the file: cannot be read"):
        registry_digest(folder)


def test_an_unreadable_file_is_a_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, _mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, whom no permission bits stop.
    monkeypatch.setattr(Path, "open", refuse)
    (fault,) = faults(folder)
    assert (fault.line, fault.problem) == (1, "cannot be read (Permission denied): check its permissions")


def test_other_files_do_not_disturb(folder: Path) -> None:
    for name in (
        "index.npz",
        "schema.json",
        "README.md",
        ".lock",
        ".hidden.yaml",
        "timm/.toy.yaml.swp",
        "timm/notes.txt",
    ):
        (folder / name).write_text("no YAML: [")
    (folder / "timm" / ".toy.yaml").write_text("")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.yaml").write_text("")
    (folder / "timm" / "up").symlink_to("..")
    assert faults(folder) == []
    assert [path.name for path in registry_files(folder)] == ["toy.yaml"]


def test_missing_empty_and_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_registry(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no <library>/<family>\.yaml"):
        load_registry(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory"):
        load_registry(tmp_path / "file")
    (tmp_path / "loose.yaml").touch()
    assert [fault.file.name for fault in faults(tmp_path)] == ["loose.yaml"]

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        load_registry(tmp_path)


def test_unknown_and_zero_are_told_apart() -> None:
    checkpoint = Checkpoint(id="local/a.b", tag="b", license="unknown", classes=0, parameters=1)
    entry = ArchitectureEntry(name="a", parameters=1, checkpoints=[checkpoint])
    family = Family(library="local", family="mine", version="1", architectures=[entry])
    assert (entry.classes, entry.input_size, checkpoint.classes, checkpoint.input_size) == (None, None, 0, None)
    assert dump_family(family) == (
        "library: local\nfamily: mine\nversion: '1'\narchitectures:\n- name: a\n  parameters: 1\n  checkpoints:\n"
        "  - id: local/a.b\n    tag: b\n    license: unknown\n    classes: 0\n    parameters: 1\n"
    )


def test_a_local_file_is_described(folder: Path) -> None:
    path = folder / "timm" / "toy.yaml"
    more = f"    path: w.safetensors\n    sha256: {'0a' * 32}\n    size: 0\n    submodule: encoder.body\n"
    path.write_text(f"\ufeff{GOOD}{more}".replace("\n", "\r\n"), newline="")
    source = read_source(path)
    assert source.family is not None
    checkpoint = source.family.architectures[0].checkpoints[1]
    assert (checkpoint.path, checkpoint.sha256, checkpoint.size, checkpoint.submodule) == (
        "w.safetensors",
        "0a" * 32,
        0,
        "encoder.body",
    )
    assert source.plain.line(("architectures", 0, "checkpoints", 1, "path")) == 25


texts = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1)
names = texts.filter(lambda text: text.isprintable() and "/" not in text)
sizes = st.none() | st.lists(st.integers(1, 2**63 - 1), min_size=3, max_size=3)
counts = st.none() | st.integers(0, 2**63 - 1)
checkpoints = st.builds(
    Checkpoint,
    id=st.builds("{}/{}".format, names, names),
    tag=names,
    license=st.sampled_from(["mit", "unknown", "MIT OR Apache-2.0", "openrail++"]),
    license_name=st.none() | names,
    license_link=st.none() | names,
    classes=counts,
    input_size=sizes,
    trained_on=st.lists(names, max_size=3),
    parameters=st.integers(0, 2**63 - 1),
    metrics=st.dictionaries(names, st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False))),
    sha256=st.none() | st.from_regex(r"\A[0-9a-f]{64}\Z"),
    size=counts,
    paper=st.none() | names,
)


@settings(deadline=None)
@given(st.lists(checkpoints, unique_by=(lambda c: c.id, lambda c: c.tag), max_size=3), sizes, counts)
def test_what_is_dumped_is_read(found: list[Checkpoint], size: list[int] | None, classes: int | None) -> None:
    entry = ArchitectureEntry(name="a", parameters=1, classes=classes, input_size=size, checkpoints=found)
    family = Family(library="timm", family="f", version="1", architectures=[entry])
    source = checked_source(Path("timm/f.yaml"), dump_family(family))
    assert source.faults == []
    assert source.family == family


def test_the_schema_that_ships_is_up_to_date() -> None:
    # Otherwise: kzoo registry schema > registry/schema.json
    text = (registry_directory() / "schema.json").read_text()
    assert text == schema_text()
    schema = json.loads(text)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    fields = schema["$defs"]["Checkpoint"]
    assert fields["required"] == ["id", "tag", "license", "parameters"]
    assert fields["dependentRequired"] == {"path": ["sha256"]}
    assert all("description" in field for field in fields["properties"].values())


def test_the_documentation_has_every_field_and_a_valid_example() -> None:
    text = (Path(__file__).parent.parent / "docs" / "registry.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    models = (Family, ArchitectureEntry, Checkpoint)
    assert [name for name, _ in rows] == [name for model in models for name in model.model_fields]
    required = [field.is_required() for model in models for field in model.model_fields.values()]
    assert [needed == "yes" for _, needed in rows] == required
    (example,) = re.findall(r"^   ```yaml\n(.*?)^   ```", text, re.MULTILINE | re.DOTALL)
    assert checked_source(Path("my-registry/timm/resnet.yaml"), textwrap.dedent(example)).faults == []


def test_check_names_every_fault_and_says_so_in_json(kzoo_command: Run, folder: Path) -> None:
    path = folder / "timm" / "toy.yaml"
    assert json.loads(kzoo_command("registry", "check", str(folder), "--json").stdout) == {
        "files": 1,
        "architectures": 1,
        "checkpoints": 2,
        "faults": [],
    }
    path.write_text(GOOD.replace("classes: 2", "classes: two"))
    done = kzoo_command("registry", "check", str(folder))
    assert (done.returncode, done.stdout) == (2, "1 files, 1 architectures, 2 checkpoints: 2 faults found.\n")
    assert done.stderr.splitlines() == [
        f"Error: {path}:7: architectures.0.classes: expected a whole number, found 'two'",
        f"Error: {path}:13: architectures.0.checkpoints.0.classes: expected a whole number, found 'two'",
    ]
    done = kzoo_command("registry", "check", str(folder), "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["faults"][1] == {
        "file": str(path),
        "line": 13,
        "field": "architectures.0.checkpoints.0.classes",
        "problem": "expected a whole number, found 'two'",
    }
    assert kzoo_command("registry", "schema").stdout == schema_text()


def test_the_digest_sees_names_and_contents(folder: Path) -> None:
    before = registry_digest(folder)
    assert before == registry_digest(folder)
    path = folder / "timm" / "toy.yaml"
    path.write_text(GOOD + "# reviewed\n")
    changed = registry_digest(folder)
    path.rename(folder / "timm" / "boy.yaml")
    assert len({before, changed, registry_digest(folder)}) == 3


def test_the_registry_that_ships() -> None:
    families = load_registry(registry_directory())
    architectures = {library: [] for library in ("timm", "torchvision", "local")}
    for family in families:
        architectures[family.library] += family.architectures
    assert {library: len(entries) for library, entries in architectures.items()} == {
        "timm": 1371,
        "torchvision": 80,
        "local": 13,
    }
    checkpoints = {library: [c for e in entries for c in e.checkpoints] for library, entries in architectures.items()}
    assert {library: len(found) for library, found in checkpoints.items()} == {
        "timm": 1826,
        "torchvision": 115,
        "local": 13,
    }
    assert sum(not entry.checkpoints for entry in architectures["timm"]) == 220
    # Each torchvision checkpoint carries an accuracy but VGG16's bare features.
    assert [c.id for c in checkpoints["torchvision"] if not c.metrics] == ["torchvision/vgg16.IMAGENET1K_FEATURES"]
    files = registry_files(registry_directory())
    assert all(path.read_text() == dump_family(family) for path, family in zip(files, families, strict=True))

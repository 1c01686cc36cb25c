from __future__ import annotations

from pathlib import Path

import pytest

from kzoo import InputError
from kzoo.catalog import dump_family, load_family, load_registry, registry_digest
from kzoo.paths import registry_directory

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


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "what"),
    [
        ("classes: 2\n  input", "classes: two\n  input", 7, "architectures.0.classes", "valid integer, found 'two'"),
        ("    license: mit\n", "", 10, "architectures.0.checkpoints.0.license", "field required"),
        ("license: mit", "licence: mit", 12, "architectures.0.checkpoints.0.licence", "not permitted"),
        (
            "[3, 8, 8]\n    trained",
            "[3, 8]\n    trained",
            14,
            "architectures.0.checkpoints.0.input_size",
            "at least 3 items",
        ),
        ("timm/toy.b", "toy", 19, "architectures.0.checkpoints.1.id", "match pattern"),
        ("timm/toy.b", "timm/toy.a", 19, "architectures.0.checkpoints.1.id", "stands already at"),
        ("top1: 50.5", "top1: high", 18, "architectures.0.checkpoints.0.metrics.imagenet-1k.top1", "valid number"),
        (
            "parameters: 8",
            "parameters: -8",
            24,
            "architectures.0.checkpoints.1.parameters",
            "greater than or equal to 0",
        ),
        (
            "  parameters: 10\n  classes",
            "  name: twice\n  parameters: 10\n  classes",
            6,
            "architectures.0.name",
            "repeats the field of line 5",
        ),
        ("family: toy", "family: !!python/object:os.system x", 2, "family", "plain data only"),
        ("family: toy", "family: !!int toy", 2, "family", "'toy' is not what its tag says"),
        ("family: toy", "family: 2020-01-01", 2, "family", "has the tag tag:yaml.org,2002:timestamp"),
        ("family: toy", "family: &a toy\nversion: *a", 2, "version", "is an alias"),
        ("family: toy", "? [a, b]\n: 1", 2, "the file", "a field whose name is not text"),
        ("family: toy", "family: other", 2, "family", "is 'other', but the file's place says 'toy'"),
        ("library: timm", "library: keras", 1, "library", "the file's place says 'timm'"),
        ("tag: b", "tag: a", 20, "architectures.0.checkpoints.1.tag", "'timm:toy.a' stands already at"),
        ("- name: toy", "- name: [toy", 6, "", "is not valid YAML"),
        ("    tag: a\n", "\ttag: a\n", 11, "", "is not valid YAML"),
    ],
)
def test_a_fault_is_named_by_file_line_and_field(
    folder: Path, old: str, new: str, line: int, field: str, what: str
) -> None:
    path = folder / "timm" / "toy.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_registry(folder)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}:{line}: {field}")
    assert what in sentence
    assert "\n" not in sentence


def test_the_whole_file_may_be_wrong(folder: Path) -> None:
    path = folder / "timm" / "toy.yaml"
    for content in (b"", b"- 1\n", b"just text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="the file"):
            load_family(path)
    for content in (b"a: " + b"[" * 3000, b"a: " + b"[" * 3000 + b"]" * 3000, b"&a {library: *a}"):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_family(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_family(path)


def test_missing_empty_and_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_registry(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no <library>/<family>\.yaml"):
        load_registry(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory"):
        load_registry(tmp_path / "file")

    (tmp_path / "timm" / "folder.yaml").mkdir(parents=True)
    with pytest.raises(InputError, match=r"folder\.yaml cannot be read"):
        load_registry(tmp_path)

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, whom no permission bits stop.
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        load_registry(tmp_path)


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
    architectures = {library: [] for library in ("timm", "torchvision")}
    for family in families:
        architectures[family.library] += family.architectures
    assert {library: len(entries) for library, entries in architectures.items()} == {"timm": 1371, "torchvision": 80}
    checkpoints = {library: [c for e in entries for c in e.checkpoints] for library, entries in architectures.items()}
    assert {library: len(found) for library, found in checkpoints.items()} == {"timm": 1826, "torchvision": 115}
    assert sum(not entry.checkpoints for entry in architectures["timm"]) == 220
    # Each torchvision checkpoint carries an accuracy but VGG16's bare features.
    assert [c.id for c in checkpoints["torchvision"] if not c.metrics] == ["torchvision/vgg16.IMAGENET1K_FEATURES"]
    assert all(path.read_text() == dump_family(family) for path, family in zip(_files(), families, strict=True))


def _files() -> list[Path]:
    from kzoo.catalog import registry_files

    return registry_files(registry_directory())

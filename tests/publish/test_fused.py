"""Fused networks are published with every parent at its commit, their joint license and what was measured, and made again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml
from safetensors.torch import load, save

from kzoo.methods.fusion.parameters import FUSION
from kzoo.publish.papers import METHODS
from tests.hub.client import environment, patch
from tests.hub.server import Hub
from tests.hub.storage import File

IMAGES = {"task": "digits", "train": 100, "test": 100, "size": 16, "channels": 1}
SHA = "0" * 64
LICENSES = {"start": "apache-2.0", "one": "apache-2.0", "two": "cc-by-nc-4.0", "gnu": "gpl-2.0"}
FISHERS = ("fisher-0.safetensors", "fisher-1.safetensors")


def kzoo(*arguments: object) -> None:
    from kzoo.cli.main import run

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["kzoo", *map(str, arguments)])
        assert run() == 0, arguments


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with two networks of one start, under licenses of their own, and what was fused of them.

    That is ``tester/average``, and ``tester/weighed`` with files that were measured.
    """
    folder = tmp_path_factory.mktemp("family")
    target = {"model": "small:vgg-1x8", "classes": 10, "in_chans": 1, "seed": 4}
    with Hub(folder / "hub") as hub, pytest.MonkeyPatch.context() as patched:
        patch(patched, hub, folder / "home", "hf_write")
        patched.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patched.delenv("KZOO_REGISTRY", raising=False)
        patched.chdir(folder)
        for seed, (name, license) in enumerate(LICENSES.items()):
            recipe: dict[str, Any] = {"target": target, "method": "random", "threads": 1}
            if seed:
                training = {"epochs": 1, "lr": 0.005, "batch_size": 50, "seed": seed, "threads": 1}
                recipe |= {"data": IMAGES, "training": training}
            Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))
            kzoo("run", f"{name}.yaml", "--out", name)
            kzoo("publish", name, "--repo", f"tester/{name}", "--public", "--license", license)
        pair = ("fuse", "hf:tester/one", "hf:tester/two")
        kzoo(*pair, "--out", "average")
        measured = ("--method", "nonessential", "--data", "digits", "--images", 20, "--image-size", 16)
        kzoo(*pair, *measured, "--out", "weighed")
        for name in ("average", "weighed"):
            kzoo("publish", name, "--repo", f"tester/{name}")
        yield hub


def again(hub: Hub, name: str, files: dict[str, bytes | File | None]) -> str:
    """A page like that of ``tester/weighed`` with other files, under another name."""
    there = hub.head("tester/weighed").files
    hub.add_repo(f"tester/{name}", {path: there[path].read() for path in there} | files, private=True)
    return f"tester/{name}"


def recipe_of(hub: Hub, name: str) -> dict[str, Any]:
    found = yaml.safe_load(hub.read(name, "recipe.yaml"))
    assert isinstance(found, dict)
    return found


def card_of(hub: Hub, name: str) -> tuple[dict[str, Any], str]:
    _, head, text = hub.read(name, "README.md").decode().split("---\n", 2)
    return yaml.safe_load(head), text


def test_every_method_that_fuses_is_described() -> None:
    assert {name for name, method in METHODS.items() if method.fuses} == set(FUSION)


def test_both_parents_stand_at_their_commits_under_their_joint_license(family: Hub, command: Any) -> None:
    commits = [family.head(f"tester/{name}").oid for name in ("one", "two")]
    sources = recipe_of(family, "tester/average")["sources"]
    assert [each["path"] for each in sources] == [
        f"hf:tester/{name}@{commit}" for name, commit in zip(("one", "two"), commits, strict=True)
    ]
    head, text = card_of(family, "tester/average")
    assert (head["base_model"], head["base_model_relation"]) == (["tester/one", "tester/two"], "merge")
    assert (head["tags"], head["license"]) == (["kzoo", "kzoo-weight_sum", "merge"], "cc-by-nc-4.0")
    for name, commit, source in zip(("one", "two"), commits, sources, strict=True):
        row = f"| [tester/{name}](https://huggingface.co/tester/{name}) | [`{commit[:12]}`]"
        assert row in text and f"| `{source['sha256']}` | {LICENSES[name]} |" in text
    assert "tester/one (model) brings apache-2.0" in text and "tester/two (model) brings cc-by-nc-4.0" in text
    assert "fused without training by weight summation ([arXiv 1809.09399]" in text
    assert "each weight is the mean of the sources'" in text and "reconstruction from the abstract" in text
    assert "no better than chance" in text and "seed 0 for fresh weights" not in text
    assert "carried over" not in text and "![" not in text and "began at random" not in text
    assert "kzoo rebuild tester/average" in text and "leontev2020noniterative" in text
    assert "quantile" not in text and "restarts" not in text, "what decides nothing is not told"


def test_what_was_measured_lies_on_the_page(family: Hub, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = family.head("tester/weighed").files
    assert len(family.repo("tester/weighed").commits) == 2, "the empty repository, then all of it"
    assert {name for name in files if name.startswith("fisher")} == set(FISHERS)
    inputs = recipe_of(family, "tester/weighed")["inputs"]
    assert [each["path"] for each in inputs] == list(FISHERS)
    head, text = card_of(family, "tester/weighed")
    assert head["license"] == "cc-by-nc-4.0" and "Fisher merging" in text and "20 of `digits`" in text
    for name, each in zip(FISHERS, inputs, strict=True):
        assert hashlib.sha256(files[name].read()).hexdigest() == each["sha256"]
        assert (
            f"| `{name}` | Fisher information (how important each weight is) of `tester/" in text
            and each["sha256"] in text
        )
    folder = Path(os.environ["XDG_CONFIG_HOME"]).parent
    monkeypatch.chdir(folder)
    code, out, said = command("publish", "weighed", "--repo", "tester/weighed", "--json")
    assert (code, json.loads(out)["changed"]) == (0, False), said
    code, out, said = command("publish", "weighed", "--repo", "tester/dry", "--dry-run", "--force")
    assert (code, "tester/dry would get 7 files" in out, "tester/dry" in family.store.repos) == (0, True, False), said
    for name in files.keys() - {".gitattributes", "README.md"}:
        assert (folder / "weighed-page" / name).read_bytes() == files[name].read(), name
    # Files of a model that was there before would be taken for this one's.
    assert command("publish", "average", "--repo", again(family, "other", {}), "--yes")[0] == 0
    assert not {name for name in family.head("tester/other").files if name.startswith("fisher")}


def test_a_stranger_makes_them_again_without_the_images(family: Hub, tmp_path: Path) -> None:
    """In one process: what it costs is the imports."""
    theirs = environment(family, tmp_path / "home", "hf_write") | {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    theirs |= {"KZOO_REGISTRY": "", "PYTHONHASHSEED": "7"}
    program = (
        "import sys\n"
        "from kzoo.cli.main import run\n"
        "def none(*_): raise AssertionError('images were asked for')\n"
        "import kzoo.surroundings\n"
        "kzoo.surroundings.load_data = none\n"
        "for name in ('average', 'weighed'):\n"
        "    sys.argv = ['kzoo', 'rebuild', f'tester/{name}', '--out', name, '--json']\n"
        "    assert run() == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=theirs, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"verdict": "identical"') == 2 and "MB that were measured of its sources" in done.stderr
    for name in ("average", "weighed"):
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        assert weights == family.read(f"tester/{name}", "model.safetensors")
    assert (tmp_path / "weighed" / FISHERS[1]).read_bytes() == family.read("tester/weighed", FISHERS[1])


def forged(content: bytes, **changes: Any) -> bytes:
    return save({**load(content), **changes}, metadata={"format": "pt"})


def fetched(log: Any) -> int:
    """How many weights or files that were measured were asked for."""
    return int(log.count(path="*safetensors*"))


def test_a_file_that_is_another_is_refused_before_anything_is_fetched(family: Hub, command: Any) -> None:
    other = forged(family.read("tester/weighed", FISHERS[0]), **{"classifier.2.bias": torch.ones(10).double()})
    name = again(family, "forged", {FISHERS[1]: other})
    with family.log.recording() as log:
        code, _, said = command("rebuild", name)
    wanted = f"{FISHERS[1]} has the sha256 {hashlib.sha256(other).hexdigest()}, but the recipe was made with"
    assert (code, wanted in said, fetched(log)) == (1, True, 0), said
    name = again(family, "lacking", {FISHERS[1]: None})
    with family.log.recording() as log:
        code, _, said = command("rebuild", name)
    assert (code, f"{FISHERS[1]} is not there" in said, fetched(log)) == (2, True, 0), said


def test_a_small_file_that_lies_in_git_itself_is_read_and_compared(family: Hub, command: Any) -> None:
    there = family.read("tester/weighed", FISHERS[1])
    name = again(family, "plain", {FISHERS[1]: File(there, lfs=False)})
    assert family.head(name).files[FISHERS[1]].lfs is False
    code, out, said = command("rebuild", name, "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "identical"), said
    other = forged(there, **{"classifier.2.bias": torch.ones(10).double()})
    name = again(family, "plain_forged", {FISHERS[1]: File(other, lfs=False)})
    code, _, said = command("rebuild", name)
    assert (code, "but the recipe was made with" in said) == (1, True), said


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"classifier.2.bias": torch.ones(10).double()}, 1, '"verdict": "different"'),
        ({"classifier.2.bias": torch.ones(11).double()}, 2, "classifier.2.bias is F64 11: expected a floating-point"),
        ({"classifier.2.bias": -torch.ones(10).double()}, 2, "values that no measurement gives"),
        ({"classifier.2.bias": torch.full((10,), torch.nan)}, 2, "values that no measurement gives"),
        ({"other": torch.ones(1)}, 2, "other is F32 1: expected no such tensor"),
    ],
    ids=["values", "shape", "negative", "nan", "unknown"],
)
def test_a_page_whose_recipe_was_forged_too_gives_another_model_or_none(
    family: Hub, command: Any, change: dict[str, Any], code: int, message: str
) -> None:
    other = forged(family.read("tester/weighed", FISHERS[1]), **change)
    recipe = recipe_of(family, "tester/weighed")
    recipe["inputs"][1]["sha256"] = hashlib.sha256(other).hexdigest()
    name = again(
        family, f"both{len(family.store.repos)}", {FISHERS[1]: other, "recipe.yaml": yaml.safe_dump(recipe).encode()}
    )
    found, out, said = command("rebuild", name, "--json")
    assert (found, message in out + said, "Traceback" in said) == (code, True, False), said


def inputs(**changes: Any) -> list[dict[str, Any]]:
    given = [{"kind": "fisher", "source": number, "path": name, "sha256": SHA} for number, name in enumerate(FISHERS)]
    return [given[0], given[1] | changes]


SOURCE = {"path": f"hf:tester/one@{'0' * 40}", "sha256": SHA}
HOSTILE = {
    "a file above": ("inputs", inputs(path="../fisher-1.safetensors")),
    "a file elsewhere": ("inputs", inputs(path="/etc/passwd")),
    "the weights": ("inputs", inputs(path="model.safetensors")),
    "the other file": ("inputs", inputs(path=FISHERS[0])),
    "another kind's file": ("inputs", inputs(path="gram-1.safetensors")),
    "no such source": ("inputs", inputs(source=2, path="fisher-2.safetensors")),
    "twice": ("inputs", [*inputs(), inputs()[1]]),
    "one only": ("inputs", inputs()[:1]),
    "none": ("inputs", []),
    "a start above": ("start", SOURCE | {"path": "../start"}),
    "a start that is code": ("start", SOURCE | {"path": "py:os:getcwd"}),
    "a start on a branch": ("start", SOURCE | {"path": "hf:tester/one@main"}),
    "images of a start": ("start", SOURCE | {"images": {"task": "imagefolder:/etc"}}),
    "images elsewhere": ("sources", {"images": {"task": "mnist", "root": "/"}}),
    "a folder of images": ("sources", {"images": {"task": "imagefolder:../.."}}),
    "images without end": ("sources", {"images": {"task": "digits", "size": 4096, "train": 10_000_000}}),
    "an image without end": ("sources", {"images": {"task": "digits", "size": 4096, "channels": 4096}}),
    "a network above": ("sources", {"path": "../one/model.safetensors"}),
    "networks without end": ("sources", [SOURCE] * 101),
    "training without end": ("comparison", {"joint": {"epochs": 50_000}}),
    "weights of no known network": ("target", {"model": "tensors"}),
    "a method that has no use for them": ("method", "dpiat"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_recipe_is_refused_before_anything_is_fetched(
    family: Hub, command: Any, tmp_path: Path, kind: str
) -> None:
    field, value = HOSTILE[kind]
    recipe = recipe_of(family, "tester/weighed")
    if field == "sources" and isinstance(value, dict):
        recipe["sources"][1] |= value
    else:
        recipe[field] = value
    name = again(family, f"hostile{len(family.store.repos)}", {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    with family.log.recording() as log:
        code, _, said = command("rebuild", name, "--out", tmp_path / "out")
    assert (code, said.count("Error: "), "Traceback" in said) == (2, 1, False), said
    assert ("inputs" if field == "method" else field) in said
    assert fetched(log) == 0 and not (tmp_path / "out").exists()


def test_a_file_of_ten_gigabytes_is_not_fetched(family: Hub, command: Any) -> None:
    name = again(family, "large", {FISHERS[1]: File(b"x", size=10**10, lfs=True)})
    with family.log.recording() as log:
        code, _, said = command("rebuild", name)
    assert (code, "10,000,000,000 bytes, more than the" in said, fetched(log)) == (2, True, 0), said


def test_images_that_nobody_has_are_no_obstacle_where_they_are_not_needed(family: Hub, command: Any) -> None:
    recipe = recipe_of(family, "tester/weighed")
    for source in recipe["sources"]:
        source["images"] = {"task": "imagefolder:mine", "size": 16, "channels": 1}
    name = again(family, "private", {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    code, out, said = command("rebuild", name, "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "identical"), said
    recipe["start"] = {"path": "mine.safetensors", "sha256": SHA}
    name = again(family, "spare", {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    code, out, said = command("rebuild", name, "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "identical"), said
    recipe["parameters"]["importance"] = "distance"
    name = again(family, "begun", {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    code, _, said = command("rebuild", name)
    assert (code, "start.path: 'mine.safetensors' is a file of its maker's" in said) == (2, True), said
    del recipe["start"]
    recipe["parameters"] |= {"align": "activations", "importance": "fisher"}
    name = again(family, "needed", {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    code, _, said = command("rebuild", name)
    assert (code, "sources.0.images.task: it needs images of its maker's" in said) == (2, True), said


@pytest.fixture
def moved(family: Hub, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """What both have learnt since their start, added to it: published as ``tester/moved``."""
    monkeypatch.chdir(tmp_path)
    if "tester/moved" not in family.store.repos:
        pair = ("fuse", "hf:tester/one", "hf:tester/two", "--variant", "delta_sum", "--start", "hf:tester/start")
        code, _, said = command(*pair, "--out", "moved")
        assert code == 0, said
        code, _, said = command("publish", "moved", "--repo", "tester/moved")
        assert code == 0, said
    return family


def test_the_start_is_named_fetched_and_shown_in_the_lineage(moved: Hub, command: Any, tmp_path: Path) -> None:
    head, text = card_of(moved, "tester/moved")
    assert head["base_model"] == ["tester/one", "tester/two", "tester/start"]
    start = moved.head("tester/start").oid
    assert f"[tester/start](https://huggingface.co/tester/start) (the start of all of them) | [`{start[:12]}`]" in text
    code, out, said = command("rebuild", "tester/moved", "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "identical"), said
    told = json.loads(command("lineage", "tester/moved", "--json")[1])
    assert (told["method"], told["problem"]) == ("weight_sum", None)
    assert [(one["model"], one["commit"], one["license"], one["start"], one["problem"]) for one in told["parents"]] == [
        (f"tester/{name}", moved.head(f"tester/{name}").oid, LICENSES[name], name == "start", None)
        for name in ("one", "two", "start")
    ]
    lines = command("lineage", "tester/moved")[1].splitlines()
    assert [line.split(" @ ")[0] for line in lines] == [
        "tester/moved", "├─ tester/one", "├─ tester/two", "└─ tester/start",
    ]  # fmt: skip
    assert f"@ {start[:12]} (start of the others, random, apache-2.0" in lines[3]
    mermaid = command("lineage", "tester/moved", "--mermaid")[1]
    assert mermaid.count(" --> ") == 3 and "start of the others" in mermaid
    assert command("lineage", "tester/moved", "--svg", tmp_path / "tree.svg")[0] == 0
    texts = [each.text for each in ElementTree.parse(tmp_path / "tree.svg").iter() if each.tag.endswith("}text")]
    assert f"tester/start @ {start[:12]}" in texts


def test_what_was_measured_beside_it_is_published_and_not_measured_again(
    family: Hub, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(family, "tester/average") | {"data": IMAGES}
    Path("tested.yaml").write_text(yaml.safe_dump(recipe))
    assert command("run", "tested.yaml", "--out", "tested")[0] == 0
    metrics = json.loads(Path("tested/metrics.json").read_text())
    accuracy = metrics["test"]["accuracy"]
    rows = {"fused": (accuracy, round(100 * accuracy)), "parent_1": (0.5, 50), "chance": (0.1, None)}
    shown = {name: {"accuracy": share, "correct": found, "images": 100} for name, (share, found) in rows.items()}
    Path("tested/metrics.json").write_text(json.dumps(metrics | {"comparison": {"rows": shown}}))
    code, _, said = command("publish", "tested", "--repo", "tester/tested")
    assert code == 0, said
    head, text = card_of(family, "tester/tested")
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == accuracy
    assert f"| **this model** | **{100 * accuracy:.1f} %** |" in text and "](comparison.svg)" in text
    assert "| `tester/one` alone | 50.0 % | 40.4 to 59.6 % |" in text
    assert family.read("tester/tested", "comparison.svg").startswith(b"<svg")
    recipe = recipe_of(family, "tester/tested") | {"comparison": {"joint": {"epochs": 3, "lr": 0.1}}}
    page = {name: blob.read() for name, blob in family.head("tester/tested").files.items()}
    family.add_repo("tester/compared", page | {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    code, out, said = command("rebuild", "tester/compared", "--json")
    assert (code, json.loads(out)["verdict"], "is not measured again" in said) == (0, "identical", True), said


_DIGITS = ("--data", "digits", "--images", 20, "--image-size", 16)


@pytest.mark.parametrize(
    ("method", "more", "files", "said"),
    [
        ("regmean", _DIGITS, ["gram-0.safetensors", "gram-1.safetensors"], "jin2023dataless"),
        ("layerwise", _DIGITS, [], "it is kzoo's own"),
        ("nonessential", (*_DIGITS, "--align", "weights"), list(FISHERS), "by weights that are alike"),
        (
            "nonessential",
            (*_DIGITS, "--heads", "joined", "--classes", "a,b,c,d,e,f,g,h,i,j", "--classes", "j,k,l,m,n,o,p,q,r,s"),
            list(FISHERS),
            "`tester/two` knows `j`, `k`",
        ),
        (
            "weight_sum",
            ("--align", "weights", "--norms", "fold", "--recalibrate", "digits"),
            [],
            "folded into the layers",
        ),
    ],
    ids=["regmean", "layerwise", "aligned", "joined", "folded"],
)
def test_every_method_is_published_and_made_again(
    family: Hub,
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    more: tuple[Any, ...],
    files: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"tester/{method}{len(family.store.repos)}"
    code, _, notes = command("fuse", "hf:tester/one", "hf:tester/two", "--method", method, *more, "--out", "made")
    assert code == 0, notes
    code, _, notes = command("publish", "made", "--repo", name)
    assert code == 0, notes
    assert [each for each in family.head(name).files if each.startswith(("fisher", "gram"))] == files
    assert said in card_of(family, name)[1]
    code, out, notes = command("rebuild", name, "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "identical"), notes


def test_licenses_that_contradict_each_other_block(
    family: Hub, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("fuse", "hf:tester/one", "hf:tester/gnu", "--out", "blocked")[0] == 0
    code, _, said = command("publish", "blocked", "--repo", "tester/blocked")
    assert (code, "tester/one" in said, "tester/gnu" in said) == (1, True, True), said
    assert "may not be published" in said and "tester/blocked" not in family.store.repos


def test_weights_of_a_network_that_kzoo_does_not_know_are_left_to_their_maker(command: Any, tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / f"{name}.safetensors").write_bytes(save({"layers.0.weight": torch.full((3, 3), value)}))
    sources = (tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    code, _, said = command("fuse", *sources, "--out", tmp_path / "out")
    assert code == 0, said
    code, _, said = command("publish", tmp_path / "out", "--repo", "tester/unknown", "--dry-run")
    assert (code, said.count("Error: "), "a network that kzoo does not know" in said) == (2, 1, True), said


def test_files_that_changed_since_are_not_published(
    family: Hub, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("rebuild", "tester/weighed", "--out", "mine")[0] == 0
    other = forged(Path("mine", FISHERS[0]).read_bytes(), extra=torch.ones(1))
    Path("mine", FISHERS[0]).write_bytes(other)
    code, _, said = command("publish", "mine", "--repo", "tester/mine")
    assert (code, "but the recipe was made with" in said) == (1, True), said
    Path("mine", FISHERS[0]).unlink()
    code, _, said = command("publish", "mine", "--repo", "tester/mine")
    assert (code, f"has no {FISHERS[0]}, which its recipe.yaml needs" in said) == (2, True), said
    assert "tester/mine" not in family.store.repos

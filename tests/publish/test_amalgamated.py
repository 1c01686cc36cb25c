"""A student's card says which teacher knew what; it is published with its teachers at their commits, and taught again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kzoo.errors import InputError
from kzoo.methods.amalgamation.parameters import AMALGAMATION
from kzoo.publish.card import card_text
from kzoo.publish.data_licenses import data_part
from kzoo.publish.facts import read_facts
from kzoo.publish.papers import METHODS
from kzoo.publish.picture import comparison_svg
from kzoo.publish.rules import card_faults
from kzoo.publish.trust import obstacles
from kzoo.recipe import Recipe
from tests.conftest import Command
from tests.hub.client import patch
from tests.hub.server import Hub
from tests.publish.folders import COMMIT, DATA, TEST, TRAINING, front_matter, model_folder
from tests.publish.test_card import section
from tests.publish.test_fused import card_of, kzoo, recipe_of

KNOWN = (list("abcdefghijklmn"), list("klmnopqrstuvwxyz"))
TEACHING: dict[str, Any] = {
    "joint": 450 / 1040,
    "concatenated": {"probability": 520 / 1040, "logit": 468 / 1040},
    "oracle": 780 / 1040,
    "tasks": [
        {"images": 560, "joint": 280 / 560, "own": 420 / 560, "teacher_own": 350 / 560},
        {"images": 640, "joint": 160 / 640, "own": 320 / 640, "teacher_own": 352 / 640},
    ],
}  # fmt: skip


def student(folder: Path, teaching: dict[str, Any] | None = TEACHING, method: str = "cfl", **recipe: Any) -> Path:
    """A folder of a student of two teachers, as kzoo run writes it."""
    paths = (f"hf:a/one@{COMMIT}", f"hf:a/two@{COMMIT}")
    sources = [
        {"path": path, "sha256": digit * 64, "classes": known}
        for path, digit, known in zip(paths, "12", KNOWN, strict=True)
    ]
    model_folder(folder, paths, method, TEST, {"sources": sources, "parameters": {}, **recipe})
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | ({"amalgamation": teaching} if teaching else {})))
    return folder


def text_of(folder: Path) -> str:
    text = card_text(read_facts(folder, "tester/student"))
    assert card_faults(text) == [] and "\n\n\n" not in text
    return text


def test_every_method_of_amalgamation_is_described() -> None:
    assert set(AMALGAMATION) <= set(METHODS)


def test_the_card_says_which_teacher_knew_what_and_who_is_right_there(tmp_path: Path) -> None:
    text = text_of(student(tmp_path / "x"))
    assert [row for row in section(text, "Results").splitlines() if row.startswith("|")] == [
        "| network | accuracy | 95 % interval |",
        "| --- | --- | --- |",
        "| **this model** | **43.3 %** | 40.3 to 46.3 % |",
        "| the teachers side by side (probabilities) | 50.0 % | 47.0 to 53.0 % |",
        "| the teachers side by side (logits) | 45.0 % | 42.0 to 48.0 % |",
        "| for each image, a teacher that knows its class | 75.0 % | 72.3 to 77.5 % |",
        "| teacher | knows | images | the teacher | this model among these classes | this model among all |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| `a/one` | {', '.join(f'`{name}`' for name in KNOWN[0])} | 560 "
        "| 62.5 % (58.4 to 66.4 %) | 75.0 % (71.3 to 78.4 %) | 50.0 % (45.9 to 54.1 %) |",
        f"| `a/two` | {', '.join(f'`{name}`' for name in KNOWN[1])} | 640 "
        "| 55.0 % (51.1 to 58.8 %) | 50.0 % (46.1 to 53.9 %) | 25.0 % (21.8 to 28.5 %) |",
    ]
    limits = section(text, "Limits")
    assert "these teachers are better: `a/two` by 5.0 points." in limits and "`a/one` by" not in limits
    assert "side by side are right more often (50.0 %)" in limits
    head = front_matter(text)
    assert (head["base_model"], head["base_model_relation"]) == (["a/one", "a/two"], "merge")
    first = text.split("## ")[0]
    assert "it learned from images of `glyphs/lower` without their labels, beginning with random weights" in first
    assert "50.0 % by probabilities and 45.0 % by logits" in first and "Its weights come from" not in text
    assert "luo2019knowledge" in text or "1906.10546" in section(text, "Citation")


def test_a_student_as_good_as_its_teachers_is_not_said_to_be_worse(tmp_path: Path) -> None:
    even = TEACHING | {"concatenated": {"probability": 450 / 1040, "logit": 0.0}}
    even["tasks"] = [task | {"own": task["teacher_own"]} for task in TEACHING["tasks"]]
    limits = section(text_of(student(tmp_path / "x", even)), "Limits")
    assert "more often" not in limits and "are better" not in limits and "All that it learned" in limits


def test_how_it_was_taught(tmp_path: Path) -> None:
    def made(name: str, method: str = "cfl", **recipe: Any) -> str:
        return section(text_of(student(tmp_path / name, None, method, **recipe)), "How it was made")

    full = made("a")
    assert "`a/two` knows `k`, `l`" in full, "where nothing was measured it is told here"
    assert "the student's are to be distributed as each teacher's, and each teacher's are rebuilt" in full
    assert "of a class that several know, probabilities are added" in full and "temperature" not in full
    plain = made("b", "kd", parameters={"temperature": 2.0, "calibrate": "scale", "overlap": "max", "cache": 1.0})
    assert "Common features" not in plain and "Parameters" not in plain and "soft answers" in plain
    assert "brought to one spread; at a temperature of 2.0; of a class that several know, the highest" in plain
    alone = made("c", parameters={"parts": "mmd", "mmd_weight": 0.5, "reconstruction_weight": 3.0, "sigmas": [1.0]})
    assert "`mmd_weight: 0.5`" in alone and "`sigmas: [1.0]`" in alone and "reconstruction_weight" not in alone
    start = {"path": f"hf:a/start@{COMMIT}", "sha256": "3" * 64}
    began = made("d", start=start)
    assert "(what the student began with)" in began and "**Start:** the weights of `a/start`." in began


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"oracle": 0.5001}, "amalgamation.oracle: 0.5001 is no share of 1,040 images"),
        ({"tasks": TEACHING["tasks"][:1]}, "1 tasks are not those of 2 teachers"),
        ({"concatenated": {"logit": 0.5}}, "probability: is missing"),
        ({"tasks": [TEACHING["tasks"][0] | {"own": None}, TEACHING["tasks"][1]]}, "tasks.0: None is no share of 560"),
    ],
)
def test_metrics_that_are_wrong_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    folder = student(tmp_path / "x", TEACHING | changed)
    with pytest.raises(InputError, match=said):
        read_facts(folder)


def test_a_teacher_whose_classes_no_test_image_shows_has_no_figures(tmp_path: Path) -> None:
    empty = {"images": 0, "joint": None, "own": None, "teacher_own": None}
    text = text_of(student(tmp_path / "x", TEACHING | {"tasks": [TEACHING["tasks"][0], empty]}))
    assert "| 0 | - | - | - |" in text


def test_images_held_back_are_told(tmp_path: Path) -> None:
    images = {"task": "glyphs/lower", "train": 3840, "test": 1040, "size": 16, "channels": 1, "fingerprint": DATA}
    text = text_of(student(tmp_path / "x", data=images | {"validation": 400, "split": "validation"}))
    assert "Of 1,040 images held back it gets" in text and "1,040 test images" not in text
    assert "of which 400 were held back" in text and "a choice may have been made by them" in text
    assert front_matter(text)["model-index"][0]["results"][0]["dataset"]["split"] == "validation"
    plain = text_of(student(tmp_path / "y", data=images | {"validation": 400}))
    assert "Of 1,040 test images it gets" in plain and "of which 400 were held back" in plain


def test_the_picture_shows_it_beside_its_teachers(tmp_path: Path) -> None:
    facts = read_facts(student(tmp_path / "x"), "tester/student")
    svg = comparison_svg(facts)
    assert svg.index("this model") < svg.index("the teachers side by side (probabilities)") < svg.index("45.0 %")


def test_characters_that_a_task_draws_are_no_place_on_a_disk() -> None:
    data = {"task": "glyphs:abAB", "train": 100, "test": 50, "size": 16, "channels": 1}
    teachers = [{"path": f"hf:a/{name}@{COMMIT}", "sha256": "1" * 64, "classes": ["a"]} for name in ("one", "two")]
    recipe = Recipe.model_validate(
        {"sources": teachers, "target": {"model": "small:vgg-1x8"}, "method": "kd", "data": data, "training": TRAINING}
    )
    assert obstacles(recipe) == ()
    own = recipe.model_copy(update={"data": recipe.data and recipe.data.model_copy(update={"task": "imagefolder:a/b"})})
    assert obstacles(own) == ("it needs images of its maker's, which are not published",)
    assert data_part("glyphs:abAB").license == data_part("glyphs/upper").license != "unknown"


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with two teachers under licenses of their own, and their student that began with a third network."""
    folder = tmp_path_factory.mktemp("school")
    images = {"task": "digits", "train": 200, "test": 100, "size": 16, "channels": 1}
    training = {"epochs": 1, "lr": 0.005, "batch_size": 50, "threads": 1}
    with Hub(folder / "hub") as hub, pytest.MonkeyPatch.context() as patched:
        patch(patched, hub, folder / "home", "hf_write")
        patched.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patched.delenv("KZOO_REGISTRY", raising=False)
        patched.chdir(folder)
        for name, network, classes, license in (
            ("low", "small:vgg-1x8", "012345", "apache-2.0"),
            ("high", "small:mobilenet-1x8", "456789", "cc-by-nc-4.0"),
            ("start", "small:resnet-1x8", "0123456789", "mit"),
        ):
            recipe: dict[str, Any] = {
                "target": {"model": network, "classes": len(classes), "in_chans": 1, "seed": 4},
                "method": "random",
                "threads": 1,
                "data": images | {"classes": list(classes)},
                "training": training,
            }
            Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))
            kzoo("run", f"{name}.yaml", "--out", name)
            kzoo("publish", name, "--repo", f"tester/{name}", "--public", "--license", license)
        options = ("--data", "digits", "--images", 200, "--image-size", 16, "--epochs", 1, "-t", "threads=1")
        teachers = ("fuse", "hf:tester/low", "hf:tester/high", "--method", "cfl", "--student", "small:resnet-1x8")
        kzoo(*teachers, *options, "--start", "hf:tester/start", "--out", "student")
        kzoo("publish", "student", "--repo", "tester/student")
        yield hub


def test_a_student_is_published_and_taught_again_from_its_page(school: Hub, command: Command, tmp_path: Path) -> None:
    head, text = card_of(school, "tester/student")
    assert head["license"] == "cc-by-nc-4.0" and head["base_model_relation"] == "merge"
    commits = {name: school.head(f"tester/{name}").oid for name in ("low", "high", "start")}
    recipe = recipe_of(school, "tester/student")
    assert [source["path"] for source in recipe["sources"]] == [
        f"hf:tester/{name}@{commits[name]}" for name in ("low", "high")
    ]
    assert recipe["start"]["path"] == f"hf:tester/start@{commits['start']}"
    assert "tester/low (model) brings apache-2.0" in text and "digits (data) brings cc-by-4.0" in text
    assert "| [tester/low](https://huggingface.co/tester/low) | `0`" not in text and "| `tester/low` | `0`, `1`" in text
    assert "![" in text and "comparison.svg" in school.head("tester/student").files
    assert "kzoo rebuild tester/student" in text and "Only its maker" not in text
    code, out, _ = command("rebuild", "tester/student", "--out", tmp_path / "again", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["verdict"] == "identical" and found["sha256"]["published"] == found["sha256"]["rebuilt"]
    _, tree, _ = command("lineage", "tester/student")
    assert f"@ {commits['start'][:12]} (start of the student, random, mit" in tree
    assert "start of the others" not in tree

"""What the card of a fused network says, from a folder alone."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kzoo.errors import InputError
from kzoo.facade import open_zoo
from kzoo.publish.card import card_text
from kzoo.publish.facts import CardFacts, Images, Parent, read_facts
from kzoo.publish.fusion_facts import Compared, Fusion, Measured
from kzoo.publish.intervals import proportion
from kzoo.publish.picture import card_picture, comparison_svg
from kzoo.publish.rules import card_faults
from kzoo.publish.safe import line
from tests.publish.folders import COMMIT, IMAGES, SHA, TEST, model_folder
from tests.publish.test_card import HOSTILE, body, rendered, section, structure

SOURCES = (f"hf:a/one@{COMMIT}", f"hf:a/two@{COMMIT}")
RIGHT = {
    "fused": 450, "parent_1": 400, "parent_2": 390, "ensemble_probability": 500, "ensemble_logit": 510, "start": 40,
    "regmean": 505, "joint": 900,
}  # fmt: skip
UNLABELLED = {"task": "glyphs/lower", "train": 64, "size": 16, "channels": 1}


def rows(right: dict[str, int], images: int = 1040) -> dict[str, dict[str, Any]]:
    return {name: {"accuracy": found / images, "correct": found, "images": images} for name, found in right.items()}


def fused_folder(
    folder: Path,
    method: str = "nonessential",
    comparison: dict[str, Any] | None = None,
    test: dict[str, Any] | None = TEST,
    images: tuple[dict[str, Any] | None, dict[str, Any] | None] = (UNLABELLED, UNLABELLED),
    **recipe: Any,
) -> Path:
    """A folder of a network that was fused, and never trained since."""
    sources = [
        {"path": path, "sha256": digit * 64, **({"images": some} if some else {})}
        for path, digit, some in zip(SOURCES, "12", images, strict=True)
    ]
    named = {"sources": sources, "training": None, "data": IMAGES if test is not None else None, **recipe}
    model_folder(folder, SOURCES, method, test, named)
    if test is not None:
        metrics = {"test": test, "data": IMAGES["fingerprint"]}
        (folder / "metrics.json").write_text(json.dumps(metrics | ({"comparison": comparison} if comparison else {})))
    return folder


def text_of(folder: Path) -> str:
    text = card_text(read_facts(folder, "tester/fused"))
    assert card_faults(text) == [] and "\n\n\n" not in text
    return text


def test_what_was_measured_beside_it_is_its_table(tmp_path: Path) -> None:
    chance = {"chance": {"accuracy": 1 / 26, "correct": None, "images": 1040}}
    comparison = {"rows": rows(RIGHT) | chance, "left_out": {"odd_one": "nobody | made it"}}
    text = text_of(fused_folder(tmp_path / "x", comparison=comparison))
    assert [row for row in section(text, "Results").splitlines() if row.startswith("|")] == [
        "| network | accuracy | 95 % interval |",
        "| --- | --- | --- |",
        "| **this model** | **43.3 %** | 40.3 to 46.3 % |",
        "| `a/one` alone | 38.5 % | 35.6 to 41.5 % |",
        "| `a/two` alone | 37.5 % | 34.6 to 40.5 % |",
        "| ensemble of the sources (mean probability) | 48.1 % | 45.1 to 51.1 % |",
        "| ensemble of the sources (mean logit) | 49.0 % | 46.0 to 52.1 % |",
        "| the start of all sources | 3.8 % | 2.8 to 5.2 % |",
        "| RegMean of the same sources | 48.6 % | 45.5 to 51.6 % |",
        "| one network trained on all data: the ceiling | 86.5 % | 84.3 to 88.5 % |",
        "| chance | 3.8 % | - |",
    ]
    assert r"Not measured: odd one (nobody \| made it)." in section(text, "Results")
    first = body(text).split("## ")[0]
    assert (
        "its sources alone get 38.5 % and 37.5 %; their ensemble 48.1 % (mean probability) or 49.0 % (mean logit)"
        in first
    )
    assert "chance is 3.8 %." in first
    assert "jin2023dataless" in text and "leontev2020noniterative" in text, "both papers were used"
    assert "was not measured beside it" not in text and "has lost more" not in text
    better = {"rows": rows({"fused": 450, "parent_1": 400, "parent_2": 460})}
    limits = section(text_of(fused_folder(tmp_path / "y", comparison=better)), "Limits")
    assert "On the test images `a/two` alone is better" in limits and "was not measured beside it" in limits


def test_the_picture_shows_the_same_figures(tmp_path: Path) -> None:
    chance = {"chance": {"accuracy": 0.25, "correct": None, "images": 1040}}
    folder = fused_folder(tmp_path / "x", comparison={"rows": rows({"fused": 520, "parent_1": 260}) | chance})
    facts = read_facts(folder, "tester/fused")
    found = card_picture(folder, facts, open_zoo)
    assert found is not None and found == card_picture(folder, facts, open_zoo)
    assert found[0] == "comparison.svg"
    root = ElementTree.fromstring(found[1])
    words = [each.text for each in root.iter() if each.tag.endswith("}text")]
    assert [words[place] for place in (0, 6, 7, 8, 9, 10, 11)] == [
        "Accuracy of fused and of what was measured beside it, with 95 % intervals",
        *("this model", "50.0 %", "a/one alone", "25.0 %", "chance", "25.0 %"),
    ]
    points = [float(each.attrib["cx"]) for each in root.iter() if each.tag.endswith("}circle")]
    assert points[1] == points[2] < points[0], "as far to the right as the share is large"
    assert sum(each.attrib.get("class", "").startswith("range") for each in root.iter()) == 2, "chance has no interval"
    card = card_text(dataclasses.replace(facts, picture=found[0]))
    assert section(card, "Results").count("](comparison.svg)") == 1 and card.count("![") == 1
    plain = fused_folder(tmp_path / "y")
    assert card_picture(plain, read_facts(plain), open_zoo) is None


def test_other_names_of_rows_are_understood_or_shown(tmp_path: Path) -> None:
    names = {"fused": 450, "parent 1": 400, "ensemble (logit)": 500, "joint training": 900, "something else": 1}
    found = rows(names) | rows({"parent 2": 20}, 40)
    lines = section(text_of(fused_folder(tmp_path / "x", comparison={"rows": found})), "Results").splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in lines if row.startswith("|")][2:] == [
        "**this model**",
        "`a/one` alone",
        "ensemble of the sources (mean logit)",
        "one network trained on all data: the ceiling",
        "something else",
        "`a/two` alone",
    ]
    assert "| `a/two` alone | 50.0 % | 35.2 to 64.8 % | 40 |" in lines


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        ({"rows": {"fused": {"accuracy": 0.5, "correct": 1, "images": 10}}}, "0.5 is not 1 of 10 images"),
        ({"rows": {"fused": {"accuracy": 2.0, "correct": 20, "images": 10}}}, "accuracy"),
        ({"rows": {"fused": {"accuracy": 0.5}}}, "images: is missing"),
        ({"rows": []}, "rows: expected"),
    ],
)
def test_a_comparison_that_is_wrong_is_refused(tmp_path: Path, comparison: dict[str, Any], said: str) -> None:
    folder = fused_folder(tmp_path / "x", comparison=comparison)
    with pytest.raises(InputError, match=said):
        read_facts(folder)


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("weight_sum", {"variant": "average"}, "`average`: each weight is the mean of the sources'."),
        ("weight_sum", {"variant": "scaled_delta", "scale": 0.3}, "since the common start is added to it, times 0.3."),
        ("nonessential", {"variant": "threshold", "quantile": 0.6}, "a share of 0.6 of them"),
        ("nonessential", {"variant": "winner", "importance": "magnitude"}, "its size; no data is needed for that."),
        ("nonessential", {"variant": "tempered", "power": 0.25}, "to the power of 0.25."),
        ("regmean", {"scale": 0.9}, "as a baseline. Parameters: `scale: 0.9`."),
        ("layerwise", {"ridge": 0.0001}, "it is kzoo's own. Parameters: `ridge: 0.0001`."),
        ("weight_sum", {"align": "weights"}, "into the order of the first one's, by weights that are alike."),
        ("layerwise", {"norms": "fold"}, "folded into the layers before it"),
    ],
)
def test_how_it_was_fused(tmp_path: Path, method: str, parameters: dict[str, Any], said: str) -> None:
    text = text_of(fused_folder(tmp_path / "x", method, None, None, parameters=parameters))
    assert said in section(text, "How it was made")
    assert ("## Citation" in text) == (method != "layerwise"), "a method of kzoo's own cites nothing"
    assert "carried" not in text and "began at random" not in text


def test_limits_are_those_of_what_was_fused(tmp_path: Path) -> None:
    def limits(name: str, *arguments: Any, **recipe: Any) -> str:
        return section(text_of(fused_folder(tmp_path / name, *arguments, **recipe)), "Limits")

    halves = ({**UNLABELLED, "only": ["a", "b"]}, {**UNLABELLED, "only": ["c"]})
    plain = limits("a", "weight_sum")
    assert "were not aligned, and nothing says" in plain and "The ensemble of its sources" in plain
    assert "Statistics of batch normalisation are the sources'" in plain and "same classes" not in plain
    started = limits("b", "weight_sum", start={"path": f"hf:a/start@{COMMIT}", "sha256": SHA})
    assert "were not aligned" not in started
    apart = limits("c", images=halves, recalibrate=IMAGES)
    assert "have not seen the same classes" in apart and "fused one by one" in apart and "Statistics" not in apart
    fitted = limits("d", "regmean", None, None, images=halves)
    assert "fused one by one" not in fitted and "It was fitted to" in fitted and "no better than chance" in fitted
    made = section(text_of(tmp_path / "c"), "How it was made")
    assert "64 of `glyphs/lower` (only `a`, `b`) for `a/one`; 64 of `glyphs/lower` (only `c`) for `a/two`." in made
    assert made.count("Batch normalisation") == 1 and "statistics are measured anew on images of" in made


def test_what_each_output_stands_for(tmp_path: Path) -> None:
    folder = fused_folder(tmp_path / "x", "weight_sum", None, None, parameters={"heads": "joined"})
    recipe = (folder / "recipe.yaml").read_text()
    assert "classes: 26" in recipe
    known = (("a", "b"), ("b", "c"))
    facts = read_facts(folder)
    assert facts.fusion is not None
    facts = dataclasses.replace(facts, fusion=dataclasses.replace(facts.fusion, classes=known))
    assert facts.fusion is not None and facts.fusion.outputs == ("a", "b", "c")
    made = section(card_text(facts), "How it was made")
    assert (
        "with the classifier's rows of the sources that know it. `a/one` knows `a`, `b`; `a/two` knows `b`, `c`."
        in made
    )
    same = dataclasses.replace(facts, fusion=dataclasses.replace(facts.fusion, classes=(("a", "b"), ("a", "b"))))
    assert "all sources name the same 2 classes" in card_text(same)
    sources = [{"path": path, "sha256": SHA, "classes": ["x", "y"]} for path in SOURCES]
    named = fused_folder(tmp_path / "y", "weight_sum", None, None, sources=sources)
    assert "Its classes, in the order of its scores: `x`, `y`." in text_of(named)


def test_a_network_that_was_trained_since_is_told_as_that(tmp_path: Path) -> None:
    folder = fused_folder(tmp_path / "x", training={"epochs": 3, "lr": 0.1, "seed": 0})
    text = text_of(folder)
    assert "fused without training by" in text and "It was then trained on `glyphs/lower` for 3 epochs." in text
    assert "One training with one seed" in text and "Statistics of batch" not in text


def hostile(facts: CardFacts, text: str) -> CardFacts:
    """The facts with every string of a fusion replaced that can come from outside."""
    images = Images(text, text, text, 1, 1, 16, 1, 0, text, (text, text))
    fusion = Fusion(
        measured=(Measured(text, "fisher", 0, text, 1), Measured(text, text, 7, text, None)),
        images=(images, None),
        classes=((text, "a"), ("b", text)),
        compared=(Compared("fused", proportion(1, 2), 2), Compared(text or "x", proportion(1, 2), 3)),
        left_out={text: text},
        norms=True,
    )
    parent = Parent(text, text, "user/parent", COMMIT, text, text, None)
    chosen = {"variant": text, "importance": text, "align": text, "norms": text, "heads": text, text: text}
    return dataclasses.replace(
        facts, parents=(parent, parent), start=parent, fusion=fusion, method_parameters=chosen, labels=(text,)
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_tricks_come_out_harmless(tmp_path: Path, text: str) -> None:
    facts = read_facts(fused_folder(tmp_path / "x"), "tester/fused")
    honest, tricked = card_text(hostile(facts, "honest")), card_text(hostile(facts, text))
    wanted, found = structure(honest), structure(tricked)
    if line(text):
        assert found[0] == wanted[0]
    assert found[1] <= wanted[1] and found[2] == set()
    svg = comparison_svg(hostile(facts, text))
    assert {each.tag.rpartition("}")[2] for each in ElementTree.fromstring(svg).iter()} == {
        *("svg", "title", "style", "rect", "path", "text", "circle")
    }
    for token in rendered(tricked):
        assert not (token.type == "text" and re.search(r"://|www\.|@evil", token.content)), token.content

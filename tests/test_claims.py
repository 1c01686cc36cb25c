"""Claims: read with every fault at its place, and judged by intervals."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from kzoo.claims import VERDICTS, Claim, Comparison, Interval, MetricKind, read_claims, verdict
from kzoo.errors import InputError

TEXT = """\
paper: DPIAT
title: Breaking the Architecture Barrier
link: https://arxiv.org/abs/2212.13970
known: >-
  The text was not at hand
  beyond its abstract.
claims:
  - id: faster-start
    headline: true
    statement: Accuracy after 4 epochs is 1.6 times that of a random start.
    where: abstract
    setting: scaled
    profiles: [default, gpu]
    metric: ratio
    of: {arm: paper, against: random, epoch: 4}
    comparison: at least
    threshold: 1.6
    unit: ratio
    seeds: 5
  - id: no-harm
    statement: The final accuracy is not below that of a random start.
    where: section 4
    setting: paper
    profiles: [paper]
    metric: points
    comparison: above
    threshold: -1
    unit: points
    seeds: 3
    needs: ImageNet, and a GPU
    note: By one point at most.
"""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Ratio(_Strict):
    arm: str
    against: str = "random"
    epoch: int


class _Points(_Strict):
    margin: float = 0.0


class _Nothing(_Strict):
    pass


METRICS = {
    "ratio": MetricKind("ratio", _Ratio),
    "points": MetricKind("points", _Points),
    "pairs": MetricKind("points", _Nothing),
}


def fault(tmp_path: Path, content: str | bytes) -> str:
    """The sentence on a file, from its line on."""
    path = tmp_path / "claims.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as raised:
        read_claims(path, METRICS)
    assert str(raised.value).startswith(str(path))
    return str(raised.value).removeprefix(str(path)).removeprefix(":")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(TEXT)
    claims = read_claims(path, METRICS)
    assert (claims.paper, claims.known) == ("DPIAT", "The text was not at hand beyond its abstract.")
    first, second = claims.claims
    assert (first.headline, first.of, first.threshold) == (True, {"arm": "paper", "against": "random", "epoch": 4}, 1.6)
    assert (second.headline, second.of, second.threshold, second.wanted) == (False, {}, -1.0, "above -1 points")
    assert second.needs == "ImageNet, and a GPU"


def test_what_is_read_can_be_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("\ufeff" + TEXT.replace("metric: points", "metric: points\n    of: {margin: 1e-3}"))
    claims = read_claims(path, METRICS)
    assert claims.claims[1].of == {"margin": 0.001}
    path.write_text(yaml.safe_dump(claims.model_dump(exclude_none=True), sort_keys=False))
    assert read_claims(path, METRICS) == claims


def test_the_example_of_the_docs_is_read_and_its_faults_are_as_shown(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "claims.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    path = tmp_path / "claims.yaml"
    path.write_text(example)
    assert read_claims(path, METRICS).claims[0].of["epoch"] == 50
    for old, new in (("unit: ratio", "unit: points"), ("epoch: 50", "epoc: 50")):
        assert f"claims.yaml:{fault(tmp_path, example.replace(old, new))}\n" in page


def test_a_number_without_a_dot_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(TEXT.replace("threshold: 1.6", "threshold: 1e-3").replace("paper: DPIAT", "paper: 1e-3"))
    claims = read_claims(path, METRICS)
    assert (claims.paper, claims.claims[0].threshold) == ("1e-3", 0.001)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("threshold: 1.6", "threshold: '1.6'", "17: claims.0.threshold: expected a number, found '1.6'"),
        ("threshold: 1.6", "threshold: .nan", "17: claims.0.threshold: expected a finite number, found NaN"),
        ("threshold: 1.6", "threshold: 1e999", "17: claims.0.threshold: expected a finite number, found Infinity"),
        (
            "    threshold: 1.6\n",
            "",
            "8: claims.0.threshold: is missing: add it (The number that the metric is compared with)",
        ),
        (
            "    unit: points\n",
            "",
            "20: claims.1.unit: is missing: add it (Of the threshold, which must be the metric's); "
            "a threshold means nothing without it, and the metric is in 'points'",
        ),
        ("unit: ratio", "unit: points", "18: claims.0.unit: expected 'ratio', the unit of the metric ratio, found 'points'"),
        ("metric: ratio", "metric: ratoi", "14: claims.0.metric: 'ratoi' is no metric of the study: expected one of ratio, points, pairs"),
        (
            "comparison: at least",
            "comparison: atleast",
            "16: claims.0.comparison: expected 'at least', 'above', 'at most' or 'below', found 'atleast'",
        ),
        (
            "comparison: above",
            "comparision: above",
            "26: claims.1.comparision: is no field of a paper's claims; nearest: comparison, metric, setting",
        ),
        ("epoch: 4", "epoc: 4", "15: claims.0.of.epoc: is no field of the metric ratio; nearest: epoch, arm, against"),
        ("epoch: 4", "epoch: 4.5", "15: claims.0.of.epoch: expected a whole number, found 4.5"),
        ("arm: paper, ", "", "15: claims.0.of.arm: is missing: add it"),
        ("of: {arm: paper, against: random, epoch: 4}", "of: {}", "15: claims.0.of.arm: is missing: add it"),
        ("    of: {arm: paper, against: random, epoch: 4}\n", "", "8: claims.0.of.arm: is missing: add it"),
        ("of: {arm: paper, against: random, epoch: 4}", "of: 4", "15: claims.0.of: expected fields with values, found 4"),
        ("metric: points", "metric: pairs\n    of: {x: 1}", "26: claims.1.of.x: is no field of the metric pairs; it has none, so remove it"),
        ("id: no-harm", "id: faster-start", "20: claims.1.id: 'faster-start' is the id of line 8 too: give it another"),
        (
            "id: no-harm",
            "id: No harm",
            "20: claims.1.id: expected text of the form ^[a-z0-9-]+$ "
            "(Its name among the paper's claims: a-z, 0-9 and -), found 'No harm'",
        ),
        ("seeds: 3", "seeds: 0", "29: claims.1.seeds: expected a number of 1 or more, found 0"),
        ("seeds: 3", "seeds: true", "29: claims.1.seeds: expected a whole number, found true"),
        ("headline: true", "headline: 1", "9: claims.0.headline: expected true or false, found 1"),
        ("[default, gpu]", "['de fault']", "13: claims.0.profiles.0: expected text of the form ^[A-Za-z0-9][A-Za-z0-9_.-]*$, found 'de fault'"),
        ("[default, gpu]", "[]", "13: claims.0.profiles: expected a list of 1 or more, found []"),
        ("[default, gpu]", "[gpu, gpu]", "13: claims.0.profiles: names a profile twice: keep one of them"),
        ("setting: paper", "setting: papers", "23: claims.1.setting: expected 'paper' or 'scaled', found 'papers'"),
        ("title: Breaking the Architecture Barrier", "title: 2022-12-28", "2: title: is a date, not plain text: write it in quotes"),
        ("title: Breaking the Architecture Barrier", "title: ''", "2: title: expected text of 1 or more characters, found ''"),
        ("paper: DPIAT", "paper: &a DPIAT", "1: paper: has the anchor &a: remove it"),
        ("paper: DPIAT", "paper: !x DPIAT", "1: paper: has the tag !x: remove it, only plain data is read"),
        ("link: https:", "link: javascript:", "3: link: expected text of the form ^https?://\\S+$ (Where the paper can be read), found 'javascript://arxiv.org/abs/2212.13970'"),
        ("known:", "knwon:", "4: knwon: is no field of a paper's claims; nearest: known, link, title"),
        ("paper: DPIAT\n", "", "1: paper: is missing: add it (A short name for people)"),
        ("paper: DPIAT", "paper: A\npaper: B", "2: paper: repeats the field of line 1: remove one of them"),
    ],
)  # fmt: skip
def test_a_fault_names_line_field_and_what_was_expected(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in TEXT
    assert fault(tmp_path, TEXT.replace(old, new, 1)) == sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "1: is empty: expected the fields of a paper's claims"),
        (b"- 1\n", "1: expected the fields of a paper's claims, found [1]"),
        (b"paper: x\ntitle: \xff", "2: is not UTF-8 text: save it as UTF-8"),
        (b"paper: [", "1: is not valid YAML (did not find expected node content): correct that line"),
        (b"#" * 1_000_001, " has more than the 1,000,000 bytes that are read: give the right file"),
        (b"a: " + b"[" * 50, "1: a: is nested more than 20 levels deep: expected a few levels of plain data"),
        (b"claims: []\n", "1: claims: expected a list of 1 or more, found []"),
        (b"claims: {}\n", "1: claims: expected a list, found no fields"),
        (b"claims: [3]\n", "1: claims.0: expected fields with values, found 3"),
    ],
)
def test_the_whole_file_may_be_wrong(tmp_path: Path, content: bytes, sentence: str) -> None:
    whole = b"paper: x\ntitle: x\nlink: https://x\nknown: x\n"
    if content.startswith(b"claims"):
        content, sentence = whole + content, sentence.replace("1:", "5:", 1)
    assert fault(tmp_path, content) == sentence


def test_there_may_be_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"claims.yaml cannot be read \(No such file or directory\)"):
        read_claims(tmp_path / "claims.yaml", METRICS)


def claim(comparison: Comparison, threshold: float = 2.0) -> Claim:
    return Claim(
        id="x",
        statement="x",
        where="x",
        setting="scaled",
        profiles=["default"],
        metric="ratio",
        comparison=comparison,
        threshold=threshold,
        unit="ratio",
        seeds=1,
    )


YES, NO, OPEN, NOT_RUN = VERDICTS


@pytest.mark.parametrize(
    ("low", "high", "at_least", "above", "at_most", "below"),
    [
        # The threshold is 2.
        (2.5, 3.0, YES, YES, NO, NO),
        (2.0, 3.0, YES, OPEN, OPEN, NO),
        (1.5, 3.0, OPEN, OPEN, OPEN, OPEN),
        (1.0, 2.0, OPEN, NO, YES, OPEN),
        (1.0, 1.5, NO, NO, YES, YES),
        (2.0, 2.0, YES, NO, YES, NO),
        (None, None, OPEN, OPEN, OPEN, OPEN),
        (2.5, None, OPEN, OPEN, OPEN, OPEN),
    ],
)
def test_the_interval_decides(
    low: float | None, high: float | None, at_least: str, above: str, at_most: str, below: str
) -> None:
    expected = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    found = Interval(2.5, low, high)
    assert {name: verdict(claim(name), found) for name in OPPOSITE} == expected


def test_without_a_value_nothing_was_run() -> None:
    assert {verdict(claim(comparison), None) for comparison in get_args(Comparison)} == {NOT_RUN}


NUMBERS = st.floats(-1e6, 1e6)
OPPOSITE: dict[Comparison, Comparison] = {
    "at least": "below",
    "above": "at most",
    "at most": "above",
    "below": "at least",
}


@given(st.sampled_from(list(OPPOSITE)), NUMBERS, NUMBERS, NUMBERS, st.floats(0, 10), st.floats(0, 10))
def test_a_wider_interval_never_decides_and_opposites_never_agree(
    comparison: Comparison, threshold: float, one: float, other: float, down: float, up: float
) -> None:
    low, high = sorted((one, other))
    said = verdict(claim(comparison, threshold), Interval(one, low, high))
    opposite = verdict(claim(OPPOSITE[comparison], threshold), Interval(one, low, high))
    assert {said: opposite}.items() <= {YES: NO, NO: YES, OPEN: OPEN}.items()
    assert verdict(claim(comparison, threshold), Interval(one, low - down, high + up)) in (said, OPEN)

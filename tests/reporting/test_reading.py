"""Reports as data: verdicts and reasons, the digits shown, and faults of metrics.json."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kzoo.errors import InputError
from kzoo.reporting.data import json_text, to_data
from kzoo.reporting.reading import find_root, read_report
from kzoo.reporting.results import read_results
from kzoo.reporting.words import numbers
from tests.reporting.planted import EXPECTED, METRICS, about, claim, figure, found, plant, results, write


def test_every_claim_has_its_verdict(tmp_path: Path) -> None:
    report = read_report(plant(tmp_path), None, METRICS)
    verdicts = {paper.folder: {one.claim.id: one.verdict for one in paper.claims} for paper in report.papers}
    assert verdicts == EXPECTED
    assert report.counts == {"reproduced": 2, "not reproduced": 1, "inconclusive": 2, "not run": 3}
    # Headlines first, then as written.
    assert list(verdicts["alpha"]) == ["fast", "harmless", "alike", "same", "imagenet"]


def test_every_verdict_has_its_reason(tmp_path: Path) -> None:
    report = read_report(plant(tmp_path), None, METRICS)
    assert {one.claim.id: one.reason for one in report.claims} == {
        "fast": "the whole interval is at least 1.6",
        "harmless": "no part of the interval is above 1",
        "alike": "only a part of the interval is above 0.5",
        "same": "the whole interval is at most 0.001",
        "imagenet": "it is for the profile paper or gpu, and the results are of default; it needs ImageNet",
        "short": "a value without an interval decides nothing",
        "missing": "the results of the profile default do not have it",
        "later": "the pipeline has not been run; it needs a GPU",
    }


def test_papers_can_be_chosen(tmp_path: Path) -> None:
    plant(tmp_path)
    assert [paper.folder for paper in read_report(tmp_path, ["gamma", "alpha"], METRICS).papers] == ["alpha", "gamma"]
    with pytest.raises(InputError, match=r"'alhpa' is no paper in .*pipelines; nearest: alpha, "):
        read_report(tmp_path, ["alhpa"], METRICS)
    (tmp_path / "empty" / "pipelines").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no paper: expected a folder with a claims.yaml"):
        read_report(tmp_path / "empty", None, METRICS)


def test_the_folder_is_found_from_below(tmp_path: Path) -> None:
    plant(tmp_path)
    assert find_root(tmp_path / "pipelines" / "alpha").resolve() == tmp_path.resolve()
    assert find_root(tmp_path) == tmp_path


def test_the_data_has_the_promised_keys(tmp_path: Path) -> None:
    report = read_report(plant(tmp_path), None, METRICS)
    data = json.loads(json_text(report))
    assert data == to_data(report)
    assert list(data) == ["papers", "counts"]
    alpha = data["papers"][0]
    assert list(alpha) == ["paper", "name", "title", "link", "profile", "environment", "claims"]
    assert (alpha["paper"], alpha["name"], alpha["profile"]) == ("alpha", "Alpha", "default")
    assert alpha["environment"] == {"cpu": "AVX512", "threads": 2}
    assert alpha["claims"][1] == {
        "id": "harmless",
        "statement": "Statement of harmless.",
        "where": "section 8",
        "headline": True,
        "setting": "scaled",
        "verdict": "not reproduced",
        "value": 0.8,
        "low": 0.7,
        "high": 1.0,
        "unit": "ratio",
        "comparison": "above",
        "threshold": 1.0,
        "seeds": 5,
        "counts": {"pairs": 12, "seeds": 1},
        "file": "pipelines/alpha/out/train.json",
        "reason": "no part of the interval is above 1",
    }
    gamma = data["papers"][2]
    assert (gamma["profile"], gamma["environment"], gamma["claims"][0]["value"]) == (None, {}, None)


def test_the_example_of_the_docs_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
    path = tmp_path / "metrics.json"
    path.write_text(page.partition("```json\n")[2].partition("```")[0])
    assert read_results(path, "dpiat", {"faster-start": "ratio"}).figures[0].y.log


def test_digits_show_on_which_side_of_the_threshold_a_number_is() -> None:
    assert numbers([2.3, 1.9, 2.8], 1.6) == ["2.30", "1.90", "2.80"]
    assert numbers([1.7, 1.5996, 2.8], 1.6) == ["1.7000", "1.5996", "2.8000"]
    assert numbers([12345.6, 12000.0], 1.0) == ["12,346", "12,000"]
    assert numbers([0.0], 0.0) == ["0.00"]
    assert numbers([3.2e-9], 0.0) == ["3.20e-09"]


THOUSANDTHS = st.integers(-(10**9), 10**9).map(lambda number: number / 1000)


@given(st.lists(THOUSANDTHS, min_size=1, max_size=3), THOUSANDTHS)
def test_shown_numbers_stand_to_the_threshold_as_they_are(values: list[float], threshold: float) -> None:
    shown = [float(text.replace(",", "")) for text in numbers(values, threshold)]
    for compare in (operator.lt, operator.gt, operator.eq):
        assert [compare(one, threshold) for one in shown] == [compare(one, threshold) for one in values]


INSIDE = "expected a file seen from the repository's folder, such as pipelines/paper/out/train.json, found"


def one(**more: Any) -> dict[str, Any]:
    return {**found("alpha", 2.0, 1.0, 3.0), **more}


def bars(x: Any) -> dict[str, Any]:
    return figure("bars", series=[{"name": "a", "points": [{"x": x, "y": 1}]}])


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"claims": {"fast": one(value="2e0")}}, "claims.fast.value: expected a number, found '2e0'"),
        ({"claims": {"fast": one(value=float("nan"))}}, "claims.fast.value: expected a finite number, found NaN"),
        ({"claims": {"fast": one(high=float("inf"))}}, "claims.fast.high: expected a finite number, found Infinity"),
        ({"environment": {"x": [-float("inf")]}}, "environment.x.0: expected a finite number, found -Infinity"),
        ({"claims": {"fast": one(low=4.0)}}, "claims.fast: low is 4.0, which is above high, 3.0"),
        ({"claims": {"fast": one(unit="points")}}, "claims.fast.unit: expected 'ratio', the claim's unit, found 'points': run the pipeline again"),
        ({"claims": {"fats": one()}}, "claims.fats: is no claim of claims.yaml: run the pipeline again"),
        ({"claims": {"fast": {"value": 1.0}}}, "claims.fast.low: is missing: add it (The lower end of the 95 % interval, or null)"),
        ({"claims": {"fast": one(file="/etc/passwd")}}, f"claims.fast.file: {INSIDE} '/etc/passwd'"),
        ({"claims": {"fast": one(file="a/../../b")}}, f"claims.fast.file: {INSIDE} 'a/../../b'"),
        ({"claims": {"fast": one(file="javascript:x")}}, f"claims.fast.file: {INSIDE} 'javascript:x'"),
        ({"paper": "beta"}, "paper: expected 'alpha', the folder's name, found 'beta'"),
        ({"profile": "the big"}, "profile: expected text of the form ^[A-Za-z0-9][A-Za-z0-9_.-]*$, found 'the big'"),
        ({"figure": []}, "figure: is no field of a pipeline's metrics.json; nearest: figures, "),
        ({"figures": [figure("pie")]}, "figures.0.kind: expected 'scatter', 'lines' or 'bars', found 'pie'"),
        ({"figures": [bars(3)]}, "figures.0: the x of bars must be text, found 3.0"),
        ({"figures": [bars(None)]}, "figures.0.series.0.points.0.x: expected a number or text, found nothing"),
        ({"figures": [bars({"a": 1})]}, "figures.0.series.0.points.0.x: expected a number or text, found fields with values"),
        ({"figures": [figure("lines", y={"label": "y", "log": True}, lines=[{"at": -1, "axis": "y"}])]},
         "figures.0: a logarithmic y axis needs numbers above 0, and there are others"),
        ({"tables": [{"title": "t", "columns": ["a", "b"], "rows": [["1"]]}]}, "tables.0: has 2 columns, and a row of 1 cells"),
    ],
)  # fmt: skip
def test_a_fault_of_the_results_names_its_field(tmp_path: Path, metrics: dict[str, Any], sentence: str) -> None:
    write(tmp_path, "alpha", about("alpha", [claim("fast", "at least", 1.6)]), {**results("alpha", {}), **metrics})
    with pytest.raises(InputError) as raised:
        read_report(tmp_path, None, METRICS)
    path = tmp_path / "pipelines" / "alpha" / "out" / "metrics.json"
    assert str(raised.value).startswith(f"{path}: {sentence}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is not JSON"),
        (b'{"paper": "alpha", "pro', "it is not JSON"),
        (b"\xff", "it is not UTF-8 text"),
        (b"[1]", "it is not a JSON object"),
        (b'{"paper": 1, "paper": 2}', "it names 'paper' twice"),
        (
            b'{"environment": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}",
            "environment: is nested more than 20 levels deep",
        ),
        (b"[" * 100_000, "it nests more than such a file does"),
        (b" " * 20_000_001, "has more than the 20,000,000 bytes"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    plant(tmp_path)
    path = tmp_path / "pipelines" / "beta" / "out" / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_report(tmp_path, None, METRICS)
    assert str(raised.value).startswith(str(path))
    assert sentence in str(raised.value)


def test_a_faulty_claims_file_is_named_with_its_line(tmp_path: Path) -> None:
    plant(tmp_path)
    path = tmp_path / "pipelines" / "gamma" / "claims.yaml"
    path.write_text(path.read_text().replace("threshold: 0.5", "threshold: half"))
    with pytest.raises(InputError, match=r"gamma/claims.yaml:\d+: claims.0.threshold: expected a number, found 'half'"):
        read_report(tmp_path, None, METRICS)

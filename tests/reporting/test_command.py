"""``kzoo report``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.reporting.planted import METRICS, plant


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("kzoo.studies.metrics.metric_kinds", lambda: METRICS)
    monkeypatch.chdir(plant(tmp_path))
    return tmp_path


def test_it_prints_text_json_and_markdown(command: Command) -> None:
    code, out, err = command("report")
    assert (code, err) == (0, "")
    assert out.startswith("8 claims of 3 pipelines: 2 reproduced, ")
    code, out, _ = command("report", "beta", "--json")
    data = json.loads(out)
    assert (code, data["counts"]) == (0, {"reproduced": 0, "not reproduced": 0, "inconclusive": 1, "not run": 1})
    assert command("report", "alpha", "--markdown")[1].startswith("# What holds of the papers\n")


def test_it_writes_the_same_files_each_time(command: Command, planted: Path) -> None:
    contents = []
    for _ in range(2):
        code, out, err = command("report", "--write", "docs/report")
        assert (code, out.partition(" ")[0]) == (0, "8")
        assert err.splitlines() == [f"Written: docs/report/report.{kind}" for kind in ("md", "json", "html")]
        contents.append({path.name: path.read_bytes() for path in Path("docs/report").iterdir()})
    assert contents[0] == contents[1]
    assert contents[0].keys() == {"report.md", "report.json", "report.html"}
    assert b'href="../../pipelines/alpha/out/train.json"' in contents[0]["report.html"]
    assert not any(str(planted).encode() in content for content in contents[0].values())


def test_a_page_outside_the_repository_has_no_links_into_it(
    command: Command, planted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = tmp_path_factory.mktemp("elsewhere") / "page.html"
    assert command("report", "--html", page)[0] == 0
    assert 'train.json"' not in page.read_text()
    assert command("report", "--html", "page.html")[0] == 0
    assert 'href="pipelines/alpha/out/train.json"' in Path("page.html").read_text()


def test_the_folder_is_found_from_below_or_named(
    command: Command, planted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    above = command("report")[1]
    monkeypatch.chdir(planted / "pipelines" / "alpha")
    assert command("report")[1] == above
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert command("report", "--root", planted)[1] == above
    code, out, err = command("report")
    assert (code, out) == (2, "")
    assert err.startswith("Error: there is no folder pipelines here or above: ")


def test_bad_input_is_one_sentence_and_writes_nothing(command: Command, planted: Path) -> None:
    def refused(*arguments: object) -> str:
        code, out, err = command("report", *arguments, "--write", "made")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert not Path("made").exists()
        return err.removeprefix("Error: ").strip()

    assert refused("alpah").startswith("'alpah' is no paper in pipelines; nearest: alpha, ")
    assert refused("--json", "--markdown").startswith("--json and --markdown are two forms of one report")
    claims = Path("pipelines/beta/claims.yaml")
    good = claims.read_text()
    claims.write_text(good.replace("seeds: 5", "seeds: many", 1))
    assert refused() == "pipelines/beta/claims.yaml:16: claims.0.seeds: expected a whole number, found 'many'"
    claims.write_text(good)
    Path("pipelines/alpha/out/metrics.json").write_text('{"paper": "alpha"')
    assert refused().startswith("pipelines/alpha/out/metrics.json: it is not JSON")


def test_a_page_that_cannot_be_written_leaves_nothing(command: Command) -> None:
    Path("file").write_text("")
    code, out, err = command("report", "--html", "file/page.html")
    assert (code, out) == (3, "")
    assert "file/page.html cannot be written" in err


def test_without_jinja_there_is_still_text(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert command("report")[0] == 0
    code, _, err = command("report", "--html", "page.html")
    assert (code, "install it with pip install 'kzoo[pipelines]'" in err, Path("page.html").exists()) == (
        2,
        True,
        False,
    )

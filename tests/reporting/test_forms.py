"""The forms of a report: text, Markdown, and a page that is whole by itself."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kzoo.claims import VERDICTS
from kzoo.reporting.charts import chart, row_plot
from kzoo.reporting.markdown import markdown
from kzoo.reporting.page import html
from kzoo.reporting.reading import Report, read_report
from kzoo.reporting.results import Figure
from kzoo.reporting.scales import scale
from kzoo.reporting.text import text
from kzoo.reporting.words import overview
from tests.reporting.planted import EXPECTED, HOSTILE, METRICS, figure, plant

#: Elements without an end.
VOID = {"meta"}
#: Attributes whose value would be fetched.
LOADING = {"src", "srcset", "poster", "data", "action", "background", "xlink:href"}
SEEDED = """
import sys
from pathlib import Path
from kzoo.reporting.data import json_text
from kzoo.reporting.markdown import markdown
from kzoo.reporting.page import html
from kzoo.reporting.reading import read_report
from kzoo.reporting.text import text
from kzoo.reporting.words import overview
from tests.reporting.planted import METRICS
report = read_report(Path(sys.argv[1]), None, METRICS)
sys.stdout.write("".join(form(report) for form in (text, markdown, json_text, html)))
"""


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return read_report(plant(tmp_path), None, METRICS)


class Page(HTMLParser):
    """What a page holds: its rows' texts, its elements, and whether they close as they open."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, str] = {}
        self.open: list[str] = []
        self._row: str | None = None
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self._row = dict(attrs).get("id")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._row is not None:
            self.rows[self._row] = self.rows.get(self._row, "") + data


def test_the_page_has_every_claim(report: Report) -> None:
    page = Page(html(report))
    assert page.open == []
    for paper in report.papers:
        for result in paper.claims:
            row = page.rows[f"{paper.folder}/{result.claim.id}"]
            assert EXPECTED[paper.folder][result.claim.id] in row
            for shown in (
                result.claim.id,
                result.claim.statement,
                result.claim.where,
                result.claim.wanted,
                result.reason,
            ):
                assert shown in row
            if result.found is not None:
                assert result.found.file in row


def test_the_page_needs_nothing_else(report: Report) -> None:
    content = html(report, "../")
    page = Page(content)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for tag, attributes in page.elements:
        assert not attributes.keys() & LOADING
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert tag == "a"
    assert "url(" not in content
    assert "@import" not in content
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links == {
        *(f"https://arxiv.org/abs/{paper}" for paper in EXPECTED),
        *(f"#{paper.folder}" for paper in report.papers),
        *(f"#{paper}/{claim}" for paper, claim in (("alpha", "fast"), ("alpha", "harmless"), ("gamma", "later"))),
        "../pipelines/alpha/out/train.json",
        "../pipelines/beta/out/train.json",
    }


def test_links_within_the_page_lead_somewhere(report: Report) -> None:
    page = Page(html(report))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    assert {attributes["href"] for tag, attributes in page.elements if tag == "a" and attributes["href"].startswith("#")} <= {
        f"#{name}" for name in names
    }  # fmt: skip


def test_the_first_screen_tells_what_holds(report: Report) -> None:
    first = html(report).partition("<section")[0]
    tiles = re.findall(r"<li class=\"v\d\"><b>(\d)</b><span>. ([a-z ]+)</span></li>", first)
    assert tiles == [("2", "reproduced"), ("1", "not reproduced"), ("2", "inconclusive"), ("3", "not run")]
    assert re.findall(r'<a href="#([^"]+)">', first) == [
        *(paper.folder for paper in report.papers),
        *("alpha/fast", "alpha/harmless", "gamma/later"),
    ]


def test_a_row_for_each_paper_counts_its_verdicts(report: Report) -> None:
    rows = overview(report)
    assert [row[0] for row in rows] == [paper.about.paper for paper in report.papers]
    totals = [sum(int(row[place] or 0) for row in rows) for place in range(2, 6)]
    assert totals == list(report.counts.values())
    alpha = rows[0]
    found = [claim.verdict for claim in report.papers[0].claims]
    assert list(alpha[2:]) == [str(found.count(verdict) or "") for verdict in VERDICTS]
    assert f"| {' | '.join(alpha)} |" in markdown(report)
    assert re.search(r"\s+".join(filter(None, map(re.escape, alpha))), text(report))
    alone = dataclasses.replace(report, papers=report.papers[:1])
    assert "| paper | results |" not in markdown(alone)


def test_statements_stay_text(report: Report) -> None:
    content = html(report)
    assert HOSTILE not in content
    assert "<script" not in content
    assert HOSTILE in Page(content).rows["alpha/fast"]
    shown = markdown(report)
    assert "\\<script\\>alert('x')\\</script\\> \\& \"quotes\" \\| pipes \\`ticks\\` \\*stars\\*" in shown


def test_figures_and_tables_are_on_the_page(report: Report) -> None:
    content = html(report)
    assert content.count('<svg class="chart"') == 3
    assert content.count('class="band"') == 2
    assert content.count('<rect class="bar" x=') == 6
    assert "<td>&lt;b&gt;</td>" in content
    assert "AVX512" in content


def test_markdown_has_a_row_per_claim(report: Report) -> None:
    shown = markdown(report, "../")
    assert shown.startswith("# What holds of the papers\n\n8 claims of 3 pipelines: 2 reproduced, 1 not reproduced, ")
    assert (
        "| not reproduced | harmless: Statement of harmless. | 0.80 \\[0.70, 1.00\\] ratio | above 1 ratio | "
        "no part of the interval is above 1 | section 8 | scaled down | 5 | "
        "[pipelines/alpha/out/train.json](<../pipelines/alpha/out/train.json>), 12 pairs, 1 seed |"
    ) in shown
    for line in shown.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 7, 10)
    assert "](<" not in markdown(report)
    assert "| \\<b\\> | 1\\|2 |" in shown


def test_text_has_headlines_first(report: Report) -> None:
    shown = text(report)
    lines = shown.splitlines()
    assert (
        lines[0]
        == "8 claims of 3 pipelines: 2 reproduced, 1 not reproduced, 2 inconclusive, 3 not run; * is a headline."
    )
    assert "Alpha: On alpha (profile default)" in lines
    rows = [re.split(r"  +", line) for line in lines if re.search(r" (at least|above|at most|below) .* ratio ", line)]
    assert rows[:3] == [
        ["reproduced", "* fast", "2.30 [1.90, 2.80] ratio", "at least 1.6 ratio", "pipelines/alpha/out/train.json"],
        [
            "not reproduced",
            "* harmless",
            "0.80 [0.70, 1.00] ratio",
            "above 1 ratio",
            "pipelines/alpha/out/train.json",
        ],
        ["inconclusive", "alike", "0.6100 [0.4996, 0.7900] ratio", "above 0.5 ratio", "pipelines/alpha/out/train.json"],
    ]
    assert "the pipeline has not been run; it needs a gpu." in shown.lower().replace("\n  ", " ")


def test_the_same_results_give_the_same_bytes(report: Report, tmp_path: Path) -> None:
    said = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SEEDED, str(tmp_path)], capture_output=True, check=True, env=environment, timeout=60
        )
        said.append(done.stdout)
    assert said[0] == said[1]
    assert html(report).encode() in said[0]
    assert str(tmp_path).encode() not in said[0]


@pytest.mark.parametrize("kind", ["scatter", "lines", "bars"])
def test_a_figure_may_be_empty_or_flat_or_long(kind: str) -> None:
    flat = {"points": [{"x": "a" if kind == "bars" else 1, "y": 0}]}
    many = {"points": [{"x": "a" * 60 + str(i) if kind == "bars" else i, "y": 10.0**i} for i in range(-8, 60)]}
    far = {"points": [{"x": "a" if kind == "bars" else sign * 1e100, "y": sign * 1e100, "low": 0} for sign in (1, -1)]}
    tiny = {"points": [{"x": "a" if kind == "bars" else 1 + i * 1e-15, "y": i * 1e-300} for i in range(3)]}
    whole = ([], [{"name": "a", "points": []}], *([{"name": "<a>", **one}] for one in (flat, far, tiny)))
    for series in (*whole, [{"name": "b", **many}] * 8):
        drawn = chart(Figure.model_validate(figure(kind, series=series, lines=[])))
        Page(drawn)
        assert not re.search("nan|inf", drawn)
        for x, y in re.findall(r'<text class="tick" x="([^"]*)" y="([^"]*)"', drawn):
            assert (0 <= float(x) <= 640, 0 <= float(y) <= 372) == (True, True)


def test_ticks_are_round_and_within_the_axis() -> None:
    assert [text for _, text in scale([0.31, 0.92], 0, 100).ticks()] == [
        "0.3",
        "0.4",
        "0.5",
        "0.6",
        "0.7",
        "0.8",
        "0.9",
    ]
    assert [text for _, text in scale([0, 24], 0, 100).ticks()] == ["0", "5", "10", "15", "20", "25"]
    assert [text for _, text in scale([0.4, 2.4], 0, 100, log=True).ticks()] == ["0.4", "0.5", "0.7", "1", "1.5", "2"]
    assert [text for _, text in scale([1, 1e12], 0, 100, log=True).ticks()] == [
        "1",
        "100",
        "10000",
        "1e+06",
        "1e+08",
        "1e+10",
        "1e+12",
    ]
    bars = scale([3, 8], 0, 100, base=0.0)
    assert (bars.low, bars(0), bars(-5)) == (0, 0, 0)


def test_a_row_shades_the_side_where_the_claim_holds(report: Report) -> None:
    found = {result.claim.id: result.found for result in report.claims}
    up, down = (row_plot(found["fast"].interval, 1.6, upward) for upward in (True, False))  # type: ignore[union-attr]
    assert 'class="side" x="75"' in up
    assert 'class="side" x="0"' in down
    # Above the threshold is right of the middle.
    ends = re.search(r'class="interval" d="M([\d.]+),17H([\d.]+)', up)
    assert ends is not None
    assert 75 < float(ends[1]) < float(ends[2]) == 142
    assert "interval" not in row_plot(found["short"].interval, 2.0, False)  # type: ignore[union-attr]
    assert unescape(up) == up

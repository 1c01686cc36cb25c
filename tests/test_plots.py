from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import kzoo
from kzoo.errors import InputError
from kzoo.layers import Architecture, Layer
from kzoo.matching import Matching, match
from kzoo.plots.folding import MOST_LINES, fold
from kzoo.plots.layout import LINE
from kzoo.plots.matching import matching_html, matching_svg, write_plot
from kzoo.plots.style import DARK, LIGHT, Scheme, level
from kzoo.plots.text import shorten
from tests.architectures import OTHER, bn, conv, fc, network

SVG = "{http://www.w3.org/2000/svg}"
PAIRS = {
    "small": ("timm:resnet18", "timm:resnet26d"),
    "large": ("timm:resnet152", "timm:densenet201"),
    "transformer": ("timm:vit_tiny_patch16_224", "timm:vit_base_patch16_224"),
}
HOSTILE = '<script>alert("1")</script>&\'\x00\x1b\n\u202e\ud800 ]]>'
pairs = pytest.mark.parametrize("pair", PAIRS)


@cache
def matched(pair: str) -> Matching:
    return kzoo.match(*PAIRS[pair])


@cache
def drawn(pair: str) -> ET.Element:
    return ET.fromstring(matching_svg(matched(pair)))


def with_class(svg: ET.Element, *names: str) -> list[ET.Element]:
    return [element for element in svg.iter() if {*names} <= {*element.get("class", "").split()}]


def plain(text: str | None) -> str:
    """The text with the sign of multiplication spelt x."""
    return (text or "").replace("\N{MULTIPLICATION SIGN}", "x")


def title(element: ET.Element) -> str:
    return plain(element.findtext(f"{SVG}title"))


def texts(element: ET.Element) -> list[str]:
    return [plain(text.text) for text in element.iter(f"{SVG}text")]


def number(element: ET.Element, name: str) -> float:
    return float(element.get(name, "nan"))


@pytest.fixture
def by_hand() -> Matching:
    """conv1 meets conv1 by a quarter, bn is exact and serves two, fc has no partner; the source's last is unused."""
    source = Architecture(
        (Layer("conv2d", (8, 3, 3, 3), "conv1"), (Layer("bn2d", (8,), "b.0.bn"), OTHER), fc(10, 8)), "mine"
    )
    target = Architecture(
        (
            Layer("conv2d", (32, 3, 3, 3), "stem"),
            (Layer("bn2d", (8,), "b.0.bn"), Layer("bn2d", (8,), "b.0.again"), OTHER, OTHER),
            Layer("linear", (5, 4), "head"),
        ),
        "yours",
    )
    return Matching(source, target, 2.0, 1.0, (((0,), (0,), 0.25), ((1, 0), (1, 0), 1.0), ((1, 0), (1, 1), 1.0)), 30)


def test_a_picture_whose_answer_is_known(by_hand: Matching) -> None:
    svg = ET.fromstring(matching_svg(by_hand))
    assert [title(link) for link in with_class(svg, "link")] == [
        "conv1  conv2d 8x3x3x3 → stem  conv2d 32x3x3x3: 0.25",
        "b.0.bn  bn2d 8 → b.0.bn  bn2d 8: 1.00",
        "b.0.bn  bn2d 8 → b.0.again  bn2d 8: 1.00",
    ]
    assert [link.get("class") for link in with_class(svg, "link")] == ["link s1", "link s4", "link s4"]
    assert [title(row) for row in with_class(svg, "row", "random")] == ["head  linear 5x4: no partner, stays random"]
    assert [title(row) for row in with_class(svg, "row", "unused")] == ["linear at 2  linear 10x8: not used"]
    assert [texts(row) for row in with_class(svg, "row", "target")] == [
        ["0.25", "stem", "conv2d 32x3x3x3"],
        ["1.00", "bn", "bn2d 8"],
        ["1.00", "again", "bn2d 8"],
        ["random", "head", "linear 5x4"],
    ]
    assert "3 of 4 target layers matched, 1 random; 2 of 3 source layers used" in texts(svg)
    assert "symmetric 0.408, directed 0.500, reverse 0.333, coverage 3.1%" in texts(svg)
    assert any("1 layer of the source and 2 of the target" in text for text in texts(svg))


@pairs
def test_every_target_layer_is_in_exactly_one_row_and_marked_if_random(pair: str) -> None:
    matching, rows = matched(pair), with_class(drawn(pair), "row", "target")
    partners = {target for _, target, _ in matching.pairs}
    typed = {layer.name: path for path, layer in matching.target.paths() if layer.typed}
    lines = Counter(line.split("  ")[0] for row in rows for line in title(row).split("\n") if "  " in line)
    assert lines == Counter(typed.keys())
    assert sum(int(row.get("data-layers", "")) for row in rows) == matching.target.typed_layers
    random = [line for row in rows for line in title(row).split("\n") if line.endswith("no partner, stays random")]
    assert {line.split("  ")[0] for line in random} == {name for name, path in typed.items() if path not in partners}
    assert sum(int(row.get("data-unmatched", "")) for row in rows) == len(random) == len(typed) - len(matching.pairs)
    for row in rows:
        share = int(row.get("data-unmatched", "")) / int(row.get("data-layers", ""))
        bar = {rect.get("class"): number(rect, "width") for rect in row.iter(f"{SVG}rect")}
        assert bar.get("hatch", 0) == pytest.approx(34 * share, abs=0.01)
        assert ("random" in texts(row)) == (share == 1) == ("random" in row.get("class", ""))


@pairs
def test_the_source_rows_say_what_is_unused(pair: str) -> None:
    matching, rows = matched(pair), with_class(drawn(pair), "row", "source")
    used = {source for source, _, _ in matching.pairs}
    assert sum(int(row.get("data-layers", "")) for row in rows) == matching.source.typed_layers
    assert sum(int(row.get("data-unmatched", "")) for row in rows) == matching.source.typed_layers - len(used)
    for row in rows:
        all_unused = row.get("data-layers") == row.get("data-unmatched")
        assert any("unused" in text for text in texts(row)) == (row.get("data-unmatched") != "0")
        assert all_unused == ("unused" in row.get("class", ""))


@pairs
def test_the_links_hold_every_pair_once(pair: str) -> None:
    matching, links = matched(pair), with_class(drawn(pair), "link")
    source, target = dict(matching.source.paths()), dict(matching.target.paths())
    lines = [line for link in links for line in title(link).split("\n") if " → " in line]
    assert sorted(re.sub("  [^→]*(?= → |: )", "", line) for line in lines) == sorted(
        f"{source[s].name} → {target[t].name}: {score if score == 1 else min(score, 0.99):.2f}"
        for s, t, score in matching.pairs
    )
    assert sum(int(link.get("data-pairs", "")) for link in links) == len(matching.pairs)
    if pair != "large":
        assert len(links) == len(matching.pairs)
    for link in links:
        if link.get("data-pairs") == "1":
            assert link.get("class") == f"link s{level(float(title(link).rsplit(': ')[-1]))}"


def test_a_large_network_is_folded_and_says_what_it_holds() -> None:
    svg = drawn("large")
    first = next(row for row in with_class(svg, "row", "target") if "denselayer1-2" in texts(row))
    assert texts(first) == ["0.50", "denselayer1-2", "8 layers, 1 random"]
    assert title(first).startswith(
        "features.denseblock1.denselayer1-2: 8 layers\nfeatures.denseblock1.denselayer1.norm1"
    )
    assert ["layer3", "218 layers, 110 unused"] in [texts(group) for group in with_class(svg, "group")]
    assert number(svg, "height") < 1600


def test_a_picture_is_never_higher_than_its_bound() -> None:
    many = Architecture(tuple(layer for size in range(1, 700) for layer in (conv(size, size), bn(size))))
    blocks = Architecture(tuple((conv(size, 3), bn(size), fc(size, size)) for size in range(1, 500)))
    for groups in fold(many, blocks):
        assert 0 < sum(group.lines for group in groups) <= MOST_LINES
    assert [sum(len(row.cells) for group in groups for row in group.rows) for groups in fold(many, blocks)] == [
        many.typed_layers,
        blocks.typed_layers,
    ]
    assert number(ET.fromstring(matching_svg(match(many, blocks))), "height") < 2300


def test_equal_consecutive_blocks_fold_into_one_row() -> None:
    def named(count: int) -> Architecture:
        block = [tuple(Layer("bn2d", (8,), f"body.{i}.bn{j}") for j in range(2)) for i in range(count)]
        return Architecture((Layer("bn2d", (4,), "stem"), *block, Layer("bn2d", (2,), "end")))

    folded, _ = fold(named(300), named(3))
    assert [(row.label, len(row.cells)) for group in folded for row in group.rows] == [
        ("stem", 1),
        ("body.0-299", 600),
        ("end", 1),
    ]


@pairs
def test_nothing_leaves_the_view_box(pair: str) -> None:
    svg = drawn(pair)
    assert_inside(svg)


def assert_inside(svg: ET.Element) -> None:
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    for rect in svg.findall(f".//{SVG}rect[@x]"):
        assert 0 <= number(rect, "x") <= number(rect, "x") + number(rect, "width") <= width
        assert 0 <= number(rect, "y") <= number(rect, "y") + number(rect, "height") <= height
    for link in with_class(svg, "link"):
        points = [tuple(map(float, point.split(","))) for point in re.findall(r"[\d.]+,[\d.]+", link.get("d", ""))]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    for text in svg.iter(f"{SVG}text"):
        left, right = extent(text)
        assert left >= 0 and right <= width and 10 <= number(text, "y") <= height - 4


def extent(text: ET.Element) -> tuple[float, float]:
    """From where to where a text runs, at most."""
    classes = text.get("class", "").split()
    size = 16 if "heading" in classes else 11 if "name" in classes else 11.5 if "small" in classes else 13
    width = len(text.text or "") * size * (0.62 if "name" in classes else 0.58)
    x = number(text, "x")
    return (x - width, x) if text.get("text-anchor") == "end" else (x, x + width)


@pairs
def test_nothing_overlaps(pair: str) -> None:
    svg = drawn(pair)
    for side in ("source", "target"):
        tops = [number(with_class(row, "place")[0], "y") for row in with_class(svg, "row", side)]
        assert all(lower - upper >= LINE for upper, lower in pairwise(tops))
    for left in ("24", "636"):
        frames = [frame for frame in with_class(svg, "frame") if frame.get("x") == left]
        for upper, lower in pairwise(frames):
            assert number(upper, "y") + number(upper, "height") < number(lower, "y")
    assert_no_text_overlaps(svg)


def assert_no_text_overlaps(svg: ET.Element) -> None:
    for group in [*with_class(svg, "row"), *with_class(svg, "group")]:
        spans = sorted(extent(text) for text in group.iter(f"{SVG}text"))
        spans += [(number(bar, "x"), number(bar, "x")) for bar in group.iter(f"{SVG}rect") if bar.get("height") == "9"]
        spans.sort()
        assert all(right <= left for (_, right), (left, _) in pairwise(spans))


def test_the_shorter_column_stands_beside_its_partners() -> None:
    links = with_class(drawn("small"), "link")
    heights = [re.match(r"M[\d.]+,([\d.]+)C\S+ \S+ [\d.]+,([\d.]+)V", link.get("d", "")) for link in links]
    assert all(found and abs(float(found[1]) - float(found[2])) < LINE for found in heights)


@pairs
def test_light_and_dark_and_accessible(pair: str) -> None:
    svg = drawn(pair)
    style = svg.findtext(f"{SVG}style") or ""
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for part, scheme in ((light, LIGHT), (dark, DARK)):
        assert all(f".kzoo .s{index} {{fill: {colour}}}" in part for index, colour in enumerate(scheme.scale))
        assert f".kzoo .page, .kzoo .hatched {{fill: {scheme.page}}}" in part
    assert svg.get("role") == "img" and svg.get("aria-labelledby") == "kzoo-title kzoo-desc"
    source, target = PAIRS[pair]
    assert title(svg) == f"Matching of {source} to {target}"
    assert "find a partner" in (svg.findtext(f"{SVG}desc") or "")


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_colours_stand_out_more_the_better_the_score(scheme: Scheme) -> None:
    contrasts = [contrast(colour, scheme.page) for colour in scheme.scale]
    assert contrasts == sorted(contrasts) and contrasts[0] > 2
    for background in (scheme.page, scheme.panel):
        assert min(contrast(scheme.ink, background), contrast(scheme.quiet, background)) > 4.5
        assert contrast(scheme.alarm, background) > 4.5


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_only_an_exact_score_reads_as_1() -> None:
    nearly = match(Architecture((bn(996), bn(7))), Architecture((bn(1000), bn(7))))
    rows = with_class(ET.fromstring(matching_svg(nearly)), "row", "target")
    assert [texts(row)[0] for row in rows] == ["0.99", "1.00"]
    assert [bar.get("class") for row in rows for bar in row.findall(f"{SVG}rect")[1:]] == ["s3", "s4"]


def test_levels() -> None:
    assert [level(score) for score in (0.001, 0.25, 0.5, 0.75, 0.9999, 1.0)] == [0, 1, 2, 3, 3, 4]


@pytest.fixture(
    params=[HOSTILE, "", "a" * 5000, "名" * 300, "." * 40, "e\u0301" * 80, "  ", "x\u20dd" * 99], ids=range(8)
)
def odd(request: pytest.FixtureRequest) -> Matching:
    name: str = request.param
    block = tuple(Layer("conv_transpose3d", (1024, 1024, 16, 16, 16), name) for _ in range(3))
    source = Architecture((Layer("bn2d", (8,), name), block, fc(2, 2)), name)
    return match(source, Architecture((bn(3), block, block, Layer("linear", (7, 7), name)), name))


def test_odd_names_are_drawn_safely(odd: Matching) -> None:
    for text in (matching_svg(odd), matching_html(odd)):
        assert "<script" not in text
        text.encode()
        assert text.isprintable() or {c for c in text if not c.isprintable()} == {"\n"}
    svg = ET.fromstring(matching_svg(odd))
    assert_inside(svg)
    assert_no_text_overlaps(svg)
    assert all(len(texts(row)) == (3 if "target" in row.get("class", "") else 2) for row in with_class(svg, "row"))
    if odd.target.name.startswith("a"):
        assert any(odd.target.name in title(row) for row in with_class(svg, "row"))


def test_names_are_cut_in_the_middle() -> None:
    assert shorten("features.denseblock3.denselayer12", 20) == "featur….denselayer12"
    assert shorten("short", 5) == "short"
    assert len(shorten("x" * 100, 10)) == 10
    assert len(shorten("名" * 100, 11)) == 5


def test_unnamed_layers_are_named_by_their_place() -> None:
    svg = ET.fromstring(matching_svg(match(network(4, 2), network(8, 2))))
    assert texts(with_class(svg, "group")[0]) == ["block 1", "4 layers"]
    assert title(with_class(svg, "row", "target")[1]).startswith(
        "conv2d at 1.0  conv2d 8x8x3x3: 0.25 from conv2d at 1.0"
    )


@pairs
def test_the_page_holds_the_picture_the_numbers_and_the_random_layers(pair: str) -> None:
    matching, text = matched(pair), matching_html(matched(pair))
    body = ET.fromstring(text[text.index("<body>") : text.index("</html>")])
    assert len(with_class(body, "link")) == len(with_class(drawn(pair), "link"))
    numbers = [definition.text for definition in body.iter("dd")]
    expected = (matching.symmetric, matching.directed, matching.reverse)
    assert numbers == [*(f"{value:.3f}" for value in expected), f"{matching.coverage:.1%}"]
    partners = {target for _, target, _ in matching.pairs}
    assert [row.findtext("td") for row in body.findall(".//tbody/tr")] == [
        layer.name for path, layer in matching.target.paths() if layer.typed and path not in partners
    ]
    assert not re.search(r"(src|href)=|@import|url\((?!#)|<script", text)


def test_a_perfect_match_has_no_table() -> None:
    assert "<table" not in matching_html(match(network(4, 2), network(4, 2)))


@pairs
def test_the_same_matching_gives_the_same_bytes(pair: str) -> None:
    again = kzoo.match(*PAIRS[pair])
    assert matching_svg(again) == matching_svg(matched(pair))
    assert matching_html(again) == matching_html(matched(pair))


def test_the_suffix_decides(tmp_path: Path, by_hand: Matching) -> None:
    write_plot(by_hand, tmp_path / "new" / "a.svg")
    write_plot(by_hand, tmp_path / "a.HTML")
    assert (tmp_path / "new" / "a.svg").read_text(encoding="utf-8") == matching_svg(by_hand)
    assert (tmp_path / "a.HTML").read_text(encoding="utf-8") == matching_html(by_hand)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.HTML", "a.svg", "new"]


@pytest.mark.parametrize(("name", "said"), [("a.png", "ends in .png"), ("plot", "has no suffix")])
def test_another_suffix_is_refused(tmp_path: Path, by_hand: Matching, name: str, said: str) -> None:
    with pytest.raises(InputError, match=f"{said}: expected .svg or .html"):
        write_plot(by_hand, tmp_path / name)
    assert not list(tmp_path.iterdir())

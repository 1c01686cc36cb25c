"""``kzoo curves``: the accuracies of trained model folders, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kzoo.curves import curves_figure, read_curves
from kzoo.reporting.picture import picture
from kzoo.reporting.results import Figure
from tests.conftest import Command


def epoch(number: int, accuracy: float) -> dict[str, object]:
    return {
        "epoch": number,
        "step": 10 * number,
        "loss": 1.5,
        "accuracy": 0.5,
        "test_loss": 2.0,
        "test_accuracy": accuracy,
        "lr": {"all": 0.006},
    }


def plant(folder: Path, accuracies: Sequence[float], data: str = "a" * 64) -> Path:
    """A model folder as `kzoo run` leaves it, as far as curves need it."""
    epochs = [epoch(number, accuracy) for number, accuracy in enumerate(accuracies, 1)]
    metrics = {
        "test": {"loss": 2.0, "accuracy": accuracies[-1], "top5": 0.9, "images": 52},
        "data": data,
        "training": {"epochs": epochs, "evaluations": [], "diverged": None},
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return (
        plant(tmp_path / "transferred", [0.25, 0.328, 0.367, 0.408, 0.413, 0.419]),
        plant(tmp_path / "random", [0.05, 0.1]),
    )


def test_it_prints_the_first_epochs_and_the_last(command: Command, runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "curves.svg"
    code, said, notes = command("curves", *runs, "--out", out)
    assert (code, notes) == (0, "")
    rows = [re.split(r"  +", line.strip()) for line in said.splitlines()]
    assert rows[0] == ["run", "epoch 1", "epoch 2", "epoch 3", "epoch 4", "epochs", "last"]
    assert rows[2] == ["transferred", "25.00%", "32.80%", "36.70%", "40.80%", "6", "41.90%"]
    assert rows[3] == ["random", "5.00%", "10.00%", "-", "-", "2", "10.00%"]
    assert rows[5] == [f"Drawn in {out}."]


def test_json_has_every_epoch(command: Command, runs: tuple[Path, Path], tmp_path: Path) -> None:
    code, said, _ = command("curves", *runs, "--out", tmp_path / "curves.svg", "--json")
    data = json.loads(said)
    assert (code, [run["name"] for run in data]) == (0, ["transferred", "random"])
    assert data[1] == {
        "folder": str(runs[1]),
        "name": "random",
        "data": "a" * 64,
        "epochs": [{"epoch": 1, "test_accuracy": 0.05}, {"epoch": 2, "test_accuracy": 0.1}],
    }


def test_the_picture_shows_every_value_and_is_the_same_each_time(
    command: Command, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "curves.svg"
    contents = []
    for _ in range(2):
        assert command("curves", *runs, "--out", out)[0] == 0
        contents.append(out.read_bytes())
    assert contents[0] == contents[1]
    drawn = ElementTree.fromstring(contents[0])
    titles = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[:3] == ["Accuracy by epoch", "transferred: 1: 25", "transferred: 2: 32.8"]
    assert titles[-1] == "random: 2: 10"
    curves = [element.get("points", "") for element in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    places = [[tuple(map(float, place.split(","))) for place in curve.split()] for curve in curves]
    assert [len(curve) for curve in places] == [6, 2]
    # Up is better, and the same epoch stands at the same place.
    assert places[0][0][0] == places[1][0][0]
    assert [y for _, y in places[0]] == sorted((y for _, y in places[0]), reverse=True)
    assert places[1][1][1] > places[0][0][1]


def test_it_needs_nothing_else_and_has_colours_for_light_and_dark(runs: tuple[Path, Path]) -> None:
    drawn = picture(curves_figure(read_curves(runs)))
    assert re.findall(r"https?://[^\"]*", drawn) == ["http://www.w3.org/2000/svg"]
    light, dark = drawn.split("@media (prefers-color-scheme: dark)")
    for part, page, curve in ((light, "#ffffff", "#0068a3"), (dark, "#0f141b", "#58b4ea")):
        assert f".kzoo-figure .page {{fill: {page}}}" in part
        assert f".kzoo-figure .s0 .curve, .kzoo-figure .s0 .whisker {{stroke: {curve}}}" in part


def test_epochs_are_whole_numbers_on_the_axis(runs: tuple[Path, Path]) -> None:
    drawn = picture(curves_figure(read_curves(runs[1:])))
    below = re.findall(r'<text class="tick" x="[^"]*" y="[^"]*" text-anchor="middle">([^<]*)</text>', drawn)
    assert below == ["1", "2"]


def test_folders_of_one_name_are_called_by_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        plant(Path(name) / "model", [0.5])
    assert [curve.name for curve in read_curves([Path("a/model"), Path("b/model")])] == ["a/model", "b/model"]
    monkeypatch.chdir("a/model")
    assert [curve.name for curve in read_curves([Path()])] == ["model"]
    assert command("curves", ".", "--out", "c.svg")[0] == 0


def test_other_images_are_noted(command: Command, tmp_path: Path) -> None:
    runs = plant(tmp_path / "a", [0.5]), plant(tmp_path / "b", [0.6], data="b" * 64)
    code, _, notes = command("curves", *runs, "--out", tmp_path / "c.svg")
    assert (code, notes) == (
        0,
        "Note: they were tested on different images, so these accuracies do not compare.\n",
    )


def test_names_from_strangers_stay_text_and_the_legend_within_the_picture(tmp_path: Path) -> None:
    folders = [plant(tmp_path / f"<b>&{index} {'long ' * 12}", [0.5, 0.6]) for index in range(9)]
    drawn = picture(curves_figure(read_curves(folders)))
    root = ElementTree.fromstring(drawn)
    names = [text for text in root.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "words name"]
    assert len(names) == 9
    assert all(float(name.get("x", "nan")) + 6 * len(name.text or "") < 640 for name in names)
    assert len({name.get("y") for name in names}) == 9
    assert not {"b", "{http://www.w3.org/2000/svg}b"} & {element.tag for element in root.iter()}


@pytest.mark.parametrize("kind", ["scatter", "lines", "bars"])
def test_every_kind_of_figure_can_stand_alone(kind: str) -> None:
    points = [{"x": "a" if kind == "bars" else 1.5, "y": 2, "low": 1, "high": 3}]
    data = {"kind": kind, "title": "T", "x": {"label": "x"}, "y": {"label": "y"}}
    drawn = picture(Figure.model_validate({**data, "series": [{"name": "s", "points": points}]}))
    root = ElementTree.fromstring(drawn)
    assert (root.get("viewBox"), drawn.count("<desc>")) == ("0 0 640 444", 0)
    assert picture(Figure.model_validate({**data, "series": []})).count('class="words') == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "{run} has no metrics.json: expected a folder that kzoo run wrote from a recipe with training"),
        ("", "{run}/metrics.json: it is not JSON"),
        ("[]", "{run}/metrics.json: it is not a JSON object"),
        ('{"test": {}}', "{run}/metrics.json tells of no training: expected a folder that kzoo run wrote"),
        ('{"training": {"epochs": []}}', "{run}/metrics.json tells of no training: expected a folder"),
        ('{"training": 1}', "{run}/metrics.json: training: expected fields with values, found 1"),
        (
            '{"training": {"epochs": [{"epoch": "one"}]}}',
            "{run}/metrics.json: training.epochs.0.epoch: expected a whole number, found 'one'",
        ),
        (
            json.dumps({"training": {"epochs": [epoch(1, float("nan"))]}}),
            "{run}/metrics.json: training.epochs.0.test_accuracy: expected a finite number, found NaN",
        ),
    ],
)
def test_bad_runs_are_one_sentence(
    content: str | None, sentence: str, command: Command, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    run, out = tmp_path / "damaged", tmp_path / "curves.svg"
    run.mkdir()
    if content is not None:
        (run / "metrics.json").write_text(content)
    code, said, error = command("curves", runs[0], run, "--out", out)
    assert (code, said, error.count("\n"), out.exists()) == (2, "", 1, False)
    assert sentence.format(run=run) in error


def test_bad_places_for_the_picture_are_one_sentence(command: Command, runs: tuple[Path, Path], tmp_path: Path) -> None:
    for name, sentence in (
        ("curves.png", "ends in .png: expected .svg; name the picture so"),
        ("curves", "has no suffix: expected .svg; name the picture so"),
    ):
        code, _, error = command("curves", *runs, "--out", tmp_path / name)
        assert (code, sentence in error, (tmp_path / name).exists()) == (2, True, False)
    assert command("curves", *runs)[0] == 2
    assert command("curves", "--out", tmp_path / "c.svg")[0] == 2
    # As with `kzoo compare --plot`, a picture that exists is drawn anew; a folder is refused.
    (tmp_path / "c.svg").write_text("old")
    assert command("curves", *runs, "--out", tmp_path / "c.svg")[0] == 0
    assert (tmp_path / "c.svg").read_text().startswith("<svg ")
    assert command("curves", *runs, "--out", tmp_path)[0] == 2

"""The second half of ``make demo``: its commands one by one, on fewer images, and what it shows of itself."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from string import Template
from xml.etree import ElementTree

import pytest

from kzoo.recipe import Recipe, read_recipe
from tests.conftest import Command

ROOT = Path(__file__).parent.parent
SCRIPT = (ROOT / "examples" / "demo.sh").read_text()
RANDOM = ROOT / "examples" / "demo-random.yaml"
README = (ROOT / "README.md").read_text()
#: The recipes of this test train for a moment only.
SHORTER = {"train: 3840, test: 1040": "train: 130, test: 52", "epochs: 6": "epochs: 1"}


def lines(source: str) -> list[str]:
    """The script's commands without what it says, its variables put in."""
    values = dict(re.findall(r"^(\w+)=([\w:/-]+)$", SCRIPT, re.MULTILINE)) | {"source": source}
    found = re.findall(r"^(?:kzoo |\{).*$", SCRIPT, re.MULTILINE)
    return [Template(line).safe_substitute(values) for line in found]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipe of the random start, made shorter."""
    text = RANDOM.read_text()
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / RANDOM.name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_what_a_run_adds(recipe: Recipe) -> dict[str, object]:
    return recipe.model_dump(exclude={"versions": True, "threads": True, "data": {"fingerprint"}})


def test_its_commands_draw_curves_of_two_starts_that_differ_in_nothing_else(command: Command, checkout: Path) -> None:
    recommend, transfer, *_ = lines("SOURCE")
    assert transfer.startswith("kzoo transfer SOURCE ")
    code, said, _ = command(*shlex.split(recommend)[1:], "--json")
    source = json.loads(said)["results"][0]["model"]
    assert (code, len(lines(source))) == (0, 6)
    for line in lines(source)[1:]:
        if not line.startswith("kzoo "):
            subprocess.run(["sh", "-c", line], check=True)
        else:
            assert command(*shlex.split(line)[1:])[0] == 0, line
    folder = checkout / "build" / "demo"
    ours, theirs = (read_recipe(folder / name / "recipe.yaml") for name in ("transferred", "random"))
    first, second = without_what_a_run_adds(ours), without_what_a_run_adds(theirs)
    assert {key for key in first if first[key] != second[key]} == {"sources", "method", "parameters"}
    assert (ours.method, theirs.method, theirs.sources) == ("dpiat", "random", [])
    # The source is the one that is recommended, and the README speaks of it.
    assert ours.sources[0].path == source.replace("/", ":")
    assert f"`{ours.sources[0].path}`" in README
    drawn = ElementTree.parse(folder / "curves.svg")
    titles = [element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert [title.partition(": ")[0] for title in titles] == ["Accuracy by epoch", "transferred", "random"]
    assert (folder / "transferred" / "README.md").read_text().startswith("---\nlibrary_name: kzoo\n")


def test_it_takes_what_is_recommended_from_json() -> None:
    script = re.search(r"python -c '(.*)'\)", SCRIPT)
    assert script is not None
    said = json.dumps({"results": [{"model": "local/best"}, {"model": "local/next"}]})
    python = shutil.which("python3")
    assert python is not None
    done = subprocess.run([python, "-c", script[1]], input=said, capture_output=True, text=True, check=True)
    assert done.stdout == "local/best\n"
    # Both searches are the same but for what they show.
    asked = [line.split(" -k ")[0] for line in re.findall(r"kzoo (recommend .*)$", SCRIPT, re.MULTILINE)]
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_the_network_is_none_of_the_zoo_and_the_letters_are_new_to_it() -> None:
    recipe = read_recipe(RANDOM)
    assert recipe.data is not None
    zoo = [read_recipe(path) for path in (ROOT / "registry" / "zoo").glob("*/recipe.yaml")]
    assert recipe.target.model in SCRIPT
    assert recipe.target.model not in {known.target.model for known in zoo}
    assert recipe.data.task not in {known.data.task for known in zoo if known.data is not None}


def test_the_script_is_what_make_demo_runs_and_stops_at_the_first_failure() -> None:
    assert "sh examples/demo.sh" in (ROOT / "Makefile").read_text()
    subprocess.run(["sh", "-n", str(ROOT / "examples" / "demo.sh")], check=True)
    assert "\nset -eu\n" in SCRIPT


def test_the_readme_says_what_its_picture_shows() -> None:
    drawn = ElementTree.parse(ROOT / "docs" / "demo.svg")
    caption = drawn.findtext("{http://www.w3.org/2000/svg}desc") or ""
    shares = re.fullmatch(r"After the last epoch: transferred ([\d.]+%), random ([\d.]+%)\.", caption)
    assert shares is not None
    assert all(share.replace("%", " %") in README for share in shares.groups())

"""What README and docs promise: commands and examples run as shown, links lead somewhere, the reference is complete."""

from __future__ import annotations

import dataclasses
import doctest
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
import torchvision
from click import Context
from safetensors.torch import save_file

import kzoo
from docs import verdicts
from docs.commands import PAGE, page
from kzoo import facade
from kzoo.claims import VERDICTS, Claim, Claims
from kzoo.cli.main import cli, run
from kzoo.layers import EXTENDED_KINDS
from kzoo.paths import registry_directory
from kzoo.plots.matching import matching_svg
from kzoo.reporting.results import Found, Results
from kzoo.search import Recommendation, Row

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
COMMAND = re.compile(r"(?:[A-Z_]+=\S* )*kzoo |(?:rm|mkdir|cp) ")
# The first compiles the whole registry; the second reads a whole library.
SLOW = re.compile(r"kzoo index$|kzoo (-C \S+ )?registry sync (?!.*--help)")
HOME = "~"
# The faulty file that docs/registry.md shows the check of.
FAULTY = """\
library: timm
family: resnet
version: 1.0.31
architectures:
- name: resnet18
  parameters: 11689512
  classes: thousand
  input_size: [3, 224, 224]
  checkpoints:
  - id: me/resnet18.flowers
    tag: flowers
    licence: mit
    parameters: 11181642
  - id: me/resnet18.birds
    tag: birds
    license: house-license
    parameters: 11181642
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``output`` is the text block that comes next, if one does."""

    language: str
    text: str
    output: str | None

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command with the lines shown below it; in ``sh`` blocks nothing is shown."""
        text = self.text.replace("\\\n", " ")
        parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:] if self.language == "console" else text.splitlines()
        for part in parts if self.language in ("sh", "console") else ():
            command, *shown = part.splitlines() or [""]
            command = command.partition("  #")[0].strip()
            if COMMAND.match(command):
                yield command, shown


def blocks(name: str) -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[name].read_text(), re.DOTALL | re.MULTILINE)
    return [
        Block(language, text, after[1] if after[0] == "text" else None)
        for (language, text), after in pairwise([*found, ("", "")])
    ]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder with the files that the pages speak of; the checkout must stay as it was."""
    state = dict(torchvision.models.resnet18(num_classes=10).state_dict())
    save_file(state, tmp_path / "model.safetensors")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    # The tables of the pipelines' results are committed, their networks are not.
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines", ignore=only_tables)
    shutil.copy(ROOT / "environment.yaml", tmp_path)
    faulty = tmp_path / "my-registry" / "timm" / "resnet.yaml"
    faulty.parent.mkdir(parents=True)
    faulty.write_text(FAULTY)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    # The reader has not set it; whatever is theirs lies in the home made above.
    monkeypatch.delenv("KZOO_REGISTRY", raising=False)
    # More processes take longer to start than a study of the profile tiny to run.
    monkeypatch.setenv("KZOO_JOBS", "1")
    monkeypatch.chdir(tmp_path)
    before = written(registry_directory())
    yield tmp_path
    assert written(registry_directory()) == before


def only_tables(folder: str, names: list[str]) -> list[str]:
    """What of a folder of results is not in git."""
    path = Path(folder)
    return [name for name in names if name.startswith(".") or (path.name == "out" and (path / name).is_dir())]


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and output of a command: in this process, or by a shell where it is more than a call of kzoo."""
    if not command.startswith("kzoo ") or re.search(r"[|<>;&$]", command):
        done = subprocess.run(command, shell=True, stdout=PIPE, stderr=STDOUT, text=True, timeout=120, check=False)
        return done.returncode, done.stdout
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    printed = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(printed), redirect_stderr(printed):
        code = run()
    return code, printed.getvalue()


def without_what_varies(text: str) -> list[str]:
    """The lines without the home's name, times, and the width of tables that hold paths."""
    text = text.replace(str(Path.home()), HOME)
    return [re.sub(r"in \d+ ms|-{3,}", "---", line).rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("name", PAGES)
def test_examples_run_and_print_what_is_shown(
    name: str, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables: dict[str, object] = {}
    for block in blocks(name):
        if block.language == "python":
            exec(compile(block.text, name, "exec"), variables)
            printed = capsys.readouterr().out
            if block.output is not None:
                assert printed == block.output, block.text
        for command, shown in block.commands():
            if SLOW.match(command):
                continue
            code, output = run_command(command, monkeypatch)
            expected = 2 if any(line.startswith("Error: ") for line in shown) else 0
            assert code == expected, f"{command}\n{output}"
            # A page may leave out lines, but not show others or in another order.
            lines = iter(without_what_varies(output))
            for line in without_what_varies("\n".join(shown)):
                assert line in ("...", "") or line in lines, f"{command} does not print {line!r}:\n{output}"


def test_there_are_commands() -> None:
    counts = {name: sum(len(list(block.commands())) for block in blocks(name)) for name in PAGES}
    assert counts["README.md"] >= 8
    assert counts["docs/ranking.md"] >= 8
    assert counts["docs/files.md"] >= 8


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", PAGES[name].read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", prose):
        file, _, anchor = link.partition("#")
        path = (PAGES[name].parent / file).resolve() if file else PAGES[name]
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], link


def test_every_command_is_in_the_reference_and_as_it_is() -> None:
    text = PAGE.read_text()
    top = Context(cli)
    paths = ["kzoo", *(f"kzoo {command}" for command in cli.list_commands(top))]
    for command in cli.list_commands(top):
        paths += [f"kzoo {command} {child}" for child in getattr(cli.get_command(top, command), "commands", ())]
    assert sorted(re.findall(r"^## (.*)$", text, re.MULTILINE)) == sorted(paths)
    assert {"kzoo", "kzoo recommend", "kzoo add", "kzoo registry sync"} <= set(paths)
    assert text == page(), "docs/commands.md is out of date: run make docs"


@pytest.mark.parametrize("name", verdicts.PAGES)
def test_pages_have_the_verdicts_of_the_committed_results(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- verdicts: " in text
    assert verdicts.with_verdicts(text) == text, "make docs"


def test_every_key_of_a_ranking_is_explained() -> None:
    text = PAGES["docs/ranking.md"].read_text()
    keys = {field.name for record in (Recommendation, Row) for field in dataclasses.fields(record)}
    assert {key for key in keys | {"explanation"} if f"`{key}`" not in text} == set()


def test_every_key_of_a_comparison_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGES["docs/ranking.md"].read_text()
    _, output = run_command("kzoo compare timm:resnet18 timm:resnet34 --json", monkeypatch)
    keys = json.loads(output[output.index("{") :])
    assert keys["matched_layers"] == 73
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_every_field_of_a_claim_and_every_key_of_a_report_is_explained() -> None:
    text = PAGES["docs/claims.md"].read_text()
    names = {*Claims.model_fields, *Claim.model_fields, *Results.model_fields, *Found.model_fields}
    assert {name for name in names if f"`{name}`" not in text and f'"{name}"' not in text} == set()
    assert {verdict for verdict in VERDICTS if f"`{verdict}`" not in text} == set()


def test_every_kind_of_the_extended_measure_is_explained() -> None:
    text = PAGES["docs/measure.md"].read_text()
    assert [kind for kind in EXTENDED_KINDS if f"`{kind}`" not in text] == []


def test_the_facades_examples_run() -> None:
    assert doctest.testmod(facade).failed == 0


def test_the_first_screen_holds_the_two_commands_from_nothing() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert [line.partition("  #")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]
    assert README[: first.end()].count("\n") < 40


def test_make_test_is_the_test_command_of_ci() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_figure_comes_from_the_committed_results() -> None:
    from benchmarks.report import agreement_table, table

    assert table() in README, "run python -m benchmarks.report and put its table into the README"
    files = (ROOT / "docs" / "files.md").read_text()
    assert agreement_table() in files, "run python -m benchmarks.report and put its second table into docs/files.md"


def test_the_picture_of_the_readme_is_what_the_command_draws() -> None:
    drawn = matching_svg(kzoo.match("timm:resnet18", "timm:resnet26d"))
    assert (ROOT / "docs" / "matching.svg").read_text(encoding="utf-8") == drawn, "run make docs"
    assert "docs/matching.svg" in README

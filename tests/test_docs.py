"""What the README promises: its commands run, and they are the whole first screen."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest

from kzoo import facade
from tests.conftest import Run

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0]
    for language, text in BLOCKS
    if language in ("sh", "console")
    for line in text.splitlines()
    if re.match(r"(\$ )?kzoo ", line)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if not re.search(r"kzoo (index|registry sync)( [a-z]+)?$", c)])
def test_every_command_runs(kzoo_command: Run, command: str) -> None:
    done = kzoo_command(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr


def test_python_examples_run() -> None:
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "README.md", "exec"), {})
    assert doctest.testmod(facade).failed == 0
    assert any(language == "python" for language, _ in BLOCKS)


def test_the_first_screen_holds_the_two_commands_from_nothing() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert [line.partition("  #")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]
    assert README[: first.end()].count("\n") < 40


def test_make_test_is_the_test_command_of_ci() -> None:
    assert "make test" in (Path(__file__).parent.parent / ".ci" / "run").read_text()


def test_every_figure_comes_from_the_committed_results() -> None:
    from benchmarks.report import table

    assert table() in README, "run python -m benchmarks.report and put its table into the README"

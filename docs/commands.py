"""Write docs/commands.md, the help text of every command; run by ``make docs``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from kzoo.cli.main import cli

PAGE = Path(__file__).with_name("commands.md")
WIDTH = 100
INTRODUCTION = """\
# Commands

What `--help` prints for every command. `make docs` writes this page from the commands themselves, so it is not edited by
hand. How to use them: [reading a ranking](ranking.md), [carrying weights over](transfer.md),
[models in files](files.md), [the registry](registry.md), [networks on the Hub](hub.md), [the card of a model](card.md),
[papers as pipelines](pipelines.md), [on more machines](clusters.md), [claims](claims.md).

Exit codes: 0 done, 1 a check said no, 2 bad input, 3 the network or the disk failed, 130 interrupted. Tables, JSON and
other results go to stdout; hints, notes, progress and errors go to stderr.
"""


def command_paths(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words that call each command and subcommand, without ``kzoo``; the first is empty."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from command_paths(child, (*path, name))


def help_text(path: tuple[str, ...]) -> str:
    """What ``--help`` prints on a terminal of `WIDTH` columns."""
    return CliRunner().invoke(cli, [*path, "--help"], prog_name="kzoo", terminal_width=WIDTH).output


def page() -> str:
    """The whole page."""
    sections = [f"## {' '.join(('kzoo', *path))}\n\n```text\n{help_text(path)}```\n" for path in command_paths()]
    return "\n".join((INTRODUCTION, *sections))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""What several commands share: options, reading numbers, printing tables and JSON."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.zoo import Zoo

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LONGEST_COUNT = 30
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def as_json(command: _Command) -> _Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def filter_options(command: _Command) -> _Command:
    """Add the options that say which checkpoints are wanted."""
    for option in reversed(
        (
            click.option(
                "--license",
                "licenses",
                multiple=True,
                metavar="ID",
                help="Only this license, or 'permissive'; may be repeated.",
            ),
            click.option(
                "--task", metavar="TASK", help="Only for this task: image-classification or image-feature-extraction."
            ),
            click.option(
                "--max-params", metavar="N", callback=_parse_count, help="At most this many parameters, such as 30M."
            ),
            click.option(
                "--library",
                metavar="NAME",
                help="Only of this library: timm, torchvision, or local for files of your own.",
            ),
            click.option("--trained-on", metavar="DATA", help="Only trained on this data set, such as imagenet-21k."),
        )
    ):
        command = option(command)
    return command


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how the target is read; the command gets their values as one dict, ``reading``."""

    @wraps(command)
    def with_reading(*arguments: Any, **options: Any) -> None:
        reading = {name: options.pop(name) for name in _READING}
        command(*arguments, reading=reading, **options)

    for name, option in reversed(_READING.items()):
        with_reading = click.option(f"--{name.replace('_', '-')}", **option)(with_reading)
    return with_reading


_READING: dict[str, dict[str, Any]] = {
    "classes": {"type": int, "metavar": "N", "help": "The target's number of classes."},
    "in_chans": {"type": int, "metavar": "N", "help": "The target's input channels."},
    "img_size": {"type": int, "metavar": "N", "help": "The target's image size."},
    "submodule": {"metavar": "NAME", "help": "Only this part of the target, such as layer1 or backbone."},
    "refine": {
        "is_flag": True,
        "help": "Where a file's header leaves the order open, look for the known network that has its layers.",
    },
    "trust_code": {"is_flag": True, "help": "Allow py:package.module:factory, which imports and runs code."},
}


def _parse_count(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?)\s*([kmgb]?)", text.strip().lower(), re.ASCII)
    if not found or len(text) > _LONGEST_COUNT:
        raise InputError(f"--max-params {text!r:.40} is not a number: expected digits with K, M or G, such as 30M")
    return round(float(found[1]) * _UNITS[found[2]])


def open_zoo(directory: Path | None) -> Zoo:
    """All models that the user's options name."""
    from kzoo.facade import open_zoo

    return open_zoo(directory)


def open_zoo_to_fill(directory: Path | None, own: Path) -> Zoo:
    """All models that the user's options name; the registry ``own`` is about to be filled, and may be missing or empty."""
    from kzoo.zoo import load_zoo

    return load_zoo([] if directory is None else [directory], new=own)


def complete_network(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of networks for shell completion."""
    try:
        zoo = open_zoo(context.find_root().params.get("directory"))
    except InputError:
        return []
    return [name for name in (*zoo.entries, *zoo.models) if name.startswith(incomplete)]


def print_json(data: Any) -> None:
    """Print data for programs."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(rows: Iterable[Sequence[object]], headers: Sequence[str], right: Sequence[str] = ()) -> None:
    """Print rows for people; columns named in ``right`` are aligned to the right."""
    from tabulate import tabulate

    align = ["right" if header in right else "left" for header in headers]
    click.echo(tabulate(rows, headers, tablefmt="simple", colalign=align, disable_numparse=True))


def next_command(context: click.Context, *words: str, **options: object) -> None:
    """Tell the command to go on with, with the user's own registry and options; unset options are left out."""
    directory = context.find_root().params.get("directory")
    line = ["kzoo", *([] if directory is None else ["-C", str(directory)]), *words]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            line.append(flag)
        elif value is not None and value is not False:
            line += [flag, str(value)]
    hint(f"Next: {shlex.join(line)}")


def hint(text: str) -> None:
    """Tell a person something that is not data: it goes to stderr."""
    click.echo(text, err=True)


def count(number: int) -> str:
    """A number of parameters for people: 25.6M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if round(number / size, 1) >= 1:
            return f"{number / size:.1f}{unit}"
    return str(number)


def percent(number: float | None) -> str:
    """An accuracy in percent, or a dash where it is unknown."""
    return "-" if number is None else f"{number:.1f}"


class Progress:
    """One line that is rewritten on a terminal; a line per tenth elsewhere."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._told: tuple[str, int] | None = None

    def __call__(self, what: str, done: float) -> None:
        """Tell how far ``what`` is, once per step."""
        terminal = sys.stderr.isatty()
        step = (what, int(done * (100 if terminal else 10)))
        if step == self._told:
            return
        self._told = step
        text = f"{what}: {done:4.0%}, {time.monotonic() - self._started:.0f} s"
        click.echo(f"\r{text:<60}" if terminal else text, err=True, nl=not terminal or done >= 1)

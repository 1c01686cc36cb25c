"""``kzoo report``: what holds of the papers whose pipelines are here."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kzoo.cli.common import as_json, hint
from kzoo.errors import InputError

_FILE = click.Path(path_type=Path, dir_okay=False)
_DIR = click.Path(path_type=Path, file_okay=False)


@click.command(
    epilog="\b\nExamples:\n  kzoo report\n  kzoo report dpiat --json\n  kzoo report --html report.html\n"
    "  kzoo report --write pipelines"
)
@click.argument("papers", nargs=-1, metavar="[PAPER]...")
@as_json
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "page", type=_FILE, metavar="FILE", help="Write a page that needs no other file, with figures.")
@click.option("--write", "folder", type=_DIR, metavar="DIR", help="Write report.md, report.json and report.html there.")
@click.option(
    "--root", type=_DIR, metavar="DIR", help="The folder that holds pipelines; without it, this one or one above it."
)
def report(
    papers: tuple[str, ...],
    as_json: bool,
    as_markdown: bool,
    page: Path | None,
    folder: Path | None,
    root: Path | None,
) -> None:
    """Tell which claims of the papers hold: reproduced, not reproduced, inconclusive or not run.

    PAPER is a folder of pipelines; without one, all. Its claims.yaml holds the claims, and out/metrics.json what its
    pipeline found. A claim's verdict comes from the 95 % interval of its metric.
    """
    from kzoo.reporting.data import json_text
    from kzoo.reporting.markdown import markdown
    from kzoo.reporting.page import html
    from kzoo.reporting.reading import find_root, read_report
    from kzoo.reporting.text import text
    from kzoo.studies.metrics import metric_kinds

    if as_json and as_markdown:
        raise InputError("--json and --markdown are two forms of one report: give one of them")
    root = root if root is not None else find_root(Path())
    found = read_report(root, papers, metric_kinds())
    files = {}
    if folder is not None:
        way = _way(folder, root)
        files[folder / "report.md"] = markdown(found, way)
        files[folder / "report.json"] = json_text(found)
        files[folder / "report.html"] = html(found, way)
    if page is not None:
        files[page] = html(found, _way(page.parent, root))
    _write(files)
    shown = json_text(found) if as_json else markdown(found) if as_markdown else text(found)
    click.echo(shown, nl=False)
    for path in files:
        hint(f"Written: {path}")


def _way(folder: Path, root: Path) -> str | None:
    """The way from a folder inside the repository to the repository's; None outside, where links would lead astray."""
    folder, root = folder.resolve(), root.resolve()
    if not folder.is_relative_to(root):
        return None
    return "" if folder == root else f"{Path(os.path.relpath(root, folder)).as_posix()}/"


def _write(files: dict[Path, str]) -> None:
    from kzoo.files import replacing

    # What cannot be written as UTF-8 is found before anything is.
    encoded = {path: text.encode("utf-8") for path, text in files.items()}
    for path, content in encoded.items():
        with replacing(path) as temporary:
            temporary.write_bytes(content)

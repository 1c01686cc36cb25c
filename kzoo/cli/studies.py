"""``kzoo claims verify`` and ``kzoo environment``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kzoo.cli.common import Progress, as_json, hint, print_json, print_table
from kzoo.errors import CheckFailed

if TYPE_CHECKING:
    from kzoo.studies.verifying import Verification


@click.group(epilog="\b\nExamples:\n  kzoo claims verify dpiat\n  kzoo claims verify dpiat --rerun")
def claims() -> None:
    """What the papers claim, and whether it holds."""


@claims.command(epilog="\b\nExamples:\n  kzoo claims verify dpiat\n  kzoo claims verify dpiat --rerun")
@click.argument("paper")
@click.option("--rerun", is_flag=True, help="Run all stages again, elsewhere, and compare what they give.")
@click.option(
    "--root", type=click.Path(path_type=Path), metavar="DIR", help="The folder above pipelines; found by itself."
)
@as_json
def verify(paper: str, rerun: bool, root: Path | None, as_json: bool) -> None:
    """Check the committed results of PAPER: files, metrics, claims.

    Fails (exit 1) where a claim is not reproduced, where a file is not the one that was written, where the metrics are
    not what the tables give, or, with --rerun, where other bytes come out (other accuracies on another class of machine).
    """
    from kzoo.reporting.reading import paper_folder
    from kzoo.studies.params import read_study
    from kzoo.studies.verifying import verify as verify_study

    folder = paper_folder(paper, root)
    found = verify_study(read_study(folder), rerun, Progress(), hint)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)
    if found.failures:
        more = f", and {len(found.failures) - 1} more" if len(found.failures) > 1 else ""
        raise CheckFailed(f"{found.failures[0]}{more}")


def _show(found: Verification) -> None:
    print_table([(claim, verdict) for claim, verdict in found.verdicts.items()], ("claim", "verdict"))
    whole = found.checked - found.changed
    if found.checked:
        click.echo(f"{whole} of {found.checked} networks and plans that are here are as they were written")
    else:
        click.echo("no network and no plan is here, so none was checked")
    if found.absent:
        hint(f"{found.absent} networks and plans are not here: 'dvc repro' makes them")
    if found.rerun is not None:
        click.echo(f"run again; {found.rerun}")
    for failure in found.failures[1:]:
        hint(f"Also: {failure}")


@click.command(epilog="\b\nExamples:\n  kzoo environment\n  kzoo environment --write environment.yaml")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it into FILE.")
@as_json
def environment(write: Path | None, as_json: bool) -> None:
    """Tell the class of this machine: what decides whether the same recipe gives the same bytes."""
    from kzoo.environment import environment_class, environment_text, write_environment

    found = environment_class() if write is None else write_environment(write)
    if as_json:
        print_json(found)
    elif write is None:
        click.echo(environment_text(found).partition("\n")[2], nl=False)
    else:
        hint(f"{write} is written; DVC runs again what depends on it")

"""``kzoo curves``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kzoo.cli.common import as_json, hint, print_json, print_table

if TYPE_CHECKING:
    from kzoo.curves import Curve

#: The table has so many epochs, and the last one.
_SHOWN = 4


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo curves trained --out curves.svg\n"
    "  kzoo curves build/demo/transferred build/demo/random --out curves.svg"
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the curves into FILE, which ends in .svg.",
)
@as_json
def curves(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Draw the accuracy on the test images after each epoch, a curve for each RUN.

    RUN is a folder that kzoo run wrote from a recipe with training; its metrics.json is read. The curve is called by the
    folder.
    """
    from kzoo.curves import read_curves, write_curves

    found = read_curves(runs)
    write_curves(found, out)
    if len({curve.data for curve in found}) > 1:
        hint("Note: they were tested on different images, so these accuracies do not compare.")
    if as_json:
        print_json([_data(curve) for curve in found])
        return
    _print(found)
    click.echo(f"\nDrawn in {out}.")


def _data(curve: Curve) -> dict[str, Any]:
    epochs = [{"epoch": epoch, "test_accuracy": share} for epoch, share in curve.accuracies.items()]
    return {"folder": str(curve.folder), "name": curve.name, "data": curve.data, "epochs": epochs}


def _print(found: list[Curve]) -> None:
    epochs = sorted({epoch for curve in found for epoch in curve.accuracies})[:_SHOWN]
    rows = [
        (
            curve.name,
            *(_share(curve.accuracies.get(epoch)) for epoch in epochs),
            len(curve.accuracies),
            _share(curve.last),
        )
        for curve in found
    ]
    headers = ("run", *(f"epoch {epoch}" for epoch in epochs), "epochs", "last")
    print_table(rows, headers, right=headers[1:])


def _share(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{accuracy:.2%}"

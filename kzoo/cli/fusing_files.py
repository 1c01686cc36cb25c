"""What ``kzoo fuse`` does without torch: tell from headers what fits, and fuse weights of networks that kzoo does not know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kzoo.cli.common import count, hint, open_zoo, print_json, print_table
from kzoo.errors import CheckFailed

if TYPE_CHECKING:
    from kzoo.publish.fusibility import Fusibility

#: So many differing tensors are shown.
_MOST_SHOWN = 12


def check_sources(directory: Path | None, sources: Sequence[str], as_json: bool) -> None:
    """Tell whether networks can be fused, by their headers; exit code 1 if not."""
    from kzoo.publish.fusibility import fusibility

    found = fusibility(sources, cache(lambda: open_zoo(directory)))
    if as_json:
        print_json(found.to_dict())
    else:
        _show_check(found)
    if not found.fits:
        click.get_current_context().exit(CheckFailed.exit_code)


def _show_check(found: Fusibility) -> None:
    from kzoo.publish.licensing import NOT_ADVICE

    rows = []
    for one in found.parents:
        told = one.to_dict()
        kinds = ", ".join(told["dtypes"])
        sizes = [f"{told[key] / 1e6:,.1f} MB" for key in ("bytes", "fetched_bytes")]
        rows.append((one.name, told["tensors"], count(told["parameters"]), kinds, *sizes, one.license or "unknown"))
    headers = ("network", "tensors", "parameters", "types", "size", "to fetch", "license")
    print_table(rows, headers, right=("tensors", "parameters", "size", "to fetch"))
    click.echo("")
    click.echo("They fit." if found.fits else f"They do not fit: {found.problem}.")
    for name, versions in list(found.differing.items())[:_MOST_SHOWN]:
        each = [f"{one.dtype} {'x'.join(map(str, one.shape))}".rstrip() if one else "missing" for one in versions]
        click.echo(f"  {name}: {' | '.join(each)}")
    if len(found.differing) > _MOST_SHOWN:
        click.echo(f"  and {len(found.differing) - _MOST_SHOWN} more tensors that differ (--json lists them)")
    click.echo(f"Fusing them would fetch {found.to_fetch / 1e6:,.1f} MB.")
    license = found.license
    said = license.license_name or license.license or ("none is possible" if license.blocked else "any")
    click.echo(f"License of the result: {said}")
    for text in (*license.reasons, *license.ways_out):
        click.echo(f"  {text}")
    hint(NOT_ADVICE)

"""What ``kzoo fuse`` does without torch: tell from headers what fits, and fuse weights of networks that kzoo does not know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kzoo.cli.common import Progress, count, hint, open_zoo, print_json, print_table
from kzoo.errors import CheckFailed

if TYPE_CHECKING:
    from kzoo.publish.fusibility import Fusibility
    from kzoo.tensor_fusing import FusedTensors

#: So many differing tensors are shown.
_MOST_SHOWN = 12
#: Options that need a network to be built, or name it.
_OF_NETWORKS = ("network", "data", "recalibrate", "classes", "evaluate")


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


def fuse_unknown(
    directory: Path | None, sources: Sequence[str], parameters: dict[str, Any], options: dict[str, Any]
) -> bool:
    """Fuse weights file by file if kzoo does not know the network that they belong to; gives whether it did.

    What builds networks, or names one, is not for this.
    """
    from kzoo.files import require_new
    from kzoo.methods.fusion.parameters import FUSION, FusionParameters
    from kzoo.methods.parameters import checked_parameters
    from kzoo.tensor_fusing import fuse_tensors, is_unknown
    from kzoo.weights import locate

    chosen = checked_parameters(options["method"], FUSION[options["method"]], parameters)
    assert isinstance(chosen, FusionParameters)
    if not chosen.by_tensor or any(options[name] for name in _OF_NETWORKS) or any(map(_is_code, sources)):
        return False
    zoo = cache(lambda: open_zoo(directory))
    first = locate(sources[0], zoo)
    if not is_unknown(first, zoo):
        return False
    require_new(options["out"], options["force"])
    hint(f"kzoo does not know the network that {sources[0]} belongs to: the files are fused tensor by tensor.")
    located = [first, *(locate(source, zoo) for source in sources[1:])]
    start = None if options["start"] is None else locate(options["start"], zoo)
    found = fuse_tensors(
        located, options["method"], parameters, options["out"], start=start, force=options["force"], progress=Progress()
    )
    show_tensors(found, options["as_json"])
    return True


def _is_code(source: str) -> bool:
    return source.startswith("py:")


def show_tensors(found: FusedTensors, as_json: bool) -> None:
    """Print what was fused."""
    if as_json:
        print_json(dict(found.report))
        return
    report = found.report
    click.echo(f"{len(report['parents'])} networks of {count(report['entries'])} learned entries became one.")
    hint(f"The weights are in {found.folder}; kzoo cannot build their network: load them as the first one's.")

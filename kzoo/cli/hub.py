"""``kzoo pull``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kzoo.cli.common import Progress, as_json, complete_network, hint, open_zoo, print_json
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.hub.locks import Lock


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo pull timm/resnet18.a1_in1k\n"
    "  kzoo pull hf:user/name@v1.0\n"
    "  kzoo pull timm:resnet50 --update"
)
@click.argument("model", shell_complete=complete_network)
@click.option("--update", is_flag=True, help="Move the lock to what the Hub has now, and show what has changed.")
@as_json
@click.pass_obj
def pull(directory: Path | None, /, model: str, update: bool, as_json: bool) -> None:
    """Fetch the weights of MODEL from the Hub into the client's cache, verified, and lock what was fetched.

    MODEL is hf:user/name, hf:user/name@revision, or a model of a registry that lies on the Hub. What is locked and whole
    in the cache costs no request. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are honoured.
    """
    from kzoo.hub.models import default_fetcher, wanted

    zoo = open_zoo(directory)
    asked = wanted(model, lambda: zoo)
    if asked is None:
        raise InputError(
            f"{model!r:.120} names no model on the Hub: expected hf:user/name, or a model that 'kzoo list' shows; nearest: "
            f"{', '.join(zoo.nearest(model))}"
        )
    fetcher = default_fetcher(zoo, Progress(), hint)
    before = fetcher.lock(asked)
    pulled = fetcher.fetch(asked, update)
    lock = pulled.lock
    if as_json:
        print_json({"path": str(pulled.path), "fetched": pulled.fetched, "lock": lock.model_dump()})
        return
    if update and before is not None:
        _show_changes(before, lock)
    how = f"{pulled.fetched / 1e6:,.1f} MB fetched" if pulled.fetched else "nothing to fetch"
    click.echo(f"{lock.repository} at {lock.commit}: {how}, verified")
    hint(f"It is at {pulled.path}")


def _show_changes(before: Lock, after: Lock) -> None:
    """What an update has changed."""
    if before.commit == after.commit:
        click.echo(f"still at {after.commit[:12]}")
        return
    click.echo(f"{before.commit[:12]} -> {after.commit[:12]}")
    old, new = ({file.name: file for file in lock.files} for lock in (before, after))
    for name in sorted({*old, *new}):
        if name not in new:
            click.echo(f"  - {name}")
        elif name not in old:
            click.echo(f"  + {name}, {new[name].size:,} bytes")
        elif old[name] != new[name]:
            click.echo(f"  ~ {name}, {old[name].size:,} -> {new[name].size:,} bytes")
    if before.license != after.license:
        click.echo(f"  license: {before.license} -> {after.license}")

"""``kzoo pull``."""

from __future__ import annotations

from pathlib import Path

import click

from kzoo.cli.common import Progress, as_json, complete_network, hint, open_zoo_to_fill, print_json
from kzoo.errors import InputError


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
    from kzoo.hub.locks import changes
    from kzoo.hub.models import Fetcher, lock_folders, wanted
    from kzoo.paths import registry_for_locks

    own = registry_for_locks(directory)
    zoo = open_zoo_to_fill(directory, own)
    asked = wanted(f"hf:{model}" if "@" in model and not model.startswith("hf:") else model, lambda: zoo)
    if asked is None:
        raise InputError(
            f"{model!r:.120} names no model on the Hub: expected hf:user/name, or a model that 'kzoo list' shows; nearest: "
            f"{', '.join(zoo.nearest(model))}"
        )
    fetched = Fetcher(lock_folders(zoo), own, Progress(), hint).fetch(asked, update)
    lock, before = fetched.lock, fetched.before
    lines = list(changes(before, lock)) if update and before is not None else []
    if as_json:
        told = {"path": str(fetched.path), "fetched": fetched.fetched, "changes": lines}
        print_json(told | {"lock": lock.model_dump(exclude={"network"})})
        return
    if update and before is not None:
        moved = before.commit != lock.commit
        click.echo(f"{before.commit[:12]} -> {lock.commit[:12]}" if moved else f"still at {lock.commit[:12]}")
        for line in lines:
            click.echo(f"  {line}")
    how = f"{fetched.fetched / 1e6:,.1f} MB fetched" if fetched.fetched else "nothing to fetch"
    click.echo(f"{lock.repository} at {lock.commit}: {how}, verified")
    hint(f"It is at {fetched.path}")

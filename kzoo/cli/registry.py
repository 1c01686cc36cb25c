"""``kzoo registry``: check the registry's files, print their schema, fill them from the libraries."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kzoo.cli.common import Progress, as_json, hint, next_command, open_zoo_to_fill, print_json
from kzoo.errors import CheckFailed, InputError, KzooError, WorldError

if TYPE_CHECKING:
    from kzoo.catalog import Fault
    from kzoo.hub.checking import Finding
    from kzoo.hub.syncing import HubSync


@click.group(epilog="\b\nExamples:\n  kzoo registry check\n  kzoo registry sync timm")
def registry() -> None:
    """Check the registry's files, or fill them from the libraries."""


@registry.command(
    "check",
    epilog="\b\nExamples:\n"
    "  kzoo registry check\n"
    "  kzoo registry check my-registry --json\n"
    "  kzoo -C my-registry registry check --remote",
)
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--remote", is_flag=True, help="Ask the Hub, too, for what is dead, moved, gated or changed.")
@as_json
@click.pass_context
def registry_check(context: click.Context, folder: Path | None, remote: bool, as_json: bool) -> None:
    """Check every file of the registry (or of FOLDER): names file, line and field of every fault.

    With --remote, every entry's repository is looked for on the Hub, every lock is held against what the Hub has now, and
    every other address is tried; exit code 1 if something is not as the registry says.
    """
    from kzoo.catalog import check_registry
    from kzoo.paths import registry_to_change

    directory = folder or registry_to_change(context.obj)
    found = check_registry(directory)
    found = found if found.faults else replace(found, faults=_lock_faults(directory))
    counts = {"files": found.files, "architectures": found.architectures, "checkpoints": found.checkpoints}
    said = ", ".join(f"{number:,} {what}" for what, number in counts.items())
    findings: list[Finding] = []
    error = _ask_remote(directory, findings) if remote and not found.faults else None
    if as_json:
        faults = [{**asdict(fault), "file": str(fault.file)} for fault in found.faults]
        print_json({**counts, "faults": faults} | ({"remote": [asdict(each) for each in findings]} if remote else {}))
    else:
        click.echo(f"{said}: {len(found.faults) or 'no'} fault{'s' * (len(found.faults) > 1)} found.")
        for fault in found.faults:
            hint(f"Error: {fault}")
        for each in findings:
            click.echo(f"{each.problem:<8} {each.model}: {each.said}")
        if remote and not found.faults and not findings and error is None:
            click.echo("All of it is on the Hub as the registry says.")
    if found.faults:
        context.exit(InputError.exit_code)
    if error is not None:
        raise error
    if any(each.problem != "unknown" for each in findings):
        context.exit(CheckFailed.exit_code)
    if findings:
        raise WorldError(f"nothing could be learned of {findings[0].model} ({findings[0].said}): try again later")


def _lock_faults(directory: Path) -> list[Fault]:
    from kzoo.catalog import load_registry
    from kzoo.hub.entries import lock_faults

    return list(lock_faults(directory, load_registry(directory)))


def _ask_remote(directory: Path, findings: list[Finding]) -> KzooError | None:
    """Ask the Hub; what was found until something failed counts, too."""
    from kzoo.catalog import load_registry
    from kzoo.hub.checking import check_places, places

    try:
        findings.extend(check_places(places(load_registry(directory), directory), Progress()))
    except WorldError as error:
        return error
    return None


@registry.command("schema", epilog="\b\nExamples:\n  kzoo registry schema > registry-file.schema.json")
@as_json
def registry_schema(as_json: bool) -> None:
    """Print the JSON Schema of a registry file, for editors and other programs; it is JSON with and without --json."""
    from kzoo.catalog import schema_text

    click.echo(schema_text(), nl=False)


@registry.command(
    "sync",
    epilog="\b\nExamples:\n"
    "  kzoo registry sync timm --dry-run\n"
    "  kzoo -C my-registry registry sync torchvision --prune\n"
    "  kzoo registry sync hub --filter image-classification --limit 200",
)
@click.argument("library", type=click.Choice(["timm", "torchvision", "hub"]))
@click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
@click.option("--prune", is_flag=True, help="Remove entries that the library does not have.")
@click.option("--take-library", is_flag=True, help="Take the library's value where the file has another one.")
@click.option(
    "--filter", "filters", multiple=True, metavar="TAG", help="hub: only repositories with this tag; may be repeated."
)
@click.option("--author", metavar="NAME", help="hub: only repositories of this user or organisation.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="hub: the N downloaded most. Default: 100.")
@click.option("--update", is_flag=True, help="hub: move the locks of what has changed.")
@as_json
@click.pass_context
def registry_sync(context: click.Context, /, library: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Merge what the installed LIBRARY knows into the registry's files; people's edits and comments stay.

    hub: add repositories of the Hub to your own registry, by their headers: those with all tags of --filter, those of
    --author. What is there is skipped, so that it goes on where it was interrupted; what could not be read is listed, and
    written to unreadable.json.
    """
    mine, others = (_HUB_OPTIONS, _LIBRARY_OPTIONS) if library == "hub" else (_LIBRARY_OPTIONS, _HUB_OPTIONS)
    strange = next((name for name in others if options[name]), None)
    if strange is not None:
        raise InputError(f"--{strange.rstrip('s').replace('_', '-')} means nothing to sync {library}: leave it out")
    given = {name: options[name] for name in mine}
    (_sync_hub if library == "hub" else _sync_library)(context, library, dry_run, as_json, **given)


_LIBRARY_OPTIONS = ("prune", "take_library")
_HUB_OPTIONS = ("filters", "author", "limit", "update")


def _sync_library(context: click.Context, library: str, dry_run: bool, as_json: bool, **options: bool) -> None:
    from kzoo.paths import registry_to_change
    from kzoo.sync import reports, sync_data, sync_library

    directory = registry_to_change(context.obj)
    result = sync_library(library, directory, Progress(), dry_run=dry_run, **options)
    if as_json:
        print_json(sync_data(result))
        return
    for file in result.files:
        click.echo(file.diff(), nl=False)
    for report in reports(result):
        click.echo(report)
    said = f"{library} {result.version}: {len(result.written)} files {'would be ' * dry_run}written"
    click.echo(f"{said}, {len(result.deleted)} deleted." if result.deleted else f"{said}.")
    if (result.written or result.deleted) and not dry_run:
        next_command(context, "index")


def _sync_hub(
    context: click.Context,
    _library: str,
    dry_run: bool,
    as_json: bool,
    *,
    filters: tuple[str, ...],
    author: str | None,
    limit: int | None,
    update: bool,
) -> None:
    from kzoo.hub.syncing import Query, sync_data, sync_hub
    from kzoo.paths import registry_for_local

    directory = registry_for_local(context.obj)
    zoo = open_zoo_to_fill(context.obj, directory)
    query = Query(filters, author, limit or Query.limit)
    done = sync_hub(query, directory, zoo, Progress(), dry_run=dry_run, update=update)
    if as_json:
        print_json(sync_data(done))
    else:
        _show_sync(done, dry_run, directory)
    if done.stopped is not None:
        raise WorldError(f"{done.stopped}; run this again to go on")


def _show_sync(done: HubSync, dry_run: bool, directory: Path) -> None:
    for name in (*done.added, *done.updated):
        click.echo(f"+ {name}" if name in done.added else f"~ {name}")
    for name, reason in done.unreadable.items():
        click.echo(f"- {name}: {reason}")
    told = {
        "unchanged": done.unchanged,
        "locked at a revision": done.pinned,
        "in another registry or file": done.known,
        "changed since they were locked": done.changed,
    }
    more = "".join(f", {len(names)} {what}" for what, names in told.items() if names)
    click.echo(
        f"{done.listed} listed: {len(done.added)} {'would be ' * dry_run}added, {len(done.updated)} updated, "
        f"{len(done.unreadable)} not readable{more}."
    )
    if done.changed:
        hint("--update moves the locks of what has changed.")
    if done.added and not dry_run:
        hint(f"wrote {directory}")

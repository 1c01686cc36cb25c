"""``kzoo registry``: check the registry's files, print their schema, fill them from the libraries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from kzoo.cli.common import Progress, as_json, hint, next_command, print_json
from kzoo.errors import InputError


@click.group(epilog="\b\nExamples:\n  kzoo registry check\n  kzoo registry sync timm")
def registry() -> None:
    """Check the registry's files, or fill them from the libraries."""


@registry.command("check", epilog="\b\nExamples:\n  kzoo registry check\n  kzoo registry check my-registry --json")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@as_json
@click.pass_context
def registry_check(context: click.Context, folder: Path | None, as_json: bool) -> None:
    """Check every file of the registry (or of FOLDER): names file, line and field of every fault."""
    from kzoo.catalog import check_registry
    from kzoo.paths import registry_to_change

    found = check_registry(folder or registry_to_change(context.obj))
    counts = {"files": found.files, "architectures": found.architectures, "checkpoints": found.checkpoints}
    said = ", ".join(f"{number:,} {what}" for what, number in counts.items())
    if as_json:
        faults = [{**asdict(fault), "file": str(fault.file)} for fault in found.faults]
        print_json({**counts, "faults": faults})
    else:
        click.echo(f"{said}: {len(found.faults) or 'no'} fault{'s' * (len(found.faults) > 1)} found.")
        for fault in found.faults:
            hint(f"Error: {fault}")
    if found.faults:
        context.exit(InputError.exit_code)


@registry.command("schema", epilog="\b\nExamples:\n  kzoo registry schema > registry-file.schema.json")
@as_json
def registry_schema(as_json: bool) -> None:
    """Print the JSON Schema of a registry file, for editors and other programs; it is JSON with and without --json."""
    from kzoo.catalog import schema_text

    click.echo(schema_text(), nl=False)


@registry.command(
    "sync",
    epilog="\b\nExamples:\n  kzoo registry sync timm --dry-run\n  kzoo -C my-registry registry sync torchvision --prune",
)
@click.argument("library", type=click.Choice(["timm", "torchvision"]))
@click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
@click.option("--prune", is_flag=True, help="Remove entries that the library does not have.")
@click.option("--take-library", is_flag=True, help="Take the library's value where the file has another one.")
@as_json
@click.pass_context
def registry_sync(
    context: click.Context, library: str, dry_run: bool, prune: bool, take_library: bool, as_json: bool
) -> None:
    """Merge what the installed LIBRARY knows into the registry's files; people's edits and comments stay."""
    from kzoo.paths import registry_to_change
    from kzoo.sync import reports, sync_data, sync_library

    directory = registry_to_change(context.obj)
    result = sync_library(library, directory, Progress(), dry_run=dry_run, prune=prune, take_library=take_library)
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

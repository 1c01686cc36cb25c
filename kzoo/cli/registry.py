"""``kzoo registry``: check the registry's files, fill them from the libraries."""

from __future__ import annotations

from pathlib import Path

import click

from kzoo.cli.common import Progress, as_json, hint, print_json


@click.group(epilog="\b\nExamples:\n  kzoo registry check\n  kzoo registry sync timm")
def registry() -> None:
    """Check the registry's files, or fill them from the libraries."""


@registry.command("check", epilog="\b\nExamples:\n  kzoo registry check\n  kzoo registry check my-registry")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@as_json
@click.pass_obj
def registry_check(directory: Path | None, folder: Path | None, as_json: bool) -> None:
    """Check every file of the registry (or of FOLDER) against the schema: names file, line and field of a fault."""
    from kzoo.catalog import load_registry
    from kzoo.paths import registry_directory

    families = load_registry(folder or directory or registry_directory())
    entries = [entry for family in families for entry in family.architectures]
    checkpoints = sum(len(entry.checkpoints) for entry in entries)
    if as_json:
        print_json({"files": len(families), "architectures": len(entries), "checkpoints": checkpoints})
        return
    click.echo(f"{len(families):,} files, {len(entries):,} architectures, {checkpoints:,} checkpoints: no fault found.")


@registry.command(
    "sync", epilog="\b\nExamples:\n  kzoo registry sync timm\n  kzoo -C my-registry registry sync torchvision"
)
@click.argument("library", type=click.Choice(["timm", "torchvision"]))
@as_json
@click.pass_obj
def registry_sync(directory: Path | None, library: str, as_json: bool) -> None:
    """Write the registry's files of LIBRARY from the installed package."""
    from kzoo.paths import registry_directory
    from kzoo.sync import sync_library

    written = [str(path) for path in sync_library(library, directory or registry_directory(), Progress())]
    if as_json:
        print_json({"library": library, "written": written})
        return
    click.echo("\n".join(f"wrote {path}" for path in written) or f"nothing has changed in {library}")
    if written:
        hint("Next: kzoo index")

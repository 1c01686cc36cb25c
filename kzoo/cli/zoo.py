"""``kzoo list``, ``show`` and ``index``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kzoo.cli.common import (
    Progress,
    as_json,
    complete_network,
    count,
    filter_options,
    hint,
    open_zoo,
    open_zoo_to_fill,
    percent,
    print_json,
    print_table,
)
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.zoo import Model, Zoo

_SORTS = {
    "id": lambda model: model.id,
    "accuracy": lambda model: (model.accuracy is None, -(model.accuracy or 0.0)),
    "params": lambda model: model.parameters,
    "license": lambda model: model.license,
}


@click.command(
    "list",
    epilog="\b\nExamples:\n"
    "  kzoo list --library torchvision --sort accuracy\n"
    "  kzoo list resnet --license permissive --max-params 30M\n"
    "  kzoo list --json",
)
@click.argument("text", default="")
@filter_options
@click.option("--sort", type=click.Choice(list(_SORTS)), default="id", show_default=True, help="Order of the rows.")
@click.option("--origin", is_flag=True, help="Show which registry each model comes from.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Rows of the table; 0 for all. JSON has all.",
)
@as_json
@click.pass_obj
def list_models(
    directory: Path | None, /, text: str, sort: str, origin: bool, limit: int, as_json: bool, **filters: Any
) -> None:
    """List trained models, all or those whose id or architecture contains TEXT."""
    from kzoo.search import Filters

    passed = Filters(**filters).select(open_zoo(directory).models.values())
    models = [model for model in passed if text.lower() in f"{model.id} {model.architecture}".lower()]
    models.sort(key=_SORTS[sort])
    if as_json:
        print_json([_model_data(model) for model in models])
        return
    rows = [
        (
            model.id,
            count(model.parameters),
            percent(model.accuracy),
            model.license_label,
            "-" if model.classes is None else model.classes,
            ", ".join(model.trained_on),
            *([model.origin] if origin else []),
        )
        for model in models[: limit or None]
    ]
    headers = ("model", "size", "top-1", "license", "classes", "trained on", *(["origin"] if origin else []))
    print_table(rows, headers, right=("size", "top-1", "classes"))
    hint(
        f"\n{len(rows):,} of {len(models):,} models shown."
        + (" --limit 0 shows all." if len(rows) < len(models) else "")
    )


def _model_data(model: Model) -> dict[str, Any]:
    """Every field of a checkpoint's registry entry, and what kzoo derives from it."""
    derived = {
        "library": model.library,
        "family": model.entry.family,
        "version": model.entry.version,
        "architecture": model.architecture,
        "task": model.task,
        "trained_on": model.trained_on,
        "metrics": model.metrics,
        "accuracy": model.accuracy,
        "origin": model.origin,
        "exact": not model.form.approximate,
    }
    return dict(model.fields) | derived


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo show timm:resnet50\n"
    "  kzoo show timm/resnet50.a1_in1k\n"
    "  kzoo show torchvision:resnet18 --layers"
)
@click.argument("model", shell_complete=complete_network)
@click.option("--layers", is_flag=True, help="List the items and layers of the standardized architecture.")
@click.option("--trust-code", is_flag=True, help="Allow py:package.module:factory, which imports and runs code.")
@as_json
@click.pass_obj
def show(directory: Path | None, model: str, layers: bool, trust_code: bool, as_json: bool) -> None:
    """Show what is known of an architecture, a checkpoint, a file or any other network."""
    import kzoo

    zoo = open_zoo(directory)
    architecture = kzoo.architecture(model, trust_code=trust_code, registry=zoo)
    data = _show_data(zoo, model) | {
        "exact": not architecture.approximate,
        "fingerprint": architecture.fingerprint,
        "items": len(architecture.items),
        "typed_layers": architecture.typed_layers,
    }
    if layers:
        data["layers"] = [
            {
                "path": path,
                "kind": layer.kind,
                "shape": layer.shape,
                "name": layer.name,
                "bias": bool(layer.bias_entries),
            }
            for path, layer in architecture.paths()
        ]
    if as_json:
        print_json(data)
        return
    for name, value in data.items():
        if name not in ("checkpoints", "layers"):
            click.echo(f"{name:<13} {_for_people(value)}")
    if data.get("checkpoints"):
        click.echo("")
        headers = ("id", "license", "classes", "input_size")
        print_table([[_for_people(row.get(header)) for header in headers] for row in data["checkpoints"]], headers)
    if layers:
        click.echo("")
        table = [
            (".".join(map(str, row["path"])), row["kind"], _for_people(row["shape"]), row["name"])
            for row in data["layers"]
        ]
        print_table(table, ("path", "kind", "shape", "name"))


def _for_people(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_for_people(part)}" for name, part in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return (", " if value and isinstance(value[0], str) else " x ").join(map(str, value)) or "-"
    return str(value)


def _show_data(zoo: Zoo, name: str) -> dict[str, Any]:
    entry = zoo.entries.get(name)
    if entry is not None:
        checkpoints = [model.fields for model in zoo.models.values() if model.architecture == name]
        data = {"library": entry.library, "family": entry.family, "version": entry.version, **entry.fields}
        return data | ({"checkpoints": checkpoints} if checkpoints else {})
    model = zoo.model(name) or zoo.model(name.replace(":", "/", 1))
    return _model_data(model) if model else {"name": name}


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo add runs/42/model.safetensors --name my-resnet --license mit\n"
    "  kzoo add timm/resnet18.a1_in1k\n"
    "  kzoo add hf:user/name@v1.0 --trained-on imagenet-1k\n"
    "  kzoo -C team-registry add backbone.safetensors --license other --license-name team --license-link LICENSE.md"
)
@click.argument("network", metavar="PATH|user/name[@revision]")
@click.option("--name", metavar="NAME", help="Of a file: its id is local/NAME. Default: from the path.")
@click.option("--license", metavar="ID", help="SPDX id or expression, the Hub's id, or other. Default: as known.")
@click.option("--license-name", metavar="TEXT", help="The name of a license that is 'other'.")
@click.option("--license-link", metavar="URL", help="Where to read a license that is 'other'.")
@click.option("--trained-on", multiple=True, metavar="DATA", help="A data set it was trained on; may be repeated.")
@click.option("--submodule", metavar="NAME", help="Only this part of the network is of use.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace the entry of that name; what is not given here is kept from it, comments are not.",
)
@as_json
@click.pass_obj
def add(
    directory: Path | None,
    /,
    network: str,
    name: str | None,
    force: bool,
    as_json: bool,
    trained_on: Any,
    **details: Any,
) -> None:
    """Add weights on this machine or on the Hub to your own registry, so that they are ranked with all others.

    PATH is a safetensors file, the index of a sharded one, or a folder that holds one. No weight is
    loaded; the file is read once for its SHA-256. Of a folder that kzoo run wrote, its recipe and its metrics tell
    data and accuracy. user/name (or hf:user/name, hf:user/name/FILE) is a repository on the Hub: its headers are read, and
    its commit, sizes and SHA-256 are locked; kzoo pull fetches that. The entry goes to the registry of -C, else to the last
    one of KZOO_REGISTRY, else to your own in the user's configuration folder.
    """
    from kzoo.hub.names import meant_on_hub
    from kzoo.paths import registry_for_local

    directory = registry_for_local(directory)
    details["trained_on"] = list(dict.fromkeys(trained_on))
    remote = meant_on_hub(network)
    lock = None
    if remote is None:
        from kzoo.local import add_model

        written, checkpoint = add_model(Path(network), directory, details, Progress(), name, force)
        identifier = checkpoint.id
    else:
        from kzoo.hub.adding import add_from_hub

        if name is not None:
            raise InputError("--name is for files: a network of the Hub is known by its own name; leave it out")
        known = open_zoo_to_fill(directory, directory)
        added = add_from_hub(remote, directory, details, known, Progress(), force)
        written, identifier, lock = added.file, added.id, added.lock
    model = open_zoo_to_fill(directory, directory).models[identifier]
    exact = not model.form.approximate
    if as_json:
        told = {} if lock is None else {"lock": lock.model_dump(exclude={"network"})}
        print_json({"written": str(written), "exact": exact, **model.fields, **told})
        return
    kind = "exact, from its config.json" if exact else "approximate: read from the header alone"
    click.echo(f"{model.id}: {count(model.parameters)} parameters, license {model.license_label}, {kind}")
    if lock is not None:
        click.echo(f"locked at {lock.commit}, {lock.size / 1e6:,.1f} MB")
    hint(f"wrote {written}")


@click.command("index", epilog="\b\nExamples:\n  kzoo index\n  kzoo index --check\n  kzoo -C my-registry index")
@click.option(
    "--check", is_flag=True, help="Only say whether the index fits the registry and the code (exit code 1 if not)."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the index there instead of beside the registry.",
)
@as_json
@click.pass_obj
def index(directory: Path | None, check: bool, out: Path | None, as_json: bool) -> None:
    """Compile the registry into the index that searches use: about three minutes for kzoo's own, a moment for files."""
    from kzoo.indexing import build_index, check_index
    from kzoo.locking import locked
    from kzoo.paths import index_file, registry_to_change

    directory = registry_to_change(directory)
    path = out or index_file(directory)
    if check:
        meta = check_index(directory, path)
    else:
        with locked(directory):
            meta = build_index(directory, path, Progress())
    if as_json:
        print_json({"path": str(path), "bytes": path.stat().st_size, **meta})
        return
    click.echo(
        f"{path}: {meta['architectures']:,} architectures, {meta['fingerprints']:,} fingerprints, "
        f"{meta['checkpoints']:,} checkpoints, {path.stat().st_size / 1e6:.2f} MB"
    )

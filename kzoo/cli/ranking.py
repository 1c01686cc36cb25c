"""``kzoo recommend`` and ``kzoo compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kzoo.cli.common import (
    as_json,
    complete_network,
    count,
    filter_options,
    hint,
    next_command,
    open_zoo,
    percent,
    print_json,
    print_table,
    target_options,
)
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.layers import Architecture
    from kzoo.matching import Matching
    from kzoo.search import Recommendation, Row
    from kzoo.zoo import Zoo

_MEASURES = ("symmetric", "directed", "reverse", "extended")
_SORTS = {
    "similarity": lambda row: -row.similarity,
    "coverage": lambda row: -(row.coverage or 0.0),
    "accuracy": lambda row: (row.accuracy is None, -(row.accuracy or 0.0)),
    "params": lambda row: row.params,
    "license": lambda row: row.license,
    "model": lambda row: row.model,
}


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo recommend timm:resnet26d\n"
    "  kzoo recommend timm:tf_efficientnet_b1 --classes 100 --license permissive --max-params 30M\n"
    "  kzoo recommend torchvision:resnet18 -k 3 --exclude-same --explain\n"
    "  kzoo recommend timm:vit_tiny_patch16_224 --json"
)
@click.argument("target", shell_complete=complete_network)
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="How many sources to show.")
@click.option(
    "--measure",
    type=click.Choice(_MEASURES),
    default="symmetric",
    show_default=True,
    help="The paper's symmetric similarity; how much of the target the source covers (directed); or ours (extended), "
    "which also sees LayerNorm and other layers that the paper leaves out.",
)
@filter_options
@click.option("--exclude-same", is_flag=True, help="Leave out models with exactly the target's architecture.")
@click.option("--all-weights", is_flag=True, help="A row for every checkpoint, not only the best of an architecture.")
@click.option(
    "--sort", type=click.Choice(list(_SORTS)), default="similarity", show_default=True, help="Order of the rows shown."
)
@click.option("--explain", is_flag=True, help="Say in words why each source, and what would stay random.")
@target_options
@as_json
@click.pass_context
def recommend(
    context: click.Context,
    /,
    target: str,
    k: int,
    measure: Any,
    sort: str,
    explain: bool,
    all_weights: bool,
    as_json: bool,
    reading: dict[str, Any],
    **filters: Any,
) -> None:
    """Rank trained models as sources for TARGET by how alike the architectures are.

    TARGET is timm:NAME, torchvision:NAME, a registry id such as timm/resnet18.a1_in1k, the path of a safetensors file
    or of a folder that holds one, or py:package.module:factory. Needs no weights, no data and no network. Models of one
    architecture share a row, headed by the best of them.
    """
    import kzoo
    from kzoo.refine import refined

    zoo = open_zoo(context.obj)
    zoo = refined(zoo) if reading["refine"] else zoo
    wanted = kzoo.architecture(target, **reading, registry=zoo)
    found = kzoo.recommend(wanted, k, measure, filters=kzoo.Filters(**filters), all_weights=all_weights, registry=zoo)
    rows = sorted(found, key=_SORTS[sort])
    reasons = {row.model: _reasons(row, wanted, measure, zoo) for row in rows} if explain else {}
    if as_json:
        results = [asdict(row) | ({"explanation": reasons[row.model]} if explain else {}) for row in rows]
        print_json(found.to_dict() | {"target": target, "results": results})
        return
    _print_ranking(target, found, rows)
    for row in rows if explain else ():
        click.echo(f"\n{row.rank}. {row.model}\n   " + "\n   ".join(reasons[row.model]))
    if wanted.approximate and not reading["refine"]:
        _tell_refinable(wanted, zoo)
    best = next((row for row in rows if not row.same), None)
    if best is not None and best.library == "local" and reading["submodule"] is None and _can_be_built(target, zoo):
        options = {name: reading[name] for name in ("classes", "in_chans", "img_size", "trust_code")}
        next_command(context, "transfer", best.model, target, **options, out="start")
    elif best is not None:
        extended = "extended" if measure == "extended" else None
        next_command(context, "compare", best.model, target, measure=extended, **reading)


def _can_be_built(target: str, zoo: Zoo) -> bool:
    """Whether a transfer can go into the target: not into one that is known by its file only."""
    from kzoo.building import network_spec

    try:
        network_spec(target, lambda: zoo)
    except InputError:
        return False
    return True


def _tell_refinable(target: Architecture, zoo: Zoo) -> None:
    from kzoo.refine import fitting

    known = list(fitting(zoo, target))
    if known:
        hint(f"It has the layers of {', '.join(known)}: --refine makes all values exact.")


def _reasons(row: Row, target: Architecture, measure: Any, zoo: Zoo) -> list[str]:
    import kzoo
    from kzoo.explain import explain

    return explain(kzoo.match(row.model, target, measure, registry=zoo))


def _print_ranking(target: str, found: Recommendation, rows: list[Row]) -> None:
    if not rows:
        hint("no trained model passes the filters: loosen them")
        return
    second = "directed" if found.measure != "directed" else "symmetric"
    table = [
        (
            row.rank,
            row.model,
            f"{row.similarity:.4f}",
            _or_dash(getattr(row, second), ".4f"),
            _or_dash(row.coverage, ".1%"),
            count(row.params),
            percent(row.accuracy),
            row.license_name if row.license.lower() == "other" else row.license,
            row.checkpoints,
            _note(row, found),
        )
        for row in rows
    ]
    headers = ("#", "model", found.measure, second, "coverage", "size", "top-1", "license", "weights", "note")
    print_table(table, headers, right=("#", found.measure, second, "coverage", "size", "top-1", "weights"))
    hint(
        f"\n{found.scanned:,} checkpoints of {found.architectures:,} architectures ranked for {target} "
        f"in {found.elapsed_ms:.0f} ms."
    )
    if not found.exact:
        hint(f"{target} is read from a file's header, so all values are approximate.")
    for warning in dict.fromkeys(row.warning for row in rows if row.warning):
        hint(f"{_label(warning)}: {warning.removeprefix('uncertain: ')}")


def _label(warning: str | None) -> str:
    from kzoo.search import HARMFUL, UNCERTAIN

    return {HARMFUL: "likely worse", UNCERTAIN: "uncertain", None: ""}[warning]


def _note(row: Row, found: Recommendation) -> str:
    notes = ["same architecture" if row.same else _label(row.warning)]
    if found.exact and not row.exact:
        notes.append("approximate")
    return ", ".join(filter(None, notes))


def _or_dash(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo compare timm:resnet50 timm:resnet26d\n"
    "  kzoo compare timm/resnet34.a1_in1k timm:resnet18 --classes 10 --pairs\n"
    "  kzoo compare torchvision:vgg16 torchvision:resnet18 --plot matching.svg\n"
    "  kzoo compare timm:vit_small_patch16_224 timm:deit_tiny_patch16_224 --measure extended --json"
)
@click.argument("source", shell_complete=complete_network)
@click.argument("target", shell_complete=complete_network)
@click.option(
    "--measure",
    type=click.Choice(["paper", "extended"]),
    default="paper",
    show_default=True,
    help="Which layers count.",
)
@click.option("--pairs", "show_pairs", is_flag=True, help="List every matched pair of layers.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw both networks and the matching into FILE, which ends in .svg or .html.",
)
@target_options
@as_json
@click.pass_context
def compare(
    context: click.Context,
    /,
    source: str,
    target: str,
    measure: str,
    show_pairs: bool,
    plot: Path | None,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Match the layers of SOURCE to those of TARGET and measure how alike they are.

    --classes, --in-chans, --img-size and --submodule change TARGET. With --measure extended, LayerNorm and other layers
    that the paper leaves out are matched too, and all numbers are those of that measure.
    """
    import kzoo

    zoo = open_zoo(context.obj)
    wanted = kzoo.architecture(target, **reading, registry=zoo)
    trained = kzoo.architecture(source, trust_code=reading["trust_code"], refine=reading["refine"], registry=zoo)
    matching = kzoo.match(trained, wanted, "extended" if measure == "extended" else "symmetric")
    if plot is not None:
        from kzoo.plots.matching import write_plot

        write_plot(matching, plot)
    if as_json:
        print_json(_matching_data(source, target, measure, matching))
        return
    _print_matching(measure, matching)
    if plot is not None:
        click.echo(f"\nDrawn in {plot}.")
    if show_pairs:
        click.echo("")
        rows = [(s, t, f"{score:.3f}") for s, t, score in _named_pairs(matching)]
        print_table(rows, (source, target, "score"), right=("score",))
    else:
        extended = "extended" if measure == "extended" else None
        next_command(context, "compare", source, target, measure=extended, pairs=True, **reading)


def _matching_data(source: str, target: str, measure: str, matching: Matching) -> dict[str, Any]:
    pairs = _named_pairs(matching)
    return {
        "source": source,
        "target": target,
        "measure": measure,
        "exact": not (matching.source.approximate or matching.target.approximate),
        "similarity": matching.symmetric,
        "directed": matching.directed,
        "reverse": matching.reverse,
        "value": matching.value,
        "matched_layers": len(pairs),
        "source_layers": matching.source.typed_layers,
        "target_layers": matching.target.typed_layers,
        "coverage": matching.coverage,
        "pairs": pairs,
    }


def _print_matching(measure: str, matching: Matching) -> None:
    from kzoo.explain import explain

    numbers = (
        ("similarity", f"{matching.symmetric:.4f}", "the paper's, symmetric" if measure == "paper" else "extended"),
        ("directed", f"{matching.directed:.4f}", "how much of the target the source covers"),
        ("reverse", f"{matching.reverse:.4f}", "how much of the source the target covers"),
        ("coverage", f"{matching.coverage:.1%}", "of the target's learned entries overwritten"),
    )
    for name, value, meaning in numbers:
        click.echo(f"{name:<11}{value:>7}  {meaning}")
    click.echo("\n" + "\n".join(explain(matching)))
    if matching.source.approximate or matching.target.approximate:
        hint("\nRead from a file's header, so all values are approximate.")


def _named_pairs(matching: Matching) -> list[tuple[str, str, float]]:
    sources, targets = dict(matching.source.paths()), dict(matching.target.paths())
    return [(sources[theirs].name, targets[ours].name, score) for theirs, ours, score in matching.pairs]

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
    index_path,
    next_command,
    percent,
    print_json,
    print_table,
    target_options,
)

if TYPE_CHECKING:
    from kzoo.layers import Architecture
    from kzoo.matching import Matching
    from kzoo.search import Recommendation, Row

_SORTS = {
    "similarity": lambda row: -row.similarity,
    "coverage": lambda row: -row.coverage,
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
    type=click.Choice(["symmetric", "directed", "reverse"]),
    default="symmetric",
    show_default=True,
    help="The paper's symmetric similarity, or how much of the target the source covers (directed).",
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
    classes: int | None,
    in_chans: int | None,
    img_size: int | None,
    trust_code: bool,
    **filters: Any,
) -> None:
    """Rank trained models as sources for TARGET by how alike the architectures are.

    TARGET is timm:NAME, torchvision:NAME, a registry id such as timm/resnet18.a1_in1k, or py:package.module:factory.
    Needs no weights, no data and no network. Models of one architecture share a row, headed by the best of them.
    """
    import kzoo

    index = index_path(context.obj)
    changes: dict[str, Any] = {"classes": classes, "in_chans": in_chans, "img_size": img_size, "trust_code": trust_code}
    wanted = kzoo.architecture(target, **changes, index=index)
    found = kzoo.recommend(wanted, k, measure, filters=kzoo.Filters(**filters), all_weights=all_weights, index=index)
    rows = sorted(found, key=_SORTS[sort])
    reasons = {row.model: _reasons(row, wanted, index) for row in rows} if explain else {}
    if as_json:
        results = [asdict(row) | ({"explanation": reasons[row.model]} if explain else {}) for row in rows]
        print_json(found.to_dict() | {"target": target, "results": results})
        return
    _print_ranking(target, found, rows)
    for row in rows if explain else ():
        click.echo(f"\n{row.rank}. {row.model}\n   " + "\n   ".join(reasons[row.model]))
    best = next((row for row in rows if not row.same), None)
    if best is not None:
        next_command(context, "compare", best.model, target, **changes)


def _reasons(row: Row, target: Architecture, index: Path | None) -> list[str]:
    import kzoo
    from kzoo.explain import explain

    return explain(kzoo.match(row.model, target, index=index))


def _print_ranking(target: str, found: Recommendation, rows: list[Row]) -> None:
    from kzoo.search import HARMFUL, UNCERTAIN

    if not rows:
        hint("no trained model passes the filters: loosen them")
        return
    second = "directed" if found.measure != "directed" else "symmetric"
    label = {HARMFUL: "likely worse", UNCERTAIN: "uncertain", None: ""}
    table = [
        (
            row.rank,
            row.model,
            f"{row.similarity:.4f}",
            f"{getattr(row, second):.4f}",
            f"{row.coverage:.1%}",
            count(row.params),
            percent(row.accuracy),
            row.license,
            row.checkpoints,
            "same architecture" if row.same else label[row.warning],
        )
        for row in rows
    ]
    headers = ("#", "model", found.measure, second, "coverage", "size", "top-1", "license", "weights", "note")
    print_table(table, headers, right=("#", found.measure, second, "coverage", "size", "top-1", "weights"))
    hint(
        f"\n{found.scanned:,} checkpoints of {found.architectures:,} architectures ranked for {target} "
        f"in {found.elapsed_ms:.0f} ms."
    )
    for warning in dict.fromkeys(row.warning for row in rows if row.warning):
        hint(f"{label[warning]}: {warning.removeprefix('uncertain: ')}")


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo compare timm:resnet50 timm:resnet26d\n"
    "  kzoo compare timm/resnet34.a1_in1k timm:resnet18 --classes 10 --pairs\n"
    "  kzoo compare torchvision:vgg16 torchvision:resnet18 --json"
)
@click.argument("source", shell_complete=complete_network)
@click.argument("target", shell_complete=complete_network)
@click.option("--pairs", "show_pairs", is_flag=True, help="List every matched pair of layers.")
@target_options
@as_json
@click.pass_context
def compare(
    context: click.Context,
    /,
    source: str,
    target: str,
    show_pairs: bool,
    as_json: bool,
    classes: int | None,
    in_chans: int | None,
    img_size: int | None,
    trust_code: bool,
) -> None:
    """Match the layers of SOURCE to those of TARGET and measure how alike they are.

    --classes, --in-chans and --img-size change TARGET.
    """
    import kzoo
    from kzoo.explain import explain

    index = index_path(context.obj)
    changes: dict[str, Any] = {"classes": classes, "in_chans": in_chans, "img_size": img_size, "trust_code": trust_code}
    wanted = kzoo.architecture(target, **changes, index=index)
    matching = kzoo.match(kzoo.architecture(source, trust_code=trust_code, index=index), wanted)
    pairs = _named_pairs(matching)
    if as_json:
        print_json(
            {
                "source": source,
                "target": target,
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
        )
        return
    numbers = (
        ("similarity", f"{matching.symmetric:.4f}", "the paper's, symmetric"),
        ("directed", f"{matching.directed:.4f}", "how much of the target the source covers"),
        ("reverse", f"{matching.reverse:.4f}", "how much of the source the target covers"),
        ("coverage", f"{matching.coverage:.1%}", "of the target's learned entries overwritten"),
    )
    for name, value, meaning in numbers:
        click.echo(f"{name:<11}{value:>7}  {meaning}")
    click.echo("\n" + "\n".join(explain(matching)))
    if show_pairs:
        click.echo("")
        print_table([(s, t, f"{score:.3f}") for s, t, score in pairs], (source, target, "score"), right=("score",))
    else:
        next_command(context, "compare", source, target, pairs=True, **changes)


def _named_pairs(matching: Matching) -> list[tuple[str, str, float]]:
    sources, targets = dict(matching.source.paths()), dict(matching.target.paths())
    return [(sources[theirs].name, targets[ours].name, score) for theirs, ours, score in matching.pairs]

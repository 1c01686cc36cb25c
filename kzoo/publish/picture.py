"""The picture that lies beside a card: of what went where, or of what a fused network was measured beside.

It is SVG: `kzoo.plots` draws that without any library and to the same bytes everywhere, text in it can be read and searched,
and the Hub shows a picture of the repository where a card names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kzoo.errors import KzooError
from kzoo.hashing import weights_sha256
from kzoo.hub.models import remote_weights
from kzoo.hub.names import PREFIX
from kzoo.layers import Architecture
from kzoo.layout import COMPARISON, PICTURE, RECIPE, WEIGHTS
from kzoo.matching import Matching, match
from kzoo.plots.matching import matching_svg
from kzoo.plots.shares import Share, shares_svg
from kzoo.publish.comparison_text import row_name
from kzoo.publish.facts import CardFacts, Transferred
from kzoo.readers.files import WeightsFile, read_weights_file
from kzoo.recipe import SourceSection, is_no_path, read_recipe
from kzoo.refine import fitting
from kzoo.sources import Options, resolve, weights_architecture
from kzoo.zoo import Zoo


def card_picture(folder: Path, facts: CardFacts, zoo: Callable[[], Zoo]) -> tuple[str, str] | None:
    """The name and the SVG of the picture that belongs to a card; None where there is nothing to show."""
    if facts.fusion is not None or facts.amalgamation is not None:
        return (COMPARISON, comparison_svg(facts)) if len(facts.compared) > 1 else None
    found = matching_picture(folder, facts, zoo)
    return None if found is None else (PICTURE, found)


def comparison_svg(facts: CardFacts) -> str:
    """The accuracies of a network and of all that was measured beside it, with their intervals, as SVG."""
    rows = [
        Share(row_name(row, facts), row.accuracy.value, row.accuracy.low, row.accuracy.high, row.is_ours)
        for row in facts.compared
    ]
    return shares_svg(f"Accuracy of {facts.title} and of what was measured beside it, with 95 % intervals", rows)


def matching_picture(folder: Path, facts: CardFacts, zoo: Callable[[], Zoo]) -> str | None:
    """The picture of what went where, as SVG; None for a method without a matching, or without the source at hand.

    Only pairs of layers along which something was carried are drawn. Of a source on the Hub the
    headers are read.
    """
    chosen = facts.method_parameters
    usual = (chosen.get("standardization", "blocks"), chosen.get("matching", "dp")) == ("blocks", "dp")
    if facts.method != "dpiat" or not usual or facts.plan or len(facts.parents) != 1 or facts.transferred is None:
        return None
    kinds = chosen.get("kinds") or ("paper" if chosen.get("variant") == "paper" else "extended")
    try:
        source = _source(folder, read_recipe(folder / RECIPE).sources[0], zoo)
        target = _of_file(read_weights_file(folder / WEIGHTS), zoo())
        # Where the order of the layers is a guess, so would be the picture.
        if source is None or source.approximate or target.approximate:
            return None
        source, target = replace(source, name=facts.parents[0].name), replace(target, name=facts.network)
        matching = match(source, target, "extended" if kinds == "extended" else "symmetric")
    except KzooError:
        return None
    return matching_svg(_carried(matching, facts.transferred))


def _source(folder: Path, source: SourceSection, zoo: Callable[[], Zoo]) -> Architecture | None:
    """The source's architecture, if it is known here."""
    if source.path.startswith(PREFIX):
        return weights_architecture(remote_weights(source.path, zoo()), zoo())
    known = zoo().named(source.path)
    if known is not None:
        return resolve(source.path, zoo, Options())
    if is_no_path(source.path):
        return None
    file = read_weights_file(folder / source.path)
    return _of_file(file, zoo()) if weights_sha256(file.shards) == source.sha256 else None


def _of_file(file: WeightsFile, zoo: Zoo) -> Architecture:
    """The architecture that a transfer takes the weights of a file to have."""
    found = weights_architecture(file, zoo)
    return next(iter(fitting(zoo, found).values()), found) if found.approximate else found


def _carried(matching: Matching, transferred: Transferred) -> Matching:
    """The matching without the pairs along which nothing was carried."""
    layers, left_out = dict(matching.target.paths()), set(transferred.nothing)
    pairs = tuple(pair for pair in matching.pairs if layers[pair[1]].name not in left_out)
    return replace(matching, pairs=pairs, overwritten=round(transferred.share * matching.target.entries))

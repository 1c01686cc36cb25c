"""In words, why a source is recommended and what a transfer from it would do."""

from __future__ import annotations

from kzoo.layers import Architecture
from kzoo.matching import Matching

_NAMED = 3


def explain(matching: Matching) -> list[str]:
    """Sentences about a matching: what is matched, how well, from where, and what stays random."""
    source, target = matching.source, matching.target
    exact = sum(score == 1.0 for _, _, score in matching.pairs)
    matched = len(matching.pairs)
    sentences = [
        f"{matched} of the target's {target.typed_layers} layers find a partner, {exact} of them with exactly its shape; "
        f"a transfer overwrites {matching.coverage:.1%} of the target's learned entries."
    ]
    used = len({path for path, _, _ in matching.pairs})
    if used < matched:
        sentences.append(
            f"The target is deeper: {used} source layers serve {matched}, so some weights are used more than once."
        )
    unused = source.typed_layers - used
    if unused:
        sentences.append(f"{unused} of the source's {source.typed_layers} layers are not used.")
    resized = matched - exact
    if resized:
        sentences.append(
            f"{resized} layers are cropped or centred in larger ones, where the rest keeps its random values."
        )
    random = _without_partner(matching)
    if random:
        shown = ", ".join(random[:_NAMED]) + (" and others" if len(random) > _NAMED else "")
        sentences.append(f"{len(random)} layers stay random: {shown}.")
    return sentences


def _without_partner(matching: Matching) -> list[str]:
    partners = {path for _, path, _ in matching.pairs}
    return [
        _label(path, matching.target) for path, layer in matching.target.paths() if layer.typed and path not in partners
    ]


def _label(path: tuple[int, ...], architecture: Architecture) -> str:
    layer = dict(architecture.paths())[path]
    return layer.name or f"{layer.kind} at {'.'.join(map(str, path))}"

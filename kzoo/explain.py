"""In words, why a source is recommended and what a transfer from it would do."""

from __future__ import annotations

from kzoo.matching import Matching

_NAMED = 3


def explain(matching: Matching) -> list[str]:
    """Sentences about a matching: what is matched, how well, from where, and what stays random."""
    source, target = matching.source, matching.target
    exact = sum(score == 1.0 for _, _, score in matching.pairs)
    matched = len(matching.pairs)
    used = len({path for path, _, _ in matching.pairs})
    sentences = [
        f"{matched} of the target's {_layers(target.typed_layers)} find a partner, {exact} with exactly its shape; "
        f"a transfer overwrites {matching.coverage:.1%} of the target's learned entries."
    ]
    if used < matched:
        sentences.append(f"{_layers(used)} of the source serve {matched}, so some weights are used more than once.")
    if used < source.typed_layers:
        sentences.append(f"{source.typed_layers - used} of the source's {_layers(source.typed_layers)} are not used.")
    if exact < matched:
        sentences.append(f"Cropped, or centred in a larger layer whose rest stays random: {_layers(matched - exact)}.")
    random = _without_partner(matching)
    if random:
        shown = ", ".join(random[:_NAMED]) + (" and others" if len(random) > _NAMED else "")
        sentences.append(f"Without a partner, so random: {_layers(len(random))} ({shown}).")
    return sentences


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _without_partner(matching: Matching) -> list[str]:
    partners = {path for _, path, _ in matching.pairs}
    return [
        layer.name or f"{layer.kind} at {'.'.join(map(str, path))}"
        for path, layer in matching.target.paths()
        if layer.typed and path not in partners
    ]

"""How well headers rank: architectures guessed from names and shapes against the exact ones, over pairs of timm networks.

The baseline guesses less: names in natural order, nothing put where layers without weights must have been.
"""

from __future__ import annotations

import random
import re
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from scipy.stats import spearmanr

from benchmarks.common import seconds, summary, write
from kzoo.layers import Architecture
from kzoo.matching import Measure, similarity
from kzoo.readers import shapes
from kzoo.readers.module import module_architecture, without_weights
from kzoo.readers.safetensors import Tensor
from kzoo.refine import fitting, identify
from kzoo.search import search
from kzoo.standardize import tree_architecture
from kzoo.zoo import Zoo, load_zoo

NETWORKS, PAIRS, TARGETS, TOP, SEED = 300, 2000, 60, 10, 2026


def header(module: Any) -> dict[str, Tensor]:
    """What a safetensors file of ``module`` would say, in its order."""
    state = module.state_dict()
    return {
        name: Tensor("F32" if state[name].is_floating_point() else "I64", tuple(state[name].shape))
        for name in sorted(state)
    }


def read(names: Iterable[str]) -> Iterator[tuple[str, Architecture, dict[str, Tensor]]]:
    """Networks of timm, or of torchvision where the name says so, exactly and as a header."""
    import timm
    from torchvision.models import get_model_builder

    for name in names:
        library, _, own = name.rpartition(":")
        with without_weights(on_cpu=own.startswith("regnet")):
            module = get_model_builder(own)() if library == "torchvision" else timm.create_model(own)
        yield name, module_architecture(module, name), header(module)


@contextmanager
def guessing_less() -> Iterator[None]:
    """The baseline: children in natural order, no placeholders, ties between layers and blocks as in a whole tree."""

    def natural(names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)])

    def whole(tree: Any, name: str, parameters: int, approximate: bool) -> Architecture:
        return tree_architecture(tree, name, parameters, approximate=False)

    with (
        mock.patch.object(shapes, "registration_order", natural),
        mock.patch.object(shapes, "_NORMALISATIONS", ()),
        mock.patch.object(shapes, "tree_architecture", whole),
    ):
        yield


def agreement(
    exact: dict[str, Architecture], guessed: dict[str, Architecture], pairs: list[tuple[str, str]], measure: Measure
) -> dict[str, float]:
    """Spearman's rank correlation of the similarities of pairs."""
    truth = [similarity(exact[source], exact[target], measure) for source, target in pairs]
    both = [similarity(guessed[source], guessed[target], measure) for source, target in pairs]
    target_only = [similarity(exact[source], guessed[target], measure) for source, target in pairs]
    itself = [similarity(exact[name], guessed[name], measure) for name in exact]
    return {
        "both_guessed": round(float(spearmanr(truth, both).statistic), 4),
        "target_guessed": round(float(spearmanr(truth, target_only).statistic), 4),
        "similarity_to_itself_median": round(statistics.median(itself), 4),
    }


def top(zoo: Zoo, exact: dict[str, Architecture], guessed: dict[str, Architecture], names: list[str]) -> dict[str, Any]:
    """How much of the ranking for an exact target the ranking for the guessed one finds."""
    first, overlaps = 0, []
    for name in names:
        wanted = [row.model for row in search(zoo, exact[name], k=TOP)]
        found = [row.model for row in search(zoo, guessed[name], k=TOP)]
        first += wanted[0] in found
        overlaps.append(len(set(wanted) & set(found)) / TOP)
    return {
        "targets": len(names),
        "best_exact_source_among_the_first_10": round(first / len(names), 3),
        "share_of_the_first_10_found": summary(overlaps, 3),
    }


def torchvision_networks(zoo: Zoo, chance: random.Random) -> dict[str, Any]:
    """The same for all classification networks of torchvision, whose names the usual order was not made for."""
    exact, guessed = {}, {}
    for name, architecture, tensors in read(name for name in zoo.entries if name.startswith("torchvision:")):
        exact[name], guessed[name] = architecture, shapes.shapes_architecture(tensors, name)
    names = sorted(exact)
    pairs = [(chance.choice(names), chance.choice(names)) for _ in range(PAIRS)]
    itself = {name: similarity(guessed[name], exact[name]) for name in names}
    return {
        "networks": len(names),
        "pairs": PAIRS,
        "symmetric": agreement(exact, guessed, pairs, "symmetric"),
        "networks_less_than_half_like_themselves": sorted(name for name, value in itself.items() if value < 0.5),
        "refined_to_a_network_with_the_same_names_and_shapes": sum(bool(fitting(zoo, guessed[name])) for name in names),
    }


def main() -> None:
    import timm

    chance = random.Random(SEED)
    names = sorted(chance.sample(timm.list_models(), NETWORKS))
    pairs = [(chance.choice(names), chance.choice(names)) for _ in range(PAIRS)]
    exact, headers = {}, {}
    for name, architecture, tensors in read(names):
        exact[name], headers[name] = architecture, tensors
    guessed = {name: shapes.shapes_architecture(tensors, name) for name, tensors in headers.items()}
    with guessing_less():
        baseline = {name: shapes.shapes_architecture(tensors, name) for name, tensors in headers.items()}
        for architecture in baseline.values():
            _ = architecture.extended
    zoo, chosen = load_zoo(), sorted(chance.sample(names, TARGETS))
    identified = {name: identify(zoo, guessed[name]) for name in names}
    right = sum(found is not None and found.extended == exact[name].extended for name, found in identified.items())
    measures: tuple[Measure, ...] = ("symmetric", "directed", "extended")
    write(
        "headers",
        {
            "networks": NETWORKS,
            "pairs": PAIRS,
            "seed": SEED,
            "rank_agreement": {measure: agreement(exact, guessed, pairs, measure) for measure in measures},
            "rank_agreement_of_the_baseline": {
                measure: agreement(exact, baseline, pairs, measure) for measure in measures
            },
            "rankings": top(zoo, exact, guessed, chosen),
            "rankings_of_the_baseline": top(zoo, exact, baseline, chosen),
            "torchvision": torchvision_networks(zoo, chance),
            "same_parameters": sum(guessed[name].parameters == exact[name].parameters for name in names),
            "refined_to_the_exact_architecture": right,
            "refined_to_another_architecture": sum(found is not None for found in identified.values()) - right,
            "guess_s": summary(
                [seconds(lambda name=name: shapes.shapes_architecture(headers[name], name)) for name in names]  # type: ignore[misc]
            ),
            "identify_s": summary([seconds(lambda name=name: identify(zoo, guessed[name])) for name in names]),  # type: ignore[misc]
        },
    )


if __name__ == "__main__":
    main()

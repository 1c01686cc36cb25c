from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

import kzoo
from kzoo import Filters, InputError
from kzoo.layers import Architecture
from kzoo.matching import match
from kzoo.search import HARMFUL, UNCERTAIN, Recommendation, Row, directed_warning, search
from kzoo.zoo import Zoo
from tests.architectures import OTHER, conv, fc, network
from tests.conftest import trained


def ranking(zoo: Zoo, name: str, **options: object) -> Recommendation:
    return search(zoo, kzoo.architecture(name), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", ["symmetric", "directed", "reverse"])
@pytest.mark.parametrize(
    "target", ["timm:resnet26d", "timm:vit_tiny_patch16_224", "torchvision:alexnet", "timm:mixnet_s"]
)
def test_stored_rankings_and_a_full_scan_agree(zoo: Zoo, target: str, measure: str) -> None:
    options = {"measure": measure, "k": 25}
    stored, full = (ranking(zoo, target, use_stored=use, **options) for use in (True, False))
    assert stored.results == full.results
    assert stored.scanned == full.scanned == 1954
    assert [row.rank for row in full] == list(range(1, 26))


def test_values_are_those_of_the_pair(zoo: Zoo) -> None:
    target = kzoo.architecture("timm:mobilenetv3_large_100")
    for row in search(zoo, target, k=8):
        found = match(kzoo.architecture(row.model), target)
        assert (row.similarity, row.symmetric) == (round(found.symmetric, 12),) * 2
        assert (row.directed, row.reverse) == (round(found.directed, 12), round(found.reverse, 12))
        assert row.coverage == round(found.coverage, 12)


def test_the_best_of_everything_is_found(zoo: Zoo) -> None:
    """The first rows are the maximum over a plain loop, here over one library to keep it short."""
    target = kzoo.architecture("timm:resnet18", classes=10)
    plain = {
        model.id: round(match(kzoo.architecture(model.id), target).symmetric, 12)
        for model in zoo.models.values()
        if model.library == "torchvision"
    }
    rows = search(zoo, target, k=len(plain), filters=Filters(library="torchvision"), all_weights=True)
    assert {row.model: row.similarity for row in rows} == plain
    assert [row.similarity for row in rows] == sorted(plain.values(), reverse=True)


def test_ties_are_ordered_by_coverage_accuracy_parameters_and_id(zoo: Zoo) -> None:
    def key(row: Row) -> tuple[object, ...]:
        return -row.similarity, -row.coverage, row.accuracy is None, -(row.accuracy or 0), row.params, row.model

    tied = 0
    for name in ("timm:vit_base_patch16_224", "timm:resnet50", "torchvision:vgg16"):
        rows = list(ranking(zoo, name, k=100, all_weights=True))
        assert [key(row) for row in rows] == sorted(key(row) for row in rows)
        tied += sum(a.similarity == b.similarity for a, b in pairwise(rows))
    assert tied > 50


def test_one_row_an_architecture_unless_all_weights_are_wanted(zoo: Zoo) -> None:
    rows = ranking(zoo, "timm:resnet50", k=5)
    # torchvision's has other opaque layers, which cost nothing here, and a known accuracy: it wins the tie.
    assert [(row.model, row.same) for row in rows[:2]] == [
        ("torchvision/resnet50.IMAGENET1K_V2", False),
        ("timm/resnet50.a1_in1k", True),
    ]
    place = zoo.models["timm/resnet50.a1_in1k"].places["paper"]
    # All of resnet50's but bamboo, which has another head, and the one of resnetaa50.
    assert rows[1].checkpoints == len(trained(zoo, "paper")[place]) == 18 + 1
    assert rows[1].also == ("timm:resnetaa50",)
    expanded = ranking(zoo, "timm:resnet50", k=40, all_weights=True)
    assert {row.model for row in expanded if row.same} == {model.id for model in trained(zoo, "paper")[place]}


def test_a_shared_place_shows_the_targets_own_architecture(zoo: Zoo) -> None:
    same = next(row for row in ranking(zoo, "timm:vit_base_patch16_224", k=5) if row.same)
    assert same.architecture == "timm:vit_base_patch16_224"
    assert len(same.also) > 3


def test_exclude_same(zoo: Zoo) -> None:
    rows = ranking(zoo, "timm:resnet26d", filters=Filters(exclude_same=True))
    everything = ranking(zoo, "timm:resnet26d", k=11)
    assert [row.model for row in rows] == [row.model for row in everything if not row.same]
    assert not any(row.same for row in rows)


def test_filters(zoo: Zoo) -> None:
    def rows(**options: object) -> list[Row]:
        return list(ranking(zoo, "timm:resnet26d", k=30, filters=Filters(**options)))  # type: ignore[arg-type]

    assert {row.license for row in rows(licenses=("MIT",))} == {"mit"}
    assert {row.license for row in rows(licenses=("permissive",))} <= {"apache-2.0", "mit", "bsd-3-clause"}
    assert {row.task for row in rows(task="image-feature-extraction")} == {"image-feature-extraction"}
    assert max(row.params for row in rows(max_params=12_000_000)) <= 12_000_000
    assert {row.library for row in rows(library="torchvision")} == {"torchvision"}
    assert all("imagenet-12k" in row.trained_on for row in rows(trained_on="imagenet-12k"))
    assert {row.license for row in rows(licenses="mit")} == {"mit"}
    assert rows(max_params=0) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"licenses": ("mit", "apache")}, "no model has the license 'apache': expected one of apache-2.0"),
        ({"task": "classification"}, "expected one of image-classification, image-feature-extraction"),
        ({"library": "keras"}, "no model has the library 'keras': expected one of local, timm, torchvision"),
        ({"trained_on": "imagenet"}, "no model has the data set 'imagenet'"),
        ({"library": ["timm"]}, "are text"),
        ({"max_params": "30M"}, "expected a whole number"),
    ],
)
def test_filters_that_nothing_can_pass_are_refused(zoo: Zoo, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        search(zoo, network(8, 1), filters=Filters(**options))


def test_a_filter_that_leaves_little_is_still_exact(zoo: Zoo) -> None:
    """So few pass that the stored ranking cannot be enough."""
    filters = Filters(licenses=("gemma", "qwen-community-1.0", "cc-by-4.0"))
    stored, full = (ranking(zoo, "timm:resnet26d", filters=filters, use_stored=use) for use in (True, False))
    assert stored.results == full.results
    assert stored.scanned == 7


def test_warnings_follow_the_directed_similarity(zoo: Zoo) -> None:
    assert "all 21 such pairs of the authors' CIFAR-100 table got worse; one replication found no difference" in HARMFUL
    assert [directed_warning(value) for value in (0.0, 0.349, 0.35, 0.499, 0.5, 1.0)] == [HARMFUL] * 2 + [
        UNCERTAIN
    ] * 2 + [None] * 2
    rows = ranking(zoo, "timm:resnet26d", k=500)
    assert {row.warning for row in rows} == {None, UNCERTAIN, HARMFUL}
    assert all(row.warning == directed_warning(row.directed) for row in rows)


def test_an_architecture_of_ones_own(zoo: Zoo) -> None:
    found = search(zoo, network(64, 4), k=3)
    assert len(found) == 3
    assert found.architectures == len(trained(zoo, "paper"))
    assert not any(row.same for row in found)
    # One linear layer: every network with a head of that shape matches it fully.
    rows = search(zoo, Architecture((fc(1000, 2048),)), k=3, measure="directed")
    assert [row.directed for row in rows] == [1.0] * 3


def test_more_than_there_are(zoo: Zoo) -> None:
    found = search(zoo, network(8, 1), k=10_000, filters=Filters(library="torchvision"))
    assert len(found) == found.architectures


def test_bad_questions(zoo: Zoo) -> None:
    for k in (0, -1, 2.5, "3", None):
        with pytest.raises(InputError, match=f"k is {k!r}"):
            search(zoo, network(8, 1), k=k)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no convolution"):
        search(zoo, Architecture((OTHER,)))
    with pytest.raises(InputError, match="'best' is unknown"):
        search(zoo, Architecture((conv(8, 3),)), measure="best")  # type: ignore[arg-type]


def test_a_recommendation_is_a_sequence_and_plain_data(zoo: Zoo) -> None:
    found = ranking(zoo, "timm:resnet18", k=2)
    data = found.to_dict()
    assert [row["model"] for row in data["results"]] == [row.model for row in found] == [found[0].model, found[1].model]
    keys = {
        "rank",
        "model",
        "architecture",
        "similarity",
        "directed",
        "reverse",
        "coverage",
        "params",
        "license",
        "exact",
        "warning",
    }
    assert keys <= set(data["results"][0])
    assert {"target", "measure", "scanned", "elapsed_ms", "results"} <= set(data)

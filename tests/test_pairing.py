"""The matchings: dp as the paper has it, flat and random as reconstructed."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kzoo
from kzoo import Architecture, Layer
from kzoo.errors import InputError
from kzoo.pairing import pair_layers, shape_score


def names(pairs):
    return [(pair.source.name, pair.target.name) for pair in pairs]


def test_dp_gives_the_pairs_of_the_matching():
    source, target = kzoo.architecture("torchvision:vgg16"), kzoo.architecture("torchvision:resnet18")
    matching = kzoo.match(source, target)
    sources, targets = dict(source.paths()), dict(target.paths())
    expected = [(sources[a].name, targets[b].name) for a, b, _ in matching.pairs]
    assert names(pair_layers(source, target)) == expected


def test_extended_kinds_are_paired_only_where_they_are_asked_for():
    source = kzoo.architecture("timm:vit_tiny_patch16_224")
    kinds = {pair.target.kind for pair in pair_layers(source, source)}
    assert kinds == {"conv2d", "linear"}
    more = pair_layers(source, source, "extended")
    assert all(pair.source == pair.target and pair.score == 1.0 for pair in more)
    assert len(more) == len([layer for layer in source.extended.layers if layer.typed])


def test_flat_standardization_matches_single_layers_across_blocks():
    layer = Layer("linear", (4, 4), "loose")
    block = (Layer("linear", (4, 4), "a"), Layer("linear", (4, 4), "b"))
    source, target = Architecture((layer,)), Architecture((block,))
    assert pair_layers(source, target) == []
    assert names(pair_layers(source, target, standardization="flat")) == [("loose", "a")] or names(
        pair_layers(source, target, standardization="flat")
    ) == [("loose", "a"), ("loose", "b")]


layers = st.builds(
    lambda kind, a, b: Layer(kind, (a, b) if kind == "linear" else (a,)),
    st.sampled_from(["linear", "bn1d"]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2]),
)


def network(found):
    return Architecture(tuple(Layer(layer.kind, layer.shape, str(place)) for place, layer in enumerate(found)))


def penalty(before, place):
    return (before - place + 1) / 2 if before is not None and place <= before else 0.0


def best_flat_value(source, target):
    """The largest value by trying everything."""

    @cache
    def best(index, before):
        if index == len(target.layers):
            return 0.0
        found = best(index + 1, before)
        for place, layer in enumerate(source.layers):
            score = shape_score(layer, target.layers[index])
            if score:
                found = max(found, score - penalty(before, place) + best(index + 1, place))
        return found

    return best(0, None)


@given(st.lists(layers, min_size=1, max_size=5), st.lists(layers, min_size=1, max_size=5))
def test_flat_reaches_the_largest_value_and_keeps_the_order_of_the_target(ours, theirs):
    source, target = network(theirs), network(ours)
    pairs = pair_layers(source, target, matching="flat")
    value, before = 0.0, None
    for pair in pairs:
        value += pair.score - penalty(before, int(pair.source.name))
        before = int(pair.source.name)
    assert value == pytest.approx(best_flat_value(source, target))
    order = [int(pair.target.name) for pair in pairs]
    assert order == sorted(set(order))


@given(st.lists(layers, min_size=1, max_size=8), st.lists(layers, min_size=1, max_size=8), st.integers(0, 3))
def test_random_pairs_layers_of_a_kind_each_once(ours, theirs, seed):
    source, target = network(theirs), network(ours)
    pairs = pair_layers(source, target, matching="random", seed=seed)
    assert pairs == pair_layers(source, target, matching="random", seed=seed)
    assert all(pair.source.kind == pair.target.kind for pair in pairs)
    for kind in ("linear", "bn1d"):
        of_kind = [sum(layer.kind == kind for layer in net.layers) for net in (source, target)]
        assert len([pair for pair in pairs if pair.target.kind == kind]) == min(of_kind)
    assert len({pair.source.name for pair in pairs}) == len({pair.target.name for pair in pairs}) == len(pairs)


def test_the_score_of_two_convolutions_is_the_paper_s():
    score = shape_score(Layer("conv2d", (8, 3, 3, 3)), Layer("conv2d", (12, 3, 5, 5)))
    assert score == pytest.approx(0.24)
    assert shape_score(Layer("linear", (4, 4)), Layer("conv2d", (4, 4, 1, 1))) == 0.0


@pytest.mark.parametrize("choice", ["kinds", "standardization", "matching"])
def test_an_unknown_choice_is_refused(choice):
    net = Architecture((Layer("linear", (1, 1)),))
    with pytest.raises(InputError, match=f"{choice} 'nonsense' is unknown: expected"):
        pair_layers(net, net, **{choice: "nonsense"})

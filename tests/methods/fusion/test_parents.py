from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import kzoo
from kzoo.errors import InputError
from kzoo.methods.fusion.parents import Header, check_classes, check_digests, check_headers, check_parents, header_of


def state(*sizes: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    layers = {f"layer{place}": nn.Linear(inputs, outputs) for place, (inputs, outputs) in enumerate(pairwise(sizes))}
    return nn.ModuleDict(layers).state_dict()


def refused(names: list[str], states: list[dict[str, Tensor]], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        check_parents(names, states)
    assert "\n" not in str(caught.value)


def test_parents_that_fit_are_accepted() -> None:
    check_parents(["A", "B", "C"], [state(3, 4, 2, seed=seed) for seed in range(3)])


def test_another_architecture_is_refused_with_its_first_tensors() -> None:
    refused(
        ["A", "B"],
        [state(3, 4, 2), state(3, 5, 2)],
        "A and B have different architectures: layer0.weight is 4x3 and 5x3; layer0.bias is 4 and 5; layer1.weight is 2x4 and "
        "2x5; expected the same tensors: carry one over to the other with kzoo transfer, or amalgamate them into a student with "
        "--method cfl",
    )
    refused(
        ["A", "B"], [state(3, 4), state(3, 4, 2, seed=1)], "only B has layer1.weight (2x4); only B has layer1.bias (2);"
    )
    refused(["A", "B"], [state(3, 4, 4, 4), state(3, 5, 5, 5)], "layer1.weight is 4x4 and 5x5; and 3 more; expected")


def test_few_parents_and_the_same_twice_are_refused() -> None:
    refused(["A"], [state(3, 2)], "one network cannot be fused: expected two or more")
    refused(["A", "B"], [state(3, 2), state(3, 2)], "A and B have the same weights: expected different networks")
    refused(
        ["A", "B", "A"],
        [state(3, 2), state(3, 2, seed=1), state(3, 2)],
        "A is given twice: expected different networks",
    )
    with pytest.raises(InputError, match="A and C have the same weights"):
        check_digests(["A", "B", "C"], ["1f", "2e", "1f"])
    check_digests(["A", "B"], ["1f", "2e"])


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("-inf"), "infinite")])
def test_values_that_are_not_finite_are_refused(value: float, word: str) -> None:
    spoilt = state(3, 2, seed=1)
    spoilt["layer0.bias"][1] = value
    refused(["A", "B"], [state(3, 2), spoilt], f"layer0.bias of B holds values that are {word}")


def test_a_mixture_of_types_is_refused() -> None:
    mixed = {name: one.bfloat16() if name == "layer0.bias" else one for name, one in state(3, 2, seed=1).items()}
    refused(["A", "B"], [state(3, 2), mixed], "layer0.bias is float32 in A and bfloat16 in B: expected one type")


def test_other_classes_behind_a_shared_classifier_are_refused() -> None:
    with pytest.raises(InputError, match="output 1 is 'dog' and 'fish'"):
        check_classes(["A", "B"], [["cat", "dog"], ["cat", "fish"]])
    with pytest.raises(InputError, match="output 2 is missing and 'fish'"):
        check_classes(["A", "B"], [["cat", "dog"], ["cat", "dog", "fish"]])
    with pytest.raises(InputError, match="give each its own outputs"):
        check_classes(["A", "B"], [["cat", "dog"], ["dog", "cat"]])


def test_only_joined_classifiers_may_differ_in_outputs() -> None:
    heads = ["layer1.weight", "layer1.bias"]
    pair = [state(3, 4, 2), state(3, 4, 5, seed=1)]
    check_parents(["A", "B"], pair, heads)
    refused(["A", "B"], pair, "layer1.weight is 2x4 and 5x4; layer1.bias is 2 and 5; expected the same tensors")
    with pytest.raises(InputError, match=re.escape("layer1.weight is 4 and 6; expected")):
        check_parents(["A", "B"], [pair[0], pair[1] | {"layer1.weight": torch.zeros(5, 6)}], heads)
    # A trunk that nobody trained on, as of two linear probes.
    check_parents(["A", "B"], [pair[0], pair[0] | {name: pair[1][name] for name in heads}], heads)


def test_headers_are_enough_to_refuse() -> None:
    with pytest.raises(InputError, match="different architectures"):
        check_headers(["A", "B"], [header_of(state(3, 2)), header_of(state(3, 3))])
    scalar = {"scale": torch.tensor(1.0)}
    with pytest.raises(InputError, match="scale is a single value and 1;"):
        check_headers(["A", "B"], [header_of(scalar), header_of({"scale": torch.ones(1)})])


def test_parents_of_other_classes_alone_are_told_of_joined_classifiers() -> None:
    pair = [header_of(state(3, 4, 2)), header_of(state(3, 4, 5))]
    with pytest.raises(InputError, match="put them side by side \\(--heads joined"):
        check_headers(["A", "B"], pair)
    counted = {"n": Header((), "int64"), **pair[0]}
    with pytest.raises(
        InputError, match=re.escape("layer1.weight is 2x4 and 5x4; layer1.bias is 2 and 5; only A has n")
    ):
        check_headers(["A", "B"], [counted, pair[1]])


def test_sums_that_no_type_holds_are_refused() -> None:
    def network(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2)).half()
        torch.nn.init.constant_(module[1].weight, 40_000 + seed)
        return module

    with pytest.raises(InputError, match=r"1.weight of the fused network would hold values that float16 does not have"):
        kzoo.fuse([network(0), network(32)], variant="sum", example=torch.zeros(2, 3))


def test_a_start_of_another_network_is_refused() -> None:
    networks = [torch.nn.Sequential(torch.nn.Linear(3, size)) for size in (2, 2, 4)]
    images = torch.ones(2, 3, 1, 1)
    for method, options in (("weight_sum", {"variant": "delta_sum"}), ("nonessential", {"variant": "null_space"})):
        with pytest.raises(
            InputError, match=r"the start is no network like the parents: its 1.weight differs in shape"
        ):
            flat = [torch.nn.Sequential(torch.nn.Flatten(), *one) for one in networks]
            kzoo.fuse(
                flat[:2], method, start=torch.nn.Sequential(torch.nn.Flatten(), *networks[2]), images=images, **options
            )

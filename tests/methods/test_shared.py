"""Tensors that several parts of a network have: counted once, written once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kzoo.methods.surgery import module_body
from tests.methods.carried import assert_carried, assert_sums, fill, plan_and_carry, unfilled

pytestmark = pytest.mark.usefixtures("one_thread")


class Shared(nn.Module):
    """The second layer has the first one's weight and a bias of its own, the third one another weight and that bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(size, size) for _ in range(3))
        self.second.weight = self.first.weight
        self.third.bias = self.second.bias


@pytest.mark.parametrize("method", ["by_name", "weight_selection"])
def test_a_weight_or_a_bias_of_two_layers(method: str) -> None:
    source, target = fill(Shared(4), 1), fill(Shared(4), -1)
    told = plan_and_carry(module_body(source), module_body(target), method)
    assert_carried(told, module_body(source), target)
    assert [part.entries for part in told.parts] == [16 + 4, 4, 16]
    assert told.overwritten == 1.0
    assert all(torch.equal(ours, source.state_dict()[key]) for key, ours in target.state_dict().items())


def test_a_bias_goes_where_a_shared_weight_of_another_size_would() -> None:
    source, target = fill(Shared(6), 1), fill(Shared(4), -1)
    plan_and_carry(module_body(source), module_body(target), variant="paper")
    assert torch.equal(target.second.bias, source.second.bias[1:5])


@pytest.mark.parametrize("method", ["dpiat", "by_name"])
def test_modules_that_a_network_holds_under_several_names(method: str) -> None:
    """CoaT's parallel blocks have one perceptron in common, of which only its first name is a layer."""
    source, target = fill(unfilled("coat_tiny"), 1), fill(unfilled("coat_tiny"), -1)
    told = plan_and_carry(module_body(source), module_body(target), method)
    assert_sums(told, module_body(target), sum(parameter.numel() for parameter in target.parameters()))
    assert_carried(told, module_body(source), target)
    assert told.overwritten == 1.0

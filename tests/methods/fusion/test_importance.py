from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.importance import distance, fisher, magnitude, saliency
from tests.methods.fusion.networks import Plain, ResidualNorm, images, mlp, trained


def by_definition(module: nn.Module, given: Tensor) -> dict[str, Tensor]:
    found = {name: torch.zeros_like(one) for name, one in module.named_parameters()}
    for image in given:
        logs = module(image[None]).log_softmax(1)[0]
        for label in range(len(logs)):
            gradients = torch.autograd.grad(logs[label], list(module.parameters()), retain_graph=True)
            for total, gradient in zip(found.values(), gradients, strict=True):
                total += logs[label].exp().detach() * gradient.square() / len(given)
    return found


@pytest.mark.parametrize("build", [Plain, ResidualNorm, lambda: mlp(192, 10, 5)])
def test_fisher_equals_its_definition(build: object) -> None:
    module, given = trained(build), images(5)  # type: ignore[arg-type]
    expected = by_definition(module, given)
    for chunk in (1, 2, 16):
        found = fisher(module, given, chunk=chunk)
        assert list(found) == list(expected)
        for name, one in found.items():
            assert one.dtype == torch.float64
            torch.testing.assert_close(one, expected[name], rtol=1e-9, atol=1e-15)


def test_fisher_is_not_the_square_of_a_batchs_gradient() -> None:
    module, given = trained(Plain), images(8)
    outputs = module(given).log_softmax(1)
    drawn = outputs.exp().multinomial(1, generator=torch.Generator().manual_seed(0))[:, 0]
    loss = nn.functional.nll_loss(outputs, drawn)
    squared = torch.autograd.grad(loss, module.fc.weight)[0].square()
    assert float(fisher(module, given)["fc.weight"].mean()) > 3 * float(squared.mean())


def test_fisher_of_a_linear_softmax_by_hand() -> None:
    module = mlp(4, 3).double()
    given = images(6, 2, 1)
    probabilities, inputs = module(given).softmax(1), given.flatten(1)
    # d log p_c / d W_kj = (1[c = k] - p_k) x_j, whose square has the mean p_k (1 - p_k) x_j^2 over labels c.
    expected = ((probabilities * (1 - probabilities))[:, :, None] * inputs.square()[:, None]).mean(0)
    torch.testing.assert_close(fisher(module, given)["1.weight"], expected.detach())


def test_fisher_leaves_the_network_as_it_is() -> None:
    module = trained(ResidualNorm).train()
    before = {name: one.clone() for name, one in module.state_dict().items()}
    fisher(module, images(3))
    assert module.training and module.bn.training
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_importances_without_data() -> None:
    state = {"w": torch.tensor([-2.0, 1.0]), "n": torch.tensor(3)}
    assert magnitude(state)["w"].tolist() == [2, 1] and list(magnitude(state)) == ["w"]
    assert distance(state, {"w": torch.tensor([1.0, 1.0])})["w"].tolist() == [3, 0]
    assert saliency(state, {"w": torch.tensor([0.5, 3.0])})["w"].tolist() == [2, 3]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        fisher(mlp(4, 3), torch.zeros(0, 1, 2, 2))
    with pytest.raises(InputError, match="does not give one row of outputs"):
        fisher(nn.Conv2d(1, 2, 1), torch.zeros(2, 1, 2, 2))
    with pytest.raises(InputError, match="not finite"):
        fisher(mlp(4, 3), torch.full((2, 1, 2, 2), float("nan")))

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import kzoo
from kzoo.methods.fusion.normalisation import fold_batchnorm, foldable
from kzoo.methods.fusion.rules import literal_sum
from kzoo.methods.fusion.states import fuse_states
from tests.methods.fusion.networks import Joined, ResidualNorm, images, of_timm, trained

EXACT = 1e-12


def apart(one: nn.Module, other: nn.Module, given: Tensor) -> float:
    with torch.no_grad():
        left, right = one(given), other(given)
    return float((left - right).abs().max() / left.abs().max())


class Kinds(nn.Module):
    """Every layer that batch normalisation can be folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.up_bn = nn.ConvTranspose2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.grouped, self.grouped_bn = nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)
        self.conv, self.conv_bn = nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8, eps=0.1)
        self.line, self.line_bn = nn.Conv1d(8, 5, 1), nn.BatchNorm1d(5, affine=False)
        self.fc, self.fc_bn = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped_bn(self.grouped(self.up_bn(self.up(x)).relu())).relu()
        x = self.conv_bn(self.conv(x)).relu().flatten(2)
        return self.fc_bn(self.fc(self.line_bn(self.line(x)).relu().mean(2)))


@pytest.mark.parametrize("keep", [False, True])
def test_folding_is_exact_for_all_layers(keep: bool) -> None:
    module = trained(Kinds)
    folded = fold_batchnorm(module, images(), keep_norms=keep)
    assert apart(module, folded, images(3, seed=1)) <= EXACT
    norms = [part for part in folded.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == (5 if keep else 0)
    if keep:
        assert folded.state_dict().keys() == module.state_dict().keys()
        assert torch.equal(folded.fc_bn.weight, torch.ones(6)) and torch.equal(
            folded.fc_bn.running_mean, torch.zeros(6)
        )
        torch.testing.assert_close(folded.fc_bn.running_var + folded.fc_bn.eps, torch.ones(6).double())
        assert torch.equal(folded.grouped.bias, torch.zeros(6))


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t", "mobilenetv3_small_050", "regnet", "test_efficientnet"])
def test_folding_is_exact_for_networks_of_timm(name: str, one_thread: None) -> None:
    module = trained(lambda: of_timm(name))
    given = images(2, 64)
    folded = fold_batchnorm(module, given)
    assert apart(module, folded, given) <= EXACT
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in folded.modules())
    assert any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def test_norms_before_their_convolution_stay() -> None:
    module = trained(Joined)
    assert foldable(module, images()) == []
    assert foldable(trained(ResidualNorm), images()) == [
        ("stem", "bn"),
        ("conv1", "bn1"),
        ("conv2", "bn2"),
        ("conv3", "bn3"),
    ]
    partly = trained(lambda: of_timm("densenet"))
    folded = fold_batchnorm(partly, images(2, 64))
    assert apart(partly, folded, images(2, 64)) <= EXACT
    left = [name for name, part in folded.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert left and len(left) < sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in partly.modules())


def test_outputs_that_something_else_takes_and_layers_used_twice_are_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.two, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            x = x + self.bn1(x)
            return self.bn2(self.two(self.bn2(self.two(x))))

    module = trained(Twice)
    assert foldable(module, images()) == []
    assert apart(module, fold_batchnorm(module, images()), images()) == 0


def test_folded_parents_are_summed_with_what_was_normalisation() -> None:
    parents = [fold_batchnorm(trained(ResidualNorm, seed), images()) for seed in (0, 1)]
    found = fuse_states([parent.state_dict() for parent in parents], literal_sum())
    assert not any("running" in name for name in found)
    torch.testing.assert_close(found["conv1.bias"], parents[0].conv1.bias + parents[1].conv1.bias)


def test_a_folded_copy_keeps_type_mode_and_what_is_trained() -> None:
    module = trained(ResidualNorm).float().train()
    module.conv1.weight.requires_grad_(False)
    folded = fold_batchnorm(module, images().float())
    assert folded.training and module.training and folded.conv1.weight.dtype == torch.float32
    assert not folded.conv1.bias.requires_grad and folded.conv2.bias.requires_grad
    assert apart(module.eval(), folded.eval(), images().float()) < 1e-5


@pytest.mark.parametrize(
    ("variant", "expected"), [("sum", lambda one, two: one + two), ("average", lambda one, two: (one + two) / 2)]
)
def test_a_folded_normalisations_shift_is_fused_as_the_bias_that_it_is(variant, expected) -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
        for part in (made[1].weight, made[1].bias, made[1].running_mean):
            nn.init.normal_(part.data)
        return made

    parents, example = [network(1), network(2)], torch.randn(2, 3, 6, 6)
    fused = kzoo.fuse(parents, variant=variant, norms="fold", example=example)
    plain = [fold_batchnorm(one, example) for one in parents]
    reference = fold_batchnorm(parents[0], example)
    reference.load_state_dict(
        {name: expected(one, plain[1].state_dict()[name]) for name, one in plain[0].state_dict().items()}
    )
    torch.testing.assert_close(fused(example), reference(example))

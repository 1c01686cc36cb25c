from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor, nn

from kzoo import InputError
from kzoo.training.batches import prepare
from kzoo.training.evaluation import evaluate, recalibrate
from kzoo.training.tasks import Split
from tests.training.networks import few_digits, made_up, network


class Sum(nn.Module):
    """Its outputs depend on the image's mean alone: class 0 has it, class k is k."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.drop = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        mean = self.drop(images).mean((1, 2, 3))
        rest = torch.arange(1, self.classes, dtype=images.dtype).expand(len(images), -1)
        return torch.cat([mean[:, None], rest], 1)


def grey(*levels: int) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()


def test_values_by_hand() -> None:
    # Levels 0 and 255 become -1.99 and 2.44, so with three classes the first output wins for 255 only.
    split = Split(grey(0, 255, 255, 0), torch.tensor([0, 0, 2, 2]))
    module = Sum(3).train()
    found = evaluate(module, split, batch_size=3)
    low, high = -0.449 / 0.226, (1 - 0.449) / 0.226

    def loss(outputs: list[float], label: int) -> float:
        return log(sum(map(exp, outputs))) - outputs[label]

    losses = [loss([low, 1, 2], 0), loss([high, 1, 2], 0), loss([high, 1, 2], 2), loss([low, 1, 2], 2)]
    assert found == {"loss": pytest.approx(sum(losses) / 4, rel=1e-6), "accuracy": 0.5, "images": 4}
    assert module.training and module.drop.training


def test_the_five_highest() -> None:
    # Outputs are 2.44 and 1 to 6: 0 and 1 and 2 rank sixth, seventh and fifth... of seven.
    split = Split(grey(255, 255, 255, 255), torch.tensor([0, 1, 2, 6]))
    found = evaluate(Sum(7), split)
    assert (found["accuracy"], found["top5"]) == (0.25, 0.5)
    assert "top5" in evaluate(Sum(5), split.__class__(split.images, split.labels.clamp(max=4)))


def test_the_size_of_batches_changes_nothing_much() -> None:
    module = network()
    one, two = (evaluate(module, few_digits().test, batch_size=size) for size in (1, 60))
    assert one["accuracy"] == two["accuracy"] and one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    half = evaluate(module, few_digits().test, precision="bf16")
    assert half["loss"] == pytest.approx(one["loss"], rel=0.02) and half["loss"] != one["loss"]


def test_modes_come_back_one_by_one() -> None:
    module = network().train()
    module[1].eval()
    evaluate(module, few_digits().test)
    recalibrate(module, few_digits().test.images)
    assert [part.training for part in module] == [True, False, *[True] * 8]


def normalising() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 10)).eval()


def test_statistics_by_hand() -> None:
    module = normalising()
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm2d)
    images = made_up(train=10, channels=3).train.images
    recalibrate(module, images)
    floats = prepare(images, torch.float64).transpose(0, 1).flatten(1)
    assert torch.allclose(norm.running_mean.double(), floats.mean(1), atol=1e-6)  # type: ignore[union-attr]
    assert torch.allclose(norm.running_var.double(), floats.var(1), rtol=1e-5)  # type: ignore[union-attr]
    assert norm.momentum == 0.1 and not module.training


def test_batches_count_alike() -> None:
    # 10 images in batches of at most 4: 4, 3 and 3 images.
    module = normalising()
    images = made_up(train=10, channels=3).train.images
    recalibrate(module, images, batch_size=4)
    parts = [prepare(part, torch.float64).transpose(0, 1).flatten(1) for part in images.split((4, 3, 3))]
    mean, variance = (torch.stack([measure(part) for part in parts]).mean(0) for measure in (row_means, row_variances))
    assert torch.allclose(module[1].running_mean.double(), mean, atol=1e-6)
    assert torch.allclose(module[1].running_var.double(), variance, rtol=1e-5)


def row_means(rows: Tensor) -> Tensor:
    return rows.mean(1)


def row_variances(rows: Tensor) -> Tensor:
    return rows.var(1)


def test_recalibration_is_the_same_twice_and_leaves_all_else() -> None:
    one, two = network(), network()
    before = {name: value.clone() for name, value in one.state_dict().items()}
    for module in (one, two):
        recalibrate(module, few_digits().train.images, batch_size=64)
    theirs = two.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())
    changed = {name for name, value in one.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_nothing_to_recalibrate() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).train()
    before = module[1].weight.clone()
    recalibrate(module, made_up().train.images)
    assert torch.equal(module[1].weight, before) and module.training


def test_no_images() -> None:
    empty = made_up().train.images[:0]
    with pytest.raises(InputError, match="no images to evaluate on"):
        evaluate(network(), Split(empty, torch.empty(0, dtype=torch.int64)))
    with pytest.raises(InputError, match="no images to measure statistics on"):
        recalibrate(network(), empty)

"""Taps, the common space, how teachers see images, and what is kept of their answers."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from kzoo import InputError
from kzoo.errors import WorldError
from kzoo.methods.amalgamation.blocks import CommonSpace, ResidualBlock, fitted
from kzoo.methods.amalgamation.cache import Cache, fits, needed_bytes
from kzoo.methods.amalgamation.features import tap_of
from kzoo.methods.amalgamation.panel import Panel, measured
from kzoo.methods.amalgamation.parameters import CflParameters, KdParameters
from kzoo.methods.amalgamation.teachers import View, teacher
from kzoo.training.batches import prepare
from kzoo.training.networks import small_network


def built(name: str, channels: int = 3) -> nn.Module:
    library, _, architecture = name.partition(":")
    torch.manual_seed(0)
    if library == "small":
        return small_network(architecture, classes=5, channels=channels).eval()
    if library == "timm":
        return timm.create_model(architecture, num_classes=5).eval()
    return torchvision.models.get_model_builder(architecture)(weights=None, num_classes=5).eval()


@pytest.mark.parametrize(
    ("name", "size", "channels", "grid"),
    [
        ("timm:resnet10t", 64, 512, (2, 2)),
        # Channels come last.
        ("timm:mambaout_femto", 64, 288, (2, 2)),
        ("torchvision:resnet18", 64, 512, (2, 2)),
        # Its normalisation over channels changes the axes and back; at one pixel nothing is left to pool.
        ("torchvision:convnext_tiny", 32, 768, (1, 1)),
        # Its scores still have positions.
        ("torchvision:squeezenet1_1", 64, 512, (3, 3)),
        ("torchvision:mobilenet_v3_small", 64, 576, (2, 2)),
        ("torchvision:shufflenet_v2_x0_5", 64, 1024, (2, 2)),
        ("small:vgg-1x8", 16, 32, (2, 2)),
        # With a class token, which is left out; 4 x 4 patches.
        ("small:vit-2x48", 16, 48, (4, 4)),
        # Without positions.
        ("small:mlp-1x16", 16, 16, (1, 1)),
    ],
)
def test_the_features_of_any_family_are_a_grid_and_logits_are_the_networks_own(name, size, channels, grid) -> None:
    module = built(name)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    tap = tap_of(module, images[:2])
    assert (tap.channels, tap.grid) == (channels, grid)
    with torch.no_grad():
        features, logits = tap(module, images)
        torch.testing.assert_close(logits, module(images), rtol=0, atol=0)
    assert features.shape == (3, channels, *grid)
    assert not any(part._forward_hooks for part in module.modules())


def test_the_features_are_what_the_classifier_is_applied_to() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    module = built("torchvision:resnet18")
    features, logits = tap_of(module, images)(module, images)
    torch.testing.assert_close(module.fc(features.mean((2, 3))), logits)
    # Tokens, and no class token.
    module = timm.models.MlpMixer(img_size=32, patch_size=8, num_blocks=1, embed_dim=32, num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    tap = tap_of(module, images)
    assert (tap.channels, tap.grid, tap.prefix) == (32, (4, 4), 0)
    features, logits = tap(module, images)
    torch.testing.assert_close(module.head(features.mean((2, 3))), logits)


def test_tokens_that_make_no_square_are_one_row() -> None:
    module = timm.models.VisionTransformer(
        img_size=(16, 32), patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=5
    ).eval()
    tap = tap_of(module, torch.randn(2, 3, 16, 32))
    assert (tap.channels, tap.grid) == (32, (1, 8))


def test_a_network_without_scores_is_refused() -> None:
    with pytest.raises(InputError, match="not a score for each class"):
        tap_of(nn.Conv2d(3, 5, 1), torch.randn(2, 3, 8, 8))


def test_features_of_another_grid_are_fitted() -> None:
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert fitted(features, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert fitted(torch.tensor([[[[1.0, 3.0]]]]), (1, 4)).flatten().tolist() == [1.0, 1.5, 2.5, 3.0]
    # A row of tokens: coarser in one direction, finer in the other.
    assert fitted(torch.arange(8.0).reshape(1, 1, 1, 8), (2, 2)).flatten().tolist() == [1.5, 5.5, 1.5, 5.5]
    assert fitted(features, (4, 4)) is features


def test_the_residual_block_is_what_it_says() -> None:
    block = ResidualBlock(1, 1)
    for layer, value in ((block.first, 1.0), (block.second, -2.0)):
        layer.weight.data.zero_()
        layer.weight.data[0, 0, 1, 1] = value
    # relu(x - 2 relu(x)): positive values become negative and vanish, negative ones vanish too.
    assert block(torch.tensor([[[[3.0, -1.0]]]])).flatten().tolist() == [0.0, 0.0]
    block.second.weight.data[0, 0, 1, 1] = 2.0
    assert block(torch.tensor([[[[3.0, -1.0]]]])).flatten().tolist() == [9.0, 0.0]


def test_the_official_sizes_make_the_official_number_of_entries() -> None:
    """3.16 million beside a ResNet-34, as counted in the authors' code (net2net_and_amalgamation.md, B1.2)."""
    space = CommonSpace([512, 512], 512, 256, 128, 3)
    assert sum(value.numel() for value in space.parameters()) == pytest.approx(3.16e6, rel=0.005)


def test_what_an_arm_does_not_need_is_not_there() -> None:
    features = [torch.rand(2, 4, 3, 3), torch.rand(2, 6, 3, 3)]
    space = CommonSpace([4, 6], 5, 8, 4, 1, rebuilt=False)
    shared, own, rebuilt = space(features, torch.rand(2, 5, 3, 3))
    assert own is not None and ([each.shape for each in shared], own.shape, rebuilt) == (
        [(2, 4, 3, 3)] * 2, (2, 4, 3, 3), [],
    )  # fmt: skip
    space = CommonSpace([4, 6], 5, 8, 4, 1, compared=False)
    _, own, rebuilt = space(features, torch.rand(2, 5, 3, 3))
    assert own is None and [each.shape for each in rebuilt] == [(2, 4, 3, 3), (2, 6, 3, 3)]
    assert not any("adaption." in name for name, _ in space.named_parameters())


def test_a_teacher_sees_images_in_its_own_way() -> None:
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    levels = images.float() / 255
    assert torch.equal(View(1)(images), prepare(images))
    torch.testing.assert_close(View(1, mean=(0.5,), std=(0.25,))(images), (levels - 0.5) / 0.25, rtol=1e-4, atol=1e-5)
    coloured = View(3, mean=(0.5, 0.4, 0.3), std=(1.0, 1.0, 1.0))(images)
    torch.testing.assert_close(coloured[:, 2:], levels - 0.3, rtol=1e-4, atol=1e-5)
    red = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 255
    torch.testing.assert_close(
        View(1, mean=(0.0,), std=(1.0,))(red), torch.full((1, 1, 8, 8), 0.299), rtol=1e-4, atol=1e-5
    )
    assert View(1, (4, 4))(images).shape == (2, 1, 4, 4)


def test_a_teacher_of_a_fixed_size_gets_images_of_that_size() -> None:
    images = torch.randint(0, 256, (2, 1, 24, 24), dtype=torch.uint8)
    found = teacher("vit", built("small:vit-2x48", 1), "abcde", images)
    assert found.view.size == (16, 16)
    assert found.answer(images)[1].shape == (2, 5)
    assert not any(value.requires_grad for value in found.module.parameters())


def test_a_teacher_whose_answers_are_not_finite_is_named() -> None:
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    module = built("small:vgg-1x8", 1)
    with torch.no_grad():
        module.features[1].running_var.fill_(float("nan"))
    with pytest.raises(InputError, match="owls gives features or logits that are not finite"):
        teacher("owls", module, "abcde", images)


def test_a_teacher_with_other_outputs_than_classes_is_refused() -> None:
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    with pytest.raises(InputError, match="owls has 5 outputs, and 3 classes"):
        teacher("owls", built("small:vgg-1x8", 1), "abc", images)


def test_calibrated_logits_have_one_spread() -> None:
    images = torch.randint(0, 256, (70, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    loud = built("small:vgg-1x8", 1)
    with torch.no_grad():
        loud.classifier[2].weight.mul_(9)
        loud.classifier[2].bias.mul_(9)
    pair = [teacher("low", built("small:vgg-1x8", 1), "abcde", images[:2]), teacher("loud", loud, "fghij", images[:2])]
    panel = measured(pair, "abcdefghij", KdParameters(calibrate="scale"), images, (2, 2))
    assert panel.spread[1] == pytest.approx(9 * panel.spread[0], rel=1e-5)
    # The geometric mean of both: 3 times the one, a third of the other.
    assert panel.logit_scales == pytest.approx((3.0, 1 / 3), rel=1e-5)
    one, other = panel.calibrated([each.answer(images)[1] for each in pair])
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    plain = measured(pair, "abcdefghij", KdParameters(), images, (2, 2))
    assert plain.logit_scales == () and plain.feature_sizes == ()
    scaled = measured(pair, "abcdefghij", CflParameters(), images, (2, 2))
    features = pair[0].answer(images, (2, 2))[0] / scaled.feature_sizes[0]
    assert float(features.square().mean()) == pytest.approx(1, rel=1e-4)


def test_teachers_side_by_side_by_hand() -> None:
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    pair = tuple(teacher(name, built("small:mlp-1x16", 1), "abcde", images) for name in ("one", "two"))
    panel = Panel(pair, tuple("abcde"))
    given = [torch.tensor([[0.0, 0, 0, 0, 9]]), torch.tensor([[1.0, 0, 0, 0, 0]])]
    torch.testing.assert_close(panel.scores(given, "probability"), given[0].softmax(1) + given[1].softmax(1))
    assert panel.scores(given, "logit").tolist() == [[1, 0, 0, 0, 9]]


def test_presets_say_what_is_not_said() -> None:
    official = CflParameters(preset="official", mmd_weight=5.0)
    assert (official.mmd_weight, official.reconstruction_weight, official.temperature) == (5.0, 10.0, 1.0)
    assert official.widths(64) == (256, 128) and official.kernels.sigmas[0] == 0.001
    default = CflParameters()
    assert default.kernels.sigmas == () and default.widths(64) == (32, 16) and default.widths(2048) == (256, 128)
    again = CflParameters(**official.model_dump(exclude_none=True))
    assert again == official


def test_the_cache_gives_back_only_what_it_was_given(tmp_path: Path) -> None:
    assert needed_bytes(10, [(3,), (2, 4, 4)]) == 10 * 35 * 4
    assert fits(tmp_path, 1000, 1000) and not fits(tmp_path, 1001, 1000) and not fits(tmp_path, 1 << 60, 1 << 62)
    cache = Cache(tmp_path / "answers", 10, [(3,), (2, 1, 1)])
    rows = [torch.rand(2, 3), torch.rand(2, 2, 1, 1)]
    cache.write(torch.tensor([7, 2]), rows)
    assert cache.read(torch.tensor([2, 3])) is None
    found = cache.read(torch.tensor([2, 7]))
    assert found is not None
    assert all(torch.equal(one.flip(0), other) for one, other in zip(found, rows, strict=True))
    cache.close()
    assert not (tmp_path / "answers").exists()


class Picky(nn.Module):
    """It takes images of 24 pixels alone, and says so nowhere but in what timm would note."""

    def __init__(self, noted: bool) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 22 * 22, 5)
        if noted:
            self.pretrained_cfg = {"input_size": (3, 24, 24), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.trunk(images).flatten(1))
        return found


def test_a_teacher_that_takes_its_usual_size_alone_gets_images_of_it() -> None:
    torch.manual_seed(0)
    example = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    found = teacher("picky", Picky(True), list("abcde"), example)
    assert found.view == View(3, (24, 24)) and found.answer(example)[1].shape == (2, 5)
    with pytest.raises(InputError, match="the teacher picky does not take images of 1x16x16"):
        teacher("picky", Picky(False), list("abcde"), example)


def test_a_teacher_whose_channels_are_known_is_not_asked_for_them() -> None:
    """A network without convolutions shows them nowhere; of a larger one, the first convolution may come behind other layers."""
    torch.manual_seed(0)
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    colours = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    found = teacher("flat", perceptron, list("abcde"), colours, channels=1)
    assert found.view.channels == 1 and found.answer(colours)[1].shape == (2, 5)


def test_teachers_are_asked_about_so_many_images_and_no_other_number() -> None:
    asked = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Conv2d(1, 4, 3)
            self.head = nn.Linear(4, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            asked.append(len(images))
            found: torch.Tensor = self.head(self.trunk(images).mean((2, 3)))
            return found

    torch.manual_seed(0)
    images = torch.randint(0, 256, (21, 1, 16, 16), dtype=torch.uint8)
    panel = Panel(tuple(teacher(name, Counting(), [f"{name}{k}" for k in range(5)], images[:2]) for name in "ab"),
                  tuple(f"{name}{k}" for name in "ab" for k in range(5)))  # fmt: skip
    asked.clear()
    found = panel.answers(images, (2, 2), 1.0, True, rows=8)
    assert asked == [8] * 6 and [len(each) for each in found] == [21] * 3
    plain = panel.answers(images, (2, 2), 1.0, True)
    assert asked[6:] == [21, 21]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, plain, strict=True))
    alone = panel.answers(images[20:], (2, 2), 1.0, True, rows=8)
    assert all(torch.equal(one[20:], other) for one, other in zip(found, alone, strict=True))


def test_a_cache_takes_its_place_on_the_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _start: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Cache(tmp_path / "answers", 1000, [(3,)]).close()
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(WorldError, match=r"No space left on device.*set cache=0"):
        Cache(tmp_path / "answers", 1000, [(3,)])

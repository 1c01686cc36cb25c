from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor

import kzoo
from kzoo import InputError
from kzoo.training.networks import SMALL_NETWORKS, small_network


def made(name: str, classes: int = 10, channels: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return small_network(name, classes=classes, channels=channels)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_every_network_reads_images_and_learns_in_all_its_parameters(name: str) -> None:
    for channels, size in ((1, 16), (3, 16 if name.startswith("vit") else 32)):
        module = made(name, 7, channels)
        outputs = module(torch.randn(3, channels, size, size))
        assert outputs.shape == (3, 7)
        outputs.square().sum().backward()
        assert [key for key, value in module.named_parameters() if value.grad is None] == []


# Parameters, by hand for the first: the stem has 9w, and 2w in its normalisation; a stage of one block 2 * 9c^2 (or 9bc + 9c^2
# where channels change from b to c) + 4c, with a shortcut bc + 2c more; the head 10 * 4w + 10.
@pytest.mark.parametrize(
    ("name", "parameters", "items", "typed"),
    [
        ("resnet-1x16", 77_754, 9, 19),
        ("resnet-2x16", 174_970, 12, 31),
        ("resnet-2x24", 392_242, 12, 31),
        ("vgg-2x16", 72_666, 4, 13),
        ("vgg-3x16", 121_274, 4, 19),
        ("inception-1x16", 15_402, 11, 39),
        ("inception-2x32", 127_146, 14, 75),
        ("mobilenet-2x16", 58_618, 12, 33),
        ("convnext-2x16", 101_370, 17, 22),
        ("vit-2x48", 40_186, 11, 10),
        ("mlp-tanh-2x64", 8_970, 4, 3),
    ],
)
def test_architectures_have_known_sizes(name: str, parameters: int, items: int, typed: int) -> None:
    architecture = kzoo.architecture(made(name))
    assert (architecture.parameters, len(architecture.items), architecture.typed_layers) == (parameters, items, typed)


def test_the_first_networks_parameters_by_hand() -> None:
    w = 16
    stem, head = 9 * w + 2 * w, 10 * 4 * w + 10
    stages = [2 * 9 * w**2 + 4 * w]
    stages += [9 * c * c // 2 + 9 * c**2 + 4 * c + c * c // 2 + 2 * c for c in (2 * w, 4 * w)]
    assert stem + sum(stages) + head == 77_754


def test_the_parameters_of_an_inception_by_hand() -> None:
    def module(before: int, part: int) -> int:
        return 4 * before * part + (9 + 25) * part**2 + 6 * 2 * part

    stem, head = 9 * 16 + 2 * 16, 10 * 64 + 10
    assert stem + module(16, 4) + module(16, 8) + module(32, 16) + head == 15_402


def test_an_inception_module_puts_its_branches_one_after_the_other() -> None:
    network = made("inception-2x8").eval()
    images = torch.randn(2, 8, 5, 5)
    module = network.get_submodule("inception1b")
    outputs = [module.get_submodule(f"branch{number}")(images) for number in (1, 2, 3, 4)]
    assert [output.shape for output in outputs] == [(2, 2, 5, 5)] * 4
    assert torch.equal(module(images), torch.cat(outputs, dim=1))
    # Each is a block of its own: six convolutions with normalisation and activation, and the pooling.
    blocks = [item for item in kzoo.architecture(network).items if isinstance(item, tuple)]
    assert [len(block) for block in blocks] == [6 * 3 + 1] * 6


def test_matchings_have_known_values() -> None:
    def similarity(source: str, target: str) -> float:
        return kzoo.similarity(made(source), made(target))

    # All of the deeper one's 43 layers: of its three stages each has one block of 4 layers that is there twice in a run.
    directed = (31 + 3 * (8 / sqrt(2) - 4)) / 43
    assert similarity("resnet-2x16", "resnet-3x16") == pytest.approx(sqrt(directed))
    assert similarity("resnet-2x12", "resnet-2x16") == pytest.approx(20.625 / 31)
    # The features of a VGG are one block: 13 of 19 layers.
    assert similarity("vgg-2x16", "vgg-3x16") == pytest.approx(sqrt(13 / 19))
    assert similarity("resnet-2x16", "mobilenet-2x16") == pytest.approx(0.421988, abs=1e-6)


def test_equal_seeds_give_equal_weights() -> None:
    first, second = made("mobilenet-1x16").state_dict(), made("mobilenet-1x16").state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("mlp", torch.relu),
        ("mlp-tanh", torch.tanh),
        ("mlp-sigmoid", torch.sigmoid),
        ("mlp-gelu", torch.nn.functional.gelu),
    ],
)
def test_an_mlp_sees_the_means_of_parts_of_any_image(name: str, activation: Callable[[Tensor], Tensor]) -> None:
    network = made(f"{name}-2x12", channels=3)
    images = torch.randn(2, 3, 16, 16)
    parts = images.reshape(2, 3, 8, 2, 8, 2).mean((3, 5)).flatten(1)
    state = network.state_dict()
    for layer in ("hidden.0", "hidden.2"):
        parts = activation(parts @ state[f"{layer}.weight"].T + state[f"{layer}.bias"])
    torch.testing.assert_close(network(images), parts @ state["fc.weight"].T + state["fc.bias"])


def test_names_of_that_form_need_not_be_listed() -> None:
    assert "resnet-4x8" not in SMALL_NETWORKS
    assert made("resnet-4x8")(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "resnet",
        "resnet-0x16",
        "resnet-2x6",
        "resnet-2x10",
        "resnet-2x132",
        "vit-2x24",
        "Resnet-2x16",
        "res-2x16",
        "mlp-elu-1x16",
        "vgg-tanh-1x16",
    ],
)
def test_unknown_names_are_refused_with_what_is_near(name: str) -> None:
    with pytest.raises(InputError, match=r"is no small network: expected FAMILY-DEPTHxWIDTH.*nearest: "):
        made(name)


@pytest.mark.parametrize(("classes", "channels"), [(0, 1), (10, 0), (True, 1), (2.0, 1)])
def test_numbers_are_checked(classes: int, channels: int) -> None:
    with pytest.raises(InputError, match="is not possible: expected a whole number, 1 or more"):
        made("vgg-2x16", classes, channels)

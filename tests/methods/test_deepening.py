from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kzoo.building import NetworkSpec, build_network
from kzoo.edits import apply_edits
from kzoo.errors import InputError
from kzoo.methods.checking import relative_difference
from kzoo.methods.deepening import Deepening, deepen_module
from kzoo.methods.equality import equal_architecture
from kzoo.methods.preserving import NoIdentity, identity_kernel, make_identity, propose, undo_normalisation
from kzoo.methods.probing import example_images, outputs_of
from kzoo.zoo import load_zoo

pytestmark = pytest.mark.usefixtures("one_thread")

#: One of each way: residual stages of many kinds, blocks without stride, lone blocks, identity layers with and without norm.
NETWORKS = (
    "timm:test_resnet",
    "timm:test_vit",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "timm:test_nfnet",
    "timm:test_byobnet",
    "timm:test_mambaout",
    "timm:test_vit_relpos",
    "timm:starnet_s050",
    "timm:mobilenetv3_small_050",
    "timm:lcnet_035",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Nothing is zero, one or a statistic of nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.mul_(noise + 0.5)
            elif tensor.ndim <= 1:
                tensor.add_(0.3 * (noise - 0.5))
    return module.eval()


@cache
def network(name: str) -> nn.Module:
    library, _, own = name.partition(":")
    return randomised(build_network(NetworkSpec(library, own), load_zoo, 0).double())


def images_for(module: nn.Module) -> Tensor:
    images = example_images(module, 4)
    # Networks without a size of their own run faster on small images.
    return images if hasattr(module, "patch_embed") else images[:, :, :96, :96]


@cache
def deepened(name: str) -> tuple[nn.Module, Deepening, Tensor]:
    module = network(name)
    images = images_for(module)
    return module, deepen_module(module, calibration=images), images


def entries(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_compute_the_same_function(name: str) -> None:
    module, found, images = deepened(name)
    assert found.edits
    assert entries(found.module) > entries(module)
    for training in (False, True):
        before, after = (outputs_of(one, images, training) for one in (module, found.module))
        assert before[0].std() > 0
        assert relative_difference(before, after) < 1e-8


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("timm:test_resnet", ["layer1", "layer2", "layer3", "layer4"]),
        # A stage of no shortcut and no ReLU has nothing but a residual layer.
        ("timm:lcnet_035", ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.5"]),
        ("torchvision:shufflenet_v2_x0_5", ["stage2", "stage3", "stage4"]),
    ],
)
def test_every_stage_gets_something(name: str, stages: list[str]) -> None:
    _, found, _ = deepened(name)
    assert sorted(stage for stage in stages for one in found.added if one.startswith(f"{stage}.")) == stages
    assert len(found.added) == len(stages)
    assert found.skipped == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_edits_build_the_structure_again(name: str) -> None:
    module, found, images = deepened(name)
    library, _, own = name.partition(":")
    again = apply_edits(build_network(NetworkSpec(library, own), load_zoo, 7), found.edits).double().eval()
    assert shapes(again) == shapes(found.module)
    again.load_state_dict(found.module.state_dict())
    assert relative_difference(outputs_of(found.module, images), outputs_of(again, images)) < 1e-12
    assert shapes(module) == shapes(build_network(NetworkSpec(library, own), load_zoo, 7))


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit", "timm:test_convnext", "timm:test_nfnet"])
def test_new_blocks_learn(name: str) -> None:
    _, found, images = deepened(name)
    module = copy.deepcopy(found.module)
    module(images).square().sum().backward()
    for block in found.added:
        gradients = [value.grad for value in module.get_submodule(block).parameters() if value.grad is not None]
        assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_float32() -> None:
    module = copy.deepcopy(network("timm:test_byobnet")).float()
    images = images_for(module)
    found = deepen_module(module, calibration=images)
    assert relative_difference(outputs_of(module, images), outputs_of(found.module, images)) < 1e-4


# By hand


def perceptron(activation: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), activation or nn.ReLU(), nn.Linear(4, 3)).double()


def plain(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(6)] if norm else []
    layers = [nn.Conv2d(3, 6, 3, padding=1, groups=3), *middle, nn.ReLU(), nn.Conv2d(6, 2, 1), nn.Flatten()]
    return randomised(nn.Sequential(*layers).double())


def test_an_identity_layer_behind_a_linear_layer() -> None:
    module = perceptron()
    found = deepen_module(module, "0", calibration=torch.randn(3, 5, dtype=torch.float64))
    assert [type(part).__name__ for part in found.module] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert torch.equal(found.module[2].weight, torch.eye(4, dtype=torch.float64))
    assert not found.module[2].bias.any()
    assert found.added == ["2"]


def test_a_grouped_identity_kernel() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    expected = torch.zeros(4, 2, 3, 3)
    for channel, inside in enumerate((0, 1, 0, 1)):
        expected[channel, inside, 1, 1] = 1
    assert torch.equal(identity_kernel(layer), expected)


def test_a_batch_normalisation_is_undone_by_the_statistics_of_the_images() -> None:
    module, images = plain(norm=True), torch.randn(20, 3, 5, 5, dtype=torch.float64)
    found = deepen_module(module, "0", calibration=images)
    norm = found.module[4]
    before = nn.Sequential(module[0], copy.deepcopy(module[1]).train(), module[2])(images)
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, before.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, before.var((0, 2, 3), correction=0))
    torch.testing.assert_close(norm.weight, (norm.running_var + norm.eps).sqrt())
    torch.testing.assert_close(norm.bias, norm.running_mean)
    assert found.module[3].groups == 3
    for training in (False, True):
        before_and_after = (outputs_of(one, images, training) for one in (module, found.module))
        assert relative_difference(*before_and_after) < 1e-12
    # On other images the statistics of the batch are others.
    other = (outputs_of(one, images[:2], True) for one in (module, found.module))
    assert relative_difference(*other) > 1e-3


def test_a_layer_without_a_batch_normalisation_needs_no_images() -> None:
    module = plain(norm=True)
    found = deepen_module(module, "0", norm=False)
    assert not isinstance(found.module[4], nn.BatchNorm2d)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu()))
        return images * self.scale + branch


def test_a_branch_vanishes_at_its_last_normalisation_and_a_scaled_shortcut_is_one() -> None:
    block = Block().double()
    found = propose(block.eval(), (torch.randn(2, 3, 5, 5, dtype=torch.float64),), {})
    assert dict(found.values) == {"bn2.weight": "zero", "bn2.bias": "zero", "scale": "one"}
    assert found.residual
    make_identity(block, found)
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(block(images), images)


class Downsample(nn.Module):
    """Half the size, with a normalisation that no block can be the identity with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.gelu(self.conv2(self.conv1(images)))


def row_of_blocks(*blocks: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_row_of_blocks_of_several_resolutions_is_several_stages() -> None:
    module = randomised(row_of_blocks(Block(), Block(), Downsample(), Block(), Downsample()).double())
    found = deepen_module(module, calibration=torch.randn(4, 3, 8, 8, dtype=torch.float64))
    # Behind the last blocks of 8 x 8 and 4 x 4, and a residual layer at 2 x 2, where there is no other way.
    assert found.added == ["1.2", "1.5", "1.7"]
    assert ["like" in edit for edit in found.edits] == [True, True, False]
    assert found.edits[-1]["layer"]["residual"] and found.skipped == {}


def test_a_batch_normalisation_that_cannot_be_undone_well_enough_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is large numbers that it rounds, and what is behind it takes their difference."""

    def badly(norm: nn.BatchNorm2d) -> None:
        undo_normalisation(norm)
        norm.weight.data.mul_(1 + 1e-6)

    monkeypatch.setattr("kzoo.methods.deepening.undo_normalisation", badly)
    module, images = plain(norm=True), torch.randn(20, 3, 5, 5, dtype=torch.float64)
    found = deepen_module(module, "0", calibration=images)
    assert "norm" not in found.edits[0]["layer"]
    assert torch.equal(found.module(images), module(images))
    assert "cannot be preserved" in refused(module, "0", calibration=images, norm=True)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (nn.LayerNorm(5), "NativeLayerNorm"),
        (nn.Linear(5, 4), "turns"),
        (nn.Softmax(-1), "Softmax"),
    ],
)
def test_what_cannot_be_an_identity_is_named(block: nn.Module, reason: str) -> None:
    with pytest.raises(NoIdentity, match=reason):
        propose(block, (torch.randn(2, 5),), {})


def test_a_residual_layer_of_zero_output_behind_any_activation() -> None:
    module, inputs = perceptron(nn.GELU()), torch.randn(6, 5, dtype=torch.float64)
    found = deepen_module(module, "1", calibration=inputs, kind="residual")
    assert torch.equal(found.module(inputs), module(inputs))
    assert found.edits[0]["layer"]["activation"] == "gelu"
    assert entries(found.module) > entries(module)


def test_a_network_without_stages_and_without_relu() -> None:
    module, inputs = perceptron(nn.GELU()), torch.randn(6, 5, dtype=torch.float64)
    assert "kind='residual'" in refused(module, "all", calibration=inputs)
    found = deepen_module(module, calibration=inputs, kind="residual")
    assert found.added == ["2"]
    assert torch.equal(found.module(inputs), module(inputs))


def test_wrapped_layers_can_be_copied_and_read() -> None:
    module = network("timm:test_resnet")
    found = deepen_module(module, "conv1", norm=False)
    wrapper = copy.deepcopy(found.module).get_submodule(found.added[0].rpartition(".")[0])
    assert wrapper.inplace is wrapper.base.inplace
    with pytest.raises(AttributeError):
        wrapper.nothing  # noqa: B018


def test_seeds_and_copies() -> None:
    module = network("timm:test_resnet")

    def new(**options: Any) -> Tensor:
        found = deepen_module(module, "layer1", **options)
        return found.module.get_submodule(found.added[0]).conv1.weight  # type: ignore[union-attr,return-value]

    assert torch.equal(new(seed=1), new(seed=1))
    assert not torch.equal(new(seed=1), new(seed=2))
    assert torch.equal(new(init="copy"), module.layer1[-1].conv1.weight)  # type: ignore[union-attr,index]


def test_the_network_given_stays_as_it_is() -> None:
    module = network("timm:test_convnext").train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    deepen_module(module)
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    module.eval()


def test_a_module_around_a_row_of_blocks_is_a_stage() -> None:
    module = network("timm:test_convnext")
    found = deepen_module(module, ["stages.1", "stages.2"])
    assert found.added == ["stages.1.blocks.2", "stages.2.blocks.4"]
    images = images_for(module)
    assert relative_difference(outputs_of(module, images), outputs_of(found.module, images)) < 1e-12


# Names of networks


def test_resnet18_becomes_resnet34() -> None:
    torch.manual_seed(0)
    module = timm.create_model("resnet18", num_classes=7).eval()
    images = torch.randn(2, 3, 64, 64)
    places = ["layer1", *["layer2"] * 2, *["layer3"] * 4, "layer4"]
    found = deepen_module(module, places, calibration=images)
    assert equal_architecture(found.module) == "timm:resnet34"
    other = timm.create_model("resnet34", num_classes=7).eval()
    other.load_state_dict(found.module.state_dict())
    assert relative_difference(outputs_of(module, images), outputs_of(other, images)) < 1e-5


def test_a_changed_network_that_nobody_knows_has_no_name() -> None:
    _, found, _ = deepened("torchvision:squeezenet1_1")
    assert equal_architecture(found.module) is None


# Bad input


def refused(module: nn.Module, at: str, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        deepen_module(module, at, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unknown_layer_is_refused_with_the_nearest() -> None:
    assert "layer1" in refused(network("timm:test_resnet"), "layer_1")


def test_activations_that_are_not_idempotent_are_refused_with_what_can_be_done() -> None:
    said = refused(perceptron(nn.GELU()), "0", calibration=torch.randn(3, 5, dtype=torch.float64))
    assert "gelu" in said and "residual" in said and "DILS" in said


def test_batch_normalisation_needs_calibration_images() -> None:
    for at in ("conv1.2", "all"):
        said = refused(network("torchvision:shufflenet_v2_x0_5"), at)
        assert said.startswith("a batch normalisation behind") and "--data TASK, or calibration=" in said


def test_a_layer_without_an_activation_is_refused() -> None:
    module, inputs = (
        nn.Sequential(nn.Linear(5, 4), *perceptron()[2:], nn.Linear(3, 2)).double(),
        torch.randn(3, 5).double(),
    )  # type: ignore[index]
    assert "no activation" in refused(module, "0", calibration=inputs)


def test_the_output_layer_is_refused() -> None:
    inputs = torch.randn(3, 5, dtype=torch.float64)
    for kind in ("auto", "residual"):
        assert "2 is the network's output layer" in refused(perceptron(), "2", calibration=inputs, kind=kind)


def test_an_activation_that_is_run_twice_is_refused() -> None:
    module = build_network(NetworkSpec("torchvision", "resnet18"), load_zoo, 0)
    assert "run 2 times" in refused(module, "layer1.0.relu", calibration=torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.randn(1, 3, 64, 64), torch.full((2, 3, 64, 64), torch.nan)],
)
def test_images_that_cannot_be_used_are_refused(images: Tensor) -> None:
    assert "images" in refused(network("timm:test_resnet"), "layer1", calibration=images)


def test_unknown_options_are_refused() -> None:
    assert "fresh" in refused(network("timm:test_resnet"), "layer1", init="zeros")
    assert "residual" in refused(network("timm:test_resnet"), "layer1", kind="wide")


LINEAR = {"kind": "linear", "inputs": 4, "outputs": 4, "activation": "relu"}


def hostile() -> Iterator[tuple[Any, str]]:
    yield {"edit": "append"}, "list"
    yield ["append"], "mapping"
    yield [{"edit": "resize?"}], "expected one of"
    yield [{"edit": ["append"]}], "expected one of"
    yield [{"edit": "append", "stage": "1", "like": "0"}], "container"
    yield [{"edit": "append", "stage": "nowhere", "like": "0"}], "nearest"
    yield [{"edit": "append", "stage": "", "like": "9"}], "no block"
    yield [{"edit": "append", "stage": "", "like": "0", "code": "x"}], "unknown"
    changed = {"inputs": 4, "outputs": 4, "shortcut": "none"}
    yield [{"edit": "append", "stage": "", "like": "0", "unstrided": True}], "mapping"
    yield [{"edit": "append", "stage": "", "like": "0", "unstrided": changed | {"inputs": -1}}], "inputs"
    yield [{"edit": "append", "stage": "", "like": "0", "unstrided": changed | {"shortcut": "exec"}}], "shortcut"
    yield [{"edit": "append", "stage": "", "like": "0", "unstrided": changed | {"outputs": 5}}], "no convolution"
    yield [{"edit": "insert", "after": "1"}], "missing"
    yield [{"edit": "insert", "after": "", "layer": LINEAR}], "whole network"
    yield [{"edit": "insert", "after": "1", "layer": "nn.Linear(4, 4)"}], "mapping"
    yield [{"edit": "insert", "after": "1", "layer": LINEAR | {"kind": "Pickle"}}], "kind"
    yield [{"edit": "insert", "after": "1", "layer": LINEAR | {"activation": "__import__"}}], "activation"
    yield [{"edit": "insert", "after": "1", "layer": LINEAR | {"outputs": 10**12}}], "outputs"
    yield [{"edit": "insert", "after": "1", "layer": LINEAR | {"inputs": 65_536, "outputs": 65_536}}], "too large"
    yield [{"edit": "insert", "after": "1", "layer": LINEAR | {"norm": -1.0}}], "norm"
    yield [{"edit": "insert", "after": "1", "layer": LINEAR | {"bias": 2}}], "bias"
    yield [{"edit": "insert", "after": "1", "layer": LINEAR | {"kind": "conv2d", "kernel": 2}}], "odd"
    yield [{"edit": "insert", "before": "1", "layer": LINEAR}], "inputs"
    yield [{"edit": "insert", "before": "0", "layer": LINEAR}], "inputs"
    yield [{"edit": "insert", "after": "0", "like": "0"}] * 2000, "at most"
    yield (
        [{"edit": "append", "stage": "", "like": "0"}] * 2 + [{"edit": "insert", "after": "0", "like": ""}] * 40,
        "large",
    )


@pytest.mark.parametrize(("edits", "expected"), list(hostile()))
def test_hostile_edits_are_refused(edits: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        apply_edits(perceptron(), edits)

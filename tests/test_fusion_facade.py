"""``kzoo.fuse`` on modules of torch and timm, and on files."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import kzoo
from kzoo.errors import InputError


def network(seed: int, name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=10, in_chans=1).eval()


def images(seed: int, count: int = 12) -> torch.Tensor:
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_average_of_three_networks_of_timm():
    parents = [network(seed) for seed in range(3)]
    before = [{name: tensor.clone() for name, tensor in one.state_dict().items()} for one in parents]
    fused = kzoo.fuse(parents)
    for name, tensor in fused.named_parameters():
        torch.testing.assert_close(tensor, sum(state[name] for state in before) / 3, atol=1e-7, rtol=1e-6)
    assert all(
        torch.equal(tensor, state[name])
        for one, state in zip(parents, before, strict=True)
        for name, tensor in one.state_dict().items()
    )
    report = kzoo.report(fused)
    assert report.method == "weight_sum" and report.parents == ("network 1", "network 2", "network 3")
    assert report.entries == sum(tensor.numel() for tensor in fused.parameters())


def test_a_start_and_its_deltas():
    start, one, two = (network(seed) for seed in range(3))
    fused = kzoo.fuse([one, two], variant="scaled_delta", scale=0.25, start=start)
    name = "layer1.0.conv1.weight"
    began, first, second = (module.state_dict()[name] for module in (start, one, two))
    torch.testing.assert_close(fused.state_dict()[name], began + 0.25 * (first - began + second - began))
    with pytest.raises(InputError, match="weights that all parents were trained from"):
        kzoo.fuse([one, two], variant="delta_sum")


def test_files_and_modules_may_be_mixed(tmp_path):
    one, two = network(1), network(2)
    save_file(one.state_dict(), tmp_path / "one.safetensors")
    fused = kzoo.fuse([one, two], "nonessential", importance="magnitude", variant="winner")
    from_file = kzoo.fuse([tmp_path / "one.safetensors", two], "nonessential", importance="magnitude", variant="winner")
    for name, tensor in fused.state_dict().items():
        assert torch.equal(tensor, from_file.state_dict()[name]), name


def test_images_of_all_or_of_each():
    one, two = network(1), network(2)
    same = kzoo.fuse([one, two], "regmean", images=images(1))
    again = kzoo.fuse([one, two], "regmean", images=[images(1), images(1)])
    other = kzoo.fuse([one, two], "regmean", images=[images(1), images(2)])
    assert torch.equal(same.fc.weight, again.fc.weight) and not torch.equal(same.fc.weight, other.fc.weight)


def test_the_same_network_in_another_order_is_found_again():
    from kzoo.methods.fusion.permutations import permute, random_permutation, symmetries

    one, example = network(1), images(0, 2)
    two = network(2)
    found = symmetries(one, example)
    two.load_state_dict(permute(one.state_dict(), found, random_permutation(found, 5)))
    fused = kzoo.fuse([one, two], align="weights", example=example)
    assert kzoo.report(fused).alignments[0]["similarity"] == pytest.approx(1)
    torch.testing.assert_close(fused(example), one(example))


@pytest.mark.parametrize(
    ("networks", "options", "said"),
    [
        ([], {}, "networks has 0: expected two or more"),
        ([1], {}, "networks has 1: expected two or more"),
        ([1, 1], {}, "network 1 and network 2 have the same weights"),
        (
            [1, 2],
            {"method": "mean"},
            "method 'mean' does not fuse: expected weight_sum, nonessential, regmean, layerwise",
        ),
        ([1, 2], {"variant": "mean"}, "variant"),
        ([1, 2], {"method": "regmean"}, "give images of each"),
        ([1, 2], {"images": torch.zeros(3)}, "images of 2 networks are given for 2: expected a tensor N x C x H x W"),
        ([1, 2], {"images": [images(1)]}, "images of 1 networks are given for 2"),
        ([1, 2], {"classes": [["a"]]}, "2 networks and 1 lists of classes"),
    ],
)
def test_what_cannot_be_fused_is_refused(networks, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        kzoo.fuse([network(seed) for seed in networks], **options)


def test_other_things_than_networks_are_refused(tmp_path):
    with pytest.raises(InputError, match="is no list"):
        kzoo.fuse(network(1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not int"):
        kzoo.fuse([network(1), 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match=re.escape("conv1.0.weight is float32 in network 1 and float64 in network 2")):
        kzoo.fuse([network(1), network(2).double()])
    with pytest.raises(InputError, match=re.escape("different architectures: conv1.0.weight is 24x1x3x3 and 16x1x3x3")):
        kzoo.fuse([network(1, "resnet10t"), network(2)])


def test_a_network_that_loads_only_known_versions_is_fused_and_loaded(tmp_path):
    torch.manual_seed(0)
    one, two = (torchvision.models.mnasnet0_5(num_classes=4).eval() for _ in range(2))
    for number, module in enumerate((one, two)):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    fused = kzoo.fuse([one, two], variant="average")
    torch.testing.assert_close(fused.layers[0].weight, (one.layers[0].weight + two.layers[0].weight) / 2)
    save_file(two.state_dict(), tmp_path / "two.safetensors")
    again = kzoo.fuse([one, tmp_path / "two.safetensors"], variant="average")
    assert torch.equal(again.layers[0].weight, fused.layers[0].weight)

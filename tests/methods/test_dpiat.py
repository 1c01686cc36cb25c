"""DPIAT on real networks: which layers receive, what is overwritten, what the variants add (notes, 1.6 and 3.6)."""

import math

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn

import kzoo
from kzoo.errors import InputError
from kzoo.methods.dpiat import DpiatParameters, choices, steps
from kzoo.methods.surgery import module_body, operate


def carried(source, target, **parameters):
    """The part reports of a transfer, and the target before it."""
    chosen = DpiatParameters(**parameters)
    before = {key: value.detach().clone() for key, value in target.state_dict().items()}
    theirs, ours = module_body(source), module_body(target)
    return operate(steps(theirs, ours, chosen), theirs, ours, choices(chosen)), before


def network(name, **options):
    torch.manual_seed(sum(map(ord, name)))
    return getattr(tv, name)(**options)


@pytest.mark.parametrize(
    ("source", "target", "matched", "overwritten", "changed"),
    [
        ("resnet18", "resnet34", 73, 1.0, 0.999),
        ("resnet34", "resnet18", 41, 1.0, 0.999),
        ("resnet50", "resnet18", 41, 0.6412, 0.640),
        ("resnet18", "resnet50", 81, 0.5132, 0.512),
        ("vgg16", "resnet18", 19, 0.9482, 0.948),
        ("mobilenet_v2", "resnet18", 41, 0.0600, 0.059),
    ],
)
def test_overwritten_and_changed_shares_are_those_of_the_notes(source, target, matched, overwritten, changed):
    receiving = network(target)
    reports, before = carried(network(source), receiving, variant="paper")
    entries = sum(parameter.numel() for parameter in receiving.parameters())
    assert sum(part.source is not None for part in reports) == matched
    assert sum(part.entries for part in reports) == entries
    assert sum(part.overwritten for part in reports) / entries == pytest.approx(overwritten, abs=5e-5)
    different = sum((before[key] != value).sum().item() for key, value in receiving.named_parameters())
    assert different / entries == pytest.approx(changed, abs=1e-3)


def test_clip_copies_exactly_the_centre_and_leaves_the_rest():
    source, target = network("resnet50"), network("resnet18")
    reports, before = carried(source, target, variant="paper")
    part = next(part for part in reports if part.target == "layer1.0.conv1")
    theirs, ours = source.get_parameter(f"{part.source}.weight"), target.layer1[0].conv1.weight
    assert (tuple(theirs.shape), tuple(ours.shape)) == ((64, 64, 1, 1), (64, 64, 3, 3))
    assert torch.equal(ours[:, :, 1, 1], theirs[:, :, 0, 0])
    border = torch.ones(3, 3, dtype=bool)
    border[1, 1] = False
    assert torch.equal(ours[:, :, border], before["layer1.0.conv1.weight"][:, :, border])


def test_the_paper_leaves_running_statistics_and_full_state_copies_them():
    source = network("resnet18", num_classes=5)
    with torch.no_grad():
        source.train()(torch.randn(4, 3, 64, 64))
    for variant, same in (("paper", False), ("full_state", True)):
        target = network("resnet18", num_classes=5)
        reports, before = carried(source, target, variant=variant)
        assert any(part.statistics for part in reports) is same
        for key in ("bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"):
            expected = source.state_dict()[key] if same else before[key]
            assert torch.equal(target.state_dict()[key], expected)


@pytest.mark.usefixtures("one_thread")
def test_full_state_to_the_same_architecture_gives_the_same_function():
    source = timm.create_model("convnext_atto", num_classes=7).double().eval()
    target = timm.create_model("convnext_atto", num_classes=7).double().eval()
    reports, _ = carried(source, target)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(source(images), target(images))
    assert all(part.overwritten == part.entries for part in reports)


def test_the_paper_leaves_what_it_does_not_know():
    source, target = (timm.create_model("vit_tiny_patch16_224", num_classes=4) for _ in range(2))
    reports, before = carried(source, target, variant="paper")
    left = {part.target for part in reports if part.source is None}
    assert {"cls_token", "pos_embed", "norm", "blocks.0.norm1"} <= left
    assert torch.equal(target.pos_embed, before["pos_embed"])
    assert torch.equal(target.head.weight, source.head.weight)


def test_query_key_and_value_are_cropped_each_for_itself():
    source = timm.create_model("vit_tiny_patch16_224", num_classes=4, embed_dim=192)
    target = timm.create_model("vit_tiny_patch16_224", num_classes=4, embed_dim=96)
    reports, _ = carried(source, target, rescale=False)
    part = next(part for part in reports if part.target == "blocks.0.attn.qkv")
    assert part.source == "blocks.0.attn.qkv"
    theirs = source.get_submodule(part.source).weight.unflatten(0, (3, 192))
    ours = target.blocks[0].attn.qkv.weight.unflatten(0, (3, 96))
    assert torch.equal(ours, theirs[:, 48:144, 48:144])
    assert part.overwritten == part.entries


def test_cropped_fan_in_is_rescaled_so_that_the_variance_stays():
    torch.manual_seed(0)
    source, target = nn.Sequential(nn.Linear(4096, 64)), nn.Sequential(nn.Linear(1024, 64))
    reports, _ = carried(source, target, head=False)
    assert reports[0].factor == pytest.approx(2.0)
    assert torch.equal(target[0].weight, source[0].weight[:, 1536:2560] * 2)
    wide, narrow = torch.randn(2000, 4096), torch.randn(2000, 1024)
    deviations = [nn.functional.linear(x, net[0].weight).std().item() for x, net in ((wide, source), (narrow, target))]
    assert deviations[0] == pytest.approx(deviations[1], rel=0.05)


def test_inputs_that_the_source_lacks_start_at_zero_so_that_carried_rows_give_what_they_gave():
    source, target = nn.Sequential(nn.Linear(6, 4)).double(), nn.Sequential(nn.Linear(10, 8)).double()
    before = target[0].weight.detach().clone()
    carried(source, target, head=False)
    images = torch.randn(3, 10, dtype=torch.float64)
    assert torch.allclose(target(images)[:, 2:6], source(images[:, 2:8]), atol=1e-12)
    assert torch.equal(target[0].weight[[0, 1, 6, 7]], before[[0, 1, 6, 7]])


def test_a_random_border_is_damped_so_that_the_variance_stays():
    torch.manual_seed(0)
    source, target = nn.Sequential(nn.Linear(1024, 64)), nn.Sequential(nn.Linear(4096, 64))
    carried(source, target, head=False, border="random")
    factor = math.sqrt(4096 / (2 * 4096 - 1024))
    assert torch.allclose(target[0].weight[:, 1536:2560], source[0].weight * factor, atol=1e-7)
    narrow, wide = torch.randn(2000, 1024), torch.randn(2000, 4096)
    deviations = [nn.functional.linear(x, net[0].weight).std().item() for x, net in ((narrow, source), (wide, target))]
    assert deviations[0] == pytest.approx(deviations[1], rel=0.05)


def test_a_head_of_other_classes_stays_random_but_for_the_paper():
    source, target = network("resnet18", num_classes=9), network("resnet18", num_classes=5)
    reports, before = carried(source, target)
    assert reports[-1].source is None
    assert torch.equal(target.fc.weight, before["fc.weight"])
    reports, _ = carried(source, target, variant="paper")
    assert torch.equal(target.fc.weight, source.fc.weight[2:7])
    assert torch.equal(target.fc.bias, source.fc.bias[2:7])


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, lambda w: w.sum(1, keepdim=True)), (6, lambda w: w.repeat(1, 2, 1, 1) / 2)]
)
def test_other_input_channels_are_adapted_as_timm_does(channels, expected):
    source, target = (timm.create_model("resnet10t", num_classes=3, in_chans=n) for n in (3, channels))
    carried(source, target)
    first = "conv1.0.weight"
    assert torch.allclose(target.state_dict()[first], expected(source.state_dict()[first]), atol=1e-6)


def test_one_input_channel_is_repeated_for_three():
    source, target = (timm.create_model("resnet10t", num_classes=3, in_chans=n) for n in (1, 3))
    carried(source, target)
    first = "conv1.0.weight"
    assert torch.allclose(target.state_dict()[first], source.state_dict()[first].repeat(1, 3, 1, 1) / 3, atol=1e-6)


def test_positions_are_interpolated_and_prefix_tokens_kept():
    source = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    target = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=112)
    reports, _ = carried(source, target)
    part = next(part for part in reports if part.target == "pos_embed")
    assert (part.note, part.overwritten) == ("positions interpolated", 50 * 192)
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    # Interpolation with antialiasing keeps the mean over the grid nearly.
    assert torch.allclose(target.pos_embed[:, 1:].mean(1), source.pos_embed[:, 1:].mean(1), atol=2e-3)


def test_multihead_attention_of_torch_is_carried_with_its_bias():
    source, target = (
        network("vit_b_32", num_classes=3, image_size=64),
        network("vit_b_32", num_classes=3, image_size=64),
    )
    with torch.no_grad():
        for layer in source.encoder.layers:
            layer.self_attention.in_proj_bias.normal_()
    carried(source, target)
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_full_fills_every_entry_with_one_of_the_source():
    source, target = network("resnet18", num_classes=3), network("resnet50", num_classes=3)
    reports, _ = carried(source, target, variant="paper", operator="full")
    received = [part for part in reports if part.source is not None]
    assert all(part.overwritten == part.entries for part in received)
    part = next(part for part in received if part.axes[0] == "512->2048" and part.kind == "conv2d")
    theirs, ours = (net.get_parameter(f"{name}.weight") for net, name in ((source, part.source), (target, part.target)))
    assert torch.isin(ours, theirs).all()


def test_magnitude_gives_the_bias_of_the_channels_that_it_keeps():
    source, target = nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        source[0].weight.mul_(torch.tensor([1.0, 100.0, 0.1, 50.0])[:, None, None, None])
    carried(source, target, variant="paper", operator="magnitude")
    assert torch.equal(target[0].weight, source[0].weight[[1, 3]])
    assert torch.equal(target[0].bias, source[0].bias[[1, 3]])


@pytest.mark.parametrize(
    "parameters", [{"matching": "random", "seed": 3}, {"matching": "flat"}, {"standardization": "flat"}]
)
def test_the_ablations_are_deterministic_and_differ_from_the_method(parameters):
    theirs, ours = module_body(network("vgg16")), module_body(network("resnet18"))
    plans = [steps(theirs, ours, DpiatParameters(**parameters)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0] != steps(theirs, ours, DpiatParameters())


def test_an_unknown_parameter_is_refused_by_name():
    with pytest.raises(InputError, match=r"no parameter 'operater': did you mean operator\?"):
        kzoo.transfer(network("resnet18"), network("resnet18"), operater="full")


def test_what_a_normalisation_follows_is_not_rescaled():
    def block(width):
        return nn.Sequential(nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8), nn.Linear(width, 4))

    reports, _ = carried(block(16), block(4))
    factors = {part.target: part.factor for part in reports}
    assert factors == {"0": 1.0, "1": 1.0, "2": 2.0}


def test_normalisation_layers_are_carried_between_similar_networks_only():
    def receiving_norms(source, target, **parameters):
        reports, _ = carried(network(source), network(target), **parameters)
        return sum(part.source is not None for part in reports if part.kind == "bn2d")

    assert kzoo.similarity("torchvision:resnet18", "torchvision:resnet34") > 0.5
    assert receiving_norms("resnet18", "resnet34") == 36
    assert kzoo.similarity("torchvision:mobilenet_v2", "torchvision:resnet18") < 0.5
    assert receiving_norms("mobilenet_v2", "resnet18") == 0
    assert receiving_norms("mobilenet_v2", "resnet18", norms="all") == 20
    assert receiving_norms("resnet18", "resnet34", norms="none") == 0
    assert receiving_norms("mobilenet_v2", "resnet18", variant="paper") == 20


def test_magnitude_gives_each_of_query_key_and_value_its_own_bias():
    source, target = (timm.create_model("vit_tiny_patch16_224", num_classes=4, embed_dim=size) for size in (192, 96))
    with torch.no_grad():
        source.blocks[0].attn.qkv.bias.copy_(torch.arange(576.0))
    reports, _ = carried(source, target, operator="magnitude", rescale=False)
    assert next(part.source for part in reports if part.target == "blocks.0.attn.qkv") == "blocks.0.attn.qkv"
    # The bias tells which rows were taken; the largest of each piece by their sums.
    taken = target.blocks[0].attn.qkv.bias.long().unflatten(0, (3, 96))
    sums = source.blocks[0].attn.qkv.weight.double().abs().sum(1).unflatten(0, (3, 192))
    expected = sums.argsort(descending=True, stable=True)[:, :96].sort().values + torch.tensor([[0], [192], [384]])
    assert torch.equal(taken, expected)

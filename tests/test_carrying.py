"""``kzoo.transfer`` and what goes with it, in Python."""

from itertools import pairwise

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import kzoo
from kzoo.errors import InputError
from kzoo.local import add_model
from kzoo.methods.plan import Plan, Step


def small(seed, *sizes):
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))


def test_a_module_is_changed_in_place_and_returned(trained_file):
    target = timm.create_model("resnet10t", num_classes=7)
    assert kzoo.transfer(trained_file, target) is target
    report = kzoo.report(target)
    assert (report.similarity, report.coverage, report.coverage_full, report.overwritten) == (1.0, 1.0, 1.0, 1.0)
    assert report.warning is None
    stored = timm.create_model("resnet10t", num_classes=7, checkpoint_path=str(trained_file))
    for ours, theirs in zip(target.state_dict().values(), stored.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_named_target_is_initialised_from_the_seed_and_nothing_outside_notices(trained_file):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    nets = [kzoo.transfer(trained_file, "timm:resnet14t", classes=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(nets[0].fc.weight, nets[1].fc.weight)
    assert not torch.equal(nets[0].fc.weight, nets[2].fc.weight)
    assert nets[0].fc.out_features == 3


def test_the_baselines_carry_what_they_say(trained_file):
    counts = {}
    for method in ("by_name", "weight_selection", "random", "dpiat"):
        net = kzoo.transfer(trained_file, "timm:resnet14t", method, classes=7)
        counts[method] = kzoo.report(net).transferred_layers
    # resnet14t has the bottleneck blocks, of which only the stem, two normalisations and the shortcuts' shapes agree.
    assert counts["random"] == 0
    assert 0 < counts["by_name"] < counts["weight_selection"] <= counts["dpiat"]


def test_weight_selection_takes_evenly_spaced_entries_of_larger_layers():
    source, target = small(0, 8, 12), small(1, 4, 6)
    kzoo.transfer(source, target, "weight_selection")
    assert torch.equal(target[0].weight, source[0].weight[::2, ::2])
    assert torch.equal(target[0].bias, source[0].bias[::2])
    before = target[0].weight.clone()
    kzoo.transfer(small(2, 8, 5), target, "weight_selection")
    assert torch.equal(target[0].weight, before)


def test_by_name_carries_equal_shapes_only():
    source, target = small(0, 4, 4, 3), small(1, 4, 4, 5)
    before = target[1].weight.clone()
    kzoo.transfer(source, target, "by_name")
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].weight, before)


def test_parameter_groups_part_what_was_carried_from_what_was_not():
    source, target = small(0, 4, 4, 3), small(1, 4, 4, 5)
    kzoo.transfer(source, target)
    carried, fresh = kzoo.param_groups(target)
    assert (carried["name"], carried["param_names"]) == ("transferred", ["0.weight", "0.bias"])
    assert (fresh["name"], fresh["param_names"]) == ("random", ["1.weight", "1.bias"])
    optimizer = torch.optim.SGD(kzoo.param_groups(target, lr=0.1, random_lr=1.0))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]


def test_half_covered_parameters_fall_on_the_side_of_the_threshold():
    source, target = small(0, 4, 4), small(1, 4, 6)
    kzoo.transfer(source, target, head=False)
    assert kzoo.param_groups(target, threshold=0.7)[0]["params"] == []
    assert len(kzoo.param_groups(target, threshold=0.6)[0]["params"]) == 2


def test_parameter_groups_need_a_transfer():
    with pytest.raises(InputError, match="nothing was carried into this module"):
        kzoo.param_groups(small(0, 2, 2))


def test_a_plan_in_memory_is_carried_out():
    source, target = small(0, 4, 4, 4), small(1, 4, 4, 4)
    plan = Plan(source="a", target="b", method="dpiat", steps=(Step(target="1", source="0"),))
    before = target[0].weight.clone()
    kzoo.transfer(source, target, plan=plan)
    assert torch.equal(target[1].weight, source[0].weight)
    assert torch.equal(target[0].weight, before)


def test_initialize_takes_the_most_similar_model_of_ones_own(tmp_path, trained_file):
    other = tmp_path / "mobile.safetensors"
    save_file(timm.create_model("mobilenetv3_small_050", num_classes=3).state_dict(), other)
    registry = tmp_path / "registry"
    for path, name in ((other, "mobile"), (trained_file, "residual")):
        add_model(path, registry, {"license": "mit"}, lambda _what, _done: None, name=name)
    net = kzoo.initialize("timm:resnet18", classes=3, registry=registry)
    assert kzoo.report(net).source == "local/residual"
    assert net.fc.out_features == 3


def test_initialize_without_a_similar_model_on_this_machine_says_so():
    with pytest.raises(InputError, match="no trained model on this machine is similar to this network: 'kzoo add' one"):
        kzoo.initialize("timm:resnet18")


def test_initialize_takes_a_model_that_comes_with_kzoo_where_nothing_speaks_against_it():
    net = kzoo.initialize("small:resnet-2x16", classes=26, in_chans=1)
    assert kzoo.report(net).source == "local/glyphs-resnet-1x16"


def test_a_source_without_weights_is_refused():
    with pytest.raises(
        InputError, match="torchvision:resnet18 names a network, but its weights are not on the Hub, and not"
    ):
        kzoo.transfer("torchvision:resnet18", "timm:resnet34")
    with torch.device("meta"):
        empty = small(0, 4, 4)
    with pytest.raises(InputError, match=r"Sequential has no weights: its tensor 0\.weight lies on the meta device"):
        kzoo.transfer(empty, small(0, 4, 4))


def test_a_target_that_does_not_fit_into_memory_is_refused_before_it_is_built(trained_file, monkeypatch):
    monkeypatch.setattr("kzoo.memory.free_memory", lambda: 100 * 2**20)
    with pytest.raises(InputError, match=r"timm:vit_large_patch16_224 needs 1\.1 GiB of memory, and 0\.1 GiB are free"):
        kzoo.transfer(trained_file, "timm:vit_large_patch16_224")


def test_sources_with_a_wrapper_s_prefix_are_recognised(trained_file, tmp_path):
    from safetensors.torch import load_file

    path = tmp_path / "wrapped.safetensors"
    save_file({f"module.model.{key}": value for key, value in load_file(trained_file).items()}, path)
    ours, theirs = (kzoo.transfer(source, "timm:resnet10t", classes=7) for source in (path, trained_file))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


def test_bfloat16_files_are_carried_in_their_own_values(trained_file, tmp_path):
    from safetensors.torch import load_file

    half = {
        key: value.bfloat16() if value.is_floating_point() else value for key, value in load_file(trained_file).items()
    }
    path = tmp_path / "half.safetensors"
    save_file(half, path)
    net = kzoo.transfer(path, "timm:resnet10t", classes=7)
    assert torch.equal(net.fc.weight, half["fc.weight"].float())


def run_step(net, optimizer):
    optimizer.zero_grad()
    net(torch.ones(3, 4)).square().sum().backward()
    optimizer.step()


def test_the_state_of_adam_is_carried_along_with_its_weights():
    source, target = small(0, 4, 4, 3), small(1, 4, 6, 5)
    theirs = torch.optim.Adam(source.parameters(), lr=0.1)
    for _ in range(3):
        run_step(source, theirs)
    kzoo.transfer(source, target)
    ours = torch.optim.Adam(target.parameters(), lr=0.1)
    report = kzoo.carry_optimizer(source, theirs, target, ours)
    assert report.optimizer == "carried along for 2 parameters, reset for 2"
    state, old = ours.state[target[0].weight], theirs.state[source[0].weight]
    assert torch.equal(state["exp_avg"][1:5], old["exp_avg"])
    assert (state["exp_avg"][[0, 5]] == 0).all()
    assert state["step"] == 3
    assert target[1].weight not in ours.state
    run_step(target, ours)
    assert ours.state[target[0].weight]["step"] == 4


def test_the_momentum_of_sgd_is_carried_along():
    source, target = small(0, 4, 4), small(1, 4, 4)
    theirs = torch.optim.SGD(source.parameters(), lr=0.1, momentum=0.9)
    run_step(source, theirs)
    kzoo.transfer(source, target)
    ours = torch.optim.SGD(target.parameters(), lr=0.1, momentum=0.9)
    kzoo.carry_optimizer(source, theirs, target, ours)
    expected = theirs.state[source[0].weight]["momentum_buffer"]
    assert torch.equal(ours.state[target[0].weight]["momentum_buffer"], expected)


def test_the_state_of_another_kind_of_optimiser_is_refused():
    source, target = small(0, 4, 4), small(1, 4, 4)
    kzoo.transfer(source, target)
    with pytest.raises(InputError, match="the state of Adam means nothing to SGD"):
        kzoo.carry_optimizer(
            source, torch.optim.Adam(source.parameters()), target, torch.optim.SGD(target.parameters(), lr=1.0)
        )


def test_the_state_of_an_adapted_layer_starts_anew():
    source, target = (timm.create_model("resnet10t", num_classes=3, in_chans=n) for n in (3, 1))
    theirs = torch.optim.SGD(source.parameters(), lr=0.1, momentum=0.9)
    source(torch.ones(2, 3, 32, 32)).sum().backward()
    theirs.step()
    kzoo.transfer(source, target)
    ours = torch.optim.SGD(target.parameters(), lr=0.1, momentum=0.9)
    kzoo.carry_optimizer(source, theirs, target, ours)
    assert target.conv1[0].weight not in ours.state
    assert target.fc.weight in ours.state

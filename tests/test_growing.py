"""Growing networks from Python, by command and by recipe; what is preserved, and what is said where it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import kzoo
from kzoo.building import NetworkSpec, build_network
from kzoo.errors import InputError
from kzoo.methods.growth import DeepenParameters, DilsParameters, GrowthReport, PadParameters, WidenParameters
from kzoo.recipe import read_recipe
from kzoo.trained_modules import load_trained, trained_network
from kzoo.weights import open_trained
from kzoo.zoo import load_zoo

VGG, RESNET, VIT = "local:glyphs-vgg-1x16", "local:glyphs-resnet-1x12", "local:digits-vit-2x32"


def images(size: int = 16, count: int = 4, channels: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(3))


def shipped(name: str) -> nn.Module:
    return kzoo.load(Path("registry/zoo") / name.removeprefix("local:"))


def furthest(one: nn.Module, other: nn.Module, given: torch.Tensor) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        left, right = one.eval()(given), other.eval()(given)
    return float((left - right).abs().max() / left.abs().max())


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Python


def test_widen_gives_a_wider_copy_with_the_same_outputs():
    module = timm.create_model("resnet10t", num_classes=7).double().eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    wider = kzoo.widen(module, to=1.5)
    assert furthest(module, wider, images(64, channels=3).double()) < 1e-8
    assert wider.layer1[0].conv1.out_channels == 96 and size(wider) > 2 * size(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    told = kzoo.report(wider)
    assert isinstance(told, GrowthReport)
    assert (told.method, told.kept, told.before, told.after) == ("net2wider", True, size(module), size(wider))
    assert {each["new"] / each["old"] for each in told.grown} == {1.5}


def test_deepen_gives_a_deeper_copy_with_the_same_outputs():
    module = timm.create_model("resnet10t", num_classes=7).double().eval()
    deeper = kzoo.deepen(module, at=["layer1", "layer3"])
    assert furthest(module, deeper, images(64, channels=3).double()) < 1e-8
    assert [len(getattr(deeper, f"layer{stage}")) for stage in (1, 2, 3, 4)] == [2, 1, 2, 1]
    assert kzoo.report(deeper).added == ("layer1.1", "layer3.1")
    transferred, random = kzoo.param_groups(deeper)
    assert {name.split(".")[0] for name in random["param_names"]} == {"layer1", "layer3"}
    assert len(transferred["params"]) == len(list(module.parameters()))


def test_places_are_meant_as_they_are_called_in_the_network_given():
    module = shipped(VGG).double()
    deeper = kzoo.deepen(module, at=["features.2", "features.6"], norm=False)
    kinds = [type(part).__name__ for part in deeper.features]
    assert kinds[:6] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
    assert kinds[6:12] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
    assert furthest(module, deeper, images().double()) < 1e-12
    assert kzoo.report(deeper).added == ("features.3", "features.4", "features.9", "features.10")


def test_random_padding_keeps_the_old_weights_in_their_places_and_not_the_function():
    module = shipped(RESNET)
    padded = kzoo.widen(module, to=2, method="random_pad", seed=1, example=images())
    old, new = module.state_dict()["layer2.0.conv1.weight"], padded.state_dict()["layer2.0.conv1.weight"]
    assert torch.equal(new[: len(old), : old.shape[1]], old) and new.shape[0] == 2 * len(old)
    told = kzoo.report(padded)
    assert not told.kept and told.difference > 0.1
    assert told.shares["layer2.0.conv1.weight"] == 0.25


def test_dils_inserts_at_several_places_and_tells_the_error_of_each():
    module = shipped(VIT)
    deeper = kzoo.deepen(module, at=["blocks.0.mlp.act", "blocks.1.mlp.act"], method="dils", calibration=images(16, 64))
    told = kzoo.report(deeper)
    assert [each["name"] for each in told.insertions] == ["blocks.1.mlp.act.deeper", "blocks.0.mlp.act.deeper"]
    assert told.added == ("blocks.0.mlp.act.deeper", "blocks.1.mlp.act.deeper")
    assert all(each["error"] < 0.6 * each["identity_error"] for each in told.insertions)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: kzoo.widen("timm:resnet18"), "a torch module is needed"),
        (lambda m: kzoo.widen(m, method="net2deeper"), "does not widen: expected net2wider or random_pad"),
        (lambda m: kzoo.deepen(m, method="net2wider"), "does not deepen"),
        (lambda m: kzoo.widen(m, to=1.0, example=images()), "expected a factor above 1"),
        (lambda m: kzoo.widen(m, to={"layer1.0.conv1": 3}, example=images()), "has 12, and widening"),
        (lambda m: kzoo.widen(m, to={"layer1.0.conv8": 30}, example=images()), "nearest: layer1.0.conv"),
        (lambda m: kzoo.widen(m, nose=1), "no parameter 'nose': did you mean noise"),
        (lambda m: kzoo.deepen(m, at="layer7"), "nearest: layer"),
        (lambda m: kzoo.deepen(m, at="layer1", method="dils"), "needs images"),
        (lambda m: kzoo.deepen(m, at=["fc", "fc"], method="dils", calibration=images()), "each once"),
        (lambda m: kzoo.carry_optimizer(m, None, kzoo.deepen(m, example=images()), None), "start a new optimiser"),
    ],
)
def test_bad_input_gets_one_sentence(act, message):
    with pytest.raises(InputError, match=message) as caught:
        act(shipped(RESNET))
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr("kzoo.memory.free_memory", lambda: 10 * 2**20)
    with pytest.raises(InputError, match=r"so wide needs 0\.1 GiB of memory"):
        kzoo.widen(shipped(RESNET), to=30, example=images())


# The command line and recipes


@pytest.fixture
def resnet18(tmp_path) -> Path:
    """A file without a config.json: 6 classes, statistics as after training."""
    torch.manual_seed(0)
    module = timm.create_model("resnet18", num_classes=6)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 1.5)
    save_file(module.state_dict(), tmp_path / "resnet18.safetensors")
    return tmp_path / "resnet18.safetensors"


def test_what_widen_writes_is_loaded_grown_again_and_made_again(command, resnet18, tmp_path):
    out, more, again = tmp_path / "wider", tmp_path / "more", tmp_path / "again"
    code, said, notes = command(
        "widen", resnet18, "--network", "timm:resnet18", "--layer", "layer1.0.conv1=80", "--out", out
    )
    assert code == 0, notes
    assert "64     80" in said and "outputs are the same" in said and "kzoo.load" in notes
    config = json.loads((out / "config.json").read_text())
    assert (config["library_name"], config["architecture"]) == ("kzoo", "timm:resnet18")
    assert config["model_args"] == {"num_classes": 6}
    assert [edit["edit"] for edit in config["edits"]] == ["resize"]
    base = build_network(NetworkSpec("timm", "resnet18", kzoo.sources.Options(6)), load_zoo)
    base.load_state_dict(load_file(resnet18))
    assert furthest(base, kzoo.load(out), images(64, channels=3)) < 1e-5
    assert command("deepen", out, "--at", "layer4", "--out", more, "-q")[0] == 0
    assert [e["edit"] for e in json.loads((more / "config.json").read_text())["edits"]] == ["resize", "append"]
    assert [edit["edit"] for edit in read_recipe(more / "recipe.yaml").target.edits] == ["resize"]
    assert furthest(base, kzoo.load(more), images(64, channels=3)) < 1e-5
    assert command("run", more / "recipe.yaml", "--out", again)[0] == 0
    assert (again / "model.safetensors").read_bytes() == (more / "model.safetensors").read_bytes()


def test_resnet18_as_deep_as_resnet34_is_resnet34_to_timm(command, resnet18, tmp_path):
    places = ["layer1", *["layer2"] * 2, *["layer3"] * 4, "layer4"]
    at = [word for place in places for word in ("--at", place)]
    assert command("deepen", resnet18, "--network", "timm:resnet18", *at, "--out", tmp_path / "deep", "-q")[0] == 0
    script = (
        "import sys; sys.modules['kzoo'] = None; import timm, torch;"
        f"m = timm.create_model('local-dir:{tmp_path / 'deep'}', pretrained=True).eval();"
        "x = torch.ones(1, 3, 64, 64); print(m.pretrained_cfg['architecture'], len(m.layer3), *m(x)[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    name, blocks, *scores = done.stdout.split()
    base = timm.create_model("resnet18", num_classes=6).eval()
    base.load_state_dict(load_file(resnet18))
    assert (name, blocks) == ("resnet34", "6")
    with torch.no_grad():
        expected = base(torch.ones(1, 3, 64, 64))[0]
    torch.testing.assert_close(torch.tensor([float(score) for score in scores]), expected, rtol=1e-4, atol=1e-5)
    assert "edits" not in json.loads((tmp_path / "deep" / "config.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(("widen", RESNET, "--to", 2), "small:resnet-1x24"), (("deepen", RESNET), "small:resnet-2x12")],
)
def test_a_small_network_that_became_another_one_is_called_that(command, tmp_path, arguments, name):
    assert command(*arguments, "--out", tmp_path / "out")[0] == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == name and "edits" not in config
    assert furthest(shipped(RESNET), kzoo.load(tmp_path / "out"), images()) < 1e-5


def test_calibration_images_are_taken_in_the_size_of_the_source(command, tmp_path):
    arguments = ("deepen", VIT, "--at", "blocks.1.mlp.act", "--method", "dils", "--data", "digits", "--images", 64)
    code, said, notes = command(*arguments, "--json", "--out", tmp_path / "out")
    assert code == 0, notes
    recipe = read_recipe(tmp_path / "out" / "recipe.yaml")
    assert recipe.calibration is not None
    assert (recipe.calibration.size, recipe.calibration.channels, recipe.calibration.train) == (16, 1, 64)
    told = json.loads(said)
    assert told["method"] == "dils" and told["insertions"][0]["error"] < 0.2 and not told["kept"]


def test_the_grown_structure_from_random_weights_is_another_start_each_seed(tmp_path, command):
    assert command("widen", VGG, "--layer", "features.4=50", "--out", tmp_path / "wide")[0] == 0
    edits = json.loads((tmp_path / "wide" / "config.json").read_text())["edits"]
    found = []
    for seed in (0, 0, 1):
        target = {"model": "small:vgg-1x16", "classes": 26, "in_chans": 1, "seed": seed, "edits": edits}
        path = tmp_path / "random.yaml"
        path.write_text(yaml.safe_dump({"target": target, "method": "random"}))
        assert command("run", path, "--out", tmp_path / "random", "--force")[0] == 0
        found.append(load_file(tmp_path / "random" / "model.safetensors"))
    weight = "features.4.weight"
    assert torch.equal(found[0][weight], found[1][weight]) and not torch.equal(found[0][weight], found[2][weight])
    grown = load_file(tmp_path / "wide" / "model.safetensors")
    assert {key: value.shape for key, value in grown.items()} == {key: value.shape for key, value in found[0].items()}
    # Channels beyond the old ones repeat none of them.
    assert not torch.equal(found[0][weight][32:], found[0][weight][: len(found[0][weight]) - 32])


def test_a_recipe_grows_trains_and_tests(tmp_path, command):
    source = yaml.safe_load(Path("registry/local/digits-vgg-1x8.yaml").read_text())["architectures"][0]["checkpoints"][
        0
    ]
    images_of = {"task": "digits", "train": 200, "test": 100, "size": 16, "channels": 1}
    recipe = {
        "sources": [{"path": "local:digits-vgg-1x8", "sha256": source["sha256"]}],
        "target": {"model": "small:vgg-1x8", "classes": 10, "in_chans": 1},
        "method": "dils",
        "parameters": {"at": ["features.6", "features.10"], "stepwise": True, "most_lost": 0.1},
        "data": images_of,
        "training": {"epochs": 2, "batch_size": 50, "lr": 0.001},
        "threads": 1,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, notes = command("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert code == 0, notes
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    steps = metrics["growth"]["steps"]
    assert [step["at"] for step in steps] == ["features.6", "features.10"]
    assert all(step["kept"] and step["accuracy"] >= step["accuracy_inherited"] - 1e-9 for step in steps)
    assert metrics["test"]["accuracy"] == metrics["growth"]["test"]["accuracy"] > 0.8
    assert "training" not in metrics
    assert command("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "the recipe has no source: method net2wider takes one trained network"),
        ({"method": "net2wide"}, "unknown: expected dpiat, by_name, weight_selection, random, net2wider"),
        ({"parameters": {"to": 2, "at": "x"}}, "method net2wider has no parameter 'at'"),
        ({"parameters": {"division": "halves"}}, "parameter division of method net2wider"),
        ({"target": {"model": "small:vgg-1x12", "classes": 26, "in_chans": 1}}, "are not those of small:vgg-1x12"),
        ({"target": {"model": "small:vgg-1x16", "edits": [{"edit": "cut"}]}}, "expected one of append, insert, resize"),
        ({"method": "dpiat", "parameters": {}, "calibration": {"task": "digits"}}, "dpiat has no use for"),
        ({"method": "dils", "parameters": {"at": "features.2", "stepwise": True}}, "give data and training too"),
        ({"method": "dils", "parameters": {"at": "features.2"}}, "needs images"),
        (
            {
                "method": "net2deeper",
                "parameters": {"at": "features.2"},
                "calibration": {"task": "digits", "channels": 3},
            },
            "does not take the images",
        ),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused_with_a_reason(command, tmp_path, changes, message):
    source = yaml.safe_load(Path("registry/local/glyphs-vgg-1x16.yaml").read_text())["architectures"][0]["checkpoints"][
        0
    ]
    recipe = {
        "sources": [{"path": VGG, "sha256": source["sha256"]}],
        "target": {"model": "small:vgg-1x16", "classes": 26, "in_chans": 1},
        "method": "net2wider",
        "parameters": {"to": 1.5},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes))
    code, _, said = command("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert (code, message in said, said.count("\n")) == (2, True, 1), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("widen", VGG), "give --to FACTOR, or --layer NAME=WIDTH"),
        (("widen", VGG, "--to", 2, "--layer", "features.0=20"), "one of the two"),
        (("widen", VGG, "--layer", "features.0"), "is not NAME=WIDTH"),
        (("widen", VGG, "--to", 0.5), "expected a factor above 1"),
        (("widen", VGG, "--to", 2, "--network", "timm:resnet50"), "are not those of timm:resnet50"),
        (("deepen", VGG, "--at", "feature.2"), "nearest: features.2"),
        (("deepen", VGG, "--at", "features.2"), "--data TASK"),
        (("deepen", VGG, "--at", "classifier.2"), "is the network's output layer: name a layer before it"),
        (("deepen", VIT, "--at", "blocks.0.mlp.act", "--kind", "identity"), "gelu applied twice is not itself"),
        (("deepen", VGG, "--method", "dils", "--data", "digits"), "dils needs a place"),
        (("deepen", VGG, "--method", "dils", "--at", "features.2"), "needs images"),
    ],
)
def test_the_commands_say_what_is_wrong_and_write_nothing(command, tmp_path, arguments, message):
    code, _, said = command(*arguments, "--out", tmp_path / "out")
    assert (code, message in said, said.count("\n")) == (2, True, 1), said
    assert not any(tmp_path.iterdir())


def test_classes_and_channels_are_read_off_the_weights(tmp_path, zoo):
    module = timm.create_model("resnet10t", num_classes=6, in_chans=1)
    save_file(module.state_dict(), tmp_path / "grey.safetensors")
    trained = open_trained(tmp_path / "grey.safetensors", lambda: zoo)
    spec = trained_network(trained, lambda: zoo, "timm:resnet10t")
    assert (spec.options.classes, spec.options.in_chans) == (6, 1)
    loaded = load_trained(trained, spec, lambda: zoo)
    assert furthest(module, loaded, images(64)) == 0
    with pytest.raises(InputError, match="are not those of timm:resnet14t"):
        trained_network(trained, lambda: zoo, "timm:resnet14t")


def test_weights_that_fit_several_networks_must_be_named(command, tmp_path):
    save_file(timm.create_model("resnet18", num_classes=6).state_dict(), tmp_path / "some.safetensors")
    code, _, said = command("widen", tmp_path / "some.safetensors", "--to", 2, "--out", tmp_path / "out")
    assert code == 2 and "--network timm:NAME" in said and "timm:resnet18" in said


def test_faulty_weights_and_hostile_edits_are_refused(command, resnet18, tmp_path):
    tensors = load_file(resnet18)
    tensors["fc.bias"][2] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    code, _, said = command(
        "widen", tmp_path / "nan.safetensors", "--network", "timm:resnet18", "--to", 2, "--out", tmp_path / "out"
    )
    assert code == 2 and "fc.bias holds values that are not finite" in said
    assert command("widen", VGG, "--layer", "features.4=50", "--out", tmp_path / "wide")[0] == 0
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    for edits, message in (
        ("resize", "edits of the wrong form"),
        ([{"edit": "resize", "modules": {"features.0": {"forward": 3}}}], "may not set 'forward'"),
        ([{"edit": "resize", "tensors": {"features.0.weight": [2**21, 1, 3, 2**10]}}], "edit 1: .*are free"),
    ):
        (tmp_path / "wide" / "config.json").write_text(json.dumps(config | {"edits": edits}))
        with pytest.raises(InputError, match=message):
            kzoo.load(tmp_path / "wide")


def test_the_parameters_of_recipes_are_those_of_the_functions():
    """Whoever adds a choice to a method adds it to its recipes."""
    from dataclasses import fields

    from kzoo.methods.dils import DilsOptions
    from kzoo.methods.stepwise import StepwiseOptions
    from kzoo.methods.widening import Choices

    assert {one.name for one in fields(Choices)} - {"fill"} == set(WidenParameters.model_fields) - {"to"}
    assert set(PadParameters.model_fields) == {"to", "seed"}
    defaults = DilsParameters(at="x")
    assert defaults.insertion == DilsOptions()
    loop = StepwiseOptions()
    assert (defaults.loop, DeepenParameters().at) == (loop, "all")


class Small(nn.Module):
    """A network that is no chain, with an activation of its own."""

    def __init__(self, act: nn.Module, told: bool = False) -> None:
        super().__init__()
        self.first, self.act, self.last, self.told = nn.Linear(6, 8), act, nn.Linear(8, 3), told

    def forward(self, x: torch.Tensor) -> object:
        scores = self.last(self.act(self.first(x)))
        return {"scores": scores} if self.told else scores


def vectors(count: int = 64, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def test_a_place_is_deepened_again_and_again(command, tmp_path):
    module = Small(nn.ReLU()).double()
    deeper = kzoo.deepen(kzoo.deepen(module, at="act"), at="act")
    assert furthest(module, deeper, vectors().double()) < 1e-12 and size(deeper) == size(module) + 2 * (64 + 8)
    source = tmp_path / "resnet10t.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=3).state_dict(), source)
    arguments = ("--at", "act1", "--no-norm", "-q")
    assert command("deepen", source, "--network", "timm:resnet10t", *arguments, "--out", tmp_path / "a")[0] == 0
    assert command("deepen", tmp_path / "a", *arguments, "--out", tmp_path / "b")[0] == 0
    assert furthest(kzoo.load(tmp_path / "a"), kzoo.load(tmp_path / "b"), images(64, channels=3)) < 1e-5


@pytest.mark.parametrize(
    "act", [nn.Hardtanh(0, 20), nn.Hardtanh(-1, 1), nn.LeakyReLU(0.2), nn.ELU(2.0), nn.Softplus(3)]
)
def test_an_activation_of_other_bounds_is_not_taken_for_the_usual_one(act):
    with pytest.raises(InputError, match=r"no activation comes right behind|has neither"):
        kzoo.deepen(Small(act), at="first")
    plain = kzoo.deepen(Small(nn.ReLU6()), at="first")
    assert isinstance(plain.act[1].act, nn.ReLU6)


def test_outputs_in_a_mapping_are_compared():
    module = Small(nn.ReLU(), told=True).double()
    noisy = kzoo.widen(module, to=2, noise=0.5, example=vectors().double())
    assert kzoo.report(noisy).difference > 0.01
    assert kzoo.report(kzoo.deepen(module, at="act", example=vectors().double())).difference == 0


def test_training_mode_that_is_not_kept_is_said():
    module = timm.create_model("repvit_m0_9", num_classes=4).eval()
    told = kzoo.report(kzoo.deepen(module, at="stages.0.blocks", example=images(64, channels=3)))
    assert any("evaluation mode only" in remark for remark in told.remarks)
    calibrated = kzoo.deepen(module, at="stages.0.blocks", calibration=images(64, count=8, channels=3))
    assert kzoo.report(calibrated).remarks == ()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: kzoo.deepen(m, at=[]), "names no places"),
        (lambda m: kzoo.deepen(m, at=5), "names no places"),
        (lambda m: kzoo.deepen(m, method="dils"), "dils needs a place"),
        (lambda m: kzoo.deepen(m, example=vectors().numpy()), "an example is a tensor"),
        (lambda m: kzoo.widen(m, example=vectors(0)), "1 or more"),
        (lambda m: kzoo.widen(m.to("meta")), "meta device"),
        (lambda m: kzoo.widen(m, noise=1e60, example=vectors()), "not finite"),
        (lambda m: kzoo.widen(m, to={"zzz": 20}, example=vectors()), "nearest: "),
    ],
)
def test_what_is_no_network_or_no_place_gets_one_sentence(act, message):
    with pytest.raises(InputError, match=message) as caught:
        act(Small(nn.ReLU()))
    assert "\n" not in str(caught.value)


def test_dils_by_approximation_from_python():
    module = Small(nn.Tanh())
    choices = {"method": "dils", "calibration": vectors(200), "epochs": 3, "start": "identity"}
    found = kzoo.report(kzoo.deepen(module, at="act", solve="approximation", **choices))
    assert found.parameters["method"] == "approximation" and found.insertions[0]["error"] < 0.5


def test_growing_moves_nobody_s_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    module = shipped(VIT)
    state = torch.get_rng_state()
    kzoo.widen(module, to=2, example=images())
    kzoo.deepen(module, example=images())
    kzoo.deepen(module, at="blocks.0.mlp.act", method="dils", calibration=images(16, 32))
    assert torch.equal(torch.get_rng_state(), state) and len(expected) == 3


@pytest.mark.parametrize(
    "edit",
    [
        {"edit": "resize", "modules": {"features.0": {"groups": 0}}, "tensors": {}},
        {"edit": "resize", "modules": {"features.0": {"out_channels": 0}}, "tensors": {}},
        {"edit": "resize", "modules": {"features.0": {"groups": 5}}, "tensors": {}},
        {"edit": "resize", "modules": {"features.4": {"in_channels": 7}}, "tensors": {}},
        {"edit": "resize", "tensors": {"features.4.weight": [65536, 4096, 3, 3]}},
    ],
)
def test_edits_that_contradict_the_network_are_refused_before_it_is_made(command, tmp_path, edit):
    target = {"model": "small:vgg-1x16", "classes": 26, "in_chans": 1, "edits": [edit]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"target": target, "method": "random"}))
    code, _, said = command("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert (code, said.count("Error: "), "edit" in said) == (2, 1, True), said
    assert not (tmp_path / "out").exists()

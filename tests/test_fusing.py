"""Fusing networks by command and by recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import kzoo
from kzoo.recipe import read_recipe

IMAGES = {"task": "digits", "train": 300, "test": 200, "size": 16, "channels": 1}


@pytest.fixture(scope="module")
def parents(tmp_path_factory) -> Path:
    """A folder with two networks trained from one start for a moment, ``one`` and ``two``, and the start."""
    from kzoo.cli.main import run

    folder = tmp_path_factory.mktemp("parents")
    target = {"model": "small:vgg-1x8", "classes": 10, "in_chans": 1, "seed": 4}
    recipes = {"start": {"target": target, "method": "random"}}
    for name, seed in (("one", 1), ("two", 2)):
        training = {"epochs": 2, "lr": 0.005, "batch_size": 50, "seed": seed}
        recipes[name] = {"target": target, "method": "random", "data": IMAGES, "training": training, "threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in recipes.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
            patch.setattr("sys.argv", ["kzoo", "run", str(folder / f"{name}.yaml"), "--out", str(folder / name)])
            assert run() == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_average_is_the_average_and_its_recipe_makes_it_again(command, parents, tmp_path):
    code, said, notes = command("fuse", parents / "one", parents / "two", "--out", tmp_path / "out")
    assert code == 0, notes
    assert "2 networks of" in said and "kzoo.load" in notes
    card = (tmp_path / "out/README.md").read_text()
    assert "by kzoo's method weight_sum (average), a reconstruction of arXiv 1809.09399 from its abstract." in card
    one, two, out = weights(parents / "one"), weights(parents / "two"), weights(tmp_path / "out")
    for name in ("features.0.weight", "classifier.2.bias", "features.1.running_mean"):
        torch.testing.assert_close(out[name], (one[name] + two[name]) / 2)
    apart = (one["features.1.running_mean"] - two["features.1.running_mean"]) ** 2 / 4
    pooled = (one["features.1.running_var"] + two["features.1.running_var"]) / 2 + apart
    torch.testing.assert_close(out["features.1.running_var"], pooled)
    assert command("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_what_was_measured_is_a_file_with_its_sha256_in_the_recipe(command, parents, tmp_path):
    arguments = ("--method", "nonessential", "--data", "digits", "--images", 40, "--image-size", 16)
    assert command("fuse", parents / "one", parents / "two", *arguments, "--out", tmp_path / "out")[0] == 0
    recipe = read_recipe(tmp_path / "out" / "recipe.yaml")
    assert [(each.kind, each.source, each.path) for each in recipe.inputs] == [
        ("fisher", 0, "fisher-0.safetensors"),
        ("fisher", 1, "fisher-1.safetensors"),
    ]
    fisher = [load_file(tmp_path / "out" / each.path) for each in recipe.inputs]
    one, two, out = weights(parents / "one"), weights(parents / "two"), weights(tmp_path / "out")
    name = "features.4.weight"
    known = [each[name].clamp(min=1e-6) for each in fisher]
    expected = (known[0] * one[name] + known[1] * two[name]) / (known[0] + known[1])
    torch.testing.assert_close(out[name], expected.float())
    assert command("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
    (tmp_path / "out" / "fisher-1.safetensors").write_bytes((tmp_path / "out" / "fisher-0.safetensors").read_bytes())
    code, _, said = command("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "third")
    assert (code, "fisher-1.safetensors has the sha256" in said) == (1, True), said


def test_deltas_need_the_start_and_add_up(command, parents, tmp_path):
    arguments = ("fuse", parents / "one", parents / "two", "--variant", "delta_sum", "--out", tmp_path / "out")
    code, _, said = command(*arguments)
    assert (code, "--start" in said) == (2, True), said
    assert command(*arguments, "--start", parents / "start")[0] == 0
    one, two, start, out = (
        weights(place) for place in (*(parents / n for n in ("one", "two", "start")), tmp_path / "out")
    )
    name = "features.4.weight"
    torch.testing.assert_close(out[name], one[name] + two[name] - start[name])


@pytest.mark.parametrize("method", ["regmean", "layerwise"])
def test_closed_forms_beat_the_average_of_networks_from_two_starts(command, parents, tmp_path, method):
    assert command("fuse", parents / "one", parents / "two", "--method", method, "--data", "digits", "--images", 200,
                   "--image-size", 16, "--out", tmp_path / "out", "--json")[0] == 0  # fmt: skip
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["architecture"] == "small:vgg-1x8" and told["kzoo"]["method"] == method


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{one}",), "fuses two networks or more"),
        (("{one}", "{one}"), "twice"),
        (("{one}", "local:digits-vit-2x32"), "kzoo transfer"),
        (("{one}", "{two}", "--variant", "winner"), "parameter variant"),
        (("{one}", "{two}", "--method", "regmean"), "--data"),
        (("{one}", "{two}", "--method", "nonessential"), "importance=magnitude"),
        (("{one}", "{two}", "--method", "regmean", *("--data", "digits") * 3), "one task for all"),
        (("{one}", "{two}", "--start", "local:digits-vit-2x32", "--variant", "delta_sum"), "is no network like"),
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_written(command, parents, tmp_path, arguments, message):
    filled = [text.format(one=parents / "one", two=parents / "two") for text in arguments]
    code, _, said = command("fuse", *filled, "--out", tmp_path / "out")
    assert (code, said.count("Error: "), message in said, "Traceback" in said) == (2, 1, True, False), said
    assert not (tmp_path / "out").exists()


def test_values_that_are_not_finite_are_named(command, parents, tmp_path):
    broken = weights(parents / "two")
    broken["features.4.weight"][0, 0, 0, 0] = float("nan")
    save_file(broken, tmp_path / "broken.safetensors")
    code, _, said = command("fuse", parents / "one", tmp_path / "broken.safetensors", "--out", tmp_path / "out")
    assert (code, "features.4.weight" in said) == (2, True), said


def test_a_fused_network_tells_its_report(command, parents, tmp_path):
    assert command("fuse", parents / "one", parents / "two", "--align", "weights", "--out", tmp_path / "out")[0] == 0
    module = kzoo.load(tmp_path / "out")
    assert {name for group in kzoo.param_groups(module) for name in group["param_names"]} == {
        name for name, _ in module.named_parameters()
    }


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Path:
    """Networks of five classes each, from one start but for their classifiers: of 0 to 4, and of 5 to 9."""
    from kzoo.cli.main import run

    folder = tmp_path_factory.mktemp("halves")
    with pytest.MonkeyPatch.context() as patch:
        for name, classes in (("low", "01234"), ("high", "56789")):
            recipe = {
                "target": {"model": "small:mlp-1x16", "classes": 5, "in_chans": 1, "seed": 4},
                "method": "random",
                "data": {**IMAGES, "size": 8, "classes": list(classes)},
                "training": {"epochs": 20, "lr": 0.01, "batch_size": 50},
                "threads": 1,
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
            patch.setattr("sys.argv", ["kzoo", "run", str(folder / f"{name}.yaml"), "--out", str(folder / name)])
            assert run() == 0
    return folder


LISTS = ("--classes", "0,1,2,3,4", "--classes", "5,6,7,8,9")


@pytest.mark.parametrize("method", ["weight_sum", "nonessential", "layerwise"])
def test_networks_of_other_classes_get_one_classifier_of_all(command, halves, tmp_path, method):
    data = () if method == "weight_sum" else ("--data", "digits", "--images", 60, "--image-size", 8)
    arguments = ("fuse", halves / "low", halves / "high", "--method", method, "--heads", "joined", *data)
    code, _, said = command(*arguments, *LISTS, "--out", tmp_path / "out")
    assert code == 0, said
    low, high, out = weights(halves / "low"), weights(halves / "high"), weights(tmp_path / "out")
    head = next(name for name in reversed(out) if name.endswith("weight") and len(out[name]) == 10)
    assert torch.equal(out[head], torch.cat([low[head], high[head]]))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["label_names"] == list("0123456789")
    assert read_recipe(tmp_path / "out/recipe.yaml").target.classes == 10
    assert kzoo.load(tmp_path / "out")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert command("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_what_outputs_stand_for_is_read_beside_fused_weights(command, halves, tmp_path):
    arguments = ("fuse", halves / "low", halves / "high", "--heads", "joined", *LISTS, "--out", tmp_path / "one")
    assert command(*arguments)[0] == 0
    more = ("--method", "weight_sum", "--variant", "sum", "--heads", "joined", *LISTS, "--out", tmp_path / "two")
    assert command("fuse", halves / "low", halves / "high", *more)[0] == 0
    assert command("fuse", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out")[0] == 0
    assert read_recipe(tmp_path / "out/recipe.yaml").sources[1].classes == list("0123456789")
    more = ("--heads", "joined", *LISTS[:2], *("--classes", "5,6,7,9,8"), "--out", tmp_path / "three")
    assert command("fuse", halves / "low", halves / "high", *more)[0] == 0
    code, _, said = command("fuse", tmp_path / "one", tmp_path / "three", "--out", tmp_path / "four")
    assert (code, "output 8 is '8' and '9'" in said, "--heads joined" in said) == (2, True, True), said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--heads", "joined"), "what the outputs of low stand for: name its classes"),
        (("--heads", "joined", "--classes", "a,b"), "the classifier of low has 5 outputs, and 2 classes are named"),
        (LISTS, "name the outputs of their shared classifier differently"),
        (("--classes", "a", "--classes", "b", "--classes", "c"), "2 networks and 3 --classes"),
        (("--heads", "joined", "--classes", "a,b,c,d,d"), "parent 1 names the class 'd' twice"),
    ],
)
def test_classes_that_do_not_fit_are_refused(command, halves, tmp_path, more, said):
    code, _, told = command("fuse", halves / "low", halves / "high", *more, "--out", tmp_path / "out")
    assert (code, said in told) == (2, True), told
    assert not (tmp_path / "out").exists()


def test_own_images_are_those_that_a_recipe_trained_on(command, halves, tmp_path):
    arguments = ("fuse", halves / "low", halves / "high", "--method", "regmean", "--heads", "joined", *LISTS)
    code, _, said = command(*arguments, "--data", "own", "--images", 70, "--out", tmp_path / "out")
    assert (code, "guess" in said) == (0, False), said
    sources = read_recipe(tmp_path / "out/recipe.yaml").sources
    assert [one.images.classes for one in sources] == [tuple("01234"), tuple("56789")]
    assert {(one.images.task, one.images.train, one.images.size) for one in sources} == {("digits", 70, 8)}
    shutil.copytree(halves / "low", tmp_path / "bare")
    (tmp_path / "bare" / "recipe.yaml").unlink()
    arguments = ("fuse", tmp_path / "bare", halves / "high", "--data", "own")
    code, _, said = command(*arguments, "--method", "regmean", "--out", tmp_path / "more")
    assert (code, "bare has no recipe that says what it was trained on" in said) == (2, True), said


def test_files_of_one_name_are_told_apart_by_their_folders(command, halves, tmp_path):
    files = [halves / name / "model.safetensors" for name in ("low", "high")]
    code, _, said = command("fuse", *files, *LISTS, "--out", tmp_path / "out")
    assert (code, "low/model.safetensors and high/model.safetensors name the outputs" in said) == (2, True), said


@pytest.mark.parametrize(("more", "named"), [(("--data", "own"), "--data"), (("--start", "low"), "--start")])
def test_images_and_starts_that_nothing_looks_at_are_refused(command, halves, tmp_path, more, named):
    code, _, said = command("fuse", halves / "low", halves / "high", *more, "--out", tmp_path / "out")
    assert (code, f"method weight_sum has no use for {named}" in said) == (2, True), said

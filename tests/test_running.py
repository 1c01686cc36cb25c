"""From a recipe, or the command line's options, to a model folder and back."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import kzoo
import kzoo.training.loop
from kzoo.errors import InputError
from kzoo.files import new_folder
from kzoo.recipe import DataSection, Recipe, TargetSection, moved, read_recipe, recipe_text

FILES = ["README.md", "config.json", "environment.yaml", "model.safetensors", "recipe.yaml"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def recipe_of(trained_file):
    """A recipe with training, for a folder beside the trained file."""
    import hashlib

    digest = hashlib.sha256(trained_file.read_bytes()).hexdigest()

    def make(**changes):
        data = {
            "kzoo_recipe": 1,
            "sources": [{"path": str(trained_file), "sha256": digest}],
            "target": {"model": "timm:resnet10t", "classes": 10, "in_chans": 1},
            "recalibrate": {"task": "digits", "train": 40, "size": 16, "channels": 1},
            "data": {"task": "digits", "train": 80, "test": 40, "size": 16, "channels": 1},
            "training": {"epochs": 2, "lr": 0.001, "random_lr": 0.01, "batch_size": 40},
            "threads": 1,
        }
        return {key: value for key, value in (data | changes).items() if value is not None}

    return make


def test_transfer_writes_a_folder_that_timm_loads_by_itself(command, trained_file, tmp_path):
    out = tmp_path / "start"
    code, said, notes = command(
        "transfer", trained_file, "timm:resnet14t", "--classes", 5, "--in-chans", 1, "--out", out
    )
    assert (code, sorted(path.name for path in out.iterdir())) == (0, FILES)
    assert "layers received weights" in said
    assert f'timm.create_model("local-dir:{out}", pretrained=True)' in notes
    script = (
        f"import sys; sys.modules['kzoo'] = None; import timm; m = timm.create_model('local-dir:{out}', pretrained=True);"
        "print(m.fc.out_features, m.conv1[0].in_channels, float(m.fc.weight.double().sum()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    expected = kzoo.transfer(trained_file, "timm:resnet14t", classes=5, in_chans=1)
    assert done.stdout.split() == ["5", "1", str(float(expected.fc.weight.detach().double().sum()))]
    loaded = kzoo.load(out)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    assert [len(g["params"]) for g in kzoo.param_groups(loaded)] == [
        len(g["params"]) for g in kzoo.param_groups(expected)
    ]


def test_the_file_s_only_metadata_is_the_format_and_the_config_is_not_that_of_other_weights(
    command, trained_file, tmp_path
):
    out = tmp_path / "start"
    assert command("transfer", trained_file, "timm:resnet18.a1_in1k", "--classes", 5, "--out", out)[0] == 0
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((out / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("resnet18", 5)
    assert not {"tag", "license", "hf_hub_id", "url", "label_names"} & config["pretrained_cfg"].keys()
    assert (out / "model.safetensors").stat().st_mode & 0o777 == (out / "config.json").stat().st_mode & 0o777


def test_the_recipe_of_a_transfer_makes_the_same_bytes_again(command, trained_file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "deeper" / "second"
    options = ("--variant", "paper", "--operator", "full", "--seed", 3, "-p", "seed=4")
    assert command("transfer", trained_file, "timm:resnet14t", *options, "--out", first)[0] == 0
    assert command("run", first / "recipe.yaml", "--out", second)[0] == 0
    ours, theirs = contents(first), contents(second)
    assert {name for name in FILES if ours[name] != theirs[name]} == {"recipe.yaml"}
    recipes = [read_recipe(folder / "recipe.yaml") for folder in (first, second)]
    assert recipes[0].digest == recipes[1].digest
    # What was left to defaults is written down too.
    assert recipes[0].parameters == {
        "variant": "paper",
        "standardization": "blocks",
        "matching": "dp",
        "operator": "full",
        "seed": 4,
    }
    assert (second / recipes[1].sources[0].path).resolve() == trained_file.resolve()


def test_a_torchvision_network_comes_back_from_its_folder(command, trained_file, tmp_path):
    out = tmp_path / "start"
    assert command("transfer", trained_file, "torchvision:resnet18", "--classes", 7, "-q", "--out", out)[0] == 0
    module = kzoo.load(out)
    assert type(module).__module__ == "torchvision.models.resnet"
    stored = load_file(out / "model.safetensors")
    assert all(torch.equal(value, stored[key]) for key, value in module.state_dict().items())


def test_a_network_of_one_s_own_needs_trusted_code(command, trained_file, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import timm\ndef net():\n    return timm.create_model('resnet10t', num_classes=7)\n"
    )
    monkeypatch.chdir(tmp_path)
    code, _, said = command("transfer", trained_file, "py:mine:net", "--out", "out")
    assert (code, "add --trust-code" in said) == (2, True)
    assert command("transfer", trained_file, "py:mine:net", "--trust-code", "--out", "out")[0] == 0
    assert command("run", "out/recipe.yaml", "--trust-code", "--out", "again")[0] == 0
    assert (Path("out/model.safetensors")).read_bytes() == Path("again/model.safetensors").read_bytes()
    assert kzoo.load("out", trust_code=True).fc.out_features == 7


def test_json_tells_every_part_and_both_coverages(command, trained_file, tmp_path):
    code, said, _ = command("transfer", trained_file, "timm:resnet14t", "--out", tmp_path / "x", "--json")
    data = json.loads(said)
    matching = kzoo.match(str(trained_file), "timm:resnet14t")
    assert code == 0
    assert data["coverage"] == pytest.approx(matching.coverage)
    assert data["similarity"] == pytest.approx(matching.symmetric)
    assert data["coverage_full"] == pytest.approx(data["overwritten"])
    assert data["optimizer"].startswith("reset")
    entries = sum(p.numel() for p in timm.create_model("resnet14t").parameters())
    assert sum(part["entries"] for part in data["parts"]) == entries
    assert sum(part["overwritten"] for part in data["parts"]) / entries == pytest.approx(data["overwritten"])


def test_an_edited_plan_is_carried_out_and_kept_with_its_result(command, trained_file, tmp_path):
    plan, out, again = tmp_path / "plan.json", tmp_path / "out", tmp_path / "again"
    assert command("transfer", trained_file, "timm:resnet10t", "--classes", 7, "--plan", plan)[0] == 0
    data = json.loads(plan.read_text())
    assert [step["source"] for step in data["steps"]] == [step["target"] for step in data["steps"]]
    next(step for step in data["steps"] if step["target"] == "fc")["source"] = None
    plan.write_text(json.dumps(data))
    options = ("--classes", 7, "--from-plan", plan, "--out")
    assert command("transfer", trained_file, "timm:resnet10t", *options, out)[0] == 0
    stored, source = load_file(out / "model.safetensors"), load_file(trained_file)
    assert torch.equal(stored["conv1.0.weight"], source["conv1.0.weight"])
    assert not torch.equal(stored["fc.weight"], source["fc.weight"])
    assert command("run", out / "recipe.yaml", "--out", again)[0] == 0
    assert (out / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    (out / "plan.json").write_text(plan.read_text() + " ")
    code, _, said = command("run", out / "recipe.yaml", "--out", tmp_path / "third")
    assert (code, "plan.json has the sha256" in said) == (1, True)


def test_a_recipe_with_training_learns_and_gives_the_same_bytes_twice(command, recipe_of, tmp_path):
    path = tmp_path / "fine.yaml"
    path.write_text(yaml.safe_dump(recipe_of()))
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        code, said, _ = command("run", path, "--out", folder)
        assert code == 0
    assert "accuracy on 40 test images" in said
    ours, theirs = map(contents, folders)
    assert ours == theirs
    metrics = json.loads(ours["metrics.json"])
    assert [epoch["epoch"] for epoch in metrics["training"]["epochs"]] == [1, 2]
    assert metrics["training"]["epochs"][0]["lr"] == {"transferred": 0.001, "random": 0.01}
    assert metrics["test"]["accuracy"] == metrics["training"]["epochs"][1]["test_accuracy"]
    assert metrics["training"]["epochs"][1]["loss"] < metrics["training"]["epochs"][0]["loss"]
    assert not list(tmp_path.glob(".*"))


def test_recalibration_measures_the_statistics_of_the_images(command, recipe_of, tmp_path):
    from kzoo.training.batches import prepare
    from kzoo.training.data import load_task

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(data=None, training=None)))
    assert command("run", path, "--out", tmp_path / "out")[0] == 0
    module = kzoo.load(tmp_path / "out")
    images = prepare(load_task("digits", train=40, size=16, channels=1).train.images, torch.float32)
    with torch.no_grad():
        seen = module.conv1[0](images)
    assert torch.allclose(module.conv1[1].running_mean, seen.mean((0, 2, 3)), atol=1e-5)


def test_training_from_scratch_needs_no_source(command, recipe_of, tmp_path):
    path = tmp_path / "scratch.yaml"
    training = {"epochs": 1, "lr": 0.01}
    path.write_text(yaml.safe_dump(recipe_of(sources=None, method="random", recalibrate=None, training=training)))
    assert command("run", path, "--out", tmp_path / "out")[0] == 0
    assert "Initialised at random, seed 0." in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["kzoo"]["transferred"] == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "dpiatt"}, "method 'dpiatt' is unknown: expected dpiat, by_name"),
        ({"sources": None}, "the recipe has no source: method dpiat needs one"),
        ({"parameters": {"operator": "clap"}}, "parameter operator of method dpiat"),
        ({"target": {"model": "timm:resnet10tt"}}, "timm has no architecture 'resnet10tt'; nearest"),
        ({"target": {"clases": 3, "model": "timm:resnet10t"}}, r"recipe.yaml:\d+: target.clases: is no field of a recipe; nearest: classes"),
        ({"target": {}}, r"recipe.yaml:\d+: target.model: is missing"),
        ({"kzoo_recipe": 2}, r"recipe.yaml:\d+: kzoo_recipe"),
        ({"data": None}, "the recipe has training but no data"),
        ({"data": {"task": "digts"}}, "'digts' names no task"),
        ({"training": {"epochs": 0}}, r"recipe.yaml:\d+: training.epochs"),
        ({"training": {"epochs": "many"}}, r"training.epochs: .*found 'many'"),
    ],
)  # fmt: skip
def test_a_faulty_recipe_is_refused_with_one_sentence(command, recipe_of, tmp_path, change, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(**change)))
    code, out, error = command("run", path, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert error.startswith("Error: ") and error.count("\n") == 1
    assert re.search(said, error), error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize("text", ["", "- a\n", "a: &x 1\nb: *x\n", "kzoo_recipe: 1\nkzoo_recipe: 1\n", "{"])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError):
        read_recipe(path)


def test_another_file_than_the_recipe_s_is_refused(command, recipe_of, tmp_path, trained_file):
    changed = tmp_path / "changed.safetensors"
    tensors = load_file(trained_file)
    tensors["fc.bias"] += 1
    save_file(tensors, changed)
    recipe = recipe_of(training=None, data=None, recalibrate=None)
    recipe["sources"][0] = recipe["sources"][0] | {"path": changed.name}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, said = command("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert (code, (tmp_path / "out").exists()) == (1, False)
    assert "changed.safetensors has the sha256" in said


def test_other_images_than_the_recipe_s_are_refused(command, recipe_of, tmp_path):
    recipe = recipe_of(recalibrate=None)
    recipe["data"] = recipe["data"] | {"fingerprint": "0" * 64}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, said = command("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert (code, "the images of digits have the fingerprint" in said) == (1, True)


def test_paths_of_a_recipe_follow_it_to_another_folder():
    recipe = Recipe(
        target=TargetSection(model="timm:resnet18"), sources=[{"path": "w/a.safetensors", "sha256": "0" * 64}]
    )
    away = moved(recipe, Path("a/b"), Path("c"))
    assert away.sources[0].path == "../a/b/w/a.safetensors"
    assert moved(away, Path("c"), Path("a/b")) == recipe
    local = Recipe(target=recipe.target, sources=[{"path": "local:mine", "sha256": "0" * 64}])
    assert moved(local, Path("a/b"), Path("c")) == local
    assert away.digest == recipe.digest


def test_a_recipe_comes_back_from_its_text(tmp_path, recipe_of):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of()))
    recipe = read_recipe(path)
    path.write_text(recipe_text(recipe))
    assert read_recipe(path) == recipe


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("torchvision:resnet18", "timm:resnet34", "--out", "x"), "its weights are not on the Hub, and not on this machine"),
        (("nothing.safetensors", "timm:resnet34", "--out", "x"), "nothing.safetensors cannot be read"),
        (("FILE", "timm:resnet34"), "there is nothing to do: give --out DIR"),
        (("FILE", "timm:resnet34", "--out", "there"), "there exists: give another folder, or --force"),
        (("FILE", "timm:resnet34", "--out", "afile"), "afile exists and is no folder"),
        (("FILE", "resnet34", "--out", "x"), "'resnet34' names no network that can be built"),
        (("FILE", "timm:resnet34", "--classes", "-1", "--out", "x"), "classes is -1: expected a whole number"),
        (("FILE", "timm:resnet34", "-p", "rescale", "--out", "x"), "parameter 'rescale' is not NAME=VALUE"),
        (("FILE", "timm:resnet34", "-p", "rescale=7", "--out", "x"), "parameter rescale of method dpiat"),
        (("FILE", "timm:resnet34", "--method", "by_name", "--variant", "paper", "--out", "x"), "method by_name has no parameter"),
        (("FILE", "timm:resnet34", "--from-plan", "none.json", "--out", "x"), "none.json"),
        (("FILE", "timm:resnet34", "--recalibrate", "digts", "--out", "x"), "'digts' names no task"),
        (("BAD", "timm:resnet34", "--out", "x"), "fc.weight holds values that are not finite"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_and_leaves_nothing(command, trained_file, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("afile").write_text("")
    tensors = load_file(trained_file)
    tensors["fc.weight"][0, 0] = float("nan")
    save_file(tensors, "bad.safetensors")
    known = {"FILE": str(trained_file), "BAD": "bad.safetensors"}
    if arguments[0] == "BAD":
        arguments = (*arguments, "--classes", "7")
    code, out, error = command("transfer", *(known.get(word, word) for word in arguments))
    assert (code, out) == (2, ""), error
    assert said in error
    assert error.count("Error: ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["afile", "bad.safetensors", "there"]


def test_force_replaces_a_folder(command, trained_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("")
    code, _, said = command("transfer", trained_file, "timm:resnet10t", "--out", out, "--force", "-q")
    assert (code, "holds other things than a model of kzoo" in said) == (2, True)
    (out / "recipe.yaml").write_text("")
    assert command("transfer", trained_file, "timm:resnet10t", "--out", out, "--force", "-q")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(command, trained_file, tmp_path, name):
    out = tmp_path / "out"
    assert command("transfer", trained_file, "timm:resnet10t", "--out", out, "-q")[0] == 0
    (out / name).unlink()
    with pytest.raises(InputError):
        kzoo.load(out)


@pytest.mark.parametrize("kill_at", range(4))
def test_a_kill_while_the_folder_is_written_leaves_none(tmp_path, kill_at):
    script = f"""
import os, signal
from pathlib import Path
from kzoo.files import new_folder
with new_folder(Path("out")) as folder:
    for step in range(4):
        if step == {kill_at}:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / str(step)).write_text("x")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


@pytest.mark.parametrize("when", ["write", "train"])
def test_what_was_killed_leaves_no_folder_and_goes_on_from_its_last_epoch(
    command, recipe_of, tmp_path, monkeypatch, when
):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of()))
    script = """
import os, signal, sys
import kzoo.running, kzoo.training.loop
from kzoo.cli.main import run
def stop(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "write":
    kzoo.running._write_text = stop
else:
    keep = kzoo.training.loop.write_checkpoint
    def kept(*arguments):
        keep(*arguments)
        stop()
    kzoo.training.loop.write_checkpoint = kept
sys.argv = ["kzoo", "run", "recipe.yaml", "--out", "out"]
run()
"""
    done = subprocess.run([sys.executable, "-c", script, when], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / ".out.checkpoint" / "checkpoint.json").exists()
    assert not (tmp_path / "out").exists()
    monkeypatch.chdir(tmp_path)
    epochs = []
    train_epoch = kzoo.training.loop._Run._train_epoch
    monkeypatch.setattr(
        kzoo.training.loop._Run, "_train_epoch", lambda run: epochs.append(run.epoch) or train_epoch(run)
    )
    assert command("run", "recipe.yaml", "--out", "out")[0] == 0
    assert epochs == ([] if when == "write" else [2])
    assert command("run", "recipe.yaml", "--out", "whole")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    # What the killed one had half written is gone too.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yaml", "whole"]


def test_the_ranking_of_ones_own_models_ends_in_the_transfer(command, trained_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("-C", "zoo", "add", trained_file, "--name", "mine", "--license", "mit")[0] == 0
    code, _, said = command("-C", "zoo", "recommend", "timm:resnet14t", "--library", "local", "--classes", 3)
    line = "Next: kzoo -C zoo transfer local/mine timm:resnet14t --classes 3 --out start"
    assert (code, said.splitlines()[-1]) == (0, line)
    assert command(*line.split()[2:])[0] == 0
    assert kzoo.load("start").fc.out_features == 3


def test_a_small_network_is_trained_carried_over_and_loaded(command, tmp_path):
    recipe = {
        "target": {"model": "small:resnet-1x8", "classes": 10, "in_chans": 1},
        "method": "random",
        "data": {"task": "digits", "train": 200, "test": 40, "size": 16, "channels": 1},
        "training": {"epochs": 2, "lr": 0.01, "batch_size": 20, "threads": 1},
    }
    path, out, start = tmp_path / "recipe.yaml", tmp_path / "trained", tmp_path / "start"
    path.write_text(yaml.safe_dump(recipe))
    assert command("run", path, "--out", out)[0] == 0
    code, said, notes = command("transfer", out, "small:resnet-2x8", "--in-chans", 1, "--out", start, "--json")
    # The order of its layers is known, not guessed from the header.
    assert "guess" not in notes
    assert kzoo.architecture(out).fingerprint == kzoo.architecture(kzoo.load(out)).fingerprint
    matching = kzoo.match(kzoo.load(out), kzoo.architecture("small:resnet-2x8", in_chans=1))
    assert (code, json.loads(said)["similarity"]) == (0, pytest.approx(matching.symmetric))
    stored, source = kzoo.load(start), kzoo.load(out)
    assert torch.equal(stored.fc.weight, source.fc.weight)
    assert stored.conv1.in_channels == 1


def test_the_entry_of_a_result_tells_its_data_and_accuracy(command, tmp_path):
    recipe = {
        "target": {"model": "small:vgg-1x8", "classes": 10, "in_chans": 1},
        "method": "random",
        "data": {"task": "digits", "train": 200, "test": 40, "size": 16, "channels": 1},
        "training": {"epochs": 1, "lr": 0.01, "threads": 1},
    }
    path, out, mine = tmp_path / "recipe.yaml", tmp_path / "trained", tmp_path / "mine"
    path.write_text(yaml.safe_dump(recipe))
    assert command("run", path, "--out", out)[0] == 0
    code, said, _ = command("-C", mine, "add", out, "--json")
    entry, accuracy = json.loads(said), json.loads((out / "metrics.json").read_text())["test"]["accuracy"]
    assert (code, entry["exact"], entry["classes"], entry["input_size"]) == (0, True, 10, [1, 16, 16])
    assert (entry["trained_on"], entry["metrics"]) == (["digits"], {"digits": {"accuracy": round(100 * accuracy, 3)}})
    # What people say counts more; an untrained network has seen no data; other files of that name tell nothing.
    said = command("-C", mine, "add", out, "--force", "--trained-on", "mine", "--json")[1]
    assert json.loads(said)["trained_on"] == ["mine"]
    path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if key != "training"}))
    assert command("run", path, "--out", tmp_path / "tested")[0] == 0
    entry = json.loads(command("-C", mine, "add", tmp_path / "tested", "--json")[1])
    assert ("trained_on" in entry, list(entry["metrics"])) == (False, ["digits"])
    for name, content in (("metrics.json", '{"test": {"accuracy": 7.5}}'), ("recipe.yaml", "flour: 500 g\n")):
        (out / name).write_text(content)
        entry = json.loads(command("-C", mine, "add", out, "--name", name, "--json")[1])
        assert ("metrics" in entry, "trained_on" in entry) == (False, name == "metrics.json")


def test_the_models_that_come_with_kzoo_are_sources_anywhere(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("small:resnet-3x12", "--in-chans", 1, "--classes", 26)
    _, _, said = command("recommend", *options, "--library", "local", "-k", 2)
    line = "Next: kzoo transfer local/glyphs-resnet-2x12 small:resnet-3x12 --classes 26 --in-chans 1 --out start"
    assert said.splitlines()[-1] == line
    code, said, _ = command("transfer", "local:glyphs-resnet-2x12", *options, "--out", "start", "--json")
    assert (code, json.loads(said)["overwritten"] > 0.9) == (0, True)
    assert read_recipe(Path("start/recipe.yaml")).sources[0].path == "local:glyphs-resnet-2x12"
    assert command("run", "start/recipe.yaml", "--out", "deeper/again")[0] == 0
    assert Path("start/model.safetensors").read_bytes() == Path("deeper/again/model.safetensors").read_bytes()
    # Nothing can be carried into a target that is known by its file.
    _, _, said = command("recommend", "local:glyphs-resnet-2x12", "-k", 2)
    assert said.splitlines()[-1] == "Next: kzoo compare local/glyphs-resnet-3x12 local:glyphs-resnet-2x12"


def test_a_small_network_that_does_not_exist_is_refused(command, trained_file, tmp_path):
    code, _, said = command("transfer", trained_file, "small:resnet-0x8", "--out", tmp_path / "x")
    assert (code, "'resnet-0x8' is no small network" in said) == (2, True)


def test_a_rerun_from_another_place_gives_the_same_card_and_config(command, tmp_path, monkeypatch, trained_file):
    monkeypatch.chdir(tmp_path)
    Path("real/deep").mkdir(parents=True)
    Path("link").symlink_to("real/deep")
    Path("w.safetensors").write_bytes(trained_file.read_bytes())
    assert command("transfer", "w.safetensors", "timm:resnet10t", "--classes", 7, "--out", "link/first", "-q")[0] == 0
    recipe = read_recipe(Path("link/first/recipe.yaml"))
    assert recipe.threads == torch.get_num_threads()
    assert command("run", "link/first/recipe.yaml", "--out", "second")[0] == 0
    ours, theirs = contents(Path("link/first")), contents(Path("second"))
    assert {name for name in FILES if ours[name] != theirs[name]} == {"recipe.yaml"}
    assert b"come from `w.safetensors`" in ours["README.md"]


def test_the_recipe_of_a_model_of_ones_own_names_it_as_that(command, trained_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("-C", "zoo", "add", trained_file, "--name", "mine", "--license", "mit")[0] == 0
    assert command("-C", "zoo", "transfer", "local/mine", "timm:resnet10t", "--out", "one", "-q")[0] == 0
    assert read_recipe(Path("one/recipe.yaml")).sources[0].path == "local:mine"
    assert command("-C", "zoo", "run", "one/recipe.yaml", "--out", "deeper/two")[0] == 0


def test_a_folder_with_other_input_channels_is_a_whole_source(command, trained_file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    options = ("--classes", 3, "--in-chans", 1, "-q")
    source = tmp_path / "convnext.safetensors"
    save_file(timm.create_model("convnext_atto", num_classes=3).state_dict(), source)
    assert command("transfer", source, "timm:convnext_atto", *options, "--out", first)[0] == 0
    code, said, notes = command("transfer", first, "timm:convnext_atto", *options, "--out", second, "--json")
    assert (code, "guess" in notes) == (0, False)
    assert (json.loads(said)["similarity"], json.loads(said)["overwritten"]) == (1.0, 1.0)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_a_training_that_diverges_is_no_result(command, recipe_of, tmp_path):
    training = {"epochs": 1, "optimizer": "sgd", "lr": 100.0, "batch_size": 40}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_of(training=training)))
    code, _, said = command("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert (code, (tmp_path / "out").exists()) == (1, False)
    assert "the training diverged at step" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": {"model": "timm:resnet10t", "classes": 10}, "recalibrate": None}, "does not take the images of digits, which are 1x16x16"),
        ({"target": {"model": "timm:resnet10t", "classes": 10}, "data": None, "training": None}, "does not take the images of digits"),
        ({"target": {"model": "timm:resnet10t", "classes": 5, "in_chans": 1}, "training": None}, "but digits has 10 classes"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_the_images_is_refused(command, recipe_of, tmp_path, change, said):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_of(**change)))
    code, _, error = command("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert (code, said in error) == (2, True), error


def test_a_rate_without_a_dot_is_a_number(tmp_path, recipe_of):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_of()).replace("lr: 0.001", "lr: 1e-3"))
    assert read_recipe(tmp_path / "r.yaml").training.lr == 0.001


def test_a_plan_of_another_method_is_refused(command, trained_file, tmp_path):
    plan = tmp_path / "plan.json"
    assert command("transfer", trained_file, "timm:resnet10t", "--method", "by_name", "--plan", plan, "-q")[0] == 0
    code, _, said = command("transfer", trained_file, "timm:resnet10t", "--from-plan", plan, "--out", tmp_path / "o")
    assert (code, "the plan was made by the method by_name, not by dpiat" in said) == (2, True)
    both = ("--from-plan", plan, "--plan", plan, "--out", tmp_path / "o")
    code, _, said = command("transfer", trained_file, "timm:resnet10t", *both)
    assert (code, "give one of them" in said) == (2, True)


def test_a_full_disk_is_the_world_s_fault(command, trained_file, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_arguments, **_options):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    monkeypatch.setattr("kzoo.model_folder.save_file", full)
    code, _, said = command("transfer", trained_file, "timm:resnet10t", "--out", tmp_path / "o", "-q")
    assert (code, "model.safetensors cannot be written" in said, list(tmp_path.iterdir())) == (3, True, [])


def test_a_config_may_not_make_timm_read_other_files(command, trained_file, tmp_path):
    out = tmp_path / "o"
    assert command("transfer", trained_file, "timm:resnet10t", "--out", out, "-q")[0] == 0
    config = json.loads((out / "config.json").read_text())
    for change, said in (
        ({"model_args": {"checkpoint_path": "evil.pth"}}, "model argument 'checkpoint_path'"),
        ({"architecture": "hf-hub:somebody/something"}, "no network of timm"),
    ):
        (out / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=said):
            kzoo.load(out)


def test_types_that_torch_lacks_are_refused(tmp_path):
    import struct

    header = json.dumps({"fc.weight": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "q.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(InputError, match="the type F4, so it is quantised"):
        kzoo.transfer(path, "timm:resnet10t")


def test_a_kill_between_the_two_renames_of_force_brings_the_old_folder_back(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "recipe.yaml").write_text("old")
    script = """
import os, signal
from pathlib import Path
from kzoo.files import new_folder
with new_folder(Path("out"), force=True) as folder:
    Path.rename, rename = lambda old, new: (rename(old, new), os.kill(os.getpid(), signal.SIGKILL)), Path.rename
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(InputError, match="exists"), new_folder(out):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "recipe.yaml").read_text() == "old"


def test_what_a_control_group_leaves_counts_unused_pages_as_free(tmp_path):
    from kzoo.memory import _free_in_group

    for name, text in (("max", "1000"), ("current", "900"), ("stat", "anon 10\ninactive_file 300\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert _free_in_group(tmp_path) == 400


def test_a_factory_with_random_weights_is_the_same_source_twice(command, tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text(
        "import timm\ndef net():\n    return timm.create_model('resnet10t', num_classes=7)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert command("transfer", "py:ours:net", "timm:resnet10t", "--trust-code", "--out", "o", "-q")[0] == 0
    assert command("run", "o/recipe.yaml", "--trust-code", "--out", "p")[0] == 0
    assert Path("o/model.safetensors").read_bytes() == Path("p/model.safetensors").read_bytes()


def test_of_several_processes_the_first_writes(command, trained_file, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert command("transfer", trained_file, "timm:resnet10t", "--out", tmp_path / "alone", "-q")[0] == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = tmp_path / "alone" / "recipe.yaml"
    code, said, notes = command("run", recipe, "--out", tmp_path / "second")
    assert (code, said, "Load it" in notes, (tmp_path / "second").exists()) == (0, "", False, False)


def test_a_result_does_not_replace_its_own_source(command, trained_file, tmp_path):
    out = tmp_path / "out"
    assert command("transfer", trained_file, "timm:resnet10t", "--out", out, "-q")[0] == 0
    before = contents(out)
    code, _, said = command("transfer", out, "timm:resnet14t", "--out", out, "--force", "-q")
    assert (code, "holds the source" in said, contents(out) == before) == (2, True, True)


def test_the_report_says_why_normalisation_layers_stay(command, trained_file, tmp_path):
    code, _, notes = command("transfer", trained_file, "timm:mobilenetv3_small_050", "--out", tmp_path / "o", "-q")
    assert (code, "Normalisation layers stay as they were initialised" in notes) == (0, True)
    code, _, notes = command(
        "transfer", trained_file, "timm:mobilenetv3_small_050", "-p", "norms=all", "--out", tmp_path / "p", "-q"
    )
    assert (code, "Normalisation layers" in notes) == (0, False)


def test_a_plan_for_another_target_is_told(command, trained_file, tmp_path):
    plan = tmp_path / "plan.json"
    assert command("transfer", trained_file, "timm:resnet10t", "--plan", plan, "-q")[0] == 0
    data = json.loads(plan.read_text())
    plan.write_text(json.dumps(data | {"steps": data["steps"][:1]}))
    code, said, notes = command(
        "transfer", trained_file, "timm:resnet14t", "--from-plan", plan, "--out", tmp_path / "o"
    )
    assert (code, "the plan was made for timm:resnet10t, not for timm:resnet14t" in notes) == (0, True)
    assert re.search(r"^1 of \d+ layers received weights", said, re.MULTILINE)


def test_an_interrupted_training_says_how_it_goes_on(command, recipe_of, tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_of()))
    train_epoch = kzoo.training.loop._Run._train_epoch

    def interrupted(run):
        if run.epoch == 2:
            raise KeyboardInterrupt
        train_epoch(run)

    monkeypatch.setattr(kzoo.training.loop._Run, "_train_epoch", interrupted)
    code, _, notes = command("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert (code, "the same command goes on from there" in notes) == (130, True)
    assert (tmp_path / ".out.checkpoint").exists()


def test_a_model_that_no_registry_holds_is_told_so(command, tmp_path):
    code, _, said = command("transfer", "local:mine", "timm:resnet18", "--out", tmp_path / "o")
    assert (code, "no registry here holds local:mine: name the folder of its registry" in said) == (2, True)


def test_a_plan_needs_no_memory_for_the_target(command, trained_file, tmp_path, monkeypatch):
    monkeypatch.setattr("kzoo.memory.free_memory", lambda: 2**20)
    for target in ("timm:resnet14t", "torchvision:regnet_y_400mf", "small:resnet-1x8"):
        assert command("transfer", trained_file, target, "--plan", tmp_path / "plan.json", "-q")[0] == 0
    code, _, said = command("transfer", trained_file, "timm:resnet14t", "--out", tmp_path / "o")
    assert (code, "GiB are free" in said) == (2, True)


def test_the_recipe_s_digest_is_that_of_the_config(command, recipe_of, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_of(data=None, training=None, recalibrate=None)))
    _, said, _ = command("run", tmp_path / "r.yaml", "--out", tmp_path / "out", "--json")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert json.loads(said)["recipe"] == config["kzoo"]["recipe"]


def test_images_held_back_are_no_part_of_older_digests():
    data = DataSection(task="digits", train=100, classes=("1", "2"), seed=3)
    target = TargetSection(model="small:mlp-1x16", classes=2)
    recipe = Recipe(target=target, method="random", data=data, recalibrate=DataSection(task="digits"))
    # As it was before a recipe could say so.
    assert recipe.digest == "cf547a7f2a83a46a82616be81c12ebbb7fadfc8675596917a0659d7145e95978"
    held = data.model_copy(update={"validation": 10})
    others = [
        recipe.model_copy(update={"data": one}) for one in (held, held.model_copy(update={"split": "validation"}))
    ]
    assert len({recipe.digest, *(other.digest for other in others)}) == 3

"""Weights of networks that kzoo does not know, fused by command and by recipe."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import kzoo
from kzoo.errors import InputError
from kzoo.recipe import read_recipe

CONFIG = {"architectures": ["SomeForCausalLM"], "hidden_size": 8, "model_type": "some"}


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"model.layers.{number}.mlp.up_proj.weight": (24, 8) for number in range(2)}
    shapes |= {"model.embed_tokens.weight": (40, 8), "model.norm.weight": (8,), "lm_head.weight": (40, 8)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def store(folder, state, shards):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = sorted(state)
    files = {name: f"model-{1 + at % shards:05d}-of-{shards:05d}.safetensors" for at, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: state[name] for name in names if files[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


@pytest.fixture
def language(tmp_path):
    """A folder with two language models in two and three shards, and what they started from."""
    for name, seed, shards in (("one", 1, 2), ("two", 2, 3), ("start", 3, 1)):
        store(tmp_path / name, tensors(seed), shards)
    return tmp_path


def state(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def bytes_of(folder):
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".json")
    }


def test_they_become_one_and_the_recipe_makes_it_again(command, language):
    code, said, notes = command("fuse", language / "one", language / "two", "--out", language / "out")
    assert code == 0, notes
    assert "2 networks of 1.0k learned entries became one." in said
    assert "kzoo does not know the network" in notes and "writing: 100%" in notes
    assert sorted(path.name for path in (language / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "recipe.yaml",
    ]
    one, two, out = (state(language / name) for name in ("one", "two", "out"))
    for name in one:
        assert torch.equal(out[name], ((one[name].double() + two[name].double()) / 2).bfloat16())
    config = json.loads((language / "out" / "config.json").read_text())
    recipe = read_recipe(language / "out" / "recipe.yaml")
    assert {name: config[name] for name in CONFIG} == CONFIG
    assert (config["kzoo"]["method"], config["kzoo"]["network"]) == ("weight_sum", "tensors")
    assert config["kzoo"]["recipe"] == recipe.digest and recipe.target.model == "tensors"
    assert [source.path for source in recipe.sources] == ["../one", "../two"]
    code, _, notes = command("run", language / "out" / "recipe.yaml", "--out", language / "again")
    assert code == 0, notes
    assert bytes_of(language / "again") == bytes_of(language / "out")
    with pytest.raises(InputError, match="a network that kzoo does not know, so it cannot build it"):
        kzoo.load(language / "out")


def test_the_report_has_the_keys_of_others(command, language):
    code, said, _ = command("fuse", language / "one", language / "two", "--out", language / "out", "--json")
    told = json.loads(said)
    assert code == 0
    assert (told["method"], told["parents"], told["entries"]) == ("weight_sum", ["one", "two"], 2 * 24 * 8 + 2 * 40 * 8)
    assert "model.norm.weight" not in told["shares"] and len(told["shares"]) == 4
    from kzoo.fusing import FusionReport

    assert set(told) == set(FusionReport("", {}, (), 0, {}).to_dict())


def test_deltas_are_taken_from_the_start(command, language):
    arguments = ("--variant", "delta_sum", "--start", language / "start", "--out", language / "out")
    code, _, notes = command("fuse", language / "one", language / "two", *arguments)
    assert code == 0, notes
    one, two, start, out = (state(language / name) for name in ("one", "two", "start", "out"))
    name = "lm_head.weight"
    expected = one[name].double() + two[name].double() - start[name].double()
    torch.testing.assert_close(out[name], expected.bfloat16())
    assert read_recipe(language / "out" / "recipe.yaml").start.path == "../start"
    assert command("run", language / "out" / "recipe.yaml", "--out", language / "again")[0] == 0
    assert bytes_of(language / "again") == bytes_of(language / "out")


def test_importances_come_from_files_that_the_recipe_names(command, language):
    fisher = [{name: tensor.double().square() for name, tensor in tensors(seed).items()} for seed in (7, 8)]
    for number, one in enumerate(fisher):
        save_file(one, language / f"{number}.safetensors")
    code, _, notes = command(
        "fuse", language / "one", language / "two", "--method", "nonessential", "--out", language / "out"
    )
    assert (code, "importance=magnitude" in notes, (language / "out").exists()) == (2, True, False), notes
    arguments = ("--method", "nonessential", "-p", "importance=magnitude", "--out", language / "out")
    assert command("fuse", language / "one", language / "two", *arguments)[0] == 0
    recipe = yaml.safe_load((language / "out" / "recipe.yaml").read_text())
    recipe["parameters"]["importance"] = "fisher"
    for number, source in enumerate(recipe["sources"]):
        source["path"] = source["path"].removeprefix("../")
        content = (language / f"{number}.safetensors").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        recipe.setdefault("inputs", []).append(
            {"kind": "fisher", "source": number, "path": f"{number}.safetensors", "sha256": digest}
        )
    (language / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, notes = command("run", language / "recipe.yaml", "--out", language / "fisher")
    assert code == 0, notes
    one, two, out = (state(language / name) for name in ("one", "two", "fisher"))
    # Their own importances lie beside the weights, for the recipe there.
    assert (language / "fisher" / "fisher-1.safetensors").read_bytes() == (language / "1.safetensors").read_bytes()
    name = "lm_head.weight"
    known = [each[name].clamp(min=1e-6) for each in fisher]
    expected = (known[0] * one[name].double() + known[1] * two[name].double()) / (known[0] + known[1])
    torch.testing.assert_close(out[name], expected.bfloat16())
    save_file(fisher[0], language / "1.safetensors")
    code, _, notes = command("run", language / "recipe.yaml", "--out", language / "other")
    assert (code, "1.safetensors has the sha256" in notes) == (1, True), notes


def test_other_weights_than_the_recipe_names_are_refused(command, language):
    assert command("fuse", language / "one", language / "two", "--out", language / "out")[0] == 0
    changed = tensors(2)
    changed["lm_head.weight"][0, 0] += 1
    (language / "two").rename(language / "old")
    store(language / "two", changed, 3)
    code, _, notes = command("run", language / "out" / "recipe.yaml", "--out", language / "again")
    assert (code, "../two has the sha256" in notes) == (1, True), notes
    assert sorted(path.name for path in language.iterdir()) == ["old", "one", "out", "start", "two"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{one}",), "one network cannot be fused"),
        (("{one}", "{one}"), "twice"),
        (("{one}", "local:digits-vit-2x32"), "have different architectures"),
        (("{one}", "{two}", "--variant", "winner"), "parameter variant"),
        (("{one}", "{two}", "--variant", "delta_sum"), "were trained from: give them (--start)"),
        (("{one}", "{two}", "--align", "weights"), "name it (--network"),
        (("{one}", "{two}", "--method", "regmean", "--data", "digits"), "name it (--network"),
        (("{one}", "{two}", "--start", "{tmp}/none", "--variant", "delta_sum"), "none"),
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_written(command, language, arguments, message):
    filled = [text.format(one=language / "one", two=language / "two", tmp=language) for text in arguments]
    code, _, said = command("fuse", *filled, "--out", language / "out")
    assert (code, said.count("Error: "), message in said, "Traceback" in said) == (2, 1, True, False), said
    assert sorted(path.name for path in language.iterdir()) == ["one", "start", "two"]


def test_values_that_are_not_finite_leave_nothing_behind(command, language):
    broken = tensors(4)
    broken["lm_head.weight"][3, 3] = float("nan")
    store(language / "broken", broken, 2)
    code, _, said = command("fuse", language / "one", language / "broken", "--out", language / "out")
    assert (code, "lm_head.weight of broken (in model-00001-of-00002.safetensors) holds" in said) == (2, True), said
    assert not list(language.glob("*out*")) and not list(language.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "regmean", "parameters": {}}, "builds networks to fuse them"),
        ({"method": "dpiat", "parameters": {}}, "expected weight_sum or nonessential"),
        ({"data": {"task": "digits"}}, "but it has data"),
    ],
)
def test_recipes_that_need_a_network_are_refused(command, language, change, message):
    assert command("fuse", language / "one", language / "two", "--out", language / "out")[0] == 0
    recipe = yaml.safe_load((language / "out" / "recipe.yaml").read_text()) | change
    (language / "out" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, said = command("run", language / "out" / "recipe.yaml", "--out", language / "again")
    assert (code, message in said) == (2, True), said


def test_torch_is_not_imported(language):
    code = (
        "import sys; from kzoo.cli.main import run; sys.argv = ['kzoo', 'fuse', *sys.argv[1:]]; "
        "sys.exit(run() or 'torch' in sys.modules)"
    )
    sources = [str(language / name) for name in ("one", "two")]
    found = subprocess.run(
        [sys.executable, "-c", code, *sources, "--out", str(language / "out")], check=False, capture_output=True
    )
    assert found.returncode == 0, found.stderr.decode()


def test_names_are_the_first_ones_whatever_a_wrapper_has_put_in_front_of_the_others(command, language):
    wrapped = {f"module.{name}": tensor for name, tensor in tensors(5).items()}
    store(language / "wrapped", wrapped, 2)
    for first, second in (("one", "wrapped"), ("wrapped", "one")):
        code, _, said = command("fuse", language / first, language / second, "--out", language / f"of-{first}")
        assert code == 0, said
        names = state(language / f"of-{first}").keys()
        assert names == state(language / first).keys()
    assert command("fuse", "--check", language / "one", language / "wrapped")[0] == 0

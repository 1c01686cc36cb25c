"""From two trained networks to a published model that strangers rebuild, over the tests' Hub with the real clients."""

import json
import subprocess
import sys

import pytest
import timm
import torch
import yaml

import kzoo
from tests.hub.server import Hub

RECIPE = {
    "kzoo_recipe": 1,
    "target": {"model": "timm:test_resnet", "classes": 10, "in_chans": 1, "seed": 3},
    "method": "random",
    "data": {"task": "digits", "train": 256, "test": 100, "size": 32, "channels": 1},
    "training": {"epochs": 1, "batch_size": 32, "lr": 0.005, "threads": 1},
    "threads": 1,
}
_LOGITS = """
import json, sys
import timm, torch
model = timm.create_model("hf-hub:tester/b", pretrained=True).eval()
torch.manual_seed(0)
print(json.dumps(model(torch.randn(2, 1, 64, 64)).tolist()), "kzoo" in sys.modules)
"""


@pytest.fixture
def here(hub_client, command, tmp_path, monkeypatch):
    """Run commands in this process, as somebody who may write, in a folder of their own."""
    hub_client("hf_write")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("KZOO_REGISTRY", raising=False)

    def run(*arguments: object) -> str:
        code, out, said = command(*arguments)
        assert code == 0, said
        assert "hf_write" not in out + said
        return out

    return run


@pytest.fixture
def stranger(hub: Hub, hub_environment, tmp_path):
    """Run a process of somebody who has nothing but the Hub: another home, another registry."""
    environment = hub_environment("hf_write", home="theirs") | {"XDG_CONFIG_HOME": str(tmp_path / "theirs")}
    environment.pop("KZOO_REGISTRY", None)

    def run(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=environment | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "hf_write" not in done.stdout + done.stderr
        return done.stdout

    return run


def test_trained_published_added_carried_over_published_rebuilt(hub: Hub, here, stranger, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    here("run", "recipe.yaml", "--out", "a")
    publish = ("publish", "a", "--repo", "tester/a", "--license", "apache-2.0", "--json")
    told = json.loads(here(*publish))
    assert (told["changed"], told["public"], told["license"]) == (True, False, "apache-2.0")
    first = hub.head("tester/a").oid
    files = {"model.safetensors", "README.md", "recipe.yaml", "environment.yaml", "metrics.json", "config.json"}
    assert told["commit"] == first and files <= {*hub.head("tester/a").files}
    assert json.loads(here(*publish))["changed"] is False
    assert hub.head("tester/a").oid == first, "the same folder makes no second commit"

    here("add", "tester/a")
    target = ("--classes", "10", "--in-chans", "1")
    row = json.loads(here("recommend", "timm:test_resnet", *target, "--json"))["results"][0]
    assert (row["model"], row["similarity"], row["exact"]) == ("tester/a", 1.0, True)
    here("transfer", "tester/a", "timm:test_convnext", *target, "--out", "c", "--quiet")
    recipe = yaml.safe_load((tmp_path / "c/recipe.yaml").read_text()) | {
        key: RECIPE[key] for key in ("data", "training")
    }
    (tmp_path / "trained.yaml").write_text(yaml.safe_dump(recipe))
    here("run", "trained.yaml", "--out", "b")
    told = json.loads(here("publish", "b", "--repo", "tester/b", "--json"))
    here("publish", "c", "--repo", "tester/c", "--public")
    assert (told["changed"], told["license"]) == (True, "apache-2.0"), "the license of its source"
    card = hub.read("tester/b", "README.md", "main").decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["base_model"], head["base_model_relation"], head["license"]) == (
        ["tester/a"],
        "finetune",
        "apache-2.0",
    )
    assert first in card and "kzoo rebuild tester/b" in card

    logits, imported = stranger("-c", _LOGITS).rsplit(" ", 1)
    assert imported.strip() == "False"
    torch.manual_seed(0)
    expected = kzoo.load(tmp_path / "b")(torch.randn(2, 1, 64, 64))
    torch.testing.assert_close(torch.tensor(json.loads(logits)), expected, rtol=0, atol=1e-6)

    # timm prepares images as they were prepared for the training.
    prepared = timm.data.resolve_model_data_config(timm.create_model("hf-hub:tester/b"))
    assert (prepared["input_size"], list(prepared["mean"]), prepared["crop_pct"]) == ((1, 32, 32), [0.449], 1.0)

    other = "1" if yaml.safe_load((tmp_path / "c/recipe.yaml").read_text())["threads"] != 1 else "2"
    for model, seed, more in (("c", "1", ("--threads", other)), ("b", "2", ("--out", str(tmp_path / "again")))):
        rebuilt = stranger("-m", "kzoo", "rebuild", f"tester/{model}", "--json", *more, PYTHONHASHSEED=seed)
        told = json.loads(rebuilt)
        assert (told["verdict"], told["tensors"]) == ("identical", [])
        assert list(told["environment"]) == (["threads"] if "--threads" in more else [])
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    told = json.loads(here("rebuild", f"tester/a@{first}", "--json"))
    assert (told["verdict"], told["commit"]) == ("identical", first), "trained anew"

    told = json.loads(here("lineage", "tester/b", "--json"))
    assert (told["model"], told["method"], told["problem"]) == ("tester/b", "dpiat", None)
    assert [(one["model"], one["commit"], one["problem"]) for one in told["parents"]] == [("tester/a", first, None)]

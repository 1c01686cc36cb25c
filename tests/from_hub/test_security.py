"""Hostile repositories, locks and caches: nothing is written outside, nothing runs, no token shows."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kzoo.hub import client
from kzoo.hub.locks import lock_file
from tests.from_hub.test_pull import CONFIG, weights
from tests.hub import faults, samples
from tests.hub.storage import File


@pytest.fixture
def odd(hub_client, registry, monkeypatch):
    """A Hub for odd repositories; waiting takes no time."""
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    return hub_client()


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


COMMANDS = [
    ("add", "hf:me/odd"),
    ("pull", "hf:me/odd"),
    ("recommend", "hf:me/odd"),
    ("compare", "hf:me/odd", "timm:resnet18"),
    ("transfer", "hf:me/odd", "timm:resnet18", "--out", "x"),
]


# A type that is newer than ours is taken as it is: only its size counts.
@pytest.mark.parametrize("kind", [kind for kind in samples.hostile_safetensors() if kind != "unknown type"])
def test_headers_that_lie_are_refused_by_every_command(odd, command, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    odd.add_repo("me/odd", {"model.safetensors": samples.hostile_safetensors()[kind]})
    for arguments in COMMANDS[:2]:
        code, _, said = command(*arguments)
        assert (code, said.count("Error: "), "hf:me/odd/model.safetensors" in said) == (2, 1, True), said
    assert files_below(tmp_path / "own") <= {".lock"}
    assert not list((tmp_path / "home").rglob("model.safetensors"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pickle_is_never_loaded(odd, command, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    odd.add_repo("me/odd", {name: samples.bomb(mark), "config.json": CONFIG})
    for arguments in COMMANDS:
        # After the first two there is an empty registry.
        monkeypatch.setenv("KZOO_REGISTRY", str(tmp_path / "own") if arguments[0] in ("add", "pull") else "")
        code, _, said = command(*arguments)
        assert (code, said.count("Error: ")) == (2, 1), said
        assert ("convert it where that is safe" in said) == (name == "pytorch_model.bin")
    assert not mark.exists() and not (tmp_path / "x").exists()


def test_code_that_a_config_names_is_not_run(odd, command, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\ndef make(): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for number, claim in enumerate(("py:evil:make", "evil", "timm:../evil", "small:../evil")):
        config = json.dumps({"architecture": claim, "auto_map": {"AutoModel": "evil.make"}, "library_name": "kzoo"})
        name = f"me/odd{number}"
        odd.add_repo(name, {"model.safetensors": weights(), "config.json": config})
        code, _, said = command("add", name)
        assert code == 0, said
        code, _, said = command(
            "transfer", name, "small:resnet-2x8", "--in-chans", "1", "--out", f"out{number}", "--quiet"
        )
        assert code == 0, said
    assert not (tmp_path / "mark").exists()


def test_names_that_climb_out_are_neither_chosen_nor_written(odd, registry, command, tmp_path):
    before = files_below(tmp_path)
    good = {"model.safetensors": File(weights()), "config.json": File(CONFIG, lfs=False)}
    odd.add_repo("me/odd", {**samples.hostile_names(), **good})
    assert command("add", "me/odd")[0] == 0
    assert command("pull", "me/odd")[0] == 0
    written = {name for name in files_below(tmp_path) - before if not name.startswith("hub/")}
    assert {name.partition("/")[0] for name in written} == {"own", "home"}
    assert {Path(name).name for name in written if "/snapshots/" in name} == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("name", [name for name in samples.HOSTILE_NAMES if name])
def test_a_shard_table_cannot_name_them(odd, registry, command, tmp_path, name):
    table = {"weight_map": {"conv.weight": name}}
    odd.add_repo("me/odd", {"model.safetensors.index.json": json.dumps(table), "model-1.safetensors": weights()})
    code, _, said = command("pull", "hf:me/odd")
    assert (code, said.count("Error: "), "\x1b" in said) == (2, 1, False), said
    assert not lock_file(registry, "me/odd").exists() and not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("size", [7, 10_000, 10**12])
def test_a_size_that_lies_is_refused(odd, registry, command, size):
    odd.add_repo("me/odd", {"model.safetensors": File(weights(), size=size)})
    code, _, said = command("add", "me/odd")
    assert (code in (2, 3), said.count("Error: ")) == (True, 1), said
    assert not lock_file(registry, "me/odd").exists()


def test_a_sum_that_lies_is_found_when_the_file_comes(odd, registry, command, tmp_path):
    odd.add_repo("me/odd", {"model.safetensors": File(weights(), sha256="0" * 64)})
    assert command("add", "me/odd")[0] == 0, "the Hub says the same twice"
    code, _, said = command("pull", "me/odd")
    assert (code, "has come twice with another content than is locked" in said) == (3, True), said
    assert not list((tmp_path / "home").rglob("model.safetensors"))


def test_a_link_in_the_cache_leads_to_no_harm(odd, command, tmp_path):
    odd.add_repo("me/odd", {"model.safetensors": weights(), "config.json": CONFIG})
    path = Path(json.loads(command("pull", "hf:me/odd", "--json")[1])["path"])
    victim = tmp_path / "victim"
    victim.write_bytes(b"dear")
    path.unlink()
    path.symlink_to(victim)
    code, out, said = command("pull", "hf:me/odd", "--json")
    assert code == 0, said
    assert victim.read_bytes() == b"dear"
    assert Path(json.loads(out)["path"]).read_bytes() == weights()


@pytest.mark.parametrize(
    "change",
    [
        {"repository": "../../etc"},
        {"repository": "me/odd\n"},
        {"commit": "../../../etc"},
        {"files": [{"name": "../../../../x", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"name": "/etc/passwd", "size": 1, "sha256": "0" * 64}]},
        {"files": []},
        {"network": {"tensors": {"a": "F32 " + "x".join(["9"] * 70)}}},
        {"network": {"tensors": {"a": "F32 99999999999999999999"}}},
        {"network": {"tensors": {}}},
        {"more": 1},
    ],
)
def test_a_lock_from_somebody_else_is_data(odd, registry, command, change):
    odd.add_repo("me/odd", {"model.safetensors": weights(), "config.json": CONFIG})
    assert command("add", "me/odd")[0] == 0
    path = lock_file(registry, "me/odd")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    code, _, said = command("-C", registry, "index")
    assert (code, said.count("Error: ")) == (2, 1), said


@pytest.mark.parametrize("token", ["hf_write", "hf_wrong_token_of_nobody"])
def test_a_token_shows_nowhere(hub_client, hub_environment, tmp_path, token):
    """In processes of their own, as people run them: in no output, file, lock or entry."""
    hub = hub_client()
    hub.add_repo(
        "tester/secret", {"model.safetensors": weights(), "config.json": CONFIG}, private=True, tags=["vision"]
    )
    environment = hub_environment(token) | {"KZOO_REGISTRY": str(tmp_path / "own")}
    said = ""
    runs = [
        ("add", "tester/secret"),
        ("pull", "tester/secret"),
        ("registry", "check", str(tmp_path / "own"), "--remote"),
        ("registry", "sync", "hub", "--filter", "vision"),
        ("show", "hf:tester/secret@main"),
    ]
    codes = []
    for arguments in runs:
        if "sync" in arguments:
            hub.fail(faults.error(500), path="/api/models", times=1)
        done = subprocess.run(
            [sys.executable, "-m", "kzoo", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        codes.append(done.returncode)
        said += done.stdout + done.stderr
    assert codes == ([0, 0, 0, 0, 0] if token == "hf_write" else [2, 2, 2, 2, 2])
    assert token not in said and "Bearer" not in said
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            path = Path(folder) / name
            if path.relative_to(tmp_path).parts[0] != "hub":
                assert token.encode() not in path.read_bytes(), path


def test_xet_as_it_comes_and_a_dead_endpoint(hub_client, hub_environment, registry, tmp_path):
    """The client's default way to large files; then nobody answers, which is said within ten seconds."""
    hub = hub_client()
    hub.add_repo("me/odd", {"model.safetensors": weights(), "config.json": CONFIG})
    hub.store_in_xet("me/odd")
    environment = hub_environment(xet=True) | {"KZOO_REGISTRY": str(registry)}

    def run(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "kzoo", *arguments]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)

    done = run("pull", "hf:me/odd", "--json")
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["path"]).read_bytes() == weights()
    assert hub.log.count(path="*xet-read-token*") >= 1
    hub.stop()
    assert run("pull", "hf:me/odd").returncode == 0, "it is locked and in the cache"
    for arguments in (("pull", "hf:me/odd"), ("pull", "hf:me/other")):
        began = time.monotonic()
        done = run(*arguments, HF_HOME=str(tmp_path / "empty"))
        assert (done.returncode, done.stderr.count("Error: ")) == (3, 1), done.stderr
        assert time.monotonic() - began < 10
    done = run("pull", "hf:me/odd", HF_HOME=str(tmp_path / "empty"), HF_HUB_OFFLINE="1")
    assert (done.returncode, "HF_HUB_OFFLINE is set" in done.stderr) == (2, True)

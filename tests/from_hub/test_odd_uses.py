"""Uses of the Hub that are odd and legitimate: pins, renames, several registries, large and strange repositories."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from kzoo.hub import client, pull
from kzoo.hub.locks import lock_file, stem
from tests.from_hub.test_pull import CONFIG, weights
from tests.hub import faults, samples


@pytest.fixture
def model(hub_client, registry, monkeypatch):
    """A Hub with a small trained network; waiting takes no time."""
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(client._quota, "free_at", 0.0)
    hub = hub_client()
    hub.add_repo("me/net", {"model.safetensors": weights(), "config.json": CONFIG}, tags=["vision", "license:mit"])
    return hub


def lock_of(registry: Path, name: str = "me/net") -> dict:
    found: dict = json.loads(lock_file(registry, name).read_text())
    return found


def test_a_pin_outlives_a_sync(model, registry, command):
    old = model.head("me/net").oid
    model.tag("me/net", "v1", old)
    model.commit("me/net", {"model.safetensors": weights(1)})
    command("add", "me/net@v1")
    code, out, said = command("registry", "sync", "hub", "--filter", "vision", "--update", "--json")
    assert (code, json.loads(out)["pinned"], json.loads(out)["changed"]) == (0, ["me/net"], []), said
    assert (lock_of(registry)["asked"], lock_of(registry)["commit"]) == ("v1", old)


@pytest.mark.parametrize("verb", [("registry", "sync", "hub", "--filter", "vision"), ("add", "me/net")])
def test_what_was_pulled_is_added_as_it_is_locked(model, registry, command, verb):
    command("pull", "hf:me/net")
    old = model.head("me/net").oid
    model.commit("me/net", {"model.safetensors": weights(1)})
    code, _, said = command(*verb)
    assert code == 0, said
    assert lock_of(registry)["commit"] == old
    assert [row["id"] for row in json.loads(command("list", "me/net", "--json")[1])] == ["me/net"]


def test_one_name_in_two_files_stops_nothing_else(model, registry, command):
    (registry / "timm").mkdir(parents=True)
    lines = ["library: timm", "family: x", "version: '1'", "architectures:", "- name: resnet18", "  parameters: 1"]
    lines += ["  checkpoints: [{id: me/hand, tag: t, license: mit, parameters: 1}]"]
    (registry / "timm/x.yaml").write_text("\n".join(lines) + "\n")
    model.add_repo("me/hand", {"model.safetensors": weights()}, tags=["vision"])
    model.add_repo("local/net", {"model.safetensors": weights()}, tags=["vision"])
    code, out, said = command("registry", "sync", "hub", "--filter", "vision", "--json")
    told = json.loads(out)
    assert (code, told["added"], told["known"]) == (0, ["me/net"], ["me/hand"]), said
    assert "has the name of a file of your own" in told["unreadable"][0]["reason"]
    assert "me/net" in [row["id"] for row in json.loads(command("list", "me/", "--json")[1])]
    code, out, said = command("add", "me/hand", "--json")
    assert (code, json.loads(out)["written"].endswith("locks/me--hand.json")) == (0, True), "known, so only locked"
    code, _, said = command("add", "me/hand", "--license", "mit")
    assert (code, "stands already in another file" in said) == (2, True)


def test_a_network_of_very_many_tensors_is_locked_and_read_again(model, registry, command):
    shapes = {
        f"blocks.{block}.linear.part_{part}.weight": ("F32", [2, 2]) for block in range(5000) for part in range(5)
    }
    model.add_repo("me/moe", {"model.safetensors": samples.safetensors(shapes)})
    assert command("pull", "hf:me/moe")[0] == 0
    with model.log.recording() as log:
        code, _, said = command("pull", "hf:me/moe")
    assert (code, len(log)) == (0, 0), said
    assert lock_file(registry, "me/moe").stat().st_size > 1_000_000


def test_a_sync_that_finds_nothing_says_so(model, registry, command):
    model.add_repo("me/pickle", {"pytorch_model.bin": b"x"}, tags=["old"])
    code, out, said = command("registry", "sync", "hub", "--filter", "old")
    assert (code, "- me/pickle: hf:me/pickle holds no safetensors file" in out) == (0, True), said
    code, out, _ = command("registry", "sync", "hub", "--filter", "nothing has this tag")
    assert (code, out) == (0, "0 listed: 0 added, 0 updated, 0 not readable.\n")


def test_one_address_that_does_not_say_hides_no_finding(model, registry, command):
    command("add", "me/net")
    model.delete("me/net")
    (registry / "torchvision").mkdir()
    lines = [
        "library: torchvision",
        "family: x",
        "version: '1'",
        "architectures:",
        "- name: resnet18",
        "  parameters: 1",
    ]
    lines += [f"  checkpoints: [{{id: a/b, tag: t, license: mit, parameters: 1, url: '{model.url}/odd.pth'}}]"]
    (registry / "torchvision/x.yaml").write_text("\n".join(lines) + "\n")
    model.fail(faults.error(403), path="/odd.pth", times=None)
    code, out, _ = command("registry", "check", registry, "--remote", "--json")
    assert (code, {each["model"]: each["problem"] for each in json.loads(out)["remote"]}) == (
        1,
        {"me/net": "dead", "a/b": "unknown"},
    )


def test_a_file_that_is_gone_upstream_is_told_as_that(model, registry, command):
    command("add", "me/net")
    model.commit("me/net", {"model.safetensors": None, "other.safetensors": weights(2)})
    code, out, _ = command("registry", "check", registry, "--remote")
    assert (code, "it has no model.safetensors any more; what is locked can still be pulled" in out) == (1, True)
    assert command("pull", "me/net")[0] == 0


@pytest.mark.parametrize("trickle", [False, True])
def test_a_server_that_is_silent_is_not_waited_for(hub_client, command, monkeypatch, trickle):
    hub_client()
    monkeypatch.setattr(client, "_TIMEOUT", client.httpx.Timeout(0.5, connect=0.5))
    monkeypatch.setattr(client, "_GRACE", 0.5)
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                peer, _ = server.accept()
                peer.recv(4096)
                if trickle:
                    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                    for _ in range(100):
                        peer.sendall(b"x")
                        time.sleep(0.1)
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    monkeypatch.setattr(client.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    began = time.monotonic()
    code, _, said = command("recommend", "hf:me/net")
    server.close()
    assert (code, "does not answer" in said) == (3, True), said
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("HF_ENDPOINT", "http://[::1", "HF_ENDPOINT is no address of a Hub"),
        ("HF_ENDPOINT", "http://127.0.0.1:99999", "HF_ENDPOINT is no address of a Hub"),
        ("HF_ENDPOINT", "notaurl", "HF_ENDPOINT is no address of a Hub"),
        ("HF_ENDPOINT", "ftp://x", "HF_ENDPOINT is no address of a Hub"),
        ("HF_TOKEN", "tökën", "HF_TOKEN holds characters that no token has"),
    ],
)
def test_settings_that_are_none_are_told(hub_environment, name, value, sentence):
    command = [sys.executable, "-m", "kzoo", "add", "me/net"]
    done = subprocess.run(command, env=hub_environment() | {name: value}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("Error: "), sentence in done.stderr) == (2, 1, True), done.stderr


def test_a_password_in_the_endpoint_shows_nowhere(model, registry, command, monkeypatch):
    monkeypatch.setattr(client.constants, "ENDPOINT", "http://somebody:sekret@127.0.0.1:1")
    for arguments in (("add", "me/net"), ("registry", "sync", "hub"), ("recommend", "hf:me/net")):
        code, _, said = command(*arguments)
        assert (code, "sekret" in said, "http://127.0.0.1:1" in said) == (3, False, True), said


def test_a_shard_is_no_network_and_a_single_one_is(model, registry, command):
    parts = samples.sharded([{"a.weight": ("F32", [2, 2])}, {"b.weight": ("F32", [2, 2])}])
    shards = {name: content for name, content in parts.items() if not name.endswith(".json")}
    model.add_repo("me/shards", shards)
    code, _, said = command("add", "me/shards")
    assert (code, "holds no safetensors file" in said) == (2, True), said
    model.add_repo("me/single", {"model-00001-of-00001.safetensors": weights()})
    assert command("add", "me/single")[0] == 0
    assert command("pull", "me/single")[0] == 0


def test_two_registries_each_know_what_they_locked(model, registry, command, tmp_path, monkeypatch):
    command("add", "me/net")
    model.commit(
        "me/net", {"model.safetensors": samples.safetensors({"fc.weight": ("F32", [3, 4])}), "config.json": None}
    )
    monkeypatch.setenv("KZOO_REGISTRY", f"{registry}:{tmp_path / 'second'}")
    code, out, said = command("add", "me/net", "--json")
    assert code == 0, said
    assert (json.loads(out)["parameters"], json.loads(out)["exact"]) == (12, False)
    code, out, _ = command("pull", "me/net", "--json")
    assert json.loads(out)["lock"]["commit"] == model.head("me/net").oid
    assert [row["parameters"] for row in json.loads(command("list", "me/net", "--json")[1])] == [12]


def entry_of(registry: Path) -> dict:
    found: dict = yaml.safe_load((registry / "hf/me--net.yaml").read_text())["architectures"][0]["checkpoints"][0]
    return found


def test_a_license_follows_the_page_unless_somebody_has_said_another(model, registry, command):
    command("add", "me/net")
    assert entry_of(registry)["license"] == "mit"
    model.repo("me/net").tags[:] = ["vision", "license:apache-2.0"]
    model.commit("me/net", {"model.safetensors": weights(1)})
    code, out, _ = command("pull", "me/net", "--update")
    assert (code, "license: mit -> apache-2.0" in out) == (0, True)
    assert entry_of(registry)["license"] == "apache-2.0"
    command("add", "me/net", "--force", "--license", "cc0-1.0")
    model.repo("me/net").tags[:] = ["license:gpl-3.0"]
    model.commit("me/net", {"model.safetensors": weights(2)})
    command("pull", "me/net", "--update")
    assert entry_of(registry)["license"] == "cc0-1.0"


def test_a_license_that_is_given_brings_no_name_of_another(model, registry, command):
    card = {"license": "other", "license_name": "foo-license", "license_link": "LICENSE"}
    model.add_repo("me/other", {"model.safetensors": weights()}, tags=["license:other"], card_data=card)
    assert command("add", "me/other")[0] == 0
    path = registry / "hf/me--other.yaml"
    found = yaml.safe_load(path.read_text())["architectures"][0]["checkpoints"][0]
    assert (found["license_name"], found["license_link"]) == (
        "foo-license",
        "https://huggingface.co/me/other/blob/main/LICENSE",
    )
    assert command("add", "me/other", "--force", "--license", "mit")[0] == 0
    found = yaml.safe_load(path.read_text())["architectures"][0]["checkpoints"][0]
    assert found["license"] == "mit" and "license_name" not in found and "license_link" not in found


def test_escapes_in_tags_reach_no_terminal(model, registry, command):
    model.add_repo("me/esc", {"model.safetensors": weights()}, tags=["license:\x1b[2Jmit", "dataset:", "license:"])
    code, out, said = command("pull", "hf:me/esc")
    assert (code, "\x1b" in out + said, "(license: unknown)" in said) == (0, False, True)
    assert command("add", "me/esc")[0] == 0


def test_a_lock_that_is_wrong_costs_the_cache_nothing(model, registry, command):
    path = Path(json.loads(command("pull", "hf:me/net", "--json")[1])["path"])
    lock = lock_of(registry)
    lock["files"][0]["sha256"] = "0" * 64
    lock_file(registry, "me/net").write_text(json.dumps(lock))
    with model.log.recording() as log:
        code, _, said = command("pull", "hf:me/net")
    assert (code, "another file than is locked" in said) == (3, True), said
    assert path.read_bytes() == weights() and log.count(path="*/resolve/*") == 0


def test_what_another_process_has_fetched_meanwhile_is_left_alone(model, registry, command, monkeypatch):
    command("pull", "hf:me/net")
    lock = pull.Lock.model_validate(lock_of(registry))
    with model.log.recording() as log:
        done = pull.pull(lock, lock.files, lambda _what, _done: None)
    assert done.path.read_bytes() == weights()
    assert log.count(path="*/resolve/*") == 0


def test_a_repository_that_was_made_anew_is_told_with_the_way_on(model, registry, command, hub_client):
    command("add", "me/net")
    model.delete("me/net")
    model.add_repo("me/net", {"model.safetensors": weights(3)})
    code, _, said = command("pull", "me/net")
    assert (code, "--update takes what is there now" in said) == (2, True), said
    assert command("pull", "me/net", "--update")[0] == 0


def test_a_recipe_names_the_part_of_the_network_too(model, registry, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("add", "me/net", "--submodule", "layer1")[0] == 0
    code, _, said = command("transfer", "me/net", "small:resnet-1x8", "--in-chans", "1", "--out", "one", "--quiet")
    assert code == 0, said
    source = yaml.safe_load(Path("one/recipe.yaml").read_text())["sources"][0]
    assert (source["path"], source["submodule"]) == (f"hf:me/net@{model.head('me/net').oid}", "layer1")
    monkeypatch.setenv("KZOO_REGISTRY", "")
    monkeypatch.setattr("kzoo.hub.models.own_registry", lambda: tmp_path / "elsewhere")
    model.commit("me/net", {"model.safetensors": weights(5)})
    code, _, said = command("run", "one/recipe.yaml", "--out", "two")
    assert code == 0, said
    assert Path("two/model.safetensors").read_bytes() == Path("one/model.safetensors").read_bytes()


def test_a_renamed_repository_is_known_by_its_recipe_offline(model, registry, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.rename("me/net", "me/new")
    assert command("add", "me/net")[0] == 0
    command("transfer", "me/net", "small:resnet-2x8", "--in-chans", "1", "--out", "one", "--quiet")
    assert "path: hf:me/new@" in Path("one/recipe.yaml").read_text()
    monkeypatch.setattr(client.constants, "HF_HUB_OFFLINE", True)
    code, _, said = command("run", "one/recipe.yaml", "--out", "two")
    assert code == 0, said


def test_nothing_is_fetched_for_a_registry_that_cannot_be_written(model, command, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("KZOO_REGISTRY", str(tmp_path / "file" / "own"))
    for arguments in (("pull", "hf:me/net"), ("add", "me/net"), ("registry", "sync", "hub")):
        with model.log.recording() as log:
            code, _, said = command(*arguments)
        assert (code, len(log), said.count("Error: ")) == (3, 0, 1), (arguments, said, str(log))


@pytest.mark.parametrize("damage", ["{}", None])
def test_check_sees_locks_that_are_missing_or_damaged(model, registry, command, damage):
    command("add", "me/net")
    path = lock_file(registry, "me/net")
    path.unlink() if damage is None else path.write_text(damage)
    code, out, said = command("registry", "check", registry)
    assert (code, "1 fault found" in out, "lock" in said) == (2, True, True), said


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("add", "timm:resnet18"), 2, "names an architecture, not weights"),
        (("add", "hf:net"), 2, "add it by its whole name, user/name"),
        (("add", "https://huggingface.co/me/net"), 0, ""),
        (("pull", "me/net@main"), 0, ""),
    ],
)
def test_names_as_people_write_them(model, registry, command, arguments, code, sentence):
    model.add_repo("me/x", {})
    found, _, said = command(*arguments)
    assert (found, sentence in said) == (code, True), said


def test_offline_is_the_users_own_wish(model, registry, command, monkeypatch):
    monkeypatch.setattr(client.constants, "HF_HUB_OFFLINE", True)
    for arguments in (("add", "me/net"), ("registry", "sync", "hub"), ("recommend", "hf:me/net")):
        code, _, said = command(*arguments)
        assert (code, "HF_HUB_OFFLINE is set: unset it" in said) == (2, True), said


def test_a_config_of_another_kind_leaves_the_tensors(model, registry, command):
    model.add_repo("me/odd", {"model.safetensors": weights(), "config.json": b"[]"})
    code, out, said = command("add", "me/odd", "--json")
    assert (code, json.loads(out)["exact"], "the architecture is approximate" in said) == (0, False, True), said


def test_names_that_look_alike_have_files_of_their_own():
    assert len({stem("me/net/a/b.safetensors"), stem("me/net/a--b.safetensors")}) == 2

"""Many repositories of the tests' Hub at once, and a registry held against what became of them."""

import json
import shutil
from pathlib import Path

import pytest

from kzoo.hub import client
from kzoo.hub.locks import lock_file
from tests.from_hub.test_pull import CONFIG, weights
from tests.hub import faults


@pytest.fixture
def waits(monkeypatch):
    """Waiting takes no time; how long it would have been."""
    found: list[float] = []
    monkeypatch.setattr(client.time, "sleep", found.append)
    monkeypatch.setattr(client._quota, "free_at", 0.0)
    return found


@pytest.fixture
def many(hub_client, registry, waits):
    """A Hub with nine repositories, four of them of no use."""
    hub = hub_client()
    hub.page = 4
    for number in range(5):
        files = {"model.safetensors": weights(number), "config.json": CONFIG}
        hub.add_repo(f"me/net{number}", files, tags=["vision", "license:mit"], downloads=100 - number)
    hub.add_repo("me/pickle", {"pytorch_model.bin": b"x"}, tags=["vision"], downloads=50)
    hub.add_repo("me/gated", {"model.safetensors": weights()}, tags=["vision"], gated="auto", downloads=40)
    hub.add_repo("me/broken", {"model.safetensors": b"\x80\x04K\x01." * 20}, tags=["vision"], downloads=30)
    hub.add_repo("me/lies", {"model.safetensors": (2**40).to_bytes(8, "little") + b"{}"}, tags=["vision"], downloads=20)
    hub.add_repo("me/words", {"model.safetensors": weights()}, tags=["text"], downloads=10)
    return hub


NETS = [f"me/net{number}" for number in range(5)]


def test_all_that_can_be_read_is_added_and_ranked(many, registry, command):
    with many.log.recording() as log:
        code, out, said = command("registry", "sync", "hub", "--filter", "vision", "--limit", "50", "--json")
    assert code == 0, said
    told = json.loads(out)
    assert (told["listed"], told["added"]) == (9, NETS)
    reasons = {each["model"]: each["reason"] for each in told["unreadable"]}
    assert list(reasons) == ["me/pickle", "me/gated", "me/broken", "me/lies"]
    assert "no safetensors file" in reasons["me/pickle"] and "is gated" in reasons["me/gated"]
    assert "is no whole safetensors file" in reasons["me/lies"]
    assert json.loads((registry / "unreadable.json").read_text()) == reasons
    assert log.count(path="*me/pickle*") == 0, "its list of files was enough"
    assert log.count(path="/api/models") == 3
    code, out, _ = command("list", "me/net", "--json")
    assert [row["id"] for row in json.loads(out)] == NETS
    assert json.loads(out)[0]["license"] == "mit"
    code, out, _ = command("recommend", "small:resnet-1x8", "-k", "5", "--json")
    assert {row["model"] for row in json.loads(out)["results"]} & set(NETS)
    with many.log.recording() as log:
        code, out, _ = command("registry", "sync", "hub", "--filter", "vision", "--limit", "50", "--json")
    assert json.loads(out)["unchanged"] == NETS
    assert log.count(path="*me/net*") == 0, "what is there costs no request"


def test_the_limit_takes_those_downloaded_most_and_the_author_only_theirs(many, registry, command):
    many.add_repo("you/net", {"model.safetensors": weights()}, tags=["vision"], downloads=1000)
    code, out, _ = command("registry", "sync", "hub", "--filter", "vision", "--limit", "2", "--dry-run", "--json")
    assert (code, json.loads(out)["added"]) == (0, ["you/net", "me/net0"])
    assert not registry.exists()
    code, out, _ = command("registry", "sync", "hub", "--author", "you", "--json")
    assert json.loads(out)["added"] == ["you/net"]


def test_it_goes_on_where_it_was_interrupted(many, registry, command):
    many.fail(faults.error(503), path="*net3*", times=None)
    many.fail(faults.error(503), path="*net4*", times=None)
    many.fail(faults.error(503), path="*gated*", times=None)
    many.add_repo("me/more", {"model.safetensors": weights()}, tags=["vision"], downloads=95)
    many.fail(faults.error(503), path="*more*", times=None)
    code, out, said = command("registry", "sync", "hub", "--filter", "vision")
    assert (code, "run this again to go on" in said) == (3, True), said
    assert out.count("\n- ") == 3 and "3 added" in out, "what was found until then is told"
    assert set(json.loads((registry / "unreadable.json").read_text())) == {"me/net3", "me/net4", "me/more"}
    assert len(json.loads(command("list", "me/net", "--json")[1])) == 3, "and ranked"
    many.heal()
    code, out, _ = command("registry", "sync", "hub", "--filter", "vision", "--json")
    assert code == 0
    assert (json.loads(out)["unchanged"], json.loads(out)["added"]) == (NETS[:3], ["me/net3", "me/net4", "me/more"])
    assert command("-C", registry, "index", "--check")[0] == 0


def test_it_waits_as_long_as_the_hub_asks(many, command, waits):
    many.fail(faults.rate_limit(200), path="*net1*", times=1)
    code, _, said = command("registry", "sync", "hub", "--filter", "vision", "--json")
    assert code == 0, said
    assert 200 in waits
    waits.clear()
    many.fail(faults.wrong_headers(RateLimit='"api";r=0;t=120'), path="/api/models*", times=1)
    assert command("registry", "sync", "hub", "--filter", "vision")[0] == 0
    assert [round(wait) for wait in waits if wait > 1] == [120]
    many.fail(faults.rate_limit(4000), path="/api/models*", times=None)
    code, _, said = command("registry", "sync", "hub", "--filter", "vision")
    assert (code, "asks to wait for 4000 s" in said) == (3, True)


def test_changed_networks_are_named_and_moved_when_asked(many, registry, command):
    command("registry", "sync", "hub", "--filter", "vision", "--limit", "2")
    new = many.commit("me/net1", {"model.safetensors": weights(77)})
    code, out, _ = command("registry", "sync", "hub", "--filter", "vision", "--limit", "2", "--json")
    assert (json.loads(out)["changed"], json.loads(out)["updated"]) == (["me/net1"], [])
    code, out, _ = command("registry", "sync", "hub", "--filter", "vision", "--limit", "2", "--update", "--json")
    assert (code, json.loads(out)["updated"]) == (0, ["me/net1"])
    assert json.loads(lock_file(registry, "me/net1").read_text())["commit"] == new


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("hub", "--prune"), "--prune means nothing to sync hub"),
        (("timm", "--filter", "x"), "--filter means nothing to sync timm"),
        (("timm", "--limit", "3"), "--limit means nothing to sync timm"),
    ],
)
def test_options_of_another_kind_are_refused(many, command, arguments, sentence):
    code, _, said = command("registry", "sync", *arguments)
    assert (code, sentence in said) == (2, True)


def test_what_is_no_listing_is_told(many, command):
    for body in (b'{"error": 1}', b"[1]", b"<html>"):
        many.fail(faults.other_body(body), path="/api/models*", times=None)
        code, _, said = command("registry", "sync", "hub")
        assert (code, said.count("Error: "), "is it a Hub?" in said) == (3, 1, True), said
        many.heal()


def test_a_page_that_lies_elsewhere_is_not_asked_for(many, command):
    many.fail(faults.wrong_headers(Link='<http://127.0.0.1:1/api/models?cursor=x>; rel="next"'), path="/api/models*")
    code, out, _ = command("registry", "sync", "hub", "--filter", "vision", "--json")
    assert (code, json.loads(out)["listed"]) == (0, 4)


def found(out: str) -> dict[str, str]:
    return {each["model"]: each["problem"] for each in json.loads(out)["remote"]}


def test_a_registry_is_held_against_the_hub(many, registry, command):
    command("registry", "sync", "hub", "--filter", "vision")
    code, out, said = command("registry", "check", registry, "--remote")
    assert (code, "All of it is on the Hub" in out) == (0, True), said
    many.delete("me/net0")
    many.rename("me/net1", "me/renamed")
    many.repo("me/net2").gated = "auto"
    many.commit("me/net3", {"model.safetensors": weights(9)})
    many.commit("me/net4", {"README.md": "new"})
    code, out, said = command("registry", "check", registry, "--remote", "--json")
    assert code == 1, said
    assert found(out) == {
        "me/net0": "dead",
        "me/net1": "moved",
        "me/net2": "gated",
        "me/net3": "changed",
        "me/net4": "changed",
    }
    told = {each["model"]: each["said"] for each in json.loads(out)["remote"]}
    assert "me/net1 is now me/renamed" in told["me/net1"]
    assert "model.safetensors is another" in told["me/net3"] and "its weights are the same" in told["me/net4"]
    code, out, _ = command("registry", "check", registry, "--remote")
    assert out.count("\n") == 6 and "dead     me/net0: " in out


def test_unlocked_entries_are_asked_for_by_their_owners_list(hub_client, command, tmp_path, waits):
    """A registry of people's entries alone: 30 of one owner cost the pages of one listing."""
    hub = hub_client()
    names = [f"org/net{number:02}" for number in range(30)]
    for name in names[1:]:
        hub.add_repo(name, {"model.safetensors": b"x", "other.safetensors": b"y"})
    hub.rename("org/net05", "org/moved")
    lines = ["library: timm", "family: many", 'version: "1"', "architectures:", "- name: x", "  parameters: 1"]
    lines += ["  checkpoints:"]
    for number, name in enumerate(names):
        lines += [f"  - {{id: {name}, tag: t{number}, license: mit, parameters: 1}}"]
    lines[-1] = lines[-1].replace("}", ", filename: gone.safetensors}")
    lines += ["  - {id: a/b, tag: u, license: mit, parameters: 1, url: '" + hub.url + "/org/net07/resolve/main/x.pth'}"]
    (tmp_path / "reg/timm").mkdir(parents=True)
    (tmp_path / "reg/timm/many.yaml").write_text("\n".join(lines) + "\n")
    with hub.log.recording() as log:
        code, out, said = command("registry", "check", tmp_path / "reg", "--remote", "--json")
    assert code == 1, said
    assert found(out) == {"org/net00": "dead", "org/net05": "moved", "org/net29": "dead", "a/b": "dead"}
    assert len(log) <= 6, str(log)


def test_a_locked_commit_that_is_gone_is_dead(many, registry, command):
    command("add", "me/net0")
    many.delete("me/net0")
    many.add_repo("me/net0", {"model.safetensors": weights(5)})
    code, out, _ = command("registry", "check", registry, "--remote", "--json")
    assert (code, found(out)) == (1, {"me/net0": "dead"})
    assert "its locked commit is gone" in json.loads(out)["remote"][0]["said"]


def test_a_dead_hub_is_said_at_once(many, registry, command):
    command("add", "me/net0")
    many.stop()
    for arguments in (("registry", "check", registry, "--remote"), ("registry", "sync", "hub"), ("add", "me/net1")):
        code, _, said = command(*arguments)
        assert (code, said.count("Error: "), "does not answer" in said) == (3, 1, True), said


def test_a_registry_with_an_entry_but_without_its_lock_says_so(many, registry, command):
    command("add", "me/net0")
    shutil.rmtree(Path(registry) / "locks")
    code, _, said = command("-C", registry, "index")
    assert (code, "has no lock of me/net0" in said, "kzoo add --force" in said) == (2, True, True)

"""Networks on the Hub by their headers alone, against the tests' Hub."""

import json
from pathlib import Path

import pytest
import timm
import torch

import kzoo
from kzoo.errors import InputError, WorldError
from kzoo.hub import client
from kzoo.hub.headers import read_network
from kzoo.hub.names import is_plain_name, parse_name
from kzoo.hub.repositories import read_repository
from kzoo.training.networks import small_network
from tests.hub import faults, samples


def shapes_of(name: str, **options: object) -> samples.Shapes:
    with torch.device("meta"):
        state = timm.create_model(name, **options).state_dict()
    return {key: ("F32" if value.is_floating_point() else "I64", list(value.shape)) for key, value in state.items()}


def config(name: str, **fields: object) -> bytes:
    return json.dumps({"architecture": name} | fields).encode()


@pytest.fixture
def big(hub_client, tmp_path):
    """A Hub with a repository of 94 MB."""
    hub = hub_client()
    file = samples.sparse_safetensors(tmp_path / "big.safetensors", shapes_of("resnet50", num_classes=7))
    hub.add_repo("me/big", {"model.safetensors": file, "config.json": config("resnet50", num_classes=7)})
    return hub


def test_a_large_repository_costs_three_requests_and_some_kilobytes(big):
    with big.log.recording() as log:
        found = kzoo.architecture("hf:me/big")
    assert found == kzoo.architecture("timm:resnet50", classes=7) and not found.approximate
    assert (len(log), log.count(method="GET")) == (3, 3)
    assert log.sent() < 200_000


def test_recommend_and_compare_take_it(big, command):
    code, out, said = command("recommend", "hf:me/big", "-k", "2", "--json")
    assert code == 0, said
    assert json.loads(out)["results"][0]["similarity"] > 0.99
    code, out, said = command("compare", "hf:me/big", "timm:resnet50", "--json")
    assert (code, json.loads(out)["target_layers"]) == (0, 107)
    code, _, said = command("recommend", "hf:me/big", "--classes", "3")
    assert (code, "leave out --classes" in said) == (2, True)


def test_without_a_config_the_order_is_a_guess_and_shards_are_read_one_by_one(hub_client):
    hub = hub_client()
    state = small_network("vgg-1x8", classes=3, channels=1).state_dict()
    shapes = {name: ("F32" if value.is_floating_point() else "I64", list(value.shape)) for name, value in state.items()}
    names = list(shapes)
    parts = [{name: shapes[name] for name in names[:7]}, {name: shapes[name] for name in names[7:]}]
    hub.add_repo("me/shards", samples.sharded(parts))
    found = kzoo.architecture("hf:me/shards")
    assert found.approximate and found.typed_layers == kzoo.architecture("small:vgg-1x8").typed_layers


def test_a_file_may_be_named_and_lie_deeper(hub_client):
    hub = hub_client()
    one, two = (samples.safetensors({"fc.weight": ("F32", [rows, 4])}) for rows in (2, 3))
    hub.add_repo("me/two", {"a.safetensors": one, "deep/b.safetensors": two})
    with pytest.raises(InputError, match=r"several weights files \(a.safetensors, deep/b.safetensors\): name one"):
        kzoo.architecture("hf:me/two")
    assert kzoo.architecture("hf:me/two/deep/b.safetensors").layers[0].shape == (3, 4)
    with pytest.raises(InputError, match=r"its safetensors files: a.safetensors, deep/b.safetensors"):
        kzoo.architecture("hf:me/two/c.safetensors")


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub_client):
    hub = hub_client()
    first = hub.add_repo("me/model", {"model.safetensors": samples.safetensors({"fc.weight": ("F32", [2, 4])})})
    hub.tag("me/model", "v1", first)
    hub.commit("me/model", {"model.safetensors": samples.safetensors({"fc.weight": ("F32", [5, 4])})})
    sizes = {"": 5, "@main": 5, "@v1": 2, f"@{first}": 2}
    for revision, rows in sizes.items():
        assert kzoo.architecture(f"hf:me/model{revision}").layers[0].shape == (rows, 4)
    with pytest.raises(InputError, match="there is no such revision"):
        kzoo.architecture("hf:me/model@v2")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pytorch_model.bin": b"x"}, "holds no safetensors file; pytorch_model.bin may be a pickle"),
        ({"README.md": b"x"}, "holds no safetensors file: choose a repository with a model.safetensors"),
        ({"model.safetensors": b""}, "is no whole safetensors file"),
        ({"model.safetensors": b"\x80\x04K\x01."}, "is no whole safetensors file"),
        ({"model.safetensors": (2**60).to_bytes(8, "little") + b"{}"}, "is no whole safetensors file"),
        ({"model.safetensors": (4).to_bytes(8, "little") + b"{{{{"}, "has no valid safetensors header"),
        ({"model.safetensors.index.json": b"{}"}, "it has no 'weight_map'"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../../x.safetensors"}}'},
            "names the shard '../../x.safetensors': expected the name of a file beside it",
        ),
    ],
)
def test_what_holds_no_network_is_told_in_one_sentence(hub_client, command, files, expected):
    hub_client().add_repo("me/odd", files)
    code, out, said = command("recommend", "hf:me/odd")
    assert (code, out, said.count("\n"), said.startswith("Error: ")) == (2, "", 1, True)
    assert expected in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:", "names no repository"),
        ("hf:../x", "names no repository"),
        ("hf:a/b@", "names no repository"),
        ("hf:a/b@../../c", "names no repository"),
        ("hf:a b/c", "names no repository"),
        ("hf:me/none", "not"),
    ],
)
def test_names_that_lead_nowhere_are_told(hub_client, command, name, expected):
    hub_client()
    code, _, said = command("recommend", name)
    assert (code, expected in said, said.count("\n")) == (2, True, 1)


def test_strangers_are_told_what_to_do(hub_client, command):
    weights = {"model.safetensors": samples.safetensors({"fc.weight": ("F32", [2, 4])})}
    hub = hub_client()
    hub.add_repo("tester/private", weights, private=True)
    hub.add_repo("tester/gated", weights, gated="auto")
    code, _, said = command("recommend", "hf:tester/private")
    assert (code, "log in" in said) == (2, True)
    code, _, said = command("recommend", "hf:tester/gated")
    assert (code, "gated: accept its terms" in said) == (2, True)
    hub_client("hf_write")
    assert command("recommend", "hf:tester/private")[0] == 0


@pytest.mark.parametrize(
    "fault",
    [
        faults.error(500),
        faults.error(503),
        faults.rate_limit(3),
        faults.cut(10),
        faults.short(5),
    ],
    ids=["500", "503", "429", "cut", "short"],
)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_every_request_is_made_again_after_a_fault_and_said_after_three(big, command, monkeypatch, fault, nth):
    waits: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waits.append)
    big.fail(fault, nth=nth, times=1)
    code, _, said = command("recommend", "hf:me/big", "-k", "1")
    assert code == 0, said
    assert len(waits) == 1 and 0 < waits[0] <= 4
    big.heal()
    big.fail(fault, nth=nth, times=None)
    code, out, said = command("recommend", "hf:me/big", "-k", "1")
    assert (code, out, said.count("\n")) == (3, "", 1)
    assert "the Hub at http://127.0.0.1" in said


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(big, command, monkeypatch):
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: pytest.fail("nobody waits that long"))
    big.fail(faults.rate_limit(3600))
    code, _, said = command("recommend", "hf:me/big")
    assert (code, "asks to wait for 3600 s" in said) == (3, True)


def test_an_endpoint_that_nobody_answers_at_is_said_at_once(hub, hub_client, command):
    hub_client()
    hub.stop()
    code, _, said = command("recommend", "hf:me/big")
    assert (code, "check the network, and HF_ENDPOINT" in said) == (3, True)


def test_a_server_that_ignores_ranges_does_not_make_us_read_all(big, tmp_path):
    def whole(request, answer):
        if "range" not in request.headers:
            return answer()
        request.headers.pop("range")
        return answer()

    big.fail(whole, path="*/resolve/*", times=None)
    with big.log.recording() as log:
        network = read_network(read_repository(parse_name("me/big")))
    assert len(network.weights.tensors) == 320
    # Of 94 MB; what was under way when the connection was closed counts.
    assert log.sent() < 20_000_000


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", "a//b", "a\\b", "a\nb", "x" * 256, "a/" * 600 + "b", ""])
def test_names_that_may_not_be_written(name):
    assert not is_plain_name(name)


def test_hostile_names_are_never_chosen(hub_client):
    hub = hub_client()
    good = samples.safetensors({"fc.weight": ("F32", [2, 4])})
    hub.add_repo("me/names", {"../x.safetensors": good, "ok.safetensors": good})
    assert kzoo.architecture("hf:me/names").layers[0].shape == (2, 4)


def test_answers_of_another_kind_are_told(hub_client, command):
    hub = hub_client()
    hub.add_repo("me/model", {"model.safetensors": samples.safetensors({"fc.weight": ("F32", [2, 4])})})
    for body in (b"<html>", b"[]", b"{}", b'{"sha": "x", "siblings": []}'):
        hub.fail(faults.other_body(body), path="/api/models/*", times=None)
        with pytest.raises(WorldError):
            read_repository(parse_name("me/model"))
        hub.heal()


def test_the_readers_import_neither_torch_nor_timm(big, tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.hub.client import environment

    code = (
        "import sys, kzoo\n"
        "kzoo.architecture('hf:me/big')\n"
        "print([name for name in ('torch', 'timm') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(big, tmp_path / "home", None, xet=False),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "[]\n", done.stderr

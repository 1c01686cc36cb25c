"""Every fault at every request of add and pull, one at a time, and processes that are killed at each.

A sample runs with the suite; all of them by `make test-faults`.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from kzoo.hub import client
from kzoo.hub.locks import lock_file
from kzoo.training.networks import small_network
from tests.hub import faults
from tests.hub.killing import killed_at
from tests.hub.messages import Body

NAME = "me/shards"
#: listing, index, three headers, config.json.
ADD_REQUESTS = 6
#: listing, and HEAD and GET of five files.
PULL_REQUESTS = 11


def another_sum(request, answer):
    """A listing that says another sha256 of the large files."""
    response = answer()
    content = b"".join(response.body.chunks()) if response.body.length < 100_000 else b""
    if b'"siblings"' in content and b'"lfs"' in content:
        told = json.loads(content)
        for sibling in told["siblings"]:
            if sibling.get("lfs"):
                sibling["lfs"]["sha256"] = "0" * 64
        response.body = Body(json.dumps(told).encode())
    return response


FAULTS = {
    "500": faults.error(500),
    "502": faults.error(502),
    "503": faults.error(503),
    "403": faults.error(403),
    "429": faults.rate_limit(2),
    "429 for an hour": faults.rate_limit(3600),
    "cut at once": faults.cut(0),
    "cut": faults.cut(10),
    "short": faults.short(5),
    "last byte": faults.wrong_bytes(),
    "first byte": faults.wrong_bytes(0),
    "byte of the header": faults.wrong_bytes(30),
    "sha in headers": faults.wrong_sha(),
    "sha in the listing": another_sum,
    "no commit": faults.wrong_headers(X_Repo_Commit=None),
    "other commit": faults.wrong_headers(X_Repo_Commit="1" * 40),
    "other body": faults.other_body(b"<html>Bad gateway</html>"),
    "loop": faults.loop(),
    "missing": faults.missing(),
    "no repository": faults.missing("RepoNotFound"),
}
#: What the Hub says when it will not.
REFUSALS = ("403", "missing", "no repository")
#: What is gone at the second try.
PASSING = ("500", "502", "503", "429", "cut at once", "cut", "short")
#: One of each kind at the request where it hurts most; all others by `make test-faults`.
SAMPLE = {
    ("add", "503", 3), ("add", "429", 1), ("add", "cut", 4), ("add", "byte of the header", 3), ("add", "other body", 2),
    ("add", "sha in the listing", 1), ("add", "last byte", 6), ("add", "loop", 1), ("pull", "500", 2),
    ("pull", "429 for an hour", 1), ("pull", "short", 5), ("pull", "last byte", 5), ("pull", "first byte", 3),
    ("pull", "sha in headers", 4), ("pull", "no commit", 2), ("pull", "missing", 6),
}  # fmt: skip


def cases():
    for command, requests in (("add", ADD_REQUESTS), ("pull", PULL_REQUESTS)):
        for fault in FAULTS:
            for nth in range(1, requests + 1):
                marks = [] if (command, fault, nth) in SAMPLE else [pytest.mark.faults]
                yield pytest.param(command, fault, nth, marks=marks)


def parts() -> dict[str, bytes]:
    """A trained network in three files, with their index and a config.json."""
    torch.manual_seed(0)
    state = small_network("resnet-1x8", classes=5, channels=1).state_dict()
    keys = list(state)
    files = {}
    table = {}
    for number in range(3):
        name = f"model-{number + 1:05}-of-00003.safetensors"
        mine = {key: state[key] for key in keys[number::3]}
        files[name] = save(mine, metadata={"format": "pt"})
        table |= dict.fromkeys(mine, name)
    arguments = {"num_classes": 5, "in_chans": 1}
    config = {"library_name": "kzoo", "architecture": "small:resnet-1x8", "model_args": arguments}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": table}).encode()
    return files | {"config.json": json.dumps(config).encode()}


FILES = parts()


@pytest.fixture
def shards(hub_client, registry, monkeypatch, no_waiting):
    """A Hub with a network in three files; waiting takes no time."""
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(client._quota, "free_at", 0.0)
    hub = hub_client()
    hub.add_repo(NAME, FILES, tags=["license:mit"])
    return hub


def require_true(lock: Path, hub) -> None:
    """What a lock says is so."""
    told = json.loads(lock.read_text())
    assert told["commit"] == hub.head(NAME).oid
    assert {file["name"]: (file["size"], file["sha256"]) for file in told["files"]} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }
    state = small_network("resnet-1x8", classes=5, channels=1).state_dict()
    types = {torch.float32: "F32", torch.int64: "I64"}
    assert told["network"]["tensors"] == {
        key: " ".join([types[value.dtype], *(["x".join(map(str, value.shape))] if value.shape else [])])
        for key, value in state.items()
    }


def require_cached(home: Path) -> None:
    """Every file that the client would take for one of the repository is what was uploaded, and so is every blob."""
    for path in home.rglob("snapshots/*/*"):
        assert path.read_bytes() == FILES[path.name], path
    contents = set(FILES.values())
    for path in home.rglob("blobs/*"):
        assert path.suffix == ".incomplete" or path.read_bytes() in contents, path


@pytest.mark.parametrize(("verb", "fault", "nth"), list(cases()))
def test_a_fault_ends_well_or_in_one_sentence(shards, registry, command, tmp_path, verb, fault, nth):
    name = NAME if verb == "add" else f"hf:{NAME}"
    if verb == "pull":
        assert command("add", NAME)[0] == 0
    shards.fail(FAULTS[fault], nth=nth, times=1)
    code, _, said = command(verb, name)
    shards.heal()
    client._quota.free_at = 0.0
    lock = lock_file(registry, NAME)
    # What passes is tried again; only the client's own requests for files know no second try.
    own = verb == "add" or nth == 1
    kind = {0, 2, 3} if fault in REFUSALS else {0} if fault in PASSING and own else {0, 3}
    assert code in kind, said
    assert said.count("Error: ") == (code != 0) and "Traceback" not in said, said
    if code == 0 or verb == "pull":
        require_true(lock, shards)
    else:
        assert [path for path in registry.rglob("*") if path.is_file() and path.name != ".lock"] == []
    require_cached(tmp_path / "home")
    if code != 0:
        code, _, said = command(verb, name)
        assert code == 0, said
        require_true(lock, shards)
    code, out, said = command("pull", f"hf:{NAME}", "--json")
    assert (code, Path(json.loads(out)["path"]).name) == (0, "model.safetensors.index.json"), said
    require_cached(tmp_path / "home")


def test_the_requests_are_as_many_as_the_faults_are_tried_at(shards, registry, command):
    with shards.log.recording() as log:
        assert command("add", NAME)[0] == 0
    assert len(log) == ADD_REQUESTS, str(log)
    with shards.log.recording() as log:
        assert command("pull", NAME)[0] == 0
    assert len(log) == PULL_REQUESTS, str(log)


KILLED = [pytest.param(nth, marks=[] if nth in (4, 12) else [pytest.mark.faults]) for nth in range(1, 21)]


@pytest.mark.parametrize("nth", KILLED)
def test_killed_at_a_request_the_next_run_succeeds(hub, hub_environment, registry, tmp_path, nth):
    """A pull of what is not locked yet: first its headers, then its files, through the client as it is."""
    hub.add_repo(NAME, FILES)
    hub.store_in_xet(NAME)
    hub.cdn = True
    environment = hub_environment() | {"KZOO_REGISTRY": str(registry)}
    command = [sys.executable, "-m", "kzoo", "pull", f"hf:{NAME}", "--json"]
    assert killed_at(hub, nth, command, environment) or nth > ADD_REQUESTS + PULL_REQUESTS
    lock = lock_file(registry, NAME)
    assert not lock.exists() or nth > ADD_REQUESTS + PULL_REQUESTS
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    require_true(lock, hub)
    require_cached(tmp_path / "home")
    assert Path(json.loads(done.stdout)["path"]).is_file()

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from kzoo.errors import InputError, KzooWarning
from kzoo.training import checkpoints, loop
from kzoo.training.checkpoints import read_checkpoint
from kzoo.training.history import History
from kzoo.training.loop import train
from kzoo.training.settings import read_settings
from tests.training.networks import few_digits, linear, made_up, network, same

ROOT = Path(__file__).parent.parent.parent
ADAM = {"epochs": 3, "threads": 1, "augment": "shift", "warmup_steps": 3, "evaluate_every": 3, "clip_norm": 1}
SGD = {"epochs": 3, "threads": 1, "optimizer": "sgd", "lr": 0.05, "schedule": "cosine", "weight_decay": 0.01}
#: A process for each training, killed in its second epoch, without a chance to tidy up.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from kzoo.training.loop import train
from kzoo.training.settings import read_settings
from tests.training.networks import few_digits, network

def progress(what, done):
    if done > 0.4:
        os.kill(os.getpid(), signal.SIGKILL)

few_digits()
for name, values in json.loads(sys.argv[1]).items():
    if not (child := os.fork()):
        train(network(), few_digits(), read_settings(values), checkpoint=Path(sys.argv[2], name), key="it", progress=progress)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def trained(values: dict[str, Any], folder: Path | None = None, key: str = "it") -> tuple[nn.Module, History]:
    module = network()
    return module, train(module, few_digits(), read_settings(values), checkpoint=folder, key=key)


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    wanted = {"adam": ADAM, "sgd": SGD}
    command = [sys.executable, "-c", KILLED, json.dumps(wanted), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, timeout=120, check=True)
    assert done.stdout.split() == [str(-signal.SIGKILL).encode()] * 2
    for name, values in wanted.items():
        folder = tmp_path / name
        left = json.loads((folder / "checkpoint.json").read_text())
        assert left["epoch"] == 1 and len(left["history"]["epochs"]) == 1
        whole, expected = trained(values)
        resumed, history = trained(values, folder)
        assert same(resumed, whole)
        assert history.to_dict(timings=False) == expected.to_dict(timings=False)
        assert len(history.timings) == 3 and history.timings[0].seconds == left["history"]["timings"][0]["seconds"]


def test_short_epochs_are_kept_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(loop, "write_checkpoint", lambda *given: kept.append(given[2].epoch))
    wanted = {**SGD, "epochs": 5}
    for times, expected in ((1e9, [1, 5]), (0.0, [1, 2, 3, 4, 5])):
        monkeypatch.setattr(loop, "_WORTH_KEEPING", times)
        kept.clear()
        trained(wanted, tmp_path)
        assert kept == expected


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    module, history = trained(ADAM, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 and names[1] == "checkpoint.json"
    with safe_open(tmp_path / names[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("module.9.weight"), module.state_dict()["9.weight"])
        assert {"optimizer.0.exp_avg", "optimizer.0.step", "module.1.num_batches_tracked"} <= set(file.keys())
    assert History.from_dict(json.loads((tmp_path / "checkpoint.json").read_text())["history"]) == history


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    module, history = trained(ADAM, tmp_path)
    again, told = trained(ADAM, tmp_path)
    assert told == history and same(module, again)
    before = (tmp_path / "checkpoint.json").read_bytes()
    fresh = network()
    train(fresh, few_digits(), read_settings(ADAM), checkpoint=tmp_path, key="it", resume=False)
    assert same(fresh, module) and (tmp_path / "checkpoint.json").read_bytes() != before


def test_the_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    _, history = trained(SGD, tmp_path, "one")
    with pytest.warns(KzooWarning, match=r"is of another training \(its recipe or start differs\): it is not used"):
        _, other = trained(SGD, tmp_path, "two")
    assert other.to_dict(timings=False) == history.to_dict(timings=False) and other != history
    with pytest.warns(KzooWarning, match="its settings differs"):
        _, longer = trained({**SGD, "epochs": 4}, tmp_path, "two")
    assert len(longer.epochs) == 4
    with pytest.warns(KzooWarning, match="its task differs"):
        train(linear(), made_up(), read_settings({**SGD, "epochs": 4}), checkpoint=tmp_path, key="two")
    assert json.loads((tmp_path / "checkpoint.json").read_text())["identity"]["key"] == "two"


def test_damage_is_told(tmp_path: Path) -> None:
    trained({**SGD, "epochs": 1}, tmp_path / "whole")
    name = next(path.name for path in (tmp_path / "whole").glob("*.safetensors"))

    def refused(change: Any) -> None:
        shutil.rmtree(tmp_path / "it", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "it")
        change(tmp_path / "it" / name, tmp_path / "it" / "checkpoint.json")
        with pytest.raises(InputError, match=r"is damaged .*: delete the folder to begin anew") as caught:
            trained({**SGD, "epochs": 1}, tmp_path / "it")
        assert "\n" not in str(caught.value)

    def flipped(tensors: Path, _: Path) -> None:
        data = bytearray(tensors.read_bytes())
        data[-5] ^= 1
        tensors.write_bytes(data)

    def edited(**values: Any) -> Any:
        def edit(_: Path, record: Path) -> None:
            record.write_text(json.dumps({**json.loads(record.read_text()), **values}))

        return edit

    refused(flipped)
    refused(lambda tensors, _: tensors.unlink())
    refused(lambda tensors, _: tensors.write_bytes(b""))
    refused(lambda _, record: record.write_bytes(record.read_bytes()[:100]))
    refused(lambda _, record: record.write_bytes(b"\xff\xfe"))
    refused(lambda _, record: record.write_text("[]"))
    refused(lambda _, record: record.write_text("[" * 100_000))
    refused(edited(format=2))
    refused(edited(sha256="../../etc/passwd"))
    refused(edited(history={"epochs": 1}))
    refused(edited(optimizer={}))
    refused(edited(optimizer=[]))
    refused(edited(epoch="one"))


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    trained({**SGD, "epochs": 1}, tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match=r"does not fit this network .*: delete the folder") as caught:
        train(other, few_digits(), read_settings({**SGD, "epochs": 1}), checkpoint=tmp_path, key="it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", [1, 2, 3])
def test_an_end_while_writing_leaves_a_whole_checkpoint(
    tmp_path: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files are replaced in turn: tensors, record, tensors, record.
    replacing, count = checkpoints.replacing, 0

    def ending(path: Path) -> Any:
        nonlocal count
        count += 1
        if count > written:
            (path.parent / f".{path.name}.1.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        return replacing(path)

    monkeypatch.setattr(checkpoints, "replacing", ending)
    with pytest.raises(KeyboardInterrupt):
        trained(SGD, tmp_path)
    monkeypatch.undo()
    identity = {"key": "it"}
    if written > 1:
        identity = json.loads((tmp_path / "checkpoint.json").read_text())["identity"]
    snapshot = read_checkpoint(tmp_path, identity)
    assert snapshot is None if written == 1 else snapshot is not None and snapshot.epoch == 1
    whole, expected = trained(SGD)
    module, history = trained(SGD, tmp_path)
    assert same(module, whole) and history.to_dict(False) == expected.to_dict(False)
    assert len(list(tmp_path.iterdir())) == 2


def test_shared_tensors_and_strangers_files(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
            self.two.weight = self.one.weight
            self.head = nn.Linear(64, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.two(self.one(images.flatten(1))))
            return found

    (tmp_path / "model.safetensors").write_bytes(b"mine")
    wanted = read_settings({"epochs": 1})
    torch.manual_seed(0)
    one = Tied()
    train(one, few_digits(), wanted, checkpoint=tmp_path)
    two = Tied()
    train(two, few_digits(), wanted, checkpoint=tmp_path)
    assert same(one, two) and two.one.weight is two.two.weight
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"

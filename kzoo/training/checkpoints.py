"""The state of a training in a folder, so that it can go on after an end of any kind.

``checkpoint.json`` holds what is no tensor, and names the safetensors file that goes with it by its sha256. The file of
tensors is written first under a name of its own, so whatever is there after a kill belongs together.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from kzoo.errors import InputError, KzooWarning, WorldError
from kzoo.files import replacing
from kzoo.training.history import History

_FORMAT = 1
_NAME = "checkpoint.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODULE, _OPTIMIZER = "module.", "optimizer."


@dataclass(frozen=True)
class Snapshot:
    """A training between two epochs.

    ``optimizer`` is the ``state`` of torch's state dict: for each number of a parameter its values by name. ``scaler`` is
    the state of the gradient scaler of fp16, or empty.
    """

    epoch: int
    history: History
    module: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    scaler: Mapping[str, Any]


def write_checkpoint(folder: Path, identity: Mapping[str, Any], snapshot: Snapshot) -> None:
    """Put a snapshot in the place of the folder's older one; ``identity`` is plain data, and says whose it is.

    Raises:
        WorldError: the disk is full, the folder cannot be written, and the like.
    """
    tensors, plain = _flat(snapshot)
    # Copies, since two names may share one tensor, which the format does not know.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    data = save(copies, metadata={"format": "pt"})
    digest = hashlib.sha256(data).hexdigest()
    with replacing(_tensor_file(folder, digest)) as path:
        path.write_bytes(data)
    record = {
        "format": _FORMAT,
        "identity": identity,
        "sha256": digest,
        "epoch": snapshot.epoch,
        "history": snapshot.history.to_dict(),
        "optimizer": plain,
        "scaler": dict(snapshot.scaler),
    }
    with replacing(folder / _NAME) as path:
        path.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
    for stale in (*folder.glob("checkpoint-*.safetensors"), *folder.glob(".checkpoint*.tmp")):
        if stale != _tensor_file(folder, digest):
            stale.unlink(missing_ok=True)


def read_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Snapshot | None:
    """The folder's snapshot; None where there is none, and, with a KzooWarning, where it is another training's.

    Raises:
        InputError: the checkpoint is damaged.
        WorldError: it cannot be read.
    """
    text = _read(folder / _NAME)
    if text is None:
        return None
    try:
        record = json.loads(text)
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']}")
        theirs, ours = record["identity"], json.loads(json.dumps(identity))
        if theirs != ours:
            odd = next(name for name in (*ours, *theirs) if theirs.get(name) != ours.get(name))
            odd = "recipe or start" if odd == "key" else odd
            warnings.warn(
                f"the checkpoint in {folder} is of another training (its {odd} differs): it is not used, "
                "and will be overwritten",
                KzooWarning,
                stacklevel=3,
            )
            return None
        if not _DIGEST.fullmatch(record["sha256"]):
            raise ValueError("no sha256")
        data = _read(_tensor_file(folder, record["sha256"]))
        if data is None or hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise ValueError("its tensors are not those that were written")
        return _snapshot(record, load(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f"the checkpoint in {folder} is damaged ({error}): delete the folder to begin anew") from None


def kept_epochs(folder: Path) -> int:
    """How many epochs the folder's snapshot has behind it, whosever it is; 0 where there is none."""
    try:
        return int(json.loads((folder / _NAME).read_text(encoding="utf-8"))["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _tensor_file(folder: Path, digest: str) -> Path:
    return folder / f"checkpoint-{digest[:16]}.safetensors"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorldError(f"{path} cannot be read ({error.strerror}): check the disk and its permissions") from None


def _flat(snapshot: Snapshot) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """A snapshot's tensors by name, and what else the optimizer remembers."""
    tensors = {f"{_MODULE}{name}": tensor for name, tensor in snapshot.module.items()}
    plain: dict[str, dict[str, Any]] = {}
    for number, values in snapshot.optimizer.items():
        plain[str(number)] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{number}.{name}"] = value
            else:
                plain[str(number)][name] = value
    return tensors, plain


def _snapshot(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
    optimizer = {int(number): dict(values) for number, values in record["optimizer"].items()}
    module = {}
    for name, tensor in tensors.items():
        if name.startswith(_MODULE):
            module[name.removeprefix(_MODULE)] = tensor
        else:
            number, _, value = name.removeprefix(_OPTIMIZER).partition(".")
            optimizer[int(number)][value] = tensor
    history = History.from_dict(record["history"])
    return Snapshot(int(record["epoch"]), history, module, optimizer, record["scaler"])

"""Add a file of one's own to a registry of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kzoo
from kzoo.catalog import ArchitectureEntry, Checkpoint, Family, checked_source, dump_family, read_source
from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.hashing import weights_sha256
from kzoo.indexing import build_index
from kzoo.locking import locked
from kzoo.paths import index_file
from kzoo.processes import Progress
from kzoo.readers.files import WeightsFile, read_weights_file
from kzoo.readers.libraries import LOCAL

_TAG = "file"


def add_model(
    path: Path,
    directory: Path,
    details: Mapping[str, Any],
    progress: Progress,
    name: str | None = None,
    force: bool = False,
) -> tuple[Path, Checkpoint]:
    """Write an entry for the weights at ``path`` into the registry at ``directory``, and index it.

    The entry's file is ``local/<name>.yaml``; without a ``name`` it is made from the path. ``details`` are fields of the
    entry that the file does not tell: ``license``, ``license_name``, ``license_link``, ``trained_on``, ``submodule``.
    With ``force``, fields that are not given are kept from the entry that is replaced. Returns the entry's file and the
    checkpoint.

    Raises:
        InputError: the weights are not a whole safetensors file, a field is wrong, or there is such an entry already
            (``force`` replaces it).
        WorldError: the registry cannot be written, or is being changed by another process.
    """
    file = read_weights_file(path)
    name = _name(file.path) if name is None else name
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII) or name.startswith("."):
        raise InputError(f"name {name!r:.80} is no name for a model: expected letters, digits, '.', '_' and '-'")
    entry_file = directory / LOCAL / f"{name}.yaml"

    given = {key: value for key, value in details.items() if value}
    details = _kept(entry_file, with_license="license" not in given) | given

    def text(sha256: str) -> str:
        return _entry_text(file, name, entry_file, directory, details, sha256)

    # Reading all weights can take minutes: whatever else may be wrong is found before.
    text("0" * 64)
    _require_free(entry_file, force)
    with locked(directory):
        pass
    content = text(weights_sha256(file.shards, progress))
    with locked(directory):
        _require_free(entry_file, force)
        before = entry_file.read_text(encoding="utf-8") if entry_file.exists() else None
        _write(entry_file, content)
        try:
            build_index(directory, index_file(directory), progress)
        except BaseException:
            # An entry that cannot be indexed would stop everything else that is done with this registry.
            entry_file.unlink() if before is None else _write(entry_file, before)
            raise
    family = checked_source(entry_file, content).family
    assert family is not None  # _entry_text has checked it
    return entry_file, family.architectures[0].checkpoints[0]


def _kept(entry_file: Path, with_license: bool) -> dict[str, Any]:
    """What people said of a model that is replaced, and its file does not tell; a license goes with its name and link."""
    family = read_source(entry_file).family if entry_file.exists() else None
    entries = family.architectures if family else []
    fields = next((c.model_dump(exclude_defaults=True) for entry in entries for c in entry.checkpoints), {})
    told = ["trained_on", "metrics", "submodule", "hub", "url", "paper"]
    told += ["license", "license_name", "license_link"] if with_license else []
    return {"license": "unknown"} | {key: fields[key] for key in told if key in fields}


def _require_free(entry_file: Path, force: bool) -> None:
    if entry_file.exists() and not force:
        raise InputError(f"{entry_file} exists already: give another --name, or --force to replace it")


def _name(path: Path) -> str:
    """A name from the file's, or from its folder's where the file has the usual one."""
    stem = path.name.partition(".")[0]
    chosen = path.resolve().parent.name if stem == "model" else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", chosen).strip("-.") or "model"


def _entry_text(
    file: WeightsFile, name: str, entry_file: Path, directory: Path, details: Mapping[str, Any], sha256: str
) -> str:
    """The entry as YAML.

    Raises:
        InputError: a field is wrong.
    """
    submodule = details.get("submodule")
    parameters = file.architecture(submodule).entries
    classes = file.classes if submodule is None else None
    size = list(file.input_size) if file.input_size and submodule is None else None
    checkpoint = Checkpoint.model_construct(
        id=f"{LOCAL}/{name}",
        tag=_TAG,
        classes=classes,
        input_size=size,
        parameters=parameters,
        path=_stored_path(file.path, directory),
        sha256=sha256,
        size=sum(shard.stat().st_size for shard in file.shards),
        **details,
    )
    entry = ArchitectureEntry.model_construct(
        name=name, parameters=parameters, classes=classes, input_size=size, checkpoints=[checkpoint]
    )
    text = dump_family(
        Family.model_construct(library=LOCAL, family=name, version=kzoo.__version__, architectures=[entry])
    )
    for fault in checked_source(entry_file, text).faults:
        raise InputError(f"{fault.field.rpartition('.')[2]}: {fault.problem}")
    return text


def _stored_path(path: Path, directory: Path) -> str:
    """Relative to the registry's folder where it lies inside, so that both can be moved together; else absolute."""
    resolved, root = path.resolve(), directory.resolve()
    if not str(resolved).isprintable():
        raise InputError(
            f"the path {str(resolved)!r:.200} cannot be written into a registry: give the file a plain name"
        )
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else str(resolved)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

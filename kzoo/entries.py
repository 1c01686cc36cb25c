"""Entries of one's own models: their YAML text, and writing them together with the index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kzoo
from kzoo.catalog import ArchitectureEntry, Checkpoint, Family, checked_source, dump_family, read_source
from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.indexing import build_index
from kzoo.locking import locked
from kzoo.paths import index_file
from kzoo.processes import Progress

_TOLD = ("trained_on", "metrics", "submodule", "hub", "url", "paper")
_LICENSE = ("license", "license_name", "license_link")


def entry_text(file: Path, name: str, checkpoint: Mapping[str, Any]) -> str:
    """The content of the registry file ``file`` with one architecture of one checkpoint, whose fields are given.

    Raises:
        InputError: a field is wrong.
    """
    model = Checkpoint.model_construct(**checkpoint)
    entry = ArchitectureEntry.model_construct(
        name=name,
        parameters=model.parameters,
        classes=model.classes,
        input_size=model.input_size,
        checkpoints=[model],
    )
    text = dump_family(
        Family.model_construct(
            library=file.parent.name, family=file.stem, version=kzoo.__version__, architectures=[entry]
        )
    )
    for fault in checked_source(file, text).faults:
        raise InputError(f"{fault.field.rpartition('.')[2]}: {fault.problem}")
    return text


def told_before(file: Path, with_license: bool) -> dict[str, Any]:
    """What people said of a model that is replaced, and its weights do not tell; a license goes with its name and link."""
    family = read_source(file).family if file.exists() else None
    entries = family.architectures if family else []
    fields = next((c.model_dump(exclude_defaults=True) for entry in entries for c in entry.checkpoints), {})
    told = [*_TOLD, *(_LICENSE if with_license else ())]
    return {"license": "unknown"} | {key: fields[key] for key in told if key in fields}


def require_free(file: Path, force: bool, way_out: str) -> None:
    """Refuse an entry that is there already, unless ``force`` is to replace it.

    Raises:
        InputError: it is.
    """
    if file.exists() and not force:
        raise InputError(f"{file} exists already: {way_out}--force to replace it")


def written_checkpoint(file: Path, text: str) -> Checkpoint:
    """The checkpoint of an entry that `entry_text` has made."""
    family = checked_source(file, text).family
    assert family is not None  # entry_text has checked it
    return family.architectures[0].checkpoints[0]


def write_entries(directory: Path, texts: Mapping[Path, str], progress: Progress) -> None:
    """Write files of a registry whose lock is held, and index it; where that fails, all is as it was.

    Raises:
        InputError: the registry cannot be indexed with them.
        WorldError: it cannot be written.
    """
    before = {file: file.read_text(encoding="utf-8") if file.exists() else None for file in texts}
    try:
        for file, text in texts.items():
            write_text(file, text)
        build_index(directory, index_file(directory), progress)
    except BaseException:
        # An entry that cannot be indexed would stop everything else that is done with this registry.
        for file, old in before.items():
            file.unlink(missing_ok=True) if old is None else write_text(file, old)
        raise


def require_writable(directory: Path) -> None:
    """Refuse a registry that cannot be changed, before long work is done for it.

    Raises:
        InputError: the folder is a file.
        WorldError: it cannot be written, or is being changed by another process.
    """
    with locked(directory):
        pass


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        WorldError: the disk fails.
    """
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""Merge what the installed libraries know into the registry's files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kzoo.catalog import ArchitectureEntry, Family, checked_source, dump_family, read_source, source_faults
from kzoo.errors import InputError, WorldError
from kzoo.files import replacing
from kzoo.locking import locked
from kzoo.merging import Added, MergeResult, Vanished, merge_family
from kzoo.plain_yaml import shown
from kzoo.processes import Progress, chunks, in_processes
from kzoo.readers.libraries import load_library
from kzoo.registry_files import family_files


@dataclass(frozen=True)
class FileSync:
    """What a sync does to one file: its old text (None for a new file), and the merge with the new one."""

    path: Path
    old: str | None
    merge: MergeResult

    @property
    def changed(self) -> bool:
        """Whether the file's text is another one afterwards."""
        return self.merge.text != self.old

    def diff(self) -> str:
        """The change as a unified diff; one line for a new file."""
        if self.old is None:
            counts = {kind: sum(a.kind == kind for a in self.merge.added) for kind in ("architecture", "checkpoint")}
            return f"new file {self.path}: {counts['architecture']} architectures, {counts['checkpoint']} checkpoints\n"
        new, target = ("", "/dev/null") if self.merge.text is None else (self.merge.text, str(self.path))
        lines = difflib.unified_diff(self.old.splitlines(True), new.splitlines(True), str(self.path), target)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True)
class SyncResult:
    """What a sync has done, or would do, to every file of a library; files without news are left out."""

    library: str
    version: str
    files: list[FileSync] = field(default_factory=list)

    @property
    def written(self) -> list[Path]:
        """The files with a new text."""
        return [file.path for file in self.files if file.changed and file.merge.text is not None]

    @property
    def deleted(self) -> list[Path]:
        """The files in which nothing is left."""
        return [file.path for file in self.files if file.merge.text is None]


def sync_library(
    library: str,
    directory: Path,
    progress: Progress,
    *,
    dry_run: bool = False,
    prune: bool = False,
    take_library: bool = False,
) -> SyncResult:
    """Merge what the installed package of ``library`` knows into the registry; people's edits stay.

    Raises:
        InputError: the library is unknown or not installed, or a file of the registry is faulty; nothing is written.
        WorldError: the registry cannot be written, or another process is changing it.
    """
    reader = load_library(library)
    # Reading a library takes a minute; what would stop the sync afterwards is better found now.
    _current(directory)
    if not dry_run:
        with locked(directory):
            pass
    wanted = read_families(library, progress)
    if dry_run:
        return plan_sync(library, reader.VERSION, wanted, directory, prune=prune, take_library=take_library)
    with locked(directory):
        result = plan_sync(library, reader.VERSION, wanted, directory, prune=prune, take_library=take_library)
        write_sync(result)
    return result


def read_families(library: str, progress: Progress) -> list[Family]:
    """All families of an installed library, in worker processes.

    Raises:
        InputError: the library is unknown or not installed.
    """
    reader = load_library(library)
    families = reader.families()
    work = [(library, chunk) for names in families.values() for chunk in chunks(names)]
    entries = {
        entry.name: entry for found in in_processes(_entries, work, f"reading {library}", progress) for entry in found
    }
    return [
        Family(library=library, family=family, version=reader.VERSION, architectures=[entries[name] for name in names])
        for family, names in families.items()
    ]


def _entries(work: tuple[str, list[str]]) -> list[ArchitectureEntry]:
    library, names = work
    reader = load_library(library)
    return [reader.entry(name) for name in names]


def plan_sync(
    library: str,
    version: str,
    wanted: Sequence[Family],
    directory: Path,
    *,
    prune: bool = False,
    take_library: bool = False,
) -> SyncResult:
    """What a sync of ``wanted`` would do; nothing is written.

    Raises:
        InputError: a file of the registry is faulty, or would be.
    """
    current = _current(directory)
    folder = directory / library
    texts = {path.stem: text for path, text in current.items() if path.parent == folder}
    families = _where_they_stand(library, version, wanted, {stem: _names(folder, stem, texts[stem]) for stem in texts})
    result = SyncResult(library, version)
    for name, family in families.items():
        path = folder / f"{name}.yaml"
        old = texts.get(name)
        if old is None:
            merge = _new_file(family)
        else:
            merge = merge_family(old, family, prune=prune, take_library=take_library)
            if not family.architectures:
                merge.vanished = [Vanished(1, "family", name)]
        file = FileSync(path, old, merge)
        if file.changed or merge.kept or merge.vanished:
            result.files.append(file)
    _check(current, result)
    return result


def _current(directory: Path) -> dict[Path, str]:
    """The texts of a registry's files; a folder that does not exist or is empty has none."""
    sources = [read_source(path) for path in family_files(directory)] if directory.exists() else []
    for fault in source_faults(sources):
        raise InputError(f"{fault} (nothing was written)")
    return {source.path: source.text for source in sources}


def _names(folder: Path, stem: str, text: str) -> list[str]:
    family = checked_source(folder / f"{stem}.yaml", text).family
    assert family is not None  # the registry has been checked
    return [entry.name for entry in family.architectures]


def _where_they_stand(
    library: str, version: str, wanted: Sequence[Family], standing: Mapping[str, Sequence[str]]
) -> dict[str, Family]:
    """The wanted architectures by the file in which they stand already, else that of their family; sorted."""
    owners = {name: stem for stem, names in standing.items() for name in names}
    entries: dict[str, list[ArchitectureEntry]] = {stem: [] for stem in standing}
    for family in wanted:
        for entry in family.architectures:
            entries.setdefault(owners.get(entry.name, family.family), []).append(entry)
    return {
        stem: Family(library=library, family=stem, version=version, architectures=found)
        for stem, found in sorted(entries.items())
    }


def _new_file(family: Family) -> MergeResult:
    added = []
    for entry in family.architectures:
        added.append(Added("architecture", entry.name))
        added += [Added("checkpoint", checkpoint.id) for checkpoint in entry.checkpoints]
    return MergeResult(dump_family(family), added=added)


def _check(current: Mapping[Path, str], result: SyncResult) -> None:
    texts: dict[Path, str | None] = {**current, **{file.path: file.merge.text for file in result.files}}
    sources = [checked_source(path, text) for path, text in sorted(texts.items()) if text is not None]
    for fault in source_faults(sources):
        raise InputError(
            f"merged with {result.library} {result.version} the registry would have a fault (nothing was written; "
            f"correct the file, or add --take-library or --prune): {fault}"
        )


def write_sync(result: SyncResult) -> None:
    """Write the planned files, each in one step.

    Raises:
        WorldError: a file cannot be written.
    """
    for file in result.files:
        if not file.changed:
            continue
        if file.merge.text is not None:
            with replacing(file.path) as temporary:
                temporary.write_text(file.merge.text, encoding="utf-8", newline="")
            continue
        try:
            file.path.unlink()
        except OSError as error:
            raise WorldError(f"{file.path} cannot be removed ({error.strerror}): check its permissions") from None


def reports(result: SyncResult) -> list[str]:
    """What people must know of a sync beside the diff, one sentence each."""
    said = f"{result.library} {result.version}"
    kept = [(file.path, kept) for file in result.files for kept in file.merge.kept]
    vanished = [(file.path, vanished) for file in result.files for vanished in file.merge.vanished]
    return [
        *(
            f"kept yours: {path}:{one.line} {one.field}: file says {shown(one.file_value)}, {said} says {shown(one.library_value)}"
            for path, one in kept
        ),
        *(f"not in {said}: {one.kind} {one.name} ({path}:{one.line})" for path, one in vanished),
    ]


def sync_data(result: SyncResult) -> dict[str, Any]:
    """What a sync has done, for programs."""

    def listed(kind: str) -> list[dict[str, Any]]:
        return [{"file": str(file.path), **asdict(one)} for file in result.files for one in getattr(file.merge, kind)]

    return {
        "library": result.library,
        "version": result.version,
        "written": [str(path) for path in result.written],
        "deleted": [str(path) for path in result.deleted],
        **{kind: listed(kind) for kind in ("added", "changed", "kept", "vanished")},
    }

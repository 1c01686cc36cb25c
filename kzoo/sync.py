"""Write the registry's files of a library from what the installed package knows."""

from __future__ import annotations

from pathlib import Path

from kzoo.catalog import ArchitectureEntry, Family, dump_family
from kzoo.files import replacing
from kzoo.processes import Progress, chunks, in_processes
from kzoo.readers.libraries import load_library


def sync_library(library: str, directory: Path, progress: Progress) -> list[Path]:
    """Write the registry's files of one library from the installed package; returns those that changed.

    Raises:
        InputError: the library is unknown or not installed.
    """
    reader = load_library(library)
    families = reader.families()
    work = [(library, chunk) for names in families.values() for chunk in chunks(names)]
    entries = {
        entry.name: entry for found in in_processes(_entries, work, f"reading {library}", progress) for entry in found
    }
    changed = []
    for family, names in families.items():
        content = Family(
            library=library, family=family, version=reader.VERSION, architectures=[entries[name] for name in names]
        )
        path = directory / library / f"{family}.yaml"
        text = dump_family(content)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def _entries(work: tuple[str, list[str]]) -> list[ArchitectureEntry]:
    library, names = work
    reader = load_library(library)
    return [reader.entry(name) for name in names]

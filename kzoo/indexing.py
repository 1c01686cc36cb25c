"""Compile the registry into the index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kzoo.catalog import ArchitectureEntry, Checkpoint, Family, load_registry
from kzoo.encoding import Encoding, Floats, encode
from kzoo.errors import CheckFailed, InputError
from kzoo.hub.locks import read_lock, stem
from kzoo.index import FORMAT, Index, encoding_arrays, write_index
from kzoo.layers import Architecture
from kzoo.paths import registry_directory, source_file
from kzoo.processes import Progress, chunks, in_processes
from kzoo.readers.files import read_weights_file
from kzoo.readers.libraries import BY_HEADER, HUB, LOCAL, load_library
from kzoo.readers.variants import Variant
from kzoo.registry_files import registry_digest
from kzoo.scan import Scan
from kzoo.sources import file_architecture, weights_architecture
from kzoo.zoo import Zoo, shipped_zoo

#: Modules whose code decides what the index holds; when one changes, the index is stale.
DECISIVE_MODULES = (
    "layers", "standardize", "encoding", "kernel", "scan", "catalog", "plain_yaml", "index", "indexing",
    "readers/libraries", "readers/module", "readers/variants", "readers/timm", "readers/torchvision",
)  # fmt: skip
#: The same for models that are files.
LOCAL_MODULES = (
    "readers/safetensors", "readers/shapes", "readers/files", "refine", "heads", "training/networks",
)  # fmt: skip
#: The same for networks on the Hub, beside those for files.
HUB_MODULES = ("hub/locks",)
#: How many places a stored ranking holds; a search that needs more scans everything.
_STORED = 100
_Work = tuple[str, list[ArchitectureEntry]]


def build_index(directory: Path, path: Path, progress: Progress) -> dict[str, Any]:
    """Compile the registry in ``directory`` into the index file ``path``; returns the index's meta data.

    Every architecture is built without weights in two processes; similarities are computed once per ordered pair of
    fingerprints. Local files are read by their headers.

    Raises:
        InputError: the registry is faulty, a local file is missing or faulty, or a library that the registry names is
            missing or does not know an architecture.
    """
    # Taken before the files are read: a change meanwhile makes the index stale, never wrongly fresh.
    digest = registry_digest(directory)
    families = load_registry(directory)
    found = _read_variants(families, directory, progress)
    forms = [variant.architecture for variants in found.values() for variant in variants]
    spaces = {"paper": forms, "extended": [form.extended for form in forms]}
    unique = {space: _unique(architectures) for space, architectures in spaces.items()}
    registry, names, trained = _documents(families, found, unique)
    arrays: dict[str, Any] = {}
    rankings = {}
    for space, architectures in unique.items():
        encoding = encode(list(architectures.values()))
        stored = stored_rankings(encoding, trained[space], space, progress)
        rankings[space] = sorted(stored)
        members = encoding_arrays(encoding) | {f"rankings/{measure}": ranking for measure, ranking in stored.items()}
        members["fingerprints"] = np.array(list(architectures), dtype="S20").astype("U20")
        arrays |= {f"{space}/{name}": array for name, array in members.items()}
    libraries = sorted({family.library for family in families} - set(BY_HEADER))
    meta = {
        "format": FORMAT,
        "registry": digest,
        "code": code_digest(directory),
        "libraries": {library: load_library(library).VERSION for library in libraries},
        "architectures": sum(len(family.architectures) for family in families),
        "checkpoints": sum(len(entry.checkpoints) for family in families for entry in family.architectures),
        "fingerprints": len(unique["paper"]),
        "rankings": rankings,
    }
    write_index(path, meta, registry, names, arrays)
    return meta


def _unique(architectures: Sequence[Architecture]) -> dict[str, Architecture]:
    """Architectures by fingerprint, in the order in which each appears first."""
    found: dict[str, Architecture] = {}
    for architecture in architectures:
        found.setdefault(architecture.fingerprint, architecture)
    return found


def _read_variants(
    families: Sequence[Family], directory: Path, progress: Progress
) -> dict[tuple[str, str], list[Variant]]:
    work: list[_Work] = []
    found: dict[tuple[str, str], list[Variant]] = {}
    for family in families:
        if family.library in BY_HEADER:
            found |= {
                (family.library, entry.name): [_variant_by_header(family.library, entry, directory)]
                for entry in family.architectures
            }
        else:
            work += [(family.library, chunk) for chunk in chunks(family.architectures)]
    results = in_processes(_variants, work, "building architectures", progress)
    for (library, chunk), variants in zip(work, results, strict=True):
        found |= {(library, entry.name): forms for entry, forms in zip(chunk, variants, strict=True)}
    return found


def _variants(work: _Work) -> list[list[Variant]]:
    library, wanted = work
    reader = load_library(library)
    found = []
    for entry in wanted:
        try:
            found.append(reader.variants(entry))
        except Exception as error:  # constructors raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{library} {reader.VERSION} cannot build {entry.name} ({reason:.200}): "
                "install the version that the registry was read from, or delete the entry"
            ) from None
    return found


def _variant_by_header(library: str, entry: ArchitectureEntry, directory: Path) -> Variant:
    """The network of a model that no library builds, as its file's header tells it."""
    # The index that comes with kzoo is made from its files alone, not from an older one; its networks are kzoo's own.
    known = Zoo([]) if directory.resolve() == registry_directory().resolve() else shipped_zoo()
    for checkpoint in entry.checkpoints:
        if library == HUB or checkpoint.path is not None:
            read = _of_lock if library == HUB else _of_file
            return Variant(read(checkpoint, directory, known), ("", *(each.tag for each in entry.checkpoints)))
    what = "checkpoint" if library == HUB else "checkpoint with a path"
    raise InputError(f"model {library}:{entry.name} has no {what}: add it with 'kzoo add', or remove it")


def _of_file(checkpoint: Checkpoint, directory: Path, known: Zoo) -> Architecture:
    try:
        return file_architecture(directory / str(checkpoint.path), known, checkpoint.submodule)
    except InputError as error:
        file = directory / LOCAL / f"{checkpoint.id.partition('/')[2]}.yaml"
        raise InputError(f"{error}; it is the model {checkpoint.id}: delete {file} if it is gone") from None


def _of_lock(checkpoint: Checkpoint, directory: Path, known: Zoo) -> Architecture:
    lock = read_lock(directory, checkpoint.id)
    if lock is None:
        raise InputError(
            f"{directory} has no lock of {checkpoint.id}, which tells its layers: add it again with 'kzoo add --force', or "
            f"delete {directory / HUB / stem(checkpoint.id)}.yaml"
        )
    return weights_architecture(lock.weights, known, checkpoint.submodule)


def _documents(
    families: Sequence[Family],
    found: dict[tuple[str, str], list[Variant]],
    unique: dict[str, dict[str, Architecture]],
) -> tuple[list[Any], dict[str, list[str]], dict[str, set[int]]]:
    """The registry's fields with each form's places, the layer names by family, and the places with checkpoints."""
    places = {space: {text: place for place, text in enumerate(members)} for space, members in unique.items()}
    trained = {space: set[int]() for space in unique}
    registry, names_by_family = [], {}
    for family in families:
        texts: dict[str, int] = {}
        documents = []
        for entry in family.architectures:
            forms = []
            for variant in found[family.library, entry.name]:
                form = variant.architecture
                seen = {"paper": form, "extended": form.extended}
                there = {space: places[space][seen[space].fingerprint] for space in unique}
                spelled = ["\n".join(layer.name for layer in seen[space].layers) for space in unique]
                names = [texts.setdefault(text, len(texts)) for text in spelled]
                growth = variant.parameters_per_class
                forms.append(
                    (variant.tags, [*there.values()], names, form.entries, variant.heads, growth, int(form.approximate))
                )
                for space in trained if set(variant.tags) - {""} else ():
                    trained[space].add(there[space])
            documents.append({"fields": entry.model_dump(exclude_defaults=True), "forms": forms})
        head = {"library": family.library, "family": family.family, "version": family.version}
        registry.append({**head, "architectures": documents})
        names_by_family[f"{family.library}.{family.family}"] = list(texts)
    return registry, names_by_family, trained


def stored_rankings(encoding: Encoding, trained: set[int], space: str, progress: Progress) -> dict[str, Any]:
    """Per measure of a space and place, the most similar places that have checkpoints, best first; equals by place."""
    stage = f"matching all pairs of blocks ({space})"
    scan = Scan(encoding, encoding, progress=lambda done: progress(stage, done))
    _ = scan.forward
    stage = f"ranking all pairs of architectures ({space})"
    # A network of which a measure sees nothing has the value 0 with all others.
    directed = scan.forward_values() / np.maximum(encoding.typed, 1)[:, None]
    sources = np.array(sorted(trained), dtype=np.intp)
    symmetric = np.sqrt(directed * directed.T)
    measures = {"extended": symmetric} if space == "extended" else {"symmetric": symmetric, "directed": directed}
    return {measure: _best(values[:, sources], sources) for measure, values in measures.items()}


def _best(values: Floats, sources: Any) -> Any:
    order = np.argsort(-values.round(12), axis=1, kind="stable")[:, :_STORED]
    return sources[order].astype(np.min_scalar_type(int(sources.max(initial=0))))


def check_index(directory: Path, path: Path) -> dict[str, Any]:
    """The index's meta data, if it was compiled from this registry by this code.

    Raises:
        CheckFailed: the index is stale.
        InputError: there is no index, or the registry cannot be read.
    """
    index = Index(path)
    meta = index.meta
    for what, digest in (("registry", registry_digest(directory)), ("code", code_digest(directory))):
        if meta[what] != digest:
            raise CheckFailed(
                f"the index {path} is stale: the {what} has changed since it was compiled; run '{index.command}'"
            )
    _check_local_files(directory)
    return meta


def _check_local_files(directory: Path) -> None:
    """Raise CheckFailed where a model's weights are not those that were added: by their size, which costs nothing."""
    for family in load_registry(directory) if (directory / LOCAL).is_dir() else ():
        for checkpoint in (checkpoint for entry in family.architectures for checkpoint in entry.checkpoints):
            file = read_weights_file(directory / checkpoint.path) if checkpoint.path is not None else None
            if file is not None and checkpoint.size not in (None, sum(shard.stat().st_size for shard in file.shards)):
                raise CheckFailed(
                    f"{file.path} has changed since it was added as {checkpoint.id}: add it again with 'kzoo add --force'"
                )


def code_digest(directory: Path) -> str:
    """SHA-256 over the modules that decide what the index of a registry holds."""
    digest = hashlib.sha256()
    own = LOCAL_MODULES if any((directory / library).is_dir() for library in BY_HEADER) else ()
    hub = HUB_MODULES if (directory / HUB).is_dir() else ()
    for module in (*DECISIVE_MODULES, *own, *hub):
        digest.update(hashlib.sha256(source_file(module).read_bytes()).digest())
    return digest.hexdigest()

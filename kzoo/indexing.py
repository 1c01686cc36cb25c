"""Compile the registry into the index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kzoo.catalog import Family, load_registry, registry_digest
from kzoo.encoding import Encoding, Floats, encode
from kzoo.errors import CheckFailed, InputError
from kzoo.index import FORMAT, Index, encoding_arrays, write_index
from kzoo.layers import Architecture
from kzoo.paths import source_file
from kzoo.processes import Progress, chunks, in_processes
from kzoo.readers.libraries import load_library
from kzoo.readers.variants import Variant
from kzoo.scan import Scan, compiled_engine

#: Modules whose code decides what the index holds; when one changes, the index is stale.
_DECISIVE_MODULES = (
    "layers", "standardize", "encoding", "kernel", "scan", "catalog", "index", "indexing",
    "readers/libraries", "readers/module", "readers/variants", "readers/timm", "readers/torchvision",
)  # fmt: skip
#: How many places a stored ranking holds; a search that needs more scans everything.
_STORED = 100
_Work = tuple[str, list[tuple[str, tuple[str, ...]]]]


def build_index(directory: Path, path: Path, progress: Progress) -> dict[str, Any]:
    """Compile the registry in ``directory`` into the index file ``path``; returns the index's meta data.

    Every architecture is built without weights in two processes; similarities are computed once per ordered pair of
    fingerprints.

    Raises:
        InputError: the registry is faulty, or a library that it names is missing or does not know an architecture.
    """
    families = load_registry(directory)
    found = _read_variants(families, progress)
    architectures: dict[str, Architecture] = {}
    for variants in found.values():
        for variant in variants:
            architectures.setdefault(variant.architecture.fingerprint, variant.architecture)
    places = {fingerprint: place for place, fingerprint in enumerate(architectures)}
    registry, names, trained = _documents(families, found, places)
    encoding = encode(list(architectures.values()))
    rankings = stored_rankings(encoding, trained, progress)
    meta = {
        "format": FORMAT,
        "registry": registry_digest(directory),
        "code": code_digest(),
        "libraries": {library: load_library(library).VERSION for library in sorted({f.library for f in families})},
        "architectures": sum(len(family.architectures) for family in families),
        "checkpoints": sum(len(entry.checkpoints) for family in families for entry in family.architectures),
        "fingerprints": len(places),
        "rankings": sorted(rankings),
    }
    arrays = encoding_arrays(encoding) | {"fingerprints": np.array(list(places), dtype="S20").astype("U20")}
    arrays |= {f"rankings/{measure}": ranking for measure, ranking in rankings.items()}
    write_index(path, meta, registry, names, arrays)
    return meta


def _read_variants(families: Sequence[Family], progress: Progress) -> dict[tuple[str, str], list[Variant]]:
    work: list[_Work] = []
    for family in families:
        wanted = [
            (entry.name, tuple(checkpoint.tag for checkpoint in entry.checkpoints)) for entry in family.architectures
        ]
        work += [(family.library, chunk) for chunk in chunks(wanted)]
    results = in_processes(_variants, work, "building architectures", progress)
    return {
        (library, name): variants
        for (library, chunk), found in zip(work, results, strict=True)
        for (name, _), variants in zip(chunk, found, strict=True)
    }


def _variants(work: _Work) -> list[list[Variant]]:
    library, wanted = work
    reader = load_library(library)
    found = []
    for name, tags in wanted:
        try:
            found.append(reader.variants(name, tags))
        except Exception as error:  # constructors raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{library} {reader.VERSION} cannot build {name} ({reason:.200}): "
                f"install the version that the registry was read from, or run 'kzoo registry sync {library}'"
            ) from None
    return found


def _documents(
    families: Sequence[Family], found: dict[tuple[str, str], list[Variant]], places: dict[str, int]
) -> tuple[list[Any], dict[str, list[str]], set[int]]:
    """The registry's fields with each form's place, the layer names by family, and the places with checkpoints."""
    registry, names_by_family, trained = [], {}, set[int]()
    for family in families:
        texts: dict[str, int] = {}
        documents = []
        for entry in family.architectures:
            forms = []
            for variant in found[family.library, entry.name]:
                architecture = variant.architecture
                place = places[architecture.fingerprint]
                text = "\n".join(layer.name for layer in architecture.layers)
                names = texts.setdefault(text, len(texts))
                forms.append(
                    (variant.tags, place, architecture.entries, names, variant.heads, variant.parameters_per_class)
                )
                if set(variant.tags) - {""}:
                    trained.add(place)
            documents.append({"fields": entry.model_dump(exclude_defaults=True), "forms": forms})
        head = {"library": family.library, "family": family.family, "version": family.version}
        registry.append({**head, "architectures": documents})
        names_by_family[f"{family.library}.{family.family}"] = list(texts)
    return registry, names_by_family, trained


def stored_rankings(encoding: Encoding, trained: set[int], progress: Progress) -> dict[str, Any]:
    """Per measure and place, the most similar places that have checkpoints, best first; equals by place."""
    stage = "matching all pairs of blocks"
    scan = Scan(encoding, encoding, compiled_engine(), lambda done: progress(stage, done))
    _ = scan.forward
    stage = "ranking all pairs of architectures"
    directed = scan.forward_values() / encoding.typed[:, None]
    sources = np.array(sorted(trained), dtype=np.intp)
    measures: dict[str, Floats] = {"symmetric": np.sqrt(directed * directed.T), "directed": directed}
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
    meta = Index(path).meta
    for what, digest in (("registry", registry_digest(directory)), ("code", code_digest())):
        if meta[what] != digest:
            raise CheckFailed(
                f"the index {path} is stale: the {what} has changed since it was compiled; run 'kzoo index'"
            )
    return meta


def code_digest() -> str:
    """SHA-256 over the modules that decide what the index holds."""
    digest = hashlib.sha256()
    for module in _DECISIVE_MODULES:
        digest.update(hashlib.sha256(source_file(module).read_bytes()).digest())
    return digest.hexdigest()

"""The sha256 by which recipes and registries know weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path


def weights_sha256(shards: Sequence[Path], progress: Callable[[str, float], None] | None = None) -> str:
    """SHA-256 of a weights file; of several shards, that of the lines ``<sha256>  <name>`` as sha256sum prints them."""
    digests = []
    for done, shard in enumerate(shards):
        with shard.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
        if progress is not None:
            progress("reading weights", (done + 1) / len(shards))
    if len(digests) == 1:
        return digests[0]
    lines = (f"{digest}  {shard.name}\n" for digest, shard in zip(digests, shards, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()

"""Xet: not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.hub.messages import Refusal, Request, Response
from tests.hub.storage import Blob, Repo

if TYPE_CHECKING:
    from tests.hub.server import Hub


class Xet:
    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder

    def hash_of(self, blob: Blob) -> str | None:
        return None

    def fetch(self, sha256: str) -> Blob | None:
        return None

    def token(self, hub: Hub, request: Request, repo: Repo, *, write: bool) -> Response:
        raise Refusal(404, "No xet")

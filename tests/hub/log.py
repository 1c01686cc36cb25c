"""The log of requests, for tests that count them and the bytes of their answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass
class Entry:
    """One request and its answer."""

    method: str
    path: str
    query: str
    host: str
    range: str | None
    authorized: bool
    received: int = 0
    status: int | None = None
    # Bytes of the answer's body that went out.
    sent: int = 0

    def __str__(self) -> str:
        asked = self.path + (f"?{self.query}" if self.query else "") + (f" [{self.range}]" if self.range else "")
        token = "token" if self.authorized else "no token"
        return f"{self.method} {asked} -> {self.status}, {self.sent} bytes, {token}, {self.host}"


class Log:
    """Requests in the order of their arrival."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        """Note a request; its status and its bytes are filled in while it is answered."""
        with self._lock:
            self.entries.append(entry)

    def find(self, method: str | None = None, path: str = "*", status: int | None = None) -> list[Entry]:
        """Requests by method, by a pattern of the path as in `*/resolve/*`, and by status."""
        return [
            entry
            for entry in self.entries
            if method in (None, entry.method) and fnmatchcase(entry.path, path) and status in (None, entry.status)
        ]

    def count(self, method: str | None = None, path: str = "*", status: int | None = None) -> int:
        """How many requests there were."""
        return len(self.find(method, path, status))

    def sent(self, method: str | None = None, path: str = "*") -> int:
        """How many bytes the bodies of the answers had."""
        return sum(entry.sent for entry in self.find(method, path))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.entries.clear()

    @contextmanager
    def recording(self) -> Iterator[Log]:
        """The requests of a block only, as a log of its own that is filled when the block ends."""
        part = Log()
        start = len(self.entries)
        yield part
        part.entries = self.entries[start:]

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))

"""Requests and answers, ranges of bytes, and the errors that the Hub answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.storage import User

CHUNK = 2**18


@dataclass
class Request:
    """A request as the routes see it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    user: User | None = None
    # A large body is put into a file before anything else happens.
    body_file: Path | None = None

    @property
    def raw_path(self) -> str:
        """The path as it was sent."""
        return urlsplit(self.target).path

    @property
    def path(self) -> str:
        """The path without percent signs; this is what patterns are compared with."""
        return unquote(self.raw_path)

    @property
    def parts(self) -> list[str]:
        """The parts of the path; a part may hold slashes that were sent as %2F."""
        return [unquote(part) for part in self.raw_path.strip("/").split("/")]

    @property
    def query(self) -> dict[str, list[str]]:
        """The query; `name[]` is `name`."""
        found: dict[str, list[str]] = {}
        for name, values in parse_qs(urlsplit(self.target).query, keep_blank_values=True).items():
            found.setdefault(name.removesuffix("[]"), []).extend(values)
        return found

    def flag(self, name: str) -> bool:
        """Whether the query says yes."""
        return self.query.get(name, [""])[-1].lower() in {"1", "true", "yes"}

    def one(self, name: str, default: str = "") -> str:
        """One value of the query."""
        return self.query.get(name, [default])[-1]

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body or b"{}")


class Body:
    """The bytes of an answer: in memory, or a piece of a file that is read while it is sent."""

    def __init__(self, source: bytes | Path = b"", start: int = 0, length: int | None = None) -> None:
        self.source = source
        self.start = start
        whole = len(source) if isinstance(source, bytes) else source.stat().st_size
        self.length = whole - start if length is None else length

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces."""
        if isinstance(self.source, bytes):
            yield self.source[self.start : self.start + self.length]
            return
        left = self.length
        with self.source.open("rb") as file:
            file.seek(self.start)
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


@dataclass
class Response:
    """An answer; `cut` says after how many bytes of the body the connection breaks."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = field(default_factory=Body)
    cut: int | None = None


class Refusal(Exception):
    """An answer that is an error; what raises it need not know how it is sent."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more

    def response(self) -> Response:
        """The error as the Hub writes it: in the body and in headers."""
        answer = as_json({"error": self.message, **self.more}, self.status)
        # A header is one line of latin-1, a message need not be.
        answer.headers["X-Error-Message"] = " ".join(self.message.encode("ascii", "replace").decode().split())
        if self.code:
            answer.headers["X-Error-Code"] = self.code
        return answer


def as_json(value: Any, status: int = 200, **headers: str) -> Response:
    """An answer in JSON."""
    body = json.dumps(value, ensure_ascii=True).encode()
    headers = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(status, {"Content-Type": "application/json; charset=utf-8", **headers}, Body(body))


def redirect(location: str, status: int = 307) -> Response:
    """An answer that says: look there."""
    text = f"Temporary Redirect. Redirecting to {location}".encode()
    return Response(status, {"Location": location, "Content-Type": "text/plain; charset=utf-8"}, Body(text))


RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*")


def ranged(source: bytes | Path, wanted: str | None, headers: dict[str, str]) -> Response:
    """A file or the range of it that a Range header asks for: 200, 206 or 416."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    match = RANGE.fullmatch(wanted or "")
    first, last = match.groups() if match else ("", "")
    # What is no range, or goes backwards, asks for everything.
    if first == last == "" or (first and last and int(last) < int(first)):
        return Response(200, headers, Body(source))
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return Response(416, {**headers, "Content-Range": f"bytes */{size}"}, Body())
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Response(206, headers, Body(source, start, end - start + 1))

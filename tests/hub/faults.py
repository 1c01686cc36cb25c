"""What can go wrong: faults that a test lets happen at chosen requests.

A fault is a function of the request and of the honest answer, which it may ask for or not. Any such function will do;
these are the usual ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from tests.hub.messages import Body, Refusal, Request, Response, redirect

Answer = Callable[[], Response]
Fault = Callable[[Request, Answer], Response]


def error(status: int, message: str = "Internal Error - We're working hard to fix this as soon as possible!") -> Fault:
    """Answer 500, 503 or whatever."""
    return lambda request, answer: Refusal(status, message).response()


def rate_limit(seconds: int = 3, headers: bool = True) -> Fault:
    """Answer 429 with Retry-After and, unless `headers` is false, with the Hub's rate limit headers."""

    def fault(request: Request, answer: Answer) -> Response:
        response = Refusal(
            429, "We had to rate limit you, you hit the quota of 500 api requests per 5 minutes."
        ).response()
        response.headers["Retry-After"] = str(seconds)
        if headers:
            response.headers["RateLimit"] = f'"api";r=0;t={seconds}'
            response.headers["RateLimit-Policy"] = '"fixed window";"api";q=500;w=300'
        return response

    return fault


def slow(seconds: float) -> Fault:
    """Wait, then answer."""

    def fault(request: Request, answer: Answer) -> Response:
        time.sleep(seconds)
        return answer()

    return fault


def cut(after: int = 0) -> Fault:
    """Break the connection after that many bytes of the body."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer()
        response.cut = after
        return response

    return fault


class _Flipped(Body):
    """A body with one wrong byte."""

    def __init__(self, body: Body, place: int) -> None:
        super().__init__(body.source, body.start, body.length)
        self.place = place

    def chunks(self) -> Iterator[bytes]:
        position = 0
        for chunk in super().chunks():
            if position <= self.place < position + len(chunk):
                wrong = bytearray(chunk)
                wrong[self.place - position] ^= 0xFF
                chunk = bytes(wrong)
            position += len(chunk)
            yield chunk


def wrong_bytes(place: int = -1) -> Fault:
    """Send a body of the right length with one wrong byte, by default the last."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer()
        if response.body.length:
            response.body = _Flipped(response.body, place % response.body.length)
        return response

    return fault


def wrong_headers(**headers: str | None) -> Fault:
    """Replace headers of the answer, as in `X_Repo_Commit="0" * 40`; None removes one."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer()
        for name, text in headers.items():
            for old in [old for old in response.headers if old.lower() == name.replace("_", "-").lower()]:
                del response.headers[old]
            if text is not None:
                response.headers[name.replace("_", "-")] = text
        return response

    return fault


def wrong_sha(sha256: str = "0" * 64) -> Fault:
    """Say another sha256 than the one of the bytes, where the Hub says one."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer()
        if "X-Linked-Etag" in response.headers:
            response.headers |= {"X-Linked-Etag": f'"{sha256}"', "ETag": f'"{sha256}"'}
        return response

    return fault


def short(by: int = 1) -> Fault:
    """Send fewer bytes than there are, with a Content-Length that agrees with the fewer."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer()
        body = response.body
        response.body = Body(body.source, body.start, max(body.length - by, 0))
        return response

    return fault


def other_body(source: bytes | Path) -> Fault:
    """Send something else."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer()
        response.body = Body(source)
        return response

    return fault


def loop() -> Fault:
    """Redirect to the same address."""
    return lambda request, answer: redirect(request.target)


def missing(code: str = "EntryNotFound") -> Fault:
    """Answer 404; the code is EntryNotFound, RevisionNotFound or RepoNotFound."""
    texts = {
        "EntryNotFound": "Entry not found",
        "RevisionNotFound": "Invalid rev id",
        "RepoNotFound": "Repository not found",
    }
    return lambda request, answer: Refusal(404, texts[code], code).response()


def first(action: Callable[[], object]) -> Fault:
    """Do something, then answer: rename, delete or commit between two requests of a client."""

    def fault(request: Request, answer: Answer) -> Response:
        action()
        return answer()

    return fault


@dataclass
class Rule:
    """When a fault happens: at the `nth` matching request and `times` in all, or from then on for ever (None)."""

    fault: Fault
    method: str | None = None
    path: str = "*"
    nth: int = 1
    times: int | None = 1
    seen: int = 0
    done: int = field(default=0)

    def applies(self, request: Request) -> bool:
        """Whether the fault happens now; counts."""
        if self.method not in (None, request.method) or not fnmatchcase(request.path, self.path):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.done >= self.times):
            return False
        self.done += 1
        return True


class Rules:
    """All rules of a server."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> Rule:
        """One more."""
        with self._lock:
            self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self.rules.clear()

    def answer(self, request: Request, answer: Answer) -> Response:
        """The answer after all faults that happen; the first rule is the nearest to the honest answer."""
        with self._lock:
            happening = [rule.fault for rule in self.rules if rule.applies(request)]
        for fault in happening:
            answer = _wrapped(fault, request, answer)
        return answer()


def _wrapped(fault: Fault, request: Request, answer: Answer) -> Answer:
    return lambda: fault(request, answer)

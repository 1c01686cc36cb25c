"""Requests to the Hub: bounded in size and time, retried politely, and their failures in one sentence.

The session, the token, the endpoint and the errors are huggingface_hub's; its own calls would wait for minutes where
nobody answers, and read a whole file where a server ignores a range.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, get_token, hf_raise_for_status, httpx

from kzoo.errors import InputError, KzooError, WorldError

#: So many times a request is made; an endpoint that is dead is said within ten seconds.
TRIES = 3
#: Longer than this nobody waits for a Hub that asks for patience; the sentence says how long it would have been.
MOST_WAIT = 60.0
_PATIENCE = ContextVar("_PATIENCE", default=MOST_WAIT)
MOST_JSON = 50_000_000
#: For many requests one after another: the Hub counts them in windows of five minutes.
BULK_PATIENCE = 330.0
#: Items of a page of a listing.
PAGE = 1000
#: The digest that the Hub says of a large file when it is asked for it.
LINKED = "x-linked-etag"
_TIMEOUT = httpx.Timeout(8.0, connect=2.0)
#: A server that sends less than so many bytes a second counts as silent, after some time to begin with.
_LEAST_RATE, _GRACE = 2_000, 20.0
_FIRST_WAIT = 0.5
_AGAIN = (429, 500, 502, 503, 504)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}|(?<=Bearer )\S+|(?<=//)[^/@\s]+(?=@)")


class Missing(InputError):
    """There is no such repository, or one may not know of it."""


class _Busy(Exception):
    """The answer says to try again, after so many seconds."""

    def __init__(self, status: int, seconds: float | None) -> None:
        super().__init__(f"status {status}")
        self.status, self.seconds = status, seconds


class _Quota:
    """When the Hub will answer again, on `time.monotonic`'s clock."""

    free_at = 0.0


_quota = _Quota()


def endpoint() -> str:
    """The address of the Hub that is asked: ``HF_ENDPOINT``, or the real one."""
    return constants.ENDPOINT


def hub() -> str:
    """The Hub as sentences call it: its address without a user or a password."""
    return re.sub(r"//[^/@]*@", "//", endpoint())


def get_json(path: str, what: str) -> tuple[Any, Mapping[str, str]]:
    """The JSON that the Hub answers below its endpoint, and the answer's headers; ``what`` names it in sentences.

    Raises:
        InputError: there is no such thing, or one may not see it.
        WorldError: the Hub cannot be reached, is busy for too long, or answers nonsense.
    """
    for number in range(TRIES):
        content, headers = get_bytes(f"{endpoint()}{path}", what, most=MOST_JSON)
        try:
            return json.loads(content), headers
        except (ValueError, RecursionError):
            # Half an answer, perhaps.
            if number < TRIES - 1:
                time.sleep(_FIRST_WAIT)
    raise WorldError(f"the Hub at {hub()} answered no JSON for {what}: is it a Hub? Try again")


def get_pages(path: str, what: str) -> Iterator[Any]:
    """The items of a listing below the endpoint, page by page, as the Hub links them.

    Raises:
        InputError, WorldError: see `get_json`.
    """
    next_path: str | None = path
    while next_path is not None:
        items, headers = get_json(next_path, what)
        if not isinstance(items, list):
            raise WorldError(f"the Hub at {hub()} answered no list for {what}: is it a Hub? Try again")
        yield from items
        next_path = _next_page(headers.get("link", ""), next_path)


def _next_page(link: str, path: str) -> str | None:
    """Where the next page is, below the endpoint; a link that leads elsewhere is not followed, for the token goes along."""
    found = re.search(r'<([^<>]*)>\s*;\s*rel="next"', link)
    url = found[1] if found else ""
    below = url.removeprefix(endpoint()) if url.startswith(f"{endpoint()}/") else url
    return below if below.startswith("/") and below != path else None


def exists(url: str) -> bool:
    """Whether something is at an address outside the Hub; no token goes there.

    Raises:
        WorldError: its server does not answer, or does not say.
    """
    try:
        status = get_session().head(url, follow_redirects=True, timeout=_TIMEOUT).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WorldError(f"{url} does not answer ({_reason(error)})") from None
    if status >= 400 and status not in (404, 410):
        raise WorldError(f"{url} answers with status {status}")
    return status < 400


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let a busy Hub ask for longer waits in the block, where many requests are made one after another."""
    token = _PATIENCE.set(seconds)
    try:
        yield
    finally:
        _PATIENCE.reset(token)


def get_bytes(
    url: str, what: str, *, first: int | None = None, most: int, exactly: bool = False
) -> tuple[bytes, Mapping[str, str]]:
    """The content at ``url``, or at most ``most`` bytes of it from the byte ``first`` on, and the answer's headers.

    Without ``first`` more than ``most`` bytes are refused. With ``exactly``, fewer are, too.

    Raises:
        InputError, WorldError: see `get_json`.
    """
    headers = build_hf_headers()
    if first is not None:
        headers["range"] = f"bytes={first}-{first + most - 1}"
    with hub_errors(what):
        for number in range(TRIES):
            try:
                _await_quota(what)
                content, answer = _once(url, headers, first, most)
                _quota.free_at = time.monotonic() + (_reset(answer) or 0.0)
                if exactly and len(content) != most:
                    raise httpx.RemoteProtocolError(f"{len(content):,} bytes came of {most:,}")
                return content, answer
            except (_Busy, httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
                _wait(error, number, what)
    raise AssertionError("the last try returns or raises")


def _once(url: str, headers: Mapping[str, str], first: int | None, most: int) -> tuple[bytes, Mapping[str, str]]:
    with get_session().stream("GET", url, headers=dict(headers), timeout=_TIMEOUT) as response:
        if response.status_code in _AGAIN:
            raise _Busy(response.status_code, _asked_to_wait(response.headers))
        if response.status_code >= 400:
            # The error's sentence is in the body.
            response.read()
        hf_raise_for_status(response)
        content, began = bytearray(), time.monotonic()
        # A server that ignores a range sends all from the first byte.
        skip = first if first and response.status_code == 200 else 0
        # In pieces as they come, for a large one could take its time.
        for chunk in response.iter_bytes():
            content += chunk
            if time.monotonic() - began > _GRACE + len(content) / _LEAST_RATE:
                raise httpx.ReadTimeout("it sends next to nothing")
            if len(content) >= skip + most + 1:
                break
        if first is None and len(content) > most:
            raise WorldError(f"{url} has more than the {most:,} bytes that are read: it is not what it should be")
        return bytes(content[skip : skip + most]), _headers(response)


def _headers(response: httpx.Response) -> dict[str, str]:
    """The headers of an answer, with what was said of the file before a redirect to where it lies."""
    linked = [each.headers[LINKED] for each in (*response.history, response) if LINKED in each.headers]
    return dict(response.headers) | ({LINKED: linked[0]} if linked else {})


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a busy Hub asks for."""
    found = re.fullmatch(r"\d+(\.\d+)?", headers.get("retry-after", "").strip(), re.ASCII)
    if found:
        return float(found[0])
    return _reset(headers)


def _reset(headers: Mapping[str, str]) -> float | None:
    """The seconds until more requests are allowed, where none is now."""
    # ratelimit: "api";r=0;t=55
    reset = re.search(r";\s*r=0;\s*t=(\d+)", headers.get("ratelimit", ""), re.ASCII)
    return float(reset[1]) if reset else None


def _require_patience(seconds: float | None, what: str) -> None:
    if seconds is not None and seconds > _PATIENCE.get():
        raise WorldError(f"the Hub at {hub()} asks to wait for {seconds:.0f} s before {what}: try again then")


def _await_quota(what: str) -> None:
    """Wait until the Hub, which has said that no more requests are allowed for some time, allows one."""
    seconds = _quota.free_at - time.monotonic()
    if seconds > 0:
        _require_patience(seconds, what)
        time.sleep(seconds)
        _quota.free_at = 0.0


def _wait(error: Exception, number: int, what: str) -> None:
    """Wait before the next try, or say that there is none."""
    asked = error.seconds if isinstance(error, _Busy) else None
    _require_patience(asked, what)
    # Whoever was silent for so long will be again.
    if number == TRIES - 1 or isinstance(error, httpx.TimeoutException):
        if isinstance(error, _Busy):
            raise WorldError(
                f"the Hub at {hub()} has answered {what} with {error} {TRIES} times: try again later"
            ) from None
        raise WorldError(
            f"the Hub at {hub()} does not answer {what} ({_reason(error)}): check the network, and HF_ENDPOINT if it "
            "is set"
        ) from None
    time.sleep(_FIRST_WAIT * 2**number if asked is None else asked)


@contextmanager
def hub_errors(what: str, right: str = "read it") -> Iterator[None]:
    """Turns what the client raises into kzoo's sentences; ``right`` is what a token must allow.

    Raises:
        InputError: there is no such thing, or one may not see it.
        WorldError: the Hub or the network fails.
    """
    try:
        yield
    except KzooError:
        raise
    except OfflineModeIsEnabled:
        raise InputError(f"{what} needs the Hub, and HF_HUB_OFFLINE is set: unset it") from None
    except GatedRepoError:
        raise InputError(
            f"{what} is gated: accept its terms on its page at {hub()}, and log in (hf auth login, or HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{what}: there is no such revision; expected a branch, a tag or a commit") from None
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401 and get_token() is not None:
            raise InputError(
                f"{what}: the Hub does not accept the token, or hides it from strangers: check the name, and log in "
                "(hf auth login, or HF_TOKEN)"
            ) from None
        raise Missing(
            f"{what} is not on the Hub at {hub()}, or is private: check the name, or log in (hf auth login, HF_TOKEN)"
        ) from None
    except DisabledRepoError:
        raise InputError(f"{what} has been disabled by the Hub: choose another model") from None
    except EntryNotFoundError:
        raise InputError(f"{what} is not on the Hub at {hub()}: check the name of the file") from None
    except HFValidationError as error:
        raise InputError(f"{what} is no name of a repository ({_reason(error)}): expected user/name") from None
    except HfHubHTTPError as error:
        raise _http_error(error, what, right) from None
    except (json.JSONDecodeError, KeyError):
        # The client takes an answer apart that is none.
        raise WorldError(f"the Hub at {hub()} answered nonsense for {what}: is it a Hub? Try again") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WorldError(
            f"the Hub at {hub()} does not answer {what} ({_reason(error)}): check the network, and HF_ENDPOINT if it "
            "is set"
        ) from None


def _http_error(error: HfHubHTTPError, what: str, right: str) -> KzooError:
    status = error.response.status_code
    if status in (401, 403):
        return InputError(
            f"the Hub at {hub()} refuses {what} (status {status}): log in with a token that may {right} (hf auth login, "
            "or HF_TOKEN)"
        )
    if status == 404:
        return InputError(f"{what} is not on the Hub at {hub()}: check the name")
    return WorldError(f"the Hub at {hub()} answered {what} with status {status} ({_reason(error)}): try again later")


def _reason(error: Exception) -> str:
    """An error in one line, without any token."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _TOKEN.sub("(token)", text)[:160]

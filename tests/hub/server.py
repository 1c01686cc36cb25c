"""A Hub on 127.0.0.1 that the unmodified clients talk to."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import traceback
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from tests.hub.faults import Fault, Rule, Rules
from tests.hub.log import Entry, Log
from tests.hub.messages import Refusal, Request, Response
from tests.hub.routes import answer
from tests.hub.storage import Blob, Commit, File, Repo, Store, User
from tests.hub.xet import Xet

Files = Mapping[str, bytes | str | Path | File | None]
WRITE, READ, STRANGER = "hf_write", "hf_read", "hf_stranger"
# Bodies above this are put into a file.
LARGE_BODY = 2**20


class Hub:
    """The server, its storage, its log and its faults.

    Three tokens are known from the start: `hf_write` and `hf_read` of the user "tester", and `hf_stranger` of the user
    "stranger", who owns nothing.
    """

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(folder)
        self.log = Log()
        self.faults = Rules()
        self.xet = Xet(folder / "xet", self)
        # Large files come from another origin by a redirect, as on the real Hub.
        self.cdn = False
        # Files in git come from /api/resolve-cache by a redirect, as on the real Hub.
        self.resolve_cache = False
        # Entries of a page of models, of a tree, of commits.
        self.page = 1000
        self.add_user("tester", WRITE)
        self.add_user("tester", READ, role="read")
        self.add_user("stranger", STRANGER)
        self._server = _Server(("127.0.0.1", port), self)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def other_url(self) -> str:
        """The same server as another origin: clients must not send tokens there."""
        return f"http://localhost:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on connections are refused, and those that are open break."""
        self._server.shutdown()
        self._server.server_close()
        self._server.break_connections()

    # Seeding.

    def add_user(self, name: str, token: str, *, role: str = "write", organizations: tuple[str, ...] = ()) -> User:
        """Somebody with a token; the role is "write" or "read"."""
        user = self.store.users[token] = User(name, role, organizations)
        return user

    def add_repo(self, name: str, files: Files | None = None, *, title: str = "Add files", **settings: Any) -> str:
        """A repository with one commit; returns its sha. The settings are the fields of `storage.Repo`."""
        return self.store.commit(self.store.add(name, **settings), files or {}, title=title).oid

    def commit(self, name: str, files: Files, *, revision: str = "main", **words: Any) -> str:
        """One more commit to a branch, which is made where it is missing; a file that is None goes. Returns its sha."""
        repo = self.repo(name)
        if revision not in repo.branches and not revision.startswith("refs/pr/"):
            repo.branches[revision] = repo.branches["main"]
        return self.store.commit(repo, files, revision=revision, **words).oid

    def tag(self, name: str, tag: str, revision: str = "main") -> None:
        """Let a tag point to a revision."""
        commit = self.repo(name).resolve(revision)
        assert commit, revision
        self.repo(name).tag_refs[tag] = commit.oid

    def repo(self, name: str) -> Repo:
        """A repository, to look at or to change: `hub.repo(name).private = True`."""
        return self.store.repos[name]

    def head(self, name: str, revision: str = "main") -> Commit:
        """The commit that a revision names."""
        commit = self.repo(name).resolve(revision)
        assert commit, revision
        return commit

    def read(self, name: str, path: str, revision: str = "main") -> bytes:
        """The bytes of a file."""
        return self.head(name, revision).files[path].read()

    def store_in_xet(self, name: str) -> None:
        """Let the large files of the latest commit be downloaded through xet, as uploaded ones are."""
        self.xet.add([blob for blob in self.head(name).files.values() if blob.lfs])

    def rename(self, old: str, new: str) -> None:
        """A repository has another name; the old one redirects."""
        with self.store.lock:
            repo = self.store.repos.pop(old)
            repo.id = new
            self.store.repos[new] = repo
            earlier = [name for name, target in self.store.renamed.items() if target == old]
            self.store.renamed |= dict.fromkeys([*earlier, old], new)
            self.store.renamed.pop(new, None)

    def delete(self, name: str) -> None:
        """A repository is gone."""
        del self.store.repos[name]

    def disable(self, name: str) -> None:
        """A repository was taken down by the Hub."""
        self.repo(name).disabled = True

    def keep(self, source: bytes | Path, sha256: str) -> Blob:
        """Put uploaded bytes into the large file storage."""
        place = self.folder / "lfs" / sha256
        place.parent.mkdir(exist_ok=True)
        if isinstance(source, Path):
            shutil.move(source, place)
        else:
            place.write_bytes(source)
        blob = self.store.objects[sha256] = self.store.blob("", File(place, lfs=True, sha256=sha256))
        return blob

    # Faults.

    def fail(
        self, fault: Fault, *, method: str | None = None, path: str = "*", nth: int = 1, times: int | None = 1
    ) -> Rule:
        """Let something go wrong, see tests.hub.faults.

        It happens at the `nth` request with this method and a path like this pattern, counted from now, and `times`
        times in all; None is for ever. Several faults may hold at once.
        """
        return self.faults.add(Rule(fault, method, path, nth, times))

    def heal(self) -> None:
        """No more faults."""
        self.faults.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: Hub) -> None:
        self.hub = hub
        self.open_sockets: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def break_connections(self) -> None:
        """Clients keep connections open; nothing answers there any more."""
        for each in list(self.open_sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no news."""


def _rates(path: str) -> dict[str, str]:
    """What every answer of the Hub says about its limits: there is always enough left."""
    kind, quota = ("resolvers", 3000) if "/resolve" in path else ("api", 500)
    return {
        "RateLimit": f'"{kind}";r={quota - 1};t=172',
        "RateLimit-Policy": f'"fixed window";"{kind}";q={quota};w=300',
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave at once; without this every answer waits 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open_sockets.add(self.connection)

    def finish(self) -> None:
        self.server.open_sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Requests are in the log."""

    def do_GET(self) -> None:
        hub = self.server.hub
        path, _, query = self.path.partition("?")
        headers = {name.lower(): text for name, text in self.headers.items()}
        entry = Entry(
            self.command,
            unquote(path),
            query,
            headers.get("host", ""),
            headers.get("range"),
            "authorization" in headers,
        )
        hub.log.add(entry)
        request = self._read(headers, entry)
        try:
            response = hub.faults.answer(request, lambda: answer(hub, request))
        except Exception as mistake:
            traceback.print_exc()
            response = Refusal(500, f"The double failed: {mistake!r}").response()
        finally:
            if request.body_file:
                request.body_file.unlink(missing_ok=True)
        self._send(response, entry)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _read(self, headers: dict[str, str], entry: Entry) -> Request:
        """The request with its body, whether that has a length or comes in chunks."""
        request = Request(self.command, self.path, headers)
        take = self._chunked() if "chunked" in headers.get("transfer-encoding", "") else self._sized(headers)
        with tempfile.SpooledTemporaryFile(max_size=LARGE_BODY, dir=self.server.hub.folder) as spool:
            for chunk in take:
                spool.write(chunk)
                entry.received += len(chunk)
            spool.seek(0)
            if self.command == "PUT" and entry.received > LARGE_BODY:
                with tempfile.NamedTemporaryFile(dir=self.server.hub.folder, delete=False) as file:
                    shutil.copyfileobj(spool, file)
                request.body_file = Path(file.name)
            else:
                request.body = spool.read()
        return request

    def _sized(self, headers: dict[str, str]) -> Any:
        left = int(headers.get("content-length") or 0)
        while left > 0 and (chunk := self.rfile.read(min(2**18, left))):
            left -= len(chunk)
            yield chunk

    def _chunked(self) -> Any:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _send(self, response: Response, entry: Entry) -> None:
        entry.status = response.status
        self.send_response(response.status)
        headers = {"X-Request-Id": f"Root=1-{len(self.server.hub.log):08x}"} | _rates(self.path) | response.headers
        headers.setdefault("Content-Length", str(response.body.length))
        for name, text in headers.items():
            if text:
                self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        left = response.body.length if response.cut is None else response.cut
        for chunk in response.body.chunks():
            # Counted before it goes: a client that has everything finds the log complete.
            chunk = chunk[:left]
            left -= len(chunk)
            entry.sent += len(chunk)
            self.wfile.write(chunk)
            if not left:
                break
        if response.cut is not None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

"""Put a page on the Hub: one commit, whole or not at all, and none where nothing has changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, get_token, httpx

import kzoo
from kzoo.errors import InputError, KzooError, WorldError
from kzoo.hashing import weights_sha256
from kzoo.hub.client import TRIES, Missing, get_json, hub, hub_errors
from kzoo.hub.names import PREFIX, RepositoryName
from kzoo.hub.repositories import RemoteFile, Repository, git_oid, read_repository
from kzoo.publish.page import Page, is_ours

_Result = TypeVar("_Result")
_FIRST_WAIT = 0.5
_AGAIN = (408, 429, 500, 502, 503, 504)
#: The parent commit is not the branch's last one.
_CONFLICT = (409, 412)
_TITLE = "Publish with kzoo"
_RIGHT = "write there, or propose it with --pr where you may not"


@dataclass(frozen=True)
class Options:
    """How to publish: seen by all, as a pull request, without asking before files are replaced."""

    public: bool = False
    pull_request: bool = False
    yes: bool = False


@dataclass(frozen=True)
class Published:
    """Where a page is now: its address, commit, and pull request; whether anything was sent, and who sees it."""

    repository: str
    url: str
    commit: str
    changed: bool
    public: bool
    pull_request: str | None = None


def publish(page: Page, options: Options, confirm: Callable[[str], bool]) -> Published:
    """Put a page into its repository, which is made, private, where there is none.

    ``confirm`` is asked before files are replaced. What fails or is interrupted leaves nothing that anybody sees, and can
    be done again; the answer to a commit that is lost on the way is looked for.

    Raises:
        InputError: nobody is logged in, may not write there, or the files that are there shall stay.
        WorldError: the Hub fails, or somebody else has changed the repository meanwhile.
    """
    name = page.facts.repository
    assert name is not None  # whoever publishes says where
    _require_login()
    disable_progress_bars()
    before = _look(name)
    if before is None:
        if options.pull_request:
            raise InputError(f"{name} is not on the Hub, so nothing can be proposed to it: leave out --pr")
        _again(lambda: _api().create_repo(name, private=True, exist_ok=True), f"the new repository {name}")
        before = read_repository(RepositoryName(name))
    proposed = _open_request(name, page) if options.pull_request else None
    if proposed is not None:
        return _done(before, options, *proposed, changed=False)
    if _same(page, before):
        return _done(before, options, before.commit, None, changed=False)
    theirs = sorted(file for file in before.files if file != ".gitattributes")
    if theirs and not (options.yes or options.pull_request) and not confirm(_question(name, page, theirs)):
        raise InputError(f"{name} stays as it is: give another --repo, or --pr to propose the change")
    commit, request = _commit(page, before, options)
    return _done(before, options, commit, request, changed=True)


def _require_login() -> None:
    if get_token() is None:
        raise InputError("nobody is logged in: log in with a token that may write (hf auth login, or HF_TOKEN)")
    get_json("/api/whoami-v2", "who is logged in")


def _api() -> HfApi:
    return HfApi(library_name="kzoo", library_version=kzoo.__version__)


def _look(name: str) -> Repository | None:
    try:
        return read_repository(RepositoryName(name))
    except Missing:
        return None


def _same(page: Page, there: Repository) -> bool:
    """Whether a repository has the files of a page, and no others that kzoo has once written."""
    known = {file for file in there.files if is_ours(file)}
    return known == page.files.keys() and all(
        _is_file(content, there.files[file]) for file, content in page.files.items()
    )


def _is_file(content: Path | bytes, there: RemoteFile) -> bool:
    if there.sha256 is not None:
        sha256 = weights_sha256([content]) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        return sha256 == there.sha256
    return git_oid(content.read_bytes() if isinstance(content, Path) else content) == there.oid


def _question(name: str, page: Page, theirs: list[str]) -> str:
    replaced = [file for file in theirs if is_ours(file)]
    others = len(theirs) - len(replaced)
    what = f"replaces {', '.join(replaced)}" if replaced else f"adds {len(page.files)} files"
    return f"{name} exists: this {what}" + (f" beside {others} other files" if others else "")


def _commit(page: Page, before: Repository, options: Options) -> tuple[str, str | None]:
    """Send the page in one commit; gives it, and the address of the pull request."""
    what = f"the files of {before.id}"
    for number in range(TRIES):
        try:
            with hub_errors(what, _RIGHT):
                return _send(page, before, options)
        except WorldError as error:
            # The commit may be there although the answer was lost.
            now = read_repository(RepositoryName(before.id))
            if not options.pull_request and _same(page, now):
                return now.commit, None
            if options.pull_request and (request := _open_request(before.id, page)) is not None:
                return request
            if now.commit != before.commit:
                raise WorldError(
                    f"somebody else has changed {before.id} meanwhile ({before.commit[:12]} -> {now.commit[:12]}): look at it, "
                    "then run this again"
                ) from None
            if number == TRIES - 1:
                raise WorldError(f"{error}; nothing of this is to be seen there") from None
            time.sleep(_FIRST_WAIT * 2**number)
    raise AssertionError("the last try returns or raises")


def _send(page: Page, before: Repository, options: Options) -> tuple[str, str | None]:
    # The client changes the operations that it is given.
    added = [CommitOperationAdd(name, content) for name, content in page.files.items()]
    _require_unchanged(page, added)
    gone = [CommitOperationDelete(name) for name in before.files if is_ours(name) and name not in page.files]
    try:
        info: CommitInfo = _api().create_commit(
            before.id,
            [*added, *gone],
            commit_message=_TITLE,
            commit_description=f"kzoo {kzoo.__version__}: {page.facts.method} for {page.facts.network}",
            parent_commit=before.commit,
            create_pr=options.pull_request,
        )
    except HfHubHTTPError as error:
        if error.response.status_code in (*_AGAIN, *_CONFLICT):
            raise WorldError(f"the Hub at {hub()} answered with status {error.response.status_code}") from None
        raise
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        # What uploads says what went wrong in the error behind.
        behind = error.__cause__ if isinstance(error.__cause__, Exception) else error
        if isinstance(behind, HfHubHTTPError) and behind.response.status_code not in _AGAIN:
            raise behind from None
        reason = " ".join(str(behind).split())
        raise WorldError(f"the files cannot be sent to {hub()} ({_without_token(reason):.200})") from None
    return info.oid, info.pr_url


def _require_unchanged(page: Page, added: list[CommitOperationAdd]) -> None:
    """Refuse large files that are no longer those that the card describes."""
    described = {file.name: file.sha256 for file in page.facts.files}
    for operation in added:
        name = operation.path_in_repo
        if isinstance(page.files[name], Path) and operation.upload_info.sha256.hex() != described[name]:
            raise InputError(f"{name} has changed since its card was written: run this again when nobody writes it")


def _without_token(text: str) -> str:
    token = get_token()
    return text.replace(token, "(token)") if token else text


def _again(do: Callable[[], _Result], what: str) -> _Result:
    """Do something that may be done twice, and do it again where the Hub is busy."""
    for number in range(TRIES):
        try:
            with hub_errors(what, _RIGHT):
                return do()
        except WorldError:
            if number == TRIES - 1:
                raise
            time.sleep(_FIRST_WAIT * 2**number)
    raise AssertionError("the last try returns or raises")


def _open_request(name: str, page: Page) -> tuple[str, str] | None:
    """The commit and the address of an open pull request that has the page already."""
    listed, _ = get_json(
        f"/api/models/{name}/discussions?type=pull_request&status=open", f"the pull requests of {name}"
    )
    found = listed.get("discussions", ()) if isinstance(listed, dict) else ()
    for request in (each for each in found if isinstance(each, dict) and each.get("title") == _TITLE):
        try:
            there = read_repository(RepositoryName(name, f"refs/pr/{request.get('num')}"))
        except KzooError:
            continue
        if _same(page, there):
            return there.commit, f"{hub()}/{name}/discussions/{request.get('num')}"
    return None


def _done(before: Repository, options: Options, commit: str, request: str | None, changed: bool) -> Published:
    """What was published; only now, that all is there, may others see it."""
    name = before.id
    public = not before.private
    if options.public and before.private and request is None:
        _again(lambda: _api().update_repo_settings(name, private=False), f"the visibility of {name}")
        public = True
    return Published(name, f"{hub()}/{name}", commit, changed, public, request)


def found_at(published: Published) -> dict[str, Any]:
    """Where a page is, for programs."""
    return {
        "repository": published.repository,
        "url": published.url,
        "commit": published.commit,
        "changed": published.changed,
        "public": published.public,
        "pull_request": published.pull_request,
        "rebuild": f"kzoo rebuild {published.repository}@{published.commit}",
        "source": f"{PREFIX}{published.repository}@{published.commit}",
    }

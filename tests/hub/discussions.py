"""Discussions and pull requests, as far as opening, listing, closing and merging go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hub import access, git
from tests.hub.messages import Refusal, Request, Response, as_json
from tests.hub.storage import Repo, User

if TYPE_CHECKING:
    from tests.hub.server import Hub


def open_one(hub: Hub, repo: Repo, user: User, title: str, text: str, *, pull: bool, status: str) -> int:
    """A new discussion or pull request; returns its number."""
    number = len(repo.discussions) + 1
    repo.discussions[number] = {
        "num": number,
        "title": title,
        "status": status,
        "author": {"name": user.name},
        "isPullRequest": pull,
        "createdAt": git.date_text(hub.store.tick()),
        "repo": {"name": repo.id, "type": "model"},
        "events": [],
        "merged": None,
    }
    _event(hub, repo, number, user, "comment", _comment(hub, user, text))
    return number


def _comment(hub: Hub, user: User, text: str) -> dict[str, Any]:
    now = git.date_text(hub.store.tick())
    latest = {"raw": text, "html": f"<p>{text}</p>", "updatedAt": now, "author": {"name": user.name}}
    return {"edited": False, "hidden": False, "numEdits": 0, "latest": latest, "history": []}


def _event(hub: Hub, repo: Repo, number: int, user: User, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    events = repo.discussions[number]["events"]
    event = {
        "id": f"{number:012x}{len(events):012x}",
        "author": {"name": user.name},
        "createdAt": git.date_text(hub.store.tick()),
        "type": kind,
        "data": data,
    }
    events.append(event)
    return event


def _one(repo: Repo, number: str) -> dict[str, Any]:
    found = repo.discussions.get(int(number)) if number.isdigit() else None
    if found is None:
        raise Refusal(404, "Discussion not found")
    return found


def listing(hub: Hub, request: Request, repo: Repo) -> Response:
    """Discussions, ten a page."""
    found = list(repo.discussions.values())[::-1]
    if kind := request.one("type"):
        found = [each for each in found if kind == "all" or each["isPullRequest"] == (kind == "pull_request")]
    if status := request.one("status"):
        open_ones = {"open", "draft"}
        found = [each for each in found if status == "all" or (each["status"] in open_ones) == (status == "open")]
    if author := request.one("author"):
        found = [each for each in found if each["author"]["name"] == author]
    start = 10 * int(request.one("p") or 0)
    return as_json({"discussions": found[start : start + 10], "count": len(found), "start": start})


def create(hub: Hub, request: Request, repo: Repo) -> Response:
    """A new discussion, or a pull request that is a draft at the head of main."""
    user = access.somebody(request.user)
    form = request.json()
    pull = bool(form.get("pullRequest"))
    with hub.store.lock:
        number = open_one(
            hub, repo, user, form["title"], form.get("description", ""), pull=pull, status="draft" if pull else "open"
        )
        if pull:
            repo.pulls[number] = repo.branches["main"]
    return as_json({"num": number, "url": f"{hub.url}/{repo.id}/discussions/{number}", "pullRequest": pull})


def details(hub: Hub, request: Request, repo: Repo, number: str) -> Response:
    """A discussion with its events."""
    found = _one(repo, number)
    answer = dict(found)
    if found["isPullRequest"]:
        answer["changes"] = {"base": "refs/heads/main", "mergeCommitId": found["merged"]}
        answer["filesWithConflicts"] = []
        answer["diff"] = ""
    return as_json(answer)


def change(hub: Hub, request: Request, repo: Repo, number: str, what: str) -> Response:
    """Comment, rename, close or open again, or merge."""
    found = _one(repo, number)
    user = access.somebody(request.user)
    form = request.json() or {}
    if what == "comment":
        return as_json(
            {"newMessage": _event(hub, repo, int(number), user, "comment", _comment(hub, user, form["comment"]))}
        )
    if not user.owns(repo.owner) and user.name != found["author"]["name"]:
        raise Refusal(403, "Forbidden")
    if what == "title":
        old, found["title"] = found["title"], form["title"]
        data = {"from": old, "to": form["title"]}
        return as_json({"newTitle": _event(hub, repo, int(number), user, "title-change", data)})
    if what == "status":
        found["status"] = form["status"]
        return as_json({"newStatus": _event(hub, repo, int(number), user, "status-change", {"status": form["status"]})})
    if what == "merge":
        return _merge(hub, repo, found, access.writer(user, repo.owner))
    raise Refusal(404, "Not found")


def _merge(hub: Hub, repo: Repo, found: dict[str, Any], user: User) -> Response:
    """The files that the pull request changed go into main; nothing is merged within a file."""
    if not found["isPullRequest"] or found["status"] in {"merged", "closed", "draft"}:
        raise Refusal(
            400, f"This pull request is {found['status']}" if found["isPullRequest"] else "Not a pull request"
        )
    with hub.store.lock:
        head, main = repo.commits[repo.pulls[found["num"]]], repo.commits[repo.branches["main"]]
        ours = {commit.oid for commit in repo.history(main)}
        base = next((commit for commit in repo.history(head) if commit.oid in ours), head)
        changed = {path: blob for path, blob in head.files.items() if base.files.get(path) != blob}
        gone = tuple(path for path in base.files if path not in head.files)
        title = f"{found['title']} (#{found['num']})"
        found["merged"] = hub.store.commit(repo, changed, title=title, author=user.name, delete=gone).oid
        found["status"] = "merged"
        _event(hub, repo, found["num"], user, "status-change", {"status": "merged"})
    return as_json({"ok": True})

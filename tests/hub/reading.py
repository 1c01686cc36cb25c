"""The routes that only read: models, trees, refs, commits, files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode

from tests.hub import access, answers
from tests.hub.messages import Refusal, Request, Response, as_json, ranged, redirect
from tests.hub.storage import Blob, Commit, Repo

if TYPE_CHECKING:
    from tests.hub.server import Hub


def whoami(hub: Hub, request: Request) -> Response:
    """Whose token this is."""
    user = access.somebody(request.user)
    organizations = [{"name": name, "fullname": name, "isEnterprise": False} for name in user.organizations]
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
    answer = {
        "type": "user",
        "id": user.name.encode().hex()[:24].rjust(24, "0"),
        "name": user.name,
        "fullname": user.name,
    }
    return as_json({**answer, "email": None, "isPro": False, "orgs": organizations, "auth": token})


def info(hub: Hub, request: Request, repo: Repo, revision: str = "main") -> Response:
    """What there is to know about a model at a revision."""
    commit = access.revision(repo, revision)
    names = request.query.get("expand", [])
    if unknown := set(names) - answers.EXPANDABLE:
        raise Refusal(400, f'"expand" must be one of {sorted(answers.EXPANDABLE)}: {sorted(unknown)}')
    answer = answers.model_info(repo, commit, request.flag("blobs"))
    if names:
        return as_json(answers.expanded(answer, names))
    # These come only when they are named.
    answer = {name: value for name, value in answer.items() if name not in answers.NAMED_ONLY}
    if request.flag("securityStatus"):
        answer["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    return as_json(answer)


def models(hub: Hub, request: Request) -> Response:
    """The list of models, page by page."""
    with hub.store.lock:
        visible = [repo for repo in hub.store.repos.values() if repo.branches.get("main")]
        visible = [repo for repo in visible if not repo.private or (request.user and request.user.owns(repo.owner))]
        rows = [answers.model_info(repo, repo.commits[repo.branches["main"]]) for repo in visible]
    rows = [row for row in rows if _wanted(row, request)]
    key = request.one("sort", "trendingScore")
    rows.sort(key=lambda row: row.get(key) or 0, reverse=True)
    size = min(int(request.one("limit") or hub.page), hub.page)
    page, headers = _page(hub, request, rows, size)
    if names := request.query.get("expand", []):
        return as_json([answers.expanded(row, names) for row in page], Link=headers)
    keep = set(answers.LISTED_IN_FULL if request.flag("full") else answers.LISTED)
    keep |= {name for name in ("config", "cardData") if request.flag(name)}
    return as_json([{name: value for name, value in row.items() if name in keep} for row in page], Link=headers)


def _wanted(row: dict[str, Any], request: Request) -> bool:
    tags = {tag for text in request.query.get("filter", []) for tag in text.split(",")}
    if not tags <= {*row["tags"], row.get("library_name"), row.get("pipeline_tag")}:
        return False
    if request.one("author") not in ("", row["author"]):
        return False
    if request.one("pipeline_tag") not in ("", row.get("pipeline_tag")):
        return False
    if request.one("gated") and request.flag("gated") != bool(row["gated"]):
        return False
    return request.one("search").lower() in row["id"].lower() and _within(row, request.one("num_parameters"))


def _within(row: dict[str, Any], bounds: str) -> bool:
    """Whether the number of parameters is between bounds as in `min:1M,max:30M`."""
    if not bounds:
        return True
    total = row.get("safetensors", {}).get("total")
    factors = {"K": 1e3, "M": 1e6, "B": 1e9}
    for bound in bounds.split(","):
        side, _, text = bound.partition(":")
        limit = float(text.rstrip("KMB")) * factors.get(text[-1:], 1)
        if total is None or (total < limit if side == "min" else total > limit):
            return False
    return True


def _page(hub: Hub, request: Request, rows: list[Any], size: int) -> tuple[list[Any], str]:
    """A page, and the Link header that names the next; it is empty after the last."""
    start = int(request.one("cursor") or 0)
    if start + size >= len(rows):
        return rows[start:], ""
    query = parse_qs(request.target.partition("?")[2]) | {"cursor": [str(start + size)]}
    return rows[start : start + size], f'<{hub.url}{request.raw_path}?{urlencode(query, doseq=True)}>; rel="next"'


def tree(hub: Hub, request: Request, repo: Repo, revision: str, *folder: str) -> Response:
    """The files and folders of a revision, or of one folder of it."""
    commit = access.revision(repo, revision)
    inside = "/".join(folder)
    if inside and inside not in commit.folders:
        raise Refusal(404, f"{inside} does not exist on {revision}", "EntryNotFound")
    start = f"{inside}/" if inside else ""
    found = [path for path in [*commit.folders, *commit.files] if path and path.startswith(start) and path != inside]
    if not request.flag("recursive"):
        found = [path for path in found if "/" not in path[len(start) :]]
    expand = request.flag("expand")
    size = min(int(request.one("limit") or hub.page), hub.page, 50 if expand else 1000)
    page, link = _page(hub, request, found, size)
    return as_json([_entry(hub, repo, commit, path, expand) for path in page], Link=link)


def _entry(hub: Hub, repo: Repo, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    blob = commit.files.get(path)
    answer = answers.tree_entry(path, commit, hub.xet.hash_of(blob) if blob else None)
    if expand:
        changed = commit
        for older in repo.history(commit)[1:]:
            if older.files.get(path) != blob or older.folders.get(path) != commit.folders.get(path):
                break
            changed = older
        answer["lastCommit"] = answers.last_commit(changed)
        if blob is not None:
            answer["securityFileStatus"] = answers.SAFE
    return answer


def paths_info(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """The entries of some paths; those that do not exist are left out."""
    commit = access.revision(repo, revision)
    if "json" in request.headers.get("content-type", ""):
        form = request.json()
        paths, expand = form["paths"], bool(form.get("expand"))
    else:
        fields = parse_qs(request.body.decode())
        paths, expand = fields.get("paths", []), fields.get("expand", [""])[0].lower() == "true"
    known = [path for path in paths if path in commit.files or path in commit.folders]
    return as_json([_entry(hub, repo, commit, path, expand) for path in known])


def refs(hub: Hub, request: Request, repo: Repo) -> Response:
    """Branches, tags and pull requests."""
    return as_json(answers.refs(repo, request.flag("include_prs")))


def commits(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """The history of a revision, page by page."""
    history = repo.history(access.revision(repo, revision))
    page, link = _page(hub, request, history, min(hub.page, 50))
    formatted = "formatted" in request.query.get("expand", [])
    return as_json([answers.commit_entry(each, formatted) for each in page], Link=link, X_Total_Count=str(len(history)))


def auth_check(hub: Hub, request: Request, repo: Repo, *write: str) -> Response:
    """Whether somebody may read, or write."""
    access.files_of(repo, request.user)
    if write:
        access.writer(request.user, repo.owner)
    return as_json({})


def safetensors_metadata(hub: Hub, request: Request, repo: Repo, *path: str) -> Response:
    """The index and the headers of all shards at once."""
    access.files_of(repo, request.user)
    commit = access.revision(repo, "main")
    index = commit.files.get("/".join(path))
    if index is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    try:
        content = Request("GET", "", {}, index.read(2**24)).json()
        shards = sorted(set(content.pop("weight_map").values()))
        headers = {shard: answers.tensors_header(commit.files[shard]) for shard in shards}
    except (ValueError, KeyError, AttributeError) as error:
        raise Refusal(400, f"Malformed safetensors index: {error}") from error
    return as_json({"index": content, "headers": headers})


def resolve(hub: Hub, request: Request, repo: Repo, revision: str, path: str, *, cached: bool = False) -> Response:
    """A file, or where it is; `cached` is the second address of files in git, see `Hub.resolve_cache`."""
    access.files_of(repo, request.user)
    commit = access.revision(repo, revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    blob = commit.files.get(path)
    if blob is None:
        answer = Refusal(404, "Entry not found", "EntryNotFound").response()
        answer.headers |= headers
        return answer
    if blob.lfs:
        headers |= _linked(hub, repo, commit, blob)
        return _large(hub, request, blob, path, headers)
    # The real Hub sends private, gated and empty files from where they were asked for.
    if hub.resolve_cache and not cached and blob.length and not (repo.private or repo.gated):
        there = f"/api/resolve-cache/models/{repo.id}/{commit.oid}/{quote(path)}"
        query = urlencode({request.raw_path: "", "etag": f'"{blob.oid}"'})
        moved = redirect(f"{there}?{query}")
        moved.headers |= headers
        return moved
    headers |= {"ETag": f'"{blob.oid}"', "Content-Type": "text/plain; charset=utf-8"}
    return ranged(blob.source, request.headers.get("range"), headers)


def _linked(hub: Hub, repo: Repo, commit: Commit, blob: Blob) -> dict[str, str]:
    """What headers say about a large file."""
    headers = {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.sha256}"', "ETag": f'"{blob.sha256}"'}
    if xet := hub.xet.hash_of(blob):
        headers["X-Xet-Hash"] = xet
        token = f"{hub.url}/api/models/{repo.id}/xet-read-token/{commit.oid}"
        headers["Link"] = f'<{token}>; rel="xet-auth", <{hub.url}/cas/{xet}>; rel="xet-reconstruction-info"'
    return headers


def _large(hub: Hub, request: Request, blob: Blob, path: str, headers: dict[str, str]) -> Response:
    if hub.cdn:
        hub.store.signed.append(blob)
        moved = redirect(f"{hub.other_url}/_cdn/{len(hub.store.signed) - 1}/{blob.sha256}?X-Amz-Signature=f00d", 302)
        moved.headers |= headers
        return moved
    headers |= {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path)}; filename=\"{quote(path)}\";",
    }
    return ranged(blob.source, request.headers.get("range"), headers)


def cdn(hub: Hub, request: Request, number: str, sha256: str) -> Response:
    """A large file from another origin, which refuses tokens: they must never get there."""
    if "authorization" in request.headers:
        raise Refusal(400, "Only one auth mechanism allowed: a token was sent to another origin")
    blob = hub.store.signed[int(number)]
    # Looks like a sha256 and is none, as there: what counts is the X-Linked-Etag of the redirect.
    other = hashlib.sha256(sha256.encode()).hexdigest()
    headers = {"ETag": f'"{other}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    return ranged(blob.source, request.headers.get("range"), headers)

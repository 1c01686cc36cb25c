"""The routes that change something: repositories, commits, branches and tags, large files."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tests.hub import access, answers, discussions
from tests.hub.messages import Refusal, Request, Response, as_json
from tests.hub.storage import GITATTRIBUTES, LARGE_SIZE, Blob, Commit, File, Repo, User, digest, is_large

if TYPE_CHECKING:
    from tests.hub.server import Hub

MOVED = "A commit has happened since. Please refresh and try again."


def _name(request: Request, form: dict[str, Any]) -> str:
    user = access.somebody(request.user)
    return f"{form.get('organization') or user.name}/{form['name']}"


def create(hub: Hub, request: Request) -> Response:
    """A new repository with its first commit, which holds .gitattributes."""
    form = request.json()
    name = _name(request, form)
    access.writer(request.user, name.partition("/")[0])
    answer = {"url": f"{hub.url}/{name}", "name": name, "id": name}
    if name in hub.store.repos:
        return as_json({"error": "You already created this model repo", **answer}, 409)
    if form.get("type", "model") != "model":
        raise Refusal(400, "This Hub has models only")
    repo = hub.store.add(name, private=form.get("visibility") == "private" or bool(form.get("private")))
    hub.store.commit(repo, {".gitattributes": GITATTRIBUTES}, title="initial commit", author="system")
    return as_json(answer)


def delete(hub: Hub, request: Request) -> Response:
    """A repository is gone."""
    name = _name(request, request.json())
    access.repository(hub.store, name, request.user)
    access.writer(request.user, name.partition("/")[0])
    hub.delete(name)
    return as_json({"deleted": True})


def move(hub: Hub, request: Request) -> Response:
    """A repository has another name; the old one leads to it."""
    form = request.json()
    old, new = form["fromRepo"], form["toRepo"]
    access.repository(hub.store, old, request.user)
    for name in (old, new):
        access.writer(request.user, name.partition("/")[0])
    if new in hub.store.repos:
        raise Refusal(409, f"{new} exists")
    hub.rename(old, new)
    return as_json({"url": f"{hub.url}/{new}"})


def settings(hub: Hub, request: Request, repo: Repo) -> Response:
    """Private or public, gated or not."""
    access.writer(request.user, repo.owner)
    form = request.json()
    repo.gated = form.get("gated", repo.gated)
    if "visibility" in form:
        repo.private = form["visibility"] == "private"
    return as_json({"private": repo.private, "gated": repo.gated})


def validate_yaml(hub: Hub, request: Request) -> Response:
    """What is wrong with the metadata of a card."""
    errors, warnings = [], []
    try:
        data = answers.front_matter(request.json().get("content", ""), strict=True)
        if not data:
            warnings.append({"message": "empty or missing yaml metadata in repo card"})
        if not isinstance(data.get("license", ""), str | list):
            errors.append({"message": '"license" must be a string'})
        if not isinstance(data.get("tags") or [], list):
            errors.append({"message": '"tags" must be an array'})
        if not isinstance(data.get("model-index") or [], list):
            errors.append({"message": '"model-index" must be an array'})
    except ValueError as error:
        errors.append({"message": str(error)})
    return as_json({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def preupload(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """Which files are large, and what the branch holds of each already."""
    _may_commit(request, repo, request.flag("create_pr"))
    commit = access.revision(repo, revision)
    found = []
    for file in request.json()["files"]:
        sample = base64.b64decode(file.get("sample", ""))
        large = is_large(file["path"], file["size"], sample)
        there = commit.files.get(file["path"])
        oid = {"oid": there.sha256 if there.lfs else there.oid} if there and there.lfs == large else {}
        mode = "lfs" if large else "regular"
        found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
    return as_json({"commitOid": commit.oid, "files": found})


def _may_commit(request: Request, repo: Repo, pull: bool) -> User:
    # Everybody with a write token may open a pull request.
    user = access.somebody(request.user)
    return access.writer(user, user.name if pull else repo.owner)


def commit(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """A commit in lines of JSON, to a branch or as a new pull request."""
    pull = request.flag("create_pr")
    user = _may_commit(request, repo, pull or revision.startswith("refs/pr/"))
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    with hub.store.lock:
        parent = access.revision(repo, revision)
        if revision not in repo.branches and not revision.startswith("refs/pr/"):
            raise Refusal(400, f"{revision} is not a branch")
        if header.get("parentCommit") and not parent.oid.startswith(header["parentCommit"]):
            raise Refusal(412, MOVED)
        files, gone = _operations(hub, repo, parent, lines)
        title, message = header["summary"], header.get("description", "")
        pull_url = None
        if pull:
            number = discussions.open_one(hub, repo, user, title, message, pull=True, status="open")
            repo.pulls[number] = parent.oid
            revision = f"refs/pr/{number}"
            pull_url = f"{hub.url}/{repo.id}/discussions/{number}"
        made = hub.store.commit(
            repo, files, title=title, message=message, author=user.name, revision=revision, delete=gone
        )
    where = f"{hub.url}/{repo.id}/commit/{made.oid}"
    answer = {"success": True, "commitOid": made.oid, "commitUrl": where, "hookOutput": ""}
    return as_json(answer | ({"pullRequestUrl": pull_url} if pull_url else {}))


def _operations(
    hub: Hub, repo: Repo, parent: Commit, lines: list[dict[str, Any]]
) -> tuple[dict[str, Blob], tuple[str, ...]]:
    """The files of a commit and the paths that go; a folder ends with a slash."""
    files: dict[str, Blob] = {}
    gone: list[str] = []
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "header":
            continue
        path = value["path"]
        if key in ("file", "lfsFile", "copyFile"):
            _check_path(path)
        if key == "file":
            content = base64.b64decode(value["content"])
            if len(content) > LARGE_SIZE:
                raise Refusal(400, f"{path}: your push was rejected because it contains files larger than 10 MiB.")
            files[path] = hub.store.blob(path, File(content, lfs=False))
        elif key == "lfsFile":
            files[path] = _large(hub, path, value["oid"])
        elif key == "copyFile":
            source = access.revision(repo, value["srcRevision"]) if value.get("srcRevision") else parent
            files[path] = source.files[value["srcPath"]]
        elif key in ("deletedFile", "deletedFolder"):
            path = path.rstrip("/") + ("/" if key == "deletedFolder" else "")
            if not any(old == path or (path.endswith("/") and old.startswith(path)) for old in parent.files):
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            gone.append(path)
        else:
            raise Refusal(400, f"Unknown operation {key}")
    return files, tuple(gone)


def _check_path(path: str) -> None:
    if "\0" in path or any(part in {"", ".", "..", ".git"} for part in path.split("/")):
        raise Refusal(400, f"Invalid path {path!r}")


def _large(hub: Hub, path: str, sha256: str) -> Blob:
    blob = hub.store.objects.get(sha256) or hub.xet.fetch(sha256)
    if blob is None:
        text = "Your push was rejected because an LFS pointer pointed to a file that does not exist."
        raise Refusal(
            400, f"{text} For instance, this can happen if you used git push --no-verify. Offending file: {path}"
        )
    return blob


def new_branch(hub: Hub, request: Request, repo: Repo, name: str) -> Response:
    """A branch that starts at a revision."""
    access.writer(request.user, repo.owner)
    start = access.revision(repo, request.json().get("startingPoint") or "main")
    if name in repo.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{name}")
    repo.branches[name] = start.oid
    return as_json({})


def end_branch(hub: Hub, request: Request, repo: Repo, name: str) -> Response:
    """A branch is gone; main stays."""
    access.writer(request.user, repo.owner)
    if name == "main":
        raise Refusal(403, "Cannot delete refs/heads/main")
    if repo.branches.pop(name, None) is None:
        raise Refusal(404, f"Reference does not exist: refs/heads/{name}", "RevisionNotFound")
    return as_json({})


def new_tag(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """A tag at a revision."""
    access.writer(request.user, repo.owner)
    name, target = request.json()["tag"], access.revision(repo, revision)
    if name in repo.tag_refs:
        raise Refusal(409, f"Tag reference exists already: refs/tags/{name}")
    repo.tag_refs[name] = target.oid
    return as_json({})


def end_tag(hub: Hub, request: Request, repo: Repo, name: str) -> Response:
    """A tag is gone."""
    access.writer(request.user, repo.owner)
    if repo.tag_refs.pop(name, None) is None:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return as_json({})


def lfs_batch(hub: Hub, request: Request, repo: Repo) -> Response:
    """Where to put large files; those that are there already need no action."""
    access.somebody(request.user)
    found = []
    for each in request.json()["objects"]:
        answer = {"oid": each["oid"], "size": each["size"]}
        if each["oid"] not in hub.store.objects:
            verify = {"href": f"{hub.url}/{repo.id}.git/info/lfs/objects/verify", "header": {}}
            upload = {"href": f"{hub.other_url}/_lfs/{each['oid']}?X-Amz-Signature=f00d", "header": {}}
            answer["actions"] = {"upload": upload, "verify": verify}
        found.append(answer)
    return as_json({"transfer": "basic", "objects": found})


def lfs_put(hub: Hub, request: Request, sha256: str) -> Response:
    """The bytes of a large file, checked; like the storage of the Hub this takes a signature and no token."""
    if "authorization" in request.headers:
        raise Refusal(400, "Only one auth mechanism allowed: a token was sent to another origin")
    source = request.body_file or request.body
    if digest(source) != sha256:
        raise Refusal(400, "The bytes do not have this sha256")
    hub.keep(source, sha256)
    return as_json({}, ETag=f'"{sha256}"')


def lfs_verify(hub: Hub, request: Request, repo: Repo) -> Response:
    """Whether a large file has arrived."""
    form = request.json()
    blob = hub.store.objects.get(form["oid"])
    if blob is None or blob.length != form["size"]:
        raise Refusal(404, "Object does not exist")
    return as_json({"message": "ok"})

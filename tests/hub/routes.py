"""Which function answers which request."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING

from tests.hub import access, discussions, reading, writing
from tests.hub.messages import Refusal, Request, Response, as_json, redirect

if TYPE_CHECKING:
    from tests.hub.server import Hub

# /api/models/REPO/WORD/REST: the function gets the repository and the parts of the rest.
READING: dict[str, Callable[..., Response]] = {
    "revision": reading.info,
    "tree": reading.tree,
    "refs": reading.refs,
    "commits": reading.commits,
    "auth-check": reading.auth_check,
    "safetensors-metadata": reading.safetensors_metadata,
    "discussions": discussions.listing,
}
WRITING: dict[tuple[str, str], Callable[..., Response]] = {
    ("POST", "paths-info"): reading.paths_info,
    ("POST", "preupload"): writing.preupload,
    ("POST", "commit"): writing.commit,
    ("POST", "branch"): writing.new_branch,
    ("DELETE", "branch"): writing.end_branch,
    ("POST", "tag"): writing.new_tag,
    ("DELETE", "tag"): writing.end_tag,
    ("POST", "discussions"): discussions.create,
    ("PUT", "settings"): writing.settings,
}
PLAIN: dict[tuple[str, str], Callable[..., Response]] = {
    ("GET", "/api/whoami-v2"): reading.whoami,
    ("GET", "/api/models"): reading.models,
    ("POST", "/api/repos/create"): writing.create,
    ("DELETE", "/api/repos/delete"): writing.delete,
    ("POST", "/api/repos/move"): writing.move,
    ("POST", "/api/validate-yaml"): writing.validate_yaml,
}
NO_PAGE = "Sorry, we can't find the page you are looking for."
WORDS = {*READING, *(word for _, word in WRITING), "xet-read-token", "xet-write-token"}


def answer(hub: Hub, request: Request) -> Response:
    """The honest answer to a request."""
    try:
        parts = request.parts
        # Signed addresses of large files: no token belongs there, so none is looked at.
        if parts[0] == "_cdn":
            return reading.cdn(hub, request, *parts[1:])
        if parts[0] == "_lfs" and request.method == "PUT":
            return writing.lfs_put(hub, request, parts[1])
        request.user = access.user_of(hub.store, request.headers.get("authorization"))
        if plain := PLAIN.get((request.method, request.raw_path)):
            return plain(hub, request)
        if parts[:2] == ["api", "models"]:
            return _model(hub, request, parts[2:])
        if parts[:2] == ["api", "agent-harnesses"]:
            return as_json({"standardEnvVars": [], "harnesses": {}})
        if parts[:2] == ["api", "telemetry"]:
            return as_json({})
        return _file(hub, request, parts)
    except Refusal as refusal:
        return refusal.response()


def _model(hub: Hub, request: Request, parts: list[str]) -> Response:
    # Names of the early days have no owner: /api/models/gpt2/tree/main.
    length = 1 if len(parts) == 1 or parts[1] in WORDS else 2
    name, rest = "/".join(parts[:length]), parts[length:]
    if new := hub.store.renamed.get(name):
        return redirect(request.target.replace(f"/api/models/{name}", f"/api/models/{new}", 1))
    repo = access.repository(hub.store, name, request.user)
    if not rest and request.method in ("GET", "HEAD"):
        return reading.info(hub, request, repo)
    if rest[:1] == ["discussions"] and len(rest) > 1:
        if request.method == "POST":
            return discussions.change(hub, request, repo, *rest[1:3])
        return discussions.details(hub, request, repo, rest[1])
    if rest[:1] in (["xet-read-token"], ["xet-write-token"]):
        return hub.xet.token(hub, request, repo, "/".join(rest[1:]), write=rest[0] == "xet-write-token")
    function = WRITING.get((request.method, rest[0])) if rest else None
    if function is None and rest and request.method in ("GET", "HEAD"):
        function = READING.get(rest[0])
    if function is None:
        raise Refusal(404, NO_PAGE)
    try:
        call = signature(function).bind(hub, request, repo, *rest[1:])
    except TypeError as error:
        raise Refusal(404, NO_PAGE) from error
    return function(*call.args)


def _file(hub: Hub, request: Request, parts: list[str]) -> Response:
    cached = parts[:3] == ["api", "resolve-cache", "models"]
    if cached:
        parts = [*parts[3:5], "resolve", *parts[5:]]
    length = 1 if parts[1:2] in (["resolve"], ["info"]) else 2
    name, rest = "/".join(parts[:length]), parts[length:]
    large = name.endswith(".git")
    name = name.removesuffix(".git")
    if new := hub.store.renamed.get(name):
        return redirect(request.target.replace(f"/{name}", f"/{new}", 1))
    repo = access.repository(hub.store, name, request.user)
    if large and request.method == "POST" and rest[:3] == ["info", "lfs", "objects"]:
        return (writing.lfs_batch if rest[3:] == ["batch"] else writing.lfs_verify)(hub, request, repo)
    if len(rest) >= 3 and rest[0] in ("resolve", "raw") and request.method in ("GET", "HEAD"):
        return reading.resolve(hub, request, repo, rest[1], "/".join(rest[2:]), cached=cached)
    raise Refusal(404, NO_PAGE)

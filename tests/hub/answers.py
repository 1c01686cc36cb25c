"""What the Hub says about repositories, as JSON, under the names that its clients read."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import lru_cache
from typing import Any

import yaml

from tests.hub import git
from tests.hub.storage import Blob, Commit, Repo

HEADER_LIMIT = 25_000_000
# The fields that `expand` may name.
FIELDS = """
author baseModels cardData childrenModelCount config createdAt disabled downloads downloadsAllTime evalResults gated gguf
inference inferenceProviderMapping lastModified library_name likes mask_token model-index pipeline_tag private
resourceGroup safetensors sha siblings spaces tags transformersInfo trendingScore usedStorage widgetData
"""
EXPANDABLE = frozenset(FIELDS.split())
NAMED_ONLY = {"trendingScore", "downloadsAllTime", "baseModels"}
# Without full=true, a listing holds these only.
LISTED = (
    "_id",
    "id",
    "modelId",
    "likes",
    "trendingScore",
    "private",
    "downloads",
    "tags",
    "pipeline_tag",
    "library_name",
)
LISTED += ("createdAt",)
LISTED_IN_FULL = (*LISTED, "author", "gated", "lastModified", "sha", "siblings", "disabled")


def model_info(repo: Repo, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    """All that model_info answers."""
    card = card_data(repo, commit)
    library = repo.library_name or card.get("library_name")
    task = repo.pipeline_tag or card.get("pipeline_tag")
    stored = {blob.sha256: blob.size for each in repo.commits.values() for blob in each.files.values()}
    answer: dict[str, Any] = {
        "_id": f"{repo.number:024x}",
        "id": repo.id,
        "modelId": repo.id,
        "private": repo.private,
        "tags": all_tags(repo, card, library, task, commit),
        "downloads": repo.downloads,
        "downloadsAllTime": repo.downloads,
        "likes": repo.likes,
        "trendingScore": 0,
        "author": repo.owner,
        "sha": commit.oid,
        "lastModified": git.date_text(commit.date),
        "createdAt": git.date_text(repo.created),
        "gated": repo.gated,
        "disabled": repo.disabled,
        "spaces": [],
        "siblings": [sibling(path, blob, blobs) for path, blob in sorted(commit.files.items())],
        "usedStorage": sum(stored.values()),
    }
    optional = {"library_name": library, "pipeline_tag": task, "cardData": card, "safetensors": safetensors(commit)}
    optional |= {"model-index": card.get("model-index"), "baseModels": card.get("base_model")}
    return answer | {name: value for name, value in optional.items() if value} | repo.info


def expanded(answer: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The fields that were asked for, and those that always come."""
    return {name: value for name, value in answer.items() if name in {"_id", "id", *names}}


def sibling(path: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    """A file in model_info."""
    answer: dict[str, Any] = {"rfilename": path}
    if blobs:
        answer |= {"blobId": blob.oid, "size": blob.size}
        if blob.lfs:
            answer["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    return answer


def tree_entry(path: str, commit: Commit, xet: str | None) -> dict[str, Any]:
    """A file or a folder in a listing of the tree."""
    blob = commit.files.get(path)
    if blob is None:
        return {"type": "directory", "oid": commit.folders[path], "size": 0, "path": path}
    answer: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.lfs:
        answer["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
        if xet:
            answer["xetHash"] = xet
    return answer


def last_commit(commit: Commit) -> dict[str, Any]:
    """The commit that changed a file last, in an expanded listing."""
    return {"id": commit.oid, "title": commit.title, "date": git.date_text(commit.date)}


SAFE = {"status": "safe", "avScan": {"virusFound": False, "virusNames": None}, "pickleImportScan": None}


def commit_entry(commit: Commit, formatted: bool) -> dict[str, Any]:
    """A commit in a list of commits."""
    answer = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": git.date_text(commit.date)}
    answer |= {"authors": [{"user": commit.author, "avatar": "/avatars/none.svg"}]}
    if formatted:
        answer["formatted"] = {"title": commit.title, "message": f"<p>{commit.message}</p>"}
    return answer


def refs(repo: Repo, pulls: bool) -> dict[str, Any]:
    """Branches and tags, and pull requests if asked for."""

    def listed(prefix: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in names.items()]

    answer = {
        "tags": listed("refs/tags/", repo.tag_refs),
        "branches": listed("refs/heads/", repo.branches),
        "converts": [],
    }
    if pulls:
        answer["pullRequests"] = listed("", {f"refs/pr/{number}": oid for number, oid in repo.pulls.items()})
    return answer


def card_data(repo: Repo, commit: Commit) -> dict[str, Any]:
    """The metadata of the card: as seeded, or the YAML on top of README.md."""
    if repo.card_data is not None:
        return repo.card_data
    readme = commit.files.get("README.md")
    return _front_matter(readme.read(2**20)) if readme else {}


@lru_cache(maxsize=4096)
def _front_matter(readme: bytes) -> dict[str, Any]:
    return front_matter(readme.decode(errors="replace"), strict=False)


def front_matter(readme: str, strict: bool) -> dict[str, Any]:
    """The YAML on top of a card; what is wrong with it raises ValueError if `strict`."""
    if not readme.startswith("---"):
        return {}
    try:
        # Through JSON: dates become text, and nothing else than data is left.
        data = json.loads(json.dumps(yaml.safe_load(readme.split("---", 2)[1]), default=str))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        if strict:
            raise ValueError(f"YAML Metadata Error: {error}") from error
        return {}
    if strict and not isinstance(data, dict | None):
        raise ValueError('"value" must be of type object')
    return data if isinstance(data, dict) else {}


def all_tags(repo: Repo, card: dict[str, Any], library: str | None, task: str | None, commit: Commit) -> list[str]:
    """The tags of the card and those that the Hub derives from its other fields and from the files."""
    tags = [library] if library else []
    if any(path.endswith(".safetensors") for path in commit.files):
        tags.append("safetensors")
    tags += [*repo.tags, *_texts(card.get("tags"))]
    for field, prefix in (("datasets", "dataset:"), ("base_model", "base_model:"), ("license", "license:")):
        tags += [prefix + text for text in _texts(card.get(field))]
    tags += [*_texts(card.get("language")), *([task] if task else []), "region:us"]
    return list(dict.fromkeys(tags))


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def safetensors(commit: Commit) -> dict[str, Any] | None:
    """How many parameters there are of which type, by the header of model.safetensors; None without a good one."""
    blob = commit.files.get("model.safetensors")
    header = tensors_header(blob) if blob else None
    if not header:
        return None
    counts: Counter[str] = Counter()
    for name, tensor in header.items():
        if name != "__metadata__":
            counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return {"parameters": dict(counts), "total": sum(counts.values())}


@lru_cache(maxsize=2048)
def tensors_header(blob: Blob) -> dict[str, Any] | None:
    """The header of a safetensors file; None if it has none that can be read."""
    size = int.from_bytes(blob.read(8), "little")
    if not 2 <= size <= min(HEADER_LIMIT, blob.length - 8):
        return None
    try:
        header = json.loads(blob.read(8 + size)[8:])
        # What does not count as a tensor raises here.
        [
            (tensor["dtype"] + "", math.prod(tensor["shape"]) + 0)
            for name, tensor in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return header

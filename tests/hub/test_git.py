"""The oids agree with git's, and the doctests of the module."""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hub import git, samples
from tests.hub.server import Hub
from tests.hub.storage import File


def test_examples() -> None:
    assert doctest.testmod(git).failed == 0


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_oids_are_gits(hub: Hub, tmp_path: Path) -> None:
    files = {"b.txt": "b", "a/x.txt": "x", "a.txt": "a", "a-b/c/d.json": "{}", "ünï.txt": "é"}
    first = hub.add_repo("tester/x", {**files, "model.safetensors": b"\0" * 100, "link": File("b.txt", link=True)})
    head = hub.head("tester/x")

    def run(*words: str, text: bytes = b"") -> str:
        person = {"GIT_AUTHOR_DATE": str(int(head.date.timestamp())) + " +0000"}
        person |= {"GIT_COMMITTER_DATE": person["GIT_AUTHOR_DATE"]}
        for role in ("AUTHOR", "COMMITTER"):
            person |= {f"GIT_{role}_NAME": "tester", f"GIT_{role}_EMAIL": "tester@users.noreply.hub"}
        command = ["git", "-C", str(tmp_path / "work"), *words]
        return subprocess.run(
            command, input=text, capture_output=True, check=True, env=os.environ | person
        ).stdout.decode()

    (tmp_path / "work").mkdir()
    run("init", "--quiet")
    for path, blob in head.files.items():
        place = tmp_path / "work" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if blob.mode == "120000":
            place.symlink_to(blob.read().decode())
        else:
            place.write_bytes(git.pointer(blob.sha256, blob.size) if blob.lfs else blob.read())
    run("-c", "core.autocrlf=false", "add", "--all")
    tree = run("write-tree").strip()
    assert head.folders[""] == tree
    assert run("rev-parse", f"{tree}:a-b/c").strip() == head.folders["a-b/c"]
    assert run("commit-tree", tree, text=b"Add files\n\n").strip() == first


def test_hostile_trees_have_oids() -> None:
    files = {name: ("100644", git.blob_id(b"")) for name in samples.HOSTILE_NAMES}
    assert (
        len(git.folder_ids({**files, "a": ("100644", git.blob_id(b"")), "a/b": ("100644", git.blob_id(b""))})[""]) == 40
    )

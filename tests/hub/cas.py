"""Put files into a folder of xet storage, and get them out: a process of its own, as hf_xet locks the folder.

It is run by path with JSON on its input, and imports nothing of the tests.
"""

from __future__ import annotations

import json
import sys

import hf_xet


def put(folder: str, paths: list[str]) -> list[str]:
    """Store files; returns their xet hashes."""
    commit = hf_xet.XetSession().new_upload_commit(endpoint=f"local://{folder}")
    handles = [commit.start_upload_file(path, sha256=hf_xet.COMPUTE_SHA256) for path in paths]
    commit.wait_to_finish()
    return [handle.result().xet_info.hash for handle in handles]


def get(folder: str, files: list[tuple[str, int, str]]) -> list[str]:
    """Write files of a hash and a size to paths."""
    with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{folder}") as group:
        for xet, size, path in files:
            group.start_download_file(hf_xet.XetFileInfo(xet, size), path)
    return [path for _, _, path in files]


if __name__ == "__main__":
    task, folder, items = json.load(sys.stdin)
    print(json.dumps({"put": put, "get": get}[task](folder, items)))

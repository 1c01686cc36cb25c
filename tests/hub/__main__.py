"""Try things by hand: `python -m tests.hub --port 5000 --seed FOLDER`, where FOLDER/OWNER/NAME is a repository."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

from tests.hub.server import READ, WRITE, Hub


def seed(hub: Hub, folder: Path) -> None:
    """Every folder two levels down is a repository with its files, which stay where they are."""
    for place in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        files = {str(path.relative_to(place)): path for path in sorted(place.rglob("*")) if path.is_file()}
        sha = hub.add_repo(f"{place.parent.name}/{place.name}", files)
        print(f"{place.parent.name}/{place.name} {sha} {len(files)} files", flush=True)


def main() -> None:
    """Serve until interrupted, and print requests as they come."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=Path, help="a folder with OWNER/NAME folders")
    parser.add_argument("--real", action="store_true", help="redirect to files as the real Hub does")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Hub(Path(folder), port=options.port) as hub:
        hub.cdn = hub.resolve_cache = options.real
        print(f"export HF_ENDPOINT={hub.url}", flush=True)
        print(f"export HF_TOKEN={WRITE}  # or {READ}", flush=True)
        if options.seed:
            seed(hub, options.seed)
        shown = 0
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(0.2)
                for entry in hub.log.entries[shown:]:
                    shown += 1
                    print(entry, flush=True)


if __name__ == "__main__":
    main()

"""A copy of the project whose pipelines run in the profile ``tiny``, and one run of the DPIAT pipeline to look at."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# With the root's lock: without it DVC would compile the index, which takes minutes.
_PARTS = ("kzoo", "registry", "pipelines", "dvc.yaml", "dvc.lock", "environment.yaml", ".dvcignore", ".dvc/config")


@dataclass(frozen=True)
class Project:
    """A copy of the repository, and how things are run in it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        # One process: starting more takes longer than the work of the profile tiny.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "PYTHONPATH": str(self.root), "KZOO_JOBS": "1", "DVC_NO_ANALYTICS": "1"}

    def run(self, *command: str, cwd: str = ".", **options: object) -> subprocess.CompletedProcess[str]:
        arguments = {"capture_output": True, "text": True, "timeout": 300, "check": False, "env": self.environment}
        return subprocess.run(command, cwd=self.root / cwd, **(arguments | options))  # type: ignore[call-overload,no-any-return]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A process in a group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def change(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def contents(self, folder: str) -> dict[str, bytes]:
        base = self.root / folder
        return {
            path.relative_to(base).as_posix(): path.read_bytes() for path in sorted(base.rglob("*")) if path.is_file()
        }


@pytest.fixture(scope="session")
def copied_project() -> Callable[[Path], Project]:
    def copy(root: Path) -> Project:
        for part in _PARTS:
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                shutil.copytree(
                    ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", ".out.work", "out")
                )
            else:
                shutil.copy(ROOT / part, root / part)
        for params in sorted(root.glob("pipelines/*/params.yaml")):
            text, changes = re.subn("^profile: default$", "profile: tiny", params.read_text(), flags=re.MULTILINE)
            assert changes == 1
            params.write_text(text)
        # Which commit the pipelines' locks were written at does not matter here.
        for lock in sorted(root.glob("pipelines/*/dvc.lock")):
            lock.unlink()
        git = ["git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "As it is"]):
            subprocess.run([*git, *command], cwd=root, check=True)
        return Project(root)

    return copy


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, copied_project: Callable[[Path], Project]) -> Project:
    """A copy in which DVC has run the DPIAT pipeline; to be left as it is."""
    project = copied_project(tmp_path_factory.mktemp("tiny"))
    done = project.run("dvc", "repro", "pipelines/dpiat/dvc.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project

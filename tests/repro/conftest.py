"""A small repository of DVC whose stages are lines of shell."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

#: A stage that needs minutes unless the file `go` is there, and has a process of its own that does not end with it.
SLOW = "echo t >> ../../begun; if [ ! -e ../../go ]; then sleep 300 & sleep 300; fi; echo t > t"


def toy_files() -> dict[str, object]:
    index = {"cmd": "echo index > index", "outs": [{"index": {"cache": False}}]}
    first = {"cmd": "mkdir -p out; cat ../../index > out/s", "deps": ["../../index"], "outs": ["out/s"]}
    second = {"cmd": "cp out/s out/t", "deps": ["out/s"], "outs": ["out/t"]}
    ends = [f"pipelines/{paper}/out/t" for paper in "ab"]
    report = {"cmd": f"cat {' '.join(ends)} > report", "deps": ends, "outs": [{"report": {"cache": False}}]}
    return {
        "dvc.yaml": {"stages": {"index": index, "report": report}},
        "pipelines/a/dvc.yaml": {"stages": {"s": first, "t": second}},
        # Another command: DVC would take the result of the first paper for this one.
        "pipelines/b/dvc.yaml": {"stages": {"s": first, "t": second | {"cmd": "cat out/s > out/t"}}},
    }


@dataclass(frozen=True)
class Toy:
    """A copy of it; every process that is started in it, and all that these start, carry a mark."""

    root: Path
    mark: str = field(default_factory=lambda: f"mark-{uuid.uuid4().hex}")

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "KZOO_TEST": self.mark, "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        arguments = {"cwd": self.root, "env": self.environment, "capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(command, check=False, **(arguments | options))  # type: ignore[call-overload,no-any-return]

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Whoever runs the tests in the background of a shell has it ignored, and so would the command.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def stage(self, paper: str, name: str, command: str) -> None:
        """Give a stage another command."""
        path = self.root / "pipelines" / paper / "dvc.yaml"
        data = yaml.safe_load(path.read_text())
        data["stages"][name]["cmd"] = command
        path.write_text(yaml.safe_dump(data))

    def slow_paper(self) -> None:
        """A paper ``c`` with nothing but a slow stage ``t``."""
        folder = self.root / "pipelines/c"
        folder.mkdir()
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"t": {"cmd": SLOW, "outs": ["t"]}}}))

    def locks(self) -> dict[str, bytes]:
        paths = sorted(self.root.rglob("dvc.lock"))
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths}

    def processes(self) -> dict[int, str]:
        """The command lines of all processes that carry the mark, by number."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found

    def wait_for(self, path: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not (self.root / path).exists():
            assert time.monotonic() < deadline, f"{path} did not come"
            time.sleep(0.02)

    def require_quiet(self, seconds: float = 10) -> None:
        """Nothing that was started here is left, at the latest after some seconds."""
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


@pytest.fixture(scope="session")
def toy_origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "origin"
    for name, data in toy_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(yaml.safe_dump(data, sort_keys=False))
    toy = Toy(root)
    for command in (("git", "init", "-q"), ("dvc", "init", "-q"), ("dvc", "config", "core.analytics", "false")):
        done = toy.run(*command)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def toy(toy_origin: Path, tmp_path: Path) -> Toy:
    return Toy(shutil.copytree(toy_origin, tmp_path / "toy"))


@pytest.fixture
def another_toy(toy_origin: Path, tmp_path: Path) -> Callable[[str], Toy]:
    return lambda name: Toy(shutil.copytree(toy_origin, tmp_path / name))

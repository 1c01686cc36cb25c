"""The repository whose stages are run: where it is, its ``dvc.yaml`` files, the command of DVC."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kzoo.errors import InputError, WorldError
from kzoo.files import replacing
from kzoo.repro.stage_graph import FILE, PIPELINES, StageGraph, stage_graph

_SECONDS = "seconds.json"


@dataclass(frozen=True)
class Project:
    """A repository of DVC with its stages."""

    root: Path
    dvc: str
    graph: StageGraph

    @property
    def own(self) -> Path:
        """The folder for logs, locks and times, which git does not see."""
        return self.root / ".dvc" / "tmp" / "kzoo"

    def seconds(self) -> dict[str, float]:
        """What stages took when they were last run from here; they decide nothing but the order."""
        try:
            found = json.loads((self.own / _SECONDS).read_text(encoding="utf-8"))
            return {target: float(found[target]) for target in self.graph.stages if target in found}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def keep_seconds(self, new: Mapping[str, float]) -> None:
        """Remember what stages took.

        Raises:
            WorldError: the disk fails.
        """
        if new:
            with replacing(self.own / _SECONDS) as temporary:
                temporary.write_text(json.dumps(self.seconds() | dict(new), indent=1), encoding="utf-8")


def open_project(start: Path) -> Project:
    """The repository that ``start`` lies in.

    Raises:
        InputError: there is none, it has no stages or some that cannot be read, or DVC is not installed.
        WorldError: a file cannot be read.
    """
    above = start.resolve()
    if not above.is_dir():
        raise InputError(f"{start} is no folder: give the one of a clone of kzoo's repository")
    root = next((folder for folder in (above, *above.parents) if (folder / ".dvc").is_dir()), None)
    if root is None:
        raise InputError(
            f"{start.resolve()} lies in no DVC repository: go into a clone of kzoo's, or give it by --root; without DVC, "
            f"'kzoo run {PIPELINES}/PAPER' runs one paper"
        )
    files = [path for path in (root / FILE, *sorted((root / PIPELINES).glob(f"*/{FILE}"))) if path.is_file()]
    if not files:
        raise InputError(f"{root} has no {FILE}, neither itself nor in {PIPELINES}: 'make wiring' writes them")
    folders = {_folder(path, root): _read(path) for path in files}
    return Project(root, _dvc(), stage_graph(folders))


def with_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which the programs installed beside this Python are found, before all others."""
    path = environment.get("PATH", os.defpath)
    return {**environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{path}"}


def _dvc() -> str:
    found = shutil.which("dvc", path=with_programs(os.environ)["PATH"])
    if found is None:
        raise InputError(
            "dvc is not installed: pip install -c constraints.txt -e '.[training,pipelines]' in kzoo's folder; without it, "
            f"'kzoo run {PIPELINES}/PAPER' runs one paper"
        )
    return found


def _folder(path: Path, root: Path) -> str:
    folder = path.parent.relative_to(root).as_posix()
    return "" if folder == "." else folder


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorldError(f"{path} cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else f"{path}"
        raise InputError(
            f"{place}: this is not YAML ({getattr(error, 'problem', None) or 'not UTF-8'}): run 'make wiring'"
        ) from None

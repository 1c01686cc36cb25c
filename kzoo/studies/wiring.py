"""``dvc.yaml`` of every pipeline and of the root, written from the stages: ``python -m kzoo.studies.wiring``.

Each stage depends on the modules that it imports, and on no others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from kzoo.files import replacing
from kzoo.indexing import DECISIVE_MODULES, LOCAL_MODULES
from kzoo.paths import source_file
from kzoo.studies.closure import import_closure
from kzoo.studies.design import CLAIMS
from kzoo.studies.params import PARAMS, PIPELINES, read_study
from kzoo.studies.running import OUT
from kzoo.studies.stages import ENVIRONMENT, INDEX, Stage

FILE = "dvc.yaml"
_HEAD = (
    "# Written by `make wiring`, from kzoo/studies/stages.py and the imports of the modules that carry stages out.\n"
)
REPORT = "report"
#: What `kzoo report --write` is made of.
_REPORTING = tuple(f"kzoo.reporting.{part}" for part in ("data", "markdown", "page", "reading", "text"))
_REPORTING += ("kzoo.studies.metrics",)
_TEMPLATES = (source_file("reporting/page").with_name("page.html.j2"),)


def studies(root: Path) -> list[Path]:
    """The folders of all studies below ``pipelines``, sorted."""
    return sorted(path.parent for path in (root / PIPELINES).glob(f"*/{PARAMS}"))


def wirings(root: Path) -> dict[Path, str]:
    """The text of every ``dvc.yaml`` by its path."""
    folders = studies(root)
    found = {folder / FILE: _pipeline(folder, root) for folder in folders}
    return found | {root / FILE: _root(folders, root)}


def write_wirings(root: Path) -> list[Path]:
    """Write every ``dvc.yaml``; those that changed are given."""
    changed = []
    for path, text in wirings(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def _pipeline(folder: Path, root: Path) -> str:
    stages = {stage.name: _stage(stage, folder, root) for stage in read_study(folder).stages}
    tables = [f"{OUT}/metrics.json"]
    return _HEAD + _yaml({"stages": stages, "metrics": tables})


def _stage(stage: Stage, folder: Path, root: Path) -> dict[str, Any]:
    code = [_from(path, folder) for path in _code([stage.module], root)]
    index = [INDEX] if stage.networks else []
    deps = [*(f"{OUT}/{name}" for name in stage.inputs), *stage.files, *index, *code]
    params: list[Any] = ["profile", *(f"profiles.${{profile}}.{name}" for name in stage.params)]
    if stage.computes:
        params.append({ENVIRONMENT: None})
    outs: list[Any] = [*_tables(f"{OUT}/{name}" for name in stage.tables), *(f"{OUT}/{name}" for name in stage.cached)]
    return {
        "desc": stage.desc,
        "cmd": f"kzoo run {PARAMS} --stage {stage.name}",
        "deps": deps,
        "params": params,
        "outs": outs,
    }


def _root(folders: Iterable[Path], root: Path) -> str:
    papers = []
    for folder in folders:
        outputs = [name for stage in read_study(folder).stages for name in (*stage.tables, *stage.cached)]
        shown = [name for name in ("metrics.json", "model") if name in outputs]
        papers += [f"{_from(folder, root)}/{CLAIMS}", *(f"{_from(folder, root)}/{OUT}/{name}" for name in shown)]
    index = {
        "desc": "The registry compiled into the index",
        "cmd": "kzoo index",
        "deps": ["registry/local", "registry/timm", "registry/torchvision", "registry/zoo"]
        + [_from(source_file(module), root) for module in (*DECISIVE_MODULES, *LOCAL_MODULES)],
        "outs": [{"registry/index.npz": {"cache": False, "persist": True}}],
    }
    report = {
        "desc": "All claims of all papers, with their verdicts",
        "cmd": f"kzoo report --write {REPORT}",
        "deps": papers + [_from(path, root) for path in (*_code(_REPORTING, root), *_TEMPLATES)],
        "outs": _tables(f"{REPORT}/report.{kind}" for kind in ("html", "json", "md")),
    }
    return _HEAD + _yaml({"stages": {"index": index, "report": report}})


def _code(modules: Sequence[str], root: Path) -> list[Path]:
    package = root.resolve() / "kzoo"
    found = sorted({path for module in modules for path in import_closure(module)})
    strange = next((path for path in found if not path.is_relative_to(package)), None)
    assert strange is None, f"{strange} is outside {package}: run this from the repository"
    return found


def _tables(names: Iterable[str]) -> list[Any]:
    return [{name: {"cache": False}} for name in names]


def _from(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _yaml(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, width=10_000).replace(": null\n", ":\n")


if __name__ == "__main__":
    for changed in write_wirings(Path()):
        print(changed)

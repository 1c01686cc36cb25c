"""What a stage is made of: the files that DVC watches are those that a stage imports."""

import json
import sys
from pathlib import Path

import pytest

import kzoo
from kzoo.studies.closure import code_digest, import_closure
from kzoo.studies.stages import STAGES
from kzoo.studies.wiring import wirings

ROOT = Path(kzoo.__file__).parents[1]
_LISTING = """
import json, sys
from pathlib import Path
from kzoo.studies.params import read_study
from kzoo.studies.running import run_stages
study = read_study(Path("pipelines/dpiat"))
before = set(sys.modules)
run_stages(study, [study.stage(sys.argv[1])])
files = {module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "kzoo"}
print(json.dumps(sorted(files)))
"""
#: What carries any stage out, and therefore belongs to none: it decides no bytes.
RUNNERS = {
    "studies/__init__.py",
    "studies/params.py",
    "studies/running.py",
    "studies/stages.py",
    "faults.py",
    "locking.py",
}
RUNNERS |= {
    "studies/dpiat/__init__.py",
    "studies/dpiat/design.py",
    "studies/sections.py",
    "environment.py",
    "catalog.py",
    "licenses.py",
    "registry_files.py",
}


def test_a_closure_holds_what_is_imported_anywhere_in_a_file_but_not_for_types():
    found = {path.relative_to(ROOT).as_posix() for path in import_closure("kzoo.methods.plan")}
    assert found == {
        *("kzoo/errors.py", "kzoo/files.py", "kzoo/layers.py", "kzoo/layout.py", "kzoo/methods/plan.py"),
        "kzoo/readers/safetensors.py",
    }
    # evaluate is imported inside functions of running.py, Task for its types only.
    assert any(path.name == "evaluation.py" for path in import_closure("kzoo.running"))
    assert all(path.is_file() for path in import_closure("kzoo.running"))
    assert import_closure("json") == []
    # What fetches from the Hub decides no result.
    weights = {path.relative_to(ROOT).as_posix() for path in import_closure("kzoo.weights")}
    assert {name for name in weights if "/hub/" in name} == {"kzoo/hub/names.py"}


def test_the_digest_follows_the_files():
    assert code_digest("kzoo.methods.plan") == code_digest("kzoo.methods.plan") != code_digest("kzoo.files")


def test_dvc_files_are_those_that_the_stages_and_their_imports_give():
    # If this fails: make wiring
    for path, text in wirings(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, path


@pytest.mark.parametrize(
    "stage", [stage for stage in STAGES["dpiat"] if stage.name in ("match", "transfer", "evaluate", "card")]
)
def test_a_stage_loads_no_module_that_dvc_does_not_watch(stage, tiny):
    done = tiny.run(sys.executable, "-c", _LISTING, stage.name)
    assert done.returncode == 0, done.stderr
    loaded = {Path(file).relative_to(tiny.root / "kzoo").as_posix() for file in json.loads(done.stdout)}
    watched = {path.relative_to(ROOT / "kzoo").as_posix() for path in import_closure(stage.module)}
    assert loaded - watched <= RUNNERS | {"__init__.py"} | {f"{Path(one).parent}/__init__.py" for one in watched}


def test_the_report_depends_on_what_writes_it():
    root = (ROOT / "dvc.yaml").read_text()
    report = root[root.index("  report:") :]
    for path in ("kzoo/reporting/page.py", "kzoo/reporting/page.html.j2", "kzoo/claims.py", "kzoo/studies/metrics.py"):
        assert f"- {path}\n" in report

"""The pipelines through DVC itself, in a copy of the project."""

import hashlib
import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace

import pytest
import yaml

from tests.studies.conftest import ROOT

REPRO = ("dvc", "repro", "pipelines/dpiat/dvc.yaml")
STAGES = ["sources", "match", "transfer", "sweep", "train", "evaluate", "card"]


def ran(text):
    """The stages that a run of DVC has carried out."""
    return re.findall(r"Running stage '(?:pipelines/dpiat/dvc.yaml:)?(\w+)'", text)


def steps(text, stage):
    """How many steps a stage has trained."""
    return int(re.search(rf"^{stage}: \d+ runs.*; (\d+) steps trained", text, re.MULTILINE)[1])


def test_everything_is_up_to_date_after_a_run_and_the_lock_has_every_stage(tiny):
    assert "up to date" in tiny.run("dvc", "status", "pipelines/dpiat/dvc.yaml").stdout
    stages = yaml.safe_load((tiny.root / "pipelines/dpiat/dvc.lock").read_text())["stages"]
    assert sorted(stages) == sorted(STAGES)
    # DVC writes stages as it ran them. Which of two that need nothing of each other comes first is its
    # choice (networkx walks a set), but none comes before what it reads.
    order = list(stages)
    reads = {
        (name, other)
        for name in stages
        for other in stages
        for made in stages[other]["outs"]
        if any((entry["path"] + "/").startswith(made["path"] + "/") for entry in stages[name]["deps"])
    }
    assert {("match", "sources"), ("transfer", "sources"), ("evaluate", "train"), ("card", "evaluate")} <= reads
    assert [(name, other) for name, other in reads if order.index(name) < order.index(other)] == []
    assert not (tiny.root / "pipelines/dpiat/.out.work").exists()


def test_the_command_makes_what_dvc_made(tiny, tmp_path, command, monkeypatch):
    monkeypatch.setenv("KZOO_JOBS", "1")
    shutil.copytree(tiny.root / "pipelines", tmp_path / "pipelines", ignore=shutil.ignore_patterns("out"))
    code, _, said = command("run", tmp_path / "pipelines/dpiat")
    assert code == 0, said
    ours = tiny.contents("pipelines/dpiat/out")
    theirs = {
        path.relative_to(tmp_path / "pipelines/dpiat/out").as_posix(): path.read_bytes()
        for path in (tmp_path / "pipelines/dpiat/out").rglob("*")
        if path.is_file()
    }
    assert {name: data for name, data in ours.items() if not name.endswith(".gitignore")} == theirs


def test_a_change_runs_exactly_what_depends_on_it(tiny):
    project = tiny
    status = ("dvc", "status", "--json", *REPRO[2:])

    def stale():
        # DVC names the stages that are stale themselves, not those after them.
        return {name.rpartition(":")[2] for name in json.loads(project.run(*status).stdout)}

    for file, old, new, expected in (
        ("kzoo/sync.py", "import annotations", "import annotations  # nothing", set()),
        ("kzoo/studies/statistics.py", "import annotations", "import annotations  # nothing", {"evaluate"}),
        ("pipelines/dpiat/params.yaml", "seeds: [1, 2]", "seeds: [1]", {"transfer", "train"}),
        ("pipelines/dpiat/params.yaml", "rates: [0.003, 0.01]", "rates: [0.003]", {"sweep"}),
        ("pipelines/dpiat/params.yaml", "rates: [0.002, 0.006, 0.018]", "rates: [0.002]", set()),
        ("pipelines/dpiat/claims.yaml", "threshold: 1.6", "threshold: 1.5", {"evaluate", "card"}),
        ("environment.yaml", "machine: ", "machine: other-", {"sources", "transfer", "sweep", "train"}),
    ):
        project.change(file, old, new)
        try:
            assert stale() == expected, (file, new)
        finally:
            project.change(file, new, old)
    assert stale() == set()


def test_a_stage_that_was_killed_goes_on_and_gives_the_same_bytes(tiny, tmp_path, command, monkeypatch):
    monkeypatch.setenv("KZOO_JOBS", "1")
    shutil.copytree(tiny.root, tmp_path / "project", symlinks=True)
    project = replace(tiny, root=tmp_path / "project")
    sweep = ("dvc", "repro", "--single-item", "pipelines/dpiat/dvc.yaml:sweep")
    before = (project.root / "pipelines/dpiat/out/sweep.json").read_bytes()
    project.change("pipelines/dpiat/params.yaml", "sweep: {rates: [0.003, 0.01]", "sweep: {rates: [0.003, 0.02]")
    project.change("pipelines/dpiat/params.yaml", "{epochs: 4, batch_size: 32", "{epochs: 8, batch_size: 32")
    whole = 4 * 8 * 6
    process = project.start(*sweep)
    work = project.root / "pipelines/dpiat/.out.work/rates"
    deadline = time.monotonic() + 120
    # In the middle: one training is done, another has some epochs behind it.
    while not (list(work.glob("*/*.json")) and list(work.glob("*/.*.checkpoint/checkpoint.json"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    done = project.run(*sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(done.stdout) == ["sweep"]
    assert 0 < steps(done.stderr, "sweep") < whole
    assert not (project.root / "pipelines/dpiat/.out.work").exists()

    killed = (project.root / "pipelines/dpiat/out/sweep.json").read_bytes()
    code, _, said = command("run", project.root / "pipelines/dpiat", "--stage", "sweep")
    assert code == 0, said
    assert steps(said, "sweep") == whole
    assert (project.root / "pipelines/dpiat/out/sweep.json").read_bytes() == killed != before


@pytest.mark.faults
def test_two_runs_at_once_do_not_spoil_each_other(tmp_path, copied_project, command, monkeypatch):
    monkeypatch.setenv("KZOO_JOBS", "1")
    project = copied_project(tmp_path / "project")
    repro = ("dvc", "repro", "pipelines/zoo/dvc.yaml:train")
    both = [project.start(*repro) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    # The one that comes second is refused, in a sentence; it never waits within a stage, nor writes beside the first.
    assert min(process.returncode for process in both) == 0, said
    refused = [text for process, text in zip(both, said, strict=True) if process.returncode != 0]
    assert all("busy" in text or "Unable to acquire lock" in text for text in refused), refused
    assert "up to date" in project.run(*repro).stdout
    ours = (project.root / "pipelines/zoo/out/train.json").read_bytes()
    code, _, said = command("run", project.root / "pipelines/zoo", "--stage", "train")
    assert code == 0, said
    assert (project.root / "pipelines/zoo/out/train.json").read_bytes() == ours


def test_a_source_that_is_missing_is_told_in_one_sentence(tmp_path, copied_project):
    project = copied_project(tmp_path / "project")
    missing = "registry/zoo/digits-vgg-1x8/model.safetensors"
    (project.root / missing).unlink()
    # The index, which lies upstream, would be told of it first.
    done = project.run("dvc", "repro", "--single-item", "pipelines/zoo/dvc.yaml:train")
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and missing in errors[0] and "local:digits-vgg-1x8" in errors[0]
    assert "Traceback" not in done.stderr
    assert not list((project.root / "pipelines/zoo").glob("out/*"))


def test_the_report_at_the_root_pulls_the_pipelines_in(tiny):
    dag = tiny.run("dvc", "dag", "--mermaid", "report").stdout
    nodes = set(re.findall(r'\["(.+)"\]', dag))
    assert nodes >= {f"pipelines/dpiat/dvc.yaml:{stage}" for stage in STAGES}
    assert nodes >= {"pipelines/zoo/dvc.yaml:train", "pipelines/zoo/dvc.yaml:evaluate", "report"}


def test_what_one_machine_pushes_another_pulls(tiny, tmp_path):
    shutil.copytree(tiny.root, tmp_path / "ours", symlinks=True)
    ours = replace(tiny, root=tmp_path / "ours")
    theirs = replace(tiny, root=tmp_path / "theirs")
    shelf = ("dvc", "remote", "add", "--local", "--default", "shelf", str(tmp_path / "shelf"))
    for command in (shelf, ("dvc", "push", "pipelines/dpiat/dvc.yaml")):
        done = ours.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    # What git has: everything but networks and DVC's own files.
    results = shutil.ignore_patterns("cache", "tmp", "config.local", "sources", "models", "model", "plans", "starts")
    shutil.copytree(
        ours.root,
        theirs.root,
        symlinks=True,
        ignore=lambda folder, names: results(folder, names) if {".dvc", "out"} & {*folder.split("/")} else [],
    )
    before = ours.contents("pipelines/dpiat/out")
    assert len(theirs.contents("pipelines/dpiat/out")) < len(before)
    for command in (shelf, ("dvc", "pull", "pipelines/dpiat/dvc.yaml")):
        done = theirs.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert theirs.contents("pipelines/dpiat/out") == before
    assert "up to date" in theirs.run("dvc", "status", "pipelines/dpiat/dvc.yaml").stdout


def test_the_committed_lock_knows_the_index_as_it_is():
    # If this fails: kzoo index, then dvc commit -f index
    stage = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["index"]
    files = [entry for entry in (*stage["deps"], *stage["outs"]) if not entry["md5"].endswith(".dir")]
    assert len(files) > 15
    for entry in files:
        assert hashlib.md5((ROOT / entry["path"]).read_bytes(), usedforsecurity=False).hexdigest() == entry["md5"], (
            entry
        )

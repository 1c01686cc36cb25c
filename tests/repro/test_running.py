"""What stages are given, and what becomes of them, with a program in the place of DVC."""

import os
from pathlib import Path

import pytest

from kzoo.errors import CheckFailed, InputError, WorldError
from kzoo.locking import held
from kzoo.repro import running
from kzoo.repro.project import Project
from kzoo.repro.running import Reproduction, Resources
from kzoo.repro.stage_graph import stage_graph
from kzoo.slots import Slots


def graph(count=3):
    """Stages that need nothing of each other, and one that needs all."""
    names = [f"s{number}" for number in range(count)]
    stages = {name: {"cmd": "true", "outs": [name]} for name in names}
    return stage_graph({"": {"stages": stages | {"last": {"cmd": "true", "deps": names, "outs": ["last"]}}}})


@pytest.fixture
def reproduction(tmp_path, monkeypatch):
    """A run with a shell script for DVC, which gets the stage's name as its fourth argument."""
    monkeypatch.setattr(running, "_EVERY", 0.01)

    def make(script, resources=None, count=3):
        program = tmp_path / "dvc"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        project = Project(tmp_path, str(program), graph(count))
        return Reproduction(project, list(project.graph.stages), resources or Resources(2, 2))

    return make


def go(run):
    written = []
    run.run(written.append, None)
    return "".join(written)


def test_each_stage_is_one_call_of_dvc_that_waits_for_its_lock(reproduction, tmp_path):
    run = reproduction('echo "$@" >> calls')
    go(run)
    run.require_done()
    assert sorted((tmp_path / "calls").read_text().splitlines()) == [
        f"--wait-for-lock repro --single-item {name}" for name in ("last", "s0", "s1", "s2")
    ]


def test_stages_share_the_cores_and_each_counts_as_one(reproduction, tmp_path, monkeypatch):
    script = "echo $KZOO_JOBS $KZOO_SLOTS >> seen; while [ $4 != last ] && [ ! -e go ]; do sleep 0.02; done"
    run = reproduction(script, Resources(2, 5), count=2)
    slots, free = Slots(tmp_path / ".dvc/tmp/kzoo/slots"), []

    def look(_teller):
        # Both stages under way, and looked after at least once.
        if len(run._jobs) == 2 and all(job.slot for job in run._jobs) and not free:
            free.extend(iter(slots.take, None))
            (tmp_path / "go").touch()

    monkeypatch.setattr(running.Teller, "tick", look)
    go(run)
    run.require_done()
    assert len(free) == 3, "five cores, two stages under way"
    assert set((tmp_path / "seen").read_text().splitlines()) == {f"5 {slots.folder}"}
    for slot in free:
        slot.give_back()
    assert len(list(iter(slots.take, None))) == 5, "all are given back"


def test_with_gpus_each_stage_has_one_of_its_own_and_its_share_of_the_cores(reproduction, tmp_path):
    script = (
        'if ! mkdir gpu$CUDA_VISIBLE_DEVICES; then echo taken; exit 1; fi; echo "$CUDA_DEVICE_ORDER $KZOO_JOBS'
        ' $CUDA_VISIBLE_DEVICES $KZOO_SLOTS" >> seen; sleep 0.2; rmdir gpu$CUDA_VISIBLE_DEVICES'
    )
    run = reproduction(script, Resources(2, 5, ("0", "3")), count=4)
    said = go(run)
    run.require_done()
    assert set((tmp_path / "seen").read_text().splitlines()) == {"PCI_BUS_ID 2 0 ", "PCI_BUS_ID 2 3 "}
    assert "s0: begins on GPU 0" in said and "s1: begins on GPU 3" in said


def test_a_stage_that_another_dvc_holds_back_is_tried_again(reproduction, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_AGAIN_AFTER", (0.01, 0.01))
    script = 'echo x >> $4.tries; [ $(wc -l < $4.tries) -gt 2 ] || { echo "ERROR: Unable to acquire lock."; exit 255; }'
    run = reproduction(script, count=1)
    go(run)
    run.require_done()
    assert (tmp_path / "s0.tries").read_text() == "x\n" * 3
    monkeypatch.setattr(running, "_AGAIN_AFTER", (0.01,))
    (tmp_path / "s0.tries").unlink()
    run = reproduction(script, count=1)
    go(run)
    with pytest.raises(WorldError, match=r"1 stage failed: s0; left out because of that: 1 stage; what"):
        run.require_done()
    assert run.failures[0].tail == ("ERROR: Unable to acquire lock.",) and run.failures[0].code == 255


@pytest.mark.parametrize(
    ("said", "code", "error"),
    [
        ("failed to run: kzoo run, exited with 1", 255, CheckFailed),
        ("failed to run: kzoo run, exited with 2", 255, InputError),
        ("failed to run: kzoo run, exited with 3", 255, WorldError),
        ("failed to run: kzoo run, exited with -9", 255, WorldError),
        ("unexpected error", 255, WorldError),
    ],
)
def test_the_exit_code_is_that_of_the_command_of_the_stage(reproduction, said, code, error):
    run = reproduction(f"echo 'ERROR: {said}'; exit {code}", count=1)
    go(run)
    with pytest.raises(error, match="the same command goes on") as caught:
        run.require_done()
    assert caught.type is error


def test_only_the_last_lines_of_a_long_log_are_told_and_nothing_in_them_can_harm(reproduction):
    run = reproduction(r"seq 10000; printf 'a\033[2Jb\rc\n'; exit 1", count=1)
    go(run)
    assert run.failures[0].tail == (*map(str, range(9991, 10001)), "a\N{REPLACEMENT CHARACTER}[2Jb", "c")


def test_times_are_kept_of_what_was_run(reproduction):
    run = reproduction("[ $4 != s0 ] || echo \"Stage 's0' didn't change, skipping\"", count=2)
    go(run)
    assert set(run.project.seconds()) == {"s1", "last"}
    assert run.stages["s0"].how == "up to date" and run.stages["s1"].how == "run"


def test_there_is_one_at_a_time(reproduction, tmp_path):
    run = reproduction("true")
    own = tmp_path / ".dvc/tmp/kzoo"
    with held(own / "lock", "", "", 1), pytest.raises(WorldError, match="another kzoo repro is running"):
        go(run)


def nvidia_smi(folder: Path, monkeypatch, count):
    program = folder / "nvidia-smi"
    lines = "".join(f"GPU {number}: A Card (UUID: GPU-aa-{number})\n" for number in range(count))
    program.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-j", "0"), "0 is not in the range x>=1"),
        (("-j", "many"), "'many' is not a valid integer"),
        (("dpait",), "'dpait' is no paper with a dvc.yaml in pipelines; nearest: dpiat"),
        (("--gpus", "0,0"), "names 0 twice"),
        (("--gpus", "0,x"), "expected numbers"),
        (("--gpus", "0,2"), "2 is not here; 'nvidia-smi -L' lists 0, 1"),
        (("--gpus", "0,GPU-aa-1", "-j", "3"), "-j 3 with 2 GPUs: each stage gets a GPU of its own"),
        (("--root", "/"), "lies in no DVC repository"),
    ],
)
def test_bad_input_is_told_before_anything_is_started(command, tmp_path, monkeypatch, words, sentence):
    nvidia_smi(tmp_path, monkeypatch, 2)
    code, out, said = command("repro", *words)
    assert (code, out) == (2, "") and said.startswith("Error: ") and sentence in said


def test_no_gpu_is_told(command, tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, 0)
    code, _, said = command("repro", "--gpus", "0")
    assert code == 2 and "'nvidia-smi -L' finds no GPU" in said

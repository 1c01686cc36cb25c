"""Stages of a small repository side by side, through DVC itself: results, failures, and whatever ends them."""

import json
import os
import signal
import subprocess

import pytest

REPRO = ("kzoo", "repro", "-j", "2")
#: A stage that ends only while that of the other paper is under way.
MEET = "mkdir -p out; touch ../../{own}.here; until [ -e ../../{other}.here ]; do sleep 0.05; done; cat ../../index > out/s"


def outcomes(text):
    """What the table says was done, by stage."""
    rows = [line.rsplit(maxsplit=1)[0] for line in text.splitlines()[2:] if line.strip()]
    return dict(row.split("  ", 1) for row in rows)


def done(text):
    return {stage.strip(): what.strip() for stage, what in outcomes(text).items()}


def test_stages_run_at_once_and_leave_what_plain_dvc_leaves(toy, another_toy):
    plain = another_toy("plain")
    for here in (toy, plain):
        here.stage("a", "s", MEET.format(own="a", other="b"))
        here.stage("b", "s", MEET.format(own="b", other="a"))
    run = toy.run(*REPRO)
    assert run.returncode == 0, run.stderr
    assert done(run.stdout) == dict.fromkeys(("index", "a s", "a t", "b s", "b t", "report"), "run")
    # Lines for programs: no control characters, each change once.
    said = run.stderr.splitlines()
    assert len(said) == 12 and not any("\x1b" in line or "\r" in line for line in said)
    assert said[0] == "0:00 index: begins (0 of 6 stages done, 1 under way)"
    assert said[-1].endswith("s (6 of 6 stages done, 0 under way)")

    for other in "ab":
        (plain.root / f"{other}.here").touch()
    assert plain.run("dvc", "repro").returncode == 0
    assert toy.locks() == plain.locks() and len(toy.locks()) == 3
    assert "up to date" in toy.run("dvc", "status").stdout

    again = toy.run(*REPRO, "a", "--json")
    assert again.returncode == 0
    found = json.loads(again.stdout)
    assert [stage["target"] for stage in found["stages"]] == [
        "index",
        *(f"pipelines/a/dvc.yaml:{name}" for name in "st"),
    ]
    assert {(stage["state"], stage["how"], stage["gpu"]) for stage in found["stages"]} == {("done", "up to date", None)}
    assert found["failures"] == []
    toy.require_quiet()


def test_a_failed_stage_keeps_back_what_needs_it_and_nothing_else(toy):
    toy.stage("a", "s", "echo what is wrong >&2; exit 2")
    run = toy.run(*REPRO)
    assert run.returncode == 2
    assert done(run.stdout) == {
        "index": "run",
        "a s": "exit code 2",
        "a t": "not started",
        "b s": "run",
        "b t": "run",
        "report": "not started",
    }
    assert "a s failed; the last lines of .dvc/tmp/kzoo/logs/a-s.log:\n" in run.stderr
    assert "\n  what is wrong\n" in run.stderr
    assert run.stderr.endswith(
        "Error: 1 stage failed: a s; left out because of that: 2 stages; what is done is kept, and the same command goes on\n"
    )
    toy.stage("a", "s", "mkdir -p out; cat ../../index > out/s")
    run = toy.run(*REPRO)
    assert run.returncode == 0, run.stderr
    assert {stage for stage, what in done(run.stdout).items() if what == "up to date"} == {"index", "b s", "b t"}
    assert (toy.root / "report").read_text() == "index\nindex\n"


def number_of(toy, *words):
    """The process whose command line holds all words."""
    found = [number for number, line in toy.processes().items() if all(word in line for word in words)]
    assert len(found) == 1, (words, toy.processes())
    return found[0]


@pytest.mark.parametrize(
    ("who", "words", "code"),
    [
        ("dvc", ("dvc --wait-for-lock", "c/dvc.yaml:t"), 3),
        ("guard", ("guard.py", "c/dvc.yaml:t"), 3),
        ("the command", ("-c echo t",), 3),
        ("kzoo", ("kzoo repro",), -signal.SIGKILL),
    ],
)
def test_a_process_that_is_killed_leaves_nothing_running_and_the_next_run_goes_on(toy, who, words, code):
    toy.slow_paper()
    process = toy.start(*REPRO, "c")
    toy.wait_for("begun")
    if who == "dvc":
        # Its guard has the same words, before its own.
        guard = number_of(toy, "guard.py")
        target = next(
            number
            for number, line in toy.processes().items()
            if all(word in line for word in words) and number != guard
        )
    else:
        target = number_of(toy, *words)
    os.kill(target, signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code, said
    toy.require_quiet()
    finish(toy)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_and_the_next_run_goes_on(toy, number, code):
    toy.slow_paper()
    process = toy.start(*REPRO, "c")
    toy.wait_for("begun")
    os.kill(process.pid, number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert toy.processes() == {}, "whoever gets the prompt back finds nothing running"
    finish(toy)


def finish(toy):
    (toy.root / "go").touch()
    run = toy.run(*REPRO, "c")
    assert run.returncode == 0, run.stderr
    assert done(run.stdout) == {"c t": "run"}
    assert (toy.root / "begun").read_text() == "t\nt\n", "once before, once now"
    assert (toy.root / "pipelines/c/t").read_text() == "t\n"


def test_on_a_terminal_there_is_one_table(toy):
    script = subprocess.list2cmdline([*REPRO, "a"])
    run = toy.run("script", "-qec", script, "/dev/null", env=toy.environment | {"TERM": "xterm", "COLUMNS": "60"})
    assert run.returncode == 0, run.stdout
    assert "begins" not in run.stdout
    assert "\x1b[4F\x1b[K" in run.stdout, "four lines, rewritten: head, index, a, all in one"
    assert "3 of 3 stages done, 0 under way" in run.stdout.rpartition("\x1b[4F")[2]

"""The table on a terminal, and lines elsewhere."""

from kzoo.repro.progress import StageStatus, Teller, duration, percent_in, table
from kzoo.repro.schedule import State


def status(paper, name, state=State.WAITING, **fields):
    return StageStatus(f"{paper}:{name}", paper, name, state, **fields)


def some():
    return [
        status("index", "index", State.DONE, seconds=4.2),
        status("dpiat", "sources", State.DONE, seconds=61.0),
        status("dpiat", "match", State.RUNNING, started=100.0),
        status("dpiat", "transfer", State.RUNNING, started=90.0, percent=40, gpu="1"),
        status("zoo", "train", State.FAILED, seconds=9.0),
        status("zoo", "evaluate", State.LEFT_OUT),
        status("report", "report", State.LEFT_OUT),
        status("dils", "teachers"),
    ]


def test_a_paper_is_a_row_with_what_is_done_and_under_way():
    assert table(some(), now=130.0, since=60.0) == [
        "paper    done  now",
        "index     1/1  done, 0:04",
        "dpiat     1/3  match, 0:30; transfer 40% on GPU 1, 0:40",
        "zoo       0/2  train failed",
        "report    0/1  left out",
        "dils      0/1  waits",
        "2 of 8 stages done, 2 under way, 1 failed, 1:10",
    ]


def test_elsewhere_each_change_is_a_line_without_control_characters():
    written, stages = [], some()
    teller = Teller(stages, written.append, None, clock=lambda: 7.0)
    teller.changed(stages[0], "run, 4.2 s")
    teller.tick()
    teller.changed(status("a\x1b", "b"), "begins")
    assert written == [
        "0:00 index: run, 4.2 s (2 of 8 stages done, 2 under way, 1 failed)\n",
        "0:00 a\N{REPLACEMENT CHARACTER} b: begins (2 of 8 stages done, 2 under way, 1 failed)\n",
    ]
    assert not teller.wants_percent


def test_on_a_terminal_the_table_is_rewritten_in_its_place_when_it_has_changed():
    now, written, stages = [100.0], [], some()
    teller = Teller(stages, written.append, 24, clock=lambda: now[0])
    teller.changed(stages[0], "run")
    first = written[-1].splitlines()
    assert len(first) == 7 and all(line.startswith("\x1b[K") for line in first)
    assert max(len(line) for line in first) == 23 + len("\x1b[K"), "no line is wrapped"
    teller.tick()
    now[0] += 0.3
    teller.tick()
    assert len(written) == 1, "too soon, and then nothing new"
    now[0] += 3
    teller.tick()
    assert written[1].startswith("\x1b[7F\x1b[K") and len(written) == 2


def test_how_far_a_stage_is_comes_from_the_last_line_that_says_it():
    assert percent_in("train:  10%, 3 s\ntrain:  40%, 9 s\nnote\n") == 40
    assert percent_in("\rtrain:   7%, 3 s   \rtrain: 100%, 9 s\n") == 100
    assert percent_in("Running stage 'x':\n> kzoo run 50%\n") is None


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 65, 3605)] == ["0:00", "1:05", "1:00:05"]

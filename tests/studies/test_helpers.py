"""Work for this process and others, as many as may work at the moment."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest

from kzoo.slots import SLOTS, Slots
from kzoo.studies.helpers import helped


@pytest.fixture(autouse=True)
def unshared(monkeypatch):
    monkeypatch.delenv(SLOTS, raising=False)


def who(seconds, number):
    """The number, and the process that has handled it."""
    time.sleep(seconds)
    return number, os.getpid()


def odd(number):
    if number == 3:
        raise ValueError("three")
    return who(0.05, number)


def meet(folder, number):
    """Wait until all four are under way."""
    (folder / str(number)).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.getpid()


def test_one_process_works_alone_and_in_order():
    assert list(helped(partial(who, 0), range(5), 1)) == [(number, os.getpid()) for number in range(5)]
    assert list(helped(partial(who, 0), [7], 4)) == [(7, os.getpid())]
    assert list(helped(partial(who, 0), [], 4)) == []


def test_this_process_works_beside_the_others(tmp_path):
    found = list(helped(partial(meet, tmp_path), range(4), 4))
    assert len(set(found)) == 4 and os.getpid() in found


def test_every_piece_is_done_once():
    found = list(helped(partial(who, 0.02), range(100), 3))
    assert sorted(number for number, _ in found) == list(range(100))


def test_an_error_is_raised_and_what_waits_is_left():
    seen = []
    with pytest.raises(ValueError, match="three"):
        seen.extend(helped(odd, [3, *range(4, 100)], 2))
    assert len(seen) < 97


def test_nobody_helps_while_all_slots_are_held(tmp_path, monkeypatch):
    monkeypatch.setenv(SLOTS, str(tmp_path))
    slots = Slots.made(tmp_path, 1)
    other = slots.take()
    assert {process for _, process in helped(partial(who, 0.02), range(20), 2)} == {os.getpid()}
    other.give_back()
    assert slots.take() is not None, "and none is kept"


@pytest.mark.faults
def test_others_help_as_soon_as_a_slot_is_free_and_give_it_back(tmp_path, monkeypatch):
    monkeypatch.setenv(SLOTS, str(tmp_path))
    slots = Slots.made(tmp_path, 1)
    other = slots.take()
    results = helped(partial(who, 0.1), range(100), 4)
    found = [next(results) for _ in range(3)]
    other.give_back()
    found.extend(results)
    assert sorted(number for number, _ in found) == list(range(100))
    assert {process for _, process in found[:3]} == {os.getpid()}
    assert len({process for _, process in found}) == 2, (
        "one slot: one helper at a time, and the pool takes the idle one"
    )
    assert slots.take() is not None
    assert [thread for thread in threading.enumerate() if thread.name.startswith("helper")] == []


def test_a_helper_that_is_ended_from_outside_is_told():
    with pytest.raises(BrokenProcessPool):
        list(helped(end_unless_first, range(4), 2))


def end_unless_first(number):
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    return who(1, number)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(
        "import multiprocessing, os, time\n"
        "from kzoo.studies.helpers import end_with\n"
        "def work(parent):\n"
        "    end_with(parent)\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=work, args=(os.getpid(),))\n"
        "    child.start()\n"
        "    child.join()\n"
    )
    parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline, "the child is still there"
        time.sleep(0.05)

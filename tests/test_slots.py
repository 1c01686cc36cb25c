"""Cores that processes share."""

import subprocess
import sys

from kzoo.slots import SLOTS, Slots, shared_slots


def test_there_are_as_many_as_were_made_and_each_has_one_holder(tmp_path):
    slots = Slots.made(tmp_path / "slots", 2)
    first, second = slots.take(), slots.take()
    assert first is not None and second is not None and slots.take() is None
    assert Slots(tmp_path / "slots").take() is None
    first.give_back()
    assert slots.take() is not None
    second.give_back()


def test_fewer_or_more_can_be_made_of_a_folder(tmp_path):
    for count in (3, 1, 2):
        slots = Slots.made(tmp_path, count)
        held = list(iter(slots.take, None))
        assert len(held) == count
        for slot in held:
            slot.give_back()


def test_a_holder_that_is_killed_gives_it_back(tmp_path):
    slots = Slots.made(tmp_path, 1)
    program = (
        "import pathlib, sys, time\nfrom kzoo.slots import Slots\n"
        "slot = Slots(pathlib.Path(sys.argv[1])).take()\nprint(slot is not None, flush=True)\ntime.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    assert slots.take() is None
    other.kill()
    other.communicate()
    assert slots.take() is not None


def test_a_folder_that_is_gone_has_none(tmp_path, monkeypatch):
    assert Slots(tmp_path / "gone").take() is None
    monkeypatch.delenv(SLOTS, raising=False)
    assert shared_slots() is None
    monkeypatch.setenv(SLOTS, str(tmp_path))
    assert shared_slots().folder == tmp_path

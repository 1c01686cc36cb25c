"""Many recipes at once: in several processes, and an interrupted stage goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from kzoo.environment import environment_class
from kzoo.errors import InputError, WorldError
from kzoo.files import replacing
from kzoo.hashing import weights_sha256
from kzoo.layout import WEIGHTS
from kzoo.recipe import Recipe
from kzoo.remembering import STUDY, Remembered
from kzoo.running import Diverged, checkpoint_folder, run_recipe
from kzoo.studies.closure import code_digest
from kzoo.studies.design import Run
from kzoo.studies.helpers import helped
from kzoo.studies.records import Record, told_of
from kzoo.surroundings import Surroundings
from kzoo.training.checkpoints import kept_epochs
from kzoo.zoo import Zoo, shipped_zoo


@dataclass(frozen=True)
class Unit:
    """A recipe with a name; ``keep`` says that its model folder is wanted, not only what is told of it.

    Units that measure the same on the way are ``together``: one process carries them out in a row, and remembers it.
    """

    name: str
    recipe: Recipe
    keep: bool = False
    together: str | None = None


@dataclass(frozen=True)
class Order:
    """A unit, the folder that its recipe's paths start from, where its result goes, and what decides its record."""

    unit: Unit
    base: Path
    folder: Path
    stamp: str


class Work:
    """A folder of units that are done, for as long as the stage is not."""

    def __init__(self, run: Run, module: str) -> None:
        self.run = run
        own = run.work / module.rpartition(".")[2]
        # What other code has done, even the half of a training, is of no use.
        self.folder = own / code_digest(module)[:16]
        for other in sorted(own.glob("*")):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    def carry_out(self, units: Sequence[Unit], what: str) -> list[Record]:
        """The records of the units, in their order; those that are done already are not done again.

        A record holds ``name``, ``sha256`` of the weights, ``epochs`` (the test accuracy after each), ``diverged`` (the
        step, or None), and what else `kzoo.studies.records.told_of` tells.

        Raises:
            InputError, CheckFailed, WorldError: what the first unit that fails raises.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if len({unit.name for unit in units}) < len(units):
            raise InputError(f"two runs of {what} have one name: check params.yaml for what stands there twice")
        here = environment_class()
        orders = [Order(unit, self.run.base, self.folder, _stamp(unit, here)) for unit in units]
        found = {order.unit.name: _finished(order) for order in orders}
        waiting = [order for order in orders if found[order.unit.name] is None]
        done, steps, saved = len(orders) - len(waiting), 0, 0
        for record in self._results(waiting):
            steps, saved = steps + record.pop("steps"), saved + record.pop("saved")
            found[record["name"]] = record
            done += 1
            self.run.progress(what, done / len(orders))
        told = f"{what}: {len(orders)} runs, of which {len(orders) - len(waiting)} were done before"
        self.run.say(f"{told}; {steps} steps trained" + (f", {saved} taken over" if saved else ""))
        return [record for record in found.values() if record is not None]

    def model(self, name: str) -> Path:
        """The model folder of a unit that was to be kept."""
        return self.folder / name

    def clear(self) -> None:
        """Remove what is kept for going on, once the stage has written its outputs."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _results(self, orders: Sequence[Order]) -> Iterator[Record]:
        if self.run.cluster is not None:
            yield from self.run.cluster.carry_out(orders)
            return
        try:
            for records in helped(_carry_out_all, _groups(orders), self.run.jobs):
                yield from records
        except BrokenProcessPool:
            raise WorldError(
                "a process of this stage was ended from outside, perhaps for lack of memory: the same command goes on; "
                "with --jobs 1 it needs less memory"
            ) from None


def _groups(orders: Sequence[Order]) -> list[list[Order]]:
    """Orders whose units are together, in the order of the first of each."""
    groups: dict[str, list[Order]] = {}
    for order in orders:
        unit = order.unit
        groups.setdefault(f"unit {unit.name}" if unit.together is None else f"together {unit.together}", []).append(
            order
        )
    return list(groups.values())


def _carry_out_all(orders: Sequence[Order]) -> list[Record]:
    return [_carry_out(order) for order in orders]


def _stamp(unit: Unit, environment: Mapping[str, str]) -> str:
    """What decides a record: the recipe with its images and files, what is kept, and the class of the machine."""
    decides = {"recipe": unit.recipe.model_dump(), "keep": unit.keep, "environment": environment}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _record_file(order: Order) -> Path:
    return order.folder / f"{order.unit.name}.json"


def _finished(order: Order) -> Record | None:
    try:
        stored = json.loads(_record_file(order).read_text(encoding="utf-8"))
        record = dict(stored["record"]) if stored["stamp"] == order.stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if record is None or not order.unit.keep or record["diverged"] is not None:
        return record
    weights = order.folder / order.unit.name / WEIGHTS
    return record if weights.is_file() and weights_sha256([weights]) == record["sha256"] else None


@cache
def _zoo() -> Zoo:
    return shipped_zoo()


@cache
def _surroundings(base: Path) -> Surroundings:
    """One for all units of a process, so that images and sources are read once, and what is measured is remembered."""
    return Surroundings(base, _zoo, remembered=Remembered(STUDY))


def _carry_out(order: Order) -> Record:
    return carry_out(order, _surroundings(order.base))


def carry_out(order: Order, where: Surroundings) -> Record:
    """Carry one unit out, and write down that it is done.

    Raises:
        InputError, CheckFailed, WorldError: what its recipe raises.
    """
    place = order.folder / order.unit.name
    # What is said of an older folder of that name would be said of this one.
    _record_file(order).unlink(missing_ok=True)
    before = kept_epochs(checkpoint_folder(place))
    record: Record = {"name": order.unit.name, "sha256": None, "epochs": [], "diverged": None}
    steps = saved = 0
    try:
        with _quiet():
            result = run_recipe(order.unit.recipe, where, place, force=True)
        record["sha256"] = weights_sha256([place / WEIGHTS])
        record |= told_of(result)
        if result.history is not None:
            epochs = result.history.epochs
            saved = epochs[before - 1].step if 0 < before <= len(epochs) else 0
            steps = epochs[-1].step - saved
    except (MemoryError, torch.OutOfMemoryError):
        raise WorldError(
            f"the memory does not suffice for {order.unit.name}: what is done is kept; run fewer at once (--jobs)"
        ) from None
    except Diverged as end:
        record["diverged"] = end.step
        shutil.rmtree(checkpoint_folder(place), ignore_errors=True)
    if not order.unit.keep:
        shutil.rmtree(place, ignore_errors=True)
    write_down(order, record)
    return record | {"steps": steps, "saved": saved}


def write_down(order: Order, record: Record) -> None:
    """Say that a unit is done, whose model folder is there if it is kept.

    Raises:
        WorldError: the disk fails.
    """
    with replacing(_record_file(order)) as temporary:
        temporary.write_text(json.dumps({"stamp": order.stamp, "record": record}), encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without kzoo's notes on single recipes, which nobody could tell apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

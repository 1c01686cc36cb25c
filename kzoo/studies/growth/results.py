"""The tables of a study of growth, by what its metrics and figures ask for.

Arrays hold a number for each seed. Arms are compared within a seed: one teacher, one order of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.design import Run, tables_of
from kzoo.studies.growth.design import Profile, Way, all_ways, data_of
from kzoo.studies.statistics import Array

#: Whether arms are at their own best rate, or all at the control's.
Use = Literal["own", "equal"]
USES: tuple[Use, ...] = ("own", "equal")


class Steps(NamedTuple):
    """Steps to an accuracy by seed, and which runs never had it: those count as their whole training."""

    counts: Array
    without: NDArray[np.bool_]


class Results:
    """The study's tables, by what a metric asks for.

    Raises:
        InputError: they are not those of the profile.
    """

    def __init__(self, run: Run) -> None:
        self.profile: Profile = run.profile
        self.folder = run.name_of_results
        self.seeds = list(self.profile.seeds)
        with tables_of(run):
            self._read(run)

    def _read(self, run: Run) -> None:
        self.classes = {name: told["classes"] for name, told in run.table("teachers.json")["data"].items()}
        grown = run.table("grow.json")
        self._teachers = {(row["teacher"], row["data"], row["seed"]): row for row in grown["teachers"]}
        self._starts = {(Way(row["case"], row["teacher"], row["arm"]), row["seed"]): row for row in grown["starts"]}
        self.sweep = run.table("sweep.json")
        self.rates = {Way(row["case"], row["teacher"], row["arm"]): row for row in self.sweep["rates"]}
        self._runs: dict[tuple[Way, Use], dict[int, dict[str, Any]]] = {}
        for row in run.table("train.json")["runs"]:
            for use in row["uses"]:
                self._runs.setdefault((Way(row["case"], row["teacher"], row["arm"]), use), {})[row["seed"]] = row
        for way in all_ways(self.profile):
            self.rates[way]["own"]
            for seed in self.seeds:
                self._teachers[way.teacher, data_of(self.profile, way), seed]["accuracy"]
            for use in USES:
                for row in self.rows(way, use):
                    _require_sound(row)

    def rows(self, way: Way, use: Use) -> list[dict[str, Any]]:
        """The runs of an arm with one teacher, by seed."""
        return [self._runs[way, use][seed] for seed in self.seeds]

    def starts(self, way: Way) -> list[dict[str, Any]]:
        """What an arm made of a teacher before any training, by seed; nothing of an arm that does not grow."""
        return [self._starts[way, seed] for seed in self.seeds if (way, seed) in self._starts]

    def ways(self, case: str, arm: str, teachers: Sequence[str] | None = None) -> list[Way]:
        """An arm with these teachers of its case, or all."""
        known = self.profile.cases[case].teachers
        return [Way(case, teacher, arm) for teacher in known if teachers is None or teacher in teachers]

    def teacher(self, way: Way, what: Literal["accuracy", "loss"]) -> Array:
        """How the teachers do on the images of their students."""
        data = data_of(self.profile, way)
        return np.array([self._teachers[way.teacher, data, seed][what] for seed in self.seeds])

    def accuracy(self, way: Way, epoch: int | None, use: Use = "own") -> Array:
        """Test accuracies after so many epochs, 0 for the start, None for the end; guessing's of a run that diverged.

        Raises:
            InputError: nothing was tested then.
        """
        chance = 1 / self.classes[data_of(self.profile, way)]
        return np.array([self._accuracy(way, row, epoch, chance) for row in self.rows(way, use)])

    def _accuracy(self, way: Way, row: dict[str, Any], epoch: int | None, chance: float) -> float:
        if epoch == 0 and row["tests"] and row["tests"][0][0] == 0:
            return float(row["tests"][0][1])
        if row["diverged"] is not None:
            return chance
        epochs = row["epochs"]
        # The loop is tested once, at its end.
        if epoch is not None and (epoch == 0 or epoch > len(epochs) or "loop" in row):
            raise InputError(
                f"nothing was tested after epoch {epoch} of the arm {way.arm} of {way.case}: choose another"
            )
        return float(epochs[-1 if epoch is None else epoch - 1])

    def loss_at_start(self, way: Way) -> Array:
        """Test losses of what was grown before any training.

        Raises:
            InputError: the arm grows nothing.
        """
        if not self.starts(way):
            raise InputError(f"the arm {way.arm} of {way.case} grows nothing: choose another")
        return np.array([row["loss"] for row in self.starts(way)])

    def steps(self, way: Way, level: str, use: Use = "own") -> Steps:
        """Steps to so much more than the teacher's accuracy."""
        wanted = self.teacher(way, "accuracy") + self.profile.levels[level]
        counts, without = [], []
        for row, accuracy in zip(self.rows(way, use), wanted, strict=True):
            # Accuracies are rounded to 6 digits.
            reached = (step for step, found in row["tests"] if found >= accuracy - 1e-6)
            first = next(reached, None) if row["diverged"] is None else None
            counts.append(row["steps"] if first is None else first)
            without.append(first is None)
        return Steps(np.array(counts, dtype=np.float64), np.array(without))

    def is_loop(self, way: Way) -> bool:
        """Whether an arm trains between insertions; it is tested once, at its end."""
        return any("loop" in row for row in self.rows(way, "own"))

    def diverged(self, *ways: Way, use: Use) -> int:
        """How many runs of these arms diverged."""
        return sum(row["diverged"] is not None for way in ways for row in self.rows(way, use))

    def require(self, claim: Claim, case: str, teachers: Sequence[str] | None, *arms: str) -> None:
        """Refuse a claim whose case, teachers or arms this profile does not have.

        Raises:
            InputError: it is one.
        """
        if case not in self.profile.cases:
            raise InputError(
                f"claim {claim.id} names the case {case!r}, but the profile has {_list(self.profile.cases)}"
            )
        chosen = self.profile.cases[case]
        for what, names, known in (("teacher", teachers or (), chosen.teachers), ("arm", arms, list(chosen.arms))):
            for name in names:
                if name not in known:
                    raise InputError(f"claim {claim.id} names the {what} {name!r}, but {case} has {_list(known)}")
        if len(set(arms)) < len(arms):
            raise InputError(f"claim {claim.id} compares the arm {arms[0]} with itself: name another one")


def _list(names: Any) -> str:
    return ", ".join(names)


def _require_sound(row: dict[str, Any]) -> None:
    """Refuse a run whose numbers cannot be."""
    accuracies = [accuracy for _, accuracy in row["tests"]] + list(row["epochs"])
    if not all(isinstance(value, float | int) and 0 <= value <= 1 for value in accuracies):
        raise ValueError(f"the run {row['name']} has accuracies that cannot be")
    if row["diverged"] is None and not (row["epochs"] and row["tests"] and row["steps"] >= 1):
        raise ValueError(f"the run {row['name']} has no tests")

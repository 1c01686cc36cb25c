"""The tables of a study of amalgamation, by what its metrics and figures ask for.

Arrays hold a number for each seed. Arms are compared within a seed: the same teachers, the same images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.amalgamation.design import (
    COMPARED,
    CONCATENATED,
    CONCATENATED_BOTH,
    ORACLE,
    TEACHER,
    Profile,
    Way,
    all_ways,
    learns_from_teachers,
)
from kzoo.studies.design import Run, tables_of
from kzoo.studies.statistics import Array


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
        table = run.table("train.json")
        runs = {(Way(row["setting"], row["arm"]), row["seed"]): row for row in table["runs"]}
        self._accuracies: dict[Way, Array] = {}
        self._own: dict[Way, Array] = {}
        for way in all_ways(self.profile):
            rows = [runs[way, seed] for seed in self.seeds]
            self._accuracies[way] = _sound([row["accuracy"] for row in rows])
            if learns_from_teachers(self.profile, way.arm):
                self._own[way] = self._of_teachers(way.setting, [row["own"] for row in rows])
        self._rates = {Way(row["setting"], row["arm"]): float(row["lr"]) for row in run.table("sweep.json")["rates"]}
        beside = {(row["setting"], row["seed"]): row for row in table["compared"]}
        self._beside: dict[str, dict[str, Array]] = {}
        self._teachers: dict[str, Array] = {}
        for setting in self.profile.settings:
            rows = [beside[setting, seed] for seed in self.seeds]
            found = {name: _sound([row[name] for row in rows]) for name in (*CONCATENATED_BOTH, ORACLE)}
            found[CONCATENATED] = np.max([found[name] for name in CONCATENATED_BOTH], axis=0)
            found[TEACHER] = self._of_teachers(setting, [row["alone"] for row in rows]).max(axis=0)
            self._beside[setting] = found
            self._teachers[setting] = self._of_teachers(setting, [row["teachers"] for row in rows])

    def _of_teachers(self, setting: str, rows: Sequence[Sequence[float]]) -> Array:
        """Teachers x seeds, of a list for each seed; a student that diverged has none, and counts as always wrong."""
        count = len(self.profile.settings[setting])
        return np.stack([_sound([row[number] if row else 0.0 for row in rows]) for number in range(count)])

    def rate(self, way: Way) -> float:
        """The learning rate that was picked for an arm of a setting."""
        return self._rates[way]

    def accuracy(self, setting: str, row: str) -> Array:
        """Test accuracies over all classes of a setting: of an arm, or of what arms are compared with."""
        return self._beside[setting][row] if row in COMPARED else self._accuracies[Way(setting, row)]

    def own(self, setting: str, arm: str) -> Array:
        """A student's accuracies on the images of each teacher, among that teacher's classes: teachers x seeds.

        Raises:
            InputError: the arm has no teachers.
        """
        if Way(setting, arm) not in self._own:
            raise InputError(f"{arm} has no teachers to be compared with: choose another arm")
        return self._own[Way(setting, arm)]

    def teachers(self, setting: str) -> Array:
        """The same of the teachers themselves: teachers x seeds."""
        return self._teachers[setting]

    def require(self, claim: Claim, rows: Iterable[str], settings: Iterable[str]) -> None:
        """Refuse a claim whose arms, or settings, this profile does not have.

        Raises:
            InputError: it is one.
        """
        rows = list(rows)
        for what, names, known in (
            ("arm", rows, (*self.profile.arms, *COMPARED)),
            ("setting", list(settings), tuple(self.profile.settings)),
        ):
            for name in names:
                if name not in known:
                    raise InputError(
                        f"claim {claim.id} names the {what} {name!r}, but the profile has {', '.join(known)}"
                    )
        if len(set(rows)) < len(rows):
            raise InputError(f"claim {claim.id} compares {rows[0]} with itself: name another one")


def _sound(values: Sequence[float]) -> Array:
    if not all(isinstance(value, float | int) and 0 <= value <= 1 for value in values):
        raise ValueError("there are accuracies that cannot be")
    return np.array(values, dtype=np.float64)

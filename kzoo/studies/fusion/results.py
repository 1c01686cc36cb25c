"""The tables of a study of fusion, by what its metrics and figures ask for.

Arrays hold a number for each seed. Arms are compared within a seed: the same parents, the same test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.design import Run, tables_of
from kzoo.studies.fusion.design import COMPARED, ENSEMBLE, ENSEMBLES, Case, Profile, Way, all_cases, all_ways, arms_of
from kzoo.studies.statistics import Array

_PARENT = "parent"


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
        table = run.table("fuse.json")
        runs = {(Way(row["data"], row["network"], row["start"], row["arm"]), row["seed"]): row for row in table["runs"]}
        beside = {
            (Case(row["data"], row["network"], row["start"]), row["seed"]): row["rows"] for row in table["compared"]
        }
        self._accuracies = {
            way: _sound([runs[way, seed]["accuracy"] for seed in self.seeds]) for way in all_ways(self.profile)
        }
        self._beside: dict[Case, dict[str, Array]] = {}
        for case in all_cases(self.profile):
            rows = [beside[case, seed] for seed in self.seeds]
            self._beside[case] = {name: _sound([row[name] for row in rows]) for name in rows[0]}
            for name in ("chance", *ENSEMBLES, *self.parents):
                self._beside[case][name]

    @property
    def parents(self) -> list[str]:
        """What the parents are called."""
        return [f"{_PARENT}_{number + 1}" for number in range(len(self.profile.parents))]

    def cases(
        self,
        data: Sequence[str] | None = None,
        networks: Sequence[str] | None = None,
        starts: Sequence[str] | None = None,
    ) -> list[Case]:
        """The cases with these images, networks and starts, or all."""
        return [
            case
            for case in all_cases(self.profile)
            if (data is None or case.data in data)
            and (networks is None or case.network in networks)
            and (starts is None or case.start in starts)
        ]

    def has(self, case: Case, row: str) -> bool:
        """Whether a case has an arm, or something that arms are compared with."""
        return row in arms_of(self.profile, case) or row in (_PARENT, ENSEMBLE) or row in self._beside[case]

    def accuracy(self, case: Case, row: str) -> Array:
        """Test accuracies of an arm on all classes, or of what arms are compared with; ``parent`` is the best of a seed.

        Raises:
            InputError: the case has no such arm.
        """
        if row in arms_of(self.profile, case):
            return self._accuracies[Way(*case, row)]
        if not self.has(case, row):
            raise InputError(f"{' '.join(case)} has no {row}: choose another arm, or other cases")
        members = {_PARENT: self.parents, ENSEMBLE: list(ENSEMBLES)}.get(row, [row])
        best: Array = np.max([self._beside[case][name] for name in members], axis=0)
        return best

    def require(
        self, claim: Claim, rows: Iterable[str], chosen: Iterable[tuple[str, Sequence[str] | None, Sequence[str]]]
    ) -> None:
        """Refuse a claim whose arms, or cases, this profile does not have.

        Raises:
            InputError: it is one.
        """
        known = (*self.profile.arms, *COMPARED, ENSEMBLE)
        rows = list(rows)
        for name in rows:
            if name not in known:
                raise InputError(f"claim {claim.id} names the arm {name!r}, but the profile has {', '.join(known)}")
        if len(set(rows)) < len(rows):
            raise InputError(f"claim {claim.id} compares {rows[0]} with itself: name another one")
        for what, names, there in chosen:
            for name in names or ():
                if name not in there:
                    raise InputError(
                        f"claim {claim.id} names the {what} {name!r}, but the profile has {', '.join(there)}"
                    )


def _sound(values: Sequence[float]) -> Array:
    if not all(isinstance(value, float | int) and 0 <= value <= 1 for value in values):
        raise ValueError("there are accuracies that cannot be")
    return np.array(values, dtype=np.float64)

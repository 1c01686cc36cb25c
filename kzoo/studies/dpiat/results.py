"""The tables of the DPIAT study, by what its metrics and figures ask for.

A *ratio* is the accuracy of an arm by that of another with the same seed: of fresh weights and of the images' order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.design import Run, tables_of
from kzoo.studies.dpiat.design import Pair, Profile, all_pairs, carrying_arms, pairs_of
from kzoo.studies.records import accuracy_after
from kzoo.studies.sections import RANDOM
from kzoo.studies.statistics import Array, log_ratio

_Key = tuple[str | None, str, str]


class Results:
    """The study's tables, by what a metric asks for.

    Raises:
        InputError: they are not those of the profile.
    """

    def __init__(self, run: Run) -> None:
        self.profile: Profile = run.profile
        self.folder = run.name_of_results
        self.pairs = list(all_pairs(self.profile))
        self.arms = carrying_arms(self.profile)
        self.groups = list(self.profile.pairs)
        self.seeds = len(self.profile.seeds)
        self._pairs_of = {arm: pairs_of(self.profile, arm) for arm in self.arms} | {RANDOM: self.pairs}
        with tables_of(run):
            self._read(run)

    def _read(self, run: Run) -> None:
        # Worse than guessing no network is, nor is one whose training diverged.
        self.chance = 1 / run.table("sources.json")["data"]["classes"]
        self.matched = {(row["source"], row["target"]): row for row in run.table("match.json")["pairs"]}
        transfers = run.table("transfer.json")["transfers"]
        self.overwritten = {(row["source"], row["target"], row["arm"]): row["overwritten"] for row in transfers}
        self.sweep = run.table("sweep.json")
        self._runs: dict[_Key, list[dict[str, Any]]] = {}
        for row in run.table("train.json")["runs"]:
            self._runs.setdefault((row["source"], row["target"], row["arm"]), []).append(row)
        self.epochs = self.profile.training.epochs
        for arm in (*self.arms, RANDOM):
            for pair in self.pairs_of(arm):
                self._require_rows(pair, arm)

    def _require_rows(self, pair: Pair, arm: str) -> None:
        rows = self._rows(pair, arm)
        if [row["seed"] for row in rows] != self.profile.seeds:
            raise ValueError(f"the runs of {pair.source}, {pair.target}, {arm} have other seeds")
        for row in rows:
            sound = all(isinstance(value, float | int) and 0 <= value <= 1 for value in row["epochs"])
            if not sound or (row["diverged"] is None and len(row["epochs"]) != self.epochs):
                raise ValueError(f"the run {row['name']} has other epochs")

    def _rows(self, pair: Pair, arm: str) -> list[dict[str, Any]]:
        return self._runs[None if arm == RANDOM else pair.source, pair.target, arm]

    def pairs_of(self, *arms: str) -> list[Pair]:
        """The pairs that all these arms are run on."""
        return [pair for pair in self.pairs if all(pair in self._pairs_of[arm] for arm in arms)]

    def same(self, pair: Pair, arm: str, other: str) -> bool:
        """Whether two arms give the same bytes for a pair, seed by seed."""
        ours, theirs = ([row["sha256"] for row in self._rows(pair, which)] for which in (arm, other))
        return ours == theirs and None not in ours

    def diverged(self, pairs: Iterable[Pair], *arms: str) -> int:
        """How many runs of these arms diverged; they count as guessing."""
        keys = dict.fromkeys(
            (None if arm == RANDOM else pair.source, pair.target, arm) for pair in pairs for arm in arms
        )
        return sum(row["diverged"] is not None for key in keys for row in self._runs[key])

    def accuracies(self, pair: Pair, arm: str, epoch: int) -> Array:
        """Test accuracies after so many epochs, by seed."""
        return np.array([accuracy_after(row, epoch) for row in self._rows(pair, arm)])

    def log_ratios(self, pair: Pair, arm: str, against: str, epoch: int) -> Array:
        """Logarithms of an arm's accuracy by another's, by seed."""
        return log_ratio(self.accuracies(pair, arm, epoch), self.accuracies(pair, against, epoch), self.chance)

    def rows(self, pairs: Sequence[Pair], arm: str, against: str, epoch: int) -> Array:
        """The same for several pairs: pairs x seeds."""
        return np.stack([self.log_ratios(pair, arm, against, epoch) for pair in pairs])

    def similarities(self, pairs: Sequence[Pair], measure: str) -> Array:
        """The similarity of each pair."""
        return np.array([self.matched[pair.source, pair.target][measure] for pair in pairs])

    def require(self, claim: Claim, epoch: int, *arms: str) -> None:
        """Refuse a claim whose arms or epoch this profile does not have.

        Raises:
            InputError: it is one.
        """
        for arm in arms:
            if arm not in (RANDOM, *self.arms):
                raise InputError(f"claim {claim.id} names the arm {arm!r}, but the profile has {', '.join(self.arms)}")
        if len(set(arms)) < len(arms):
            raise InputError(f"claim {claim.id} compares the arm {arms[0]} with itself: name another one")
        if epoch > self.epochs:
            raise InputError(f"claim {claim.id} asks for epoch {epoch}, but the profile trains for {self.epochs}")

    def require_groups(self, claim: Claim, groups: Iterable[str]) -> None:
        """Refuse a claim on groups of pairs that this profile does not have.

        Raises:
            InputError: it is one.
        """
        for group in groups:
            if group not in self.groups:
                raise InputError(f"claim {claim.id} names the group {group!r}, but pairs has {', '.join(self.groups)}")

    def log_ratios_by_rate(self, arm: str, against: str, epoch: int) -> dict[float, Array]:
        """Logarithms of ratios in the sweep, pairs x seeds, for every rate."""
        runs: dict[tuple[Any, ...], list[float]] = {}
        for row in self.sweep["runs"]:
            key = (row["lr"], row["source"], row["target"], row["arm"])
            runs.setdefault(key, []).append(accuracy_after(row, epoch))

        def accuracies(rate: float, pair: Pair, which: str) -> Array:
            return np.array(runs[rate, None if which == RANDOM else pair.source, pair.target, which])

        return {
            rate: np.stack(
                [
                    log_ratio(accuracies(rate, pair, arm), accuracies(rate, pair, against), self.chance)
                    for pair in self.pairs_of(arm, against)
                ]
            )
            for rate in self.profile.sweep.rates
        }

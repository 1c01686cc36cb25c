"""The tables of the DPIAT study, by what its metrics and figures ask for.

A *ratio* is the accuracy of an arm by that of another with the same seed: of fresh weights and of the images' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kzoo.claims import Claim
from kzoo.errors import InputError
from kzoo.studies.design import Run
from kzoo.studies.dpiat.design import Pair, Profile, all_pairs, carrying_arms, pairs_of
from kzoo.studies.records import accuracy_after
from kzoo.studies.sections import RANDOM
from kzoo.studies.statistics import Array, log_ratio


class Results:
    """The study's tables, by what a metric asks for."""

    def __init__(self, run: Run) -> None:
        profile: Profile = run.profile
        self.folder = run.name_of_results
        self.pairs = list(all_pairs(profile))
        self.arms = carrying_arms(profile)
        self._pairs_of = {arm: pairs_of(profile, arm) for arm in self.arms} | {RANDOM: self.pairs}
        self.groups = list(profile.pairs)
        self.matched = {(row["source"], row["target"]): row for row in run.table("match.json")["pairs"]}
        transfers = run.table("transfer.json")["transfers"]
        self.overwritten = {(row["source"], row["target"], row["arm"]): row["overwritten"] for row in transfers}
        self.sweep = run.table("sweep.json")
        self._runs: dict[tuple[str | None, str, str], list[dict[str, Any]]] = {}
        for row in run.table("train.json")["runs"]:
            self._runs.setdefault((row["source"], row["target"], row["arm"]), []).append(row)
        self.seeds = len(next(iter(self._runs.values())))
        self.epochs = max(len(row["epochs"]) for rows in self._runs.values() for row in rows)

    def pairs_of(self, *arms: str) -> list[Pair]:
        """The pairs that all these arms are run on."""
        return [pair for pair in self.pairs if all(pair in self._pairs_of[arm] for arm in arms)]

    def accuracies(self, pair: Pair, arm: str, epoch: int) -> Array:
        """Test accuracies after so many epochs, by seed."""
        source = None if arm == RANDOM else pair.source
        return np.array([accuracy_after(row, epoch) for row in self._runs[source, pair.target, arm]])

    def log_ratios(self, pair: Pair, arm: str, against: str, epoch: int) -> Array:
        """Logarithms of an arm's accuracy by another's, by seed."""
        return log_ratio(self.accuracies(pair, arm, epoch), self.accuracies(pair, against, epoch))

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
        if epoch > self.epochs:
            raise InputError(f"claim {claim.id} asks for epoch {epoch}, but the profile trains for {self.epochs}")

    def log_ratios_by_rate(self, arm: str, against: str, epoch: int) -> dict[float, Array]:
        """Logarithms of ratios in the sweep, pairs x seeds, for every rate."""
        runs: dict[tuple[Any, ...], list[float]] = {}
        for row in self.sweep["runs"]:
            key = (row["lr"], row["source"], row["target"], row["arm"])
            runs.setdefault(key, []).append(accuracy_after(row, epoch))

        def accuracies(rate: float, pair: Pair, which: str) -> Array:
            key = (rate, None if which == RANDOM else pair.source, pair.target, which)
            return np.array(runs[key])

        return {
            rate: np.stack(
                [
                    log_ratio(accuracies(rate, pair, arm), accuracies(rate, pair, against))
                    for pair in self.pairs_of(arm, against)
                ]
            )
            for rate in dict.fromkeys(row["lr"] for row in self.sweep["runs"])
        }

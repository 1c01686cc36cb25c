"""What the gain study's runs say: ratios and differences with intervals, tests, goals, and the tables of the pages."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.gain_study import (
    ARMS,
    EPOCHS,
    PAIRS,
    RANDOM,
    RATES,
    REMEDIES,
    SEEDS,
    SOURCE_EPOCHS,
    TASK,
    Record,
    Run,
    Scope,
    best_sources,
    last_accuracy,
    picked_rates,
    study_task,
)
from kzoo.methods import dpiat
from kzoo.studies.statistics import (
    RESAMPLES,
    Array,
    Interval,
    arithmetic,
    geometric,
    log_ratio,
    over_pairs,
    over_seeds,
    pearson,
    spearman,
)

Pair = tuple[str, str]

OURS = "full_state"
CARRYING = tuple(arm for arm in ARMS if arm != RANDOM)
#: A pair counts as similar above this, by the paper's symmetric measure.
SIMILAR = 0.6
BINS = (0.0, 0.4, 0.6, 0.8, 1.0)
#: Epochs after which accuracies are compared.
MOMENTS = {"1": 1, "4": 4, "final": EPOCHS}
#: Steps are counted up to this share of the target's converged accuracy.
SHARE = 0.5
MEAN_GOAL, LOW_GOAL, LEVEL = 1.6, 1.3, 0.05
#: The random arm after four epochs, as a share of the converged accuracy: the task is neither hopeless nor easy.
BAND = (0.25, 0.6)
#: Remedies are tried on so many of the pairs that fall short, the worst first, and on all pairs of dissimilar networks.
MOST_REMEDIED = 4


# Accuracies


class Finals:
    """The final runs by pair and arm, as arrays over seeds."""

    def __init__(self, records: Sequence[Record], scope: Scope) -> None:
        self.seeds = SEEDS[: scope.seeds]
        self.scope = scope
        self._found = {
            (record["source"], record["target"], record["arm"], record["seed"]): record
            for record in records
            if record["stage"] in ("final", "remedy")
        }

    def records(self, pair: Pair, arm: str) -> list[Record]:
        """One record per seed; those of the random arm where the arm could carry nothing."""
        source, target = pair
        if arm == RANDOM:
            return [self._found[None, target, RANDOM, seed] for seed in self.seeds]
        found = [self._found[source, target, arm, seed] for seed in self.seeds]
        return self.records(pair, RANDOM) if found[0]["skipped"] else found

    def skipped(self, pair: Pair, arm: str) -> bool:
        return bool(self._found[*pair, arm, self.seeds[0]]["skipped"])

    def similarity(self, pair: Pair) -> float:
        found: float = self._found[*pair, OURS, self.seeds[0]]["similarity"]
        return found

    def overwritten(self, pair: Pair, arm: str) -> float:
        found: float = self._found[*pair, arm, self.seeds[0]]["overwritten"]
        return found

    def has(self, pair: Pair, arm: str) -> bool:
        return (*pair, arm, self.seeds[0]) in self._found

    def accuracies(self, pair: Pair, arm: str, epoch: int) -> Array:
        """Test accuracy after so many epochs; 0 where a run diverged before."""
        return np.array(
            [
                record["epochs"][epoch - 1] if len(record["epochs"]) >= epoch else 0.0
                for record in self.records(pair, arm)
            ]
        )

    def log_ratios(self, pair: Pair, arm: str, epoch: int) -> Array:
        """Logarithms of the ratio to the random arm with the same seed: of initialisation and of the images' order."""
        ours, theirs = (self.accuracies(pair, which, epoch) for which in (arm, RANDOM))
        return log_ratio(ours, theirs)

    def differences(self, pair: Pair, arm: str, epoch: int) -> Array:
        return self.accuracies(pair, arm, epoch) - self.accuracies(pair, RANDOM, epoch)

    def steps(self, pair: Pair, arm: str, accuracy: float) -> list[int | None]:
        """Steps to an accuracy, None where it was not reached."""
        return [
            next((step for step, reached in record["tests"] if reached >= accuracy), None)
            for record in self.records(pair, arm)
        ]


# Intervals and tests


def below_zero(values: Array) -> float:
    """p of the one-sided paired t test that the mean is below 0."""
    if len(values) < 2 or np.ptp(values) == 0:
        return 1.0 if len(values) < 2 or values[0] >= 0 else 0.0
    return float(stats.ttest_1samp(values, 0.0, alternative="less").pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number, by Holm's method."""
    order = np.argsort(values, kind="stable")
    found = np.empty(len(values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        found[index] = largest
    return [float(value) for value in found]


# The summary


def summarise(records: Sequence[Record], scope: Scope) -> dict[str, Any]:
    """Everything that the pages show, as JSON data; no times."""
    finals = Finals(records, scope)
    sources = best_sources(records)
    rates = picked_rates(records)
    rows = [_pair_row(finals, pair, sources) for pair in scope.chosen]
    _correct(rows)
    result = {
        "task": TASK | {"fingerprint": study_task().fingerprint, "classes": len(study_task().classes)},
        "settings": _settings(),
        "runs": len(records),
        "seeds": len(finals.seeds),
        "networks": {name: round(last_accuracy(sources[name]), 4) for name in scope.networks},
        "targets": {target: _target_row(finals, target, sources) for target in scope.targets},
        "rates": {target: {arm: rates[target, arm] for arm in ARMS} for target in scope.targets},
        "rates_at_the_edge": sum(
            rates[target, arm] in (RATES[0], RATES[-1]) for target in scope.targets for arm in ARMS
        ),
        "pairs": rows,
        "overall": {arm: _overall(finals, scope.chosen, arm) for arm in CARRYING},
        "similar": {arm: _overall(finals, _similar(finals, scope), arm) for arm in CARRYING},
        "bins": _bins(finals, scope),
        "correlation": {arm: _correlation(finals, scope, arm) for arm in CARRYING},
        "full_state_less_paper": _full_state_less_paper(finals, scope),
        "remedies": _remedies(finals, scope),
    }
    return _rounded(result | {"goals": goals(result)})


def _settings() -> dict[str, Any]:
    kept = Run("final", "", RANDOM, None, RATES[0], 0).settings.model_dump(exclude={"lr", "seed"})
    return kept | {"rates": list(RATES), "source_epochs": SOURCE_EPOCHS}


def _similar(finals: Finals, scope: Scope) -> list[Pair]:
    return [pair for pair in scope.chosen if finals.similarity(pair) > SIMILAR]


def _target_row(finals: Finals, target: str, sources: Mapping[str, Record]) -> dict[str, Any]:
    converged = last_accuracy(sources[target])
    after_four = float(finals.accuracies((target, target), RANDOM, 4).mean())
    return {"converged": converged, "random_after_4": after_four, "share": after_four / converged}


def _pair_row(finals: Finals, pair: Pair, sources: Mapping[str, Record]) -> dict[str, Any]:
    source, target = pair
    wanted = SHARE * last_accuracy(sources[target])
    return {
        "source": source,
        "target": target,
        "change": PAIRS[pair],
        "similarity": finals.similarity(pair),
        "arms": {arm: _arm_row(finals, pair, arm, wanted) for arm in ARMS},
    }


def _arm_row(finals: Finals, pair: Pair, arm: str, wanted: float) -> dict[str, Any]:
    records, steps = finals.records(pair, arm), finals.steps(pair, arm, wanted)
    row: dict[str, Any] = {
        "start": statistics.mean(record["start"] for record in records),
        "accuracy": {name: over_seeds(finals.accuracies(pair, arm, epoch)) for name, epoch in MOMENTS.items()},
        "curve": [float(finals.accuracies(pair, arm, epoch).mean()) for epoch in range(1, EPOCHS + 1)],
        "steps": {"median": _median(steps), "reached": sum(step is not None for step in steps)},
        "diverged": sum(record["diverged"] is not None for record in records),
    }
    if arm == RANDOM:
        return row
    return row | {
        "overwritten": finals.overwritten(pair, arm),
        "nothing_carried": finals.skipped(pair, arm),
        "difference": {name: over_seeds(finals.differences(pair, arm, epoch)) for name, epoch in MOMENTS.items()},
        "ratio": {name: _ratio(finals.log_ratios(pair, arm, epoch)) for name, epoch in MOMENTS.items()},
        "p_below_random": {name: below_zero(finals.differences(pair, arm, epoch)) for name, epoch in MOMENTS.items()},
    }


def _ratio(logarithms: Array) -> Interval:
    return {name: None if value is None else float(np.exp(value)) for name, value in over_seeds(logarithms).items()}


def _median(steps: Sequence[int | None]) -> float | None:
    """The median of steps, where runs that did not get there count as later than all others."""
    found = statistics.median(float("inf") if step is None else step for step in steps)
    return None if found == float("inf") else found


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Add p values corrected for all pairs and arms together, at each moment by itself."""
    arms = [row["arms"][arm] for row in rows for arm in CARRYING if not row["arms"][arm]["nothing_carried"]]
    for moment in MOMENTS:
        for arm, p in zip(arms, holm([arm["p_below_random"][moment] for arm in arms]), strict=True):
            arm.setdefault("p_corrected", {})[moment] = p


def _overall(finals: Finals, pairs: Sequence[Pair], arm: str) -> dict[str, Any]:
    """An arm over some pairs; ``by_target`` draws whole targets anew, with all their pairs."""
    if not pairs:
        return {"pairs": 0}
    targets = list(dict.fromkeys(target for _, target in pairs))

    def interval(epoch: int, logarithms: bool, by_target: bool = False) -> Interval:
        values = finals.log_ratios if logarithms else finals.differences
        rows = {pair: values(pair, arm, epoch)[None] for pair in pairs}
        groups = (
            [np.concatenate([rows[pair] for pair in pairs if pair[1] == target]) for target in targets]
            if by_target
            else list(rows.values())
        )
        return over_pairs(groups, geometric if logarithms else arithmetic)

    return {
        "pairs": len(pairs),
        "nothing_carried": sum(finals.skipped(pair, arm) for pair in pairs),
        "ratio": {name: interval(epoch, True) for name, epoch in MOMENTS.items()},
        "ratio_by_target": {name: interval(epoch, True, True) for name, epoch in MOMENTS.items()},
        "difference": {name: interval(epoch, False) for name, epoch in MOMENTS.items()},
    }


def _bins(finals: Finals, scope: Scope) -> list[dict[str, Any]]:
    found = []
    for low, high in pairwise(BINS):
        pairs = [pair for pair in scope.chosen if low <= finals.similarity(pair) - (high == 1.0) * 1e-9 < high]
        arms = {arm: _overall(finals, pairs, arm) for arm in CARRYING}
        found.append({"from": low, "to": high, "pairs": len(pairs), "arms": arms})
    return found


def _correlation(finals: Finals, scope: Scope, arm: str) -> dict[str, Any]:
    """Of similarity and ratio after four epochs over pairs, with intervals where there are enough pairs."""
    similarities = np.array([finals.similarity(pair) for pair in scope.chosen])
    ratios = np.array([geometric(finals.log_ratios(pair, arm, 4)[None])[0] for pair in scope.chosen])
    if len(ratios) < 5 or np.ptp(ratios) == 0:
        return {}

    found = {}
    for name, measure in (("pearson", pearson), ("spearman", spearman)):
        interval = stats.bootstrap(
            (similarities, ratios),
            measure,
            paired=True,
            vectorized=False,
            n_resamples=RESAMPLES,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval
        found[name] = {
            "mean": measure(similarities, ratios),
            "low": float(interval.low),
            "high": float(interval.high),
        }
    return found


def _full_state_less_paper(finals: Finals, scope: Scope) -> dict[str, Any]:
    """How much more accurate ``full_state`` is than ``paper``, over pairs."""
    return {
        name: over_pairs(
            [
                (finals.accuracies(pair, OURS, epoch) - finals.accuracies(pair, "paper", epoch))[None]
                for pair in scope.chosen
            ],
            arithmetic,
        )
        for name, epoch in MOMENTS.items()
    }


# Goals and remedies


def goals(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with what was found and whether it is met."""
    similar, gap = result["similar"][OURS], result["full_state_less_paper"]["4"]
    found = []
    if similar["pairs"]:
        ratio = similar["ratio"]["4"]
        met = ratio["mean"] >= MEAN_GOAL and ratio["low"] is not None and ratio["low"] > LOW_GOAL
        what = f"mean ratio of full_state to random after 4 epochs, similarity over {SIMILAR}: at least {MEAN_GOAL}"
        found.append(
            {
                "goal": f"{what}, interval above {LOW_GOAL}",
                "found": ratio,
                "by_target": similar["ratio_by_target"]["4"],
                "unit": "ratio",
                "met": met,
            }
        )
    found.append(
        {
            "goal": "full_state at least as accurate as paper after 4 epochs, mean over pairs",
            "found": gap,
            "unit": "accuracy",
            "met": gap["mean"] >= 0,
        }
    )
    for arm in CARRYING:
        below = significantly_below(result, arm)
        found.append(
            {
                "goal": f"{arm} nowhere significantly below random, after 4 epochs or at the end",
                "found": below,
                "unit": "pairs",
                "met": not below["after correction"],
            }
        )
    shares = [row["share"] for row in result["targets"].values()]
    found.append(
        {
            "goal": f"random after 4 epochs at {BAND[0]:.0%} to {BAND[1]:.0%} of the converged accuracy, every target",
            "found": {"lowest": min(shares), "highest": max(shares)},
            "unit": "share",
            "met": min(shares) >= BAND[0] and max(shares) <= BAND[1],
        }
    )
    return found


def significantly_below(result: Mapping[str, Any], arm: str) -> dict[str, list[str]]:
    """The pairs at which an arm is significantly below random, with and without correction."""
    found: dict[str, list[str]] = {"after correction": [], "uncorrected": []}
    for row in result["pairs"]:
        name, values = f"{row['source']} -> {row['target']}", row["arms"][arm]
        for kind, key in (("after correction", "p_corrected"), ("uncorrected", "p_below_random")):
            if any(values.get(key, {}).get(moment, 1.0) < LEVEL for moment in ("4", "final")):
                found[kind].append(name)
    return found


def to_be_remedied(records: Sequence[Record], scope: Scope) -> list[Pair]:
    """The pairs at which ``full_state`` falls short, the worst first, and those of networks that it takes for dissimilar.

    Short of the goal for similar pairs, less accurate than ``paper`` or ``random`` after four epochs, or less than
    ``random`` at the end.
    """
    finals = Finals(records, scope)
    found = []
    for pair in scope.chosen:
        ratio = float(geometric(finals.log_ratios(pair, OURS, 4)[None])[0])
        end = finals.differences(pair, OURS, EPOCHS).mean()
        behind = (finals.accuracies(pair, OURS, 4) - finals.accuracies(pair, "paper", 4)).mean()
        short = finals.similarity(pair) > SIMILAR and ratio < MEAN_GOAL
        if short or ratio < 1 or end < 0 or behind < 0:
            found.append((ratio, pair))
    worst = [pair for _, pair in sorted(found)[:MOST_REMEDIED]]
    unlike = [pair for pair in scope.chosen if finals.similarity(pair) < dpiat.SIMILAR]
    return list(dict.fromkeys([*worst, *unlike]))


def _remedies(finals: Finals, scope: Scope) -> list[dict[str, Any]]:
    """Ratios after four epochs and at the end for the pairs that remedies were tried on."""
    arms = (OURS, "paper", *REMEDIES)
    return [
        {
            "source": pair[0],
            "target": pair[1],
            "similarity": finals.similarity(pair),
            "arms": {
                arm: {name: _ratio(finals.log_ratios(pair, arm, MOMENTS[name])) for name in ("4", "final")}
                for arm in arms
            },
        }
        for pair in scope.chosen
        if finals.has(pair, next(iter(REMEDIES)))
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value

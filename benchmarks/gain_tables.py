"""The gain study's tables, put into README.md and docs/gain.md: ``python -m benchmarks.gain_tables``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gain_report import CARRYING, LEVEL, SIMILAR, significantly_below
from benchmarks.gain_study import ARMS, RANDOM
from benchmarks.report import load

Result = Mapping[str, Any]

_ROOT = Path(__file__).parent.parent
PAGES = (_ROOT / "README.md", _ROOT / "docs" / "gain.md")
_PLACE = re.compile(r"(<!-- gain: (\w+) -->)\n.*?(<!-- /gain -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(found: Mapping[str, float | None], digits: int = 2, sign: bool = False) -> str:
    """Mean with its interval in brackets."""

    def written(value: float | None) -> str:
        return "?" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"

    return f"{written(found['mean'])} [{written(found['low'])}, {written(found['high'])}]"


def _points(found: Mapping[str, float | None]) -> str:
    """A difference of accuracies in percentage points."""
    scaled = {name: None if value is None else value * 100 for name, value in found.items()}
    return _interval(scaled, 1, sign=True)


def results_table(result: Result) -> str:
    """The README's: every arm over all pairs and over the similar ones."""
    rows = []
    for what, key in (("all pairs", "overall"), (f"similarity over {SIMILAR}", "similar")):
        for arm in CARRYING:
            found = result[key][arm]
            if found["pairs"]:
                rows.append(
                    [
                        f"{what} ({found['pairs']})",
                        f"`{arm}`",
                        _interval(found["ratio"]["1"]),
                        _interval(found["ratio"]["4"]),
                        _points(found["difference"]["4"]),
                        _points(found["difference"]["final"]),
                    ]
                )
    epochs = result["settings"]["epochs"]
    return _table(
        [
            *("pairs", "start", "ratio to random, 1 epoch", "4 epochs"),
            *("difference in points, 4 epochs", f"{epochs} epochs"),
        ],
        rows,
    )


def goals_table(result: Result) -> str:
    rows = [[goal["goal"], _found(goal), "met" if goal["met"] else "**not met**"] for goal in result["goals"]]
    return _table(["goal", "found", "verdict"], rows)


def _found(goal: Mapping[str, Any]) -> str:
    found = goal["found"]
    if goal["unit"] == "ratio":
        wider = _interval(goal["by_target"]).partition(" ")[2]
        return f"{_interval(found)}; drawing whole targets anew {wider}"
    if goal["unit"] == "accuracy":
        return f"{_points(found)} points"
    if goal["unit"] == "share":
        return f"{found['lowest']:.0%} to {found['highest']:.0%}"
    named = ", ".join(found["after correction"])
    return f"{len(found['after correction'])} pairs{f' ({named})' if named else ''}, {len(found['uncorrected'])} uncorrected"


def pairs_table(result: Result) -> str:
    """Every pair, the most similar first: accuracies and ratios after four epochs."""
    rows = []
    for row in sorted(result["pairs"], key=lambda row: -row["similarity"]):
        arms = row["arms"]
        cells = ["=" if arms[arm]["nothing_carried"] else _interval(arms[arm]["ratio"]["4"]) for arm in CARRYING]
        random = arms[RANDOM]["accuracy"]["4"]["mean"]
        rows.append([f"`{row['source']}` → `{row['target']}`", f"{row['similarity']:.2f}", f"{random:.1%}", *cells])
    return _table(["pair", "similarity", "random", *(f"`{arm}`" for arm in CARRYING)], rows)


def later_table(result: Result) -> str:
    """Every pair: steps to half the converged accuracy, and accuracies at the end."""
    rows = []
    for row in sorted(result["pairs"], key=lambda row: -row["similarity"]):
        cells = [
            "=" if row["arms"][arm].get("nothing_carried") else _late(row["arms"][arm], result["seeds"]) for arm in ARMS
        ]
        rows.append([f"`{row['source']}` → `{row['target']}`", *cells])
    return _table(["pair", *(f"`{arm}`" for arm in ARMS)], rows)


def _late(arm: Mapping[str, Any], seeds: int) -> str:
    steps = arm["steps"]
    median = "not" if steps["median"] is None else f"{steps['median']:.0f}"
    reached = "" if steps["reached"] == seeds else f" ({steps['reached']} of {seeds})"
    return f"{median}{reached}, {arm['accuracy']['final']['mean']:.1%}"


def bins_table(result: Result) -> str:
    rows = [
        [
            f"{one['from']:g} to {one['to']:g}",
            str(one["pairs"]),
            *(_interval(one["arms"][arm]["ratio"]["4"]) for arm in CARRYING),
        ]
        for one in result["bins"]
        if one["pairs"]
    ]
    return _table(["similarity", "pairs", *(f"`{arm}`" for arm in CARRYING)], rows)


def correlation_table(result: Result) -> str:
    rows = [
        [f"`{arm}`", _interval(found["pearson"]), _interval(found["spearman"])]
        for arm, found in result["correlation"].items()
        if found
    ]
    return _table(["start", "Pearson", "Spearman"], rows)


def targets_table(result: Result) -> str:
    """Every target: what it converges to, the random arm after four epochs, the picked rates."""
    rows = [
        [
            f"`{target}`",
            f"{found['converged']:.1%}",
            f"{found['random_after_4']:.1%}",
            f"{found['share']:.0%}",
            *(f"{result['rates'][target][arm]:g}" for arm in ARMS),
        ]
        for target, found in result["targets"].items()
    ]
    head = ["target", "converged", "random, 4 epochs", "share", *(f"rate of `{arm}`" for arm in ARMS)]
    return _table(head, rows)


def remedies_table(result: Result) -> str:
    """Ratio after four epochs; after the semicolon that at the end."""
    if not result["remedies"]:
        return "No pair fell short."
    arms = list(result["remedies"][0]["arms"])
    rows = [
        [
            f"`{row['source']}` → `{row['target']}`",
            f"{row['similarity']:.2f}",
            *(f"{_interval(row['arms'][arm]['4'])}; {row['arms'][arm]['final']['mean']:.2f}" for arm in arms),
        ]
        for row in result["remedies"]
    ]
    return _table(["pair", "similarity", *(f"`{arm}`" for arm in arms)], rows)


def below_table(result: Result) -> str:
    rows = []
    for arm in CARRYING:
        found = significantly_below(result, arm)
        rows.append([f"`{arm}`", *(", ".join(names) or "none" for names in found.values())])
    return _table(["start", "after Holm's correction", f"p below {LEVEL}, uncorrected"], rows)


def tables(result: Result) -> dict[str, str]:
    """All tables by the names that the pages call them by."""
    return {
        "goals": goals_table(result),
        "results": results_table(result),
        "bins": bins_table(result),
        "correlation": correlation_table(result),
        "pairs": pairs_table(result),
        "later": later_table(result),
        "below": below_table(result),
        "targets": targets_table(result),
        "remedies": remedies_table(result),
    }


def filled(text: str, result: Result) -> str:
    """A page with every table between ``<!-- gain: NAME -->`` and ``<!-- /gain -->`` as the summary has it."""
    found = tables(result)
    return _PLACE.sub(lambda place: f"{place[1]}\n\n{found[place[2]]}\n\n{place[3]}", text)


def main() -> None:
    result = load("gain")
    for page in PAGES:
        page.write_text(filled(page.read_text(), result))
        print(f"{page.name} has the tables of {result['runs']} runs")


if __name__ == "__main__":
    main()

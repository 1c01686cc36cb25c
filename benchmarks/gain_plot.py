"""The gain study's picture: ratio against similarity, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.gain_report import CARRYING, SIMILAR

_ARMS = {
    "full_state": ("#0072b2", "o"),
    "paper": ("#e69f00", "s"),
    "by_name": ("#009e73", "^"),
    "weight_selection": ("#cc79a7", "v"),
    "random": ("#555555", "x"),
}
_STYLE = {
    # The same bytes each time, and text that stays text.
    "svg.hashsalt": "kzoo",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture of a summary as SVG."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(9.6, 7.6), layout="constrained")
        _ratios(axes[0, 0], result)
        similar, others = (
            [row for row in result["pairs"] if (row["similarity"] > SIMILAR) == wanted] for wanted in (True, False)
        )
        _curves(axes[0, 1], similar, f"pairs of similarity over {SIMILAR}")
        _curves(axes[1, 1], others, "the other pairs")
        axes[0, 1].legend(frameon=False)
        _bars(axes[1, 0], result)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _ratios(axes: Axes, result: Mapping[str, Any]) -> None:
    for arm in CARRYING:
        colour, marker = _ARMS[arm]
        rows = [row for row in result["pairs"] if not row["arms"][arm]["nothing_carried"]]
        ratios = [row["arms"][arm]["ratio"]["4"] for row in rows]
        means = [ratio["mean"] for ratio in ratios]
        axes.errorbar(
            [row["similarity"] for row in rows],
            means,
            yerr=[[mean - (ratio["low"] or mean) for mean, ratio in zip(means, ratios, strict=True)],
                  [(ratio["high"] or mean) - mean for mean, ratio in zip(means, ratios, strict=True)]],
            fmt=marker,
            color=colour,
            label=arm,
            markersize=5,
            linewidth=0.6,
            alpha=0.85,
        )  # fmt: skip
    axes.axhline(1, color="#555555", linewidth=0.8)
    axes.axvline(SIMILAR, color="#bbbbbb", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    ticks = [0.5, 0.7, 1, 1.5, 2, 3, 4]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="similarity of source and target (the paper's)", ylabel="accuracy after 4 epochs / random's")
    axes.legend(frameon=False)


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    for arm, (colour, marker) in _ARMS.items():
        curves = [[row["arms"][arm]["start"], *row["arms"][arm]["curve"]] for row in rows]
        if curves:
            mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
            axes.plot(range(len(mean)), mean, marker=marker, color=colour, label=arm, markersize=4, linewidth=1.2)
    axes.set(title=f"{title} ({len(rows)})", xlabel="epochs", ylabel="test accuracy", ylim=(0, None))


def _bars(axes: Axes, result: Mapping[str, Any]) -> None:
    """Mean ratio by bins of similarity."""
    bins = [one for one in result["bins"] if one["pairs"]]
    for place, arm in enumerate(CARRYING):
        means = [one["arms"][arm]["ratio"]["4"]["mean"] for one in bins]
        where = [index + (place - 1.5) * 0.2 for index in range(len(bins))]
        axes.bar(where, means, 0.18, color=_ARMS[arm][0], label=arm)
    axes.axhline(1, color="#555555", linewidth=0.8)
    names = [f"{one['from']:g} to {one['to']:g}\n{one['pairs']} pairs" for one in bins]
    axes.set_xticks(range(len(bins)), names)
    axes.set(xlabel="similarity", ylabel="mean ratio after 4 epochs")

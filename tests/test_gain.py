"""The gain study's own arithmetic, its file of runs, and whether the pages agree with the committed results."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kzoo
from benchmarks import gain, gain_report, gain_study, gain_tables
from benchmarks.gain_plot import draw
from benchmarks.gain_report import below_zero, holm, summarise, to_be_remedied
from benchmarks.gain_study import ARMS, PAIRS, REMEDIES, Run, Scope, Way, carry, edited, picked_rates, run_key
from kzoo.studies import statistics
from kzoo.studies.statistics import geometric, over_pairs, over_seeds
from kzoo.training.networks import small_network

SCOPE = Scope(pairs=2, seeds=2)
ENDS = {"full_state": 0.9, "paper": 0.8, "by_name": 0.3, "weight_selection": 0.5, "random": 0.4}


def network(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return small_network(name, classes=26, channels=1)


def record(run: Run, accuracy: float, **changes: Any) -> gain_study.Record:
    epochs = run.settings.epochs
    return {
        "key": f"{run}",
        "stage": run.stage,
        "target": run.target,
        "arm": run.arm,
        "source": run.source,
        "lr": run.lr,
        "seed": run.seed,
        "similarity": None if run.source is None else 0.84,
        "overwritten": 0.5,
        "skipped": False,
        "start": 0.04,
        "epochs": [round(accuracy * epoch / epochs, 4) for epoch in range(1, epochs + 1)],
        "tests": [[30, accuracy / 2], [60, accuracy]],
        "diverged": None,
        **changes,
    }


def made_up() -> list[gain_study.Record]:
    """Records of a study in which each arm ends at what ``ENDS`` says, a little more with the second seed."""
    runs = [*gain_study.source_runs(SCOPE), *gain_study.sweep_runs(SCOPE)]
    found = [record(run, 0.8 - run.lr) for run in runs]
    finals = gain_study.final_runs(SCOPE, picked_rates(found))
    return found + [record(run, ENDS[run.arm] * (1 + run.seed / 10)) for run in finals]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gain_report, statistics):
        monkeypatch.setattr(module, "RESAMPLES", 199)


# The design


def test_the_design_is_what_the_page_says() -> None:
    assert len(PAIRS) >= 20
    assert {"depth", "width", "depth and width", "family"} == set(PAIRS.values())
    assert all(source != target for source, target in PAIRS)
    similar = [kzoo.similarity(network(source), network(target)) for source, target in PAIRS]
    assert sum(similarity > 0.6 for similarity in similar) >= 10
    assert min(similar) < 0.4
    assert list(ARMS)[-1] == "random"
    assert len(Scope().sources("resnet-2x16")) == 6


def test_every_target_and_arm_has_as_many_runs_per_rate() -> None:
    runs = gain_study.sweep_runs(Scope())
    for target in Scope().targets:
        counts = {
            (arm, lr): sum((run.target, run.arm, run.lr) == (target, arm, lr) for run in runs)
            for arm in ARMS
            for lr in gain_study.RATES
        }
        assert set(counts.values()) == {len(Scope().sources(target))}


def test_seeds_serve_one_purpose() -> None:
    sweep = {run.seed for run in gain_study.sweep_runs(Scope())}
    assert not sweep & set(gain_study.SEEDS)
    assert gain_study.SOURCE_SEED not in sweep | set(gain_study.SEEDS)


def test_the_rate_with_the_best_mean_is_picked_of_equals_the_lowest() -> None:
    accuracies = {1e-3: (0.5, 0.7), 3e-3: (0.6, 0.6), 8e-3: (0.7, 0.4), 2e-2: (0.9, 0.0)}
    runs = [
        record(Run("sweep", "t", "paper", "s", lr, seed), accuracy)
        for lr, both in accuracies.items()
        for seed, accuracy in enumerate(both)
    ]
    assert picked_rates(runs) == {("t", "paper"): 1e-3}
    assert picked_rates([*runs, record(Run("sweep", "t", "paper", "s", 2e-2, 2), 0.99)]) == {("t", "paper"): 2e-2}
    runs[0]["diverged"] = 7
    assert picked_rates(runs) == {("t", "paper"): 3e-3}


def test_the_better_training_is_the_source() -> None:
    runs = [record(Run("source", "net", "random", None, lr, 1000), 0.5 + lr) for lr in gain_study.SOURCE_RATES]
    assert gain_study.best_sources(runs)["net"]["lr"] == max(gain_study.SOURCE_RATES)


def test_whatever_decides_a_run_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("final", "resnet-1x16", "paper", "resnet-2x16", 1e-3, 0)
    keys = [run_key(run, "task", "source")]
    keys += [run_key(replace(run, **{name: value}), "task", "source") for name, value in (("lr", 3e-3), ("seed", 1))]
    keys += [run_key(replace(run, arm="full_state"), "task", "source"), run_key(run, "other", "source")]
    keys += [run_key(run, "task", "other"), run_key(replace(run, stage="sweep"), "task", "source")]
    monkeypatch.setattr(gain_study, "code_digest", lambda: "other code")
    keys.append(run_key(run, "task", "source"))
    assert len(set(keys)) == len(keys) == 8


def test_comments_and_docstrings_are_no_code() -> None:
    def digest(text: str) -> str:
        tree = gain_study.ast.parse(text)
        return gain_study.ast.dump(gain_study._without_docstrings(tree))

    first = digest('"""Words."""\ndef f():\n    """More."""\n    return 1  # one\n')
    assert first == digest("def f():\n    return 1\n") != digest("def f():\n    return 2\n")


def test_remedies_edit_the_plan() -> None:
    source, target = network("resnet-1x16"), network("resnet-2x16", 1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    full = carry(source, network("resnet-2x16", 1), ARMS["full_state"])
    without = carry(source, target, REMEDIES["without_norms"])
    assert full.transferred_layers == 31
    assert without.transferred_layers == 31 - 15
    after = target.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items() if "bn" in key)
    assert not torch.equal(after["layer1.1.conv1.weight"], before["layer1.1.conv1.weight"])
    once = carry(source, network("resnet-2x16", 1), REMEDIES["each_part_once"])
    assert once.transferred_layers == 19
    assert len({part.source for part in once.parts if part.source}) == 19


def test_a_way_without_edits_leaves_the_plan() -> None:
    bodies = [gain_study.module_body(network(name)) for name in ("resnet-1x16", "resnet-2x16")]
    parameters = gain_study.read_parameters("dpiat", {})
    plan = gain_study.make_plan(*bodies, "dpiat", parameters, ("a", "b"))
    assert edited(plan, Way("dpiat")) == plan


# Carrying runs out, with a tiny task


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    task = gain_study.load_task("glyphs:AB", train=64, test=16, size=16)
    for module in (gain_study, gain, gain_report):
        monkeypatch.setattr(module, "study_task", lambda: task)
    monkeypatch.setattr(gain_study, "SOURCE_EPOCHS", 1)


def test_a_run_gives_the_same_record_again(tiny: None, tmp_path: Path) -> None:
    source = Run("source", "resnet-1x8", "random", None, 1e-3, 1000)
    gain_study.execute(source, "s", None, tmp_path)
    run = Run("sweep", "resnet-2x8", "full_state", "resnet-1x8", 1e-3, 100)
    first, second = (gain_study.execute(run, "r", "s", tmp_path) for _ in range(2))
    assert first == second
    # The second block of a stage has twice the inputs of the first one that it receives from.
    assert first["overwritten"] == 0.869
    assert len(first["epochs"]) == gain_study.SWEEP_EPOCHS
    json.dumps(first)


def test_where_nothing_is_carried_nothing_is_trained(tiny: None, tmp_path: Path) -> None:
    gain_study.execute(Run("source", "vgg-1x8", "random", None, 1e-3, 1000), "s", None, tmp_path)
    found = gain_study.execute(Run("final", "resnet-1x8", "by_name", "vgg-1x8", 1e-3, 0), "r", "s", tmp_path)
    assert found["skipped"]
    assert found["overwritten"] == 0


def test_a_file_that_was_cut_off_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    assert gain_study.read_runs(path) == {}
    path.write_text('{"key": "a"}\n{"key": "b"}\n{"key": "c", "epo')
    assert list(gain_study.read_runs(path)) == ["a", "b"]
    assert path.read_text() == '{"key": "a"}\n{"key": "b"}\n'


def test_finished_runs_are_not_run_again(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def carry_out(self: gain.Bench, missing: Any) -> None:
        calls.append([run.stage for run, _, _ in missing])
        for run, key, _ in missing:
            self.finished[key] = record(run, 0.5, key=key)

    monkeypatch.setattr(gain.Bench, "_carry_out", carry_out)
    bench = gain.Bench(tmp_path / "runs.jsonl", tmp_path)
    bench.study(SCOPE)
    stages = [set(stages) for stages in calls if stages]
    # The weights of made-up sources are nowhere, so those come again before every stage that needs them.
    assert stages == [{"source"}, *({"source"}, {"sweep"}), *({"source"}, {"final"}), *({"source"}, {"remedy"})]
    calls.clear()
    bench.study(SCOPE)
    assert [stages for stages in calls if stages] == []


def test_a_report_of_runs_that_are_missing_is_refused(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="6 of 6 runs are missing"):
        gain.Bench(tmp_path / "runs.jsonl", tmp_path, adding=False).study(SCOPE)


# Arithmetic


def test_intervals_over_seeds_are_students() -> None:
    # The mean is 3, the deviation sqrt(2.5), t of 0.975 with four degrees of freedom 2.7764.
    found = over_seeds(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    half = 2.7764451 * np.sqrt(2.5 / 5)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((3, 3 - half, 3 + half))
    assert over_seeds(np.array([2.0])) == {"mean": 2.0, "low": None, "high": None}


def test_intervals_over_pairs_hold_the_mean_and_widen_with_the_spread() -> None:
    rows = [np.log(np.array([[ratio, ratio]])) for ratio in (1.0, 2.0, 3.0, 4.0)]
    found = over_pairs(rows, geometric)
    assert found["mean"] == pytest.approx(2.5)
    assert found["low"] is not None and found["high"] is not None
    assert 1.0 < found["low"] < 2.5 < found["high"] < 4.0
    # Two groups of two pairs each: there are only three means to be had.
    grouped = over_pairs([np.concatenate(rows[:2]), np.concatenate(rows[2:])], geometric)
    assert (grouped["low"], grouped["mean"], grouped["high"]) == pytest.approx((1.5, 2.5, 3.5))


def test_below_random_is_one_sided() -> None:
    values = np.array([-0.1, -0.2, -0.15, -0.12, -0.18])
    # t = -0.15 / (0.0412311 / sqrt 5) = -8.135 with four degrees of freedom.
    assert below_zero(values) == pytest.approx(0.00062, abs=2e-5)
    assert below_zero(-values) == pytest.approx(1 - 0.00062, abs=2e-5)
    assert below_zero(np.zeros(5)) == 1.0
    assert below_zero(np.full(5, -0.25)) == 0.0


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_summary_of_a_made_up_study() -> None:
    result = summarise(made_up(), SCOPE)
    assert result["runs"] == 6 + 40 + 2 * (1 + 2 * 4)
    row = result["pairs"][0]
    assert (row["source"], row["target"], row["similarity"]) == ("resnet-1x16", "resnet-2x16", 0.84)
    full = row["arms"]["full_state"]
    # Half of the way after 4 of 8 epochs: 0.45 and 0.495.
    assert full["accuracy"]["4"]["mean"] == pytest.approx(0.4725, abs=1e-4)
    assert full["ratio"]["4"]["mean"] == pytest.approx(2.25, abs=1e-3)
    assert full["difference"]["final"]["mean"] == pytest.approx(0.5 * 1.05, abs=1e-3)
    # Half of the converged 0.794 is reached by the second test, or by the first.
    assert full["steps"] == {"median": 30, "reached": 2}
    assert row["arms"]["by_name"]["steps"] == {"median": None, "reached": 0}
    assert result["overall"]["paper"]["ratio"]["final"]["mean"] == pytest.approx(2.0, abs=1e-3)
    assert result["full_state_less_paper"]["4"]["mean"] == pytest.approx(0.0525, abs=1e-4)
    verdicts = {goal["goal"].split()[0]: goal["met"] for goal in result["goals"]}
    assert verdicts["mean"] and verdicts["full_state"]
    assert result["remedies"] == []
    assert [one["pairs"] for one in result["bins"]] == [0, 0, 0, 2]


def test_arms_that_carried_nothing_count_as_random() -> None:
    records = [
        {**found, "skipped": True, "epochs": [0.0]} if (found["stage"], found["arm"]) == ("final", "by_name") else found
        for found in made_up()
    ]
    result = summarise(records, SCOPE)
    arm = result["pairs"][0]["arms"]["by_name"]
    assert arm["nothing_carried"]
    assert arm["ratio"]["4"]["mean"] == 1.0
    assert "p_corrected" not in arm
    assert "| = |" in gain_tables.pairs_table(result)


def test_pairs_that_fall_short_get_the_remedies() -> None:
    records = made_up()
    assert to_be_remedied(records, SCOPE) == []
    worse = [
        {**found, "epochs": [value / 2 for value in found["epochs"]]} if found["arm"] == "full_state" else found
        for found in records
    ]
    assert to_be_remedied(worse, SCOPE) == SCOPE.chosen


def test_the_picture_of_a_made_up_study_is_the_same_each_time(tmp_path: Path) -> None:
    result = summarise(made_up(), SCOPE)
    for name in ("a.svg", "b.svg"):
        draw(result, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "full_state" in (tmp_path / "a.svg").read_text()


def test_every_table_can_be_made_and_put_into_a_page() -> None:
    result = summarise(made_up(), SCOPE)
    found = gain_tables.tables(result)
    page = "\n".join(f"# {name}\n<!-- gain: {name} -->\nold\n<!-- /gain -->" for name in found)
    filled = gain_tables.filled(page, result)
    assert "old" not in filled
    assert all(table in filled for table in found.values())
    assert gain_tables.filled(filled, result) == filled
    for table in itertools.islice(found.values(), 8):
        widths = {line.count("|") for line in table.splitlines()}
        assert len(widths) == 1


# The pages


@pytest.mark.parametrize("page", gain_tables.PAGES, ids=lambda page: page.name)
def test_the_pages_have_the_committed_figures(page: Path) -> None:
    result = json.loads((gain.RESULTS / "gain.json").read_text())
    text = page.read_text()
    assert "<!-- gain: results -->" in text
    assert text == gain_tables.filled(text, result), "run python -m benchmarks.gain_tables"

"""Whether a paper's committed results hold: its files, its metrics, its claims, and, on demand, everything run again."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kzoo.claims import Interval, Verdict, read_claims, verdict
from kzoo.errors import InputError
from kzoo.hashing import weights_sha256
from kzoo.studies.design import CLAIMS, Progress, Run
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.params import Study
from kzoo.studies.running import OUT, run_stages

METRICS, RUNS = "metrics.json", "train.json"


@dataclass
class Verification:
    """What was found: the verdict of every claim, how many files were looked at, and what is wrong, in sentences."""

    paper: str
    profile: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    checked: int = 0
    absent: int = 0
    rerun: str | None = None
    failures: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "paper": self.paper,
            "profile": self.profile,
            "ok": not self.failures,
            "claims": self.verdicts,
            "files": {"checked": self.checked, "absent": self.absent},
            "rerun": self.rerun,
            "failures": self.failures,
        }


def verify(study: Study, rerun: bool, progress: Progress, say: Callable[[str], None]) -> Verification:
    """Check a study's results in ``out``; with ``rerun`` all stages are run again elsewhere and compared.

    Raises:
        InputError: there are no results, or they are damaged, or of another profile.
    """
    run = _run(study, study.folder / OUT)
    metrics = run.table(METRICS)
    if metrics.get("profile") != study.profile_name:
        raise InputError(
            f"the results in {run.out} are of the profile {metrics.get('profile')!r:.40}, but params.yaml names "
            f"{study.profile_name}: run it, or name the other one"
        )
    found = Verification(run.paper, study.profile_name)
    tables = _tables(study, run.out)
    _check_files(found, run.out, tables)
    _check_claims(found, study, metrics)
    _check_metrics(found, study, run.out, metrics)
    if rerun:
        _rerun(found, study, tables, metrics, progress, say)
    return found


def _tables(study: Study, out: Path) -> dict[str, Any]:
    """All tables of a study."""
    run = _run(study, out)
    return {name: run.table(name) for stage in study.stages for name in stage.tables}


def _run(study: Study, out: Path) -> Run:
    return Run(study.folder, out, study.profile_name, study.profile, 1, lambda _what, _done: None, lambda _text: None)


def weight_rows(data: Any) -> Iterator[tuple[str, str]]:
    """Every weights file that a table names, with its sha256."""
    if isinstance(data, dict):
        if isinstance(data.get("weights"), str) and isinstance(data.get("sha256"), str):
            yield data["weights"], data["sha256"]
        for value in data.values():
            yield from weight_rows(value)
    elif isinstance(data, list):
        for value in data:
            yield from weight_rows(value)


def _check_files(found: Verification, out: Path, tables: Mapping[str, Any]) -> None:
    for table, data in tables.items():
        for name, sha256 in weight_rows(data):
            path = out / name
            if not path.is_file():
                found.absent += 1
                continue
            found.checked += 1
            if weights_sha256([path]) != sha256:
                found.failures.append(f"{path} has not the sha256 that {table} names: it was changed after the run")


def _check_claims(found: Verification, study: Study, metrics: Mapping[str, Any]) -> None:
    for claim in read_claims(study.folder / CLAIMS, metric_kinds()).claims:
        values = metrics["claims"].get(claim.id)
        interval = None if values is None else Interval(values["value"], values["low"], values["high"])
        found.verdicts[claim.id] = verdict(claim, interval)
        if found.verdicts[claim.id] == "not reproduced" and interval is not None:
            found.failures.append(
                f"the claim {claim.id} is not reproduced: {interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}], "
                f"wanted {claim.wanted}"
            )


def _check_metrics(found: Verification, study: Study, out: Path, metrics: Mapping[str, Any]) -> None:
    """Whether the metrics are those of the tables: computed once more, elsewhere."""
    stage = study.stage("evaluate")
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for each in study.stages for name in each.tables if name in stage.inputs):
            (Path(folder) / name).write_bytes((out / name).read_bytes())
        run_stages(study, [stage], Path(folder))
        again = _run(study, Path(folder)).table(METRICS)
    for claim in sorted({*metrics["claims"], *again["claims"]}):
        if metrics["claims"].get(claim) != again["claims"].get(claim):
            found.failures.append(
                f"{out / METRICS} does not say of the claim {claim} what the other tables give: run the stage evaluate"
            )


def _rerun(
    found: Verification,
    study: Study,
    tables: Mapping[str, Any],
    metrics: Mapping[str, Any],
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_stages(study, study.stages, Path(folder) / OUT, progress=progress, say=say)
        again = _tables(study, Path(folder) / OUT)
    if again[RUNS]["environment"] == tables[RUNS]["environment"]:
        found.rerun = "same class of machine: every sha256 compared"
        found.failures += _other_bytes(tables, again)
    else:
        found.rerun = f"another class of machine: accuracies compared within {study.tolerance}"
        found.failures += _too_far(study.tolerance, tables[RUNS], again[RUNS])
        found.failures += _outside(metrics, again[METRICS])


def _other_bytes(tables: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Weights, of all runs whether kept or not, whose sha256 the rerun does not give."""
    for table, data in tables.items():
        ours, theirs = _hashes(data), _hashes(again[table])
        for name in ours:
            if theirs.get(name) != ours[name]:
                yield f"{table}: {name} has the sha256 {ours[name]}, but the rerun gives {theirs.get(name)}"


def _hashes(data: Any, name: str = "") -> dict[str, str]:
    """Every sha256 in a table, by the run's name or the place where it stands."""
    found: dict[str, str] = {}
    if isinstance(data, dict):
        own = str(data.get("name") or data.get("weights") or name)
        if isinstance(data.get("sha256"), str):
            found[own] = data["sha256"]
        for key, value in data.items():
            found |= _hashes(value, f"{name}.{key}")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            found |= _hashes(value, f"{name}.{number}")
    return found


def _too_far(tolerance: float, table: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Arms whose mean accuracy at the end lies too far from the committed one."""
    ours, theirs = _means(table), _means(again)
    for arm, mean in ours.items():
        if abs(theirs.get(arm, 0.0) - mean) > tolerance:
            yield (
                f"{RUNS}: the arm {arm} has the mean accuracy {mean:.4f}, but the rerun gives {theirs.get(arm, 0.0):.4f}, "
                f"further away than {tolerance}"
            )


def _means(table: Mapping[str, Any]) -> dict[str, float]:
    accuracies: dict[str, list[float]] = {}
    for row in table["runs"]:
        accuracies.setdefault(row["arm"], []).append(row["epochs"][-1] if row["epochs"] else 0.0)
    return {arm: statistics.mean(values) for arm, values in accuracies.items()}


def _outside(metrics: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Claims whose value in the rerun lies outside the committed interval."""
    for claim, ours in metrics["claims"].items():
        theirs = again["claims"].get(claim)
        if theirs is None or ours["low"] is None or ours["high"] is None:
            continue
        if not ours["low"] <= theirs["value"] <= ours["high"]:
            yield (
                f"the claim {claim} has {ours['value']:.4g} [{ours['low']:.4g}, {ours['high']:.4g}], but the rerun gives "
                f"{theirs['value']:.4g}"
            )

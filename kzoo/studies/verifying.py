"""Whether a paper's committed results hold: its files, its metrics, its claims, and, on demand, everything run again."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kzoo.claims import Claim, Verdict, read_claims, verdict
from kzoo.errors import InputError
from kzoo.hashing import weights_sha256
from kzoo.reporting.results import Found, read_results
from kzoo.studies.design import CLAIMS, Progress
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.params import Study, require_profiles
from kzoo.studies.running import OUT, run_stages, study_run
from kzoo.studies.stages import stage_module, table_of_runs

METRICS = "metrics.json"
#: Keys of tables under which files are named, and those of their sha256.
_FILES = {"weights": "sha256", "plan_file": "plan"}


@dataclass
class Verification:
    """What was found: the verdict of every claim, how many files were looked at, and what is wrong, in sentences."""

    paper: str
    profile: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    checked: int = 0
    changed: int = 0
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
            "files": {"checked": self.checked, "changed": self.changed, "absent": self.absent},
            "rerun": self.rerun,
            "failures": self.failures,
        }


def verify(study: Study, rerun: bool, progress: Progress, say: Callable[[str], None]) -> Verification:
    """Check a study's results in ``out``; with ``rerun`` all stages are run again elsewhere and compared.

    Raises:
        InputError: there are no results, or they are damaged, or of another profile.
    """
    out = study.folder / OUT
    tables = _tables(study, out)
    profile = tables[METRICS].get("profile")
    if profile != study.profile_name:
        raise InputError(
            f"the results in {out} are of the profile {profile!r:.40}, but params.yaml names {study.profile_name}: run it, or "
            "name the other one"
        )
    claims = read_claims(study.folder / CLAIMS, metric_kinds(study.kind)).claims
    require_profiles(study.folder, claims)
    found = Verification(study.folder.resolve().name, study.profile_name)
    results = read_results(out / METRICS, found.paper, {claim.id: claim.unit for claim in claims})
    _check_files(found, out, tables)
    _check_claims(found, claims, results.claims)
    with _damaged(out):
        _check_metrics(found, study, out, tables[METRICS])
    if rerun:
        with tempfile.TemporaryDirectory() as folder:
            elsewhere = Path(folder) / OUT
            run_stages(study, study.stages, elsewhere, progress=progress, say=say)
            again = _tables(study, elsewhere)
            theirs = read_results(elsewhere / METRICS, found.paper, {claim.id: claim.unit for claim in claims})
        with _damaged(out):
            _compare(found, study, tables, again, _contradicted(claims, found.verdicts, theirs.claims))
    return found


def _tables(study: Study, out: Path) -> dict[str, Any]:
    """All tables of a study."""
    run = study_run(study, out)
    names = [name for stage in study.stages for name in stage.tables]
    missing = next((name for name in names if not (run.out / name).is_file()), None)
    if missing is not None:
        raise InputError(
            f"{out / missing} is not there: run the study, or let it go on (dvc repro {study.folder / 'dvc.yaml'}, or kzoo run "
            f"{study.folder})"
        )
    return {name: run.table(name) for name in names}


@contextmanager
def _damaged(out: Path) -> Iterator[None]:
    """Tables of another shape than the stages write are bad input."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"the tables in {out} are not what the stages write ({type(error).__name__}: {error!s:.80}): run the stages again"
        ) from None


# Files, claims, metrics


def named_files(data: Any) -> Iterator[tuple[str, str]]:
    """Every file that a table names with its sha256."""
    if isinstance(data, dict):
        for name, sha256 in _FILES.items():
            if isinstance(data.get(name), str) and isinstance(data.get(sha256), str):
                yield data[name], data[sha256]
        for value in data.values():
            yield from named_files(value)
    elif isinstance(data, list):
        for value in data:
            yield from named_files(value)


def _check_files(found: Verification, out: Path, tables: Mapping[str, Any]) -> None:
    for table, data in tables.items():
        for name, sha256 in named_files(data):
            path = out / name
            if not _inside(path, out):
                found.failures.append(f"{table} names the file {name!a:.80}, which is outside {out}")
            elif not path.is_file():
                found.absent += 1
            else:
                found.checked += 1
                if weights_sha256([path]) != sha256:
                    found.changed += 1
                    found.failures.append(
                        f"{path} has not the sha256 that {table} names: it was changed after the run, and 'dvc checkout --force' brings it back"
                    )


def _inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve()) and len(path.name.encode()) < 256
    except (OSError, ValueError):  # a loop of links, a NUL
        return False


def _check_claims(found: Verification, claims: list[Claim], values: Mapping[str, Found]) -> None:
    for claim in claims:
        value = values.get(claim.id)
        found.verdicts[claim.id] = verdict(claim, None if value is None else value.interval)
        if found.verdicts[claim.id] == "not reproduced" and value is not None:
            found.failures.append(
                f"the claim {claim.id} is not reproduced: {value.value:.4g} [{value.low:.4g}, {value.high:.4g}], wanted "
                f"{claim.wanted}"
            )


def _check_metrics(found: Verification, study: Study, out: Path, metrics: Mapping[str, Any]) -> None:
    """Whether the metrics, figures and tables are what the other tables give: computed once more, elsewhere."""
    stage = study.stage("evaluate")
    with tempfile.TemporaryDirectory() as folder:
        run = study_run(study, Path(folder))
        for name in (name for each in study.stages for name in each.tables if name in stage.inputs):
            (run.out / name).write_bytes((out / name).read_bytes())
        try:
            stage_module(stage).carry_out(run)
        except InputError as error:
            # Nobody knows the temporary folder.
            raise InputError(str(error).replace(str(run.out), str(out))) from None
        again = run.table(METRICS)
    for claim in sorted({*metrics["claims"], *again["claims"]}):
        if metrics["claims"].get(claim) != again["claims"].get(claim):
            found.failures.append(
                f"{out / METRICS} does not say of the claim {claim} what the other tables give: run the stage evaluate"
            )
    rest = [part for part in sorted({*metrics, *again} - {"claims"}) if metrics.get(part) != again.get(part)]
    if rest:
        found.failures.append(
            f"{out / METRICS} has other {' and '.join(rest)} than the other tables give: run the stage evaluate"
        )


# Everything run again


def _compare(
    found: Verification, study: Study, tables: Mapping[str, Any], again: Mapping[str, Any], contradicted: list[str]
) -> None:
    runs = table_of_runs(study.kind)
    if again[runs]["environment"] == tables[runs]["environment"]:
        found.rerun = "same class of machine: every table compared, with the sha256 of every network"
        found.failures += _other_tables(tables, again)
    else:
        found.rerun = f"another class of machine: accuracies compared within {study.tolerance}, and verdicts"
        found.failures += [*_too_far(study.tolerance, runs, tables[runs], again[runs]), *contradicted]


def _other_tables(tables: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Where a table says something else than the rerun's, one sentence for each row."""
    for table, data in tables.items():
        ours, theirs = _rows(data), _rows(again[table])
        for place in dict.fromkeys((*ours, *theirs)):
            if ours.get(place) != theirs.get(place):
                yield f"{table}: {place} is {_short(ours.get(place))}, but the rerun gives {_short(theirs.get(place))}"


def _rows(data: Any, place: str = "") -> dict[str, Any]:
    """The values of a table by the way to them; a run's by its name."""
    if isinstance(data, dict):
        own = str(data["name"]) if isinstance(data.get("name"), str) else place
        inner = [(f"{own}.{key}" if own else str(key), value) for key, value in data.items()]
    elif isinstance(data, list):
        inner = [(f"{place}.{number}", value) for number, value in enumerate(data)]
    else:
        return {place: data}
    return {way: value for key, part in inner for way, value in _rows(part, key).items()}


def _short(value: Any) -> str:
    return json.dumps(value)[:100]


def _too_far(tolerance: float, name: str, table: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Arms whose mean accuracy at the end lies too far from the committed one."""
    ours, theirs = _means(table), _means(again)
    for arm, mean in ours.items():
        if abs(theirs.get(arm, 0.0) - mean) > tolerance:
            yield (
                f"{name}: the arm {arm} has the mean accuracy {mean:.4f}, but the rerun gives {theirs.get(arm, 0.0):.4f}, "
                f"further away than {tolerance}"
            )


def _means(table: Mapping[str, Any]) -> dict[str, float]:
    accuracies: dict[str, list[float]] = {}
    for row in table["runs"]:
        # What was not trained was tested once.
        accuracy = row["accuracy"] if "accuracy" in row else row["epochs"][-1] if row["epochs"] else 0.0
        accuracies.setdefault(row["arm"], []).append(accuracy)
    return {arm: statistics.mean(values) for arm, values in accuracies.items()}


def _contradicted(claims: list[Claim], ours: Mapping[str, Verdict], values: Mapping[str, Found]) -> list[str]:
    """Claims of which the rerun says the opposite."""
    opposite = {"reproduced": "not reproduced", "not reproduced": "reproduced"}
    found = []
    for claim in claims:
        value = values.get(claim.id)
        theirs = verdict(claim, None if value is None else value.interval)
        if opposite.get(ours[claim.id]) == theirs:
            found.append(f"the claim {claim.id} is {ours[claim.id]}, but {theirs} in the rerun")
    return found

"""A report as plain data: every claim of the papers' pipelines with its verdict, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kzoo.claims import VERDICTS, Claim, Claims, MetricKind, Verdict, read_claims, verdict
from kzoo.errors import InputError
from kzoo.faults import nearest
from kzoo.reporting.results import Found, Results, read_results
from kzoo.studies.design import CLAIMS
from kzoo.studies.params import PARAMS, PIPELINES, require_profiles

_METRICS = "out/metrics.json"


@dataclass(frozen=True)
class ClaimResult:
    """A claim, what was found of its metric, and the verdict with its reason."""

    claim: Claim
    found: Found | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class PaperResult:
    """A paper's claims, headlines first, and the results of its pipeline; ``folder`` is the pipeline's name."""

    folder: str
    about: Claims
    claims: tuple[ClaimResult, ...]
    results: Results | None

    @property
    def profile(self) -> str | None:
        """The profile that the results are of; None where there are none."""
        return self.results.profile if self.results is not None else None


@dataclass(frozen=True)
class Report:
    """The papers in the order of their folders' names."""

    papers: tuple[PaperResult, ...]

    @property
    def claims(self) -> list[ClaimResult]:
        """The claims of all papers."""
        return [claim for paper in self.papers for claim in paper.claims]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many claims have which verdict."""
        found = [claim.verdict for claim in self.claims]
        return {verdict: found.count(verdict) for verdict in VERDICTS}


def find_root(start: Path) -> Path:
    """The folder that holds `pipelines`: ``start`` or the nearest one above it, seen from ``start``.

    Raises:
        InputError: there is none.
    """
    above = start.resolve()
    for folder in (above, *above.parents):
        if (folder / PIPELINES).is_dir():
            return start / os.path.relpath(folder, above)
    raise InputError(
        f"there is no folder {PIPELINES} here or above: go into the repository, or give --root, the folder that holds it"
    )


def paper_folder(paper: str, root: Path | None = None) -> Path:
    """The folder of a paper's pipeline; ``root`` holds `pipelines`, and is looked for from here unless it is given.

    Raises:
        InputError: there is no such paper.
    """
    if root is None and (Path(paper) / CLAIMS).is_file():
        return Path(paper)
    folder = (find_root(Path()) if root is None else root) / PIPELINES
    if paper not in (known := _known(folder)):
        raise InputError(f"{paper!r:.80} is no paper in {folder}; nearest: {nearest(paper, known)}")
    return folder / paper


def _known(folder: Path) -> list[str]:
    """The papers in a folder of pipelines.

    Raises:
        InputError: there are none.
    """
    known = sorted(path.parent.name for path in folder.glob(f"*/{CLAIMS}"))
    if not known:
        raise InputError(f"{folder} holds no paper: expected a folder with a {CLAIMS}")
    return known


def read_report(root: Path, papers: Sequence[str] | None, metrics: Mapping[str, MetricKind]) -> Report:
    """The report on these papers' pipelines, or all, in ``root``'s folder `pipelines`.

    Raises:
        InputError: there are no pipelines, one is unknown, or a claims.yaml or metrics.json is faulty.
    """
    for paper in papers or ():
        paper_folder(paper, root)
    folder = root / PIPELINES
    wanted = [paper for paper in _known(folder) if not papers or paper in papers]
    return Report(tuple(_paper(folder / paper, metrics) for paper in wanted))


def _paper(folder: Path, metrics: Mapping[str, MetricKind]) -> PaperResult:
    about = read_claims(folder / CLAIMS, metrics)
    if (folder / PARAMS).is_file():
        require_profiles(folder, about.claims)
    file = folder / _METRICS
    results = None
    if file.exists():
        results = read_results(file, folder.name, {claim.id: claim.unit for claim in about.claims})
    judged = [_judged(claim, results) for claim in about.claims]
    judged.sort(key=lambda result: not result.claim.headline)
    return PaperResult(folder.name, about, tuple(judged), results)


def _judged(claim: Claim, results: Results | None) -> ClaimResult:
    found = None
    # A profile that is too small for a claim says nothing of it, even if it has a value.
    if results is not None and results.profile in claim.profiles:
        found = results.claims.get(claim.id)
    said = verdict(claim, None if found is None else found.interval)
    return ClaimResult(claim, found, said, _why_not_run(claim, results) if found is None else _why(claim, found, said))


def _why_not_run(claim: Claim, results: Results | None) -> str:
    if results is None:
        why = "the pipeline has not been run"
    elif results.profile in claim.profiles:
        why = f"the results of the profile {results.profile} do not have it"
    else:
        why = f"it is for the profile {' or '.join(claim.profiles)}, and the results are of {results.profile}"
    return f"{why}; it needs {claim.needs.rstrip('.')}" if claim.needs else why


def _why(claim: Claim, found: Found, said: Verdict) -> str:
    if found.low is None or found.high is None:
        return "a value without an interval decides nothing"
    share = {"reproduced": "the whole interval is", "not reproduced": "no part of the interval is"}
    return f"{share.get(said, 'only a part of the interval is')} {claim.comparison} {claim.threshold:.12g}"

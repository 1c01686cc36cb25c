"""What the stages ``evaluate`` of studies share: the claims' metrics with their intervals, tables and figures, as one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kzoo.claims import Claim, read_claims
from kzoo.studies.design import CLAIMS, Run
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.stages import table_of_runs

TABLE = "metrics.json"
_Results = TypeVar("_Results")


def write_metrics(
    run: Run,
    kind: str,
    results: _Results,
    measured: Callable[[_Results, Claim], Any],
    figures: Callable[[_Results], Any],
    tables: Callable[[_Results], Any],
) -> None:
    """Write what the report shows of a run of a study of that kind.

    Raises:
        InputError: a claim names what the profile does not have, or a table of an earlier stage is missing.
    """
    claims = read_claims(run.base / CLAIMS, metric_kinds(kind)).claims
    found = {claim.id: measured(results, claim) for claim in claims if run.profile_name in claim.profiles}
    told = {
        "paper": run.paper,
        "profile": run.profile_name,
        "environment": run.table(table_of_runs(kind))["environment"],
        "claims": found,
        "figures": figures(results),
        "tables": tables(results),
    }
    run.write_table(TABLE, told)

"""The stage ``evaluate``: the claims' metrics with their intervals, tables and figures."""

from __future__ import annotations

from kzoo.claims import read_claims
from kzoo.studies.design import CLAIMS, Run
from kzoo.studies.growth.figures import figures, tables
from kzoo.studies.growth.metrics import measured
from kzoo.studies.growth.results import Results
from kzoo.studies.metrics import metric_kinds

TABLE, KIND = "metrics.json", "growth"


def carry_out(run: Run) -> None:
    """Write what the report shows of this run; see `kzoo.studies.stages`."""
    results = Results(run)
    claims = read_claims(run.base / CLAIMS, metric_kinds(KIND)).claims
    found = {claim.id: measured(results, claim) for claim in claims if run.profile_name in claim.profiles}
    told = {
        "paper": run.paper,
        "profile": run.profile_name,
        "environment": run.table("train.json")["environment"],
        "claims": found,
        "figures": figures(results),
        "tables": tables(results),
    }
    run.write_table(TABLE, told)

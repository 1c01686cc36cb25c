"""The stage ``evaluate``: the claims' metrics with their intervals, tables and figures."""

from __future__ import annotations

from kzoo.studies.amalgamation.figures import figures, tables
from kzoo.studies.amalgamation.metrics import measured
from kzoo.studies.amalgamation.results import Results
from kzoo.studies.design import Run
from kzoo.studies.evaluating import write_metrics

KIND = "amalgamation"


def carry_out(run: Run) -> None:
    """Write what the report shows of this run; see `kzoo.studies.stages`."""
    write_metrics(run, KIND, Results(run), measured, figures, tables)

"""The stage ``evaluate``: the claims' metrics with their intervals, tables and figures."""

from __future__ import annotations

from kzoo.studies.design import Run
from kzoo.studies.evaluating import write_metrics
from kzoo.studies.fusion.figures import figures, tables
from kzoo.studies.fusion.metrics import measured
from kzoo.studies.fusion.results import Results

KIND = "fusion"


def carry_out(run: Run) -> None:
    """Write what the report shows of this run; see `kzoo.studies.stages`."""
    write_metrics(run, KIND, Results(run), measured, figures, tables)

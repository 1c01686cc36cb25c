"""The stage ``evaluate``: the claims' metrics with their intervals, tables and figures."""

from __future__ import annotations

from kzoo.studies.design import Run
from kzoo.studies.dpiat.figures import figures, tables
from kzoo.studies.dpiat.metrics import measured
from kzoo.studies.dpiat.results import Results
from kzoo.studies.evaluating import write_metrics

KIND = "dpiat"


def carry_out(run: Run) -> None:
    """Write what the report shows of this run; see `kzoo.studies.stages`."""
    write_metrics(run, KIND, Results(run), measured, figures, tables)

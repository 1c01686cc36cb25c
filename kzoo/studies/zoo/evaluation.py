"""The stage ``evaluate``: the accuracy of the networks that were trained again, beside that of the zoo's."""

from __future__ import annotations

import json
from typing import Any

from kzoo.claims import read_claims
from kzoo.hashing import weights_sha256
from kzoo.layout import METRICS, WEIGHTS
from kzoo.studies.design import CLAIMS, Run
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.models import zoo_folder
from kzoo.studies.records import last_accuracy

TABLE, KIND = "metrics.json", "zoo"


def carry_out(run: Run) -> None:
    """Write what the report shows of this run; see `kzoo.studies.stages`."""
    trained = run.table("train.json")
    rows = [_compared(row) for row in trained["runs"]]
    differences = [round(100 * (row["again"] - row["frozen"]), 4) for row in rows]

    # These are all the networks that there are: nothing is drawn, so nothing is uncertain.
    largest = max(abs(difference) for difference in differences)
    measured = {
        "value": largest,
        "low": largest,
        "high": largest,
        "unit": "points",
        "counts": {"networks": len(rows), "same bytes": sum(row["same"] for row in rows)},
        "file": f"{run.name_of_results}/train.json",
    }
    claims = read_claims(run.base / CLAIMS, metric_kinds(KIND)).claims
    told = {
        "paper": run.paper,
        "profile": run.profile_name,
        "environment": trained["environment"],
        "claims": {claim.id: measured for claim in claims if run.profile_name in claim.profiles},
        "figures": [_bars(rows)],
        "tables": [_table(rows)],
    }
    run.write_table(TABLE, told)


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    folder = zoo_folder(row["name"])
    frozen = json.loads((folder / METRICS).read_text(encoding="utf-8"))["test"]["accuracy"]
    return {
        "name": row["name"],
        # As precise as the accuracies of a table.
        "frozen": round(frozen, 6),
        "again": last_accuracy(row),
        "same": row["sha256"] == weights_sha256([folder / WEIGHTS]),
    }


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": "Test accuracy of the zoo's networks, and of the same recipes run again",
        "columns": ["network", "in the zoo", "again", "same bytes"],
        "rows": [
            [row["name"], f"{row['frozen']:.2%}", f"{row['again']:.2%}", "yes" if row["same"] else "no"] for row in rows
        ],
    }


def _bars(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def series(name: str, key: str) -> dict[str, Any]:
        return {"name": name, "points": [{"x": row["name"], "y": row[key]} for row in rows]}

    return {
        "kind": "bars",
        "title": "The zoo's networks, and the same recipes run again",
        "caption": "Test accuracy at the end of the training.",
        "x": {"label": "network"},
        "y": {"label": "test accuracy", "log": False},
        "lines": [],
        "series": [series("in the zoo", "frozen"), series("again", "again")],
    }

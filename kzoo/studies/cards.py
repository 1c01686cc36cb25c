"""The stage ``card``: the network that a study publishes, and what its card tells of the claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kzoo.claims import Claim, Claims, Interval, read_claims, verdict
from kzoo.hashing import weights_sha256
from kzoo.layout import CARD, WEIGHTS
from kzoo.studies.design import CLAIMS, Run
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.models import copy_model
from kzoo.studies.records import run_name

MODEL, TABLE = "model", "card.json"


def carry_out(run: Run) -> None:
    """Write the model folder; see `kzoo.studies.stages`."""
    published = run.profile.publish
    claims = read_claims(run.base / CLAIMS, metric_kinds())
    metrics = run.table("metrics.json")
    name = run_name(published.source, published.target, published.arm)
    with run.new_output(MODEL) as folder:
        copy_model(run.out / "models" / name, folder)
        card = folder / CARD
        text = card.read_text(encoding="utf-8") + "\n" + "\n".join(study_section(claims, metrics)) + "\n"
        card.write_text(text, encoding="utf-8")
        row = {"run": name, "weights": f"{MODEL}/{WEIGHTS}", "sha256": weights_sha256([folder / WEIGHTS])}
    run.write_table(TABLE, {"published": row})


def study_section(claims: Claims, metrics: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a card on the study that a network comes from."""
    yield "## The study"
    yield ""
    yield (
        f"This network is one run of kzoo's study of {claims.paper}, {_title(claims)}, in the profile "
        f"`{metrics['profile']}`. {' '.join(claims.known.split())}"
    )
    yield ""
    yield "| claim | wanted | found | verdict |"
    yield "| --- | --- | --- | --- |"
    for claim in claims.claims:
        yield _row(claim, metrics["claims"].get(claim.id))


def _title(claims: Claims) -> str:
    return claims.title if claims.link is None else f"[{claims.title}]({claims.link})"


def _row(claim: Claim, found: Mapping[str, Any] | None) -> str:
    interval = None if found is None else Interval(found["value"], found["low"], found["high"])
    statement = " ".join(claim.statement.split()).replace("|", "\\|")
    return f"| {statement} | {claim.wanted} | {_shown(interval)} | {verdict(claim, interval)} |"


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"

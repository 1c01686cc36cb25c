"""The stage ``match``: how alike source and target of every pair are, by the paper's measure (section 2)."""

from __future__ import annotations

from typing import Any

from kzoo.facade import architecture, match
from kzoo.studies.design import Run
from kzoo.studies.dpiat.design import Pair, Profile, all_pairs

TABLE = "match.json"


def carry_out(run: Run) -> None:
    """Write a row for every pair; see `kzoo.studies.stages`."""
    profile: Profile = run.profile
    sources = run.table("sources.json")
    pairs = list(all_pairs(profile))
    rows = []
    for done, pair in enumerate(pairs, 1):
        rows.append(_row(run, profile, sources, pair))
        run.progress("match", done / len(pairs))
    run.write_table(TABLE, {"pairs": rows})


def _row(run: Run, profile: Profile, sources: Any, pair: Pair) -> dict[str, Any]:
    network = profile.networks[pair.target]
    told = sources["data"]
    source = architecture(str(run.out / sources["sources"][pair.source]["weights"]))
    target = architecture(network.model, classes=told["classes"], in_chans=told["channels"], img_size=network.img_size)
    found = match(source, target)
    return pair._asdict() | {
        "symmetric": round(found.symmetric, 6),
        "directed": round(found.directed, 6),
        "reverse": round(found.reverse, 6),
        "matched_layers": len(found.pairs),
        "target_layers": sum(layer.typed for layer in target.layers),
        "coverage": round(found.coverage, 6),
    }

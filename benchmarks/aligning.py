"""Whose channels can be brought in order: ``python -m benchmarks.aligning``, about an hour; it goes on where it was stopped.

The smallest network of each family of timm and of torchvision's classifiers gets weights as after training; all channels that
can be exchanged are put into a random order, and `kzoo.methods.fusion.alignment` has to find the old one again, from weights
alone. Each network runs in a process of its own. ``--only NAME ...`` runs some anew, ``--table`` only writes
docs/alignment-coverage.md. ``--held-back COUNT --seed SEED`` tries other networks, drawn at random.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, machine
from benchmarks.realistic import make_realistic, without_chance
from benchmarks.widening import LARGE, build, count, held_back, in_process, timm_families, torchvision_families
from kzoo.errors import InputError
from kzoo.methods.fusion.alignment import match_weights
from kzoo.methods.fusion.permutations import permute, random_permutation, symmetries

RESULT = RESULTS / "fusion-align.json"
TABLE = Path(__file__).parents[1] / "docs" / "alignment-coverage.md"
#: Channels of these kinds stay by nature: what goes in and comes out, and places in an image.
_NATURAL = ("output", "input", "size of a kernel", "single", "positions")


def one(network: str) -> dict[str, Any]:
    """Put one network's channels into another order, and back; what is reported of it."""
    module, shape = build(network)
    note = ""
    if count(module) > LARGE:
        module, shape = build(network, small=True)
        note = "built with two blocks"
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    module = make_realistic(without_chance(module), images).eval()
    row: dict[str, Any] = {"network": network, "parameters": count(module), "note": note}
    try:
        found = symmetries(module, images[:2])
    except InputError as error:
        return row | {"reason": str(error)}
    state = module.state_dict()
    moved = permute(state, found, random_permutation(found, 5))
    started = time.perf_counter()
    aligned = match_weights(state, moved, found)
    seconds = time.perf_counter() - started
    back = permute(moved, found, aligned.permutation)
    wrong = [name for name, tensor in state.items() if not torch.equal(back[name], tensor)]
    stays = sorted({why for why in found.still.values() if not any(word in why for word in _NATURAL)})
    row |= {"sets": len(found.sets), "before": aligned.before, "similarity": aligned.similarity}
    row |= {"seconds": round(seconds, 1), "stays": stays}
    reason = "no channels can be exchanged" if not found.sets else ""
    return row | {"reason": f"{len(wrong)} tensors are not as they were, as {wrong[0]}" if wrong else reason}


def save(result: dict[str, Any]) -> None:
    """Write what is known so far, as data and as a page."""
    rows = result["rows"]
    passed = sum(row.get("reason") == "" for row in rows)
    told = {"machine": machine(), "torch": torch.__version__, "families": len(rows), "found": passed}
    RESULT.write_text(json.dumps({**told, **result}, indent=1) + "\n")
    TABLE.write_text(page(result))


def page(result: dict[str, Any]) -> str:
    """The results as a page."""
    rows, others = result["rows"], result.get("held_back", {})
    passed = sum(row.get("reason") == "" for row in rows)
    lines = [
        "# Whose channels can be brought in order",
        "",
        "`python -m benchmarks.aligning` puts all channels that can be exchanged of the smallest network of each family of timm and",
        "torchvision, with weights as after training, into a random order, and looks for the old one from weights alone, as",
        '`kzoo fuse --align weights` does. It counts where every tensor is as it was, to the bit. "Before" is how alike the weights are',
        "in the random order (1: equal, 0: unrelated).",
        "",
        f"{passed} of {len(rows)} families.",
        "",
        *table(rows),
    ]
    if others:
        found = sum(row.get("reason") == "" for row in others["rows"])
        lines += [
            "",
            "## Networks held back",
            "",
            f"`python -m benchmarks.aligning --held-back {others['count']} --seed {others['seed']}` draws other networks at random, at most",
            f"one of a family, after the code was finished. {found} of {len(others['rows'])}.",
            "",
            *table(others["rows"]),
        ]
    return "\n".join(lines) + "\n"


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each network."""
    lines = [
        "| family | network | parameters (M) | tied sets | before | seconds | remark |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        stays = f"stays: {'; '.join(row['stays'])}" if row.get("stays") else ""
        remark = " ".join(part for part in (row.get("reason", ""), row.get("note", ""), stays) if part).replace(
            "|", "/"
        )
        numbers = [f"{row['parameters'] / 1e6:.1f}" if row.get("parameters") else "-", str(row.get("sets", "-"))]
        numbers += [f"{row['before']:.3f}" if "before" in row else "-", str(row.get("seconds", "-"))]
        lines.append(f"| {' | '.join([row['family'], row['network'], *numbers, f'{remark:.200}'])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--held-back", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result = {"rows": known.get("rows", []), "held_back": known.get("held_back", {})}
    rows = result["rows"]
    if given.held_back:
        if result["held_back"].get("count") != given.held_back or result["held_back"]["seed"] != given.seed:
            result["held_back"] = {"count": given.held_back, "seed": given.seed, "rows": []}
        wanted = held_back(given.held_back, given.seed, {row["network"] for row in rows})
        rows = result["held_back"]["rows"]
    else:
        smallest = sorted([*timm_families(), *torchvision_families()])
        wanted = [(network.partition(":")[0], family, network) for _, family, network in smallest]
    for library, family, network in () if given.table else wanted:
        done = [row for row in rows if (row["library"], row["family"]) == (library, family)]
        if (done and network not in given.only) or (given.only and network not in given.only):
            continue
        row = {"library": library, "family": family} | in_process(network, one)
        print(family, network, row.get("reason") or "found", row.get("seconds"), flush=True)
        rows[:] = sorted(
            [*(old for old in rows if old not in done), row], key=lambda row: (row["library"], row["family"])
        )
        save(result)
    save(result)


if __name__ == "__main__":
    main()

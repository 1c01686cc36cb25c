"""Which networks can be widened: ``python -m benchmarks.widening``, about half an hour; it goes on where it was stopped.

The smallest network of each family of timm and of torchvision's classifiers gets weights as after training, and is made
1.5 times wider (2 times where a norm forces that). Each runs in a process of its own. ``--only NAME ...`` runs some anew,
``--table`` only writes docs/widening-coverage.md. ``--held-back COUNT --seed SEED`` tries other networks, drawn at random.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from torch import nn
from torchvision import models

from benchmarks.common import RESULTS, machine
from benchmarks.realistic import make_realistic, without_chance
from kzoo.edits import apply_edits
from kzoo.errors import InputError
from kzoo.methods.checking import relative_difference, tensors_in
from kzoo.methods.widening import widen_module
from kzoo.readers.module import without_weights

FACTOR = 1.5
SECONDS = 900
REGISTRY = Path(__file__).parents[1] / "registry"
RESULT = RESULTS / "growth-widen.json"
TABLE = Path(__file__).parents[1] / "docs" / "widening-coverage.md"
MOST = {"float64": 1e-8, "float32": 1e-4}
#: Parameters of the networks that are held back.
MODERATE = (1e6, 40e6)
#: Networks too large for this machine in double precision are built with fewer blocks.
LARGE = 200e6
_FEWER = {"depth": 2}


def timm_families() -> Iterable[tuple[int, str, str]]:
    """The smallest network of each module of timm."""
    for family in sorted(timm.list_modules()):
        sizes = {name: _size(lambda name=name: timm.create_model(name)) for name in timm.list_models(module=family)}  # type: ignore[misc]
        known = {name: size for name, size in sizes.items() if size}
        smallest = min(known, key=lambda name: (known[name], name))
        yield known[smallest], family, f"timm:{smallest}"


def torchvision_families() -> Iterable[tuple[int, str, str]]:
    """The smallest classifier of each module of torchvision."""
    families: dict[str, dict[str, int]] = {}
    for name in models.list_models(module=models):
        builder = models.get_model_builder(name)
        size = min(weights.meta["num_params"] for weights in models.get_model_weights(name))
        families.setdefault(builder.__module__.rpartition(".")[2], {})[name] = size
    for family, sizes in sorted(families.items()):
        smallest = min(sizes, key=lambda name: (sizes[name], name))
        yield sizes[smallest], family, f"torchvision:{smallest}"


def _size(build: Any) -> int:
    try:
        with without_weights():
            return sum(parameter.numel() for parameter in build().parameters())
    except Exception:  # RegNets need real tensors; other members of their family do not
        return 0


def build(network: str, small: bool = False) -> tuple[nn.Module, tuple[int, ...]]:
    """The network with ten classes at least, and the shape of an input."""
    library, _, name = network.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        known = timm.get_pretrained_cfg(name)
        module = timm.create_model(name, num_classes=known.num_classes or 10, **(_FEWER if small else {}))
        return module, tuple(known.input_size)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, **options), (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


def one(network: str) -> dict[str, Any]:
    """Widen one network and compare; what is reported of it."""
    module, shape = build(network)
    note = ""
    if sum(parameter.numel() for parameter in module.parameters()) > LARGE:
        module, shape = build(network, small=True)
        note = "built with two blocks"
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    module = make_realistic(without_chance(module), images).double().eval()
    example = images[:2].double()
    row: dict[str, Any] = {"network": network, "parameters": count(module), "note": note}
    started = time.perf_counter()
    try:
        found = widen_module(module, example, FACTOR)
    except InputError as error:
        return row | {"reason": str(error)}
    row |= {"seconds": round(time.perf_counter() - started, 1), "wider": count(found.module)}
    row |= {"grown": len(found.grown), "left": len(found.left)}
    row["left_because"] = sorted({item["reason"] for item in found.left})
    row["edits_fit"] = _edits_fit(network, found.edits, found.module, small=bool(note))
    wider = found.module
    other = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    row["float64"] = _difference(module, wider, other)
    # How far the network alone is from itself in double precision: nothing can be nearer to it than that.
    row["rounding"] = _rounding(module, other)
    # Before training mode, which moves the statistics of batch normalisation.
    row["float32"] = _difference(copy.deepcopy(module).float(), copy.deepcopy(wider).float(), other.float())
    row["train"] = _difference(module.train(), wider.train(), other)
    return row | {"reason": _reason(row)}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _difference(one: nn.Module, other: nn.Module, example: torch.Tensor) -> float | None:
    results = []
    for module in (one, other):
        torch.manual_seed(0)
        try:
            results.append(list(tensors_in(module(example.clone()))))
        except Exception as error:
            if results:
                print(f"only the wider network fails: {error!s:.200}", file=sys.stderr)
                return float("inf")
            return None  # not defined for the network as it was either
    return relative_difference(*results)


@torch.no_grad()
def _rounding(module: nn.Module, example: torch.Tensor) -> float:
    exact, rounded = (
        list(tensors_in(one(given)))
        for one, given in ((module, example), (copy.deepcopy(module).float(), example.float()))
    )
    return relative_difference(exact, rounded)


def _edits_fit(network: str, edits: Any, wider: nn.Module, small: bool) -> bool:
    """Whether a network built anew becomes the same structure by the edits, as JSON gives them back."""
    fresh = apply_edits(build(network, small)[0], json.loads(json.dumps(edits)))
    shapes = {key: tensor.shape for key, tensor in wider.state_dict().items()}
    return shapes == {key: tensor.shape for key, tensor in fresh.state_dict().items()}


def _reason(row: dict[str, Any]) -> str:
    """Why the network does not count as widened; empty where it does."""
    if row["wider"] <= row["parameters"]:
        return "no parameters were added"
    if not row["edits_fit"]:
        return "its edits do not make the same structure of a new network"
    for key, most in (("float64", MOST["float64"]), ("train", MOST["float64"]), ("float32", MOST["float32"])):
        if row[key] == float("inf"):
            return f"{key}: parts that run only then, as auxiliary classifiers, do not follow"
        if row[key] is not None and not row[key] <= most:
            alone = f"; the network alone rounds by {row['rounding']:.0e}" if key == "float32" else ""
            return f"{key}: relative difference {row[key]:.1e}{alone}"
    return ""


def in_process(network: str, work: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` reports of one network, in a process of its own, within the time limit."""
    # Forked, so that the libraries are loaded once.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(network, work, sender))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = (
            receiver.recv() if receiver.poll(SECONDS) else {"reason": f"took over {SECONDS} seconds"}
        )
    except EOFError:
        found = {"reason": "the process was killed"}
    process.kill()
    process.join()
    return {"network": network} | found


def _tell(network: str, work: Callable[[str], dict[str, Any]], sender: Connection) -> None:
    warnings.simplefilter("ignore")
    try:
        sender.send(work(network))
    except Exception as error:
        sender.send({"reason": f"failed: {type(error).__name__}: {error!s:.200}"})


def held_back(count: int, seed: int, known: Collection[str]) -> list[tuple[str, str, str]]:
    """Library, family and name of networks of moderate size that are not ``known``, drawn at random, at most one of a family."""
    families: dict[tuple[str, str], list[str]] = {}
    for file in sorted(REGISTRY.glob("timm/*.yaml")) + sorted(REGISTRY.glob("torchvision/*.yaml")):
        for entry in yaml.safe_load(file.read_text())["architectures"]:
            network = f"{file.parent.name}:{entry['name']}"
            if MODERATE[0] <= entry["parameters"] <= MODERATE[1] and network not in known:
                families.setdefault((file.parent.name, file.stem), []).append(network)
    draw = random.Random(seed)
    chosen = draw.sample(sorted(families), min(count, len(families)))
    return [(*family, draw.choice(families[family])) for family in chosen]


def save(result: dict[str, Any]) -> None:
    """Write what is known so far, as data and as a page."""
    rows = result["rows"]
    passed = sum(row.get("reason") == "" for row in rows)
    told = {"machine": machine(), "torch": torch.__version__, "factor": FACTOR, "most": MOST}
    counts = {"families": len(rows), "widened": passed, "share": round(passed / max(len(rows), 1), 4)}
    RESULTS.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**told, **counts, **result}, indent=1) + "\n")
    TABLE.write_text(page(result))


def page(result: dict[str, Any]) -> str:
    """The results as a page."""
    rows, others = result["rows"], result.get("held_back", {})
    passed = sum(row.get("reason") == "" for row in rows)
    lines = [
        "# Which networks can be widened",
        "",
        f"`python -m benchmarks.widening` widens the smallest network of each family of timm and torchvision by {FACTOR} (by 2 where",
        "a norm forces it), with weights and statistics as after training. A family counts as widened where the outputs differ",
        "by at most 1e-8 in float64, in evaluation and training mode (without dropout and stochastic depth), and by at most",
        "1e-4 in float32, relative to the largest output, parameters were added, and the edits rebuild the structure.",
        "",
        f'{passed} of {len(rows)} families: {100 * passed / max(len(rows), 1):.0f} %. "Left" are the tied sets that stay as they were,',
        "mostly the width of heads or groups where their number grew.",
        "",
        *table(rows),
    ]
    if others:
        widened = sum(row.get("reason") == "" for row in others["rows"])
        lines += [
            "",
            "## Networks held back",
            "",
            f"`python -m benchmarks.widening --held-back {others['count']} --seed {others['seed']}` draws networks of {MODERATE[0] / 1e6:.0f} to"
            f" {MODERATE[1] / 1e6:.0f} million parameters",
            "at random, at most one of a family and none of the table above; they were drawn when the code was finished, and none",
            f"had been looked at while it was written. {widened} of the {len(others['rows'])} tried were widened.",
            "",
            *table(others["rows"]),
        ]
    return "\n".join(lines) + "\n"


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each network."""
    lines = [
        "| family | network | parameters (M) | wider (M) | tied sets grown | left | float64 | training | float32 | remark |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        numbers = [f"{row[key] / 1e6:.1f}" if row.get(key) else "-" for key in ("parameters", "wider")]
        counts = [str(row.get(key, "-")) for key in ("grown", "left")]
        errors = [f"{row[key]:.0e}" if row.get(key) is not None else "-" for key in ("float64", "train", "float32")]
        remark = " ".join(part for part in (row.get("reason", ""), row.get("note", "")) if part).replace("|", "/")
        cells = [row["family"], row["network"], *numbers, *counts, *errors, f"{remark:.160}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--held-back", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result = {"rows": found.get("rows", []), "held_back": found.get("held_back", {})}
    if not given.table:
        rows, wanted = _wanted(given, result)
        for library, family, network in wanted:
            place = [at for at, row in enumerate(rows) if (row["library"], row["family"]) == (library, family)]
            if place and network not in given.only:
                continue
            row = {"library": library, "family": family} | in_process(network, one)
            print(family, network, row.get("reason") or "widened", row.get("float64"), flush=True)
            rows[:] = sorted([*(row for at, row in enumerate(rows) if at not in place), row], key=_order)
            save(result)
    save(result)


def _order(row: dict[str, Any]) -> tuple[str, str]:
    return row["library"], row["family"]


def _wanted(
    given: argparse.Namespace, result: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """The rows to complete, and the library, family and name of each network to try."""
    rows = result["rows"]
    if given.held_back:
        drawn = {"count": given.held_back, "seed": given.seed}
        if not drawn.items() <= result["held_back"].items():
            result["held_back"] = {**drawn, "rows": []}
        return result["held_back"]["rows"], held_back(given.held_back, given.seed, {row["network"] for row in rows})
    if given.only:
        return rows, [(*_order(row), row["network"]) for row in rows]
    smallest = sorted([*timm_families(), *torchvision_families()])
    return rows, [(network.partition(":")[0], family, network) for _, family, network in smallest]


if __name__ == "__main__":
    main()

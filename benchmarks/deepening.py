"""Which networks deepen, and how exactly: ``python -m benchmarks.deepening``, up to an hour.

The smallest network of every family of timm and of torchvision's classification networks, and the smallest that is not one
of timm's test networks, with weights that look trained. Each runs in a process of its own; what is done is kept, so that a
run goes on where the last one was stopped (``--again NAME ...`` repeats some, ``--again failed`` those, ``--again all``
everything). ``--held-back N --seed S`` tries N others that a seed chooses, of as many families as there are; ``--table`` only
writes docs/deepening-coverage.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm  # noqa: F401
import torch
import torchvision  # noqa: F401
import yaml
from torch import Tensor, nn

from benchmarks.common import RESULTS, machine
from kzoo.building import NetworkSpec, build_network
from kzoo.edits import Edit, apply_edits, copied
from kzoo.errors import InputError
from kzoo.methods.checking import relative_difference
from kzoo.methods.deepening import deepen_module
from kzoo.methods.preserving import tensors_of
from kzoo.methods.probing import example_images
from kzoo.zoo import load_zoo

RESULT = RESULTS / "growth-deepen.json"
TABLE = Path(__file__).parents[1] / "docs" / "deepening-coverage.md"
REGISTRY = Path("registry")
LIMITS = {"float64": 1e-8, "float32": 1e-4}
SECONDS = 600
#: Pixels along a side: of images for networks that take any, and from which on there are fewer images.
SIDE, LARGE = 160, 320
#: How many parameters the networks may have that are held back.
HELD_BACK = (1e6, 40e6)
#: Networks of more parameters get fewer images.
LARGE_NETWORK = 50e6


def families() -> Iterator[tuple[str, dict[str, int]]]:
    """Each family of the registry, and its networks with their parameters."""
    for file in sorted(REGISTRY.glob("timm/*.yaml")) + sorted(REGISTRY.glob("torchvision/*.yaml")):
        library, entries = file.parent.name, yaml.safe_load(file.read_text())["architectures"]
        yield f"{library}/{file.stem}", {f"{library}:{entry['name']}": entry["parameters"] for entry in entries}


def networks() -> list[tuple[str, str]]:
    """(family, network) of everything to try, smaller networks first."""
    found: dict[str, tuple[int, str]] = {}
    for family, sizes in families():
        known = [(size, name) for name, size in sizes.items()]
        chosen = {min(known), min([one for one in known if ":test_" not in one[1]] or known)}
        found |= {name: (size, family) for size, name in chosen}
    return [(family, name) for name, (_, family) in sorted(found.items(), key=lambda one: one[1])]


def held_back(count: int, seed: int) -> list[tuple[str, str]]:
    """(family, network) of so many others, by chance: first one of each family, then another one of each."""
    generator = random.Random(seed)
    shown = {name for _, name in networks()}
    drawn: list[tuple[int, float, str, str]] = []
    for family, sizes in families():
        others = sorted(
            name for name, size in sizes.items() if HELD_BACK[0] <= size <= HELD_BACK[1] and name not in shown
        )
        generator.shuffle(others)
        drawn += [(turn, generator.random(), family, name) for turn, name in enumerate(others)]
    return [(family, name) for _, _, family, name in sorted(drawn)[:count]]


def some_images(module: nn.Module) -> Tensor:
    """Four images, two where they are large; small ones, where the network takes any size."""
    images = example_images(module, 4)
    config = getattr(module, "pretrained_cfg", {})
    if images.shape[-1] > SIDE and not config.get("fixed_input_size", True):
        try:
            outputs(module, images[:1, :, :SIDE, :SIDE], False)
            return images[:, :, :SIDE, :SIDE]
        except Exception:  # a network that needs its own size nevertheless
            pass
    large = sum(value.numel() for value in module.parameters()) > LARGE_NETWORK
    return images[:2] if large or images.shape[-1] > LARGE else images


@torch.no_grad()
def looking_trained(module: nn.Module, images: Tensor, seed: int = 1) -> nn.Module:
    """No parameter is constant, statistics are those of data, with some noise, and layer scales are not near zero."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(values: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(values.shape, generator=generator, dtype=values.dtype) * (high - low) + low

    for value in module.parameters():
        if value.numel() and value.is_floating_point() and (value == value.flatten()[0]).all():
            first = float(value.flatten()[0])
            if first == 0:
                value.copy_(uniform(value, -0.2, 0.2))
            elif abs(first) < 0.1:
                value.copy_(uniform(value, 0.1, 0.5))
            else:
                value.mul_(uniform(value, 0.5, 1.5))
    with torch.random.fork_rng():
        recalibrate_floats(module, images)
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.mul_(uniform(buffer, 0.7, 1.4))
        elif name.endswith("running_mean"):
            buffer.add_(uniform(buffer, -0.2, 0.2) * buffer.abs().mean())
    return module.eval()


def recalibrate_floats(module: nn.Module, images: Tensor) -> None:
    from torch.optim.swa_utils import update_bn

    from kzoo.training.evaluation import _OnlyNorms, evaluation_mode

    with evaluation_mode(module):
        update_bn([images], _OnlyNorms(module))


@torch.no_grad()
def outputs(module: nn.Module, images: Tensor, training: bool) -> list[Tensor]:
    """What the network gives, in training mode without dropout and stochastic depth; afterwards it is as it was."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    module.train(training)
    for part in module.modules():
        if "drop" in type(part).__name__.lower() or "stochastic" in type(part).__name__.lower():
            part.eval()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return tensors_of(module(images))
    finally:
        module.eval()
        for buffer, value in buffers:
            buffer.copy_(value)


def differences(base: nn.Module, deeper: nn.Module, images: Tensor) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for mode in ("eval", "train"):
        try:
            before = outputs(base, images, mode == "train")
        except Exception:  # a network that has no training mode of its own
            found[mode] = None
            continue
        found[mode] = relative_difference(before, outputs(deeper, images, mode == "train"))
    return found


def attempt(name: str) -> dict[str, Any]:
    """Deepen one network everywhere, in both types of numbers."""
    library, _, own = name.partition(":")
    torch.set_grad_enabled(False)
    base = build_network(NetworkSpec(library, own), load_zoo, 0)
    images = some_images(base)
    base = looking_trained(base, images)
    row: dict[str, Any] = {"parameters": sum(value.numel() for value in base.parameters())}
    row["spread"] = float(outputs(base, images, False)[0].std())
    for kind, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        network, inputs = copied(base).to(dtype), images.to(dtype)
        found = deepen_module(network, calibration=inputs)
        row[kind] = differences(network, found.module, inputs)
        row["deepened"] = [edit.get("stage") or edit.get("after") for edit in found.edits]
        row["added"] = added(found.edits)
        row["skipped"] = found.skipped
        row["grown_to"] = sum(value.numel() for value in found.module.parameters())
    rebuilt = apply_edits(build_network(NetworkSpec(library, own), load_zoo, 1), found.edits)
    row["rebuilt"] = {key: value.shape for key, value in rebuilt.state_dict().items()} == {
        key: value.shape for key, value in found.module.state_dict().items()
    }
    return row


def added(edits: list[Edit]) -> dict[str, int]:
    """How many blocks and layers there are more."""
    kinds = [
        "block" if "like" in edit else "residual layer" if edit["layer"].get("residual") else "identity layer"
        for edit in edits
    ]
    return {kind: kinds.count(kind) for kind in ("block", "identity layer", "residual layer") if kind in kinds}


def passed(row: dict[str, Any]) -> bool:
    exact = all(
        value is None or value <= limit for kind, limit in LIMITS.items() for value in row.get(kind, {"": 1}).values()
    )
    return exact and row["rebuilt"] and row["grown_to"] > row["parameters"]


def in_a_process(name: str) -> dict[str, Any]:
    """One network in a process of its own, within the time limit; libraries are imported already there."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_attempt, args=(name, sender))
    started = time.monotonic()
    child.start()
    sender.close()
    try:
        row = receiver.recv() if receiver.poll(SECONDS) else {"refused": f"took more than {SECONDS} seconds"}
    except EOFError:
        row = {"refused": "its process ended without an answer, perhaps for want of memory"}
    child.kill()
    child.join()
    row["passed"] = "refused" not in row and passed(row)
    return row | {"seconds": round(time.monotonic() - started, 1)}


def _send_attempt(name: str, sender: Connection) -> None:
    try:
        sender.send(attempt(name))
    except Exception as error:  # a network that fails in a way that nobody thought of is a row too
        sender.send(
            {"refused": f"{type(error).__name__}: {error}"[:300] if not isinstance(error, InputError) else str(error)}
        )


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """How many families passed with each of their networks, and how many networks got a layer or block in every stage."""
    found: dict[str, Any] = {}
    for library in ("timm", "torchvision"):
        tried: dict[str, list[bool]] = {}
        for row in rows.values():
            if row["family"].startswith(f"{library}/"):
                tried.setdefault(row["family"], []).append(row["passed"])
        found |= {f"{library}_families": len(tried), f"{library}_families_deepened": sum(map(all, tried.values()))}
    found["networks"], found["deepened"] = len(rows), sum(row["passed"] for row in rows.values())
    found["every_stage"] = sum(row["passed"] and not row["skipped"] for row in rows.values())
    return found | {"failed": sorted(name for name, row in rows.items() if not row["passed"])}


def table(result: dict[str, Any]) -> str:
    """The result as a page."""
    whole, others = result, result.get("held_back")
    lines = [
        "# Which networks can be deepened",
        "",
        "`python -m benchmarks.deepening` deepens the smallest network of each family of timm and torchvision everywhere: a block like",
        "its last one for each stage that is residual, else an identity layer behind a ReLU, else a residual layer of zero output.",
        "Weights and statistics of batch normalisation look as after training. A network counts as deepened where the outputs differ",
        "by at most 1e-8 in float64 and 1e-4 in float32, relative to the largest output, in evaluation and in training mode (without",
        "dropout and stochastic depth, on the batch that batch normalisations were calibrated on), parameters were added, and the",
        "edits rebuild the structure.",
        "",
        f"{whole['timm_families_deepened']} of timm's {whole['timm_families']} families, "
        f"{whole['torchvision_families_deepened']} of torchvision's {whole['torchvision_families']}; of {whole['networks']} "
        f"networks {whole['every_stage']} got a block or a layer in every stage.",
        "",
        *_rows(whole["rows"]),
    ]
    if others:
        lines += [
            "",
            "## Others",
            "",
            f"`python -m benchmarks.deepening --held-back {len(others['rows'])} --seed {others['seed']}`: networks that a seed chooses "
            "among those that are not in the table above.",
            "",
            f"{others['deepened']} of {others['networks']} were deepened, {others['every_stage']} in every stage.",
            "",
            *_rows(others["rows"]),
        ]
    return "\n".join(lines) + "\n"


def _rows(rows: dict[str, Any]) -> Iterator[str]:
    yield "| family | network | parameters (M) | deeper (M) | added | float64 | training | float32 | remark |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, row in sorted(rows.items(), key=lambda one: (one[1]["family"], one[0])):
        sizes = [f"{row[key] / 1e6:.1f}" if key in row else "-" for key in ("parameters", "grown_to")]
        new = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in row.get("added", {}).items())
        single = [value for value in row.get("float32", {}).values() if value is not None]
        double = row.get("float64", {})
        errors = [double.get("eval"), double.get("train"), max(single, default=None)]
        shown = ["-" if value is None else f"{value:.0e}" if value else "0" for value in errors]
        left = "; ".join(f"{stage} left: {why}" for stage, why in row.get("skipped", {}).items())
        remark = row.get("refused") or left
        cells = [row["family"], name, *sizes, new, *shown, f"{remark.replace('|', '/'):.160}"]
        yield f"| {' | '.join(cells)} |"


def save(result: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    TABLE.write_text(table(result))


def run(wanted: list[tuple[str, str]], known: dict[str, Any], again: list[str]) -> Iterator[dict[str, Any]]:
    """Try networks one after the other; after each the rows so far, with those known of the ones to come."""
    rows = {name: known[name] for _, name in wanted if name in known}
    for family, name in wanted:
        old = rows.get(name)
        repeated = (
            name in again or family in again or again == ["all"] or (again == ["failed"] and old and not old["passed"])
        )
        if old is None or repeated:
            rows[name] = {"family": family} | in_a_process(name)
            print(name, {key: value for key, value in rows[name].items() if key != "family"}, flush=True)
            yield rows
    yield rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", nargs="*", default=[])
    parser.add_argument("--held-back", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {"rows": {}}
    head = {"machine": machine(), "torch": torch.__version__, "limits": LIMITS}
    if given.table:
        save(known)
    elif given.held_back:
        old = known.get("held_back", {})
        before = old.get("rows", {}) if old.get("seed") == given.seed else {}
        for rows in run(held_back(given.held_back, given.seed), before, given.again):
            save(known | {"held_back": head | {"seed": given.seed} | summary(rows) | {"rows": rows}})
    else:
        others = {key: known[key] for key in ("held_back",) if key in known}
        for rows in run(networks(), known["rows"], given.again):
            save(head | summary(rows) | {"rows": rows} | others)


if __name__ == "__main__":
    main()

"""Which networks deepen, and how exactly: ``python -m benchmarks.deepening``, up to an hour.

The smallest network of every family of timm and of torchvision's classification networks, and the smallest that is not one
of timm's test networks, with weights that look trained. Each runs in a process of its own; what is done is kept, so that a
run goes on where the last one was stopped (``--again NAME ...`` repeats some, ``--again all`` everything).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.common import RESULTS, machine
from kzoo.building import NetworkSpec, build_network
from kzoo.edits import apply_edits, copied
from kzoo.errors import InputError
from kzoo.methods.checking import relative_difference
from kzoo.methods.deepening import deepen_module
from kzoo.methods.preserving import tensors_of
from kzoo.methods.probing import example_images
from kzoo.zoo import load_zoo

NAME = "growth-deepen"
REGISTRY = Path("registry")
LIMITS = {"float64": 1e-8, "float32": 1e-4}
SECONDS = 600
#: Pixels along a side: of images for networks that take any, and from which on there are fewer images.
SIDE, LARGE = 160, 320
#: torchvision's networks for other tasks are in families of their own.
_OTHER_TASKS = ("detection", "segmentation", "video", "optical_flow", "quantization")


def networks() -> list[tuple[str, str]]:
    """(family, network) of everything to try, smaller networks first."""
    found: dict[str, tuple[int, str]] = {}
    for file in sorted(REGISTRY.glob("timm/*.yaml")) + sorted(REGISTRY.glob("torchvision/*.yaml")):
        library, family = file.parent.name, file.stem
        entries = yaml.safe_load(file.read_text())["architectures"]
        sizes = [(entry["parameters"], entry["name"]) for entry in entries]
        chosen = {min(sizes), min([one for one in sizes if not one[1].startswith("test_")] or sizes)}
        for size, name in chosen:
            found[f"{library}:{name}"] = (size, f"{library}/{family}")
    return [(family, name) for name, (_, family) in sorted(found.items(), key=lambda one: one[1])]


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
    return images if images.shape[-1] <= LARGE else images[:2]


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
        row["kinds"] = sorted({"block" if "like" in edit else "layer" for edit in found.edits})
        row["skipped"] = found.skipped
        row["grown_to"] = sum(value.numel() for value in found.module.parameters())
    rebuilt = apply_edits(build_network(NetworkSpec(library, own), load_zoo, 1), found.edits)
    row["rebuilt"] = {key: value.shape for key, value in rebuilt.state_dict().items()} == {
        key: value.shape for key, value in found.module.state_dict().items()
    }
    return row


def passed(row: dict[str, Any]) -> bool:
    exact = all(
        value is None or value <= limit for kind, limit in LIMITS.items() for value in row.get(kind, {"": 1}).values()
    )
    return exact and row["rebuilt"] and row["grown_to"] > row["parameters"]


def in_a_process(name: str) -> dict[str, Any]:
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.deepening", "--one", name],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        row = json.loads(done.stdout) if done.returncode == 0 else {"refused": done.stderr.strip()[-300:]}
    except subprocess.TimeoutExpired:
        row = {"refused": f"took more than {SECONDS} seconds"}
    row["passed"] = "refused" not in row and passed(row)
    return row | {"seconds": round(time.monotonic() - started, 1)}


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    families: dict[str, list[bool]] = {}
    for row in rows.values():
        families.setdefault(row["family"], []).append(row["passed"])
    timm = {family: all(all_passed) for family, all_passed in families.items() if family.startswith("timm/")}
    others = {family: all(all_passed) for family, all_passed in families.items() if not family.startswith("timm/")}
    return {
        "timm_families": len(timm),
        "timm_families_deepened": sum(timm.values()),
        "torchvision_families": len(others),
        "torchvision_families_deepened": sum(others.values()),
        "failed": sorted(name for name, row in rows.items() if not row["passed"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one")
    parser.add_argument("--again", nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        try:
            print(json.dumps(attempt(arguments.one)))
        except InputError as error:
            sys.exit(str(error))
        return
    path = RESULTS / f"{NAME}.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() and arguments.again != ["all"] else {}
    rows: dict[str, Any] = {}
    wanted = networks()
    listed = {name for _, name in wanted}
    for family, name in wanted:
        kept = known.get(name) if name not in arguments.again and family not in arguments.again else None
        if arguments.again == ["failed"] and kept and not kept["passed"]:
            kept = None
        rows[name] = {"family": family} | (kept or in_a_process(name))
        row = rows[name]
        if kept is None:
            print(name, {key: value for key, value in row.items() if key != "family"}, flush=True)
        whole = {other: row for other, row in known.items() if other in listed} | rows
        result = {
            "machine": machine(),
            "torch": torch.__version__,
            "limits": LIMITS,
            **summary(whole),
            "rows": whole,
        }
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()

"""What carrying weights costs beside a plain copy of them: ``python -m benchmarks.surgery``, about a minute."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.common import seconds, summary, write
from kzoo.building import build_network, network_spec
from kzoo.methods import dpiat
from kzoo.methods.surgery import module_body, operate
from kzoo.zoo import load_zoo

PAIRS = (("resnet152", "resnet101"), ("vit_large_patch16_224", "vit_base_patch16_224"))
VARIANTS = ("full_state", "paper")
REPEATS = 15


def network(name: str, seed: int = 0) -> nn.Module:
    return build_network(network_spec(f"timm:{name}", load_zoo), load_zoo, seed)


@torch.no_grad()
def copy(state: dict[str, Tensor], into: dict[str, Tensor]) -> None:
    for key, tensor in state.items():
        into[key].copy_(tensor)


def times(theirs: nn.Module, target_name: str) -> dict[str, Any]:
    """Copies and transfers in turn, so that what else the machine does falls on both.

    The copy goes into memory that is there already, which takes half the time of ``clone``.
    """
    source, target = module_body(theirs), network(target_name)
    state = target.state_dict()
    into = {key: torch.empty_like(tensor).zero_() for key, tensor in state.items()}
    ours = module_body(target)
    transfers: dict[str, Callable[[], object]] = {}
    for variant in VARIANTS:
        parameters = dpiat.DpiatParameters.model_validate({"variant": variant})
        steps = dpiat.steps(source, ours, parameters)
        transfers[variant] = partial(operate, steps, source, ours, dpiat.choices(parameters))
    measured: dict[str, list[float]] = {name: [] for name in ("copy", *transfers)}
    for repeat in range(REPEATS + 1):
        for name, function in {"copy": partial(copy, state, into), **transfers}.items():
            taken = seconds(function)
            if repeat:
                measured[name].append(taken)
    return {"copy_s": summary(measured["copy"])} | {
        variant: {
            "operate_s": summary(measured[variant]),
            "times_a_copy": summary([a / b for a, b in zip(measured[variant], measured["copy"], strict=True)], 2),
        }
        for variant in VARIANTS
    }


#: Everything that a transfer imports is there before; its index, its matching and its buffers are counted.
_PEAK = """
import re, sys
from pathlib import Path
import numba, numpy, psutil, safetensors.torch, timm
import kzoo.matching, kzoo.refine, timm.layers.pos_embed_rel, timm.models._manipulate
from kzoo.carrying import transfer
def resident(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = resident("VmRSS")
module = transfer(sys.argv[1], sys.argv[2], variant=sys.argv[3])
print(before, resident("VmHWM"))
"""


def peak(source: Path, target: str, variant: str, both: int) -> dict[str, Any]:
    """Peak memory of a process that carries a file's weights into a new network; ``both`` is the size of the two."""
    command = [sys.executable, "-c", _PEAK, str(source), f"timm:{target}", variant]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    before, highest = map(int, found)
    return {
        "peak_memory_beyond_imports_mb": round((highest - before) / 2**20, 1),
        "times_source_and_target": round((highest - before) / both, 3),
    }


def size(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def pair(source: str, target: str) -> dict[str, Any]:
    theirs = network(source, 1)
    both = size(theirs) + size(network(target))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "source.safetensors"
        save_file(theirs.state_dict(), file)
        memory = {variant: peak(file, target, variant, both) for variant in VARIANTS}
    timed = times(theirs, target)
    return {
        "source": source,
        "target": target,
        "source_and_target_mb": round(both / 2**20, 1),
        "copy_s": timed.pop("copy_s"),
        **{variant: timed[variant] | memory[variant] for variant in VARIANTS},
    }


def main() -> None:
    torch.set_num_threads(1)
    write(
        "surgery",
        {"torch": torch.__version__, "threads": 1, "repeats": REPEATS, "pairs": [pair(*names) for names in PAIRS]},
    )


if __name__ == "__main__":
    main()

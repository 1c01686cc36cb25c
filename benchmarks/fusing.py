"""Fusing two files of 4 GB: memory and time beside reading both and writing one, ``python -m benchmarks.fusing``, about ten minutes.

Needs 16 GB of disk in the temporary folder (TMPDIR). The page cache is emptied of all files before each measurement, and the
file that a baseline or a fusion writes is on the disk (fsync) when its time ends. What is measured is the command,
``kzoo fuse A B --out DIR``, with its start, and the sha256 of both files for the recipe.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import seconds, summary, write

BYTES, SHARD_COUNTS, ROUNDS = 4 * 10**9, {"one file each": (1, 1), "shards, 4 and 3": (4, 3)}, 3
TENSORS, WIDTH, SAMPLE_S, BUFFER = 32, 4096, 0.02, 1 << 21
COMMAND = [sys.executable, "-m", "kzoo", "fuse"]


def make(folder: Path, seed: int, shards: int) -> list[Path]:
    """Weights of 32 tensors in bfloat16, drawn once and shifted for each, in so many shards."""
    folder.mkdir()
    rows = BYTES // 2 // TENSORS // WIDTH
    chance = np.random.default_rng(seed)
    drawn = (chance.standard_normal(1 << 22, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    names = [f"layers.{number}.mixer.weight" for number in range(TENSORS)]
    if shards == 1:
        files = dict.fromkeys(names, "model.safetensors")
    else:
        files = {
            name: f"model-{1 + place * shards // TENSORS:05d}-of-{shards:05d}.safetensors"
            for place, name in enumerate(names)
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    for file in dict.fromkeys(files.values()):
        inside = [name for name in names if files[name] == file]
        size = rows * WIDTH * 2
        header: dict[str, Any] = {
            name: {"dtype": "BF16", "shape": [rows, WIDTH], "data_offsets": [place * size, (place + 1) * size]}
            for place, name in enumerate(inside)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _ in inside:
                left = size
                while left:
                    piece = np.roll(drawn, int(chance.integers(len(drawn)))).tobytes()[:left]
                    left -= out.write(piece)
    return sorted(folder.glob("*.safetensors"))


def forget(files: Sequence[Path]) -> None:
    """Empty the page cache of files."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def copy(files: Sequence[Path], out: Path) -> Callable[[], None]:
    """The baseline: read all, and write as much as one network of two has, safely onto the disk."""

    def run() -> None:
        buffer = memoryview(bytearray(BUFFER))
        for file in files:
            with file.open("rb", buffering=0) as content:
                while content.readinto(buffer):
                    pass
        with out.open("wb", buffering=0) as written:
            for _ in range(sum(file.stat().st_size for file in files) // 2 // BUFFER):
                written.write(buffer)
            os.fsync(written.fileno())

    return run


@dataclass
class Watched:
    """How long a process ran and on the processor, the most anonymous memory of it and its children, its peak with files."""

    seconds: float
    cpu_seconds: float
    anonymous_mb: float
    peak_mb: float


def watch(command: Sequence[str]) -> Watched:
    """Run a command to its end."""
    started, anonymous, peak, before = time.perf_counter(), 0, 0, on_processor()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        found = [status(each) for each in family(process.pid)]
        anonymous = max(anonymous, sum(one.get("RssAnon", 0) for one in found))
        peak = max(peak, sum(one.get("VmHWM", 0) for one in found))
        time.sleep(SAMPLE_S)
    taken = time.perf_counter() - started
    assert process.stderr is not None
    if process.returncode:
        raise RuntimeError(process.stderr.read().decode())
    return Watched(taken, on_processor() - before, round(anonymous / 1024, 1), round(peak / 1024, 1))


def on_processor() -> float:
    """Seconds that all children took so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family(process: int) -> list[int]:
    """A process and its children."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [process, *(each for child in text.split() for each in family(int(child)))]


def status(process: int) -> dict[str, int]:
    """What the kernel says of a process's memory, in KiB."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    return {name: int(size) for name, size in re.findall(r"(\w+):\s+(\d+) kB", text)}


def measured(folder: Path, shards: tuple[int, int]) -> dict[str, Any]:
    """Baselines and fusions of two networks in turn, so that what else the machine does falls on both."""
    parents = [folder / name for name in ("one", "two")]
    files = [file for place, parent in enumerate(parents) for file in make(parent, place, shards[place])]
    out = folder / "fused"
    command = [*COMMAND, *map(str, parents), "--out", str(out)]
    baselines, fusions, loads = [], [], []
    for _ in range(ROUNDS):
        forget(files)
        baselines.append(seconds(copy(files, folder / "copy")))
        (folder / "copy").unlink()
        forget(files)
        fusions.append(watch(command))
        loads.append(round(os.getloadavg()[0], 1))
        shutil.rmtree(out)
        print(f"{shards}: baseline {baselines[-1]:.1f} s, {fusions[-1]}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {
        "shards": list(shards),
        "baseline_s": summary(baselines, 2),
        "fuse_s": summary([one.seconds for one in fusions], 2),
        "fuse_cpu_s": summary([one.cpu_seconds for one in fusions], 2),
        "times_the_baseline": summary([one.seconds / base for one, base in zip(fusions, baselines, strict=True)], 2),
        # What else the machine did: more than its cores, and the processor was shared.
        "load_average": loads,
        "peak_anonymous_memory_mb": max(one.anonymous_mb for one in fusions),
        "peak_memory_with_files_mb": max(one.peak_mb for one in fusions),
    }
    if shards == (1, 1):
        found["killed"] = {name: killed(command, out, number) for name, number in SIGNALS.items()}
    for parent in parents:
        shutil.rmtree(parent)
    return found


SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGINT": signal.SIGINT}


def killed(command: Sequence[str], out: Path, number: int) -> dict[str, bool]:
    """What is left of a fusion that is killed half-way, and after the same command once more."""
    # A shell that runs this in the background has made it, and what it starts, ignore SIGINT.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=heed)
    before = set(out.parent.iterdir())
    while size(out.parent.glob(f".{out.name}.*/*.safetensors")) < BYTES // 2:
        if process.poll() is not None:
            raise RuntimeError("the fusion ended before it was killed")
        time.sleep(SAMPLE_S)
    process.send_signal(number)
    process.wait()
    found = {"output": out.exists(), "temporary_folder": set(out.parent.iterdir()) != before}
    watch([*command, "--force"])
    found["temporary_folder_after_the_next_run"] = set(out.parent.iterdir()) != before | {out}
    shutil.rmtree(out)
    return found


def size(files: Any) -> int:
    return sum(file.stat().st_size for file in files if file.exists())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: measured(Path(folder), shards) for name, shards in SHARD_COUNTS.items()}
    write("fusing", {"bytes_each": BYTES, "dtype": "BF16", "method": "weight_sum", "rounds": ROUNDS, "files": rows})


if __name__ == "__main__":
    main()

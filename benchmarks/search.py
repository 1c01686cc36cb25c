"""Search time and memory: over indexes of several sizes, and for every timm architecture with itself left out."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import kzoo
from benchmarks.common import peak_memory_mb, seconds, summary, write
from kzoo.encoding import Encoding, encode, encode_one
from kzoo.scan import Scan, compiled_engine
from kzoo.search import Filters, search
from kzoo.zoo import load_zoo

SIZES = (10, 100, 1371)
WORST = 5


def scan(target: Encoding, sources: Encoding) -> None:
    found = Scan(target, sources, compiled_engine())
    found.forward_values()
    found.reverse_values()


def by_size(names: list[str]) -> dict[str, object]:
    """Full scans, both directions, of 50 targets spread over timm, against the first n architectures."""
    results: dict[str, object] = {}
    targets = [encode_one(kzoo.architecture(name)) for name in names[:: len(names) // 50][:50]]
    for size in SIZES:
        step = len(names) // size
        sources = encode([kzoo.architecture(name) for name in names[::step][:size]])
        times = [seconds(partial(scan, target, sources)) for target in targets]
        results[str(size)] = {"scan_s": summary(times), "peak_memory_mb": peak_memory_mb()}
    return results


def every_target(names: list[str]) -> tuple[dict[str, float], list[dict[str, object]]]:
    """The whole search for a target that is not in the index: itself is left out, no stored ranking is used."""
    zoo = load_zoo()
    filters = Filters(exclude_same=True)
    rows = []
    for name in names:
        leave_out = partial(search, zoo, kzoo.architecture(name), filters=filters, use_stored=False)
        rows.append({"target": name, "search_s": round(seconds(leave_out), 4)})
    rows.sort(key=lambda row: -float(str(row["search_s"])))
    return summary([float(str(row["search_s"])) for row in rows], 4), rows[:WORST]


def fresh_process(name: str) -> dict[str, object]:
    """The same in a process of its own: one class more takes the target out of the index."""
    command = [sys.executable, "-m", "kzoo", "recommend", name, "--classes", "1001", "--json"]
    times = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(7)]
    script = f"import sys; sys.argv = {['kzoo', *command[3:]]!r}\nfrom kzoo.cli.main import run\nrun()\n"
    script += "import re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    memory = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stderr
    return {"target": name, "wall_s": summary(times, 3), "peak_memory_mb": round(int(memory) / 1024, 1)}


def main() -> None:
    names = [name for name in load_zoo().entries if name.startswith("timm:")]
    compiled_engine()
    kzoo.recommend("timm:resnet18", filters=Filters(library="timm"))
    everything, worst = every_target(names)
    memory = peak_memory_mb()
    typical = names[len(names) // 2]
    result = {
        "every_timm_target_left_out": everything | {"targets": len(names), "peak_memory_mb": memory},
        "worst_targets": worst,
        "fresh_process": [fresh_process(str(row["target"])) for row in [*worst[:3], {"target": typical}]],
        "scan_by_index_size": by_size(names),
    }
    write("search", result)


if __name__ == "__main__":
    main()

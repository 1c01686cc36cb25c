"""Does a start from another network help? ``python -m benchmarks.gain``, about 40 minutes on two cores.

Finished runs are kept in benchmarks/results/gain_runs.jsonl as they end; what is there is not run again, so it may be
stopped at any time. ``--report`` only writes summary and picture anew. See docs/gain.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.common import RESULTS, write
from benchmarks.gain_plot import draw
from benchmarks.gain_report import summarise, to_be_remedied
from benchmarks.gain_study import (
    PAIRS,
    RANDOM,
    SEEDS,
    Record,
    Run,
    Scope,
    best_sources,
    execute,
    final_runs,
    keyed,
    picked_rates,
    read_runs,
    remedy_runs,
    source_runs,
    study_task,
    sweep_runs,
    weights_file,
)
from benchmarks.gain_tables import goals_table, results_table

ROOT = Path(__file__).parent.parent
#: Weights of the sources; whatever is missing here is trained again.
WEIGHTS = ROOT / "build" / "gain"
WORKERS = 2
PICTURE = ROOT / "docs" / "gain.svg"

Entry = tuple[Run, str, str | None]


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    study_task()


class Bench:
    """Finished runs, and two processes that add to them; without ``adding`` a missing run is an error."""

    def __init__(self, path: Path, weights: Path, adding: bool = True) -> None:
        self.path, self.weights, self.adding = path, weights, adding
        self.finished = read_runs(path)
        self.fingerprint = study_task().fingerprint
        self.started = time.perf_counter()
        self.added = 0

    def study(self, scope: Scope) -> list[Record]:
        """All stages; the records of the runs that make it up, whatever else the file holds."""
        sources = self.records(source_runs(scope), {})
        best = best_sources(sources)
        sweep = self.records(sweep_runs(scope), best)
        rates = picked_rates(sweep)
        finals = self.records(final_runs(scope, rates), best)
        found = [*sources, *sweep, *finals]
        return found + self.records(remedy_runs(scope, rates, to_be_remedied(found, scope)), best)

    def records(self, runs: Sequence[Run], sources: Mapping[str, Record]) -> list[Record]:
        """The records of these runs, after carrying out those that are missing."""
        wanted = list(keyed(runs, self.fingerprint, sources))
        missing = [entry for entry in wanted if entry[1] not in self.finished]
        if missing and not self.adding:
            raise SystemExit(f"{len(missing)} of {len(runs)} runs are missing: run python -m benchmarks.gain")
        lost = self._lost({run.source for run, _, _ in missing}, sources)
        for entries in (lost, missing):
            self._carry_out(entries)
        return [self.finished[key] for _, key, _ in wanted]

    def _lost(self, names: Collection[str | None], sources: Mapping[str, Record]) -> list[Entry]:
        """The trainings of these sources whose weights are not here any more; they end as they did before."""
        found = [record for name, record in sources.items() if name in names]
        return [
            (Run("source", record["target"], RANDOM, None, record["lr"], record["seed"]), record["key"], None)
            for record in found
            if not weights_file(self.weights, record["key"]).exists()
        ]

    def _carry_out(self, missing: Sequence[Entry]) -> None:
        if not missing:
            return
        # A fresh process has no threads of torch yet, whatever this one has.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=_start_worker) as pool:
            waiting = [pool.submit(execute, run, key, source_key, self.weights) for run, key, source_key in missing]
            try:
                for done, future in enumerate(as_completed(waiting), 1):
                    self._keep(future)
                    self._tell(missing[0][0].stage, done, len(missing))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        print()

    def _keep(self, future: Future[Record]) -> None:
        record = future.result()
        # A source whose weights were lost is trained again, to the same outcome.
        if self.finished.setdefault(record["key"], record) is record:
            self.added += 1
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def _tell(self, stage: str, done: int, of: int) -> None:
        minutes = (time.perf_counter() - self.started) / 60
        print(f"\r{stage}: {done} of {of} runs, {minutes:.1f} minutes so far", end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="only the first pairs")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="only the first seeds")
    parser.add_argument("--runs", type=Path, default=RESULTS / "gain_runs.jsonl", help="the file of finished runs")
    parser.add_argument("--report", action="store_true", help="carry nothing out, summarise what is there")
    options = parser.parse_args()
    scope = Scope(options.pairs, options.seeds)
    started = time.perf_counter()
    bench = Bench(options.runs, WEIGHTS, adding=not options.report)
    result = summarise(bench.study(scope), scope)
    print(f"{bench.added} runs in {(time.perf_counter() - started) / 60:.1f} minutes")
    if scope == Scope():
        write("gain", result)
        draw(result, PICTURE)
    print(results_table(result), goals_table(result), sep="\n\n")


if __name__ == "__main__":
    main()

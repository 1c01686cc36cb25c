"""The gain study's design: which networks, which runs, what decides a run, and how one is carried out."""

from __future__ import annotations

import ast
import hashlib
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kzoo
from kzoo.files import replacing
from kzoo.methods.plan import Plan, Step
from kzoo.methods.surgery import module_body
from kzoo.methods.transfers import TransferReport, make_plan, read_parameters
from kzoo.training.data import Task, load_task
from kzoo.training.evaluation import evaluate
from kzoo.training.loop import train
from kzoo.training.networks import small_network
from kzoo.training.settings import TrainingSettings

Stage = Literal["source", "sweep", "final", "remedy"]
Record = dict[str, Any]

TASK: dict[str, Any] = {"name": "glyphs/upper", "train": 3840, "test": 1040, "size": 16}
#: (source, target) and what differs between them.
PAIRS: Mapping[tuple[str, str], str] = {
    ("resnet-1x16", "resnet-2x16"): "depth",
    ("resnet-3x16", "resnet-2x16"): "depth",
    ("resnet-2x16", "resnet-1x16"): "depth",
    ("resnet-3x16", "resnet-1x16"): "depth",
    ("resnet-1x16", "resnet-3x16"): "depth",
    ("resnet-2x16", "resnet-3x16"): "depth",
    ("mobilenet-1x16", "mobilenet-2x16"): "depth",
    ("mobilenet-2x16", "mobilenet-1x16"): "depth",
    ("vgg-2x16", "vgg-3x16"): "depth",
    ("resnet-2x12", "resnet-2x16"): "width",
    ("resnet-2x24", "resnet-2x16"): "width",
    ("resnet-2x16", "resnet-2x12"): "width",
    ("mobilenet-2x12", "mobilenet-2x16"): "width",
    ("mobilenet-2x16", "mobilenet-2x12"): "width",
    ("resnet-2x12", "resnet-1x16"): "depth and width",
    ("resnet-2x12", "resnet-3x16"): "depth and width",
    ("resnet-1x16", "resnet-2x12"): "depth and width",
    ("mobilenet-1x16", "mobilenet-2x12"): "depth and width",
    ("mobilenet-2x12", "mobilenet-1x16"): "depth and width",
    ("mobilenet-2x16", "resnet-2x16"): "family",
    ("vgg-2x16", "resnet-1x16"): "family",
    ("vgg-2x16", "resnet-2x16"): "family",
    ("resnet-2x16", "mobilenet-2x16"): "family",
    ("resnet-1x16", "mobilenet-1x16"): "family",
    ("resnet-2x16", "vgg-3x16"): "family",
}


@dataclass(frozen=True)
class Way:
    """How something is carried: a method of `kzoo.transfer`, its parameters, and what is changed in its plan.

    ``once`` lets each part of the source serve one part of the target only, the first.
    """

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False


#: What is compared; the last is what the others are compared with.
ARMS: Mapping[str, Way] = {
    "full_state": Way("dpiat", {"variant": "full_state"}),
    "paper": Way("dpiat", {"variant": "paper"}),
    "by_name": Way("by_name"),
    "weight_selection": Way("weight_selection"),
    "random": Way("random"),
}
#: What else is tried where ``full_state`` falls short.
REMEDIES: Mapping[str, Way] = {
    "with_norms": Way("dpiat", {"variant": "full_state", "norms": "all"}),
    "without_norms": Way("dpiat", {"variant": "full_state", "norms": "none"}),
    "each_part_once": Way("dpiat", {"variant": "full_state"}, once=True),
}
RANDOM = "random"
_WAYS = {**ARMS, **REMEDIES}
RATES = (1e-3, 3e-3, 8e-3, 2e-2)
#: Sources are trained at both; the better one is used, and its accuracy counts as the network's converged one.
SOURCE_RATES = (6e-3, 2e-2)
SOURCE_EPOCHS, SWEEP_EPOCHS, EPOCHS = 24, 4, 8
#: No seed serves two purposes: the picked rates know nothing of the runs that count.
SOURCE_SEED, SWEEP_SEED, SEEDS = 1000, 100, (0, 1, 2, 3, 4)
#: The final runs are tested twice per epoch, for steps to an accuracy.
STEPS_BETWEEN_TESTS = 30

#: What decides a run besides what its key names: these modules of the package.
_CODE = (
    *("carrying", "encoding", "kernel", "matching", "pairing", "scan", "standardize"),
    *("methods/*", "readers/module", "training/batches", "training/determinism", "training/evaluation"),
    *("training/loop", "training/networks", "training/schedules"),
)


@dataclass(frozen=True)
class Run:
    """One training: the target's, after what the arm carries from the source; a source's own has the arm ``random``."""

    stage: Stage
    target: str
    arm: str
    source: str | None
    lr: float
    seed: int

    @property
    def settings(self) -> TrainingSettings:
        epochs = {"source": SOURCE_EPOCHS, "sweep": SWEEP_EPOCHS}.get(self.stage, EPOCHS)
        return TrainingSettings(
            epochs=epochs,
            batch_size=64,
            optimizer="adamw",
            lr=self.lr,
            weight_decay=0.05,
            schedule="cosine" if self.stage == "source" else "constant",
            seed=self.seed,
            threads=1,
            evaluate_every=STEPS_BETWEEN_TESTS if self.stage in ("final", "remedy") else None,
        )


@dataclass(frozen=True)
class Scope:
    """Which part of the study is run: the first pairs, and the first seeds."""

    pairs: int = len(PAIRS)
    seeds: int = len(SEEDS)

    @property
    def chosen(self) -> list[tuple[str, str]]:
        return list(PAIRS)[: self.pairs]

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for _, target in self.chosen))

    @property
    def networks(self) -> list[str]:
        return list(dict.fromkeys(name for pair in self.chosen for name in pair))

    def sources(self, target: str) -> list[str]:
        return [source for source, other in self.chosen if other == target]


# What is to be run


def source_runs(scope: Scope) -> list[Run]:
    """Every network from scratch until it has converged."""
    return [Run("source", name, RANDOM, None, lr, SOURCE_SEED) for name in scope.networks for lr in SOURCE_RATES]


def sweep_runs(scope: Scope) -> list[Run]:
    """For every target and arm, as many runs per rate as it has sources: one of each, and as many random ones."""
    return [
        Run("sweep", target, arm, None if arm == RANDOM else source, lr, SWEEP_SEED + number)
        for target in scope.targets
        for number, source in enumerate(scope.sources(target))
        for arm in ARMS
        for lr in RATES
    ]


def final_runs(scope: Scope, rates: Mapping[tuple[str, str], float]) -> list[Run]:
    """The runs that count, one seed after the other."""
    return [
        Run("final", target, arm, source, rates[target, arm], seed)
        for seed in SEEDS[: scope.seeds]
        for source, target, arm in (
            *((None, target, RANDOM) for target in scope.targets),
            *((source, target, arm) for source, target in scope.chosen for arm in ARMS if arm != RANDOM),
        )
    ]


def remedy_runs(scope: Scope, rates: Mapping[tuple[str, str], float], short: Iterable[tuple[str, str]]) -> list[Run]:
    """The remedies for these pairs, at the rate of ``full_state``."""
    return [
        Run("remedy", target, arm, source, rates[target, "full_state"], seed)
        for seed in SEEDS[: scope.seeds]
        for source, target in short
        for arm in REMEDIES
    ]


def picked_rates(records: Iterable[Record]) -> dict[tuple[str, str], float]:
    """The rate of every target and arm that has the highest mean accuracy in the sweep, of equal ones the lowest."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for record in records:
        if record["stage"] == "sweep":
            accuracies = found.setdefault((record["target"], record["arm"]), {})
            accuracies.setdefault(record["lr"], []).append(last_accuracy(record))
    return {
        which: min(accuracies, key=lambda lr: (-statistics.mean(accuracies[lr]), lr))
        for which, accuracies in found.items()
    }


def last_accuracy(record: Record) -> float:
    """The accuracy at the end, 0 for a run that diverged."""
    return 0.0 if record["diverged"] else record["epochs"][-1]


def best_sources(records: Iterable[Record]) -> dict[str, Record]:
    """For every network the better one of its trainings from scratch."""
    found: dict[str, Record] = {}
    for record in records:
        if record["stage"] == "source":
            name = record["target"]
            if name not in found or last_accuracy(record) > last_accuracy(found[name]):
                found[name] = record
    return found


# What decides a run


@cache
def code_digest() -> str:
    """A digest of the code that runs depend on; comments and docstrings do not count."""
    package = Path(kzoo.__file__).parent
    paths = sorted({path for pattern in _CODE for path in package.glob(f"{pattern}.py")})
    digest = hashlib.sha256()
    for path in paths:
        digest.update(ast.dump(_without_docstrings(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def run_key(run: Run, fingerprint: str, source_key: str | None) -> str:
    """A digest of everything that decides a run's outcome; ``source_key`` is that of its source's training."""
    decides = {
        "run": asdict(run),
        "settings": run.settings.model_dump(),
        "arm": asdict(_WAYS[run.arm]),
        "task": fingerprint,
        "source": source_key,
        "code": code_digest(),
        "versions": [torch.__version__, timm.__version__],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


# Carrying a run out


@cache
def study_task() -> Task:
    return load_task(**TASK)


def fresh_network(name: str, task: Task, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return small_network(name, classes=len(task.classes), channels=task.channels)


def weights_file(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def execute(run: Run, key: str, source_key: str | None, folder: Path) -> Record:
    """Carry a run out; ``folder`` holds the sources' weights, and gets those of a source's training."""
    task = study_task()
    module = fresh_network(run.target, task, run.seed)
    carried: Record = {"similarity": None, "overwritten": 0.0}
    if run.source is not None and source_key is not None:
        source = fresh_network(run.source, task, SOURCE_SEED)
        source.load_state_dict(load_file(weights_file(folder, source_key)))
        report = carry(source, module, _WAYS[run.arm])
        carried = {"similarity": report.similarity, "overwritten": round(report.overwritten, 4)}
    # Where nothing can be carried, the random arm's own runs stand in for this one.
    skipped = run.source is not None and carried["overwritten"] == 0
    trained = (
        {"start": None, "epochs": [0.0], "tests": [], "diverged": None} if skipped else _trained(run, module, task)
    )
    if run.stage == "source":
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(weights_file(folder, key)) as temporary:
            save_file(module.state_dict(), temporary)
    return {"key": key, **asdict(run), **carried, "skipped": skipped, **trained}


def carry(source: nn.Module, module: nn.Module, way: Way) -> TransferReport:
    """Carry weights of ``source`` into ``module``, in place."""
    theirs, ours = module_body(source), module_body(module)
    plan = make_plan(theirs, ours, way.method, read_parameters(way.method, way.parameters), ("source", "target"))
    kzoo.transfer(source, module, way.method, plan=edited(plan, way), **way.parameters)
    return kzoo.report(module)


def edited(plan: Plan, way: Way) -> Plan:
    """The plan with what ``way`` changes in it."""
    used: set[str] = set()
    steps = []
    for step in plan.steps:
        if way.once and step.source in used:
            step = Step(target=step.target)
        if step.source is not None:
            used.add(step.source)
        steps.append(step)
    return plan.model_copy(update={"steps": tuple(steps)})


def _trained(run: Run, module: nn.Module, task: Task) -> Record:
    start = evaluate(module, task.test)["accuracy"]
    history = train(module, task, run.settings)
    return {
        "start": round(start, 4),
        "epochs": [round(epoch.test_accuracy, 4) for epoch in history.epochs] or [0.0],
        "tests": [[test.step, round(test.test_accuracy, 4)] for test in history.evaluations],
        "diverged": history.diverged,
    }


# The file of finished runs


def read_runs(path: Path) -> dict[str, Record]:
    """Finished runs by key; a last line that was cut off is removed from the file."""
    if not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return {record["key"]: record for record in map(json.loads, whole.splitlines())}


def keyed(
    runs: Sequence[Run], fingerprint: str, sources: Mapping[str, Record]
) -> Iterator[tuple[Run, str, str | None]]:
    """Runs with their key and that of their source's training."""
    for run in runs:
        source_key = None if run.source is None else sources[run.source]["key"]
        yield run, run_key(run, fingerprint, source_key), source_key

"""The one training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from math import fsum, isfinite
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.loading import load_values
from kzoo.training.acceleration import accelerated, prepared
from kzoo.training.batches import Feed, Plan, augment, batch_ranges, plan_epoch, share
from kzoo.training.checkpoints import Snapshot, read_checkpoint, write_checkpoint
from kzoo.training.determinism import reproducible, seed_everything
from kzoo.training.evaluation import as_metrics, place, totals
from kzoo.training.history import Epoch, Evaluation, History, Timing
from kzoo.training.objectives import Objective, Supervised
from kzoo.training.schedules import rate_factor
from kzoo.training.settings import TrainingSettings
from kzoo.training.tasks import Task

#: The name of the group of parameters that ``random_lr`` is for.
RANDOM = "random"
#: Losses are fetched from the device after so many steps; each time it must finish its work.
_FETCHED_EVERY = 32
_TEST_BATCH = 256
#: The state is kept when training since has taken so many times as long as keeping it: tiny networks have short epochs.
_WORTH_KEEPING = 20

Group = Mapping[str, Any]
Progress = Callable[[str, float], None]


def train(
    module: nn.Module,
    task: Task,
    settings: TrainingSettings,
    *,
    groups: Sequence[Group] | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    resume: bool = True,
    progress: Progress | None = None,
) -> History:
    """Train a network on a task, in place; it ends in evaluation mode, on the device that accelerate chose.

    ``groups`` are groups of parameters as torch's optimizers take them, each with a name; the one named ``random`` gets
    ``random_lr``. Together they hold every parameter that requires a gradient. Without them there is one group, ``all``.

    ``checkpoint`` is a folder that the state is kept in after the first epoch, the last, and each between but where epochs
    are so short that this would take a twentieth of the time. With ``resume`` a training goes on from there,
    bit for bit as if it had never ended, provided that ``key``, settings and task are the same; otherwise there is a
    KzooWarning, and it begins anew. ``progress`` is told every few steps what is done, and which part of it (0 to 1).

    The same arguments give the same network and the same history, timings aside, on one kind of machine with one number
    of threads. Global random generators and switches of torch are afterwards as they were. A loss that is not finite ends
    the training, and the history says at which step.

    Raises:
        InputError: the groups do not fit the network, the network or the settings do not fit the task, an operation has
            no deterministic form, the checkpoint is damaged, or images cannot be read.
        WorldError: the disk fails.
    """
    objective = Supervised(task, settings.label_smoothing)
    return optimise(
        module, objective, settings, groups=groups, checkpoint=checkpoint, key=key, resume=resume, progress=progress
    )


def optimise(
    module: nn.Module,
    objective: Objective,
    settings: TrainingSettings,
    *,
    groups: Sequence[Group] | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    resume: bool = True,
    progress: Progress | None = None,
) -> History:
    """Train a module on an objective, in place; all else is as in `train`.

    The history's accuracies are the shares of images that are right in the objective's sense.

    Raises:
        InputError: the groups do not fit the module, it does not fit the objective, an operation has no deterministic form,
            the checkpoint is damaged, or images cannot be read.
        WorldError: the disk fails.
    """
    named = _named_groups(module, settings, groups)
    # Asked for first: an objective without test images says so.
    _ = objective.test
    with (
        reproducible(settings.threads, settings.deterministic),
        accelerated(settings.precision) as accelerator,
        prepared(module, accelerator) as model,
    ):
        run = _Run(module, model, objective, settings, named, accelerator, progress)
        if checkpoint is not None:
            run.keep_in(Path(checkpoint), key, resume)
        with closing(run.train_feed), closing(run.test_feed):
            run.go()
    module.eval()
    return run.history


def _named_groups(
    module: nn.Module, settings: TrainingSettings, groups: Sequence[Group] | None
) -> list[dict[str, Any]]:
    """The groups with lists of parameters, names and rates, checked."""
    trainable = {id(value): name for name, value in module.named_parameters() if value.requires_grad}
    if not trainable:
        raise InputError("the network has nothing to train: expected a parameter that requires a gradient")
    if groups is None:
        groups = [{"name": "all", "params": [value for value in module.parameters() if value.requires_grad]}]
    found = [
        {"name": f"group {number}", **group, "params": _parameters(group)} for number, group in enumerate(groups, 1)
    ]
    names = [group["name"] for group in found]
    if settings.random_lr is not None and RANDOM not in names:
        raise InputError(
            f"random_lr is for a group of parameters named {RANDOM!r}, of {', '.join(names)}: add or unset it"
        )
    if len(set(names)) < len(names):
        raise InputError(f"two groups of parameters have one name, of {', '.join(names)}: give each its own")
    grouped = [id(value) for group in found for value in group["params"]]
    if len(set(grouped)) < len(grouped):
        raise InputError("a parameter is twice in the groups: put each into one")
    if missing := trainable.keys() - set(grouped):
        name = min(trainable[one] for one in missing)
        raise InputError(f"parameter {name} is in no group: add it, or let it require no gradient")
    if set(grouped) - {id(value) for value in module.parameters()}:
        raise InputError("the groups hold a parameter that is not the network's: take them from module.parameters()")
    for group in found:
        chosen = settings.random_lr if group["name"] == RANDOM else None
        group.setdefault("lr", settings.lr if chosen is None else chosen)
    return found


def _parameters(group: Group) -> list[Tensor]:
    values = group.get("params")
    if values is None or isinstance(values, set):
        raise InputError("a group of parameters has no list of params: expected {'params': [...], 'name': '...'}")
    return [values] if isinstance(values, Tensor) else list(values)


def _optimizer(settings: TrainingSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    decay = settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr, weight_decay=decay)


class _Tally:
    """Losses and hits of an epoch's steps; they stay on the device until they are fetched."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self.losses: list[float] = []
        self.hits = 0

    def add(self, loss: Tensor, hits: Tensor, images: int) -> None:
        """A step's mean loss, and how many were right, over the images of this process."""
        self._waiting.append((loss.detach() * images, hits))

    def fetch(self) -> int | None:
        """Fetch what waits, over all processes: the number of the epoch's first step whose loss is not finite."""
        if self._waiting:
            losses, hits = (torch.stack(column).double() for column in zip(*self._waiting, strict=True))
            self._waiting = []
            rows: Tensor = self._accelerator.reduce(torch.stack([losses, hits]), "sum")
            more, hit = rows.tolist()
            self.losses += more
            self.hits += round(fsum(hit))
        return next((number for number, loss in enumerate(self.losses, 1) if not isfinite(loss)), None)


class _Run:
    """One training under way."""

    def __init__(
        self,
        module: nn.Module,
        model: nn.Module,
        objective: Objective,
        settings: TrainingSettings,
        groups: list[dict[str, Any]],
        accelerator: Accelerator,
        progress: Progress | None,
    ) -> None:
        self.module, self.model, self.objective, self.settings = module, model, objective, settings
        self.accelerator, self.progress = accelerator, progress
        self.optimizer = _optimizer(settings, groups)
        self.rates = [(group["name"], group["lr"]) for group in self.optimizer.param_groups]
        self.device, self.dtype = accelerator.device, place(module)[1]
        self.test = objective.test
        self.train_feed = objective.feed(self.device, settings.workers, accelerator.process_index)
        self.test_feed = Feed(self.test, self.device, settings.workers)
        self.ranges = batch_ranges(objective.count, settings.batch_size, accelerator.num_processes)
        whole = settings.epochs * len(self.ranges)
        self.steps = whole if settings.steps is None else min(whole, settings.steps)
        self.step, self.epoch = 0, 0
        self.history = History()
        self.folder: Path | None = None
        self.identity: dict[str, Any] = {}
        self.kept_at, self.keeping = 0.0, 0.0

    # Checkpoints

    def keep_in(self, folder: Path, key: str, resume: bool) -> None:
        """Keep the state in a folder from now on, after taking over what is there."""
        self.folder = folder
        self.identity = {
            "key": key,
            # How images are read does not change them.
            "settings": self.settings.model_dump(exclude={"workers"}),
            "task": self.objective.fingerprint,
            "processes": self.accelerator.num_processes,
        }
        snapshot = read_checkpoint(folder, self.identity) if resume else None
        if snapshot is not None:
            self._take_over(snapshot)

    def _take_over(self, snapshot: Snapshot) -> None:
        state = {"state": snapshot.optimizer, "param_groups": self.optimizer.state_dict()["param_groups"]}
        try:
            load_values(self.module, snapshot.module)
            self.optimizer.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError) as error:
            said = " ".join(str(error).split())
            raise InputError(
                f"the checkpoint in {self.folder} does not fit this network ({said:.200}): delete the folder"
            ) from None
        if self.accelerator.scaler is not None and snapshot.scaler:
            self.accelerator.scaler.load_state_dict(dict(snapshot.scaler))
        self.history, self.epoch = snapshot.history, snapshot.epoch
        self.step = min(self.epoch * len(self.ranges), self.steps)

    def _keep(self) -> None:
        if self.folder is not None:
            started = time.perf_counter()
            over = self.step >= self.steps or self.history.diverged is not None
            if self.accelerator.is_main_process and (over or started - self.kept_at >= _WORTH_KEEPING * self.keeping):
                scaler = self.accelerator.scaler
                snapshot = Snapshot(
                    self.epoch,
                    self.history,
                    self.module.state_dict(),
                    self.optimizer.state_dict()["state"],
                    {} if scaler is None else scaler.state_dict(),
                )
                write_checkpoint(self.folder, self.identity, snapshot)
                self.kept_at = time.perf_counter()
                self.keeping = self.kept_at - started
            self.accelerator.wait_for_everyone()

    # Steps

    def go(self) -> None:
        """All epochs that are left."""
        if self.step == 0 and self.settings.evaluate_every is not None and self.history.diverged is None:
            self._test()
        while self.step < self.steps and self.history.diverged is None:
            self.epoch += 1
            self._train_epoch()
            self._keep()
        self._tell(1.0)

    def _train_epoch(self) -> None:
        seed_everything(self.settings.seed, self.epoch)
        plan = plan_epoch(self.objective.count, self.objective.size, self.settings, self.epoch)
        parts = [
            (whole, share(whole, self.accelerator.process_index, self.accelerator.num_processes))
            for whole in self.ranges[: self.steps - self.step]
        ]
        self.model.train()
        chosen = [plan.order[mine.start : mine.stop] for _, mine in parts]
        with closing(self.train_feed.batches(chosen)) as batches:
            self._train_batches(plan, parts, batches)

    def _train_batches(
        self, plan: Plan, parts: list[tuple[range, range]], batches: Iterable[tuple[Tensor, Tensor]]
    ) -> None:
        """Steps, tests between them, and the epoch's entry; ``parts`` are places of whole batches and of our share."""
        tally, first, every = _Tally(self.accelerator), self.step, self.settings.evaluate_every
        seconds, started = 0.0, time.perf_counter()
        for (whole, mine), (images, given) in zip(parts, batches, strict=True):
            self._train_step(augment(images, plan, mine), given, len(whole), tally)
            testing = self.step == first + len(parts) or (every is not None and self.step % every == 0)
            if testing or self.step % _FETCHED_EVERY == 0:
                bad = tally.fetch()
                self._tell(self.step / self.steps)
                if bad is not None:
                    self.history.diverged = first + bad
                    return
            if testing:
                seconds += time.perf_counter() - started
                self._test()
                if self.history.diverged is not None:
                    return
                started = time.perf_counter()
        self._close_epoch(tally, sum(len(whole) for whole, _ in parts), seconds)

    def _train_step(self, images: Tensor, given: Tensor, whole: int, tally: _Tally) -> None:
        """One step with our share of a batch of ``whole`` images."""
        factor = rate_factor(self.settings, self.step, len(self.ranges), self.steps)
        for group, (_, rate) in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        loss, hits = self.objective.loss(self.model, images, given, self.dtype)
        processes = self.accelerator.num_processes
        # Gradients become the mean over processes; the shares may be unequal.
        self._descend(loss if processes == 1 else loss * (len(images) * processes / whole))
        self.optimizer.zero_grad()
        self.step += 1
        tally.add(loss, hits, len(images))

    def _descend(self, loss: Tensor) -> None:
        # Not through accelerate's wrapped optimizer, which takes 0.1 ms more for each step.
        scaler, most = self.accelerator.scaler, self.settings.clip_norm
        (loss if scaler is None else scaler.scale(loss)).backward()
        if most is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), most)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

    def _test(self) -> None:
        """Test now, and enter the outcome."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        if processes > 1:
            # Each has its own running statistics; the first's count.
            broadcast(list(self.module.buffers()))
        mine = torch.arange(len(self.test))[process::processes]
        sums = totals(self.objective.tested(self.module), self.test_feed, mine, _TEST_BATCH, self.settings.precision)
        found = as_metrics(self.accelerator.reduce(sums, "sum"))
        if not isfinite(found["loss"]):
            self.history.diverged = self.step
            return
        evaluation = Evaluation(step=self.step, test_loss=found["loss"], test_accuracy=found["accuracy"])
        self.history.evaluations.append(evaluation)

    def _close_epoch(self, tally: _Tally, images: int, seconds: float) -> None:
        tested = self.history.evaluations[-1]
        rates = {name: group["lr"] for (name, _), group in zip(self.rates, self.optimizer.param_groups, strict=True)}
        self.history.epochs.append(
            Epoch(
                epoch=self.epoch,
                step=self.step,
                loss=fsum(tally.losses) / images,
                accuracy=tally.hits / images,
                test_loss=tested.test_loss,
                test_accuracy=tested.test_accuracy,
                lr=rates,
            )
        )
        self.history.timings.append(Timing(epoch=self.epoch, seconds=seconds, images_per_second=images / seconds))

    def _tell(self, done: float) -> None:
        if self.progress is not None and self.accelerator.is_main_process:
            self.progress("training", done)

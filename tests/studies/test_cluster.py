"""Units of work on a dask cluster: real `dask scheduler` and `dask worker` processes on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import ClassVar

import cloudpickle
import distributed
import psutil
import pytest
from dask import config
from distributed import Client

from kzoo.errors import CheckFailed, InputError, WorldError
from kzoo.layout import RECIPE, WEIGHTS
from kzoo.recipe import moved, read_recipe
from kzoo.studies import cluster as cluster_module
from kzoo.studies import remote
from kzoo.studies.cluster import DaskCluster
from kzoo.studies.design import Run
from kzoo.studies.work import Order, Unit, Work, carry_out
from kzoo.surroundings import Surroundings
from kzoo.zoo import shipped_zoo
from tests.studies.conftest import ROOT
from tests.studies.test_work import MODULE, unit

_PATIENCE = 60
ENDLESS = 100_000


class Dask:
    """A scheduler, and two workers which their nanny starts again when they end."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = {}

    def start(self, name, *words):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", name, *words],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def address(self):
        """The scheduler's address; what does not run any more is started."""
        if not all(process.poll() is None for process in self.processes.values()) or not self.processes:
            self.stop()
            file = self.folder / "scheduler.json"
            self.start(
                "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
            )
            until(file.is_file)
            workers = ("--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))
            self.start("worker", "--scheduler-file", str(file), *workers)
        found = json.loads((self.folder / "scheduler.json").read_text())["address"]
        with asking(found) as client:
            client.wait_for_workers(2, timeout=_PATIENCE)
        return found

    def stop(self):
        for process in self.processes.values():
            family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
            for each in family:
                each.kill()
            process.wait()
        (self.folder / "scheduler.json").unlink(missing_ok=True)


@contextmanager
def asking(address):
    client = Client(address, set_as_default=False, timeout=_PATIENCE)
    try:
        yield client
    finally:
        client.close()


def until(true):
    deadline = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    found = Dask(tmp_path_factory.mktemp("dask"))
    yield found
    found.stop()


@pytest.fixture
def on_cluster(tmp_path):
    """A study's run, on the cluster at an address, or here; and what it says."""
    opened = []

    def make(name, address=None, progress=lambda _what, _done: None, jobs=1):
        said = []
        cluster = None if address is None else DaskCluster(address, jobs, said.append)
        opened.extend([cluster] if cluster else [])
        base = tmp_path / name
        return Run(base, base / "out", "tiny", None, jobs, progress, said.append, cluster), said

    yield make
    for cluster in opened:
        cluster.close()


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def units():
    return [unit(f"unit-{seed}", seed, keep=seed == 2, epochs=12) for seed in range(6)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What the units give in this process."""
    base = tmp_path_factory.mktemp("plain")
    here = Run(base, base / "out", "tiny", None, 1, lambda _what, _done: None, lambda _text: None)
    work = Work(here, MODULE)
    return work.carry_out(units(), "train"), contents(work.folder)


# With workers


def test_a_stage_on_a_cluster_writes_what_dvc_wrote_here(tiny, tmp_path, command, dask, monkeypatch):
    shutil.copytree(tiny.root / "pipelines", tmp_path / "pipelines")
    out = tmp_path / "pipelines/dpiat/out"
    before = contents(out)
    for name in ("train.json", "sweep.json"):
        (out / name).unlink()
    shutil.rmtree(out / "models")
    monkeypatch.setenv("KZOO_SCHEDULER", dask.address())
    code, _, said = command("run", tmp_path / "pipelines/dpiat", "--stage", "sweep", "--stage", "train")
    assert code == 0, said
    assert "has 2 workers" in said and "train: 4 runs, of which 0 were done before; 96 steps trained" in said
    assert contents(out) == before
    assert not out.with_name(".out.work").exists()


def test_a_worker_that_is_killed_costs_its_unit_only(on_cluster, dask, plain):
    address, killed = dask.address(), []

    def kill_one(_what, _done):
        with asking(address) as client:
            busy = [worker for worker, keys in client.processing().items() if keys]
            if not killed and busy:
                killed.append(client.run(os.getpid, workers=busy[:1])[busy[0]])
                os.kill(killed[0], signal.SIGKILL)

    run, said = on_cluster("killed", address, kill_one)
    work = Work(run, MODULE)
    records, files = plain
    assert work.carry_out(units(), "train") == records
    assert len(killed) == 1 and not psutil.pid_exists(killed[0])
    assert contents(work.folder) == files
    assert said[-1].startswith("train: 6 runs, of which 0 were done before")


@pytest.mark.faults
def test_what_fails_is_told_as_it_is_here_and_what_is_done_stays(on_cluster, dask):
    address = dask.address()
    odd = unit("odd")
    target = odd.recipe.target.model_copy(update={"classes": 7})
    odd = Unit("odd", odd.recipe.model_copy(update={"target": target}))
    run, said = on_cluster("odd", address)
    Work(run, MODULE).carry_out([unit("a")], "train")
    with pytest.raises(InputError, match=r"^small:vgg-1x8 gives .* but digits has 10 classes"):
        Work(run, MODULE).carry_out([unit("a"), odd], "train")
    Work(run, MODULE).carry_out([unit("a")], "train")
    assert said[-1] == "train: 1 runs, of which 1 were done before; 0 steps trained"


def test_workers_of_other_code_are_refused(on_cluster, dask, monkeypatch):
    address = dask.address()
    monkeypatch.setattr(remote, "_CODE", "0" * 64)
    with pytest.raises(InputError, match=r"the worker tcp://\S+ has other code of kzoo: give all machines the same"):
        Work(on_cluster("other", address)[0], MODULE).carry_out([unit("a")], "train")


def test_an_end_from_the_keyboard_frees_the_workers(on_cluster, dask):
    address = dask.address()

    def interrupt(_what, _done):
        raise KeyboardInterrupt

    run, _ = on_cluster("interrupted", address, interrupt)
    endless = [unit(f"endless-{seed}", seed, epochs=ENDLESS) for seed in range(4)]
    with pytest.raises(KeyboardInterrupt):
        Work(run, MODULE).carry_out([unit("first"), *endless], "train")
    with asking(address) as client:
        until(lambda: not any(client.processing().values()))
        until(lambda: not any(client.run(_executing).values()))
        assert sum(len(keys) for keys in client.has_what().values()) == 0


def _executing(dask_worker):
    return len(dask_worker.state.executing)


def test_files_that_a_worker_does_not_see_are_sent(on_cluster, dask, tiny, monkeypatch):
    """Workers of another machine are those that are told of another place."""
    address, asked = dask.address(), []
    base = tiny.root / "pipelines/dpiat"
    origin = next(iter(sorted((base / "out/models").iterdir())))
    wanted = Unit(origin.name, moved(read_recipe(origin / RECIPE), origin, base), keep=True)
    submit = cluster_module._Errand._submit

    def elsewhere(self, function, *arguments, key):
        if function is not bytes:
            asked.append(len(arguments[1]))
            arguments = (json.loads(json.dumps(arguments[0]).replace(str(base), "/nowhere/dpiat")), *arguments[1:])
        return submit(self, function, *arguments, key=key)

    monkeypatch.setattr(cluster_module._Errand, "_submit", elsewhere)
    run, _ = on_cluster("sent", address)
    order = Order(wanted, base, run.work, "0" * 64)
    (record,) = run.cluster.carry_out([order])
    assert asked == [0, 3], "weights, config.json and plan of the one source"
    assert (run.work / origin.name / WEIGHTS).read_bytes() == (origin / WEIGHTS).read_bytes()
    assert record["sha256"] == remote._sha256((origin / WEIGHTS).read_bytes())
    monkeypatch.setattr(cluster_module, "MOST_SENT", 1000)
    with pytest.raises(
        InputError, match=r"files above 0 MB are not sent: put the study into a folder that all machines"
    ):
        list(run.cluster.carry_out([order]))


def test_a_scheduler_that_goes_away_is_told_and_the_same_command_goes_on(on_cluster, dask, plain):
    address = dask.address()

    def kill(_what, _done):
        dask.processes["scheduler"].kill()

    run, _ = on_cluster("gone", address, kill)
    began = time.monotonic()
    with pytest.raises(WorldError, match=rf"the scheduler at {address} has gone away: what is done is kept") as error:
        Work(run, MODULE).carry_out(units(), "train")
    assert error.value.exit_code == 3
    run.cluster.close()
    assert time.monotonic() - began < _PATIENCE / 2
    work, (records, files) = Work(on_cluster("gone")[0], MODULE), plain
    done = sorted(work.folder.glob("*.json"))
    assert 1 <= len(done) < 6
    again, said = on_cluster("gone")
    assert Work(again, MODULE).carry_out(units(), "train") == records
    assert said[-1].startswith(f"train: 6 runs, of which {len(done)} were done before")
    assert contents(work.folder) == files


# A cluster of this machine's processes


@pytest.mark.faults
def test_a_unit_that_ends_every_worker_is_given_up(on_cluster, monkeypatch):
    monkeypatch.setattr(cluster_module, "_errand", lambda: _end)
    before = spawned()
    run, said = on_cluster("local", "local")
    # Each of them takes seconds to start: here one is lost, not four.
    with (
        config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(
            WorldError, match=r"^deadly is given up: .* lost, 1 in all, .* log of tls://.* same command goes on"
        ),
    ):
        Work(run, MODULE).carry_out([unit("deadly")], "train")
    assert said == ["the cluster at local has 1 worker"]
    # Another one is there by then.
    until(lambda: spawned() != before)
    run.cluster.close()
    assert spawned() == before


def _end(_job, _files):
    os._exit(9)


def spawned():
    """The processes that this one has spawned for work, and that run."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            found += [child.pid] if runs(child) and any("spawn_main" in word for word in child.cmdline()) else []
    return found


def test_a_local_cluster_ends_with_a_parent_that_is_killed(tmp_path):
    program = (
        "import os, time\n"
        "from kzoo.studies.cluster import DaskCluster\n"
        "if __name__ == '__main__':\n"
        "    print(*DaskCluster('local', 1, str)._connected().run(os.getpid).values(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(program)
    home = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True, env=home)
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    until(lambda: not runs(worker))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dask-scratch-space", "parent.py"]


# Without any


@pytest.mark.parametrize(
    "address", ["host:8786", "http://host:8786", "tcp://host", "tcp://:8786", "Local", "tcp://h:1/x"]
)
def test_what_is_no_address_is_told(command, tmp_path, address):
    shutil.copy(ROOT / "pipelines/dpiat/params.yaml", tmp_path)
    code, _, said = command("run", tmp_path, "--scheduler", address)
    assert (code, said.count("\n")) == (2, 1)
    assert f"Error: '{address}' is no scheduler: expected tcp://HOST:PORT" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


def test_a_scheduler_that_does_not_answer_is_told_soon(on_cluster, monkeypatch):
    monkeypatch.setattr(cluster_module, "_CONNECTED_WITHIN", 1.0)
    run, _ = on_cluster("nobody", "tcp://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(WorldError, match=r"no dask scheduler answers at tcp://127.0.0.1:1 within 1 s"):
        Work(run, MODULE).carry_out([unit("a")], "train")
    assert time.monotonic() - began < 20


def test_a_scheduler_is_for_studies(command, tmp_path):
    code, _, said = command("run", ROOT / "examples/digits.yaml", "--out", tmp_path / "x", "--scheduler", "local")
    assert (code, "--scheduler is for studies" in said) == (2, True)


# What a worker does


@pytest.fixture
def order(tiny, tmp_path):
    base = tiny.root / "pipelines/dpiat"
    origin = next(iter(sorted((base / "out/models").iterdir())))
    return Order(
        Unit(origin.name, moved(read_recipe(origin / RECIPE), origin, base), True), base, tmp_path / "here", "1"
    )


def wanted():
    return None


def test_an_answer_makes_the_folder_that_the_unit_makes_here(order, tmp_path):
    job = json.loads(json.dumps(remote.job_of(order, "me", remote.identity())))
    answer = remote.work_on(job, {}, tmp_path / "scratch", "w", wanted)
    record = remote.accept(order, answer)
    there = contents(order.folder)
    shutil.rmtree(order.folder)
    assert carry_out(order, Surroundings(order.base, shipped_zoo)) == record
    assert contents(order.folder) == there
    assert {RECIPE, WEIGHTS} <= set(answer["files"])
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kzoo": "0.0.1"}, "the worker w has kzoo .*, not 0.0.1: give all machines the same checkout"),
        ({"code": "0" * 64}, "the worker w has other code of kzoo"),
        (
            {"environment": {"machine": "x86_64", "instructions": "AVX9"}},
            r"the worker w is of another class of machine \(instructions: \w+ there, AVX9 here\)",
        ),
    ],
)
def test_other_machines_are_refused(order, tmp_path, change, expected):
    mine = remote.identity()
    if "environment" in change:
        change = {"environment": mine["environment"] | change["environment"]}
    with pytest.raises(InputError, match=expected):
        remote.work_on(remote.job_of(order, "me", mine | change), {}, tmp_path, "w", wanted)


def test_a_file_that_is_missing_or_another_is_asked_for(order, tmp_path):
    job = remote.job_of(order, "me", remote.identity())
    source = next(each for each in job["sources"] if WEIGHTS in each["files"])
    source["files"][WEIGHTS] = "0" * 64
    assert remote.work_on(job, {}, tmp_path, "w", wanted)["missing"] == list(source["files"].values())
    with pytest.raises(CheckFailed, match="a file that was sent to the worker w has another sha256"):
        remote.work_on(job, {"0" * 64: b"other"}, tmp_path, "w", wanted)
    job["images"] = ["/nowhere/images"]
    with pytest.raises(InputError, match="the worker w has no /nowhere/images: folders of images are not sent"):
        remote.work_on(job, {}, tmp_path, "w", wanted)


def test_an_answer_that_was_spoilt_on_its_way_is_refused(order, tmp_path):
    answer = remote.work_on(remote.job_of(order, "me", remote.identity()), {}, tmp_path, "w", wanted)
    spoilt = answer | {"files": answer["files"] | {WEIGHTS: b"spoilt"}}
    with pytest.raises(CheckFailed, match=f"{WEIGHTS} of the run .* came back with another sha256"):
        remote.accept(order, spoilt)
    spoilt["sha256"] = answer["sha256"] | {WEIGHTS: remote._sha256(b"spoilt")}
    with pytest.raises(CheckFailed, match=f"{WEIGHTS} of the run .* came back with another sha256"):
        remote.accept(order, spoilt)
    assert not (order.folder / f"{order.unit.name}.json").exists()


def test_a_unit_that_nobody_waits_for_ends(order, tmp_path):
    def unwanted():
        raise RuntimeError("nobody")

    with pytest.raises(RuntimeError, match="nobody"):
        remote.work_on(remote.job_of(order, "me", remote.identity()), {}, tmp_path, "w", unwanted)


def test_a_worker_forgets_those_that_have_not_asked_for_longest(order, tmp_path):
    for number in range(6):
        job = remote.job_of(order, f"caller-{number}", remote.identity())
        folder = tmp_path / f"caller-{number}"
        folder.mkdir()
        remote._caller(job["caller"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"caller-{number}" for number in range(2, 6)]


def test_dask_is_loaded_for_a_cluster_only():
    program = "import kzoo.studies.running, kzoo.studies.cluster, sys; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# What comes in between


class Nobody:
    """A cluster's client that nobody works for."""

    status = "closed"
    workers: ClassVar = {}

    def scheduler_info(self, n_workers):
        return {"workers": self.workers}

    def submit(self, _function, *_arguments, key):
        return SimpleNamespace(key=key, add_done_callback=self.never.append)

    def __init__(self):
        self.never = []


def test_a_cluster_without_workers_is_told(order, monkeypatch):
    monkeypatch.setattr(cluster_module, "_LOOKED_EVERY", 0.01)
    said = []

    def say(text):
        said.append(text)
        raise KeyboardInterrupt

    errand = cluster_module._Errand(Nobody(), "tcp://h:1", say)
    with pytest.raises(KeyboardInterrupt):
        next(errand.results([order]))
    assert said == ["the cluster at tcp://h:1 has no worker: waiting for one (Ctrl-C ends this)"]


def test_a_worker_with_several_threads_or_without_this_kzoo_is_refused(order, monkeypatch):
    worker = SimpleNamespace(address="tcp://w:2", state=SimpleNamespace(nthreads=4))
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    send = cloudpickle.loads(cloudpickle.dumps(cluster_module._errand()))
    with pytest.raises(InputError, match=r"the worker tcp://w:2 has 4 threads, .* start it with --nthreads 1"):
        send({}, [])
    monkeypatch.setitem(sys.modules, "kzoo.studies.cluster", None)
    answer = send({}, [])
    future = SimpleNamespace(result=lambda: answer)
    with pytest.raises(InputError, match=r"the worker tcp://w:2 cannot load this kzoo \(.*kzoo.studies.cluster"):
        cluster_module._Errand(Nobody(), "tcp://h:1", str)._answer(order, future)

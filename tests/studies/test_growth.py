"""The studies of growth: their metrics on tables whose results are known by hand, and both pipelines in the profile tiny."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scipy import stats

from kzoo.claims import read_claims
from kzoo.errors import InputError
from kzoo.model_folder import load
from kzoo.studies.closure import import_closure
from kzoo.studies.growth.design import Way, all_ways
from kzoo.studies.growth.figures import tables
from kzoo.studies.growth.rates import picked_rates
from kzoo.studies.growth.recipes import start_recipe, trained_recipe
from kzoo.studies.growth.results import Results
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.params import profile_names, read_study
from kzoo.studies.records import mean_accuracy
from kzoo.studies.running import run_stages, study_run
from tests.studies.test_closure import RUNNERS

ROOT = Path(__file__).parents[2]
PIPELINES = [ROOT / "pipelines" / name for name in ("net2net", "dils")]

PROFILE = {
    "data": {"few": {"task": "digits"}, "other": {"task": "digits"}},
    "teachers": {"a": {"model": "small:vgg-1x8", "data": "few"}, "b": {"model": "small:vgg-1x8", "data": "few"}},
    "teacher_training": {"epochs": 1},
    "cases": {
        "wider": {
            "teachers": ["a", "b"],
            "arms": {
                "grown": {"method": "net2wider"},
                "random": {"method": "random", "like": "grown"},
                "longer": {"method": "by_name"},
            },
        },
        "loop": {
            "teachers": ["a"],
            "data": "other",
            "arms": {
                "stepwise": {"method": "dils", "parameters": {"at": ["hidden.0"], "stepwise": True}},
                "random": {"method": "random", "like": "stepwise"},
            },
        },
    },
    "seeds": [1, 2],
    "training": {"epochs": 2, "batch_size": 32, "evaluate_every": 10},
    "sweep": {"rates": [0.1, 0.2], "seeds": [5]},
    "levels": {"teacher": 0.0, "higher": 0.1},
    "keep": ["grown"],
    "publish": {"case": "wider", "teacher": "a", "arm": "grown"},
}
#: Test accuracy of teachers by seed, on either data.
TEACHERS = {("a", "few"): (0.6, 0.7), ("b", "few"): (0.5, 0.5), ("a", "other"): (0.4, 0.4)}
#: Accuracies at steps 0, 10, 20, 30, 40, of epochs of 20 steps: for each arm and teacher, by seed.
RUNS = {
    ("wider", "grown", "a"): ((0.6, 0.65, 0.7, 0.8, 0.8), (0.7, 0.7, 0.8, 0.8, 0.9)),
    ("wider", "grown", "b"): ((0.5, 0.6, 0.6, 0.6, 0.7), (0.5, 0.5, 0.5, 0.5, 0.5)),
    ("wider", "random", "a"): ((0.1, 0.2, 0.6, 0.7, 0.7), (0.1, 0.2, 0.6, 0.7, 0.8)),
    ("wider", "random", "b"): ((0.1, 0.2, 0.6, 0.6, 0.6), (0.1, 0.2, 0.3, 0.3, 0.4)),
    ("wider", "longer", "a"): ((0.6, 0.6, 0.6, 0.6, 0.7), (0.7, 0.7, 0.7, 0.7, 0.7)),
    ("wider", "longer", "b"): ((0.5, 0.5, 0.5, 0.5, 0.6), (0.5, 0.5, 0.5, 0.5, 0.5)),
    ("loop", "random", "a"): ((0.1, 0.2, 0.3, 0.3, 0.4), (0.1, 0.2, 0.3, 0.3, 0.4)),
}
LOOPS = (
    [{"at": "hidden.0", "kept": True, "accuracy_before": 0.8, "accuracy_inherited": 0.79, "accuracy": 0.9, "best_epoch": 2}],
    [{"at": "hidden.0", "kept": False, "accuracy_before": 0.8, "accuracy_inherited": 0.75}],
)  # fmt: skip


def run_row(case, teacher, arm, seed, accuracies, **more):
    tests = [[10 * number, accuracy] for number, accuracy in enumerate(accuracies)]
    row = {"case": case, "teacher": teacher, "arm": arm, "seed": seed, "name": f"{case}--{teacher}--{arm}--{seed}"}
    row |= {"lr": 0.1, "uses": ["own", "equal"], "steps": 40, "diverged": None}
    return row | {"epochs": [accuracies[2], accuracies[4]], "tests": tests} | more


def all_tables():
    """Tables by name; what is trained at both rates is the same."""
    teachers, starts, runs = [], [], []
    for (teacher, data), accuracies in TEACHERS.items():
        for seed, accuracy in zip((1, 2), accuracies, strict=True):
            teachers.append({"teacher": teacher, "data": data, "seed": seed, "accuracy": accuracy, "loss": 1.0})
    for number, (teacher, seed) in enumerate((teacher, seed) for teacher in "ab" for seed in (1, 2)):
        names = {"case": "wider", "teacher": teacher, "arm": "grown", "seed": seed}
        # Losses 1.01, .98, 1.03, .96: the largest changes of the seeds are .03 and .04.
        loss = 1 + (number + 1) / 100 * (1 if number % 2 == 0 else -1)
        starts.append(names | {"accuracy": 0.5, "loss": loss, "insertions": [], "network": {}})
    for seed in (1, 2):
        names = {"case": "loop", "teacher": "a", "arm": "stepwise", "seed": seed}
        layers = [{"error": 0.1 * seed, "identity_error": 0.4}, {"error": 0.3, "identity_error": 0.6}]
        starts.append(names | {"accuracy": 0.3, "loss": 1.5, "insertions": layers, "network": {}})
        row = run_row("loop", "a", "stepwise", seed, (0.0, 0.0, 0.0, 0.0, 0.5), loop=LOOPS[seed - 1])
        runs.append(row | {"epochs": [0.5], "tests": [[40, 0.5]]})
    for (case, arm, teacher), both in RUNS.items():
        runs += [run_row(case, teacher, arm, seed, each) for seed, each in zip((1, 2), both, strict=True)]
    ways = dict.fromkeys((row["case"], row["teacher"], row["arm"]) for row in runs)
    rates = [{"case": c, "teacher": t, "arm": a, "own": 0.1, "equal": 0.1} for c, t, a in ways]
    swept = [{**row, "seed": 5, "lr": rate, "mean": 0.5} for row in runs if row["seed"] == 1 for rate in (0.1, 0.2)]
    return {
        "teachers": {"data": {name: {"classes": 10, "train": 640} for name in PROFILE["data"]}, "teachers": []},
        "grow": {"teachers": teachers, "starts": starts},
        "sweep": {"rates": rates, "runs": swept},
        "train": {"environment": {"device": "cpu"}, "profile": "default", "runs": runs},
    }


@pytest.fixture
def study(tmp_path):
    """A folder with tables, and a function that evaluates one claim on them, after ``change`` has changed the runs."""
    params = {"kzoo_study": "growth", "profile": "default", "tolerance": 0.1, "profiles": {"default": PROFILE}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (tmp_path / "out").mkdir()

    def evaluate(metric, of, change=lambda row: row):
        made = all_tables()
        made["train"]["runs"] = [row for row in map(change, made["train"]["runs"]) if row is not None]
        for name, table in made.items():
            (tmp_path / "out" / f"{name}.json").write_text(json.dumps(table))
        claim = {
            "id": "one", "statement": "It holds.", "where": "here", "setting": "scaled", "profiles": ["default"],
            "metric": metric, "of": of, "comparison": "above", "threshold": 1,
            "unit": metric_kinds("growth")[metric].unit, "seeds": 2,
        }  # fmt: skip
        claims = {"paper": "P", "title": "T", "link": "https://example.org", "known": "All.", "claims": [claim]}
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(claims))
        found = read_study(tmp_path)
        run_stages(found, [found.stage("evaluate")])
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["claims"]["one"]

    return evaluate


def t_interval(first, second):
    """The 95 % interval of two numbers: their mean, and half of Student's t with one degree of freedom by the spread."""
    half = stats.t.ppf(0.975, 1) * abs(first - second) / 2
    return (first + second) / 2 - half, (first + second) / 2 + half


def test_a_difference_of_accuracies_in_points(study):
    # At the end: .8-.7 and .7-.6 with the first seed; .9-.8 and .5-.4 with the second.
    found = study("difference in accuracy", {"case": "wider", "arm": "grown", "against": "random"})
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([10, 10, 10])
    assert found["counts"] == {"teachers": 2, "seeds": 2}
    assert (found["unit"], found["file"].rpartition("/")[2]) == ("points", "train.json")
    # After one epoch: .7-.6, .6-.6; .8-.6, .5-.3.
    found = study("difference in accuracy", {"case": "wider", "arm": "grown", "against": "random", "epoch": 1})
    assert found["value"] == pytest.approx(100 * (0.05 + 0.2) / 2)
    assert (found["low"], found["high"]) == pytest.approx(t_interval(5, 20))
    # Against the teacher, before any training: .1-.6, .1-.5; .1-.7, .1-.5.
    found = study("difference in accuracy", {"case": "wider", "arm": "random", "against": "teacher", "epoch": 0})
    assert found["value"] == pytest.approx(-47.5)
    found = study(
        "difference in accuracy",
        {"case": "wider", "arm": "random", "against": "teacher", "epoch": 0, "teachers": ["b"]},
    )
    assert (found["value"], found["counts"]["teachers"]) == (pytest.approx(-40), 1)
    # Teachers of the loop are those on its own images.
    found = study("difference in accuracy", {"case": "loop", "arm": "stepwise", "against": "teacher"})
    assert found["value"] == pytest.approx(10)


def test_the_share_of_steps_and_runs_that_never_get_there(study):
    of = {"case": "wider", "arm": "grown", "against": "random", "level": "higher"}
    # To .7 and .8: 20 of 30, 20 of 40. To .6: 10 of 20; the second seed of b never has .6: 40 of 40.
    found = study("share of steps", of)
    assert found["value"] == pytest.approx(((2 / 3 + 1 / 2) / 2 + (1 / 2 + 1) / 2) / 2, abs=1e-6)
    assert found["counts"] == {"teachers": 2, "seeds": 2, "grown without it": 1, "random without it": 1}
    # The teacher's accuracy is there from the start; a random start needs 20, 30; 20, and never.
    found = study("share of steps", of | {"level": "teacher"})
    assert (found["value"], found["counts"]["random without it"]) == (0, 1)
    found = study("share of steps", of | {"arm": "random", "against": "longer", "level": "teacher"})
    assert found["value"] == pytest.approx((20 + 20 + 30 + 40) / 4), "no share can be taken of no steps"


def test_runs_at_equal_rates_are_others_than_those_at_their_own(study):
    def change(row):
        return row | {"uses": ["own"]} if row["arm"] == "grown" else row

    of = {"case": "wider", "arm": "grown", "against": "random"}
    with pytest.raises(InputError, match="not those of the profile"):
        study("difference in accuracy", of, change)
    made = all_tables()["train"]["runs"]
    assert all(row["uses"] == ["own", "equal"] for row in made)

    def second(row):
        # The control at the equal rate alone is 10 points worse.
        worse = row | {"epochs": [0.1, row["epochs"][-1] - 0.1]}
        return worse if row["arm"] == "random" else row

    assert study("difference in accuracy", of | {"rate": "equal"}, second)["value"] == pytest.approx(20)


def test_a_run_that_diverged_counts_as_guessing_and_as_its_whole_training(study):
    def change(row):
        gone = {"epochs": [], "tests": [], "diverged": 7}
        return row | gone if (row["teacher"], row["arm"], row["seed"]) == ("a", "random", 1) else row

    found = study("difference in accuracy", {"case": "wider", "arm": "grown", "against": "random"}, change)
    assert found["value"] == pytest.approx(100 * ((0.7 + 0.1) / 2 + 0.1) / 2)
    assert found["counts"] == {"teachers": 2, "seeds": 2, "diverged runs": 1}
    of = {"case": "wider", "arm": "grown", "against": "random", "level": "higher", "teachers": ["a"]}
    assert study("share of steps", of, change)["value"] == pytest.approx((20 / 40 + 20 / 40) / 2)


def test_what_growing_alone_does(study):
    found = study("change of the loss", {"case": "wider", "arm": "grown"})
    assert (found["value"], found["file"].rpartition("/")[2]) == (pytest.approx(0.035), "grow.json")
    assert (found["low"], found["high"]) == pytest.approx(t_interval(0.03, 0.04))
    # (.1/.4 + .3/.6) / 2 with the first seed, (.2/.4 + .3/.6) / 2 with the second.
    assert study("error by identity's", {"case": "loop", "arm": "stepwise"})["value"] == pytest.approx(0.4375)
    # One point; five with the second seed, whose insertion was taken back.
    assert study("lost at an insertion", {"case": "loop", "arm": "stepwise"})["value"] == pytest.approx(3)
    assert study("accuracy at the end", {"case": "wider", "arm": "longer"})["value"] == pytest.approx(62.5)


@pytest.mark.parametrize(
    ("metric", "of", "expected"),
    [
        ("change of the loss", {"case": "deeper", "arm": "grown"}, "names the case 'deeper', but the profile has wider"),
        ("change of the loss", {"case": "wider", "arm": "gorwn"}, "names the arm 'gorwn', but wider has grown, random"),
        ("change of the loss", {"case": "wider", "arm": "random"}, "the arm random of wider grows nothing"),
        ("change of the loss", {"case": "loop", "arm": "stepwise", "teachers": ["b"]}, "names the teacher 'b'"),
        ("lost at an insertion", {"case": "wider", "arm": "grown"}, "name such an arm"),
        ("error by identity's", {"case": "wider", "arm": "grown"}, "where an identity is not exact"),
        ("share of steps", {"case": "wider", "arm": "grown", "against": "grown", "level": "higher"}, "with itself"),
        ("share of steps", {"case": "wider", "arm": "grown", "against": "random", "level": "top"}, "the level 'top'"),
        ("share of steps", {"case": "loop", "arm": "random", "against": "stepwise", "level": "higher"}, "at its end alone"),
        ("difference in accuracy", {"case": "wider", "arm": "grown", "against": "random", "epoch": 3}, "after epoch 3"),
        ("difference in accuracy", {"case": "loop", "arm": "stepwise", "against": "teacher", "epoch": 0}, "after epoch 0"),
    ],
)  # fmt: skip
def test_claims_that_the_profile_cannot_answer_are_refused(study, metric, of, expected):
    with pytest.raises(InputError) as error:
        study(metric, of)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: None if (row["arm"], row["seed"]) == ("grown", 2) else row,
        lambda row: row | {"tests": []},
        lambda row: row | {"epochs": [0.5, 50.0]},
        lambda row: row | {"tests": [[0, "half"]]},
        lambda row: {key: value for key, value in row.items() if key != "uses"},
    ],
)
def test_tables_that_are_not_those_of_the_profile_are_refused(study, change):
    with pytest.raises(InputError, match=r"are not those of the profile default .*: run the stages before"):
        study("change of the loss", {"case": "wider", "arm": "grown"}, change)


def test_tables_tell_the_start_the_steps_and_how_many_got_there(study, tmp_path):
    study("change of the loss", {"case": "wider", "arm": "grown"})
    shown = tables(Results(study_run(read_study(tmp_path))))
    (own,) = (table for table in shown if table["title"].startswith("wider: each arm at its own best rate"))
    by_arm = {(row[0], row[1]): row for row in own["rows"]}
    assert by_arm["b", "(teacher)"][3] == "50.0 ±0.0"
    assert by_arm["b", "grown"][2:] == ["0.1", "50.0 ±0.0", "0 ±0 (2/2)", "25 ±191 (1/2)", "55.0 ±63.5", "60.0 ±127.1"]
    (loop,) = (table for table in shown if table["title"].startswith("The loop, insertion by insertion"))
    assert loop["rows"] == [["loop", "a", "stepwise", "hidden.0", "1/2", "80.0", "77.0", "90.0", "2.0"]]


def test_the_best_rate_is_that_of_the_highest_mean_accuracy_and_of_equal_ones_the_lowest():
    study = read_study(ROOT / "pipelines" / "net2net", "tiny").profile

    def swept(way, rate, accuracies, diverged=None):
        tests = [[3 * number, accuracy] for number, accuracy in enumerate(accuracies)]
        mean = mean_accuracy({"tests": tests, "diverged": diverged})
        return {**way._asdict(), "seed": 100, "lr": rate, "mean": mean}

    runs = []
    for way in all_ways(study):
        # What is there before the first step says nothing of a rate.
        runs.append(swept(way, 0.003, (0.9, 0.4, 0.6)))
        second = (0.0, 0.7, 0.8) if way.arm == "random" else (0.9, 0.5, 0.5)
        runs.append(swept(way, 0.01, second, diverged=4 if way.case == "deeper" else None))
    found = {
        Way(row["case"], row["teacher"], row["arm"]): (row["own"], row["equal"]) for row in picked_rates(study, runs)
    }
    assert found["wider", "vgg", "random"] == (0.01, 0.01)
    assert found["wider", "vgg", "net2wider"] == (0.003, 0.01)
    assert found["deeper", "vgg", "random"] == (0.003, 0.003)


# Both pipelines in the profile tiny


@pytest.fixture(scope="module", params=PIPELINES, ids=lambda folder: folder.name)
def done(request, tmp_path_factory):
    """A copy of a pipeline that has been run in the profile tiny; to be left as it is."""
    folder = tmp_path_factory.mktemp("growth") / "pipelines" / request.param.name
    shutil.copytree(request.param, folder, ignore=shutil.ignore_patterns("out", ".out.work*", "dvc.lock"))
    text = (folder / "params.yaml").read_text().replace("profile: default", "profile: tiny", 1)
    (folder / "params.yaml").write_text(text)
    study = read_study(folder)
    run_stages(study, study.stages, jobs=1)
    return study


def test_a_pipeline_runs_from_end_to_end(done, command):
    run = study_run(done)
    names = [name for stage in done.stages for name in (*stage.tables, *stage.cached)]
    assert sorted(path.name for path in run.out.iterdir()) == sorted(names)
    assert not run.work.exists()
    runs = run.table("train.json")["runs"]
    assert {Way(row["case"], row["teacher"], row["arm"]) for row in runs} == set(all_ways(done.profile))
    assert {row["seed"] for row in runs} == set(done.profile.seeds)
    for row in runs:
        if "loop" not in row:
            assert [step for step, *_ in row["tests"]][:2] == [0, 3] and row["tests"][-1][0] == row["steps"]
    code, said, error = command("claims", "verify", done.folder, "--json")
    assert code == 0, error
    assert json.loads(said)["files"]["changed"] == 0 and json.loads(said)["files"]["checked"] >= 4


def test_seeds_have_teachers_and_draws_of_their_own_and_all_arms_share_them(done):
    run = study_run(done)
    way = next(way for way in all_ways(done.profile) if done.profile.cases[way.case].arms[way.arm].grows)
    first, second = (trained_recipe(run, way, seed, 0.01) for seed in done.profile.seeds)
    assert first.sources[0].sha256 != second.sources[0].sha256
    assert first.parameters["seed"] != second.parameters["seed"]
    random = trained_recipe(run, way._replace(arm="random"), done.profile.seeds[0], 0.01)
    assert random.training == first.training and random.training.seed != done.profile.seeds[0]
    assert random.sources == [] and random.method == "random"
    assert start_recipe(run, way, done.profile.seeds[0]).training is None


def test_a_random_start_has_the_network_that_was_grown(done):
    """By its shapes; the published model is that of the arm that grows."""
    run = study_run(done)
    published = run.table("card.json")["published"]
    network = load(run.out / "model")
    rows = [
        row
        for row in run.table("grow.json")["starts"]
        if published["run"].startswith(f"{row['case']}--{row['teacher']}")
    ]
    assert sum(parameter.numel() for parameter in network.parameters()) == rows[0]["parameters"]
    way = Way(rows[0]["case"], rows[0]["teacher"], "random")
    target = trained_recipe(run, way, done.profile.seeds[0], 0.01).target
    assert (target.model, target.edits) == (rows[0]["network"]["model"], rows[0]["network"]["edits"])


def test_the_published_model_runs_again_to_the_same_bytes(done, tmp_path, command):
    model = study_run(done).out / "model"
    code, _, said = command("run", model / "recipe.yaml", "--out", tmp_path / "again")
    assert code == 0, said
    assert (tmp_path / "again/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_evaluation_loads_no_module_that_dvc_does_not_watch(done):
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from kzoo.studies.params import read_study\n"
        "from kzoo.studies.running import run_stages\n"
        "study = read_study(Path(sys.argv[1]))\n"
        "run_stages(study, [study.stage('evaluate')])\n"
        "files = {module.__file__ for name, module in sys.modules.items() if name.partition('.')[0] == 'kzoo'}\n"
        "print(json.dumps(sorted(files)))\n"
    )
    listed = subprocess.run(
        [sys.executable, "-c", program, done.folder], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {Path(file).relative_to(ROOT / "kzoo").as_posix() for file in json.loads(listed.stdout)}
    watched = {path.relative_to(ROOT / "kzoo").as_posix() for path in import_closure(done.stage("evaluate").module)}
    packages = {f"{Path(one).parent}/__init__.py" for one in watched}
    assert loaded - watched <= RUNNERS | {"__init__.py"} | packages
    assert "studies/growth/figures.py" in watched and "running.py" not in watched


def test_the_claims_fit_every_profile_that_they_are_for():
    for folder in PIPELINES:
        claims = read_claims(folder / "claims.yaml", metric_kinds("growth")).claims
        assert len(claims) >= 6
        for claim in claims:
            for profile in (read_study(folder, each).profile for each in claim.profiles):
                case = profile.cases[claim.of["case"]]
                assert {claim.of["arm"], claim.of.get("against", "random")} <= {*case.arms, "teacher"}, claim.id
                assert set(claim.of.get("teachers", [])) <= set(case.teachers), claim.id
                assert claim.of.get("level", "teacher") in profile.levels, claim.id
                assert (claim.of.get("epoch") or 0) <= profile.training.epochs, claim.id


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("teachers: [vgg]\n        arms:\n          net2deeper", "teachers: [vvg]\n        arms:\n          net2deeper", "teacher 'vvg'"),
        ("random: {method: random, like: net2wider}", "random: {method: random, like: random_pda}", "is like 'random_pda'"),
        ("random: {method: random, like: net2wider}", "random: {method: random}", "method random goes with like"),
        ("random: {method: random, like: net2wider}", "fresh: {method: random, like: net2wider}", "the control as an arm"),
        ("seeds: [1, 2]", "seeds: [1, 100]", "share a seed"),
        ("evaluate_every: 3, threads: 1}", "threads: 1}", "training must say evaluate_every"),
        ("evaluate_every: 3, threads: 1}", "evaluate_every: 3, lr: 0.1}", "training says lr or seed"),
        ("data: digits}\n", "data: digist}\n", "names the data 'digist'"),
        ("keep: [net2wider]", "keep: [net2deeper]", "is not among keep"),
        ("arm: net2wider}\n\n", "arm: net2deeper}\n\n", "publish names a run that is not among cases"),
    ],
)  # fmt: skip
def test_faults_name_file_line_and_field(tmp_path, old, new, expected):
    text = (PIPELINES[0] / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=r"params\.yaml:\d+: profiles\.tiny") as error:
        read_study(tmp_path, "tiny")
    assert expected in str(error.value)
    assert set(profile_names(tmp_path / "params.yaml")) == {"tiny", "default", "gpu", "paper"}

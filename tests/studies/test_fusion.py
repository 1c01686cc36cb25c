"""The study of fusion: its metrics on tables whose results are known by hand, and the pipeline in the profile tiny."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from scipy import stats

from kzoo.claims import read_claims
from kzoo.errors import InputError
from kzoo.recipe import read_recipe
from kzoo.studies.closure import import_closure
from kzoo.studies.fusion.design import Case, Way, all_cases, all_ways, arms_of, begun_parents
from kzoo.studies.fusion.figures import figures, tables
from kzoo.studies.fusion.recipes import fusion_recipe
from kzoo.studies.fusion.results import Results
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.params import profile_names, read_study
from kzoo.studies.running import run_stages, study_run
from tests.studies.test_closure import RUNNERS

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipelines" / "fusion"

PROFILE = {
    "data": {"few": {"task": "digits"}, "other": {"task": "digits"}},
    "networks": {
        "flat": {"model": "small:mlp-1x16", "epochs": 1, "pretraining_epochs": 1},
        "deep": {"model": "small:mlp-3x16", "epochs": 1, "pretraining_epochs": 1},
    },
    "starts": ["shared", "different"],
    "parents": [[0, 1], [2, 3]],
    "seeds": [1, 2],
    "training": {"batch_size": 32},
    "pretraining": {"batch_size": 32},
    "pretraining_share": 0.1,
    "images": 10,
    "arms": {
        "average": {"method": "weight_sum"},
        "delta": {"method": "weight_sum", "parameters": {"variant": "delta_sum"}, "starts": ["shared"]},
        "fold": {"method": "weight_sum", "networks": ["deep"]},
    },
    "shown": ["average", "delta", "joint"],
    "keep": ["average"],
    "publish": {"data": "few", "network": "flat", "start": "shared", "arm": "average"},
}
#: Accuracies by network and arm, for each seed; on the other images all are 10 points lower, from different starts 20.
RUNS = {
    ("flat", "average"): (0.8, 0.9),
    ("flat", "delta"): (0.7, 0.7),
    ("deep", "average"): (0.5, 0.7),
    ("deep", "delta"): (0.4, 0.6),
    ("deep", "fold"): (0.6, 0.6),
}
#: What every case has beside its arms, for each seed.
BESIDE = {
    "fused": (0.5, 0.5),
    "parent_1": (0.4, 0.5),
    "parent_2": (0.5, 0.45),
    "ensemble_probability": (0.8, 0.85),
    "ensemble_logit": (0.85, 0.75),
    "start": (0.3, 0.3),
    "regmean": (0.9, 0.9),
    "joint": (0.95, 0.95),
    "chance": (0.25, 0.25),
}


def all_tables():
    """The table of all runs."""
    runs, compared = [], []
    for number, seed in enumerate((1, 2)):
        for data in ("few", "other"):
            for network in ("flat", "deep"):
                for start in ("shared", "different"):
                    case = {"data": data, "network": network, "start": start, "seed": seed}
                    rows = {name: values[number] for name, values in BESIDE.items()}
                    if start == "different":
                        del rows["start"]
                    compared.append(case | {"rows": rows})
                    less = (0.1 if data == "other" else 0) + (0.2 if start == "different" else 0)
                    for (of, arm), values in RUNS.items():
                        if of == network and not (arm == "delta" and start == "different"):
                            name = f"{data}--{network}--{start}--{arm}--{seed}"
                            runs.append(case | {"arm": arm, "name": name, "accuracy": round(values[number] - less, 6)})
    return {"environment": {"device": "cpu"}, "profile": "default", "runs": runs, "compared": compared}


@pytest.fixture
def study(tmp_path):
    """A folder with tables, and a function that evaluates one claim on them, after ``change`` has changed the runs."""
    params = {"kzoo_study": "fusion", "profile": "default", "tolerance": 0.1, "profiles": {"default": PROFILE}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (tmp_path / "out").mkdir()

    def evaluate(metric, of, change=lambda row: row):
        made = all_tables()
        made["runs"] = [row for row in map(change, made["runs"]) if row is not None]
        (tmp_path / "out" / "fuse.json").write_text(json.dumps(made))
        claim = {
            "id": "one", "statement": "It holds.", "where": "here", "setting": "scaled", "profiles": ["default"],
            "metric": metric, "of": of, "comparison": "above", "threshold": 1,
            "unit": metric_kinds("fusion")[metric].unit, "seeds": 2,
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


FLAT = {"arm": "average", "networks": ["flat"], "data": ["few"], "starts": ["shared"]}


def test_the_accuracy_of_an_arm_is_the_mean_over_its_cases(study):
    found = study("accuracy when fused", FLAT)
    assert found["value"] == pytest.approx(85) and found["counts"] == {"cases": 1, "seeds": 2}
    assert (found["low"], found["high"]) == pytest.approx(t_interval(80, 90))
    assert (found["unit"], found["file"].rpartition("/")[2]) == ("percent", "fuse.json")
    # .8, .7, .6, .5 of the flat one, .5, .4, .3, .2 of the deep one with the first seed; .1 and .2 more with the second.
    found = study("accuracy when fused", {"arm": "average"})
    assert (found["value"], found["counts"]["cases"]) == (pytest.approx((50 + 65) / 2), 8)
    assert study("accuracy when fused", {"arm": "joint"})["value"] == pytest.approx(95)


def test_points_above_what_arms_are_compared_with(study):
    def points(against, **more):
        return study("points above", FLAT | {"against": against} | more)["value"]

    assert points("chance") == pytest.approx(60)
    # The better parent of each seed: .5, .5.
    assert points("parent") == pytest.approx(35)
    assert points("ensemble_probability") == pytest.approx((0 + 5) / 2)
    assert points("ensemble_logit") == pytest.approx((-5 + 15) / 2)
    # The better ensemble of each seed: .85, .85.
    found = study("points above", FLAT | {"against": "ensemble"})
    assert found["value"] == pytest.approx(0)
    assert (found["low"], found["high"]) == pytest.approx(t_interval(-5, 5))
    assert points("delta") == pytest.approx((10 + 20) / 2)
    assert points("start") == pytest.approx(55)
    assert points("ensemble_probability", data=["other"], starts=["different"]) == pytest.approx(2.5 - 30)


def test_how_far_two_networks_are_apart(study):
    of = {"arm": "average", "against": "ensemble_probability", "first": "flat", "second": "deep"}
    found = study("points apart", of | {"data": ["few"], "starts": ["shared"]})
    # 0 and 5 against -30 and -15.
    assert (found["value"], found["counts"]["cases"]) == (pytest.approx(25), 2)
    assert (found["low"], found["high"]) == pytest.approx(t_interval(30, 20))


@pytest.mark.parametrize(
    ("metric", "of", "expected"),
    [
        ("accuracy when fused", {"arm": "avreage"}, "names the arm 'avreage', but the profile has average, delta"),
        ("accuracy when fused", {"arm": "average", "data": ["fwe"]}, "names the data 'fwe'"),
        ("accuracy when fused", {"arm": "average", "networks": ["flta"]}, "names the network 'flta'"),
        ("accuracy when fused", {"arm": "average", "starts": ["pretrained"]}, "names the start 'pretrained'"),
        ("accuracy when fused", {"arm": "delta"}, "is about delta, which few flat different has not"),
        ("accuracy when fused", {"arm": "fold"}, "is about fold, which few flat shared has not"),
        ("points above", {"arm": "average", "against": "start"}, "is about start, which few flat different has not"),
        ("points above", {"arm": "average", "against": "average"}, "compares average with itself"),
        ("points apart", {"arm": "average", "against": "joint", "first": "flat", "second": "dep"}, "network 'dep'"),
    ],
)
def test_claims_that_the_profile_cannot_answer_are_refused(study, metric, of, expected):
    with pytest.raises(InputError) as error:
        study(metric, of)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: None if (row["arm"], row["seed"]) == ("delta", 2) else row,
        lambda row: row | {"accuracy": 50.0},
        lambda row: row | {"accuracy": "half"},
        lambda row: {key: value for key, value in row.items() if key != "start"},
    ],
)
def test_tables_that_are_not_those_of_the_profile_are_refused(study, change):
    with pytest.raises(InputError, match=r"are not those of the profile default .*: run the stages before"):
        study("accuracy when fused", FLAT, change)


def test_the_whole_table_has_every_arm_and_what_it_is_measured_against(study, tmp_path):
    study("accuracy when fused", FLAT)
    results = Results(study_run(read_study(tmp_path)))
    first, second, *_ = tables(results)
    assert (first["title"].partition(":")[0], first["columns"]) == (
        "few, one random start for all parents",
        ["", "flat", "deep"],
    )
    assert [row[0] for row in first["rows"]] == [
        *("chance", "parent_1", "parent_2", "ensemble_probability", "ensemble_logit", "start"),
        *("average", "delta", "fold", "joint"),
    ]
    by_name = {row[0]: row[1:] for row in first["rows"]}
    assert by_name["average"] == ["85.0 ±63.5", "60.0 ±127.1"] and by_name["fold"] == ["-", "60.0 ±0.0"]
    # Networks that began differently have no common start, and so none of its arms.
    assert {"delta", "start"}.isdisjoint(row[0] for row in second["rows"])
    shared, different = figures(results)
    assert [one["name"] for one in shared["series"]] == ["average", "delta", "joint"]
    assert [one["name"] for one in different["series"]] == ["average", "joint"]
    assert shared["series"][0]["points"][0]["y"] == pytest.approx(0.8) and shared["lines"][0]["at"] == 0.25


# The pipeline in the profile tiny


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A copy of the pipeline that has been run in the profile tiny; to be left as it is."""
    folder = tmp_path_factory.mktemp("fusion") / "pipelines" / "fusion"
    shutil.copytree(PIPELINE, folder, ignore=shutil.ignore_patterns("out", ".out.work*", "dvc.lock"))
    text = (folder / "params.yaml").read_text().replace("profile: default", "profile: tiny", 1)
    (folder / "params.yaml").write_text(text)
    study = read_study(folder)
    run_stages(study, study.stages, jobs=1)
    return study


def test_the_pipeline_runs_from_end_to_end(done, command):
    run = study_run(done)
    names = [name for stage in done.stages for name in (*stage.tables, *stage.cached)]
    assert sorted(path.name for path in run.out.iterdir()) == sorted(names)
    assert not run.work.exists()
    table = run.table("fuse.json")
    assert {Way(row["data"], row["network"], row["start"], row["arm"]) for row in table["runs"]} == set(
        all_ways(done.profile)
    )
    compared = [(Case(row["data"], row["network"], row["start"]), row["seed"]) for row in table["compared"]]
    assert sorted(compared) == sorted((case, seed) for case in all_cases(done.profile) for seed in done.profile.seeds)
    for row in table["compared"]:
        assert {"chance", "parent_1", "parent_2", "ensemble_probability", "ensemble_logit", "regmean", "joint"} <= {
            *row["rows"]
        }
        assert ("start" in row["rows"]) == (row["start"] != "different")
        # Of a parent that never saw half of the classes no more than half can be right.
        assert max(row["rows"]["parent_1"], row["rows"]["parent_2"]) <= 0.5
    code, said, error = command("claims", "verify", done.folder, "--json")
    found = json.loads(said)
    # Claims of small networks that hardly learned need not hold.
    assert code in (0, 1), error
    assert (found["files"]["changed"], found["files"]["absent"]) == (0, 0) and found["files"]["checked"] >= 30
    assert all("is not reproduced" in failure for failure in found["failures"])


def test_what_is_measured_beside_an_arm_is_what_the_arms_themselves_are(done):
    """RegMean of the comparison and the arm regmean; the first arm and the network that it is compared with."""
    table = study_run(done).table("fuse.json")
    key = ("data", "network", "start", "seed")
    arms = {(*(row[name] for name in key), row["arm"]): row["accuracy"] for row in table["runs"]}
    for row in table["compared"]:
        case = tuple(row[name] for name in key)
        assert row["rows"]["regmean"] == arms[(*case, "regmean")]
        assert row["rows"]["fused"] == arms[(*case, "average")]


def test_cases_share_parents_where_they_began_alike(done):
    run = study_run(done)
    way = Way("digits", "mlp", "shared", "average")
    shared = fusion_recipe(run, way, 1)
    different = fusion_recipe(run, way._replace(start="different"), 1)
    assert shared.sources[0] == different.sources[0] and shared.sources[1] != different.sources[1]
    assert (shared.start is None, different.start is None) == (False, True)
    assert shared.comparison is None and fusion_recipe(run, way, 1, compared=True).comparison.joint.epochs == 4
    assert fusion_recipe(run, way, 2).sources[0].sha256 != shared.sources[0].sha256
    assert [source.images.only for source in shared.sources] == [tuple("01234"), tuple("56789")]
    assert {source.images.train for source in shared.sources} == {40}
    assert begun_parents(done.profile) == [
        *((0, "random-1"), (1, "random-1"), (1, "random-2"), (0, "pretrained"), (1, "pretrained"))
    ]
    assert "delta_sum" not in arms_of(done.profile, Case("digits", "mlp", "different"))
    assert "average_recalibrated" in arms_of(done.profile, Case("digits", "cnn", "different"))


def test_parents_begin_with_the_start_and_the_pretrained_one_knows_something(done):
    out = study_run(done).out
    first, second = (
        read_recipe(out / "parents" / f"digits--mlp--{number}--random-1--1" / "recipe.yaml") for number in (0, 1)
    )
    assert first.sources[0].sha256 == second.sources[0].sha256
    few = read_recipe(out / "starts" / "digits--mlp--pretrained--1" / "recipe.yaml")
    assert (few.data.train, few.data.only, few.training.epochs) == (20, None, 2)
    begun, trained = (
        load_file(out / "starts" / f"digits--mlp--{kind}--1" / "model.safetensors")
        for kind in ("random-1", "pretrained")
    )
    assert any(not begun[name].equal(trained[name]) for name in begun)


def test_the_published_model_and_what_was_measured_for_it_run_again_to_the_same_bytes(done, tmp_path, command):
    model = study_run(done).out / "model"
    recipe = read_recipe(model / "recipe.yaml")
    assert recipe.method == "regmean" and [each.path for each in recipe.inputs] == [
        "gram-0.safetensors",
        "gram-1.safetensors",
    ]
    code, _, said = command("run", model / "recipe.yaml", "--out", tmp_path / "again")
    assert code == 0, said
    assert (tmp_path / "again/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "## The study" in (model / "README.md").read_text()


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
    assert "studies/fusion/figures.py" in watched and "running.py" not in watched


def test_the_claims_fit_every_profile_that_they_are_for():
    claims = read_claims(PIPELINE / "claims.yaml", metric_kinds("fusion")).claims
    assert len(claims) >= 12 and any("tiny" in claim.profiles for claim in claims)
    for claim in claims:
        for profile in (read_study(PIPELINE, each).profile for each in claim.profiles):
            rows = {claim.of["arm"], claim.of.get("against", "chance")}
            assert rows <= {*profile.arms, "chance", "parent", "ensemble", "ensemble_probability", "start", "joint"}
            assert set(claim.of.get("data") or []) <= set(profile.data), claim.id
            assert set(claim.of.get("networks") or []) <= set(profile.networks), claim.id
            assert set(claim.of.get("starts") or []) <= set(profile.starts), claim.id


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("networks: [cnn]}", "networks: [cmn]}", "names the network 'cmn'"),
        ("      average: {method: weight_sum}\n", "      average: {method: weight_sum, networks: [cnn]}\n", "is not for every case"),
        ("[5, 6, 7, 8, 9]]\n    seeds: [1, 2]\n", "[4, 5, 6, 7, 8]]\n    seeds: [1, 2]\n", "parents has 4 twice"),
        ("seeds: [1, 2]\n", "seeds: [1, 1]\n", "seeds has 1 twice"),
        ("lr: 0.005, threads: 1}\n    pretraining:", "lr: 0.005, epochs: 2}\n    pretraining:", "training says seed or epochs"),
        ("shown: [average, layerwise, ensemble_probability]", "shown: [average, layers]", "shown names 'layers'"),
        ("keep: [regmean, layerwise]", "keep: [layerwise]", "an arm that is not among keep"),
        ("network: mlp, start: shared, arm: regmean", "network: mpl, start: shared, arm: regmean", "network that the profile has not"),
        ("      delta_sum: {method", "      joint: {method", "an arm is called joint"),
        ("images: 40\n", "images: 1\n", "images: expected a number of 2 or more"),
    ],
)  # fmt: skip
def test_faults_name_file_line_and_field(tmp_path, old, new, expected):
    text = (PIPELINE / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=r"params\.yaml:\d+: profiles\.tiny") as error:
        read_study(tmp_path, "tiny")
    assert expected in str(error.value)
    assert set(profile_names(tmp_path / "params.yaml")) == {"tiny", "default", "gpu", "paper"}

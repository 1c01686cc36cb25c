"""The study of amalgamation: its metrics on tables whose results are known by hand, and the pipeline in the profile tiny."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from scipy import stats

from kzoo.claims import read_claims
from kzoo.errors import InputError
from kzoo.recipe import read_recipe
from kzoo.studies.amalgamation.design import Way, all_ways, swept_ways
from kzoo.studies.amalgamation.figures import figures, tables
from kzoo.studies.amalgamation.rates import picked_rates
from kzoo.studies.amalgamation.recipes import student_unit, teacher_recipe
from kzoo.studies.amalgamation.results import Results
from kzoo.studies.closure import import_closure
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.params import profile_names, read_study
from kzoo.studies.running import run_stages, study_run
from kzoo.surroundings import load_data

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipelines" / "amalgamation"

PROFILE = {
    "data": {"task": "digits", "validation": 10},
    "teachers": {
        "low": {"model": "small:mlp-1x16", "classes": [[0, 1]]},
        "high": {"model": "small:mlp-1x16", "classes": [[2, 3]]},
        "odd": {"model": "small:mlp-1x16", "classes": [[5, 5], [7, 7]]},
    },
    "teacher_training": {"epochs": 1},
    "settings": {"two": ["low", "high"], "three": ["low", "high", "odd"]},
    "student": "small:mlp-1x16",
    "seeds": [1, 2],
    "training": {"epochs": 1},
    "sweep": {"rates": [0.001, 0.01], "seeds": [11]},
    "arms": {"kd": {"method": "kd"}, "full": {"method": "cfl"}, "labels": {"method": "random"}},
    "shown": ["kd", "oracle"],
    "keep": ["kd"],
    "publish": {"setting": "two", "arm": "kd"},
}
#: Accuracies over all classes with each seed; in the setting of three teachers they are .2 lower.
JOINT = {"kd": (0.6, 0.7), "full": (0.65, 0.69), "labels": (0.8, 0.8)}
#: Students' accuracies on the slices, and the teachers' own, with each seed.
OWN = {"kd": ((0.8, 0.9, 0.5), (0.9, 0.7, 0.5)), "full": ((0.9, 0.9, 0.5), (0.9, 0.8, 0.5))}
TEACHERS = ((0.85, 0.8, 0.5), (0.85, 0.9, 0.5))


def all_tables():
    """The tables of the sweep and of all runs."""
    runs, compared, rates = [], [], []
    for setting, teachers in PROFILE["settings"].items():
        count, less = len(teachers), 0.2 * (setting == "three")
        rates += [{"setting": setting, "arm": arm, "lr": 0.01} for arm in PROFILE["arms"]]
        for number, seed in enumerate((1, 2)):
            compared.append(
                {
                    "setting": setting,
                    "seed": seed,
                    "concatenated_probability": (0.62, 0.6)[number],
                    "concatenated_logit": (0.5, 0.66)[number],
                    "oracle": 0.9,
                    "teachers": TEACHERS[number][:count],
                    "alone": [value / count for value in TEACHERS[number][:count]],
                }
            )
            for arm, values in JOINT.items():
                own = list(OWN[arm][number][:count]) if arm in OWN else []
                row = {"setting": setting, "arm": arm, "seed": seed, "own": own}
                runs.append(row | {"accuracy": round(values[number] - less, 6)})
    told = {"environment": {"device": "cpu"}, "profile": "default", "runs": runs, "compared": compared}
    return {"sweep.json": {"rates": rates, "runs": []}, "train.json": told}


@pytest.fixture
def study(tmp_path):
    """A folder with tables, and a function that evaluates one claim on them, after ``change`` has changed the runs."""
    params = {"kzoo_study": "amalgamation", "profile": "default", "tolerance": 0.1, "profiles": {"default": PROFILE}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (tmp_path / "out").mkdir()

    def evaluate(metric, of, change=lambda row: row):
        made = all_tables()
        made["train.json"]["runs"] = [row for row in map(change, made["train.json"]["runs"]) if row is not None]
        for name, table in made.items():
            (tmp_path / "out" / name).write_text(json.dumps(table))
        claim = {
            "id": "one", "statement": "It holds.", "where": "here", "setting": "scaled", "profiles": ["default"],
            "metric": metric, "of": of, "comparison": "above", "threshold": 1,
            "unit": metric_kinds("amalgamation")[metric].unit, "seeds": 2,
        }  # fmt: skip
        claims = {"paper": "P", "title": "T", "link": "https://example.org", "known": "All.", "claims": [claim]}
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(claims))
        found = read_study(tmp_path)
        run_stages(found, [found.stage("evaluate")])
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["claims"]["one"]

    evaluate.folder = tmp_path
    return evaluate


def t_interval(first, second):
    """The 95 % interval of two numbers: their mean, and half of Student's t with one degree of freedom by the spread."""
    half = stats.t.ppf(0.975, 1) * abs(first - second) / 2
    return (first + second) / 2 - half, (first + second) / 2 + half


def test_accuracy_and_gain_are_means_over_settings_within_each_seed(study):
    found = study("accuracy over all classes", {"arm": "kd", "settings": ["two"]})
    assert found["value"] == pytest.approx(65) and found["counts"] == {"settings": 1, "seeds": 2}
    assert (found["low"], found["high"]) == pytest.approx(t_interval(60, 70))
    assert study("accuracy over all classes", {"arm": "kd"})["value"] == pytest.approx((65 + 45) / 2)
    found = study("points gained", {"arm": "full", "against": "kd"})
    assert (found["low"], found["high"]) == pytest.approx(t_interval(5, -1))
    assert (found["unit"], found["file"].rpartition("/")[2]) == ("points", "train.json")


def test_gain_over_what_arms_are_compared_with(study):
    def points(against):
        return study("points gained", {"arm": "full", "against": against, "settings": ["two"]})["value"]

    assert points("concatenated_probability") == pytest.approx((3 + 9) / 2)
    # The better of the two in each seed: .62, .66.
    assert points("concatenated") == pytest.approx((3 + 3) / 2)
    assert points("oracle") == pytest.approx((-25 - 21) / 2)
    # The better teacher of each seed, on half of the images: .425, .45.
    assert points("teacher") == pytest.approx((22.5 + 24) / 2)


def test_how_unlike_two_arms_are_counts_either_way(study):
    found = study("points unlike", {"arm": "full", "against": "kd"})
    assert (found["low"], found["high"]) == pytest.approx(t_interval(5, 1))


def test_points_beside_teachers_on_their_slices(study):
    # Above the teachers by 5 and 10, then by 5 and -10.
    worst = study("points beside teachers", {"arm": "full", "settings": ["two"]})
    assert (worst["low"], worst["high"]) == pytest.approx(t_interval(5, -10))
    mean = study("points beside teachers", {"arm": "full", "settings": ["two"], "teachers": "mean"})
    assert (mean["low"], mean["high"]) == pytest.approx(t_interval(7.5, -2.5))
    assert study("points beside teachers", {"arm": "full", "settings": ["three"]})["value"] == pytest.approx(
        (0 - 10) / 2
    )


def test_one_setting_beside_another(study):
    def lower_in_three(row):
        return row | {"accuracy": 0.3} if (row["setting"], row["arm"]) == ("three", "full") else row

    of = {"arm": "full", "against": "labels", "first": "two", "second": "three"}
    assert study("points between settings", of)["value"] == pytest.approx(0)
    # -15 and -11 against -30 and -30.
    found = study("points between settings", of, lower_in_three)
    assert (found["low"], found["high"]) == pytest.approx(t_interval(15, 19))


def test_a_student_that_diverged_is_always_wrong(study):
    def diverged(row):
        return row | {"accuracy": 0.0, "own": []} if (row["arm"], row["seed"]) == ("full", 1) else row

    of = {"arm": "full", "settings": ["two"]}
    found = study("points beside teachers", of, diverged)
    assert (found["low"], found["high"]) == pytest.approx(t_interval(-85, -10))
    assert study("accuracy over all classes", of, diverged)["value"] == pytest.approx((0 + 69) / 2)


@pytest.mark.parametrize(
    ("metric", "of", "expected"),
    [
        ("accuracy over all classes", {"arm": "fll"}, "names the arm 'fll', but the profile has kd, full, labels, concat"),
        ("accuracy over all classes", {"arm": "kd", "settings": ["too"]}, "names the setting 'too'"),
        ("points gained", {"arm": "kd", "against": "kd"}, "compares kd with itself"),
        ("points beside teachers", {"arm": "labels"}, "labels has no teachers"),
        ("points between settings", {"arm": "kd", "against": "full", "first": "two", "second": "4"}, "setting '4'"),
    ],
)  # fmt: skip
def test_claims_that_the_profile_cannot_answer_are_refused(study, metric, of, expected):
    with pytest.raises(InputError) as error:
        study(metric, of)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: None if (row["arm"], row["seed"]) == ("full", 2) else row,
        lambda row: row | {"accuracy": 50.0},
        lambda row: row | {"own": row["own"][:1]},
        lambda row: row | {"own": "no"},
    ],
)
def test_tables_of_another_profile_are_refused(study, change):
    with pytest.raises(InputError, match="are not those of the profile default"):
        study("accuracy over all classes", {"arm": "kd"}, change)


def test_figures_and_tables_show_every_arm_and_slice(study):
    study("accuracy over all classes", {"arm": "kd"})
    results = Results(study_run(read_study(study.folder)))
    joint, two, three, rates = tables(results)
    assert joint["rows"][0] == ["kd", "65.0 ±63.5", "45.0 ±63.5"]
    assert [row[0] for row in joint["rows"]] == [
        *("kd", "full", "labels", "concatenated_probability", "concatenated_logit", "concatenated", "oracle", "teacher")
    ]
    assert two["rows"][0] == ["the teacher itself", "85.0 ±0.0", "85.0 ±63.5"]
    assert three["columns"] == ["", "low", "high", "odd"] and [row[0] for row in three["rows"][1:]] == ["kd", "full"]
    assert rates["rows"][2] == ["labels", "0.01", "0.01"]
    (drawn,) = figures(results)
    assert [series["name"] for series in drawn["series"]] == ["kd", "oracle"]
    assert drawn["series"][1]["points"][0] == {"x": "two", "y": 0.9, "low": 0.9, "high": 0.9}


def test_the_rate_of_the_highest_accuracy_on_images_held_back_is_picked(study):
    profile = read_study(study.folder).profile
    found = {("two", "kd"): (0.5, 0.6), ("two", "full"): (0.6, 0.6), ("two", "labels"): (0.7, 0.0)}
    runs = [
        {**way._asdict(), "seed": 11, "lr": rate, "accuracy": found.get(way, (0.1, 0.2))[number]}
        for way in all_ways(profile)
        for number, rate in enumerate(profile.sweep.rates)
    ]
    picked = {(row["setting"], row["arm"]): row["lr"] for row in picked_rates(profile, runs)}
    assert [picked["two", arm] for arm in ("kd", "full", "labels")] == [0.01, 0.001, 0.001]


def test_an_arm_that_is_not_swept_has_the_rate_of_the_arm_that_it_names(study):
    profile = read_study(study.folder).profile
    arms = profile.arms | {"full": profile.arms["full"].model_copy(update={"rate_of": "kd"})}
    profile = profile.model_copy(update={"arms": arms})
    assert {way.arm for way in swept_ways(profile)} == {"kd", "labels"}
    runs = [
        {**way._asdict(), "seed": 11, "lr": rate, "accuracy": 0.5 + (rate if way.setting == "two" else -rate)}
        for way in swept_ways(profile)
        for rate in profile.sweep.rates
    ]
    picked = {(row["setting"], row["arm"]): row["lr"] for row in picked_rates(profile, runs)}
    assert (picked["two", "full"], picked["three", "full"]) == (0.01, 0.001) and len(picked) == 6


# The pipeline in the profile tiny


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study that was run in the profile tiny; to be left as it is."""
    folder = tmp_path_factory.mktemp("tiny") / "amalgamation"
    folder.mkdir()
    for name in ("claims.yaml", "params.yaml"):
        shutil.copy(PIPELINE / name, folder)
    (folder.parent.parent / "environment.yaml").unlink(missing_ok=True)
    study = read_study(folder, "tiny")
    run_stages(study, study.stages, jobs=1)
    return study


def test_a_run_of_all_stages_gives_every_run_and_every_metric(done):
    run = study_run(done)
    train, metrics = run.table("train.json"), run.table("metrics.json")
    assert len(train["runs"]) == 2 * 4 and len(run.table("sweep.json")["runs"]) == 2 * 3
    assert len(run.table("teachers.json")["teachers"]) == 3 * 2
    claims = read_claims(PIPELINE / "claims.yaml", metric_kinds("amalgamation")).claims
    assert set(metrics["claims"]) == {claim.id for claim in claims if "tiny" in claim.profiles}
    runs = {(row["arm"], row["seed"]): row for row in train["runs"]}
    # Reconstruction has no gradient in the student: the same rate, the same bytes.
    rates = {(row["arm"]): row["lr"] for row in run.table("sweep.json")["rates"]}
    assert rates["kd"] == rates["kd_reconstruction"]
    for seed in (1, 2):
        assert runs["kd", seed]["sha256"] == runs["kd_reconstruction", seed]["sha256"] != runs["full", seed]["sha256"]
    assert metrics["claims"]["reconstruction-teaches-nothing"]["value"] == 0
    assert runs["labels", 1]["own"] == [] and len(runs["kd", 1]["own"]) == 2


def test_what_teachers_do_without_a_student_comes_from_the_same_images(done):
    run = study_run(done)
    for row in run.table("train.json")["compared"]:
        trained = {
            each["teacher"]: each["accuracy"]
            for each in run.table("teachers.json")["teachers"]
            if each["seed"] == row["seed"]
        }
        assert row["teachers"] == pytest.approx([trained["low"], trained["high"]], abs=1e-6)
        # Each knows six of ten balanced classes.
        assert row["alone"] == pytest.approx([0.6 * value for value in row["teachers"]], abs=0.01)
        assert 0 <= max(row["alone"]) <= row["oracle"] <= 1


def test_recipes_hold_images_back_and_name_no_labels_but_the_ceiling_s(done):
    run = study_run(done)
    unit = student_unit(run, Way("two", "full"), 1, 0.01)
    tried = student_unit(run, Way("two", "full"), 11, 0.01, sweep=True)
    assert (unit.recipe.data.split, tried.recipe.data.split, unit.recipe.data.validation) == (None, "validation", 60)
    assert [source.classes for source in unit.recipe.sources] == [list("012345"), list("456789")]
    assert unit.recipe.sources[0].sha256 != tried.recipe.sources[0].sha256
    assert student_unit(run, Way("two", "labels"), 1, 0.01).recipe.sources == []
    told = run.table("teachers.json")["data"]
    teacher = teacher_recipe(run.profile, told, "high", 1)
    assert (teacher.training.epochs, teacher.training.lr, teacher.data.classes) == (2, 0.005, tuple("456789"))
    assert teacher.target.seed != unit.recipe.target.seed
    final, swept = load_data(unit.recipe.data, ROOT), load_data(tried.recipe.data, ROOT)
    assert torch.equal(final.train.images, swept.train.images) and len(swept.test) == 60
    whole = load_data(run.profile.data.model_copy(update={"validation": None}), ROOT)
    assert torch.equal(swept.test.images, whole.train.images[200:]) and torch.equal(
        final.test.images, whole.test.images
    )


def test_the_published_student_runs_again_to_the_same_bytes(done, tmp_path, command):
    model = study_run(done).out / "model"
    recipe = read_recipe(model / "recipe.yaml")
    assert (recipe.method, len(recipe.sources)) == ("cfl", 2)
    code, _, said = command("run", model / "recipe.yaml", "--out", tmp_path / "again")
    assert code == 0, said
    assert (tmp_path / "again/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "## The study" in (model / "README.md").read_text()


def test_evaluation_is_stale_with_its_own_modules_only():
    watched = {
        path.relative_to(ROOT / "kzoo").as_posix() for path in import_closure("kzoo.studies.amalgamation.evaluation")
    }
    assert "studies/amalgamation/figures.py" in watched and "running.py" not in watched


def test_the_claims_fit_every_profile_that_they_are_for():
    claims = read_claims(PIPELINE / "claims.yaml", metric_kinds("amalgamation")).claims
    assert len(claims) >= 10 and any("tiny" in claim.profiles for claim in claims)
    for claim in claims:
        for profile in (read_study(PIPELINE, each).profile for each in claim.profiles):
            rows = {claim.of["arm"], claim.of.get("against", "oracle")}
            assert rows <= {*profile.arms, "concatenated", "oracle"}, claim.id
            settings = {
                *(claim.of.get("settings") or []),
                *(claim.of[key] for key in ("first", "second") if key in claim.of),
            }
            assert settings <= set(profile.settings), claim.id


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("two: [low, high]", "two: [low, hihg]", "names the teacher 'hihg', which is not among teachers"),
        ("two: [low, high]", "two: [low, low]", "settings.two has low twice"),
        ("two: [low, high]", "two: [low]", "settings.two: expected"),
        ("[[0, 5]]", "[[0, 5], [4, 6]]", "teachers.low.classes has 4 twice"),
        ("seeds: [11]}", "seeds: [1]}", "seeds and sweep.seeds share a seed"),
        (", validation: 60}", "}", "data says no validation"),
        ("training: {epochs: 2, batch", "training: {epochs: 2, lr: 0.1, batch", "training says lr"),
        ("kd: {method: kd}", "kd: {method: kdd}", "has the method 'kdd'"),
        ("      full: {method: cfl}", "      oracle: {method: cfl}", "an arm is called oracle"),
        ("      kd: {method: kd}\n", "      kd: {method: random}\n", "the first arm learns from labels"),
        ("rate_of: kd}", "rate_of: dk}", "kd_reconstruction has the rate of 'dk', which is no arm that is swept itself"),
        ("rate_of: kd}", "rate_of: kd_reconstruction}", "has the rate of 'kd_reconstruction', which is no arm that is"),
        ("keep: [kd, full]", "keep: [kd, ful]", "keep names 'ful'"),
        ("publish: {setting: two, arm: full}", "publish: {setting: to, arm: full}", "publish names 'to'"),
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

"""``params.yaml``: every fault is one sentence with file, line and field."""

import shutil
from pathlib import Path

import pytest
import yaml

from kzoo.claims import read_claims
from kzoo.errors import InputError
from kzoo.studies.metrics import metric_kinds
from kzoo.studies.params import profile_names, read_study, require_profiles
from kzoo.studies.stages import STAGES

ROOT = Path(__file__).parents[2]
DPIAT = ROOT / "pipelines" / "dpiat"


@pytest.fixture
def changed(tmp_path):
    """The study's folder with a text replaced: where the default profile has it, there, else at the top."""

    def change(old, new):
        top, marker, rest = (DPIAT / "params.yaml").read_text().partition("\n  default:\n")
        assert marker and (old in top or old in rest)
        text = top + marker + rest.replace(old, new, 1) if old in rest else top.replace(old, new, 1) + marker + rest
        (tmp_path / "params.yaml").write_text(text)
        return tmp_path

    return change


@pytest.mark.parametrize("folder", sorted((ROOT / "pipelines").glob("*/params.yaml")))
def test_every_profile_of_every_study_reads(folder):
    for name in profile_names(folder):
        study = read_study(folder, name)
        assert (study.profile_name, study.kind in STAGES) == (name, True)
        # DVC refuses to run a stage of which a parameter is missing, where null would do.
        given = yaml.safe_load(folder.read_text())["profiles"][name]
        assert all(key in given for stage in study.stages for key in stage.params)
    assert read_study(folder.parent).profile_name == "default"


def test_the_paper_profile_is_the_authors_grid():
    profile = read_study(DPIAT, "paper").profile
    pairs = [tuple(pair) for pairs in profile.pairs.values() for pair in pairs]
    names = list(profile.networks)
    assert len(names) == 9
    assert sorted(pairs) == sorted((source, target) for source in names for target in names if source != target)
    assert (profile.training.epochs, profile.source_training.epochs, profile.source_training.lr) == (4, 100, 4e-3)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "kzoo_study: dpiat",
            "kzoo_study: dpait",
            "params.yaml:2: kzoo_study: expected one of amalgamation, dpiat, fusion, growth, zoo, found 'dpait'",
        ),
        ("profile: default", "profile: defualt", "params.yaml:3: profile: there is no profile 'defualt'; nearest: default"),
        ("tolerance: 0.03", "tolerance: 3", "params.yaml:5: tolerance: expected a number of at most 1"),
        ("tolerance: 0.03\n", "", "params.yaml:1: tolerance: is missing"),
        (
            "data: {task: glyphs/upper, train: 3840",
            "data: {task: glyphs/upper, trian: 3840",
            "profiles.default.data.trian: is no field of a study; nearest: train",
        ),
        (
            "publish: {source: resnet-3x12, target: resnet-2x12",
            "publish: {source: resnet-3x12, target: resnet-9x12",
            "publish names a pair that is not among pairs",
        ),
        ('resnet-2x8: {model: "small:resnet-2x8", zoo: glyphs-resnet-2x8}', 'resnet-2x8: {model: "small:resnet-2x8"}', "resnet-2x8 is a source"),
        ("- [resnet-3x12, resnet-2x12]", "- [resnet-3x12]", "pairs.depth.1: expected a list of 2 or more"),
        ("- [resnet-3x12, resnet-2x12]", "- [resnet-4x12, resnet-2x12]", "pairs name the network 'resnet-4x12'"),
        ("weight_decay: 0.05, threads: 1}\n    sweep: {rates: [0.002", "lr: 0.01}\n    sweep: {rates: [0.002", "training says lr or seed"),
        ("[0.002, 0.006, 0.018]", "[0.002, 0.006, fast]", "sweep.rates.2: expected a number, found 'fast'"),
        ("[0.002, 0.006, 0.018]", "[0.002, 6e-3, 0.018]", None),
        ("[0.002, 0.006, 0.018]", "[0.002, -0.006]", "sweep.rates.1: expected a number above 0"),
        ("[0.002, 0.006, 0.018]", "[0.002, 0.0020]", "sweep.rates has 0.002 twice"),
        ("seeds: [1, 2, 3]", "seeds: [1, -2, 3]", "seeds.1: expected a number of 0 or more"),
        ("seeds: [1, 2, 3]", "seeds: [1, 2, 1]", "profiles.default: seeds has 1 twice: keep one of them"),
        ("seeds: [1, 2, 3]", "seeds: [1, 100]", "seeds and sweep.seeds share a seed"),
        ("- [vgg-1x16, resnet-1x16]", "- [resnet-1x12, resnet-2x12]", "pairs has resnet-1x12 -> resnet-2x12 twice"),
        ("resnet-1x12: {", "resnet--1x12: {", "networks.resnet--1x12"),
        ("groups: [width, family]", "groups: []", "arms.full.groups: expected a list of 1 or more"),
    ],
)  # fmt: skip
def test_faults_name_file_line_and_field(changed, old, new, expected):
    folder = changed(old, new)
    if expected is None:
        assert read_study(folder).profile.sweep.rates == [0.002, 0.006, 0.018]
        return
    with pytest.raises(InputError, match=r"params\.yaml:\d+: ") as error:
        read_study(folder)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_stage_or_profile_that_is_not_there_is_told(command, tmp_path):
    shutil.copy(DPIAT / "params.yaml", tmp_path)
    code, _, said = command("run", tmp_path, "--stage", "trian")
    assert (code, "expected one of sources, match, transfer" in said) == (2, True)
    code, _, said = command("run", tmp_path, "--profile", "tinny")
    assert (code, "nearest: tiny" in said) == (2, True)
    code, _, said = command("run", tmp_path / "params.yaml", "--force")
    assert (code, "--force and --trust-code are for recipes" in said) == (2, True)
    code, _, said = command("run", ROOT / "examples" / "digits.yaml", "--stage", "train", "--out", tmp_path / "x")
    assert (code, "--stage is for studies" in said) == (2, True)
    code, _, said = command("run", ROOT / "examples" / "digits.yaml")
    assert (code, "Missing option '--out'" in said) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


@pytest.fixture
def tiny_study(tmp_path):
    """A folder with the study's params.yaml, which names the profile tiny."""
    text = (DPIAT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("profile: default", "profile: tiny", 1))
    return tmp_path


def test_a_stage_whose_input_is_missing_or_damaged_says_which_to_run(command, tiny_study):
    tmp_path = tiny_study
    code, _, said = command("run", tmp_path, "--stage", "match")
    assert (code, "sources.json is not there: run the stages before this one first" in said) == (2, True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sources.json").write_text("{")
    code, _, said = command("run", tmp_path, "--stage", "match")
    assert (code, "sources.json: it is not JSON" in said or "sources.json: " in said) == (2, True)


@pytest.mark.parametrize(("jobs", "code"), [("0", 2), ("many", 2), ("1", 2)])
def test_the_number_of_processes_must_be_one(command, tiny_study, monkeypatch, jobs, code):
    tmp_path = tiny_study
    monkeypatch.setenv("KZOO_JOBS", jobs)
    found, _, said = command("run", tmp_path, "--stage", "match")
    assert found == code
    assert ("KZOO_JOBS is" in said) == (jobs != "1")


def test_results_go_into_a_folder_of_their_own(command, tmp_path, monkeypatch):
    monkeypatch.setenv("KZOO_JOBS", "1")
    thesis = tmp_path / "work" / "models" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years")
    run = ("run", ROOT / "pipelines" / "zoo", "--profile", "tiny", "--stage", "train", "--out")
    code, _, said = command(*run, tmp_path / "work")
    assert (code, "holds other things than a study's results" in said) == (2, True)
    assert thesis.read_text() == "years" and sorted(path.name for path in thesis.parents[1].iterdir()) == ["models"]
    code, _, said = command(*run, thesis)
    assert (code, "is no folder" in said) == (2, True)
    # The folder in which one stands is as good as any.
    new = tmp_path / "new"
    new.mkdir()
    monkeypatch.chdir(new)
    for _ in range(2):
        code, _, said = command(*run, ".")
        assert code == 0, said
    assert sorted(path.name for path in new.iterdir()) == [".kzoo-study", "models", "train.json"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".new")] in ([], [".new.work.train.lock"])


def test_a_second_run_into_the_same_folder_is_refused(command, tiny_study):
    from filelock import FileLock

    tmp_path = tiny_study
    with FileLock(tmp_path / ".out.work.match.lock"):
        for stages in (("--stage", "match"), ()):
            code, _, said = command("run", tmp_path, *stages)
            assert (code, "another kzoo is writing into" in said) == (3, True)
        # Another stage may be under way: what it needs is missing here, which is all that is wrong with it.
        code, _, said = command("run", tmp_path, "--stage", "sweep")
        assert (code, "run the stages before this one first" in said) == (2, True), said


def test_claims_for_a_profile_that_is_not_there_are_refused(tmp_path):
    shutil.copy(DPIAT / "params.yaml", tmp_path)
    text = (DPIAT / "claims.yaml").read_text().replace("profiles: [imagenet]", "profiles: [imagnet]")
    (tmp_path / "claims.yaml").write_text(text)
    claims = read_claims(tmp_path / "claims.yaml", metric_kinds("dpiat")).claims
    with pytest.raises(InputError, match=r"imagenet-after-50-epochs is for the profile 'imagnet'.*nearest: imagenet"):
        require_profiles(tmp_path, claims)
    for folder in (DPIAT, DPIAT.parent / "zoo"):
        require_profiles(folder, read_claims(folder / "claims.yaml", metric_kinds(folder.name)).claims)


def test_a_claim_names_a_metric_of_its_own_study():
    with pytest.raises(InputError, match="'largest difference' is no metric"):
        read_claims(DPIAT.parent / "zoo" / "claims.yaml", metric_kinds("dpiat"))


def test_results_of_another_profile_than_the_named_one_go_elsewhere(command, tmp_path):
    shutil.copy(DPIAT / "params.yaml", tmp_path)
    code, _, said = command("run", tmp_path, "--profile", "tiny")
    assert (code, "give --out DIR for those of tiny" in said) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("pipelines/dpait", "is not there: give the file of a recipe, or a study; the studies nearest to it: dpiat"),
        ("dpait", "the studies nearest to it: dpiat"),
        ("pipelines", "is a folder without params.yaml"),
        ("examples/nothing.yaml", "is not there"),
    ],
)
def test_what_is_neither_a_recipe_nor_a_study_is_told(command, monkeypatch, given, expected):
    monkeypatch.chdir(ROOT)
    code, _, said = command("run", given, "--out", "/nonexistent")
    assert (code, expected in said, said.count("\n")) == (2, True, 1)


def test_a_study_may_be_named_by_its_folder_alone(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    for given in ("dpiat", "pipelines/dpiat", "pipelines/dpiat/params.yaml"):
        code, _, said = command("run", given, "--stage", "trian")
        assert (code, "'trian' is no stage of dpiat" in said) == (2, True)


def test_the_claims_fit_every_profile_that_they_are_for():
    for claim in read_claims(DPIAT / "claims.yaml", metric_kinds("dpiat")).claims:
        for profile in (read_study(DPIAT, each).profile for each in claim.profiles):
            arms = {claim.of["arm"], claim.of.get("against", "random")}
            assert arms <= set(profile.arms), claim.id
            assert claim.of["epoch"] <= profile.training.epochs, claim.id
            assert {claim.of[key] for key in ("first", "second") if key in claim.of} <= set(profile.pairs), claim.id
            if claim.metric == "ratio at every rate":
                assert arms <= set(profile.sweep.arms)

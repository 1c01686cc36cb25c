"""``params.yaml``: every fault is one sentence with file, line and field."""

import shutil
from pathlib import Path

import pytest
import yaml

from kzoo.errors import InputError
from kzoo.studies.params import profile_names, read_study
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
        ("kzoo_study: dpiat", "kzoo_study: dpait", "params.yaml:2: kzoo_study: expected one of dpiat, zoo, found 'dpait'"),
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


def test_a_stage_whose_input_is_missing_or_damaged_says_which_to_run(command, tmp_path):
    shutil.copy(DPIAT / "params.yaml", tmp_path)
    code, _, said = command("run", tmp_path, "--profile", "tiny", "--stage", "match")
    assert (code, "sources.json is not there: run the stages before this one first" in said) == (2, True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sources.json").write_text("{")
    code, _, said = command("run", tmp_path, "--profile", "tiny", "--stage", "match")
    assert (code, "sources.json cannot be used" in said) == (2, True)


@pytest.mark.parametrize(("jobs", "code"), [("0", 2), ("many", 2), ("1", 2)])
def test_the_number_of_processes_must_be_one(command, tmp_path, monkeypatch, jobs, code):
    shutil.copy(DPIAT / "params.yaml", tmp_path)
    monkeypatch.setenv("KZOO_JOBS", jobs)
    found, _, said = command("run", tmp_path, "--profile", "tiny", "--stage", "match")
    assert found == code
    assert ("KZOO_JOBS is" in said) == (jobs != "1")

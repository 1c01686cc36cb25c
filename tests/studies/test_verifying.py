"""`kzoo claims verify`: what is committed must be what the tables, the files and a rerun say."""

import json
import shutil

import pytest

RESULTS = "pipelines/dpiat/out"


@pytest.fixture
def verify(tmp_path, tiny, command):
    """A copy of the tiny study's results, and a function that verifies it: exit code, JSON, stderr."""
    root = tmp_path / "project"
    for part in ("pipelines", "environment.yaml"):
        (shutil.copytree if (tiny.root / part).is_dir() else shutil.copy)(tiny.root / part, root / part)

    def call(*options):
        code, out, said = command("claims", "verify", "dpiat", "--json", "--root", root, *options)
        return code, json.loads(out) if out else None, said

    call.root, call.command = root, command
    return call


@pytest.fixture(scope="session", autouse=True)
def _folder_first(tiny):
    """The study is run once before any of these."""


def change_claim(root, **fields):
    """Give the claim that the profile tiny can check other fields."""
    path = root / "pipelines/dpiat/claims.yaml"
    head, mark, rest = path.read_text().partition("  - id: letters-after-4-epochs")
    for old, new in fields.items():
        old, new = new
        assert old in rest
        rest = rest.replace(old, new, 1)
    path.write_text(head + mark + rest)


def rewrite(path, **changes):
    data = json.loads(path.read_text())
    data["claims"]["letters-after-4-epochs"] |= changes
    path.write_text(json.dumps(data))


def test_results_that_are_as_they_were_written_hold(verify):
    code, found, said = verify()
    assert (code, found["ok"], found["failures"], found["rerun"]) == (0, True, [], None)
    # A source, a plan, a start, a trained network, and the one that is published.
    assert found["files"] == {"checked": 5, "changed": 0, "absent": 0}
    assert found["claims"]["letters-after-4-epochs"] == "inconclusive"  # one pair has no interval
    assert found["claims"]["cifar100-after-4-epochs"] == "not run"
    assert said == ""


@pytest.mark.parametrize("file", ["models/*/model.safetensors", "plans/*.json", "model/model.safetensors"])
def test_one_changed_byte_of_a_file_names_the_file(verify, file):
    path = next((verify.root / RESULTS).glob(file))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    code, found, said = verify()
    assert (code, found["ok"], len(found["failures"])) == (1, False, 1)
    assert str(path.relative_to(verify.root)) in said and "sha256" in said
    assert found["files"] == {"checked": 5, "changed": 1, "absent": 0}
    assert said.count("\n") == 1


def test_weights_that_are_not_here_are_counted_and_no_failure(verify):
    shutil.rmtree(verify.root / RESULTS / "starts")
    code, found, _ = verify()
    assert (code, found["files"]) == (0, {"checked": 4, "changed": 0, "absent": 1})


@pytest.mark.parametrize(
    ("comparison", "low", "high", "code"),
    [("at least", 1.7, 1.9, 0), ("at least", 1.0, 1.5, 1), ("at least", 1.5, 1.7, 0), ("below", 1.7, 1.9, 1)],
)
def test_a_claim_that_fails_gives_exit_1(verify, monkeypatch, comparison, low, high, code):
    change_claim(verify.root, comparison=("comparison: at least", f"comparison: {comparison}"))
    rewrite(verify.root / RESULTS / "metrics.json", low=low, high=high, value=(low + high) / 2)
    # That the planted interval is none that the tables give is another test.
    monkeypatch.setattr("kzoo.studies.verifying._check_metrics", lambda *_: None)
    found_code, found, said = verify()
    assert found_code == code
    assert (found["claims"]["letters-after-4-epochs"] == "not reproduced") == (code == 1)
    if code:
        assert f"the claim letters-after-4-epochs is not reproduced: {(low + high) / 2:.4g}" in said


def test_metrics_that_were_edited_by_hand_are_found(verify):
    rewrite(verify.root / RESULTS / "metrics.json", value=3.0)
    code, found, said = verify()
    assert code == 1 and len(found["failures"]) == 1
    assert "metrics.json does not say of the claim letters-after-4-epochs what the other tables give" in said


def test_a_rerun_gives_the_same_bytes_and_finds_a_table_that_says_others(verify, monkeypatch):
    monkeypatch.setenv("KZOO_JOBS", "1")
    code, found, _ = verify("--rerun")
    assert (code, found["failures"]) == (0, [])
    assert found["rerun"] == "same class of machine: every table compared, with the sha256 of every network"
    table = verify.root / RESULTS / "train.json"
    data = json.loads(table.read_text())
    # A run of which nothing was kept: only running it again can tell.
    row = next(row for row in data["runs"] if "weights" not in row)
    row["sha256"] = "0" * 64
    table.write_text(json.dumps(data))
    code, found, said = verify("--rerun")
    assert (code, len(found["failures"])) == (1, 1)
    assert f'train.json: {row["name"]}.sha256 is "0000' in said


def test_a_rerun_finds_accuracies_that_nobody_measured(verify, monkeypatch):
    monkeypatch.setenv("KZOO_JOBS", "1")
    table = verify.root / RESULTS / "train.json"
    data = json.loads(table.read_text())
    for row in data["runs"]:
        row["epochs"] = [0.9 if row["arm"] == "paper" else 0.1] * 4
    table.write_text(json.dumps(data))
    done = verify.command("run", verify.root / "pipelines/dpiat", "--stage", "evaluate")
    assert done[0] == 0, done
    code, found, _ = verify()
    assert (code, found["failures"]) == (0, []), "nothing here can tell"
    code, found, said = verify("--rerun")
    assert code == 1 and "train.json: " in said and ".epochs.0 is " in said
    assert any(
        failure.startswith("metrics.json: claims.letters-after-4-epochs.value is ") for failure in found["failures"]
    )


@pytest.mark.parametrize("name", ["/etc/hostname", "../../../../../../etc/hostname", "x" * 5000, "a\0b"])
def test_a_file_outside_the_results_is_not_read(verify, name):
    table = verify.root / RESULTS / "card.json"
    table.write_text(json.dumps({"published": {"weights": name, "sha256": "0" * 64}}))
    code, found, said = verify()
    assert code == 1 and "card.json names the file" in said
    assert found["files"]["checked"] == 4


@pytest.mark.parametrize(
    ("table", "content"),
    [
        ("metrics.json", "[]"),
        ("metrics.json", "{}"),
        ("metrics.json", '{"paper": "dpiat", "profile": "tiny"}'),
        ("train.json", "[]"),
        ("train.json", '{"runs": []}'),
        ("train.json", "[" * 100_000),
        ("match.json", "{}"),
        ("sweep.json", '{"runs": NaN}'),
    ],
)
def test_damaged_tables_are_told_in_one_sentence(verify, table, content):
    (verify.root / RESULTS / table).write_text(content)
    code, found, said = verify()
    assert (code, found, said.count("\n")) == (2, None, 1)
    assert said.startswith("Error: ") and f"{verify.root}/{RESULTS}" in said


def test_on_another_class_of_machine_accuracies_are_compared(verify, monkeypatch):
    monkeypatch.setenv("KZOO_JOBS", "1")
    table = verify.root / RESULTS / "train.json"
    data = json.loads(table.read_text())
    data["environment"]["instructions"] = "AVX2"
    for row in data["runs"]:
        row["sha256"] = "0" * 64
        if row["arm"] == "random":
            row["epochs"][-1] += 0.02
    table.write_text(json.dumps(data))
    monkeypatch.setattr("kzoo.studies.verifying._check_metrics", lambda *_: None)
    code, found, _ = verify("--rerun")
    assert found["rerun"] == "another class of machine: accuracies compared within 0.03, and verdicts"
    # Weights that were kept are still those of the run.
    assert [failure for failure in found["failures"] if "sha256" not in failure] == []
    for row in data["runs"]:
        if row["arm"] == "random":
            row["epochs"][-1] += 0.02
    table.write_text(json.dumps(data))
    code, found, _ = verify("--rerun")
    assert code == 1
    assert [f for f in found["failures"] if "the arm random has the mean accuracy" in f]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "metric: ratio\n",
            "metric: raito\n",
            "metric: 'raito' is no metric of the study: expected one of ratio, ratio at every rate",
        ),
        ("    unit: ratio\n", "", "unit: is missing"),
        ("threshold: 1.6", "treshold: 1.6", "treshold: is no field of a paper's claims; nearest: threshold"),
    ],
)
def test_faults_of_the_claims_name_file_line_and_field(verify, old, new, expected):
    change_claim(verify.root, it=(old, new))
    code, found, said = verify()
    assert (code, found) == (2, None)
    assert f"{verify.root}/pipelines/dpiat/claims.yaml:" in said and f"claims.2.{expected}" in said


def test_results_of_another_profile_or_none_are_told(verify):
    params = verify.root / "pipelines/dpiat/params.yaml"
    params.write_text(params.read_text().replace("profile: tiny", "profile: default", 1))
    code, _, said = verify()
    assert (code, "are of the profile 'tiny', but params.yaml names default" in said) == (2, True)
    shutil.rmtree(verify.root / RESULTS)
    code, _, said = verify()
    assert (code, "sources.json is not there: run the study" in said) == (2, True)


def test_a_paper_that_is_not_there_is_told_with_the_nearest(command, verify):
    code, _, said = command("claims", "verify", "dpait", "--root", verify.root)
    assert (code, "nearest: dpiat" in said) == (2, True)

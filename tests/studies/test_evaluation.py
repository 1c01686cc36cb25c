"""The metrics of the DPIAT study, on tables whose numbers are chosen so that the result is known by hand."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from kzoo.errors import InputError
from kzoo.studies import evaluating
from kzoo.studies.params import read_study
from kzoo.studies.running import run_stages

ROOT = Path(__file__).parents[2]
#: Accuracy after the last epoch by arm, for each pair: (source, target, group, symmetric, directed), two seeds alike.
PAIRS = {
    ("a", "t", "depth", 0.9, 1.0): {"paper": 0.8, "random_matching": 0.1},
    ("b", "t", "width", 0.6, 0.5): {"paper": 0.4, "random_matching": 0.2},
    ("c", "u", "depth", 0.8, 0.7): {"paper": 0.6, "random_matching": 0.1},
    ("c", "t", "width", 0.2, 0.3): {"paper": 0.1, "random_matching": 0.2},
}
RANDOM = {"t": 0.2, "u": 0.1}
#: Ratios of paper to random: 4, 2, 6, .5.


def row(names, seed, accuracy):
    name = "--".join(map(str, (*names.values(), seed)))
    return names | {"seed": seed, "name": name, "sha256": name, "epochs": [0.05, accuracy], "diverged": None}


@pytest.fixture
def study(tmp_path):
    """A folder with tables, and a function that evaluates one claim on them."""
    shutil.copy(ROOT / "pipelines/dpiat/claims.yaml", tmp_path / "claims.yaml")
    groups = {"depth": [], "width": []}
    for source, target, group, *_ in PAIRS:
        groups[group].append([source, target])
    profile = {
        "data": {"task": "digits"},
        "source_training": {"epochs": 1},
        "networks": {name: {"model": f"small:{name}", "trained": 0} for name in "abctu"},
        "pairs": groups,
        "arms": {
            "paper": {"method": "dpiat"},
            "random_matching": {"method": "dpiat"},
            "random": {"method": "random"},
        },
        "seeds": [1, 2],
        "training": {"epochs": 2},
        "sweep": {"rates": [0.1, 0.2], "seeds": [5], "arms": ["random", "paper"]},
        "keep": ["paper"],
        "publish": {"source": "a", "target": "t", "arm": "paper"},
    }
    params = {"kzoo_study": "dpiat", "profile": "default", "tolerance": 0.1, "profiles": {"default": profile}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    out = tmp_path / "out"
    out.mkdir()
    matched, transfers, runs, sweep = [], [], [], []
    for (source, target, group, symmetric, directed), accuracies in PAIRS.items():
        names = {"source": source, "target": target}
        matched.append(names | {"group": group, "symmetric": symmetric, "directed": directed})
        for arm, accuracy in accuracies.items():
            transfers.append(names | {"arm": arm, "overwritten": 0.5})
            runs += [row(names | {"arm": arm}, seed, accuracy) for seed in (1, 2)]
        # At the second rate the transfer is half as far ahead.
        for rate, factor in ((0.1, 1.0), (0.2, 0.5)):
            sweep.append(
                names | {"arm": "paper", "seed": 5, "lr": rate, "epochs": [0.05, accuracies["paper"] * factor]}
            )
    for target, accuracy in RANDOM.items():
        names = {"source": None, "target": target, "arm": "random"}
        runs += [row(names, seed, accuracy) for seed in (1, 2)]
        sweep += [names | {"seed": 5, "lr": rate, "epochs": [0.05, accuracy]} for rate in (0.1, 0.2)]
    tables = {
        "sources": {"data": {"classes": 26}},
        "match": {"pairs": matched},
        "transfer": {"transfers": transfers},
        "sweep": {"rates": {"t": 0.1, "u": 0.1}, "runs": sweep},
        "train": {"environment": {"device": "cpu"}, "profile": "default", "runs": runs},
    }
    for name, table in tables.items():
        (out / f"{name}.json").write_text(json.dumps(table))

    def evaluate(metric, of, unit="ratio"):
        claim = {
            "id": "one", "statement": "It holds.", "where": "here", "setting": "scaled", "profiles": ["default"],
            "metric": metric, "of": of, "comparison": "above", "threshold": 1, "unit": unit, "seeds": 2,
        }  # fmt: skip
        claims = {"paper": "P", "title": "T", "link": "https://example.org", "known": "All.", "claims": [claim]}
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(claims))
        found = read_study(tmp_path)
        run_stages(found, [found.stage("evaluate")])
        return json.loads((out / evaluating.TABLE).read_text())["claims"]["one"]

    return evaluate


def test_the_mean_ratio_over_pairs(study):
    found = study("ratio", {"arm": "paper", "epoch": 2})
    assert found["value"] == pytest.approx((4 + 2 + 6 + 0.5) / 4)
    assert 0.5 <= found["low"] < found["value"] < found["high"] <= 6
    assert found["counts"] == {"pairs": 4, "seeds": 2}
    assert found["file"].endswith("/out/train.json")
    assert study("ratio", {"arm": "paper", "epoch": 1})["value"] == pytest.approx(1.0)


def test_the_ratio_to_another_arm(study):
    found = study("ratio", {"arm": "paper", "against": "random_matching", "epoch": 2})
    assert found["value"] == pytest.approx((8 + 2 + 6 + 0.5) / 4)


def test_the_ratio_over_some_pairs(study):
    assert study("ratio", {"arm": "paper", "epoch": 2, "groups": ["depth"]})["value"] == pytest.approx(5.0)
    assert study("ratio", {"arm": "paper", "epoch": 2, "most_directed": 0.5})["value"] == pytest.approx(1.25)
    # The second pair has exactly the directed similarity that is asked for.
    found = study("ratio", {"arm": "paper", "epoch": 2, "most_directed": 0.3})
    assert (found["value"], found["low"], found["counts"]["pairs"]) == (pytest.approx(0.5), None, 1)


def test_the_smallest_ratio_over_rates(study):
    # At the second rate all ratios are half of those at the first; there is one seed, so pairs alone are drawn anew.
    found = study("ratio at every rate", {"arm": "paper", "epoch": 2})
    assert found["value"] == pytest.approx((4 + 2 + 6 + 0.5) / 4 / 2)
    assert 0.25 <= found["low"] < found["high"] <= 3
    assert found["counts"] == {"pairs": 4, "seeds": 1, "rates": 2}
    assert found["file"].endswith("/out/sweep.json")


def test_the_correlation_of_similarity_and_ratio(study):
    # Similarities .9, .6, .8, .2 have the ranks 4, 2, 3, 1, the ratios 4, 2, 6, .5 the ranks 3, 2, 4, 1: 1 - 6 * 2 / 60.
    of = {"arm": "paper", "epoch": 2, "measure": "symmetric", "kind": "spearman"}
    found = study("correlation", of, "correlation")
    assert found["value"] == pytest.approx(0.8)
    assert -1 <= found["low"] < found["high"] <= 1
    # Products of the distances from the means .625 and 3.125.
    pearson = 1.8875 / math.sqrt(0.2875 * 17.1875)
    assert study("correlation", of | {"kind": "pearson"}, "correlation")["value"] == pytest.approx(pearson, abs=1e-6)


def test_the_ratio_of_two_groups(study):
    found = study("ratio of groups", {"arm": "paper", "epoch": 2, "first": "depth", "second": "width"})
    assert found["value"] == pytest.approx(5.0 / 1.25)
    assert math.isfinite(found["low"]) and found["low"] < found["high"]


def test_an_arm_of_some_groups_is_compared_on_these_only(study, tmp_path):
    params = tmp_path / "params.yaml"
    data = yaml.safe_load(params.read_text())
    data["profiles"]["default"]["arms"]["random_matching"]["groups"] = ["depth"]
    params.write_text(yaml.safe_dump(data, sort_keys=False))
    found = study("ratio", {"arm": "paper", "against": "random_matching", "epoch": 2})
    assert (found["value"], found["counts"]["pairs"]) == (pytest.approx((8 + 6) / 2), 2)
    assert study("ratio", {"arm": "random_matching", "epoch": 2})["value"] == pytest.approx((0.5 + 1) / 2)
    told = json.loads((tmp_path / "out" / evaluating.TABLE).read_text())
    assert [row[-1] for row in told["tables"][0]["rows"]] == ["0.50 (50%)", "1.00 (50%)", "-", "-"]
    # A mean over other pairs could not be compared.
    assert [series["name"] for series in told["figures"][1]["series"]] == ["paper", "random"]
    data["profiles"]["default"]["arms"]["random_matching"]["groups"] = ["deep"]
    params.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(InputError, match="the arm random_matching names the group 'deep'"):
        read_study(tmp_path)


def change_runs(folder, change):
    path = folder / "out" / "train.json"
    data = json.loads(path.read_text())
    data["runs"] = [row for row in map(change, data["runs"]) if row is not None]
    path.write_text(json.dumps(data))


def test_pairs_on_which_two_arms_give_the_same_bytes_are_left_out_of_their_comparison(study, tmp_path):
    change_runs(tmp_path, lambda row: row | ({"sha256": f"same {row['seed']}"} if row["source"] == "a" else {}))
    found = study("ratio", {"arm": "paper", "against": "random_matching", "epoch": 2})
    assert (found["value"], found["counts"]["pairs"]) == (pytest.approx((2 + 6 + 0.5) / 3), 3)
    assert study("ratio", {"arm": "paper", "epoch": 2})["counts"]["pairs"] == 4


def test_a_run_that_diverged_counts_as_guessing_and_is_counted(study, tmp_path):
    gone = {"epochs": [], "diverged": 7, "sha256": None}
    change_runs(tmp_path, lambda row: row | (gone if (row["target"], row["arm"]) == ("u", "random") else {}))
    found = study("ratio", {"arm": "paper", "epoch": 2})
    assert found["value"] == pytest.approx((4 + 2 + 0.6 * 26 + 0.5) / 4)
    assert found["counts"] == {"pairs": 4, "seeds": 2, "diverged runs": 2}


@pytest.mark.parametrize(
    "change",
    [
        lambda row: None if (row["arm"], row["seed"]) == ("paper", 2) and row["source"] == "a" else row,
        lambda row: row | {"seed": 3} if row["seed"] == 2 else row,
        lambda row: row | {"epochs": [0.5]},
        lambda row: row | {"epochs": [0.5, "0.5"]},
        lambda row: row | {"epochs": [0.5, 50.0]},
        lambda row: {key: value for key, value in row.items() if key != "epochs"},
        lambda row: None,
    ],
)
def test_tables_that_are_not_those_of_the_profile_are_refused(study, tmp_path, change):
    change_runs(tmp_path, change)
    with pytest.raises(InputError, match=r"are not those of the profile default .*: run the stages before"):
        study("ratio", {"arm": "paper", "epoch": 2})


def test_one_seed_gives_an_interval_over_pairs_alone(study, tmp_path):
    params = tmp_path / "params.yaml"
    data = yaml.safe_load(params.read_text())
    data["profiles"]["default"]["seeds"] = [1]
    params.write_text(yaml.safe_dump(data, sort_keys=False))
    change_runs(tmp_path, lambda row: row if row["seed"] == 1 else None)
    found = study("ratio", {"arm": "paper", "epoch": 2})
    assert found["value"] == pytest.approx((4 + 2 + 6 + 0.5) / 4)
    assert 0.5 <= found["low"] < found["value"] < found["high"] <= 6


@pytest.mark.parametrize(
    ("metric", "of", "expected"),
    [
        ("ratio", {"arm": "random", "epoch": 2}, "compares the arm random with itself"),
        ("ratio", {"arm": "paper", "epoch": 2, "groups": ["deep", "depth"]}, "names the group 'deep'"),
        ("ratio", {"arm": "papre", "epoch": 2}, "names the arm 'papre', but the profile has paper, random_matching"),
        ("ratio", {"arm": "paper", "epoch": 50}, "asks for epoch 50, but the profile trains for 2"),
        ("ratio", {"arm": "paper", "epoch": 2, "most_directed": 0.1}, "pairs that the profile does not have"),
        ("ratio at every rate", {"arm": "random_matching", "epoch": 2}, "add it to sweep.arms"),
        ("ratio of groups", {"arm": "paper", "epoch": 2, "first": "deep", "second": "width"}, "names the group 'deep'"),
    ],
)
def test_claims_that_the_profile_cannot_answer_are_refused(study, metric, of, expected):
    with pytest.raises(InputError, match="claim one") as error:
        study(metric, of)
    assert expected in str(error.value)

"""Which stage needs which, read from the files of DVC; which is started next."""

import json
from pathlib import Path

import pytest
import yaml

from kzoo.errors import InputError
from kzoo.repro.project import open_project
from kzoo.repro.schedule import Schedule, State
from kzoo.repro.stage_graph import chains, in_order, stage_graph
from kzoo.studies.params import read_study
from kzoo.studies.wiring import studies

ROOT = Path(__file__).parents[2]


def stage(*deps, outs=(), **fields):
    return {"cmd": "true", "deps": list(deps), "outs": list(outs)} | fields


def two_papers():
    return {
        "": {
            "stages": {
                "report": stage("pipelines/a/out/m.json", "pipelines/b/out", outs=[{"report.md": {"cache": False}}]),
                "index": stage("registry", outs=[{"registry.npz": {"cache": False}}]),
            }
        },
        "pipelines/a": {
            "stages": {
                "train": stage("../../registry.npz", outs=["out/models"]),
                "test": stage("out/models/first", "../../code.py", outs=[{"out/m.json": {"cache": False}}]),
            }
        },
        "pipelines/b": {"stages": {"train": stage(outs=["out/models"]), "look": stage("a.txt", outs=["out/seen"])}},
    }


A, B = "pipelines/a/dvc.yaml:", "pipelines/b/dvc.yaml:"


def test_a_stage_needs_what_writes_its_inputs_in_its_own_file_and_in_others():
    graph = stage_graph(two_papers())
    assert dict(graph.before) == {
        "index": (),
        f"{A}train": ("index",),
        f"{A}test": (f"{A}train",),  # a file inside an output
        f"{B}train": (),
        f"{B}look": (),
        "report": (f"{A}test", f"{B}train", f"{B}look"),  # a folder that holds outputs
    }
    assert graph.after["index"] == (f"{A}train",) and graph.after["report"] == ()
    assert list(graph.stages) == ["index", f"{A}train", f"{A}test", f"{B}train", f"{B}look", "report"]
    assert in_order(graph)[-1] == "report" and sorted(in_order(graph)) == sorted(graph.stages)


def test_papers_come_with_what_they_need_and_without_the_rest():
    graph = stage_graph(two_papers())
    assert graph.papers == ["a", "b"]
    assert graph.of_papers(["a"]) == ["index", f"{A}train", f"{A}test"]
    assert graph.of_papers(["b"]) == [f"{B}train", f"{B}look"]
    assert graph.of_papers([]) == list(graph.stages)
    with pytest.raises(InputError, match=r"'aa' is no paper.*nearest: a, b"):
        graph.of_papers(["b", "aa"])


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"": {"stages": {"x": stage("b", outs=["a"]), "y": stage("a", outs=["b"])}}}, "circle.*: x, y"),
        ({"": {"stages": {"x": stage(outs=["a"]), "y": stage(outs=["./a"])}}}, "a is written by x and by y"),
        ({"": {"stages": {"x": {"foreach": [1], "do": {"cmd": "true"}}}}}, "'x' has no cmd of its own"),
        ({"p": {"stages": ["x"]}}, r"p/dvc.yaml: expected stages"),
        ({"p": None}, r"p/dvc.yaml: expected stages"),
        ({"p": {"stages": {"x": stage(1)}}}, "'x': 1 is no path"),
        ({"p": {"stages": {"x": {"cmd": "true", "deps": "a"}}}}, "expected lists of paths"),
    ],
)
def test_what_is_no_graph_of_stages_is_told(files, sentence):
    with pytest.raises(InputError, match=sentence):
        stage_graph(files)


def test_another_folder_to_work_in_metrics_and_files_of_parameters_count():
    x = stage(wdir="sub", outs=["a"]) | {"metrics": [{"m.json": {"cache": False}}]}
    stages = {"x": x, "y": stage("sub/m.json"), "z": stage() | {"params": ["profile", {"sub/a": None}]}}
    before = stage_graph({"": {"stages": stages}}).before
    assert before == {"x": (), "y": ("x",), "z": ("x",)}


def test_the_longest_chain_is_begun_first():
    graph = stage_graph(two_papers())
    seconds = {f"{A}train": 1.0, f"{A}test": 1.0, f"{B}train": 30.0, f"{B}look": 2.0, "report": 1.0, "index": 1.0}
    assert chains(graph, seconds)["index"] == 4.0 and chains(graph, {})["index"] == 4.0
    assert chains(graph, {"index": 5.0})["report"] == 5.0  # as long as the others usually are
    assert Schedule(graph, graph.stages, seconds).next() == f"{B}train"
    assert Schedule(graph, graph.stages, {}).next() == "index"


def test_what_needs_a_failed_stage_is_left_out_and_nothing_else_is():
    graph = stage_graph(two_papers())
    schedule = Schedule(graph, graph.stages, {})
    begun = []
    while (target := schedule.next()) is not None:
        begun.append(target)
        schedule.start(target)
        (schedule.fail if target == f"{A}train" else schedule.finish)(target)
    assert begun == ["index", f"{A}train", f"{B}train", f"{B}look"]
    assert schedule.of(State.FAILED) == [f"{A}train"]
    assert schedule.of(State.LEFT_OUT) == [f"{A}test", "report"]
    assert schedule.of(State.DONE) == ["index", f"{B}train", f"{B}look"]


def test_a_stage_waits_for_those_under_way():
    graph = stage_graph(two_papers())
    schedule = Schedule(graph, graph.of_papers(["a"]), {})
    schedule.start(schedule.next())
    assert schedule.next() is None


def test_the_graph_of_this_repository_is_that_of_its_studies():
    graph = open_project(ROOT / "kzoo").graph
    assert graph.papers == ["amalgamation", "dils", "dpiat", "fusion", "net2net", "zoo"]
    for folder in studies(ROOT):
        for known in read_study(folder).stages:
            target = f"pipelines/{folder.name}/dvc.yaml:{known.name}"
            own = {other.rpartition(":")[2] for other in graph.before[target] if ":" in other}
            writers = {
                other.name for other in read_study(folder).stages if set(known.inputs) & {*other.tables, *other.cached}
            }
            assert own == writers, target
            assert ("index" in graph.before[target]) == known.networks, target
    assert len(graph.before["report"]) == 11, "evaluate and card of five papers, evaluate of the zoo"
    assert graph.after["report"] == ()


def test_what_is_no_project_is_told(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="lies in no DVC repository"):
        open_project(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        open_project(tmp_path / "missing")
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(InputError, match=r"has no dvc.yaml"):
        open_project(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages:\n  x: [\n")
    with pytest.raises(InputError, match=r"dvc.yaml:3: this is not YAML"):
        open_project(tmp_path)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"x": stage()}}))
    monkeypatch.setattr("shutil.which", lambda *_arguments, **_options: None)
    with pytest.raises(InputError, match=r"dvc is not installed: pip install"):
        open_project(tmp_path)


def test_times_of_stages_are_kept_and_damage_to_them_is_no_fault(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"x": stage(), "y": stage()}}))
    project = open_project(tmp_path)
    assert project.seconds() == {}
    project.keep_seconds({"x": 2.5})
    project.keep_seconds({"y": 1.0})
    assert project.seconds() == {"x": 2.5, "y": 1.0}
    file = project.own / "seconds.json"
    file.write_text(json.dumps({"x": 3.0, "gone": 1.0}))
    assert project.seconds() == {"x": 3.0}
    for damaged in ("[", "[1]", '{"x": "long"}'):
        file.write_text(damaged)
        assert project.seconds() == {}

"""What models were made from, across repositories of the tests' Hub."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from kzoo.plots.tree import Node, tree_mermaid, tree_svg, tree_text

SHA = "0" * 64


def recipe(*sources: tuple[str, str], method: str = "dpiat") -> str:
    named = [{"path": path, "sha256": sha256} for path, sha256 in sources]
    return yaml.safe_dump({"sources": named, "target": {"model": "timm:resnet18"}, "method": method})


@pytest.fixture
def family(world):
    """Two parents, one of them made from a third, in a child with both; the child's commit and its parents'."""
    old = world.add_repo("tester/old", {"model.safetensors": b"old"}, tags=["license:mit"])
    source = (f"hf:tester/old@{old}", world.head("tester/old").files["model.safetensors"].sha256)
    files = {"model.safetensors": b"left", "recipe.yaml": recipe(source)}
    left = world.add_repo("tester/left", files)
    right = world.add_repo("tester/right", {"model.safetensors": b"right"})
    sums = {name: world.head(f"tester/{name}").files["model.safetensors"].sha256 for name in ("left", "right")}
    sources = [(f"hf:tester/{name}@{commit}", sums[name]) for name, commit in (("left", left), ("right", right))]
    child = world.add_repo(
        "tester/child", {"model.safetensors": b"x", "recipe.yaml": recipe(*sources, method="weight_sum")}
    )
    return {"old": old, "left": left, "right": right, "child": child}


def test_every_parent_stands_at_its_commit(world, family, command, tmp_path):
    code, out, said = command("lineage", "tester/child", "--json")
    assert code == 0, said
    told = json.loads(out)
    assert (told["model"], told["commit"], told["method"], told["problem"]) == (
        "tester/child",
        family["child"],
        "weight_sum",
        None,
    )
    left, right = told["parents"]
    assert (left["model"], left["commit"], left["method"]) == ("tester/left", family["left"], "dpiat")
    assert (right["model"], right["commit"], right["parents"]) == ("tester/right", family["right"], [])
    (old,) = left["parents"]
    assert (old["model"], old["commit"], old["license"], old["problem"]) == ("tester/old", family["old"], "mit", None)
    # Later commits change nothing of what was made before.
    world.commit("tester/left", {"model.safetensors": b"another", "recipe.yaml": recipe()})
    assert json.loads(command("lineage", "tester/child", "--json")[1]) == told
    code, out, _ = command("lineage", "hf:tester/child")
    lines = out.splitlines()
    assert [line.split(" @ ")[0] for line in lines] == [
        "tester/child", "├─ tester/left", "│  └─ tester/old", "└─ tester/right",
    ]  # fmt: skip
    code, out, _ = command("lineage", f"tester/child@{family['child']}", "--mermaid")
    assert out.startswith("flowchart LR\n") and out.count(" --> ") == 3
    code, _, said = command("lineage", "tester/child", "--svg", tmp_path / "tree.svg")
    assert (code, "wrote" in said) == (0, True)
    texts = [each.text for each in ElementTree.parse(tmp_path / "tree.svg").iter() if each.tag.endswith("}text")]
    assert f"tester/old @ {family['old'][:12]}" in texts


def test_broken_pins_are_flagged(world, family, command):
    world.delete("tester/right")
    world.commit("tester/left", {"model.safetensors": b"forged"})
    code, out, said = command("lineage", "tester/child", "--json")
    left, right = json.loads(out)["parents"]
    assert (code, left["problem"]) == (0, None), "its commit is still there"
    assert right["problem"].startswith("broken pin: ") and "is not on the Hub" in right["problem"]
    assert "1 of them has a problem" in said
    forged = world.head("tester/left").oid
    world.commit(
        "tester/child", {"recipe.yaml": recipe((f"hf:tester/left@{forged}", SHA), ("weights.safetensors", SHA))}
    )
    left, file = json.loads(command("lineage", "tester/child", "--json")[1])["parents"]
    assert left["problem"].startswith("broken pin: its weights have the sha256 ")
    assert (file["model"], "is not published" in file["problem"]) == ("weights.safetensors", True)


def test_cards_of_others_tell_what_they_can(world, command):
    world.add_repo("a/base", {"model.safetensors": b"x"})
    card = "---\nbase_model: [a/base, a/gone, 'not a name']\nlicense: mit\n---\n# Hello\n"
    world.add_repo("a/tuned", {"model.safetensors": b"y", "README.md": card})
    told = json.loads(command("lineage", "a/tuned", "--json")[1])
    assert [one["model"] for one in told["parents"]] == ["a/base", "a/gone", "'not a name'"]
    problems = [one["problem"] for one in told["parents"]]
    assert problems[0] == "no commit is named, so it may be another network by now"
    assert "is not on the Hub" in problems[1] and problems[2] == "it is no name of a repository"


def test_circles_and_endless_lines_end(world, command):
    world.add_repo("a/x", {"README.md": "---\nbase_model: a/y\n---\n"})
    world.add_repo("a/y", {"README.md": "---\nbase_model: a/x\n---\n"})
    told = json.loads(command("lineage", "a/x", "--json")[1])
    assert told["parents"][0]["parents"][0]["problem"] == "it comes from itself"
    for number in range(25):
        world.add_repo(f"a/n{number}", {"README.md": f"---\nbase_model: a/n{number + 1}\n---\n"})
    code, out, _ = command("lineage", "a/n0")
    assert code == 0 and len(out.splitlines()) == 21 and "the tree is too large" in out
    many = "---\nbase_model: [" + ", ".join(["a/x"] * 2000) + "]\n---\n"
    world.add_repo("a/many", {"README.md": many})
    code, out, _ = command("lineage", "a/many")
    assert code == 0 and "the tree is too large" in out


@pytest.mark.parametrize(
    "card", ["---\nbase_model: !!python/object/apply:os.getcwd []\n---\n", "---\n[\n---\n", "no", "---\n"]
)
def test_cards_that_are_none_tell_nothing(world, command, card):
    world.add_repo("a/odd", {"README.md": card, "recipe.yaml": "[" * 99} if card == "no" else {"README.md": card})
    code, out, said = command("lineage", "a/odd", "--json")
    assert (code, json.loads(out)["parents"]) == (0, []), said


def test_a_folder_and_what_is_none(world, made, command, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    told = json.loads(command("lineage", tmp_path / "copy", "--json")[1])
    (parent,) = told["parents"]
    assert (parent["model"], parent["license"], parent["problem"]) == ("local:glyphs-resnet-2x8", "apache-2.0", None)
    code, _, said = command("lineage", tmp_path)
    assert (code, "holds no recipe.yaml" in said) == (2, True)
    assert command("lineage", "a/nothing")[0] == 2


HOSTILE = '"]; click n0 "javascript:alert(1)" <script>alert(1)</script> & `x` \n end\x1b[31m'


def test_names_of_strangers_stay_text_in_every_form():
    tree = Node(HOSTILE, HOSTILE, HOSTILE, (Node("parent"),))
    text = tree_text(tree)
    assert "\x1b" not in text and len(text.splitlines()) == 2
    mermaid = tree_mermaid(tree)
    assert len(mermaid.splitlines()) == 6
    assert not set('<>`&"') & set(mermaid.replace('["', "").replace('"]', "").replace("<br/>", "").replace("-->", ""))
    svg = tree_svg(tree, HOSTILE)
    assert "<script" not in svg and "\x1b" not in svg
    root = ElementTree.fromstring(svg)
    assert {each.tag.rpartition("}")[2] for each in root.iter()} == {
        "svg",
        "title",
        "style",
        "rect",
        "path",
        "g",
        "text",
    }


def test_the_same_script_by_its_other_name():
    """hf looks for a script named hf-kzoo when somebody types hf kzoo."""
    from importlib.metadata import entry_points

    scripts = {point.name: point.value for point in entry_points(group="console_scripts") if "kzoo" in point.name}
    assert scripts == {"kzoo": "kzoo.cli.main:main", "hf-kzoo": "kzoo.cli.main:main"}
    done = subprocess.run(
        [Path(sys.executable).with_name("hf-kzoo"), "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "kzoo" in done.stdout) == (0, True)

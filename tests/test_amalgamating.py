"""Amalgamating by command, by recipe and from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import kzoo
from kzoo.amalgamation_facade import _teacher
from kzoo.errors import InputError
from kzoo.facade import open_zoo
from kzoo.methods.amalgamation.parameters import CflParameters
from kzoo.methods.amalgamation.teachers import View
from kzoo.recipe import read_recipe
from kzoo.running import run_recipe
from kzoo.surroundings import Surroundings
from kzoo.training.tasks import Split, Task, make_task
from kzoo.zoo import load_zoo
from tests.amalgamation import digits, network

IMAGES = {"task": "digits", "train": 400, "test": 200, "size": 16, "channels": 1}
LEARN = ("--data", "digits", "--images", 400, "--image-size", 16, "--epochs", 2, "--lr", 0.005)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """A folder with two teachers of different families, ``low`` of the digits 0 to 4 and ``high`` of 5 to 9."""
    from kzoo.cli.main import run

    folder = tmp_path_factory.mktemp("teachers")
    recipes = (("low", "small:vgg-1x8", "01234", 6), ("high", "small:mobilenet-1x8", "56789", 7))
    with pytest.MonkeyPatch.context() as patch:
        for name, model, classes, epochs in recipes:
            recipe = {
                "target": {"model": model, "classes": 5, "in_chans": 1},
                "method": "random",
                "data": {**IMAGES, "classes": list(classes)},
                "training": {"epochs": epochs, "lr": 0.005, "batch_size": 32},
                "threads": 1,
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
            patch.setattr("sys.argv", ["kzoo", "run", str(folder / f"{name}.yaml"), "--out", str(folder / name)])
            assert run() == 0
    return folder


def sha(folder: Path) -> str:
    from kzoo.hashing import weights_sha256

    return weights_sha256([folder / "model.safetensors"])


def recipe(pair: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of a student of both, to be run in their folder."""
    sources = [
        {"path": name, "sha256": sha(pair / name), "classes": list(classes)}
        for name, classes in (("low", "01234"), ("high", "56789"))
    ]
    return {
        "sources": sources,
        "target": {"model": "small:resnet-1x8", "classes": 10, "in_chans": 1, "seed": 2},
        "method": "cfl",
        "data": IMAGES,
        "training": {"epochs": 2, "lr": 0.005},
        "threads": 1,
    } | changes


def ran(command: Any, pair: Path, out: Path, **changes: Any) -> tuple[int, str]:
    path = out.with_suffix(".yaml")
    given = recipe(pair, **changes)
    for source in given["sources"]:
        source["path"] = str(pair / source["path"])
    path.write_text(yaml.safe_dump(given))
    code, _, said = command("run", path, "--out", out)
    return code, said


def test_a_student_is_taught_by_command_and_its_recipe_makes_it_again(command, pair, tmp_path) -> None:
    arguments = ("fuse", pair / "low", pair / "high", "--method", "cfl", "--student", "small:resnet-1x8")
    code, said, notes = command(*arguments, *LEARN, "--out", tmp_path / "out")
    assert code == 0, notes
    assert "low: small:vgg-1x8, 5 classes." in said and "that only training needed" in said and "kzoo.load" in notes
    found = read_recipe(tmp_path / "out" / "recipe.yaml")
    # What they were trained on says what they know.
    assert [source.classes for source in found.sources] == [list("01234"), list("56789")]
    assert found.parameters["parts"] == "full" and found.data is not None and found.data.train == 400
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    fresh = network("small:resnet-1x8", 10).state_dict()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: one.shape for name, one in fresh.items()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label_names"] == list("0123456789")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    told = metrics["amalgamation"]
    assert told["joint"] == metrics["test"]["accuracy"] == metrics["training"]["epochs"][-1]["test_accuracy"]
    own = [json.loads((pair / name / "metrics.json").read_text())["test"]["accuracy"] for name in ("low", "high")]
    assert [one["teacher"] for one in told["tasks"]] == ["low", "high"]
    assert sum(one["images"] for one in told["tasks"]) == metrics["test"]["images"]
    # These are other test images of the same digits.
    assert [one["teacher_own"] for one in told["tasks"]] == pytest.approx(own, abs=0.06)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `high` | small:mobilenet-1x8 | 5: `5`, `6`, `7`, `8`, `9` |" in card
    assert "a reconstruction of arXiv 1906.10546" in card
    assert not (tmp_path / ".out.checkpoint").exists()
    assert command("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again")[0] == 0
    for name in ("model.safetensors", "metrics.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def without_labels(task: Task) -> Task:
    """The same images, with labels that name no class: whatever looked at one would fail."""
    count = len(task.train)
    return make_task(task.name, task.classes, Split(task.train.images, torch.full((count,), 10**6)), task.test)


@pytest.mark.parametrize("method", ["kd", "cfl"])
def test_a_data_set_without_labels_teaches_the_same_bytes(pair, tmp_path, method) -> None:
    from kzoo.recipe import Recipe

    given = Recipe.model_validate(recipe(pair, method=method))
    assert given.data is not None
    zoo = load_zoo()
    for name, change in (("labelled", lambda task: task), ("unlabelled", without_labels)):
        where = Surroundings(pair, lambda: zoo)
        where.drawn[given.data] = change(where.data(given.data))
        run_recipe(given, where, tmp_path / name)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("labelled", "unlabelled"))
    assert one == other


def test_a_student_may_begin_with_weights_and_a_teacher_may_take_other_images(command, pair, tmp_path) -> None:
    from kzoo.training.networks import small_network

    torch.manual_seed(5)
    begun = small_network("resnet-1x8", classes=3, channels=1)
    save_file(begun.state_dict(), tmp_path / "begun.safetensors")
    torch.manual_seed(6)
    # A transformer of 16 pixels, and images of 24.
    save_file(small_network("vit-2x32", classes=5, channels=1).state_dict(), tmp_path / "vit.safetensors")
    code, _, said = command(
        "fuse", pair / "low", tmp_path / "vit.safetensors", "--method", "kd", "--student", "small:resnet-1x8",
        "--start", tmp_path / "begun.safetensors", "--classes", "0,1,2,3,4", "--classes", "5,6,7,8,9",
        "--data", "digits", "--images", 64, "--image-size", 24, "--epochs", 1, "--lr", 1e-9, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2 and "--network" in said, said
    given = recipe(
        pair,
        method="kd",
        start={"path": str(tmp_path / "begun.safetensors"), "sha256": digest(tmp_path / "begun.safetensors")},
        data={**IMAGES, "train": 64, "size": 24},
        training={"epochs": 1, "lr": 1e-9},
    )
    given["sources"][1] = {
        "path": str(tmp_path / "vit.safetensors"),
        "sha256": digest(tmp_path / "vit.safetensors"),
        "classes": list("56789"),
        "network": "small:vit-2x32",
    }
    given["sources"][0]["path"] = str(pair / "low")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(given))
    code, _, said = command("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert code == 0, said
    out = load_file(tmp_path / "out" / "model.safetensors")
    torch.testing.assert_close(out["conv1.weight"], begun.state_dict()["conv1.weight"], rtol=0, atol=1e-6)
    assert out["fc.weight"].shape[0] == 10


def test_a_strangers_recipe_may_begin_a_student_but_not_name_code(pair) -> None:
    from kzoo.publish.trust import require_harmless
    from kzoo.recipe import Recipe

    known = {"path": f"hf:somebody/one@{'0' * 40}", "sha256": "1" * 64, "classes": list("01234")}
    other = {**known, "path": f"hf:somebody/two@{'0' * 40}", "classes": list("56789"), "network": "small:vit-2x32"}
    given = recipe(pair, sources=[known, other], start={"path": "local:digits-vit-2x32", "sha256": "2" * 64})
    require_harmless(Recipe.model_validate(given), "it")
    other["network"] = "py:their.module:factory"
    with pytest.raises(InputError, match=r"sources\.1\.network: 'py:their\.module:factory' names no network"):
        require_harmless(Recipe.model_validate(given), "it")


def digest(path: Path) -> str:
    from kzoo.hashing import weights_sha256

    return weights_sha256([path])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{low}",), "has 1 source: method cfl takes two teachers or more"),
        (("{low}", "{low}"), "twice"),
        (("{low}", "{high}", None), "name its network (--student"),
        (("{low}", "{high}", None, "--student", "timm:no_such_net"), "no_such_net"),
        (("{low}", "{high}", "--data", "glyphs"), "2 --data are given"),
        (
            ("{low}", "{high}", "--classes", "a,b,c,d,e", "--classes", "f,g,h,i,j"),
            "name the teachers' as the images' are",
        ),
        (("{low}", "{high}", "--classes", "0,1,2,3,4,5", "--classes", "6,7,8,9"), "has 5 outputs, and 6 classes"),
        (("{low}", "{high}", "--variant", "sum"), "--variant is for fusing without training"),
        (("{low}", "{high}", "-p", "mmd_wieght=3"), "mmd_wieght"),
        (("{low}", "{high}", "-p", "temperature=0"), "temperature"),
        (("{low}", "{high}", "-t", "epoch=3"), "is no training setting"),
        (("{low}", "{high}", "--method", "weight_sum"), "--student is for a student that learns"),
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_written(command, pair, tmp_path, arguments, message) -> None:
    filled = [text.format(low=pair / "low", high=pair / "high") for text in arguments if text is not None]
    filled += [] if "--method" in filled else ["--method", "cfl"]
    filled += [] if None in arguments else ["--student", "small:resnet-1x8"]
    code, _, said = command("fuse", *filled, *LEARN, "--out", tmp_path / "out")
    assert (code, said.count("Error: "), message in said, "Traceback" in said) == (2, 1, True, False), said
    assert not (tmp_path / "out").exists()


def test_a_teacher_with_weights_that_are_not_finite_is_named(command, pair, tmp_path) -> None:
    broken = load_file(pair / "high" / "model.safetensors")
    next(tensor for tensor in broken.values() if tensor.is_floating_point()).view(-1)[0] = float("nan")
    (tmp_path / "bad").mkdir()
    save_file(broken, tmp_path / "bad" / "model.safetensors")
    (tmp_path / "bad" / "config.json").write_text((pair / "high" / "config.json").read_text())
    arguments = ("--classes", "0,1,2,3,4", "--classes", "5,6,7,8,9", "--method", "kd", "--student", "small:mlp-1x16")
    code, _, said = command("fuse", pair / "low", tmp_path / "bad", *arguments, *LEARN, "--out", tmp_path / "out")
    assert (code, "bad" in said, "not finite" in said, "Traceback" in said) == (2, True, True, False), said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": None}, "the recipe has no training"),
        ({"data": None}, "the recipe has no data"),
        ({"target": {"model": "small:resnet-1x8", "classes": 12, "in_chans": 1}}, "the student has 12 classes"),
        ({"target": {"model": "small:resnet-1x8", "in_chans": 3}}, "the network does not take the images"),
        ({"data": {"task": "imagefolder:nowhere"}}, "is no folder"),
        ({"data": {**IMAGES, "classes": list("01234567")}}, "the class '8' is none of digits"),
    ],
)
def test_a_recipe_that_cannot_be_followed_says_why(command, pair, tmp_path, changes, message) -> None:
    given = {name: value for name, value in recipe(pair, **changes).items() if value is not None}
    for source in given["sources"]:
        source["path"] = str(pair / source["path"])
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(given))
    code, _, said = command("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert (code, message in said, "Traceback" in said) == (2, True, False), said


def test_from_python_with_modules_and_images_alone(pair) -> None:
    teachers = [kzoo.load(pair / "low"), pair / "high"]
    images = digits().train.images
    before = {name: tensor.clone() for name, tensor in teachers[0].state_dict().items()}
    student = kzoo.fuse(
        teachers, method="cfl", student="small:resnet-1x8", images=images, classes=["01234", "56789"],
        training={"epochs": 6, "lr": 5e-3, "threads": 1}, calibrate="scale",
    )  # fmt: skip
    told = kzoo.report(student)
    assert told.classes == tuple("0123456789") and [one.network for one in told.teachers][1] == "small:mobilenet-1x8"
    assert told.teachers[0].logit_scale * told.teachers[1].logit_scale == pytest.approx(1, rel=1e-6)
    from kzoo.training.evaluation import evaluate

    assert evaluate(student, digits().test)["accuracy"] > 0.6
    after = teachers[0].state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(value.requires_grad for value in teachers[0].parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": None}, "give student"),
        ({"images": None}, "give images"),
        ({"classes": None}, "classes of none"),
        ({"method": "average"}, "does not fuse"),
        ({"method": "weight_sum"}, "weight_sum trains nothing"),
        ({"training": {"epochs": 0}}, "training setting epochs"),
    ],
)
def test_from_python_what_is_missing_is_said(pair, changes, message) -> None:
    given = {
        "method": "kd", "student": "small:mlp-1x16", "images": digits().train.images, "classes": ["01234", "56789"],
        "training": {"epochs": 1},
    } | changes  # fmt: skip
    with pytest.raises(InputError, match=message):
        kzoo.fuse([pair / "low", pair / "high"], **given)


def test_a_folder_and_a_module_are_asked_with_the_levels_that_are_noted_of_them(tmp_path: Path) -> None:
    """A network of timm notes mean and deviation; one that kzoo trained was trained with kzoo's, and its folder says so."""
    recipe = {
        "kzoo_recipe": 1,
        "target": {"model": "timm:vit_tiny_patch16_224", "classes": 5, "in_chans": 3, "img_size": 32},
        "method": "random",
        "data": {"task": "digits", "train": 20, "test": 10, "size": 32, "channels": 3, "classes": list("01234")},
        "training": {"epochs": 1, "threads": 1},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run_recipe(read_recipe(tmp_path / "r.yaml"), Surroundings(tmp_path, open_zoo), tmp_path / "vit")
    example = digits().train.images[:2]
    loaded = kzoo.load(tmp_path / "vit")
    assert loaded.pretrained_cfg["mean"] == pytest.approx((0.485, 0.456, 0.406), abs=1e-6)
    by_path = _teacher(tmp_path / "vit", 1, list("01234"), example, None)[1]
    by_module = _teacher(loaded, 1, list("01234"), example, None)[1]
    assert by_path.view == View(3, (32, 32))
    assert by_module.view.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-6)
    assert torch.allclose(by_path.answer(example)[1], by_module.answer(example)[1], atol=1e-4)
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    (tmp_path / "vit" / "recipe.yaml").unlink()
    other = _teacher(tmp_path / "vit", 1, list("01234"), example, None)[1]
    assert other.view == View(3, (32, 32), (0.5,) * 3, (0.5,) * 3)
    assert not torch.allclose(by_path.answer(example)[1], other.answer(example)[1], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--check",), "--check compares networks that are to be fused entry by entry"),
        (("--evaluate", "digits"), "--evaluate is for fusing without training"),
        (("--joint-epochs", 3), "--joint-epochs is for fusing without training"),
        (("-t", "label_smoothing=0.1"), "label_smoothing has no meaning"),
        (("--classes", "0,1,2,3,4"), "takes one for each teacher"),
        (("-p", "sigmas=-1"), "parameter sigmas of method cfl"),
    ],
)
def test_options_that_would_say_nothing_are_refused(pair, tmp_path, command, options, message) -> None:
    given = ("--method", "cfl", "--student", "small:resnet-1x8", "--data", "digits", "--image-size", 16, "--epochs", 1)
    code, _, said = command("fuse", pair / "low", pair / "high", *given, *options, "--out", tmp_path / "out")
    assert (code, message in said, (tmp_path / "out").exists()) == (2, True, False), said


@pytest.mark.parametrize("text", ["0.2,1", "[0.2, 1]", "0.2, 1.0"])
def test_widths_are_given_as_people_write_them(text: str) -> None:
    from kzoo.cli.carrying import parameter

    name, value = parameter(f"sigmas={text}")
    assert CflParameters.model_validate({name: value}).sigmas == (0.2, 1.0)
    assert CflParameters.model_validate({name: 1}).sigmas == (1.0,)

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from scipy import stats

import kzoo
from kzoo.errors import InputError
from kzoo.facade import open_zoo
from kzoo.hashing import weights_sha256
from kzoo.hub.locks import Lock, LockedFile, Network, write_lock
from kzoo.methods.transfers import METHODS as TRANSFERS
from kzoo.paths import own_registry, registry_directory
from kzoo.publish import metadata
from kzoo.publish.card import card_text, checked_card
from kzoo.publish.facts import CardFacts, CardLicense, Images, Parent, Transferred, read_facts
from kzoo.publish.intervals import proportion
from kzoo.publish.page import Choice, card_license, chosen_license
from kzoo.publish.papers import METHODS
from kzoo.publish.picture import matching_picture
from kzoo.publish.rules import card_faults
from kzoo.publish.safe import code, image, line, link, prose
from kzoo.readers.safetensors import read_header
from tests.conftest import Command
from tests.hub.fixtures import Client
from tests.publish.folders import COMMIT, DATA, LEFT_OUT, SHA, TEST, TRAINING, front_matter, model_folder

LICENSE = CardLicense("apache-2.0", None, None, ("its source is under apache-2.0",), ("keep the notices",))
#: HTML as a hostile card would have it, tables and strikethrough as on the Hub.
RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "letters", test=TEST)


@pytest.fixture
def random_start(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "random", (), "random", TEST | {"accuracy": 294 / 1040})


def body(text: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)


def section(text: str, heading: str) -> str:
    return body(text).split(f"## {heading}\n")[1].split("\n## ")[0]


# What it says


def test_the_facts_of_a_folder(folder: Path, random_start: Path) -> None:
    facts = read_facts(folder, "tester/letters", LICENSE, [random_start], open_zoo)
    assert (facts.title, facts.network, facts.library) == ("letters", "small:resnet-1x12", "kzoo")
    assert facts.parameters == sum(p.numel() for p in kzoo.load(folder).parameters())
    assert (facts.classes, facts.method, facts.relation, facts.seed, facts.threads) == (26, "dpiat", "finetune", 0, 1)
    (parent,) = facts.parents
    assert (parent.name, parent.sha256, parent.license) == ("local:glyphs-resnet-2x12", SHA, "apache-2.0")
    assert parent.shipped and facts.obstacles == () and parent.repository is None
    assert facts.metrics is not None and facts.metrics.first == 0.25
    assert (facts.metrics.images, facts.metrics.accuracy.value) == (1040, 450 / 1040)
    (row,) = facts.baselines
    assert (row.method, row.remarks, row.metrics.accuracy.value) == ("random", (), 294 / 1040)
    assert [file.name for file in facts.files] == ["model.safetensors", "config.json", "recipe.yaml", "metrics.json"]


def test_the_share_is_that_of_learned_entries(folder: Path) -> None:
    found = read_facts(folder).transferred
    assert found is not None
    assert found.nothing == tuple(sorted(LEFT_OUT))
    shares = json.loads((folder / "config.json").read_text())["kzoo"]["transferred"]
    sizes = dict.fromkeys(shares, 1)
    for name, tensor in read_header(folder / "model.safetensors").items():
        for axis in tensor.shape if name in shares else ():
            sizes[name] *= axis
    assert found.share == pytest.approx(sum(shares[name] * sizes[name] for name in shares) / sum(sizes.values()))
    assert (found.whole, found.part) == (1, found.layers - 3)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (450, 1040), (1, 1), (7, 9_000)])
def test_the_interval_is_wilsons(hits: int, trials: int) -> None:
    found = proportion(hits, trials)
    known = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)
    assert found.low is not None and found.high is not None and found.low <= found.value <= found.high


def test_the_metadata(folder: Path) -> None:
    text = card_text(read_facts(folder, "tester/letters", LICENSE))
    assert front_matter(text) == {
        "datasets": ["glyphs-lower"],
        "library_name": "pytorch",
        "license": "apache-2.0",
        "metrics": ["accuracy"],
        "pipeline_tag": "image-classification",
        "tags": ["kzoo", "kzoo-dpiat"],
        "model-index": [
            {
                "name": "letters",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image Classification"},
                        "dataset": {
                            "name": "glyphs/lower",
                            "type": "glyphs-lower",
                            "split": "test",
                            "args": {"size": 16, "channels": 1, "seed": 0, "fingerprint": DATA, "images": 1040},
                        },
                        "metrics": [
                            metric("Accuracy", 0.432692, 0.402883, 0.462997),
                            metric("Top-5 accuracy", 0.800962, 0.775607, 0.824101) | {"config": "top-5"},
                            {"type": "loss", "value": 2.0845, "name": "Cross-entropy"},
                        ],
                        "source": {
                            "url": "https://huggingface.co/tester/letters/blob/main/recipe.yaml",
                            "name": "kzoo recipe.yaml",
                        },
                    }
                ],
            }
        ],
    }
    assert card_faults(text) == []


def metric(name: str, value: float, low: float, high: float) -> dict[str, Any]:
    args = {"low": low, "high": high, "confidence": 0.95, "method": "wilson"}
    return {"type": "accuracy", "value": value, "name": name, "args": args}


def test_parents_on_the_hub_are_named_with_their_revisions(tmp_path: Path) -> None:
    sources = (
        f"hf:timm/resnet18.a1_in1k@{COMMIT}",
        f"hf:user/two/best.safetensors@{COMMIT}",
        "../private/mine.safetensors",
    )
    text = card_text(read_facts(model_folder(tmp_path / "fused", sources, "weight_sum", TEST)))
    data = front_matter(text)
    assert data["base_model"] == ["timm/resnet18.a1_in1k", "user/two"]
    assert data["base_model_relation"] == "merge"
    assert "merge" in data["tags"]
    made = section(text, "How it was made")
    assert f"[`{COMMIT[:12]}`](https://huggingface.co/timm/resnet18.a1_in1k/tree/{COMMIT})" in made
    assert "https://doi.org/10.1007" not in made and "https://arxiv.org/abs/1809.09399" in made
    assert "reconstruction from the abstract" in made
    # Where a file lies on its maker's machine is nobody's business.
    assert "private" not in text
    assert "mine.safetensors' is a file of its maker's, which is not published" in section(text, "How to rebuild it")


@pytest.mark.parametrize(
    ("sources", "method", "relation", "parents"),
    [
        ((f"hf:a/b@{COMMIT}",), "dpiat", "finetune", ["a/b"]),
        (("hf:a/b@main",), "by_name", "finetune", ["a/b"]),
        (("timm/resnet18.a1_in1k",), "weight_selection", "finetune", ["timm/resnet18.a1_in1k"]),
        ((f"hf:a/b@{COMMIT}",), "net2wider", "finetune", ["a/b"]),
        ((f"hf:a/b@{COMMIT}", f"hf:a/c@{COMMIT}", f"hf:a/b@{COMMIT}"), "cfl", "merge", ["a/b", "a/c"]),
        (("local:glyphs-resnet-2x12",), "dpiat", None, None),
        ((f"hf:a/b@{COMMIT}",), "random", None, None),
        ((), "random", None, None),
    ],
)
def test_how_it_stands_to_its_parents(
    tmp_path: Path, sources: tuple[str, ...], method: str, relation: str | None, parents: list[str] | None
) -> None:
    data = front_matter(card_text(read_facts(model_folder(tmp_path / "x", sources, method))))
    assert (data.get("base_model_relation"), data.get("base_model")) == (relation, parents)


def test_results_stand_beside_other_starts(folder: Path, random_start: Path, tmp_path: Path) -> None:
    slower = model_folder(
        tmp_path / "slow", ("../x/other.safetensors",), "by_name", TEST, {"training": TRAINING | {"lr": 0.001}}
    )
    text = card_text(read_facts(folder, None, None, [random_start, slower], open_zoo))
    rows = [line for line in section(text, "Results").splitlines() if line.startswith("|")]
    assert rows == [
        "| start | after 1 epoch | epochs | accuracy | 95 % interval | what else differs |",
        "| --- | --- | --- | --- | --- | --- |",
        "| **DPIAT from `local:glyphs-resnet-2x12`** (this model) | 25.0 % | 6 | **43.3 %** | 40.3 to 46.3 % |  |",
        "| random | 25.0 % | 6 | 28.3 % | 25.6 to 31.1 % |  |",
        "| loading by name from `other.safetensors` | 25.0 % | 6 | 43.3 % | 40.3 to 46.3 % | lr 0.001 |",
    ]
    assert "from a random start, with the same training, 28.3 % (25.6 to 31.1 %)" in body(text).split("## ")[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": None}, "was never tested"),
        ({"recipe": {"data": {"task": "digits", "fingerprint": "b" * 64}, "training": TRAINING}}, "other images"),
        ({"test": TEST | {"images": 100, "accuracy": 0.5, "top5": 0.5}}, "was tested on other images"),
    ],
)
def test_what_does_not_compare_is_refused(folder: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    other = model_folder(tmp_path / "other", **({"test": TEST} | change))
    with pytest.raises(InputError, match=said):
        read_facts(folder, beside=[other])


def test_a_model_is_not_put_beside_itself(folder: Path) -> None:
    with pytest.raises(InputError, match="is the model itself"):
        read_facts(folder, beside=[folder / ".." / folder.name])


def test_an_untrained_start_says_so_and_has_no_empty_sections(tmp_path: Path) -> None:
    text = card_text(read_facts(model_folder(tmp_path / "start")))
    assert "model-index" not in front_matter(text) and "datasets" not in front_matter(text)
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "How it was made",
        "What was carried over, and what not",
        "Limits",
        "How to load it",
        "How to rebuild it",
        "Citation",
    ]
    assert all(section(text, heading).strip() for heading in headings)
    assert "It was neither trained since nor tested" in section(text, "Limits")
    carried = section(text, "What was carried over, and what not")
    assert re.search(r"1 got everything, 16 a part and 2 nothing: `fc`, `layer2\.0\.downsample\.1`\.", carried)
    assert "None" not in text and "\n\n\n" not in text


def test_a_random_start_has_no_parents_and_cites_nothing(random_start: Path) -> None:
    text = card_text(read_facts(random_start))
    assert "* **Start:** random weights." in text
    assert "Citation" not in text and "carried" not in text and "sources" not in text


def test_a_random_start_beside_a_source_says_that_nothing_came_from_it(tmp_path: Path) -> None:
    text = card_text(read_facts(model_folder(tmp_path / "x", ("../a/model.safetensors",), "random")))
    assert "* **Start:** random weights; the recipe names a source, but nothing of it was carried over.\n" in text
    assert f"| `model.safetensors` | - | `{SHA}` | not known |" in text
    assert "'model.safetensors' is a file of its maker's, which is not published" in text


def test_a_plan_of_ones_own_is_told(tmp_path: Path) -> None:
    plan = {"plan": {"path": "plan.json", "sha256": SHA}}
    facts = read_facts(model_folder(tmp_path / "x", recipe=plan))
    assert "is in `plan.json`" in card_text(facts)
    assert matching_picture(tmp_path / "x", facts, open_zoo) is None


@pytest.mark.parametrize("name", ["digits-vit-2x32", "glyphs-mobilenet-1x16", "digits-convnext-1x12", "digits-vgg-1x8"])
def test_every_kind_of_shipped_model_has_a_sound_card(name: str) -> None:
    text = card_text(read_facts(registry_directory() / "zoo" / name, f"tester/{name}", LICENSE, (), open_zoo))
    assert card_faults(text) == []
    assert "top-5" in text or "26 classes" not in text
    assert not re.search(r"[^\n]\n#|\n\n\n", text)


def test_the_classes_are_named_where_they_are_known(tmp_path: Path) -> None:
    labels = {"label_names": [f"class {number}" for number in range(33)]}
    text = card_text(read_facts(model_folder(tmp_path / "x", config=labels)))
    assert "`class 29` and 3 more." in section(text, "How to load it")


def test_a_lock_tells_the_license_of_a_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    files = (LockedFile(name="model.safetensors", size=1, sha256=SHA),)
    write_lock(
        own_registry(),
        Lock(
            name="a/b",
            repository="a/b",
            commit=COMMIT,
            license="cc-by-4.0",
            told={"license": "cc-by-4.0"},
            files=files,
            network=Network(tensors={"a": "F32 1"}),
        ),
    )
    sources = (f"hf:a/b@{COMMIT}", f"hf:a/b@{COMMIT[::-1]}")
    facts = read_facts(model_folder(tmp_path / "x", sources, "weight_sum"), zoo=open_zoo)
    assert [parent.license for parent in facts.parents] == ["cc-by-4.0", None]
    made = section(card_text(facts), "How it was made")
    known = read_facts(model_folder(tmp_path / "y", (f"hf:timm/resnet18.a1_in1k@{COMMIT}",)), zoo=open_zoo)
    assert known.parents[0].license == "apache-2.0"
    assert f"`{SHA}` | cc-by-4.0 |" in made and f"`{SHA}` | not known |" in made


def test_a_models_license_is_that_of_its_weights(tmp_path: Path) -> None:
    other = [{"path": "local:glyphs-resnet-2x12", "sha256": "1" * 64}]
    (parent,) = read_facts(model_folder(tmp_path / "x", recipe={"sources": other}), zoo=open_zoo).parents
    assert (parent.license, parent.shipped) == (None, False)


def test_a_license_of_ones_own(folder: Path) -> None:
    other = CardLicense("other", "House rules", "https://example.org/rules", permission="Ada allowed it on 1 May.")
    text = card_text(read_facts(folder, license=other))
    assert front_matter(text)["license_link"] == "https://example.org/rules"
    assert not re.search(r"[^\n]\n#|\n\n\n", text)
    assert "[House rules](https://example.org/rules)." in section(text, "License")
    assert "Ada allowed it on 1 May." in section(text, "License")


def test_a_card_that_the_hub_would_refuse_is_not_made(folder: Path) -> None:
    with pytest.raises(InputError, match="license_name is missing"):
        checked_card(read_facts(folder, license=CardLicense("other")))


def test_the_same_folder_gives_the_same_bytes(folder: Path, random_start: Path, tmp_path: Path) -> None:
    first = card_text(read_facts(folder, "a/b", LICENSE, [random_start], open_zoo))
    shutil.copytree(folder, tmp_path / "elsewhere" / "letters")
    assert first == card_text(read_facts(tmp_path / "elsewhere" / "letters", "a/b", LICENSE, [random_start], open_zoo))
    program = (
        "import sys; from pathlib import Path; from kzoo.facade import open_zoo; from kzoo.publish.card import card_text;"
        "from kzoo.publish.facts import CardLicense, read_facts;"
        "text = card_text(read_facts(Path(sys.argv[1]), 'a/b', CardLicense('apache-2.0', None, None, "
        "('its source is under apache-2.0',), ('keep the notices',)), [Path(sys.argv[2])], open_zoo));"
        "sys.stdout.write(text); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(random_start)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (first, "")


def test_the_python_of_a_card_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    text = card_text(read_facts(folder))
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    variables: dict[str, Any] = {"images": torch.zeros(2, 1, 16, 16, dtype=torch.uint8)}
    exec(program.replace('"FOLDER"', repr(str(folder))), variables)
    assert variables["scores"].shape == (2, 26)
    published = card_text(read_facts(folder, "tester/letters"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", {"tester/letters": str(folder)}.__getitem__)
    (program,) = re.findall(r"```python\n(.*?)```", published, re.DOTALL)
    exec(program, variables)


def test_timm_loads_its_own(folder: Path) -> None:
    facts = dataclasses.replace(read_facts(folder, "tester/letters"), library="timm", network="timm:resnet18")
    assert 'timm.create_model("hf-hub:tester/letters", pretrained=True)' in card_text(facts)
    assert front_matter(card_text(facts))["library_name"] == "timm"


def test_every_method_is_described() -> None:
    assert METHODS.keys() >= TRANSFERS.keys()
    for method in METHODS.values():
        assert method.paper is None or re.match(
            r"https://(arxiv\.org/abs/\d{4}\.\d{5}|doi\.org/10\.)", method.paper.link
        )
        assert method.paper is None or method.paper.bibtex.count("{") == method.paper.bibtex.count("}")


# The client and the Hub


def test_the_client_reads_the_card_back(folder: Path, random_start: Path) -> None:
    text = card_text(read_facts(folder, "tester/letters", LICENSE, [random_start], open_zoo))
    card = ModelCard(text)
    assert (card.data.license, card.data.model_name, card.data.pipeline_tag) == (
        "apache-2.0",
        "letters",
        "image-classification",
    )
    accuracy, top5, loss = card.data.eval_results or ()
    assert (accuracy.metric_value, accuracy.dataset_split, accuracy.task_type) == (
        0.432692,
        "test",
        "image-classification",
    )
    assert accuracy.source_url == "https://huggingface.co/tester/letters/blob/main/recipe.yaml"
    assert (top5.metric_config, loss.metric_type) == ("top-5", "loss")
    assert front_matter(str(card)) == front_matter(text)
    assert ModelCard(str(card)).text == card.text


def test_the_hub_takes_the_card(hub_client: Client, folder: Path) -> None:
    hub = hub_client("hf_write")
    hub.add_repo("tester/letters", {"README.md": card_text(read_facts(folder, "tester/letters", LICENSE))})
    ModelCard.load("tester/letters").validate()
    with pytest.raises(ValueError, match="must be a string"):
        ModelCard("---\nlicense: {a: b}\n---\n").validate()
    assert card_faults("---\nlicense: {a: b}\n---\n") != []


# The picture


def test_the_picture_shows_what_was_carried(folder: Path) -> None:
    facts = read_facts(folder, zoo=open_zoo)
    svg = matching_picture(folder, facts, open_zoo)
    assert svg is not None and svg == matching_picture(folder, facts, open_zoo)
    assert "local:glyphs-resnet-2x12 → small:resnet-1x12" in svg
    # The two layers that were left out are random in the picture too.
    assert facts.transferred is not None
    assert f"{facts.transferred.layers - 2} of {facts.transferred.layers} target layers matched, 2 random" in svg


def test_the_source_of_a_picture_may_be_a_file(tmp_path: Path, trained_file: Path) -> None:
    shipped = registry_directory() / "zoo" / "glyphs-resnet-2x12"
    for number, (source, sha256) in enumerate(
        ((shipped, SHA), (trained_file, weights_sha256([trained_file])), (shipped, "0" * 64))
    ):
        recipe = {"sources": [{"path": str(source), "sha256": sha256}]}
        folder = model_folder(tmp_path / f"x{number}", recipe=recipe)
        facts = read_facts(folder)
        svg = matching_picture(folder, facts, open_zoo)
        assert (svg is not None) == (number < 2)
        assert facts.parents[0].name == source.name
        assert svg is None or f"{source.name} → small:resnet-1x12" in svg


@pytest.mark.parametrize(
    ("sources", "method", "recipe"),
    [
        (("../gone.safetensors",), "dpiat", {}),
        ((f"hf:a/b@{COMMIT}",), "dpiat", {}),
        (("local:nobody",), "dpiat", {}),
        (("local:glyphs-resnet-2x12",), "by_name", {}),
        (("local:glyphs-resnet-2x12",), "dpiat", {"parameters": {"matching": "random"}}),
        ((), "random", {}),
    ],
)
def test_no_picture_without_matching_or_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: tuple[str, ...], method: str, recipe: dict[str, Any]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = model_folder(tmp_path / "x", sources, method, recipe=recipe)
    facts = read_facts(folder, zoo=open_zoo)
    assert matching_picture(folder, facts, open_zoo) is None
    assert "![" not in card_text(facts)


# Text from strangers

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><iframe src=javascript:alert(1)>',
    "[click](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "https://evil.example/a www.evil.example mail@evil.example",
    "a | b | c\n\n# Heading\n\n* item",
    "``` `` ` ```\n```sh\nrm -rf /\n```",
    "---\nlicense: mit\n---",
    "x: y\nbase_model: evil/model # &a *a !!python",
    "\u202egnp.exe\u200b\x00\x1b[31m\u2028\u0085next",
    "&lt;script&gt; &#60;b&#62; \\<b\\> $$x$$ \\\\(x\\\\)",
    "<!-- comment --> <details><summary>x",
    "[a]: https://evil.example 'title'\n[a][a] <https://evil.example>",
    "- - - 1. + x === \\",
    "a\u0300" + "\u0301" * 40 + "x" * 5000,
    "`code` **bold** _it_ ~~no~~ {{ 7*7 }} {% raw %}",
    "\ud800 lone",
    "",
]


def hostile(facts: CardFacts, text: str) -> CardFacts:
    """The facts with every string that can come from outside replaced."""
    parent = Parent(text, text, None, None, text, text, text)
    hub_parent = Parent(text, text, "user/parent", COMMIT, text, text, f"https://good.example/{text}")
    images = Images(text, text, text, 1, 1, 16, 1, 0, text)
    assert facts.training is not None and facts.transferred is not None
    return dataclasses.replace(
        facts,
        title=text,
        network=text,
        labels=(text,),
        method_parameters={text: text, "variant": text},
        parents=(parent, hub_parent),
        recalibration=images,
        data=images,
        training={**facts.training, "optimizer": text, "schedule": text},
        baselines=tuple(
            dataclasses.replace(row, method=text, sources=(text,), remarks=(text, text)) for row in facts.baselines
        ),
        transferred=Transferred(0.5, 1, 1, (text, text)),
        versions={text: text},
        license=CardLicense("other", text or "x", "LICENSE", (text,), (text,), text),
        picture="matching.svg",
    )


def flat(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from flat(token.children or [])


def rendered(text: str) -> list[Token]:
    return list(flat(RENDERER.parse(body(text))))


def structure(text: str) -> tuple[list[tuple[str, str]], set[str], set[str]]:
    """The blocks of a card, the targets of its links, and its pictures."""
    tokens = rendered(text)
    assert not [token for token in tokens if token.type.startswith("html")]
    blocks = [(token.type, token.info) for token in tokens if token.block and token.type != "inline"]
    links = {str(token.attrGet("href")) for token in tokens if token.type == "link_open"}
    return blocks, links, {str(token.attrGet("src")) for token in tokens if token.type == "image"}


@pytest.mark.parametrize("text", HOSTILE)
def test_tricks_come_out_harmless(folder: Path, random_start: Path, text: str) -> None:
    facts = read_facts(folder, "tester/letters", LICENSE, [random_start], open_zoo)
    honest, tricked = card_text(hostile(facts, "honest")), card_text(hostile(facts, text))
    tricked.encode("utf-8")
    wanted, found = structure(honest), structure(tricked)
    if line(text):
        assert found[0] == wanted[0]
    # A license may link to the web; nothing else may that did not before.
    assert {one for one in found[1] if not one.startswith("https://good.example/")} <= wanted[1]
    assert found[2] == {"matching.svg"}
    for token in rendered(tricked):
        assert not (token.type == "text" and re.search(r"://|www\.|@evil", token.content)), token.content
        assert all(character.isprintable() for character in token.content.replace("\n", ""))
    page = RENDERER.render(body(tricked))
    assert not re.search(r"<(script|iframe|details|!--)|<[^>]*\son\w+=|(href|src)=\"(?!https?:|[\w.-]+\")", page)
    data, honest_data = front_matter(tricked), front_matter(honest)
    assert data.keys() - {"datasets"} == honest_data.keys() - {"datasets"}
    assert (data["license"], data["base_model"]) == ("other", ["user/parent"])
    assert ModelCard(tricked).data.to_dict().keys() == data.keys()


def test_a_label_or_name_in_the_files_comes_out_harmless(tmp_path: Path) -> None:
    name = "<b onclick=x>](javascript:x) | `"
    recipe = {
        "data": {"task": f"imagefolder:{name}", "fingerprint": DATA},
        "training": TRAINING,
        "versions": {name: name},
    }
    folder = model_folder(
        tmp_path / "x",
        (f"../{name}.safetensors",),
        "dpiat",
        TEST,
        recipe,
        {"label_names": [name], "architecture": name},
    )
    text = card_text(read_facts(folder))
    structure(text)
    assert card_faults(text) == []
    assert "imagefolder:" not in text


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text("`|\\*_[]<>&$#!-+.1) \n\tab:/w@", max_size=30))
def test_any_text_stays_text(text: str) -> None:
    shown = line(text)
    if not shown:
        return
    tokens = list(flat(RENDERER.parse(f"| h | i |\n| --- | --- |\n| {prose(text)} | {code(text)} |\n")))
    assert [token.type for token in tokens if token.block].count("td_open") == 2
    cells = [token for token in tokens if token.type == "inline"][2:]
    assert {child.type for child in cells[0].children or ()} <= {"text", "code_inline", "text_special"}
    assert [child.type for child in cells[1].children or ()] == ["code_inline"]
    assert (cells[1].children or [])[0].content == shown.replace("`", "'").replace("|", "¦")
    said = "".join(child.content for child in cells[0].children or ())
    words = zip(said.split(" "), shown.split(" "), strict=True)
    assert all(one == other or one == other.replace("`", "'").replace("|", "¦") for one, other in words)
    # Alone in a paragraph, as in a table.
    assert [token.type for token in RENDERER.parse(prose(text))] == ["paragraph_open", "inline", "paragraph_close"]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> CardFacts:
    folder = model_folder(tmp_path_factory.mktemp("cards") / "x", (f"hf:a/b@{COMMIT}",), test=TEST)
    return read_facts(folder, "tester/letters", LICENSE)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80) | st.text("-:#&*!|>'\"%@`{}[], \nab?~=<", max_size=40))
def test_metadata_hold_any_text_and_no_more_fields(facts: CardFacts, text: str) -> None:
    assert facts.data is not None
    data = dataclasses.replace(facts.data, task=text)
    license = CardLicense(text, text, text)
    written = (
        f"---\n{metadata.front_matter(dataclasses.replace(facts, title=text, data=data, license=license))}\n---\n\n"
    )
    found = front_matter(written)
    assert found.keys() == front_matter(card_text(facts)).keys() | {"license_name", "license_link"}
    shown = line(text)
    (model,) = found["model-index"]
    assert [found["license"], found["license_name"], found["license_link"], model["name"]] == [shown] * 4
    assert model["results"][0]["dataset"]["name"] == shown
    assert ModelCard(written).data.to_dict() == found


@pytest.mark.parametrize(
    ("target", "is_one"),
    [
        ("https://example.org/a_b?c=d#e", True),
        ("LICENSE", True),
        ("docs/LICENSE.md", True),
        ("javascript:alert(1)", False),
        ("https://a.b/)x", False),
        ("https://user@evil.example", False),
        ("../x", False),
        ("//evil.example", False),
        ("data:text/html,x", False),
        ("https://a.b/ x", False),
        ("", False),
    ],
)
def test_links_lead_to_the_web_or_to_files_beside(target: str, is_one: bool) -> None:
    assert link("x", target).startswith("[") == is_one
    assert image("x", "https://a.b/c.png") is None


@pytest.mark.parametrize("name", ["letters", "a/b/c", "a/b`", 'a/b")', "a/../b", "a/b--c", "https://a/b", ""])
def test_a_repository_has_an_owner_and_a_plain_name(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected user/name"):
        read_facts(folder, name)


def test_a_revision_is_a_commit() -> None:
    with pytest.raises(InputError, match="expected 40 hexadecimal digits"):
        Parent("x", SHA, "a/b", "main](x)")


# Bad folders


def spoiled(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", lambda data: data.pop("kzoo"), "kzoo: is missing"),
        ("config.json", lambda data: data["kzoo"].update(recipe="0" * 64), "another recipe than recipe.yaml beside it"),
        ("config.json", lambda data: data.update(library_name="evil"), "library_name: expected text of the form"),
        ("config.json", lambda data: data.update(label_names="x"), "label_names: expected a list"),
        ("config.json", lambda data: data["kzoo"]["transferred"].update({"gone": 1.0}), "transferred.gone"),
        ("config.json", lambda data: data["kzoo"]["transferred"].update({"fc.bias": 2.0}), "transferred.fc.bias"),
        ("metrics.json", lambda data: data.pop("test"), "test: is missing"),
        ("metrics.json", lambda data: data.update(data="0" * 64), "the test was on other images"),
        ("metrics.json", lambda data: data["test"].update(accuracy=0.12345), "0.12345 is no share of 1,040 images"),
        ("metrics.json", lambda data: data["test"].update(accuracy=7), "test.accuracy: expected a number of at most 1"),
        ("metrics.json", lambda data: data["test"].update(images=0), "test.images: expected a number of 1 or more"),
        ("metrics.json", lambda data: data["test"].update(loss=float("nan")), "expected a finite number"),
    ],
)
def test_files_that_are_wrong_are_refused(
    folder: Path, name: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    spoiled(folder, name, change)
    with pytest.raises(InputError, match=re.escape(said)) as error:
        read_facts(folder)
    assert str(folder / name) in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "metrics.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{", b"null"])
def test_broken_files_are_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError):
        read_facts(folder)


@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "model.safetensors"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_facts(folder)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "gone", Path(__file__)):
        with pytest.raises(InputError, match="is no model folder of kzoo"):
            read_facts(place)


# The command


def test_it_prints_the_card(command: Command, folder: Path, random_start: Path) -> None:
    code, said, notes = command("card", folder, "--beside", random_start, "--license", "apache-2.0", "--repo", "a/b")
    assert (code, notes) == (0, "")
    facts = read_facts(folder, "a/b", None, [random_start], open_zoo)
    license = card_license(chosen_license(facts, Choice("apache-2.0")))
    assert license is not None and license.license == "apache-2.0" and "permissive" in license.reasons[0]
    assert said == card_text(replace(facts, license=license))
    code, said, notes = command("card", folder, "--license", "mit")
    assert (code, "license: mit\n" in said) == (0, True)
    assert "Warning: it may not be published under mit: local:glyphs-resnet-2x12 does not allow it" in notes
    assert not (folder / "matching.svg").exists()


def test_it_writes_card_and_picture_and_checks_them(command: Command, folder: Path) -> None:
    code, said, notes = command("card", folder, "--out", folder / "README.md")
    assert (code, said) == (0, "")
    assert "Written: " in notes and "It names no license" not in notes, "its source has one"
    text = (folder / "README.md").read_text()
    assert "](matching.svg)" in text
    assert (folder / "matching.svg").read_text().startswith("<svg ")
    assert command("card", folder, "--check")[0] == 0
    assert command("card", folder, "--out", folder / "README.md")[0] == 0
    assert (folder / "README.md").read_text() == text
    (folder / "README.md").write_text(text.replace("pytorch", "[x]"))
    code, said, notes = command("card", folder / "README.md", "--check")
    assert code == 1
    assert said == "library_name: expected text, found ['x']\n"
    code, said, _ = command("card", folder, "--check", "--json")
    assert (code, json.loads(said)["faults"]) == (1, ["library_name: expected text, found ['x']"])


def test_it_prints_json(command: Command, folder: Path) -> None:
    code, said, _ = command("card", folder, "--json", "--out", "-")
    data = json.loads(said)
    assert (code, data["written"], data["facts"]["metrics"]["images"]) == (0, [], 1040)
    assert data["card"].startswith("---\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--license", "Mine"), "is no license: expected an SPDX id"),
        (("--license", "other"), "give --license-name and --license-link with it"),
        (("--license-name", "x"), "give that with them"),
        (("--repo", "letters"), "expected user/name"),
        (("--beside", "gone"), "gone is no model folder of kzoo"),
    ],
)
def test_bad_options_are_one_sentence(command: Command, folder: Path, options: tuple[str, ...], said: str) -> None:
    code, printed, notes = command("card", folder, *options)
    assert (code, printed) == (2, "")
    assert said in notes and notes.startswith("Error: ") and notes.count("\n") == 1


def test_a_place_that_cannot_be_written(command: Command, folder: Path) -> None:
    (folder / "file").write_text("")
    assert command("card", folder, "--out", folder / "file" / "README.md")[0] == 3
    assert command("card", folder / "gone.md", "--check")[0] == 2
    (folder / "README.md").write_bytes(b"\xff")
    assert command("card", folder, "--check")[0] == 2

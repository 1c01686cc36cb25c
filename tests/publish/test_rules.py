from __future__ import annotations

import pytest

from kzoo.publish.rules import MOST_FRONT_MATTER, card_faults


def card(metadata: str) -> str:
    return f"---\n{metadata}\n---\n\n# A model\n"


INDEX = """\
model-index:
- name: x
  results:
  - task: {type: image-classification, name: Image Classification}
    dataset: {type: uoft-cs/cifar10, name: CIFAR-10, split: test, args: {size: 32}}
    metrics:
    - {type: accuracy, value: 0.94, name: Accuracy}
    source: {name: a run, url: "https://huggingface.co/a/b"}"""


@pytest.mark.parametrize(
    "metadata",
    [
        # As they stand on the Hub.
        "license: apache-2.0\nlibrary_name: timm\ntags:\n- image-classification\n- timm\ndatasets:\n- imagenet-1k",
        "language:\n- en\n- zh\n- no\n- yue\ntags: []\nlicense: mit\npipeline_tag: automatic-speech-recognition\nwidget:\n- src: x",
        "license: other\nlicense_name: tongyi-qianwen\nlicense_link: https://huggingface.co/Qwen/Qwen2-72B/blob/main/LICENSE",
        "license: apache-2.0\nlicense_link: LICENSE\nbase_model: Qwen/Qwen2.5-7B\npipeline_tag: text-generation",
        "base_model:\n- a/b\n- gpt2\nbase_model_relation: merge\ntags:\n- mergekit\n- merge\nlibrary_name: transformers",
        "license: [mit, apache-2.0]\nlanguage: multilingual\nextra_gated_prompt: |\n  One\n  two\ninference: false",
        "co2_eq_emissions: {emissions: 1.2, source: CodeCarbon}\nthumbnail: https://a.b/c.png\nnew_version: a/b-2",
        "co2_eq_emissions: 0.5\nmetrics:\n- accuracy\nmodel_type: resnet\nquantized_by: somebody\nlicense: unknown",
        "license:\nlanguage:\ntags:\nlibrary_name: x",
        "license: cc-by-nc-4.0\ndefaults: &a {x: 1}\nmore: *a\ndate: 2024-01-01\ntags:\n- 'yes'\n- arxiv:1512.03385",
        INDEX,
        INDEX.replace("0.94", "'94.0 ± 0.2'").replace(", name: Accuracy", ""),
    ],
)
def test_what_the_hub_takes(metadata: str) -> None:
    assert card_faults(card(metadata)) == []


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("license: MIT", "license: expected an id of the Hub in lower case"),
        ("license: [mit, gpl-9]", "license[1]: expected an id"),
        ("license: {id: mit}", "found fields with values"),
        ("license: other", "license_name is missing"),
        ("license: other\nlicense_name: x", "license_link is missing"),
        (
            "license: other\nlicense_name: x\nlicense_link: javascript:alert(1)",
            "license_link: expected an https address",
        ),
        ("license: other\nlicense_name: x\nlicense_link: ../../LICENSE", "license_link: expected"),
        ("license: other\nlicense_name: [x]\nlicense_link: LICENSE", "license_name: expected text"),
        ("licence: mit", "'licence' is no field that the Hub knows: did you mean license?"),
        ("base-model: a/b", "did you mean base_model?"),
        ("model_index: []", "did you mean model-index?"),
        ("language: en-US", "language: expected a code of two or three lower-case letters"),
        ("language: [en, english]", "language[1]: expected"),
        ("tags: timm", "tags: expected a list, found 'timm'"),
        ("tags: [2024]", "tags[0]: expected text of up to"),
        ("tags: [2024-01-01]", "tags[0]: expected text of up to"),
        (f"tags: [{'x' * 300}]", "tags[0]: expected text of up to"),
        ("datasets: [my images]", "datasets[0]: expected an id on the Hub"),
        ("base_model: ./local/folder", "base_model: expected an id on the Hub"),
        ("base_model: [a/b, a/b/c]", "base_model[1]: expected"),
        ("base_model: a/b--c", "base_model: expected"),
        ("base_model: a/b\nbase_model_relation: distilled", "expected one of adapter, merge, quantized, finetune"),
        ("base_model: a/b\nbase_model_relation: [merge]", "base_model_relation: expected one of"),
        ("base_model_relation: merge", "says nothing without base_model"),
        ("pipeline_tag: image_classification", "pipeline_tag: expected a task of the Hub"),
        ("pipeline_tag: [a]", "pipeline_tag: expected"),
        ("library_name: 3", "library_name: expected text, found 3"),
        ("co2_eq_emissions: much", "co2_eq_emissions: expected grams"),
        ("co2_eq_emissions: true", "co2_eq_emissions: expected grams"),
        ("model-index: {name: x}", "model-index: expected a list"),
        ("model-index: [x]", "model-index[0]: expected name and results"),
        ("model-index: [{results: []}]", "model-index[0].name: expected text, found nothing"),
        ("model-index: [{name: x}]", "model-index[0].results: expected a list"),
        ("model-index: [{name: x, results: [3]}]", "results[0]: expected task, dataset and metrics"),
        (INDEX.replace("type: image-classification, ", ""), "results[0].task.type: expected text"),
        (INDEX.replace(" name: CIFAR-10,", ""), "results[0].dataset.name: expected text"),
        (INDEX.replace("split: test", "config: null"), "results[0].dataset.config: expected text, found nothing"),
        (INDEX.replace("value: 0.94, ", ""), "results[0].metrics[0].value is missing"),
        (INDEX.replace("type: accuracy, ", ""), "results[0].metrics[0].type: expected text"),
        (INDEX.replace("https://huggingface.co/a/b", "ftp://a"), "source.url: expected an https address"),
        (INDEX.replace(', url: "https://huggingface.co/a/b"', ""), "source.url: expected text, found nothing"),
        ("a: [", "no valid YAML (line 2: "),
        ("license: mit\nlicense: gpl", "the field 'license' is there twice"),
        ("a: !!python/object/apply:os.system [ls]", "no valid YAML"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 levels"),
        ("a: " + "[" * 100_000, "nested more than 50 levels"),
        ("just text", "the metadata is 'just text': expected fields"),
        ("# nothing", "the metadata is nothing: expected fields"),
        ("a: \x07", "no valid YAML"),
    ],
)
def test_what_the_hub_refuses_or_makes_nothing_of(metadata: str, said: str) -> None:
    faults = card_faults(card(metadata))
    assert any(said in fault for fault in faults), faults
    assert all("\n" not in fault and len(fault) < 400 for fault in faults)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# A model\n", "the card has no metadata"),
        ("", "the card has no metadata"),
        ("---\nlicense: mit\n", "the metadata has no end"),
        (card(f"a: {'x' * MOST_FRONT_MATTER}"), "expected at most 2,000,000"),
    ],
)
def test_a_card_without_sound_metadata(text: str, said: str) -> None:
    (fault,) = card_faults(text)
    assert said in fault


def test_all_faults_are_told() -> None:
    assert len(card_faults(card("license: MIT\ntags: x\nlanguage: English"))) == 3


def test_lines_may_end_as_on_windows() -> None:
    assert card_faults("---\r\nlicense: mit\r\n---\r\n# x\r\n") == []


def test_an_alias_is_not_expanded() -> None:
    bomb = "\n".join(
        [f"a0: &a0 [{'x' * 9}]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)), "tags: *a39"]
    )
    assert len(card_faults(card(bomb))) == 2

"""The Hub's rules for the metadata of a model's card, as tables, so that a card can be checked without the Hub.

They are those of huggingface.co/docs/hub/model-cards and of what users have been told when the Hub refused a card. What is
not known to be refused is accepted, but for three things that the Hub takes silently and makes nothing of: no metadata, a
misspelt field, and the license ``other`` without a name and an address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import yaml

from kzoo.licenses import HUB_LICENSES, OTHER, UNKNOWN
from kzoo.plain_yaml import shown as shown_plain

MOST_FRONT_MATTER = 2_000_000
RELATIONS = ("adapter", "merge", "quantized", "finetune")
PIPELINE_TAGS = frozenset(
    {
        "any-to-any", "audio-classification", "audio-text-to-text", "audio-to-audio", "automatic-speech-recognition",
        "conversational", "depth-estimation", "document-question-answering", "feature-extraction", "fill-mask",
        "graph-ml", "image-classification", "image-feature-extraction", "image-segmentation", "image-text-to-image",
        "image-text-to-text", "image-text-to-video", "image-to-3d", "image-to-image", "image-to-text",
        "image-to-video", "keypoint-detection", "mask-generation", "multiple-choice", "object-detection", "other",
        "question-answering", "reinforcement-learning", "robotics", "sentence-similarity", "summarization",
        "table-question-answering", "table-to-text", "tabular-classification", "tabular-regression",
        "tabular-to-text", "text-classification", "text-generation", "text-ranking", "text-retrieval", "text-to-3d",
        "text-to-audio", "text-to-image", "text-to-speech", "text-to-video", "text2text-generation",
        "time-series-forecasting", "token-classification", "translation", "unconditional-image-generation",
        "video-classification", "video-text-to-text", "video-to-video", "visual-document-retrieval",
        "visual-question-answering", "voice-activity-detection", "zero-shot-classification",
        "zero-shot-image-classification", "zero-shot-object-detection",
    }
)  # fmt: skip
LICENSES = HUB_LICENSES | {OTHER, UNKNOWN}
#: Values of ``language`` that are no codes.
_LANGUAGES = ("code", "multilingual")
#: Longer ones are no tags, whatever the Hub's own bound is.
_LONGEST_TAG = 256
_DEEPEST = 50
_BLOCK = re.compile(r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)")
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}", re.ASCII)
_ADDRESS = re.compile(r"https?://[^\s<>\"]+", re.IGNORECASE)

Faults = Iterator[str]


def card_faults(text: str) -> list[str]:
    """What is wrong with a card, a sentence each: what, what was expected; none where the Hub takes it."""
    found = _BLOCK.match(text)
    if found is None:
        begun = text.lstrip().startswith("---")
        what = "the metadata has no end" if begun else "the card has no metadata"
        return [f"{what}: expected a line '---' first, then YAML, then another line '---'"]
    if len(found[1]) > MOST_FRONT_MATTER:
        return [f"the metadata has {len(found[1]):,} characters: expected at most {MOST_FRONT_MATTER:,}"]
    try:
        data = _loaded(found[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [f"the metadata is no valid YAML ({_reason(error, found[1])}): correct that line"]
    if not isinstance(data, dict) or not data:
        return [f"the metadata is {_shown(data)}: expected fields, such as license: mit"]
    return list(_faults(data))


class _Loader(yaml.CSafeLoader):
    """YAML as the Hub reads it: no field twice, and only true and false are truth values."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The fields of a mapping."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(None, None, f"the field {key.value!r:.60} is there twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add((key.tag, key.value))
        return dict(super().construct_mapping(node, deep))


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def _loaded(text: str) -> Any:
    depth = 0
    # Events need no memory, so depth is known before anything is built.
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    return yaml.load(text, Loader=_Loader)


def _reason(error: Exception, text: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark: Any = error.problem_mark or error.context_mark
        # The parser may stop behind the last line; the card's first line is the one above the text.
        line = f"line {min(mark.line, text.count(chr(10))) + 2}: " if mark is not None else ""
        return f"{line}{error.problem}"
    return " ".join(str(error).split())[:200]


def _faults(data: Mapping[Any, Any]) -> Faults:
    for key, value in data.items():
        if key in _FIELDS:
            # An empty field is as good as none.
            yield from _FIELDS[key](key, value) if value is not None else ()
        elif (meant := _MISSPELT.get(_spelling(key))) is not None:
            yield f"{key!r:.60} is no field that the Hub knows: did you mean {meant}?"
    if data.get("license") == OTHER:
        for key in ("license_name", "license_link"):
            if not data.get(key):
                yield f"{key} is missing: the license other needs a name and the address of its text"
    if "base_model_relation" in data and not data.get("base_model"):
        yield "base_model_relation says nothing without base_model: add the ids of the parents, or remove it"


def _shown(value: Any) -> str:
    try:
        return shown_plain(value)
    except TypeError:  # a date, bytes
        return str(value)[:60]


def _text(key: str, value: Any) -> Faults:
    if not isinstance(value, str) or not value.strip():
        yield f"{key}: expected text, found {_shown(value)}"


def _each(check: Callable[[str, Any], Faults]) -> Callable[[str, Any], Faults]:
    """One value, or a list of them."""

    def checked(key: str, value: Any) -> Faults:
        if not isinstance(value, list):
            yield from check(key, value)
            return
        for index, one in enumerate(value):
            yield from check(f"{key}[{index}]", one)

    return checked


def _listed(check: Callable[[str, Any], Faults]) -> Callable[[str, Any], Faults]:
    """A list of values."""

    def checked(key: str, value: Any) -> Faults:
        if isinstance(value, list):
            yield from _each(check)(key, value)
        else:
            yield f"{key}: expected a list, found {_shown(value)}"

    return checked


def _license(key: str, value: Any) -> Faults:
    if not isinstance(value, str) or value not in LICENSES:
        yield (
            f"{key}: expected an id of the Hub in lower case, such as apache-2.0, or other with license_name and license_link, "
            f"found {_shown(value)}"
        )


def _license_link(key: str, value: Any) -> Faults:
    sound = isinstance(value, str) and value and not value.startswith("/")
    # A path of a file in the repository has no scheme.
    if not sound or not (_ADDRESS.fullmatch(value) or re.fullmatch(r"[^\s:<>\"]+", value)) or ".." in value.split("/"):
        yield f"{key}: expected an https address or a file of the repository, found {_shown(value)}"


def _language(key: str, value: Any) -> Faults:
    if not isinstance(value, str) or not (_LANGUAGE.fullmatch(value) or value in _LANGUAGES):
        yield f"{key}: expected a code of two or three lower-case letters, such as en, found {_shown(value)}"


def _tag(key: str, value: Any) -> Faults:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > _LONGEST_TAG:
        yield f"{key}: expected text of up to {_LONGEST_TAG} printable characters, found {_shown(value)}"


def _repository(key: str, value: Any) -> Faults:
    sound = isinstance(value, str) and _REPOSITORY.fullmatch(value) and not value.endswith((".", "-", ".git"))
    if not sound or ".." in value or "--" in value:
        yield f"{key}: expected an id on the Hub, such as user/name, found {_shown(value)}"


def _relation(key: str, value: Any) -> Faults:
    if value not in RELATIONS:
        yield f"{key}: expected one of {', '.join(RELATIONS)}, found {_shown(value)}"


def _pipeline(key: str, value: Any) -> Faults:
    if not isinstance(value, str) or value not in PIPELINE_TAGS:
        yield f"{key}: expected a task of the Hub, such as image-classification, found {_shown(value)}"


def _emissions(key: str, value: Any) -> Faults:
    amount = value.get("emissions") if isinstance(value, dict) else value
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        yield f"{key}: expected grams of CO2 as a number, found {_shown(amount)}"


def _index(key: str, value: Any) -> Faults:
    """The model-index: models with results, each of a task, a data set and metrics."""
    if not isinstance(value, list):
        yield f"{key}: expected a list, found {_shown(value)}"
        return
    for place, model in enumerate(value):
        where = f"{key}[{place}]"
        if not isinstance(model, dict):
            yield f"{where}: expected name and results, found {_shown(model)}"
            continue
        yield from _text(f"{where}.name", model.get("name"))
        results = model.get("results")
        if not isinstance(results, list):
            yield f"{where}.results: expected a list, found {_shown(results)}"
            continue
        for number, result in enumerate(results):
            yield from _result(f"{where}.results[{number}]", result)


def _result(where: str, result: Any) -> Faults:
    if not isinstance(result, dict):
        yield f"{where}: expected task, dataset and metrics, found {_shown(result)}"
        return
    yield from _parts(f"{where}.task", result.get("task"), ("type",), ("name",))
    yield from _parts(f"{where}.dataset", result.get("dataset"), ("type", "name"), ("config", "split", "revision"))
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f"{where}.metrics: expected a list of one or more, found {_shown(metrics)}"
    for number, metric in enumerate(metrics if isinstance(metrics, list) else ()):
        yield from _parts(f"{where}.metrics[{number}]", metric, ("type",), ("name", "config"))
        if isinstance(metric, dict) and metric.get("value") is None:
            yield f"{where}.metrics[{number}].value is missing: add the number"
    source = result.get("source")
    if source is not None:
        yield from _parts(f"{where}.source", source, ("url",), ("name",))
        address = source.get("url") if isinstance(source, dict) else None
        if isinstance(address, str) and not _ADDRESS.fullmatch(address):
            yield f"{where}.source.url: expected an https address, found {_shown(address)}"


def _parts(where: str, value: Any, required: tuple[str, ...], optional: tuple[str, ...]) -> Faults:
    """A mapping with fields of text; a field that may be absent must not be empty."""
    if not isinstance(value, dict):
        yield f"{where}: expected {' and '.join(required)}, found {_shown(value)}"
        return
    for name in required:
        yield from _text(f"{where}.{name}", value.get(name))
    for name in optional:
        if name in value:
            yield from _text(f"{where}.{name}", value[name])


def _anything(_key: str, _value: Any) -> Faults:
    yield from ()


_FIELDS: Mapping[str, Callable[[str, Any], Faults]] = MappingProxyType(
    {
        "language": _each(_language),
        "license": _each(_license),
        "license_name": _text,
        "license_link": _license_link,
        "library_name": _text,
        "tags": _listed(_tag),
        "datasets": _each(_repository),
        "buckets": _anything,
        "metrics": _anything,
        "base_model": _each(_repository),
        "base_model_relation": _relation,
        "new_version": _repository,
        "pipeline_tag": _pipeline,
        "thumbnail": _text,
        "co2_eq_emissions": _emissions,
        "model-index": _index,
    }
)


def _spelling(key: Any) -> str:
    """A field's name without case, plural and kind of dash."""
    return re.sub("[-_ ]", "", str(key).lower().replace("licence", "license")).rstrip("s")


_MISSPELT = {_spelling(key): key for key in _FIELDS}

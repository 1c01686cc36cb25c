"""The card of a model: the Hub's metadata, then what people want to know, from plain facts alone.

The template shows everything by `kzoo.publish.safe`: a string that is not marked as Markdown cannot become any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kzoo.errors import InputError
from kzoo.layout import RECIPE, WEIGHTS
from kzoo.plots.text import counted
from kzoo.publish import amalgamation_text, fusion_text
from kzoo.publish.comparison_text import compared_table
from kzoo.publish.facts import TESTED, Baseline, CardFacts, Images, Parent
from kzoo.publish.licensing import NOT_ADVICE
from kzoo.publish.metadata import HUB, front_matter, tells_top5
from kzoo.publish.papers import METHODS, Method, method_of
from kzoo.publish.rules import card_faults
from kzoo.publish.safe import Safe, code, image, line, link, prose
from kzoo.publish.wording import listed, named, percent, plain_value, spread

_TEMPLATE = "card.md.j2"
_ALT = "Which layers of the source went into which layers of this model"
_ALT_COMPARED = "Accuracy of this model and of all that was measured beside it, with 95 % intervals"
#: Longer lists of layers, and of classes, are cut.
_SHOWN_LAYERS, _SHOWN_LABELS = 12, 30
#: What of the training a card tells; the recipe has all of it.
_TOLD = ("optimizer", "lr", "random_lr", "schedule", "batch_size", "weight_decay", "augment", "precision", "seed")
#: What is so unless somebody wants something else.
_USUAL: Mapping[str, Any] = {"augment": "none", "precision": "float32", "variant": "full_state"}


def card_text(facts: CardFacts) -> str:
    """The card as the text of a README.md; the same facts give the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        finalize=_shown,
        # What would be escaped for HTML is escaped for Markdown, by finalize.
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code}
    body = environment.get_template(_TEMPLATE).render(_content(facts))
    return f"---\n{front_matter(facts)}\n---\n\n{body}"


def checked_card(facts: CardFacts) -> str:
    """The card, if the Hub would take it.

    Raises:
        InputError: it would not.
    """
    text = card_text(facts)
    if faults := card_faults(text):
        raise InputError(f"the Hub would not take this card: {'; '.join(faults)}")
    return text


def _shown(value: Any) -> str:
    """What the template writes for a value: text as text, Markdown only where it is marked as such."""
    return value if isinstance(value, Safe) else prose(str(value))


def _content(facts: CardFacts) -> dict[str, Any]:
    """What the template shows."""
    method = method_of(facts.method)
    carried = facts.relation is not None
    return {
        "facts": facts,
        "title": line(facts.title, 120) or "A model",
        "summary": Safe(" ".join(filter(None, _summary(facts, method)))),
        "results": _results_table(facts),
        "compared": compared_table(facts),
        "parents": [_parent_row(parent) for parent in facts.parents] + _start_row(facts),
        "method": _method_text(facts, method) if carried else None,
        "fused": [*fusion_text.how(facts), *amalgamation_text.how(facts)],
        "slices": amalgamation_text.slices_table(facts),
        "measured": fusion_text.files(facts),
        "training": _training_text(facts),
        "versions": _versions(facts),
        "not_transferred": _not_transferred(facts),
        "picture": image(_ALT_COMPARED if facts.compared else _ALT, facts.picture) if facts.picture else None,
        "limits": list(_limits(facts)),
        "loading": _loading(facts),
        "images": _input_text(facts),
        "labels": _labels(facts),
        "rebuilding": _rebuilding(facts),
        "weights": next((file.sha256 for file in facts.files if file.name == WEIGHTS), None),
        "license": _license(facts),
        "bibtex": _citations(facts, method) if carried else None,
    }


def _summary(facts: CardFacts, method: Method) -> Iterable[str]:
    """What it is, in a few sentences."""
    classes = f" for {facts.classes:,} classes" if facts.classes else ""
    changed = f", changed by {counted(facts.edits, 'edit')}," if facts.edits else ""
    yield f"{code(facts.network)}{changed} with {facts.parameters:,} parameters{classes}."
    training = ""
    if facts.data is not None and facts.epochs:
        training = f"trained on {code(facts.data.task)} for {counted(facts.epochs, 'epoch')}"
    if facts.fusion is not None:
        yield f"It is {listed(code(parent.name) for parent in facts.parents)}, fused without training by {named(method)}."
        yield f"It was then {training}." if training else ""
    elif facts.amalgamation is not None:
        yield from _taught(facts, method)
    elif facts.relation is not None:
        yield f"Its weights come from {listed(code(parent.name) for parent in facts.parents)} by {named(method)}."
        yield f"It was then {training}." if training else ""
    else:
        yield f"It was {training}, from random weights." if training else "Its weights are random."
    if facts.metrics is not None:
        yield f"Of {facts.metrics.images:,} {facts.tested_on} it gets **{percent(facts.metrics.accuracy.value)}** right"
        yield f"(95 % interval {spread(facts.metrics.accuracy)})" + _beside(facts) + _measured_beside(facts)


def _taught(facts: CardFacts, method: Method) -> Iterable[str]:
    """Who taught it, and with what."""
    began = code(facts.start.name) if facts.start is not None else "random weights"
    images = f" from images of {code(facts.data.task)} without their labels" if facts.data is not None else ""
    learned = f"in {counted(facts.epochs, 'epoch')} it learned{images}, beginning with {began}, what they know together"
    yield f"Its teachers are {listed(code(parent.name) for parent in facts.parents)}; by {named(method)}, {learned}."


def _measured_beside(facts: CardFacts) -> str:
    return f"{fusion_text.summary(facts)}{amalgamation_text.summary(facts)}."


def _beside(facts: CardFacts) -> str:
    """The random start in the summary, where there is one that differs in nothing else."""
    alike = [row for row in facts.baselines if row.method == "random" and not row.remarks]
    if not alike or facts.relation is None:
        return ""
    found = alike[0].metrics.accuracy
    return f"; from a random start, with the same training, {percent(found.value)} ({spread(found)})"


def _results_table(facts: CardFacts) -> dict[str, Any] | None:
    """The model and what it is put beside: rows, and whether there are columns for the first epoch and for remarks."""
    if facts.metrics is None or facts.data is None:
        return None
    # What a fusion or an amalgamation was measured beside has a table of its own.
    if facts.compared and not facts.baselines:
        return None
    parents = tuple(parent.name for parent in facts.parents) if facts.relation is not None else ()
    ours = Baseline(
        facts.method if parents else "random", facts.method_parameters, parents, facts.epochs, facts.metrics, ()
    )
    rows = [ours, *facts.baselines]
    firsts = any(row.metrics.first is not None for row in rows)
    remarks = any(row.remarks for row in rows)
    found = facts.metrics
    more = [f"loss {found.loss:.3f}"]
    if found.top5 is not None and tells_top5(facts):
        more.insert(0, f"top-5 accuracy {percent(found.top5.value)} ({spread(found.top5)})")
    return {
        "firsts": firsts,
        "remarks": remarks,
        "rows": [_row(row, row is ours and len(rows) > 1) for row in rows],
        "task": facts.data.task,
        "about": facts.data.about,
        "images": f"{found.images:,}",
        "more": "; ".join(more),
        "history": facts.epochs > 1,
    }


def _row(row: Baseline, bold: bool) -> dict[str, Any]:
    start = _start(row)
    return {
        "start": Safe(f"**{start}** (this model)") if bold else start,
        "first": "" if row.metrics.first is None else percent(row.metrics.first),
        "epochs": f"{row.epochs:,}",
        "accuracy": Safe(f"**{percent(row.metrics.accuracy.value)}**") if bold else percent(row.metrics.accuracy.value),
        "interval": spread(row.metrics.accuracy),
        "remarks": "; ".join(row.remarks),
    }


def _start(row: Baseline) -> Safe:
    if row.method == "random" or not row.sources:
        return Safe("random")
    variant = row.parameters.get("variant")
    kind = f" ({prose(str(variant))})" if variant not in (None, _USUAL["variant"]) else ""
    return Safe(f"{prose(method_of(row.method).name)}{kind} from {listed(map(code, row.sources))}")


def _parent_row(parent: Parent) -> dict[str, Safe]:
    where = link(parent.name, f"{HUB}/{parent.repository}") if parent.repository else code(parent.name)
    revision = Safe("-")
    if parent.revision is not None:
        revision = Safe(f"[`{parent.revision[:12]}`]({HUB}/{parent.repository}/tree/{parent.revision})")
    elif parent.shipped:
        revision = Safe("comes with kzoo")
    return {"name": where, "revision": revision, "sha256": code(parent.sha256), "license": _license_name(parent)}


def _start_row(facts: CardFacts) -> list[dict[str, Safe]]:
    """The weights that all sources were trained from, as a row below the sources."""
    if facts.start is None:
        return []
    row = _parent_row(facts.start)
    whose = "the start of all of them" if facts.amalgamation is None else "what the student began with"
    return [row | {"name": Safe(f"{row['name']} ({whose})")}]


def _citations(facts: CardFacts, method: Method) -> Safe | None:
    """The papers of the method, and of what was measured beside it."""
    papers = [method.paper]
    if facts.fusion is not None and any(row.is_named("regmean") for row in facts.fusion.compared):
        papers.append(METHODS["regmean"].paper)
    found = dict.fromkeys(paper.bibtex for paper in papers if paper is not None)
    return Safe("\n\n".join(found)) if found else None


def _license_name(parent: Parent) -> Safe:
    name = parent.license_name or parent.license
    if name is None:
        return Safe("not known")
    return link(name, parent.license_link) if parent.license_link else prose(name)


def _method_text(facts: CardFacts, method: Method) -> Safe:
    """The method, its parameters, and how near it is to its paper."""
    chosen = facts.method_parameters
    if facts.fusion is not None or facts.amalgamation is not None:
        chosen = (fusion_text if facts.fusion is not None else amalgamation_text).settings(facts)
    parameters = [f"{code(f'{name}: {plain_value(value)}')}" for name, value in chosen.items()]
    nearness = "" if method.paper is None else f" {prose(method.paper.nearness)}"
    told = f" Parameters: {', '.join(parameters)}." if parameters else ""
    plan = (
        " Which layer received from which is in `plan.json`, in place of the method's own plan." if facts.plan else ""
    )
    return Safe(f"{named(method)} {prose(method.does)}.{nearness}{told}{plan}")


def _training_text(facts: CardFacts) -> Safe | None:
    training, data = facts.training, facts.data
    if training is None or data is None:
        return None
    told = [
        f"{name.replace('_', ' ')} {plain_value(training[name])}"
        for name in _TOLD
        if training.get(name) is not None and training[name] != _USUAL.get(name)
    ]
    number = f"{data.train:,}" if data.train is not None else "the"
    return Safe(
        f"{counted(facts.epochs, 'epoch')} on {number} training images of {code(data.task)}{_shape(data)}{_held_back(facts)}: "
        f"{prose(', '.join(told))}."
    )


def _shape(data: Images) -> str:
    if data.size is None:
        return ""
    channels = f", {counted(data.channels, 'channel')}" if data.channels is not None else ""
    return f" ({data.size}x{data.size} pixels{channels})"


def _held_back(facts: CardFacts) -> str:
    held_back = facts.data.held_back if facts.data is not None else None
    return f", of which {held_back:,} were held back" if held_back else ""


def _versions(facts: CardFacts) -> str:
    """With what it was made."""
    versions = [f"{name} {version}" for name, version in facts.versions.items()]
    threads = [counted(facts.threads, "thread")] if facts.threads is not None else []
    # In a fused network no weight is fresh.
    seed = [f"seed {facts.seed} for fresh weights"] if facts.fusion is None else []
    return ", ".join([*seed, *threads, *versions]) or "nothing that its recipe names"


def _not_transferred(facts: CardFacts) -> Safe | None:
    found = facts.transferred
    # Every weight of a fused network comes from its sources.
    if found is None or facts.relation is None or facts.fusion is not None:
        return None
    grown = method_of(facts.method).grows
    rest_of_it = f"; the rest {'is new' if grown else 'began at random'}" if found.share < 1 else ""
    share = f"{percent(found.share)} of the learned entries come from the {_sources(facts)}{rest_of_it}."
    kinds = (("everything", found.whole), ("a part", found.part), ("nothing", len(found.nothing)))
    first, *rest = [(what, number) for what, number in kinds if number]
    told = [f"{first[1]:,} got {first[0]}", *(f"{number:,} {what}" for what, number in rest)]
    more = len(found.nothing) - _SHOWN_LAYERS
    names = ", ".join(code(name) for name in found.nothing[:_SHOWN_LAYERS]) + (f" and {more} more" if more > 0 else "")
    return Safe(f"{share} Of its {counted(found.layers, 'layer')}, {listed(told)}{f': {names}' if names else ''}.")


def _sources(facts: CardFacts) -> str:
    return "source" if len(facts.parents) == 1 else "sources"


def _limits(facts: CardFacts) -> Iterable[Safe]:
    """What a user must not expect."""
    if facts.metrics is None:
        if facts.epochs or facts.fusion is None:
            yield Safe("It was not tested." if facts.epochs else _untested(facts))
    else:
        made = "Fused without training" if facts.fusion is not None else "Not trained since"
        yield Safe(
            f"{'One training with one seed' if facts.epochs else made}, tested on "
            f"{facts.metrics.images:,} {facts.tested_on}: the intervals say how much the choice of these images matters, and nothing "
            "of other seeds."
        )
    if facts.metrics is not None and facts.tested_on != TESTED:
        yield Safe(
            "The images held back come from those that it was to be trained on: a choice may have been made by them."
        )
    yield from fusion_text.limits(facts)
    yield from amalgamation_text.limits(facts)
    carried = facts.metrics is None and facts.relation == "finetune" and not method_of(facts.method).grows
    if carried and facts.recalibration is None and not facts.epochs:
        yield Safe("Statistics of batch normalisation may not fit: measure them anew on images of your own.")
    if facts.data is not None:
        yield Safe(f"It knows {code(facts.data.task)} only: nothing is known of how it does on other images.")
    if facts.network.startswith("py:"):
        yield Safe("Its network is built by code that is not in this repository.")


def _untested(facts: CardFacts) -> str:
    """What weights are good for that were neither trained nor tested."""
    if method_of(facts.method).grows:
        return "It was neither trained since nor tested: it is at most as good as its source, until it is trained."
    kind = "random" if facts.relation is None else "carried"
    return f"It was neither trained since nor tested: {kind} weights are a start for training, and no use as they are."


def _input_text(facts: CardFacts) -> Safe | None:
    """How images must be prepared: all that kzoo has trained saw them so."""
    if facts.data is None or not _is_prepared(facts):
        return None
    channels, size = facts.data.channels or "C", facts.data.size or "H"
    width = facts.data.size or "W"
    return Safe(
        f"`images` are uint8, N x {channels} x {size} x {width}; `prepare` makes floats of them and normalises them, as in "
        f"the {'training' if facts.epochs else 'test'}."
    )


def _is_prepared(facts: CardFacts) -> bool:
    """Whether it is known how images must be prepared: as in its training, or in the test of a fused network."""
    return facts.data is not None and bool(facts.epochs or (facts.fusion is not None and facts.metrics is not None))


def _labels(facts: CardFacts) -> Safe | None:
    if not facts.labels:
        return None
    more = len(facts.labels) - _SHOWN_LABELS
    shown = ", ".join(code(label) for label in facts.labels[:_SHOWN_LABELS])
    return Safe(f"Its classes, in the order of its scores: {shown}{f' and {more:,} more' if more > 0 else ''}.")


def _loading(facts: CardFacts) -> Safe:
    """Python that loads the model; of what comes from outside only a name that the Hub accepts is in it."""
    prepared = _is_prepared(facts)
    if facts.library == "timm":
        place = f"hf-hub:{facts.repository}" if facts.repository else "local-dir:FOLDER"
        lines = ["import timm", f'model = timm.create_model("{place}", pretrained=True).eval()']
    else:
        trust = ", trust_code=True" if facts.network.startswith("py:") else ""
        fetch = ["from huggingface_hub import snapshot_download"] if facts.repository else []
        place = f'snapshot_download("{facts.repository}")' if facts.repository else '"FOLDER"'
        lines = ["import kzoo", *fetch, f"model = kzoo.load({place}{trust})"]
    *imports, last = lines
    imports += ["from kzoo.training.batches import prepare"] if prepared else []
    return Safe("\n".join([*imports, "", last, *(["scores = model(prepare(images))"] if prepared else [])]))


def _rebuilding(facts: CardFacts) -> dict[str, Any]:
    command = f"kzoo rebuild {facts.repository}" if facts.repository else f"kzoo run {RECIPE} --out again"
    # Whoever made it has what others have not.
    return {"command": None if facts.obstacles else Safe(command), "obstacles": facts.obstacles}


def _license(facts: CardFacts) -> dict[str, Any] | None:
    license = facts.license
    if license is None:
        return None
    name = license.license_name or license.license
    return {
        "name": link(name, license.license_link) if license.license_link else prose(name),
        "end": Safe(":" if license.reasons else "."),
        "reasons": license.reasons,
        "duties": license.duties,
        "permission": license.permission,
        "not_advice": NOT_ADVICE,
    }

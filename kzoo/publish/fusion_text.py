"""What a card says of a network that was fused of others: how, beside what, and what must not be expected of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kzoo.publish.comparison_text import mean_of, row_as_markdown
from kzoo.publish.facts import CardFacts, Images
from kzoo.publish.fusion_facts import Fusion
from kzoo.publish.safe import Safe, code, prose
from kzoo.publish.wording import classes_named, listed, percent, plain_value

_VARIANTS: Mapping[str, str] = {
    "average": "each weight is the mean of the sources'",
    "sum": "each weight is the sum of the sources'",
    "delta_sum": "what each source has learnt since the common start is added to it",
    "scaled_delta": "what each source has learnt since the common start is added to it, times {scale}",
    "threshold": "the weights of each tensor that matter least to the first source, a share of {quantile} of them, are the "
    "second one's",
    "winner": "each weight is that of the source to which it is most important",
    "quadratic": "each weight is the mean of the sources', by how important it is to each (Fisher merging)",
    "tempered": "each weight is the mean of the sources', by how important it is to each, to the power of {power}",
    "null_space": "what the second source has learnt since the common start is added to the first one's weights, in "
    "directions that the inputs of the first one's layers do not have",
}
_IMPORTANCE: Mapping[str, str] = {
    "fisher": "the diagonal of the Fisher information, exact over labels and single images",
    "magnitude": "its size; no data is needed for that",
    "distance": "how far it has moved since the common start; no data is needed for that",
    "saliency": "what it would cost to leave it out (the Fisher information times its square)",
}
_ALIGNMENT: Mapping[str, str] = {
    "none": "none; channels are fused in the order that they have in the sources.",
    "weights": "before, the channels of each source were brought into the order of the first one's, by weights that are alike.",
    "activations": "before, the channels of each source were brought into the order of the first one's, by what they give for "
    "unlabelled images.",
}
_NORMS: Mapping[str, str] = {
    "average": "scales and shifts are averaged",
    "fold": "folded into the layers before it, so that scales and statistics are part of the weights that were fused",
}
_POOLED = "; running means are averaged, and running variances are those of all sources' features together"
_HEADS: Mapping[str, str] = {
    "shared": "one classifier, fused like all other layers",
    "joined": "one for each class of any source, with the classifier's rows of the sources that know it",
}
_FILES: Mapping[str, str] = {
    "fisher": "Fisher information (how important each weight is)",
    "gram": "Gram matrices (products of the inputs of each layer)",
}


def summary(facts: CardFacts) -> str:
    """What stands beside the result in the first paragraph; each part only where it was measured."""
    fusion = facts.fusion
    if fusion is None:
        return ""
    alone = [row for row in fusion.compared if row.parent is not None]
    told = [f"its sources alone get {listed(percent(row.accuracy.value) for row in alone)}"] if alone else []
    together = [
        f"{percent(row.accuracy.value)}{f' (mean {mean})' if (mean := mean_of(row)) else ''}"
        for row in fusion.compared
        if row.is_named("ensemble")
    ]
    told += [f"their ensemble {' or '.join(together)}"] if together else []
    told += [f"chance is {percent(row.accuracy.value)}" for row in fusion.compared if row.name.lower() == "chance"]
    return "".join(f"; {part}" for part in told)


def how(facts: CardFacts) -> Iterator[Safe]:
    """The choices of a fusion, as items of a list: Markdown."""
    fusion = facts.fusion
    if fusion is None:
        return
    chosen = facts.method_parameters
    yield from _variant(chosen)
    alignment = str(chosen.get("align", "none"))
    yield _item("Alignment", _ALIGNMENT.get(alignment) or f"{code(alignment)}.")
    if fusion.norms:
        yield _item("Batch normalisation", f"{_norms(facts, str(chosen.get('norms', 'average')))}.")
    yield from _looked_at(facts, fusion)
    yield from _outputs(facts, fusion)


#: What the items of the list tell in words.
_IN_WORDS = frozenset({"variant", "importance", "align", "norms", "heads"})
#: Settings that mean something with some other choice only.
_ONLY_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "scale": ("variant", ("scaled_delta",)),
    "quantile": ("variant", ("threshold",)),
    "ratio": ("variant", ("winner",)),
    "weight": ("variant", ("quadratic", "tempered")),
    "power": ("variant", ("tempered",)),
    "floor": ("variant", ("quadratic", "tempered")),
    "energy": ("variant", ("null_space",)),
    "restarts": ("align", ("weights", "activations")),
    "seed": ("align", ("weights", "activations")),
}


def settings(facts: CardFacts) -> dict[str, Any]:
    """The parameters of a fusion that decide something and stand in no item of `how`."""
    chosen = facts.method_parameters
    return {
        name: value
        for name, value in chosen.items()
        if name not in _IN_WORDS
        and ((with_ := _ONLY_WITH.get(name)) is None or chosen.get(with_[0], with_[1][0]) in with_[1])
    }


def _item(name: str, text: str) -> Safe:
    return Safe(f"**{name}:** {text}")


def _variant(chosen: Mapping[str, Any]) -> Iterator[Safe]:
    variant = chosen.get("variant")
    if variant is None:
        return
    values = {name: prose(plain_value(chosen.get(name, "?"))) for name in ("scale", "quantile", "power")}
    text = _VARIANTS.get(str(variant))
    yield _item("Variant", f"{code(str(variant))}" + (f": {text.format(**values)}." if text else "."))
    importance = chosen.get("importance")
    if importance is not None and variant != "null_space":
        said = _IMPORTANCE.get(str(importance)) or code(str(importance))
        yield _item("How important a weight is", f"{said}.")


def _norms(facts: CardFacts, norms: str) -> str:
    """What became of batch normalisation, and of its statistics."""
    text = _NORMS.get(norms) or code(norms)
    if facts.recalibration is not None:
        return f"{text}; statistics are measured anew on images of {code(facts.recalibration.task)}"
    return f"{text}{_POOLED if norms == 'average' else ''}"


def _looked_at(facts: CardFacts, fusion: Fusion) -> Iterator[Safe]:
    """The unlabelled images of the sources."""
    seen = [
        f"{_number(one)} of {code(one.task)}{_only(one)} for {code(parent.name)}"
        for one, parent in zip(fusion.images, facts.parents, strict=False)
        if one is not None
    ]
    if seen:
        yield _item("Unlabelled images", f"{'; '.join(seen)}.")


def _number(images: Images) -> str:
    return f"{images.train:,}" if images.train is not None else "all"


def _only(images: Images) -> str:
    return f" (only {classes_named(images.classes)})" if images.classes else ""


def _outputs(facts: CardFacts, fusion: Fusion) -> Iterator[Safe]:
    """What the outputs stand for, where every source says it."""
    if not fusion.outputs:
        return
    if len(set(fusion.classes)) == 1:
        yield _item("Outputs", f"{_HEADS['shared']}; all sources name the same {len(fusion.outputs):,} classes.")
        return
    heads = _HEADS.get(str(facts.method_parameters.get("heads", "shared")), _HEADS["shared"])
    each = [
        f"{code(parent.name)} knows {classes_named(known)}"
        for known, parent in zip(fusion.classes, facts.parents, strict=False)
        if known
    ]
    yield _item("Outputs", f"{heads}. {'; '.join(each)}.")


def files(facts: CardFacts) -> list[dict[str, str]]:
    """What lies beside the weights because it was measured of the sources, as rows."""
    fusion = facts.fusion
    if fusion is None:
        return []
    return [
        {
            "name": code(one.name),
            "what": Safe(_FILES.get(one.kind, prose(one.kind)) + _of(facts, one.source)),
            "size": "-" if one.size is None else f"{one.size / 1e6:,.1f} MB",
            "sha256": code(one.sha256),
        }
        for one in fusion.measured
    ]


def _of(facts: CardFacts, source: int) -> str:
    return f" of {code(facts.parents[source].name)}" if source < len(facts.parents) else ""


def limits(facts: CardFacts) -> Iterator[Safe]:
    """What must not be expected of a fused network."""
    fusion = facts.fusion
    if fusion is None or facts.epochs:
        return
    single = facts.method in ("weight_sum", "nonessential")
    if facts.metrics is None:
        yield Safe(
            "It was neither trained nor tested: a fused network can be as good as the ensemble of its sources or no better than "
            "chance. Test it on images of your own before you use it."
        )
    elif not any(row.is_named("ensemble") for row in fusion.compared):
        yield Safe("The ensemble of its sources, which it is to take the place of, was not measured beside it.")
    yield from _worse(facts, fusion)
    if single and facts.method_parameters.get("align", "none") == "none" and facts.start is None:
        yield Safe(
            "The sources' channels were not aligned, and nothing says that they were trained from one start: weights of "
            "networks that began differently do not fit each other."
        )
    if fusion.disjoint:
        yield _disjoint(single)
    if not single:
        yield Safe(
            "It was fitted to what its layers take in on the images named above: on images that differ from them it may do "
            "worse."
        )
    if fusion.norms and facts.recalibration is None and facts.method_parameters.get("norms") != "fold":
        yield Safe(
            "Statistics of batch normalisation are the sources', put together: measure them anew on images of your own if it does "
            "worse than they do."
        )


def _worse(facts: CardFacts, fusion: Fusion) -> Iterator[Safe]:
    """That a source alone does better, where it does."""
    ours = next((row for row in fusion.compared if row.is_ours), None)
    alone = [row for row in fusion.compared if row.parent is not None and row.parent < len(facts.parents)]
    best = max(alone, key=lambda row: row.accuracy.value, default=None)
    if ours is not None and best is not None and best.accuracy.value > ours.accuracy.value:
        yield Safe(
            f"On the test images {row_as_markdown(best, facts)} is better: there, fusing has lost more than it has brought together."
        )


def _disjoint(single: bool) -> Safe:
    deep = (
        " Deep networks that know different classes, and that no training on all of them went before, have lost much where their "
        "weights were fused one by one, as here; shallow ones from one start have not (kzoo's study `fusion`)."
    )
    return Safe(
        "Its sources have not seen the same classes: what tells a class of one from a class of another was never learnt."
        f"{deep if single else ''}"
    )

"""Rank the trained models of a zoo for one target: exact top k, filters, ties, warnings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kzoo.encoding import Floats, encode_one
from kzoo.errors import InputError
from kzoo.layers import Architecture
from kzoo.license_terms import PERMISSIVE_LICENSES
from kzoo.matching import Measure, seen_by
from kzoo.scan import Scan, compiled_engine
from kzoo.zoo import Model, Places, Zoo

# The limits come from the authors' CIFAR-100 table (DPIAT notes, 3.2 and 5).
_HARMFUL_BELOW = 0.35
_UNCERTAIN_BELOW = 0.5
HARMFUL = "all 21 such pairs of the authors' CIFAR-100 table got worse; one replication found no difference"
UNCERTAIN = "uncertain: 3 of 10 such pairs of the authors' CIFAR-100 table got better"

# Values equal to this many digits are ties; it also hides that two ways to the same value may differ in the last bit.
_DIGITS = 12


@dataclass(frozen=True)
class Filters:
    """Which checkpoints may be recommended; an empty field allows all. Case does not matter.

    ``licenses`` are ids, or ``permissive``; ``trained_on`` names a data set among those a checkpoint has seen.

    Raises:
        InputError: a field is of another type.
    """

    licenses: Sequence[str] = ()
    task: str | None = None
    max_params: int | None = None
    library: str | None = None
    trained_on: str | None = None
    exclude_same: bool = False

    def __post_init__(self) -> None:
        licenses = (self.licenses,) if isinstance(self.licenses, str) else tuple(self.licenses or ())
        texts = (*licenses, *(text for text in (self.task, self.library, self.trained_on) if text is not None))
        if not all(isinstance(text, str) for text in texts):
            raise InputError("licenses, task, library and trained_on are text, such as 'mit' or 'imagenet-1k'")
        if self.max_params is not None and not isinstance(self.max_params, int):
            raise InputError(f"max_params is {self.max_params!r}: expected a whole number")
        object.__setattr__(self, "licenses", tuple(license.lower() for license in licenses))
        for name in ("task", "library", "trained_on"):
            text = getattr(self, name)
            object.__setattr__(self, name, text if text is None else text.lower())

    def select(self, models: Iterable[Model]) -> list[Model]:
        """The checkpoints that pass; ``exclude_same`` depends on the target and is not looked at here.

        Raises:
            InputError: a filter names something that none of the models has.
        """
        models = list(models)
        known = {
            "license": {"permissive", *(text.lower() for model in models for text in _licenses(model))},
            "task": {model.task.lower() for model in models if model.task},
            "library": {model.library for model in models},
            "data set": {data.lower() for model in models for data in model.trained_on},
        }
        wanted = {
            "license": self.licenses,
            "task": [self.task],
            "library": [self.library],
            "data set": [self.trained_on],
        }
        for what, texts in wanted.items():
            for text in texts:
                if text is not None and text not in known[what]:
                    raise InputError(
                        f"no model has the {what} {text!r}: expected one of {', '.join(sorted(known[what]))}"
                    )
        return [model for model in models if self._allows(model)]

    def _allows(self, model: Model) -> bool:
        permitted = "permissive" in self.licenses and model.license.lower() in PERMISSIVE_LICENSES
        named = any(text.lower() in self.licenses for text in _licenses(model))
        return (
            (not self.licenses or permitted or named)
            and self.task in (None, model.task)
            and (self.max_params is None or model.parameters <= self.max_params)
            and self.library in (None, model.library)
            and (self.trained_on is None or self.trained_on in map(str.lower, model.trained_on))
        )


def _licenses(model: Model) -> list[str]:
    """What a filter may call a model's license."""
    return [text for text in (model.license, model.license_name) if text]


@dataclass(frozen=True)
class Row:
    """One recommended source: the best checkpoint of an architecture, or any checkpoint with all weights listed.

    ``similarity`` is by the measure asked for; ``symmetric``, ``directed``, ``reverse`` and ``coverage`` are the paper's
    in any case, None where the paper's measure sees nothing of the target. ``exact`` is False where the target's or the
    model's architecture is approximate. ``checkpoints`` counts those that share the fingerprint and pass the filters,
    ``also`` names the other architectures among them; ``same`` tells that the target has this fingerprint. ``origin`` is
    the registry that the model comes from.
    """

    rank: int
    model: str
    architecture: str
    similarity: float
    symmetric: float | None
    directed: float | None
    reverse: float | None
    coverage: float | None
    params: int
    license: str
    license_name: str | None
    exact: bool
    warning: str | None
    accuracy: float | None
    library: str
    task: str | None
    classes: int | None
    input_size: tuple[int, ...] | None
    trained_on: tuple[str, ...]
    checkpoints: int
    also: tuple[str, ...]
    same: bool
    origin: str


@dataclass(frozen=True)
class Recommendation(Sequence[Row]):
    """The ranking of one target: a sequence of rows, best first.

    ``scanned`` counts the checkpoints that passed the filters and were ranked, ``architectures`` their fingerprints.
    ``exact`` is False where the target's architecture is approximate, and with it the whole ranking.
    """

    target: str
    measure: str
    exact: bool
    scanned: int
    architectures: int
    elapsed_ms: float
    results: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``kzoo recommend --json`` prints it."""
        return asdict(self)


def search(
    zoo: Zoo,
    target: Architecture,
    k: int = 10,
    measure: Measure = "symmetric",
    filters: Filters | None = None,
    all_weights: bool = False,
    use_stored: bool = True,
) -> Recommendation:
    """The k best sources for ``target`` among all trained models of ``zoo``.

    Rows of equal similarity are ordered by coverage (more first), accuracy (unknown last), fewer parameters, id. A
    stored ranking of an indexed target only says where to look: every value is computed anew. With ``use_stored`` off
    everything is scanned.

    Raises:
        InputError: the target has no layer that the measure can see, k is not positive, or the measure is unknown.
    """
    started = time.perf_counter()
    seen = seen_by(measure, target)
    if not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}: ask for at least one result, in whole numbers")
    filters = filters or Filters()
    space = space_of(measure)
    own_place = zoo.spaces[space].by_fingerprint.get(seen.fingerprint)
    eligible: dict[int, list[Model]] = {}
    for model in filters.select(zoo.models.values()):
        if not (filters.exclude_same and model.places[space] == own_place):
            eligible.setdefault(model.places[space], []).append(model)
    ranked = (
        _from_stored(zoo, seen, own_place, k, measure, set(eligible)) if use_stored and own_place is not None else None
    )
    if ranked is None:
        ranked = _Ranked.scan(zoo.spaces[space], seen, measure, sorted(eligible))
    own = zoo.architecture_of(target.name)
    found = _top(ranked, eligible, k, all_weights, own)
    paper = _paper_values(zoo, target, ranked, found, space)
    return Recommendation(
        target=target.name,
        measure=measure,
        exact=not target.approximate,
        scanned=sum(map(len, eligible.values())),
        architectures=len(eligible),
        elapsed_ms=round((time.perf_counter() - started) * 1000, 3),
        results=tuple(
            _row(rank, row, values, same=row.place == own_place, exact=not target.approximate)
            for rank, (row, values) in enumerate(zip(found, paper, strict=True), start=1)
        ),
    )


def space_of(measure: Measure) -> str:
    """The space of the index in which a measure is computed."""
    return "extended" if measure == "extended" else "paper"


class _Ranked:
    """Places with their values for one target, best first; coverage on demand.

    ``scans`` are the target against some sources each, with the column in which a place stands there.
    """

    def __init__(self, target: Architecture, measure: Measure, scans: Sequence[tuple[Scan, dict[int, int]]]) -> None:
        self.target = target
        self._homes = {place: (scan, column) for scan, columns in scans for place, column in columns.items()}
        places = list(self._homes)
        directed = np.concatenate([_directed(*part, target) for part in scans])
        backward = np.concatenate([_backward(*part) for part in scans])
        values = {"symmetric": np.sqrt(directed * backward), "directed": directed, "reverse": backward}
        rounded = {name: value.round(_DIGITS) for name, value in values.items()}
        # The extended measure is the symmetric one over more kinds of layers.
        chosen = rounded.get(measure, rounded["symmetric"])
        self.order = [places[i] for i in np.argsort(-chosen, kind="stable")]
        self.values = {
            place: {"similarity": float(chosen[i]), **{name: float(rounded[name][i]) for name in rounded}}
            for i, place in enumerate(places)
        }

    @classmethod
    def scan(cls, zoo: Places, target: Architecture, measure: Measure, places: Sequence[int]) -> _Ranked:
        """Match the target against the whole first index, and the few places that only later ones have."""
        encoding = zoo.first.encoding
        more = [place for place in places if place >= len(encoding)]
        whole = Scan(encode_one(target), encoding, compiled_engine())
        parts = [(whole, {place: place for place in places if place < len(encoding)})]
        return cls(target, measure, parts + ([_few(zoo, target, more)] if more else []))

    @classmethod
    def some(cls, zoo: Places, target: Architecture, measure: Measure, places: Sequence[int]) -> _Ranked:
        """Match the target against a few places only."""
        return cls(target, measure, [_few(zoo, target, places)])

    def similarity(self, place: int) -> float:
        """Similarity by the measure asked for."""
        return self.values[place]["similarity"]

    def coverage(self, place: int) -> float:
        """Coverage of the target by the architecture at a place."""
        scan, column = self._homes[place]
        return round(min(1.0, scan.overwritten(column) / self.target.entries), _DIGITS)


def _few(zoo: Places, target: Architecture, places: Sequence[int]) -> tuple[Scan, dict[int, int]]:
    return Scan(encode_one(target), zoo.encode(places)), {place: column for column, place in enumerate(places)}


def _directed(scan: Scan, columns: dict[int, int], target: Architecture) -> Floats:
    return np.asarray(scan.forward_values()[0][list(columns.values())] / target.typed_layers)


def _backward(scan: Scan, columns: dict[int, int]) -> Floats:
    chosen = list(columns.values())
    # A source of which the measure sees nothing has the value 0.
    return np.asarray(scan.reverse_values()[0][chosen] / np.maximum(scan.sources.typed[chosen], 1))


def _from_stored(
    zoo: Zoo, target: Architecture, own_place: int, k: int, measure: Measure, eligible: set[int]
) -> _Ranked | None:
    """Values of the first places of the stored ranking, far enough that no other can be among the k best.

    Places that only later layers have trained models for are not in any stored ranking: all of them are looked at.
    None where the stored part is too short to be sure.
    """
    space = space_of(measure)
    places = zoo.spaces[space]
    stored = places.first.ranking(measure)
    if stored is None or own_place >= len(stored):
        return None
    near = [place for place in stored[own_place].tolist() if place in eligible]
    others = sorted(eligible - zoo.ranked_places(space))
    count = min(k + 2, len(near))
    while True:
        ranked = _Ranked.some(places, target, measure, near[:count] + others)
        if count + len(others) == len(eligible):
            return ranked
        # Places further down are no better than the last one here; it must be worse than the k-th, or ties are missed.
        if count > k and ranked.similarity(near[count - 1]) < ranked.similarity(ranked.order[k - 1]):
            return ranked
        if count == len(near):
            return None
        count = min(2 * count, len(near))


@dataclass(frozen=True)
class _Found:
    """A place that made it into the ranking, the checkpoint to show of it, and all that share it."""

    place: int
    similarity: float
    coverage: float
    model: Model
    models: list[Model]


def _top(ranked: _Ranked, eligible: dict[int, list[Model]], k: int, all_weights: bool, own: str | None) -> list[_Found]:
    """The first k rows: whole groups of equal similarity are ordered by the documented tie rule."""
    rows: list[_Found] = []
    for group in _ties(ranked):
        if len(rows) >= k:
            break
        found = []
        for place in group:
            models = _best_first(eligible[place], own)
            coverage = ranked.coverage(place)
            found += [
                _Found(place, ranked.similarity(place), coverage, model, models)
                for model in (models if all_weights else models[:1])
            ]
        found.sort(
            key=lambda row: (-row.coverage, *_unknown_last(row.model.accuracy), row.model.parameters, row.model.id)
        )
        rows += found
    return rows[:k]


_Values = dict[str, float | None]
_NOTHING: _Values = {"symmetric": None, "directed": None, "reverse": None, "coverage": None}


def _paper_values(zoo: Zoo, target: Architecture, ranked: _Ranked, found: list[_Found], space: str) -> list[_Values]:
    """The paper's values and coverage of each row, whatever measure they were ranked by."""
    if space != "paper":
        if not target.paper.typed_layers:
            return [_NOTHING] * len(found)
        places = list(dict.fromkeys(row.model.places["paper"] for row in found))
        ranked = _Ranked.some(zoo.spaces["paper"], target.paper, "symmetric", places)
    rows: list[_Values] = []
    for row in found:
        place = row.model.places["paper"]
        values = ranked.values[place] | {"coverage": row.coverage if space == "paper" else ranked.coverage(place)}
        rows.append({name: values[name] for name in _NOTHING})
    return rows


def _ties(ranked: _Ranked) -> Iterator[list[int]]:
    group: list[int] = []
    for place in ranked.order:
        if group and ranked.similarity(place) != ranked.similarity(group[0]):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _best_first(models: Sequence[Model], own: str | None) -> list[Model]:
    """Checkpoints of one fingerprint, the one to show first.

    Known accuracy decides; then the target's own architecture, the architecture with most checkpoints, the library's
    default among its checkpoints, and the id.
    """
    sizes = Counter(model.architecture for model in models)

    def order(model: Model) -> tuple[Any, ...]:
        name = model.architecture
        return *_unknown_last(model.accuracy), name != own, -sizes[name], name, model.order, model.id

    return sorted(models, key=order)


def _unknown_last(accuracy: float | None) -> tuple[bool, float]:
    return accuracy is None, -(accuracy or 0.0)


def _row(rank: int, found: _Found, values: _Values, same: bool, exact: bool) -> Row:
    model = found.model
    also = dict.fromkeys(other.architecture for other in found.models if other.architecture != model.architecture)
    return Row(
        rank=rank,
        model=model.id,
        architecture=model.architecture,
        similarity=found.similarity,
        **values,
        params=model.parameters,
        license=model.license,
        license_name=model.license_name,
        exact=exact and not model.form.approximate,
        warning=directed_warning(values["directed"]),
        accuracy=model.accuracy,
        library=model.library,
        task=model.task,
        classes=model.classes,
        input_size=model.input_size,
        trained_on=model.trained_on,
        checkpoints=len(found.models),
        also=tuple(also),
        same=same,
        origin=model.origin,
    )


def directed_warning(directed: float | None) -> str | None:
    """What the authors' results say of a transfer at this directed similarity; None where they were good or say nothing."""
    if directed is None:
        return None
    if directed < _HARMFUL_BELOW:
        return HARMFUL
    return UNCERTAIN if directed < _UNCERTAIN_BELOW else None

"""Rank the trained models of an index for one target: exact top k, filters, ties, warnings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kzoo.encoding import Encoding, encode, encode_one
from kzoo.errors import InputError
from kzoo.index import Index, Model
from kzoo.layers import Architecture
from kzoo.matching import Measure, require_measure, require_typed
from kzoo.scan import Scan, compiled_engine

#: Licenses that allow use, change and redistribution with no more than a notice; ``permissive`` in a filter means these.
PERMISSIVE_LICENSES = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-4.0"}
)
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
            "license": {"permissive", *(model.license.lower() for model in models)},
            "task": {model.task for model in models},
            "library": {model.library for model in models},
            "data set": {data for model in models for data in model.trained_on},
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
        return (
            (not self.licenses or permitted or model.license.lower() in self.licenses)
            and self.task in (None, model.task)
            and (self.max_params is None or model.parameters <= self.max_params)
            and self.library in (None, model.library)
            and (self.trained_on is None or self.trained_on in model.trained_on)
        )


@dataclass(frozen=True)
class Row:
    """One recommended source: the best checkpoint of an architecture, or any checkpoint with all weights listed.

    ``similarity`` is by the measure asked for; ``checkpoints`` counts those that share the fingerprint and pass the
    filters, ``also`` names the other architectures among them; ``same`` tells that the target has this fingerprint.
    """

    rank: int
    model: str
    architecture: str
    similarity: float
    symmetric: float
    directed: float
    reverse: float
    coverage: float
    params: int
    license: str
    exact: bool
    warning: str | None
    accuracy: float | None
    library: str
    task: str
    classes: int
    input_size: tuple[int, ...]
    trained_on: tuple[str, ...]
    checkpoints: int
    also: tuple[str, ...]
    same: bool


@dataclass(frozen=True)
class Recommendation(Sequence[Row]):
    """The ranking of one target: a sequence of rows, best first.

    ``scanned`` counts the checkpoints that passed the filters and were ranked, ``architectures`` their fingerprints.
    """

    target: str
    measure: str
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
    index: Index,
    target: Architecture,
    k: int = 10,
    measure: Measure = "symmetric",
    filters: Filters | None = None,
    all_weights: bool = False,
    use_stored: bool = True,
) -> Recommendation:
    """The k best sources for ``target`` among all trained models of ``index``.

    Rows of equal similarity are ordered by coverage (more first), accuracy (unknown last), fewer parameters, id. A
    stored ranking of an indexed target only says where to look: every value is computed anew. With ``use_stored`` off
    everything is scanned.

    Raises:
        InputError: the target has no layer that the measure can see, k is not positive, or the measure is unknown.
    """
    started = time.perf_counter()
    require_measure(measure)
    require_typed(target)
    if not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}: ask for at least one result, in whole numbers")
    filters = filters or Filters()
    own_place = index.places.get(target.fingerprint)
    eligible: dict[int, list[Model]] = {}
    for model in filters.select(index.models.values()):
        if not (filters.exclude_same and model.place == own_place):
            eligible.setdefault(model.place, []).append(model)
    ranked = (
        _from_stored(index, target, own_place, k, measure, set(eligible))
        if use_stored and own_place is not None
        else None
    )
    if ranked is None:
        ranked = _Ranked.scan(index, target, measure, sorted(eligible))
    own = index.architecture_of(target.name)
    rows = [_row(*found, own_place) for found in _top(ranked, eligible, k, all_weights, own)]
    return Recommendation(
        target=target.name,
        measure=measure,
        scanned=sum(map(len, eligible.values())),
        architectures=len(eligible),
        elapsed_ms=round((time.perf_counter() - started) * 1000, 3),
        results=tuple(rows),
    )


class _Ranked:
    """Places with their values for one target, best first; coverage on demand."""

    def __init__(self, target: Architecture, scan: Scan, measure: Measure, columns: dict[int, int]) -> None:
        self.target, self._scan, self._columns = target, scan, columns
        places = list(columns)
        forward, reverse = scan.forward_values()[0], scan.reverse_values()[0]
        chosen = [columns[place] for place in places]
        directed = forward[chosen] / target.typed_layers
        backward = reverse[chosen] / scan.sources.typed[chosen]
        values = {"symmetric": np.sqrt(directed * backward), "directed": directed, "reverse": backward}
        rounded = {name: value.round(_DIGITS) for name, value in values.items()}
        self.order = [places[i] for i in np.argsort(-rounded[measure], kind="stable")]
        self.values = {
            place: {"similarity": float(rounded[measure][i]), **{name: float(rounded[name][i]) for name in rounded}}
            for i, place in enumerate(places)
        }

    @classmethod
    def scan(cls, index: Index, target: Architecture, measure: Measure, places: Sequence[int]) -> _Ranked:
        """Match the target against the whole index."""
        scan = Scan(encode_one(target), index.encoding, compiled_engine())
        return cls(target, scan, measure, {place: place for place in places})

    @classmethod
    def some(cls, index: Index, target: Architecture, measure: Measure, places: Sequence[int]) -> _Ranked:
        """Match the target against a few places only."""
        scan = Scan(encode_one(target), _subset(index, places))
        return cls(target, scan, measure, {place: column for column, place in enumerate(places)})

    def similarity(self, place: int) -> float:
        """Similarity by the measure asked for."""
        return self.values[place]["similarity"]

    def coverage(self, place: int) -> float:
        """Coverage of the target by the architecture at a place."""
        return min(1.0, self._scan.overwritten(self._columns[place]) / self.target.entries)


def _subset(index: Index, places: Sequence[int]) -> Encoding:
    return encode([Architecture(index.items(place)) for place in places])


def _from_stored(
    index: Index, target: Architecture, own_place: int, k: int, measure: Measure, eligible: set[int]
) -> _Ranked | None:
    """Values of the first places of the stored ranking, far enough that no other can be among the k best.

    None where the stored part is too short to be sure.
    """
    stored = index.ranking(measure)
    if stored is None:
        return None
    near = [place for place in stored[own_place].tolist() if place in eligible]
    count = min(k + 2, len(near))
    while True:
        ranked = _Ranked.some(index, target, measure, near[:count])
        if count == len(eligible):
            return ranked
        # Places further down are no better than the last one here; it must be worse than the k-th, or ties are missed.
        if count > k and ranked.similarity(ranked.order[-1]) < ranked.similarity(ranked.order[k - 1]):
            return ranked
        if count == len(near):
            return None
        count = min(2 * count, len(near))


_Found = tuple[int, dict[str, float], float, Model, list[Model]]


def _top(ranked: _Ranked, eligible: dict[int, list[Model]], k: int, all_weights: bool, own: str | None) -> list[_Found]:
    """The first k rows: whole groups of equal similarity are ordered by the documented tie rule."""
    rows: list[_Found] = []
    for group in _ties(ranked):
        if len(rows) >= k:
            break
        found = []
        for place in group:
            models = _best_first(eligible[place], own)
            coverage = round(ranked.coverage(place), _DIGITS)
            found += [
                (ranked.values[place], coverage, model, models) for model in (models if all_weights else models[:1])
            ]
        found.sort(key=lambda row: (-row[1], *_unknown_last(row[2].accuracy), row[2].parameters, row[2].id))
        rows += [(len(rows) + offset, *row) for offset, row in enumerate(found, start=1)]
    return rows[:k]


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


def _row(
    rank: int, values: dict[str, float], coverage: float, model: Model, models: list[Model], own_place: int | None
) -> Row:
    also = dict.fromkeys(other.architecture for other in models if other.architecture != model.architecture)
    return Row(
        rank=rank,
        model=model.id,
        architecture=model.architecture,
        **values,
        coverage=coverage,
        params=model.parameters,
        license=model.license,
        exact=True,
        warning=directed_warning(values["directed"]),
        accuracy=model.accuracy,
        library=model.library,
        task=model.task,
        classes=model.classes,
        input_size=model.input_size,
        trained_on=model.trained_on,
        checkpoints=len(models),
        also=tuple(also),
        same=model.place == own_place,
    )


def directed_warning(directed: float) -> str | None:
    """What the authors' results say of a transfer at this directed similarity; None where they were good."""
    if directed < _HARMFUL_BELOW:
        return HARMFUL
    return UNCERTAIN if directed < _UNCERTAIN_BELOW else None

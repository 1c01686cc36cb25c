"""Whether networks can be fused, told from their headers: what differs, what would be fetched, which license the result may carry.

Nothing of the weights is read or fetched: of networks on the Hub some kilobytes come (`kzoo.hub.headers`), and of those
that are locked nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kzoo.errors import InputError, KzooError
from kzoo.hub.locks import Lock
from kzoo.hub.models import find, lock_folders, look, wanted
from kzoo.hub.names import PREFIX
from kzoo.layout import CARD, RECIPE
from kzoo.licenses import OTHER, UNKNOWN, is_known_license
from kzoo.plain_yaml import read_plain
from kzoo.publish.data_licenses import data_part
from kzoo.publish.facts import source_parent
from kzoo.publish.licensing import JointLicense, Part, joint_license
from kzoo.readers.files import WeightsFile, looks_like_path, read_weights_file
from kzoo.readers.libraries import LOCAL
from kzoo.readers.safetensors import Tensor, read_bounded
from kzoo.recipe import IMAGES, Recipe, plain_task, read_recipe
from kzoo.streamed_fusing import check_streams
from kzoo.zoo import Model, Zoo

_MOST_CARD = 2_000_000
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Candidate:
    """A network that may be fused, by its header: how many ``bytes`` its weights have, and how many have to be fetched.

    ``parts`` are what it brings to the license of the result; ``same`` is equal for what is certainly the same weights.
    """

    name: str
    weights: WeightsFile
    bytes: int
    to_fetch: int
    parts: tuple[Part, ...]
    license: str | None
    same: object

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``dtypes`` counts tensors of each type."""
        tensors = tensors_of(self.weights)
        kinds = [tensor.dtype for tensor in tensors.values()]
        return {
            "name": self.name,
            "tensors": len(tensors),
            "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values() if tensor.floating),
            "dtypes": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "bytes": self.bytes,
            "fetched_bytes": self.to_fetch,
            "license": self.license,
        }


@dataclass(frozen=True)
class Fusibility:
    """Whether networks can be fused: ``problem`` says why not; ``differing`` are all tensors that differ.

    Of each differing tensor there is what each network has, in the order of ``parents``: None where it has none.
    """

    parents: tuple[Candidate, ...]
    problem: str | None
    differing: Mapping[str, tuple[Tensor | None, ...]]
    license: JointLicense

    @property
    def fits(self) -> bool:
        """Whether they can."""
        return self.problem is None

    @property
    def to_fetch(self) -> int:
        """How many bytes fusing them would fetch."""
        # What two of them share is fetched once.
        return sum({one.same: one.to_fetch for one in self.parents}.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the keys are those that ``kzoo fuse --check`` documents."""
        names = [one.name for one in self.parents]
        differing = [
            {
                "tensor": tensor,
                "parents": {
                    name: None if one is None else {"dtype": one.dtype, "shape": list(one.shape)}
                    for name, one in zip(names, versions, strict=True)
                },
            }
            for tensor, versions in self.differing.items()
        ]
        license = self.license
        return {
            "fits": self.fits,
            "problem": self.problem,
            "parents": [one.to_dict() for one in self.parents],
            "differing": differing,
            "bytes_to_fetch": self.to_fetch,
            "license": {
                "license": license.license,
                "license_name": license.license_name,
                "license_link": license.license_link,
                "category": license.category,
                "blocked": license.blocked,
                "reasons": list(license.reasons),
                "duties": list(license.duties),
                "ways_out": list(license.ways_out),
            },
        }


def tensors_of(weights: WeightsFile) -> dict[str, Tensor]:
    """The tensors of a network by the names that they have without wrappers."""
    return {ours: weights.tensors[key] for ours, key in weights.names().items()}


def fusibility(sources: Sequence[str], zoo: Callable[[], Zoo]) -> Fusibility:
    """Whether the networks that strings name, as ``kzoo fuse`` takes them, can be fused.

    Raises:
        InputError: a string names no network with weights, or a header is faulty.
        WorldError: the Hub fails.
    """
    parents = tuple(_candidate(source, zoo) for source in sources)
    tensors = [tensors_of(one.weights) for one in parents]
    every = dict.fromkeys(name for one in tensors for name in one)
    versions = {name: tuple(one.get(name) for one in tensors) for name in every}
    return Fusibility(
        parents,
        _problem(parents),
        {name: found for name, found in versions.items() if any(one != found[0] for one in found)},
        joint_license(part for one in parents for part in one.parts),
    )


def _problem(parents: Sequence[Candidate]) -> str | None:
    """Why they cannot be fused."""
    first: dict[object, str] = {}
    for one in parents:
        if one.same in first:
            return f"{one.name} is given twice, once as {first[one.same]}: expected different networks; leave one out"
        first[one.same] = one.name
    try:
        check_streams([one.name for one in parents], [one.weights for one in parents])
    except InputError as error:
        return str(error)
    return None


def _candidate(source: str, zoo: Callable[[], Zoo]) -> Candidate:
    """What a string names, in the order in which `kzoo.weights.open_trained` looks for it."""
    if source.startswith("py:"):
        raise InputError(f"{source} is code, which has no header: save its weights as a safetensors file and give that")
    model = _model(source, zoo)
    if model is not None and model.library == LOCAL:
        path = model.entry.index.path.parent / str(model.fields["path"])
        return _on_disk(read_weights_file(path), source, (_part(source, _told_of(model)),))
    if model is None and zoo().named(source) is None and not source.startswith(PREFIX) and looks_like_path(source):
        file = read_weights_file(Path(source))
        return _on_disk(file, source, _parts(file, source, zoo))
    asked = wanted(source, zoo)
    if asked is None:
        raise InputError(
            f"{source!r:.120} names no network with weights: expected a safetensors file or a folder that holds one, "
            f"local:NAME, hf:user/name, or the id of a model in a registry; nearest: {', '.join(zoo().nearest(source))}"
        )
    found = find(asked, lock_folders(zoo()))
    lock = found[1] if found is not None else look(asked).lock(asked.key, asked.name.revision)
    return _on_hub(lock, model)


def _model(source: str, zoo: Callable[[], Zoo]) -> Model | None:
    named = zoo().named(source)
    if named is None:
        return zoo().model(source)
    models = (model for model in zoo().models.values() if model.entry is named[0] and named[1] in ("", model.tag))
    return next(models, None)


def _on_disk(file: WeightsFile, name: str, parts: tuple[Part, ...]) -> Candidate:
    size = sum(shard.stat().st_size for shard in file.shards)
    license = parts[0].license if len(parts) == 1 and parts[0].kind == "model" else None
    place = tuple(str(shard.resolve()) for shard in file.shards)
    return Candidate(name, file, size, 0, parts, None if license == UNKNOWN else license, place)


def _on_hub(lock: Lock, model: Model | None) -> Candidate:
    from kzoo.hub.pull import absent_files

    files = [file for file in lock.files if file.name.endswith(_SUFFIX)]
    told = lock.told if "license" in lock.told else _told_of(model)
    part = _part(lock.pinned, told)
    return Candidate(
        name=lock.pinned,
        weights=lock.weights,
        bytes=sum(file.size for file in files),
        to_fetch=sum(file.size for file in absent_files(lock)),
        parts=(part,),
        license=None if part.license == UNKNOWN else part.license,
        same=tuple(file.sha256 for file in files),
    )


def _told_of(model: Model | None) -> Mapping[str, Any]:
    """What a registry tells of a model's license."""
    if model is None or model.license == UNKNOWN:
        return {}
    return {
        "license": model.license,
        "license_name": model.license_name,
        "license_link": model.fields.get("license_link"),
    }


def _part(name: str, told: Mapping[str, Any]) -> Part:
    """A network with the license that somebody tells of it; with none that is known, its terms are unknown."""
    license, given, link = (_text(told.get(key)) for key in ("license", "license_name", "license_link"))
    if license is None or license.lower() == UNKNOWN:
        return Part(name, "model", UNKNOWN)
    if license.lower() == OTHER or not is_known_license(license):
        return Part(name, "model", OTHER, given or (license if license.lower() != OTHER else None), link)
    return Part(name, "model", license, given, link)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _parts(file: WeightsFile, name: str, zoo: Callable[[], Zoo]) -> tuple[Part, ...]:
    """What a file brings: the license of the card beside it; else, of a model that kzoo made, what it was made from."""
    folder = file.path.parent
    told = _card(folder / CARD)
    if _text(told.get("license")) is not None or not (folder / RECIPE).is_file():
        return (_part(name, told),)
    recipe = read_recipe(folder / RECIPE)
    sources = [] if recipe.method == "random" else recipe.sources
    parents = [source_parent(source, folder, zoo) for source in sources]
    models = [_part(one.name, vars(one)) for one in parents]
    return (*models, *(data_part(task) for task in _tasks(recipe)))


def _tasks(recipe: Recipe) -> list[str]:
    """The images that a model was made with."""
    sections = [getattr(recipe, name) for name in IMAGES] + [source.images for source in recipe.sources]
    return list(dict.fromkeys(plain_task(section.task) for section in sections if section is not None))


def _card(path: Path) -> Mapping[str, Any]:
    """The metadata of a card; nothing where there is none that can be read."""
    try:
        text = read_bounded(path, _MOST_CARD).decode("utf-8", errors="replace") if path.is_file() else ""
        head = text.removeprefix("---\n").partition("\n---")[0] if text.startswith("---\n") else ""
        data = read_plain(head).data
    except KzooError:
        return {}
    return data if isinstance(data, dict) else {}

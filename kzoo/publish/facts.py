"""Everything that the card of a model folder says, as plain data: read from the folder, without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kzoo.claims import Interval
from kzoo.errors import InputError, KzooError, WorldError
from kzoo.faults import Document, read_json
from kzoo.hashing import weights_sha256
from kzoo.hub.models import find, lock_folders
from kzoo.hub.names import is_repository, parse_wanted
from kzoo.layout import COMPARISON, CONFIG, ENVIRONMENT, METRICS, PICTURE, PLAN, RECIPE, TENSORS, WEIGHTS, side_input
from kzoo.methods.amalgamation.parameters import AMALGAMATION
from kzoo.publish.amalgamation_facts import Amalgamation, Teaching, amalgamation_of
from kzoo.publish.fusion_facts import Compared, Comparison, Fusion, fusion_of
from kzoo.publish.intervals import proportion
from kzoo.publish.papers import method_of
from kzoo.publish.trust import obstacles
from kzoo.readers.files import WeightsFile, read_weights_file
from kzoo.recipe import DataSection, Recipe, SourceSection, plain_task, public_path, read_recipe
from kzoo.zoo import SHIPPED, Model, Zoo

#: Methods that make one network of several even where only one source is named.
_MERGING = frozenset({"weight_sum", "nonessential", "regmean", "layerwise"})
_MOST_CONFIG = 5_000_000
_MOST_METRICS = 50_000_000
#: Id, name and address of a license, as far as they are known.
_License = tuple[str | None, str | None, str | None]
#: The images that a model is tested on, and those that its maker held back from training.
TESTED, HELD_BACK = "test images", "images held back"
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: A model of a registry whose id is that of its repository on the Hub.
_TIMM_ID = re.compile(r"timm/[\w.-]+")
#: Tasks that are data sets on the Hub too, with their ids there.
_ON_THE_HUB = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
_DESCRIBED = {
    "digits": "handwritten digits of 8x8 pixels, from scikit-learn",
    "glyphs": "letters and digits drawn from text fonts by kzoo",
    "imagefolder": "images of its maker's own",
}


@dataclass(frozen=True)
class CardLicense:
    """The license of a model with why it is this one, what it obliges to, and who has allowed it where that is needed.

    ``license`` is an id of the Hub; ``other`` needs ``license_name`` and ``license_link``.
    """

    license: str
    license_name: str | None = None
    license_link: str | None = None
    reasons: tuple[str, ...] = ()
    duties: tuple[str, ...] = ()
    permission: str | None = None


@dataclass(frozen=True)
class Parent:
    """A source: what people call it, its sha256, where it is on the Hub, and its license, as far as they are known.

    ``shipped`` is a model that comes with kzoo.
    """

    name: str
    sha256: str
    repository: str | None = None
    revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    shipped: bool = False

    def __post_init__(self) -> None:
        if self.repository is not None:
            _require_repository(self.repository)
        if self.revision is not None and not _COMMIT.fullmatch(self.revision):
            raise InputError(f"revision {self.revision!r:.60} is no commit: expected 40 hexadecimal digits")


@dataclass(frozen=True)
class Images:
    """Images of a task; without numbers all of it, without size as the task has them, or only those of some classes.

    So many of the training images were ``held_back``.
    """

    task: str
    about: str | None
    dataset: str | None
    train: int | None
    test: int | None
    size: int | None
    channels: int | None
    seed: int
    fingerprint: str | None
    classes: tuple[str, ...] | None = None
    held_back: int | None = None


@dataclass(frozen=True)
class Metrics:
    """What a test gave; ``first`` is the accuracy after the first of several epochs."""

    images: int
    accuracy: Interval
    top5: Interval | None
    loss: float
    first: float | None


@dataclass(frozen=True)
class Baseline:
    """Another start of the same task: method, sources, metrics, and what else was different."""

    method: str
    parameters: Mapping[str, Any]
    sources: tuple[str, ...]
    epochs: int
    metrics: Metrics
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Transferred:
    """The share of the learned entries that came from the sources, and how many layers got all, some or nothing."""

    share: float
    whole: int
    part: int
    nothing: tuple[str, ...]

    @property
    def layers(self) -> int:
        """How many there are."""
        return self.whole + self.part + len(self.nothing)


@dataclass(frozen=True)
class FileFacts:
    """A file of the folder."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says. ``network`` is the network as kzoo's commands take it, ``repository`` ``user/name``.

    ``obstacles`` are why others cannot make it again. ``start`` are the weights that all parents were trained from, where
    they are named (those that a student began with), ``fusion`` is what is known of a network that was fused, and ``amalgamation``
    of one that several networks taught. ``tested_on`` says on which images it was tested.
    """

    title: str
    repository: str | None
    library: str
    network: str
    edits: int
    parameters: int
    classes: int | None
    labels: tuple[str, ...]
    method: str
    method_parameters: Mapping[str, Any]
    seed: int
    parents: tuple[Parent, ...]
    relation: str | None
    plan: bool
    transferred: Transferred | None
    calibration: Images | None
    recalibration: Images | None
    data: Images | None
    training: Mapping[str, Any] | None
    metrics: Metrics | None
    baselines: tuple[Baseline, ...]
    threads: int | None
    versions: Mapping[str, str]
    license: CardLicense | None
    obstacles: tuple[str, ...]
    picture: str | None
    files: tuple[FileFacts, ...]
    start: Parent | None = None
    fusion: Fusion | None = None
    amalgamation: Amalgamation | None = None
    tested_on: str = TESTED

    def __post_init__(self) -> None:
        if self.repository is not None:
            _require_repository(self.repository, owned=True)

    @property
    def looked_at(self) -> tuple[Images, ...]:
        """Unlabelled images that a fusion has seen of its sources."""
        return tuple(one for one in (self.fusion.images if self.fusion is not None else ()) if one is not None)

    @property
    def compared(self) -> tuple[Compared, ...]:
        """The model and what was measured beside it on the same images."""
        taught = () if self.amalgamation is None else self.amalgamation.compared
        return taught if self.fusion is None else self.fusion.compared

    @property
    def epochs(self) -> int:
        """How many epochs it was trained for."""
        return int(self.training["epochs"]) if self.training is not None else 0


def _require_repository(name: str, owned: bool = False) -> None:
    """Refuse what is no repository's name, ``user/name`` where it must have an owner."""
    if not is_repository(name) or (owned and "/" not in name):
        raise InputError(f"{name!r:.120} names no repository: expected user/name")


class _Section(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class _Origin(_Section):
    recipe: str = Field(pattern=r"^[0-9a-f]{64}$", description="The digest of the recipe")
    method: str = Field(min_length=1)
    transferred: dict[str, float] = Field(default={}, description="The share of each tensor that was carried")


class _Config(_Section):
    library_name: str = Field(pattern="^(timm|torchvision|kzoo)$", description="Which library builds the network")
    architecture: str = Field(min_length=1)
    num_classes: int | None = Field(default=None, ge=0)
    model_args: dict[str, Any] = {}
    label_names: list[str] = []
    edits: list[dict[str, Any]] = []
    kzoo: _Origin = Field(description="What kzoo transfer and kzoo run write of the weights")


class _Test(_Section):
    accuracy: float = Field(ge=0, le=1)
    loss: float
    top5: float | None = Field(default=None, ge=0, le=1)
    images: int = Field(ge=1)


class _Epoch(_Section):
    epoch: int = Field(ge=1)
    test_accuracy: float = Field(ge=0, le=1)


class _History(_Section):
    epochs: list[_Epoch] = Field(description="In their order")


class _Measured(_Section):
    test: _Test
    data: str = Field(description="The fingerprint of the images")
    training: _History | None = None
    comparison: Comparison | None = None
    amalgamation: Teaching | None = None


@dataclass(frozen=True)
class _Folder:
    """What the small files of a model folder say, checked against each other."""

    path: Path
    config: _Config
    recipe: Recipe
    metrics: Metrics | None
    comparison: Comparison | None
    teaching: Teaching | None

    @property
    def network(self) -> str:
        library, name = self.config.library_name, self.config.architecture
        return name if library == "kzoo" else f"{library}:{name}"


def read_facts(
    folder: Path,
    repository: str | None = None,
    license: CardLicense | None = None,
    beside: Sequence[Path] = (),
    zoo: Callable[[], Zoo] | None = None,
) -> CardFacts:
    """What the card of a model folder says; ``beside`` are folders of other starts, tested on the same images.

    ``zoo`` knows the licenses of sources that are in registries.

    Raises:
        InputError: it is no folder that kzoo made, its files disagree or are hostile, or a folder of ``beside`` was tested
            on other images.
        WorldError: the disk fails.
    """
    found = _read_folder(folder)
    recipe, config = found.recipe, found.config
    weights = read_weights_file(folder / WEIGHTS)
    files = _files(folder, recipe)
    fusion = _fusion(found, weights, files)
    taught = _amalgamation(found)
    picture = PICTURE if fusion is None and taught is None else COMPARISON
    parents = tuple(source_parent(source, folder, zoo) for source in recipe.sources)
    return CardFacts(
        title=repository.rpartition("/")[2] if repository else found.network,
        repository=repository,
        library=config.library_name,
        network=found.network,
        edits=len(config.edits),
        parameters=weights.architecture().entries,
        classes=_classes(config, recipe),
        labels=tuple(config.label_names) or (fusion.outputs if fusion is not None else ()),
        method=recipe.method,
        method_parameters=recipe.parameters,
        seed=recipe.target.seed,
        parents=parents,
        relation=_relation(recipe),
        plan=recipe.plan is not None,
        transferred=_transferred(config.kzoo.transferred, weights),
        calibration=_images(recipe.calibration),
        recalibration=_images(recipe.recalibrate),
        data=_images(recipe.data),
        training=recipe.training.model_dump() if recipe.training is not None else None,
        metrics=found.metrics,
        baselines=tuple(_baseline(_read_folder(other), found, zoo) for other in beside),
        threads=recipe.threads,
        versions=recipe.versions,
        license=license,
        obstacles=obstacles(recipe),
        picture=picture if (folder / picture).is_file() else None,
        files=files,
        start=None if recipe.start is None else source_parent(recipe.start, folder, zoo),
        fusion=fusion,
        amalgamation=taught,
        tested_on=TESTED if recipe.data is None or recipe.data.split is None else HELD_BACK,
    )


def _fusion(found: _Folder, weights: WeightsFile, files: Sequence[FileFacts]) -> Fusion | None:
    recipe = found.recipe
    if not method_of(recipe.method).fuses:
        return None
    sizes = {file.name: file.size for file in files}
    images = [_images(source.images) for source in recipe.sources]
    return fusion_of(recipe, weights, images, sizes, found.comparison, str(found.path / METRICS))


def _amalgamation(found: _Folder) -> Amalgamation | None:
    if found.recipe.method not in AMALGAMATION:
        return None
    return amalgamation_of(found.recipe, found.metrics, found.teaching, str(found.path / METRICS))


def _read_folder(folder: Path) -> _Folder:
    if not (folder / CONFIG).is_file() or not (folder / RECIPE).is_file():
        raise InputError(
            f"{folder} is no model folder of kzoo: expected {CONFIG}, {RECIPE} and {WEIGHTS} in it, as kzoo transfer and "
            "kzoo run write them"
        )
    recipe = read_recipe(folder / RECIPE)
    if recipe.target.model == TENSORS:
        raise InputError(
            f"{folder} holds fused weights of a network that kzoo does not know, so it can neither describe nor build them for "
            "others: fuse with --network where kzoo knows it, or put the folder on the Hub yourself ('hf upload'; 'kzoo fuse --check' "
            "tells which license it may carry)"
        )
    config = read_json(folder / CONFIG, f"the {CONFIG} of a model", _MOST_CONFIG)
    told = config.validated(_Config)
    if (told.kzoo.recipe, told.kzoo.method) != (recipe.digest, recipe.method):
        raise config.fault(
            ("kzoo", "recipe"),
            f"the weights were made by another recipe than {RECIPE} beside it: make the model again with kzoo run",
        )
    return _Folder(folder, told, recipe, *_metrics(folder, recipe))


def _metrics(folder: Path, recipe: Recipe) -> tuple[Metrics | None, Comparison | None, Teaching | None]:
    path = folder / METRICS
    if recipe.data is None or not path.is_file():
        return None, None, None
    document = read_json(path, f"the {METRICS} of a model", _MOST_METRICS)
    found = document.validated(_Measured)
    if recipe.data.fingerprint not in (None, found.data):
        raise document.fault(
            ("data",), f"the test was on other images than {RECIPE} names: make the model again with kzoo run"
        )
    test, epochs = found.test, found.training.epochs if found.training is not None else []
    metrics = Metrics(
        images=test.images,
        accuracy=_share(document, "accuracy", test.accuracy, test.images),
        top5=_share(document, "top5", test.top5, test.images) if test.top5 is not None else None,
        loss=test.loss,
        first=epochs[0].test_accuracy if recipe.training is not None and len(epochs) > 1 else None,
    )
    return metrics, found.comparison, found.amalgamation


def _share(document: Document, field: str, value: float, images: int) -> Interval:
    hits = round(value * images)
    if not math.isclose(hits / images, value, abs_tol=1e-6):
        raise document.fault(("test", field), f"{value} is no share of {images:,} images: expected so many of them")
    return proportion(hits, images)


def _classes(config: _Config, recipe: Recipe) -> int | None:
    given = config.model_args.get("num_classes")
    known = config.num_classes if config.num_classes is not None else given if type(given) is int else None
    return known if known is not None else recipe.target.classes


def _relation(recipe: Recipe) -> str | None:
    """How the model stands to its sources, in the Hub's words."""
    if not recipe.sources or recipe.method == "random":
        return None
    return "merge" if len(recipe.sources) > 1 or recipe.method in _MERGING else "finetune"


def source_parent(source: SourceSection, folder: Path, zoo: Callable[[], Zoo] | None) -> Parent:
    """A source of the recipe in ``folder``, with what registries and locks tell of its license."""
    path = source.path
    if path.startswith("hf:"):
        return _from_hub(source, zoo)
    if path.startswith(("local:", "py:")) or _is_id(path, folder):
        model = None if zoo is None else _model(zoo(), source)
        repository = path if _TIMM_ID.fullmatch(path) else None
        return Parent(path, source.sha256, repository, None, *_license_of(model), _is_shipped(model))
    return Parent(public_path(path), source.sha256)


def _model(zoo: Zoo, source: SourceSection) -> Model | None:
    """The registry's model that a source is, unless its weights are others by now."""
    model = zoo.model(source.path.replace("local:", "local/", 1))
    return model if model is not None and model.fields.get("sha256") in (None, source.sha256) else None


def _is_id(path: str, folder: Path) -> bool:
    """Whether a source is the id of a model on the Hub, not a place on the disk."""
    return bool(_TIMM_ID.fullmatch(path)) and not (folder / path).exists()


def _from_hub(source: SourceSection, zoo: Callable[[], Zoo] | None) -> Parent:
    asked = parse_wanted(source.path)
    revision = asked.name.revision
    commit = revision if revision is not None and _COMMIT.fullmatch(revision) else None
    license: _License = (None, None, None)
    if zoo is not None:
        license = _license_of(zoo().models.get(asked.name.id))
        # A damaged lock is no reason to say nothing.
        with suppress(KzooError):
            found = find(asked, lock_folders(zoo()))
            license = _told(found[1].told) or license if found is not None else license
    name = asked.name.id if asked.filename is None else f"{asked.name.id}/{asked.filename}"
    return Parent(name, source.sha256, asked.name.id, commit, *license)


def _told(told: Mapping[str, Any]) -> _License | None:
    """A license as a repository's page tells it."""
    if "license" not in told:
        return None
    return told["license"], told.get("license_name"), told.get("license_link")


def _license_of(model: Model | None) -> _License:
    if model is None or model.license == "unknown":
        return None, None, None
    address = model.fields.get("license_link")
    return model.license, model.license_name, address if isinstance(address, str) else None


def _is_shipped(model: Model | None) -> bool:
    return model is not None and model.library == "local" and model.origin == SHIPPED


def _transferred(shares: Mapping[str, float], weights: WeightsFile) -> Transferred | None:
    """What was carried, by layer; a tensor that is neither weight nor bias is one of its own."""
    layers: dict[str, list[tuple[float, int]]] = {}
    for key, share in shares.items():
        if key not in weights.tensors or not 0 <= share <= 1:
            raise InputError(
                f"{weights.path.with_name(CONFIG)}: kzoo.transferred.{key:.60}: expected the shares, from 0 to 1, of tensors "
                "that the weights have: make the model again with kzoo run"
            )
        layer, _, role = key.rpartition(".")
        entry = (share, math.prod(weights.tensors[key].shape))
        layers.setdefault(layer if layer and role in ("weight", "bias") else key, []).append(entry)
    if not layers:
        return None
    entries = [entry for of_layer in layers.values() for entry in of_layer]
    nothing = [name for name, of_layer in layers.items() if not any(share for share, _ in of_layer)]
    whole = sum(all(share >= 1 for share, _ in of_layer) for of_layer in layers.values())
    return Transferred(
        share=sum(share * size for share, size in entries) / max(1, sum(size for _, size in entries)),
        whole=whole,
        part=len(layers) - whole - len(nothing),
        nothing=tuple(nothing),
    )


def _images(section: DataSection | None) -> Images | None:
    if section is None:
        return None
    task = plain_task(section.task)
    family = re.split("[/:]", task)[0]
    return Images(
        task=task,
        about=_DESCRIBED.get(family),
        dataset=_dataset(task),
        train=section.train,
        test=section.test,
        size=section.size,
        channels=section.channels,
        seed=section.seed,
        fingerprint=section.fingerprint,
        classes=section.only or section.classes,
        held_back=section.validation,
    )


def _dataset(task: str) -> str | None:
    """The data set in the card's metadata: an id of the Hub's, or a name without a slash, which can be nobody's id."""
    if task == "imagefolder":
        return None
    return _ON_THE_HUB.get(task) or re.sub(r"[^A-Za-z0-9._]+", "-", task).strip("-._")[:96] or None


def _baseline(other: _Folder, ours: _Folder, zoo: Callable[[], Zoo] | None) -> Baseline:
    if other.metrics is None or ours.metrics is None:
        untested = other.path if other.metrics is None else ours.path
        raise InputError(
            f"{untested} was never tested, so there is nothing to put side by side: run its recipe with data, as kzoo run does"
        )
    assert other.recipe.data is not None and ours.recipe.data is not None  # they have metrics
    same_images = other.recipe.data.fingerprint == ours.recipe.data.fingerprint is not None
    if not same_images or other.metrics.images != ours.metrics.images:
        raise InputError(
            f"{other.path} was tested on other images than {ours.path}, so the two do not compare: run its recipe with the "
            "same data"
        )
    if other.path.resolve() == ours.path.resolve():
        raise InputError(f"{other.path} is the model itself: give the folder of another start")
    return Baseline(
        method=other.recipe.method,
        parameters=other.recipe.parameters,
        sources=tuple(source_parent(source, other.path, zoo).name for source in other.recipe.sources),
        epochs=other.recipe.training.epochs if other.recipe.training is not None else 0,
        metrics=other.metrics,
        remarks=tuple(_differences(other, ours)),
    )


def _differences(other: _Folder, ours: _Folder) -> Iterable[str]:
    """What differs but the start."""
    if other.network != ours.network:
        yield f"network {other.network}"
    if other.recipe.target.seed != ours.recipe.target.seed:
        yield f"seed of the fresh weights {other.recipe.target.seed}"
    theirs, mine = ({} if one.recipe.training is None else one.recipe.training.model_dump() for one in (other, ours))
    for name in sorted({*theirs, *mine}):
        if name not in ("threads", "workers") and theirs.get(name) != mine.get(name):
            yield f"{name.replace('_', ' ')} {json.dumps(theirs.get(name), default=str)}"


def _files(folder: Path, recipe: Recipe) -> tuple[FileFacts, ...]:
    found = []
    measured = (side_input(each.kind, each.source) for each in recipe.inputs)
    for name in (WEIGHTS, CONFIG, RECIPE, METRICS, ENVIRONMENT, PLAN, PICTURE, COMPARISON, *measured):
        path = folder / name
        if path.is_file():
            try:
                found.append(FileFacts(name, path.stat().st_size, weights_sha256([path])))
            except OSError as error:
                raise WorldError(f"{path} cannot be read ({error.strerror or error}): check the disk") from None
    return tuple(found)

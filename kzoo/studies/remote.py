"""A unit of work away from here: what is sent to a worker, what the worker does, what comes back.

All of it is plain data, and nothing here knows what carries it: `kzoo.studies.cluster` does.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kzoo
from kzoo.errors import CheckFailed, InputError
from kzoo.layout import CONFIG, RECIPE, WEIGHTS
from kzoo.paths import index_file
from kzoo.recipe import IMAGES, Recipe, is_no_path, read_recipe, recipe_text, with_paths
from kzoo.zoo import Zoo, shipped_zoo

if TYPE_CHECKING:
    from kzoo.studies.work import Order
    from kzoo.surroundings import Surroundings

#: Larger files are not sent: they have to lie where the worker, too, finds them.
MOST_SENT = 256 * 2**20
#: Of so many callers a worker keeps the files and the images.
_CALLERS = 4

Data = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """A network, or another file, that a recipe reads: its path, and the sha256 of each file that it takes, by name."""

    path: str
    is_folder: bool
    files: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return Path(self.path) if self.is_folder else Path(self.path).parent


def _digest_of_code() -> str:
    """SHA-256 of kzoo's code and index, as they were when this process loaded this."""
    package = Path(kzoo.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\n" + path.read_bytes())
    if index_file().is_file():
        digest.update(index_file().read_bytes())
    return digest.hexdigest()


#: Taken now: a worker that runs for days would find other code on its disk than it has loaded.
_CODE = _digest_of_code()


def identity() -> Data:
    """What has to be the same on the machine that asks and on those that work: kzoo's code, and the class of machine."""
    from kzoo.environment import environment_class

    return {"kzoo": kzoo.__version__, "code": _CODE, "environment": environment_class()}


# Where the work is wanted


def job_of(order: Order, caller: str, mine: Data) -> Data:
    """A unit as plain data, with the sha256 of every file that it reads; ``caller`` tells one run of a stage from others.

    Raises:
        InputError: a file is not there, or is no network.
    """
    recipe = with_paths(order.unit.recipe, lambda text: str((order.base / text).resolve()))
    return {
        "name": order.unit.name,
        "keep": order.unit.keep,
        "recipe": recipe.model_dump(),
        "sources": [_plain(_files_at(path)) for path in _paths_of(recipe)],
        "images": sorted(str(path) for path in _folders_of_images(recipe) if path.exists()),
        "stamp": order.stamp,
        "caller": caller,
        "identity": mine,
    }


def accept(order: Order, answer: Data) -> Data:
    """The record of a unit from a worker's answer; it is written down, and the model folder too, if that is kept.

    Raises:
        CheckFailed: the answer is not what the worker sent.
        WorldError: the disk fails.
    """
    from kzoo.files import new_folder
    from kzoo.hashing import weights_sha256
    from kzoo.recipe import moved
    from kzoo.studies.work import write_down

    record, files = dict(answer["record"]), answer["files"]
    spoilt = next((name for name, sha256 in answer["sha256"].items() if _sha256(files[name]) != sha256), None)
    place = order.folder / order.unit.name
    if spoilt is None and files:
        with new_folder(place, force=True) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)
        # The worker's answer has absolute paths of this machine; results have relative ones.
        recipe = moved(read_recipe(place / RECIPE), place, place)
        (place / RECIPE).write_text(recipe_text(recipe), encoding="utf-8")
        spoilt = None if weights_sha256([place / WEIGHTS]) == record["sha256"] else WEIGHTS
    if spoilt is not None:
        raise CheckFailed(f"{spoilt} of the run {order.unit.name} came back with another sha256 than it was sent with")
    write_down(order, {key: value for key, value in record.items() if key not in ("steps", "saved")})
    return record


def _paths_of(recipe: Recipe) -> list[Path]:
    """The files and folders that a recipe reads, other than images, each once."""
    sections = [*recipe.sources, recipe.start, *recipe.inputs, recipe.plan]
    paths = [section.path for section in sections if section is not None]
    return [Path(path) for path in dict.fromkeys(paths) if not is_no_path(path)]


def _folders_of_images(recipe: Recipe) -> list[Path]:
    """The folders with images that a recipe reads."""
    sections = [getattr(recipe, name) for name in IMAGES] + [source.images for source in recipe.sources]
    found: list[Path] = []
    for section in sections:
        if section is not None:
            kind, colon, folder = section.task.partition(":")
            found += [Path(section.root)] if section.root is not None else []
            found += [Path(folder)] if colon and kind == "imagefolder" else []
    return found


def _files_at(path: Path) -> Sources:
    """The files by which a network is known at a path, or the one file that is there."""
    from kzoo.readers.files import read_weights_file

    if not path.exists():
        raise InputError(f"{path} is not there: run the stages before this one first")
    if not path.is_dir() and path.suffix != ".safetensors" and not path.name.endswith(".index.json"):
        return Sources(str(path), False, {path.name: _sha256_of(path)})
    found = read_weights_file(path)
    config = found.path.with_name(CONFIG)
    files = [found.path, *found.shards, *([config] if config.is_file() else [])]
    return Sources(str(path), path.is_dir(), {file.name: _sha256_of(file) for file in sorted(set(files))})


def _plain(sources: Sources) -> Data:
    return {"path": sources.path, "is_folder": sources.is_folder, "files": dict(sources.files)}


# Where the work is done


#: For each caller, the latest last, what a worker keeps for it: a folder, with what is opened of the files in it.
_callers: OrderedDict[str, Surroundings] = OrderedDict()


def work_on(job: Data, sent: Mapping[str, bytes], scratch: Path, worker: str, still_wanted: Callable[[], None]) -> Data:
    """Carry a unit out below the folder ``scratch``: its record and, if it is kept, the files of its model folder.

    ``sent`` are files by their sha256. The answer holds ``missing``, sha256 of files that neither lie where the unit says
    nor were sent: it is then to be sent again, with these. ``still_wanted`` is called now and then, and may raise.

    Raises:
        InputError: this machine must not carry the unit out, or cannot, as ``worker`` is told in the sentence.
        InputError, CheckFailed, WorldError: what the unit raises.
    """
    _require_identity(job["identity"], worker)
    caller = _caller(job["caller"], scratch.resolve())
    recipe = Recipe.model_validate(job["recipe"])
    missing_images = next((folder for folder in job["images"] if not Path(folder).exists()), None)
    if missing_images is not None:
        raise InputError(
            f"the worker {worker} has no {missing_images}: folders of images are not sent, so every machine needs them at that path"
        )
    places, missing = _places(job, sent, caller.base / "files", worker)
    if missing:
        return {"missing": missing}
    record, place = _carried_out(job, with_paths(recipe, lambda text: places.get(text, text)), caller, still_wanted)
    files = {path.name: path.read_bytes() for path in sorted(place.iterdir())} if place.is_dir() else {}
    if files:
        theirs = {str(Path(there).resolve()): here for here, there in places.items()}
        theirs |= {str(Path(folder).resolve()): folder for folder in job["images"]}
        recipe = with_paths(read_recipe(place / RECIPE), lambda text: theirs.get(str((place / text).resolve()), text))
        files[RECIPE] = recipe_text(recipe).encode()
    shutil.rmtree(place.parent, ignore_errors=True)
    return {"record": record, "files": files, "sha256": {name: _sha256(content) for name, content in files.items()}}


def _carried_out(
    job: Data, recipe: Recipe, caller: Surroundings, still_wanted: Callable[[], None]
) -> tuple[Data, Path]:
    """The record of a unit, and where its model folder is, if it is kept."""
    from kzoo.studies.work import Order, Unit, carry_out

    unit = Unit(job["name"], recipe, job["keep"])
    # What an earlier try of this unit has left is of no use.
    folder = caller.base / "runs" / job["stamp"]
    shutil.rmtree(folder, ignore_errors=True)
    still_wanted()
    where = replace(caller, progress=lambda _what, _done: still_wanted())
    return carry_out(Order(unit, caller.base, folder, job["stamp"]), where), folder / unit.name


def _require_identity(wanted: Data, worker: str) -> None:
    """Refuse work that would come out otherwise than on the machine that asks."""
    mine = identity()
    if (mine["kzoo"], mine["code"]) != (wanted["kzoo"], wanted["code"]):
        version = (
            f"kzoo {mine['kzoo']}, not {wanted['kzoo']}" if mine["kzoo"] != wanted["kzoo"] else "other code of kzoo"
        )
        raise InputError(
            f"the worker {worker} has {version}: give all machines the same checkout of kzoo, and start the workers again"
        )
    here, there = mine["environment"], wanted["environment"]
    odd = next((key for key in (*there, *here) if here.get(key) != there.get(key)), None)
    if odd is not None:
        raise InputError(
            f"the worker {worker} is of another class of machine ({odd}: {here.get(odd)} there, {there.get(odd)} here), whose "
            "results would not be the same bytes: use workers like this machine, or run kzoo on one like them"
        )


def _caller(name: str, scratch: Path) -> Surroundings:
    """What is kept for a caller; of those that have not asked for longest the files are removed."""
    from kzoo.remembering import STUDY, Remembered
    from kzoo.surroundings import Surroundings

    if name not in _callers:
        _callers[name] = Surroundings(scratch / name, _zoo, remembered=Remembered(STUDY))
    _callers.move_to_end(name)
    while len(_callers) > _CALLERS:
        shutil.rmtree(_callers.popitem(last=False)[1].base, ignore_errors=True)
    return _callers[name]


@cache
def _zoo() -> Zoo:
    return shipped_zoo()


def _places(job: Data, sent: Mapping[str, bytes], store: Path, worker: str) -> tuple[dict[str, str], Sequence[str]]:
    """Where the unit's sources are on this machine, by their paths on the other, and the sha256 of what is missing."""
    places: dict[str, str] = {}
    missing: list[str] = []
    for each in job["sources"]:
        sources = Sources(**each)
        # The whole path once more below the store: results tell the names of folders.
        stored = store / sources.folder.relative_to(sources.folder.anchor)
        if _all_there(sources, sources.folder):
            places[sources.path] = sources.path
            continue
        for name, sha256 in sources.files.items():
            if sha256 in sent and not _is(stored / name, sha256):
                stored.mkdir(parents=True, exist_ok=True)
                (stored / name).write_bytes(sent[sha256])
            if not _is(stored / name, sha256):
                missing.append(sha256)
        places[sources.path] = str(stored if sources.is_folder else stored / Path(sources.path).name)
    lost = [sha256 for sha256 in missing if sha256 in sent]
    if lost:
        raise CheckFailed(f"a file that was sent to the worker {worker} has another sha256 than {lost[0]} there")
    return places, list(dict.fromkeys(missing))


def _all_there(sources: Sources, folder: Path) -> bool:
    return all(_is(folder / name, sha256) for name, sha256 in sources.files.items())


def _is(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and _sha256_of(path) == sha256
    except OSError:
        return False


def _sha256_of(path: Path) -> str:
    """SHA-256 of a file, which is read again only when it has changed."""
    found = path.stat()
    return _sha256_at(path, found.st_mtime_ns, found.st_size)


@cache
def _sha256_at(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

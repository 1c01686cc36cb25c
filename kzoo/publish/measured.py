"""Files that were measured of a fusion's sources, on their way to a page and back from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from kzoo.errors import CheckFailed, InputError, WorldError
from kzoo.hashing import weights_sha256
from kzoo.hub.headers import Content
from kzoo.hub.locks import Lock, LockedFile, Network
from kzoo.hub.names import PREFIX
from kzoo.hub.pull import cached_file, missing_files, pull
from kzoo.hub.repositories import RemoteFile, Repository
from kzoo.layout import RECIPE, WEIGHTS, side_input
from kzoo.recipe import Recipe, SideInput

#: One that lies in git itself, as small ones may, is read whole.
_MOST_PLAIN = 20_000_000
#: Products of inputs may be larger than the weights; an importance is eight bytes for each, and a header.
_MOST_GRAM = 20 * 10**9
_BYTES_OF_ONE, _MOST_FISHER_HEADER = 8, 20_000_000
_MOST_TOGETHER = 100 * 10**9


def side_inputs(folder: Path, recipe: Recipe) -> dict[str, Path]:
    """The files of a model folder that its recipe names as measured, by name, each found to be the one that it names.

    Raises:
        InputError: one is not there.
        CheckFailed: one is another.
        WorldError: the disk fails.
    """
    found = {}
    for each in recipe.inputs:
        path = folder / each.path
        if not path.is_file() or each.path != side_input(each.kind, each.source):
            raise InputError(
                f"{folder} has no {side_input(each.kind, each.source)}, which its {RECIPE} needs: make the model again with kzoo run"
            )
        try:
            digest = weights_sha256([path])
        except OSError as error:
            raise WorldError(f"{path} cannot be read ({error.strerror or error}): check the disk") from None
        _require_same(each, digest, str(path))
        found[each.path] = path
    return found


def fetch_side_inputs(
    repository: Repository,
    inputs: Sequence[SideInput],
    folder: Path,
    progress: Callable[[str, float], None],
    say: Callable[[str], None],
) -> None:
    """Put the files of a page that its recipe names as measured into ``folder``; nothing is measured again.

    Before anything is fetched all of them are found to be there, of a size that such files can have, and the ones that the
    recipe names, as far as the Hub says that.

    Raises:
        InputError: one is not on the page, or larger than any such file.
        CheckFailed: one is another than the recipe names.
        WorldError: the Hub or the disk fails.
    """
    files = [(each, _promised(repository, each)) for each in inputs]
    together = sum(file.size for _, file in files)
    if together > _MOST_TOGETHER:
        raise InputError(
            f"{PREFIX}{repository.id} has {together:,} bytes that were measured of its sources, more than the {_MOST_TOGETHER:,} that "
            "are fetched"
        )
    _fetch_large(repository, [(each, file) for each, file in files if file.sha256 is not None], folder, progress, say)
    content = Content(repository)
    for each, file in files:
        if file.sha256 is None:
            whole = content.whole(each.path, _MOST_PLAIN)
            _require_same(each, hashlib.sha256(whole).hexdigest(), f"{PREFIX}{repository.id}/{each.path}")
            (folder / each.path).write_bytes(whole)


def _promised(repository: Repository, each: SideInput) -> RemoteFile:
    """What the Hub says of a file, if that is what the recipe says."""
    where = f"{PREFIX}{repository.id}/{each.path}"
    file = repository.files.get(each.path)
    if file is None:
        raise InputError(
            f"{where} is not there, but the {RECIPE} beside it needs it: ask its maker to publish it again"
        )
    weights = repository.files[WEIGHTS].size
    most = _MOST_GRAM if each.kind == "gram" else _BYTES_OF_ONE * weights + _MOST_FISHER_HEADER
    if file.size > most:
        raise InputError(
            f"{where} has {file.size:,} bytes, more than the {most:,} that a {each.kind} beside these weights can have, so it is "
            "not fetched"
        )
    if file.sha256 is not None:
        _require_same(each, file.sha256, where)
    return file


def _require_same(each: SideInput, found: str, where: str) -> None:
    if found != each.sha256:
        raise CheckFailed(
            f"{where} has the sha256 {found}, but the recipe was made with {each.sha256}: with another file it gives another model"
        )


def _fetch_large(
    repository: Repository,
    files: Sequence[tuple[SideInput, RemoteFile]],
    folder: Path,
    progress: Callable[[str, float], None],
    say: Callable[[str], None],
) -> None:
    """Bring files into the client's cache, which goes on where it was interrupted, and let ``folder`` lead to them."""
    if not files:
        return
    locked = tuple(LockedFile(name=each.path, size=file.size, sha256=each.sha256) for each, file in files)
    # No network: only files, whose content is known by its digest.
    lock = Lock(
        name=repository.id,
        repository=repository.id,
        commit=repository.commit,
        license=repository.license,
        files=locked,
        network=Network(tensors={"-": "F32"}),
    )
    missing = missing_files(lock)
    if missing:
        size = sum(file.size for file in missing)
        say(f"fetching {size / 1e6:,.1f} MB that were measured of its sources, from {PREFIX}{repository.id}")
    pull(lock, missing, progress)
    for file in locked:
        (folder / file.name).symlink_to(cached_file(lock, file).resolve())

"""The network in a repository on the Hub, by the headers of its weights: some kilobytes, whatever its size."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kzoo.errors import InputError, KzooWarning, WorldError
from kzoo.hub.client import LINKED, get_bytes, hub
from kzoo.hub.locks import Lock, LockedFile, network_of
from kzoo.hub.names import PREFIX, is_plain_name
from kzoo.hub.repositories import RemoteFile, Repository, file_url, git_oid
from kzoo.licenses import OTHER, UNKNOWN, is_known_license
from kzoo.readers.files import MOST_CONFIG, PICKLES, SHARDED, WHOLE, WeightsFile, config_claims, is_shard
from kzoo.readers.safetensors import MOST_HEADER, Tensor, joined_shards, parse_header, shard_table

_CONFIG = "config.json"
_SUFFIX = ".safetensors"
_LENGTH = 8
_TRIES = 2
#: A weights file that lies in git itself, which no large one does, is read whole.
_MOST_PLAIN = 20_000_000
#: Nearly every header is shorter, so that one request is enough; what comes with it of the weights is not much.
_FIRST = 65_536
#: What timm looks for, in this order, before any other file.
_DATASET = "dataset:"
#: Where people look at what is on the Hub, whatever mirror answers.
_PAGES = "https://huggingface.co"
_USUAL = (WHOLE, SHARDED, "open_clip_model.safetensors")
Claims = tuple[tuple[str, ...], int | None, tuple[int, ...] | None]


@dataclass(frozen=True)
class RemoteNetwork:
    """A repository's network: what its headers tell, and the files that hold it, of which the first is the one named."""

    repository: Repository
    weights: WeightsFile
    files: tuple[LockedFile, ...]

    def lock(self, name: str, asked: str | None) -> Lock:
        """The lock of it under a name; ``asked`` is the revision that led to the commit."""
        return Lock(
            name=name,
            repository=self.repository.id,
            asked=asked,
            commit=self.repository.commit,
            license=self.repository.license,
            told=told_by_page(self.repository),
            files=self.files,
            network=network_of(self.weights),
        )


def read_network(repository: Repository, filename: str | None = None) -> RemoteNetwork:
    """The network of a repository, or that in one of its files, by ranged requests.

    Raises:
        InputError: it holds no safetensors file, or several and none was named, or a header is faulty.
        WorldError: the Hub fails, or says different things of one file.
    """
    chosen = choose_weights(repository, filename)
    where = f"{PREFIX}{repository.id}/{chosen}"
    folder = chosen.rpartition("/")[0]
    beside = f"{folder}/" if folder else ""
    content = Content(repository)
    if chosen.endswith(".json"):
        table = shard_table(content.whole(chosen, MOST_HEADER), where)
        tensors, _ = joined_shards(table, where, lambda shard, left: content.header(beside + shard, left))
    else:
        tensors, _ = content.header(chosen, MOST_HEADER)
    if not tensors:
        raise InputError(f"{where} holds no tensors: name the file of a trained network")
    config = beside + _CONFIG
    claims: Claims = ((), None, None)
    if config in repository.files:
        claims = _claims(content.whole(config, MOST_CONFIG), f"{PREFIX}{repository.id}/{config}")
    return RemoteNetwork(repository, WeightsFile(Path(where), tensors, (), *claims), tuple(content.read.values()))


def choose_weights(repository: Repository, filename: str | None = None) -> str:
    """The file of a repository that holds its network.

    Raises:
        InputError: there is none that is read, several, or not the one that was named.
    """
    names = sorted(name for name in repository.files if is_plain_name(name) and not is_shard(name))
    if filename is not None:
        if filename not in names:
            near = ", ".join(name for name in names if name.endswith((_SUFFIX, SHARDED))) or "none"
            raise InputError(
                f"{PREFIX}{repository.id} has no file {filename!r:.120}; its safetensors files: {near:.200}"
            )
        if not filename.endswith((_SUFFIX, SHARDED)):
            raise InputError(f"{PREFIX}{repository.id}/{filename} is no safetensors file: name one")
        return filename
    usual = next((name for name in _USUAL if name in names), None)
    if usual is not None:
        return usual
    indexes = [name for name in names if name.rpartition("/")[2] == SHARDED]
    found = indexes or [name for name in names if name.endswith(_SUFFIX)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{PREFIX}{repository.id} holds several weights files ({', '.join(found):.200}): name one, as {PREFIX}{repository.id}/FILE"
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    way_out = (
        f"; {pickles[0]} may be a pickle, which can run code when it is read: convert it where that is safe "
        "(safetensors.torch.save_file), or choose a repository with safetensors"
        if pickles
        else ": choose a repository with a model.safetensors"
    )
    raise InputError(f"{PREFIX}{repository.id} holds no safetensors file{way_out}")


def _claims(content: bytes, where: str) -> Claims:
    try:
        return config_claims(content, where)
    except InputError as error:
        # It is somebody else's, and the tensors tell enough without it.
        warnings.warn(f"{error}; the architecture is approximate", KzooWarning, stacklevel=4)
        return (), None, None


def told_by_page(repository: Repository) -> dict[str, str | list[str]]:
    """Fields of a registry's entry as a repository's page tells them: the license and the data sets."""
    license, told = repository.license, {}
    if license is not None and license != UNKNOWN:
        known = license != OTHER and is_known_license(license)
        name = repository.license_name or (license if license != OTHER else "as its page says")
        link = repository.license_link or ""
        page = f"{_PAGES}/{repository.id}"
        absolute = link if link.startswith(("https://", "http://")) else f"{page}/blob/main/{link}" if link else page
        told = {"license": license} if known else {
            "license": OTHER, "license_name": name, "license_link": absolute,
        }  # fmt: skip
    data = [tag.removeprefix(_DATASET) for tag in repository.tags if tag.startswith(_DATASET)]
    return {**told, **({"trained_on": named} if (named := [name for name in data if name]) else {})}


class Content:
    """What is read of a repository's files; ``read`` is what each of them is, in the order in which they were read."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.read: dict[str, LockedFile] = {}

    def header(self, name: str, most: int) -> tuple[dict[str, Tensor], int]:
        """The tensors of a safetensors file whose header has at most ``most`` bytes, and how many it has."""
        where = f"{PREFIX}{self.repository.id}/{name}"
        if name not in self.repository.files:
            raise InputError(f"{where} is not there, but the index of the shards names it: choose another revision")
        file = self.repository.files[name]
        if file.size < _LENGTH:
            raise InputError(
                f"{where} is no whole safetensors file: it has {file.size} bytes; choose another file or revision"
            )
        if file.sha256 is None:
            content = self.whole(name, _MOST_PLAIN)
            return _parsed(content, file.size, where, most, lambda _begin, _length: b"")
        # A byte that is lost on the way makes nonsense of a header; what is nonsense twice is so on the Hub, too.
        try:
            return self._ranged(file, where, most)
        except InputError:
            return self._ranged(file, where, most)

    def _ranged(self, file: RemoteFile, where: str, most: int) -> tuple[dict[str, Tensor], int]:
        url = file_url(self.repository, file.name)
        begin, headers = get_bytes(url, where, first=0, most=min(_FIRST, file.size), exactly=True)
        linked = headers.get(LINKED, "").strip('"')
        if file.sha256 is None or linked not in ("", file.sha256):
            raise WorldError(f"the Hub at {hub()} says two different sha256 of {where}: try again later")

        def rest(first: int, count: int) -> bytes:
            return get_bytes(url, where, first=first, most=count, exactly=True)[0]

        found = _parsed(begin, file.size, where, most, rest)
        self.read[file.name] = LockedFile(name=file.name, size=file.size, sha256=file.sha256)
        return found

    def whole(self, name: str, most: int) -> bytes:
        """A small file's content, which is what the Hub says by its digest."""
        file, where = self.repository.files[name], f"{PREFIX}{self.repository.id}/{name}"
        if file.size > most:
            raise InputError(f"{where} has {file.size:,} bytes, more than the {most:,} that are read")
        for _ in range(_TRIES):
            content, _ = get_bytes(file_url(self.repository, name), where, most=file.size, exactly=True)
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 == file.sha256 or (file.sha256 is None and file.oid in (None, git_oid(content))):
                self.read[name] = LockedFile(name=name, size=file.size, sha256=sha256)
                return content
        raise WorldError(f"{where} has come twice with another content than the Hub says: try again later")


def _parsed(
    begin: bytes, size: int, where: str, most: int, rest: Callable[[int, int], bytes]
) -> tuple[dict[str, Tensor], int]:
    """The tensors of a file of so many bytes, and its header's length; ``rest`` gives bytes that ``begin`` has not."""
    length = int.from_bytes(begin[:_LENGTH], "little")
    data_bytes = size - _LENGTH - length
    if data_bytes < 0 or length > most:
        raise InputError(
            f"{where} is no whole safetensors file: its header should have {length:,} bytes, but the file has {size:,} "
            f"and at most {most:,} are read; choose another file or revision"
        )
    content = begin[_LENGTH : _LENGTH + length]
    if len(content) < length:
        content += rest(len(begin), length - len(content))
    return parse_header(content, where, data_bytes), length

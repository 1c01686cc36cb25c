"""The network in a repository on the Hub, by the headers of its weights: some kilobytes, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kzoo.errors import InputError, WorldError
from kzoo.hub.client import get_bytes
from kzoo.hub.repositories import RemoteFile, Repository, file_url, git_oid, is_plain_name
from kzoo.readers.files import MOST_CONFIG, PICKLES, SHARDED, WHOLE, WeightsFile, config_claims
from kzoo.readers.safetensors import MOST_HEADER, Tensor, joined_shards, parse_header, shard_table

_CONFIG = "config.json"
_SUFFIX = ".safetensors"
_LENGTH = 8
_TRIES = 2
#: Nearly every header is shorter, so that one request is enough; what comes with it of the weights is not much.
_FIRST = 65_536
#: What timm looks for, in this order, before any other file.
_USUAL = (WHOLE, SHARDED, "open_clip_model.safetensors")


@dataclass(frozen=True)
class RemoteNetwork:
    """A repository's network: what its headers tell, and the files that hold it, of which the first is the one named."""

    repository: Repository
    weights: WeightsFile
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read_network(repository: Repository, filename: str | None = None) -> RemoteNetwork:
    """The network of a repository, or that in one of its files, by ranged requests.

    Raises:
        InputError: it holds no safetensors file, or several and none was named, or a header is faulty.
        WorldError: the Hub fails.
    """
    chosen = choose_weights(repository, filename)
    where = f"hf:{repository.id}/{chosen}"
    folder = chosen.rpartition("/")[0]
    if chosen.endswith(".json"):
        table = shard_table(_whole(repository, chosen, MOST_HEADER), where)
        beside = f"{folder}/" if folder else ""
        tensors, shards = joined_shards(table, where, lambda shard, left: _header(repository, beside + shard, left))
        names = [beside + shard for shard in shards]
    else:
        tensors, _ = _header(repository, chosen, MOST_HEADER)
        names = []
    if not tensors:
        raise InputError(f"{where} holds no tensors: name the file of a trained network")
    claims = _claims(repository, folder)
    files = [chosen, *names, *([claims[1]] if claims[1] is not None else [])]
    weights = WeightsFile(Path(where), tensors, (), *claims[0])
    return RemoteNetwork(repository, weights, tuple(repository.files[name] for name in files))


def choose_weights(repository: Repository, filename: str | None = None) -> str:
    """The file of a repository that holds its network.

    Raises:
        InputError: there is none that is read, several, or not the one that was named.
    """
    names = sorted(name for name in repository.files if is_plain_name(name))
    if filename is not None:
        if filename not in names:
            near = ", ".join(name for name in names if name.endswith((_SUFFIX, SHARDED))) or "none"
            raise InputError(f"hf:{repository.id} has no file {filename!r:.120}; its safetensors files: {near:.200}")
        if not filename.endswith((_SUFFIX, SHARDED)):
            raise InputError(f"hf:{repository.id}/{filename} is no safetensors file: name one")
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
            f"hf:{repository.id} holds several weights files ({', '.join(found):.200}): name one, as hf:{repository.id}/FILE"
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    way_out = (
        f"; {pickles[0]} may be a pickle, which can run code when it is read: convert it where that is safe "
        "(safetensors.torch.save_file), or choose a repository with safetensors"
        if pickles
        else ": choose a repository with a model.safetensors"
    )
    raise InputError(f"hf:{repository.id} holds no safetensors file{way_out}")


def _header(repository: Repository, name: str, most: int) -> tuple[dict[str, Tensor], int]:
    """The tensors of a safetensors file whose header has at most ``most`` bytes, and how many it has."""
    file = repository.files.get(name)
    where = f"hf:{repository.id}/{name}"
    if file is None:
        raise InputError(f"{where} is not there, but the index of the shards names it: choose another revision")
    if file.size < _LENGTH:
        raise InputError(
            f"{where} is no whole safetensors file: it has {file.size} bytes; choose another file or revision"
        )
    url = file_url(repository, name)
    begin, _ = get_bytes(url, where, first=0, most=min(_FIRST, file.size), exactly=True)
    length = int.from_bytes(begin[:_LENGTH], "little")
    data_bytes = file.size - _LENGTH - length
    if data_bytes < 0 or length > most:
        raise InputError(
            f"{where} is no whole safetensors file: its header should have {length:,} bytes, but the file has {file.size:,} "
            f"and at most {most:,} are read; choose another file or revision"
        )
    content = begin[_LENGTH : _LENGTH + length]
    if len(content) < length:
        rest, _ = get_bytes(url, where, first=len(begin), most=length - len(content), exactly=True)
        content += rest
    return parse_header(content, where, data_bytes), length


def _whole(repository: Repository, name: str, most: int) -> bytes:
    """A small file's content."""
    file, where = repository.files[name], f"hf:{repository.id}/{name}"
    if file.size > most:
        raise InputError(f"{where} has {file.size:,} bytes, more than the {most:,} that are read")
    for _ in range(_TRIES):
        content, _ = get_bytes(file_url(repository, name), where, most=file.size, exactly=True)
        if file.sha256 is not None or file.oid in (None, git_oid(content)):
            return content
    raise WorldError(f"{where} has come twice with another content than the Hub says: try again later")


def _claims(
    repository: Repository, folder: str
) -> tuple[tuple[tuple[str, ...], int | None, tuple[int, ...] | None], str | None]:
    """What the config.json beside the weights says, and its name; nothing where there is none."""
    name = f"{folder}/{_CONFIG}" if folder else _CONFIG
    if name not in repository.files:
        return ((), None, None), None
    return config_claims(_whole(repository, name, MOST_CONFIG), f"hf:{repository.id}/{name}"), name

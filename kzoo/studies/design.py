"""What a stage of a study is given, and the tables that stages hand to each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict

from kzoo.errors import InputError
from kzoo.faults import read_json
from kzoo.files import new_folder, replacing

if TYPE_CHECKING:
    from kzoo.studies.work import Order

Progress = Callable[[str, float], None]
#: The claims of a study, in its folder.
CLAIMS = "claims.yaml"
_MOST_BYTES = 50_000_000


class Section(BaseModel):
    """A part of ``params.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Cluster(Protocol):
    """Workers that are not processes of this one."""

    def carry_out(self, orders: Sequence[Order]) -> Iterator[dict[str, Any]]:
        """The records of units, as they are done; each is written down then, and what is kept of it lies here."""


@dataclass(frozen=True)
class Run:
    """One run of a study: the folder of its ``params.yaml``, where results go, the profile and how many processes.

    With a ``cluster``, that carries the units of work out in place of processes of this machine.
    Both folders are absolute and without links, so that the way from one to the other is what it seems to be.
    """

    base: Path
    out: Path
    profile_name: str
    profile: Any
    jobs: int
    progress: Progress
    say: Callable[[str], None]
    cluster: Cluster | None = None

    @property
    def work(self) -> Path:
        """Where unfinished work is kept, so that an interrupted stage goes on."""
        return self.out.with_name(f".{self.out.name}.work")

    @property
    def paper(self) -> str:
        """The name of the study's folder."""
        return self.base.name

    @property
    def name_of_results(self) -> str:
        """Where results are committed, seen from the folder above ``pipelines``."""
        return f"{self.base.parent.name}/{self.base.name}/out"

    def table(self, name: str) -> Any:
        """What an earlier stage wrote.

        Raises:
            InputError: it is not there, or damaged.
        """
        path = self.out / name
        if not path.is_file():
            raise InputError(f"{path} is not there: run the stages before this one first")
        return read_json(path, "a table of a study", _MOST_BYTES).data

    def write_table(self, name: str, data: Any) -> None:
        """Write a table; whatever happens, it is whole or not there.

        Raises:
            WorldError: the disk fails.
        """
        with replacing(self.out / name) as temporary:
            temporary.write_text(table_text(data), encoding="utf-8")

    @contextmanager
    def new_output(self, name: str) -> Iterator[Path]:
        """A temporary folder that takes the place of the output folder ``name`` when the block ends well, and not before.

        Raises:
            WorldError: the disk fails.
        """
        place, new = self.out / name, self.out / f".{name}.new"
        shutil.rmtree(new, ignore_errors=True)
        with new_folder(new) as folder:
            yield folder
        shutil.rmtree(place, ignore_errors=True)
        new.rename(place)


@contextmanager
def tables_of(run: Run) -> Iterator[None]:
    """Read tables as those of the run's profile.

    Raises:
        InputError: they are not, as far as what reads them stumbles.
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"the tables in {run.out} are not those of the profile {run.profile_name} ({type(error).__name__}: "
            f"{error!s:.80}): run the stages before this one again"
        ) from None


def table_text(data: Any) -> str:
    """Plain data as JSON that is easy to compare: one line for each entry of the lists at the top."""
    if not isinstance(data, dict):
        return _line(data) + "\n"
    parts = []
    for key, value in data.items():
        if isinstance(value, list) and value:
            rows = ",\n".join(f"  {_line(row)}" for row in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n ]")
        elif isinstance(value, dict) and value:
            rows = ",\n".join(f"  {json.dumps(name)}: {_line(row)}" for name, row in value.items())
            parts.append(f"{json.dumps(key)}: {{\n{rows}\n }}")
        else:
            parts.append(f"{json.dumps(key)}: {_line(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _line(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False)

"""``params.yaml`` of a study: its kind, its profiles, and which of them is run."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from kzoo.errors import InputError
from kzoo.faults import Document, nearest, read_yaml
from kzoo.studies.design import CLAIMS, Section
from kzoo.studies.stages import STAGES, Stage

if TYPE_CHECKING:
    from kzoo.claims import Claim

#: The file of a study, and the folder that holds the studies.
PARAMS, PIPELINES = "params.yaml", "pipelines"
_WHAT = "a study"


class _Params(Section):
    """The whole file; the profiles are checked by the schema of the study's kind."""

    kzoo_study: str = Field(description="The kind of study")
    profile: str = Field(description="The profile that is run unless another is asked for")
    tolerance: float = Field(
        gt=0, le=1, description="On another class of machine, how far the mean accuracy of an arm may be off"
    )
    profiles: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Study:
    """A study with one of its profiles."""

    folder: Path
    kind: str
    profile_name: str
    profile: Any
    tolerance: float

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its stages, in order."""
        return STAGES[self.kind]

    def stage(self, name: str) -> Stage:
        """A stage by its name.

        Raises:
            InputError: there is none of that name.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = ", ".join(stage.name for stage in self.stages)
        raise InputError(f"{name!r:.80} is no stage of {self.folder.resolve().name}: expected one of {names}")


def is_study(path: Path) -> bool:
    """Whether a path leads to a study, rather than to a recipe."""
    return path.name == PARAMS or (path / PARAMS).is_file()


def find_study(path: Path) -> Path:
    """The path of a recipe or of a study; a bare name means one below ``pipelines``.

    Raises:
        InputError: it leads nowhere, or to a folder that is no study.
    """
    if (Path(PIPELINES) / path / PARAMS).is_file():
        return Path(PIPELINES) / path
    if path.is_dir() and not is_study(path):
        raise InputError(
            f"{path} is a folder without {PARAMS}: give a study such as pipelines/dpiat, or a recipe's file"
        )
    if not path.exists():
        near = nearest(path.name, [folder.parent.name for folder in sorted(Path(PIPELINES).glob(f"*/{PARAMS}"))])
        studies = f"; the studies nearest to it: {near}" if near else "; there is no folder pipelines here"
        raise InputError(f"{path} is not there: give the file of a recipe, or a study{studies}")
    return path


def read_study(path: Path, profile: str | None = None) -> Study:
    """The study of a folder, or of the ``params.yaml`` in it, with the profile that the file, or ``profile``, names.

    Raises:
        InputError: it cannot be read, or a field is missing, unknown or wrong: with file, line and field.
    """
    path = path / PARAMS if path.is_dir() else path
    document = read_yaml(path, _WHAT)
    params = document.validated(_Params)
    if params.kzoo_study not in STAGES:
        raise document.fault(("kzoo_study",), f"expected one of {', '.join(STAGES)}, found {params.kzoo_study!r:.80}")
    name = params.profile if profile is None else profile
    if name not in params.profiles:
        sentence = f"there is no profile {name!r:.80}; nearest: {nearest(name, params.profiles)}"
        raise document.fault(("profile",), sentence) if profile is None else InputError(f"{path}: {sentence}")
    values = _profile(document, params.kzoo_study, name)
    return Study(path.parent, params.kzoo_study, name, values, params.tolerance)


def require_profiles(folder: Path, claims: Iterable[Claim]) -> None:
    """Refuse claims for a profile that the study has not; a misspelled one would never be run.

    Raises:
        InputError: there is such a claim.
    """
    names = profile_names(folder / PARAMS)
    for claim in claims:
        for profile in claim.profiles:
            if profile not in names:
                raise InputError(
                    f"{folder / CLAIMS}: the claim {claim.id} is for the profile {profile!r}, which {PARAMS} has not; nearest: "
                    f"{nearest(profile, names)}"
                )


def profile_names(path: Path) -> list[str]:
    """The profiles of a study."""
    return list(read_yaml(path, _WHAT).validated(_Params).profiles)


def _profile(document: Document, kind: str, name: str) -> Any:
    schema: type[BaseModel] = importlib.import_module(f"kzoo.studies.{kind}.design").Profile
    return document.validated(schema, ("profiles", name))

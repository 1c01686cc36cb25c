"""The stages of every kind of study: what each reads, what it writes, and which module carries it out.

``dvc.yaml`` says the same to DVC; `kzoo.studies.wiring` writes it from here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, cast

from kzoo.studies.design import CLAIMS, Run

#: The class of machine that results come from, seen from a study's folder.
ENVIRONMENT = "../../environment.yaml"
#: By it networks are known.
INDEX = "../../registry/index.npz"
#: The embedded zoo: its entries, and its folders.
_ZOO_FILES = ("../../registry/local", "../../registry/zoo")


@dataclass(frozen=True)
class Stage:
    """A step of a study.

    ``params`` are the keys of a profile that it reads; ``inputs`` and ``outputs`` are places below ``out``. Of the
    outputs, ``cached`` are kept by DVC, and ``tables`` by git. ``files`` are other files that it reads, seen from the
    study's folder. ``networks`` says that it reads or builds networks, for which it may look into the index, and
    ``computes`` that the bytes of its results depend on the class of the machine.
    """

    name: str
    module: str
    params: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    networks: bool = False
    computes: bool = False
    desc: str = field(default="", compare=False)


class StageModule(Protocol):
    """What the module of a stage offers."""

    def carry_out(self, run: Run) -> None:
        """Write the stage's outputs below ``run.out``."""


_CARD = Stage(
    "card",
    "kzoo.studies.cards",
    ("publish",),
    inputs=("models", "metrics.json"),
    tables=("card.json",),
    cached=("model",),
    files=(CLAIMS,),
    desc="The model that is published, with a card that tells the claims",
)

_DPIAT = (
    Stage(
        "sources",
        "kzoo.studies.sources",
        ("data", "networks", "source_training"),
        tables=("sources.json",),
        cached=("sources",),
        files=_ZOO_FILES,
        networks=True,
        computes=True,
        desc="Trained networks to start from: of the zoo, or trained here",
    ),
    Stage(
        "match",
        "kzoo.studies.dpiat.similarities",
        ("data", "networks", "pairs"),
        inputs=("sources.json", "sources"),
        tables=("match.json",),
        networks=True,
        desc="How alike source and target of every pair are",
    ),
    Stage(
        "transfer",
        "kzoo.studies.dpiat.plans",
        ("data", "networks", "pairs", "arms", "seeds", "keep"),
        inputs=("sources.json", "sources"),
        tables=("transfer.json",),
        cached=("plans", "starts"),
        networks=True,
        computes=True,
        desc="Which layer receives from which, for every pair and arm, and the networks that this gives",
    ),
    Stage(
        "sweep",
        "kzoo.studies.dpiat.rates",
        ("data", "networks", "pairs", "arms", "training", "sweep"),
        inputs=("sources.json", "sources", "transfer.json", "plans"),
        tables=("sweep.json",),
        networks=True,
        computes=True,
        desc="Every learning rate for every target; the control's best one is used for all arms",
    ),
    Stage(
        "train",
        "kzoo.studies.dpiat.trainings",
        ("data", "networks", "pairs", "arms", "seeds", "training", "keep"),
        inputs=("sources.json", "sources", "transfer.json", "plans", "sweep.json"),
        tables=("train.json",),
        cached=("models",),
        networks=True,
        computes=True,
        desc="Every pair, arm and seed trained for some epochs, and tested after each",
    ),
    Stage(
        "evaluate",
        "kzoo.studies.dpiat.evaluation",
        ("pairs", "arms"),
        inputs=("sources.json", "match.json", "transfer.json", "sweep.json", "train.json"),
        tables=("metrics.json",),
        files=(CLAIMS,),
        desc="The claims' metrics with their intervals, tables and figures",
    ),
    _CARD,
)

_ZOO = (
    Stage(
        "train",
        "kzoo.studies.zoo.trainings",
        ("networks", "epochs"),
        tables=("train.json",),
        cached=("models",),
        files=_ZOO_FILES,
        networks=True,
        computes=True,
        desc="The networks of the zoo trained again from their recipes",
    ),
    Stage(
        "evaluate",
        "kzoo.studies.zoo.evaluation",
        (),
        inputs=("train.json",),
        tables=("metrics.json",),
        files=(CLAIMS, *_ZOO_FILES),
        desc="Their accuracy beside that of the zoo's networks",
    ),
)

_GROWTH_TEACHERS = ("data", "teachers", "teacher_training", "cases", "seeds", "sweep")
_GROWTH = (
    Stage(
        "teachers",
        "kzoo.studies.growth.teachers",
        _GROWTH_TEACHERS,
        tables=("teachers.json",),
        cached=("teachers",),
        networks=True,
        computes=True,
        desc="The networks that are grown: trained here, for every seed one of each",
    ),
    Stage(
        "grow",
        "kzoo.studies.growth.starts",
        ("data", "teachers", "cases", "seeds"),
        inputs=("teachers.json", "teachers"),
        tables=("grow.json",),
        networks=True,
        computes=True,
        desc="What every arm makes of every teacher, before any training",
    ),
    Stage(
        "sweep",
        "kzoo.studies.growth.rates",
        ("data", "teachers", "cases", "training", "sweep"),
        inputs=("teachers.json", "teachers", "grow.json"),
        tables=("sweep.json",),
        networks=True,
        computes=True,
        desc="Every learning rate for every arm; each arm's best one, and the control's",
    ),
    Stage(
        "train",
        "kzoo.studies.growth.trainings",
        ("data", "teachers", "cases", "seeds", "training", "keep"),
        inputs=("teachers.json", "teachers", "grow.json", "sweep.json"),
        tables=("train.json",),
        cached=("models",),
        networks=True,
        computes=True,
        desc="Every arm and seed trained at its own best rate, and at the control's",
    ),
    Stage(
        "evaluate",
        "kzoo.studies.growth.evaluation",
        ("cases", "seeds", "training", "levels"),
        inputs=("teachers.json", "grow.json", "sweep.json", "train.json"),
        tables=("metrics.json",),
        files=(CLAIMS,),
        desc="The claims' metrics with their intervals, tables and figures",
    ),
    _CARD,
)

_FUSION_TRAINED = ("data", "networks", "starts", "parents", "seeds")
_FUSION = (
    Stage(
        "starts",
        "kzoo.studies.fusion.starts",
        (*_FUSION_TRAINED, "pretraining", "pretraining_share"),
        tables=("starts.json",),
        cached=("starts",),
        networks=True,
        computes=True,
        desc="What parents begin with: random weights, and some that know a little of all classes",
    ),
    Stage(
        "parents",
        "kzoo.studies.fusion.parents",
        (*_FUSION_TRAINED, "training"),
        inputs=("starts.json", "starts"),
        tables=("parents.json",),
        cached=("parents",),
        networks=True,
        computes=True,
        desc="The networks that are fused: each trained on some classes alone",
    ),
    Stage(
        "fuse",
        "kzoo.studies.fusion.fusions",
        (*_FUSION_TRAINED, "training", "images", "arms", "keep"),
        inputs=("starts.json", "starts", "parents.json", "parents"),
        tables=("fuse.json",),
        cached=("models",),
        networks=True,
        computes=True,
        desc="Every case, arm and seed fused, beside parents, ensembles, start and joint training",
    ),
    Stage(
        "evaluate",
        "kzoo.studies.fusion.evaluation",
        ("data", "networks", "starts", "parents", "arms", "seeds", "shown"),
        inputs=("fuse.json",),
        tables=("metrics.json",),
        files=(CLAIMS,),
        desc="The claims' metrics with their intervals, tables and figures",
    ),
    _CARD,
)

_AMALGAMATION_TAUGHT = ("data", "teachers", "settings", "student", "training", "arms")
_AMALGAMATION = (
    Stage(
        "teachers",
        "kzoo.studies.amalgamation.teachers",
        ("data", "teachers", "teacher_training", "seeds", "sweep"),
        tables=("teachers.json",),
        cached=("teachers",),
        networks=True,
        computes=True,
        desc="The teachers: for every seed one of each, trained on some classes alone",
    ),
    Stage(
        "sweep",
        "kzoo.studies.amalgamation.rates",
        (*_AMALGAMATION_TAUGHT, "sweep"),
        inputs=("teachers.json", "teachers"),
        tables=("sweep.json",),
        networks=True,
        computes=True,
        desc="Every learning rate for every arm, tested on images that are held back",
    ),
    Stage(
        "train",
        "kzoo.studies.amalgamation.trainings",
        (*_AMALGAMATION_TAUGHT, "seeds", "keep"),
        inputs=("teachers.json", "teachers", "sweep.json"),
        tables=("train.json",),
        cached=("models",),
        networks=True,
        computes=True,
        desc="A student by every arm of every setting and seed, beside teachers, concatenated teachers and labels",
    ),
    Stage(
        "evaluate",
        "kzoo.studies.amalgamation.evaluation",
        ("teachers", "settings", "arms", "seeds", "shown"),
        inputs=("sweep.json", "train.json"),
        tables=("metrics.json",),
        files=(CLAIMS,),
        desc="The claims' metrics with their intervals, tables and figures",
    ),
    _CARD,
)

#: The stages of each kind of study, in order.
STAGES: Mapping[str, tuple[Stage, ...]] = MappingProxyType(
    {"amalgamation": _AMALGAMATION, "dpiat": _DPIAT, "fusion": _FUSION, "growth": _GROWTH, "zoo": _ZOO}
)
_RUNS = {"fusion": "fuse.json"}


def table_of_runs(kind: str) -> str:
    """The table of a kind of study that holds its runs, and the class of machine that they come from."""
    return _RUNS.get(kind, "train.json")


def stage_module(stage: Stage) -> StageModule:
    """The module that carries a stage out."""
    return cast(StageModule, importlib.import_module(stage.module))

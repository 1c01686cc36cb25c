"""Accuracy by epoch of models that `kzoo run` trained: read from their folders, and drawn as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kzoo.errors import InputError
from kzoo.faults import read_json
from kzoo.files import replacing
from kzoo.layout import METRICS
from kzoo.reporting.picture import picture
from kzoo.reporting.results import Axis, Figure, Point, Series
from kzoo.training.history import History

_MOST_BYTES = 20_000_000
_EXPECTED = "expected a folder that kzoo run wrote from a recipe with training"


@dataclass(frozen=True)
class Curve:
    """One trained model: what it is called, its accuracy on the test images after each epoch, and their fingerprint.

    Epochs count from 1, accuracies go from 0 to 1. The fingerprint is that of all images of the task.
    """

    folder: Path
    name: str
    accuracies: Mapping[int, float]
    data: str | None

    @property
    def last(self) -> float:
        """The accuracy after the last epoch."""
        return self.accuracies[max(self.accuracies)]


def read_curves(folders: Sequence[Path]) -> list[Curve]:
    """The curves of model folders; each is called by its folder, with the way to it where two would be called alike.

    Raises:
        InputError: a folder has no metrics of a training, or they are damaged.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [folder.as_posix() for folder in folders]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> Curve:
    path = folder / METRICS
    if not path.is_file():
        raise InputError(f"{folder} has no {METRICS}: {_EXPECTED}")
    document = read_json(path, "the metrics of a model", _MOST_BYTES)
    history = document.validated(History, ("training",)) if "training" in document.data else History()
    if not history.epochs:
        raise InputError(f"{path} tells of no training: {_EXPECTED}")
    data = document.data.get("data")
    accuracies = {epoch.epoch: epoch.test_accuracy for epoch in history.epochs}
    return Curve(folder, name, accuracies, data if isinstance(data, str) else None)


def curves_figure(curves: Sequence[Curve]) -> Figure:
    """The curves as a figure, in percent."""
    ends = ", ".join(f"{curve.name} {curve.last:.1%}" for curve in curves)
    series = [
        Series(name=curve.name, points=[Point(x=epoch, y=100 * share) for epoch, share in curve.accuracies.items()])
        for curve in curves
    ]
    return Figure(
        kind="lines",
        title="Accuracy by epoch",
        caption=f"After the last epoch: {ends}.",
        x=Axis(label="epoch"),
        y=Axis(label="accuracy on the test images, %"),
        series=series,
    )


def write_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw the curves into an SVG file; the same curves give the same bytes.

    Raises:
        InputError: the file's name has another suffix.
        WorldError: the file cannot be written.
    """
    if path.suffix.lower() != ".svg":
        ending = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise InputError(f"{path} {ending}: expected .svg; name the picture so")
    drawn = picture(curves_figure(curves))
    with replacing(path) as temporary:
        temporary.write_text(drawn, encoding="utf-8", newline="\n")

"""``kzoo fuse --method cfl`` and ``--method kd``: one student of several teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kzoo.cli.carrying import parameter, show, surroundings, tell_loading
from kzoo.cli.common import count, hint
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.amalgamating import AmalgamationReport
    from kzoo.recipe import DataSection, SourceSection
    from kzoo.surroundings import Surroundings

AMALGAMATING = ("cfl", "kd")
#: Options of fusion that say nothing here.
_FOREIGN = ("variant", "align", "norms", "heads", "recalibrate", "evaluate", "joint_epochs")
_OWN = ("student", "epochs", "lr", "batch_size", "seed", "training")
_EPOCHS, _SHOWN = 10, 10
_Command = TypeVar("_Command", bound=Callable[..., Any])


def amalgamation_options(command: _Command) -> _Command:
    """Add the options of amalgamation."""
    for option in reversed(
        (
            click.option("--student", metavar="NAME", help="cfl, kd: the network that learns, such as timm:resnet18."),
            click.option(
                "--epochs", type=click.IntRange(min=1), help=f"cfl, kd: over the images; {_EPOCHS} without it."
            ),
            click.option("--lr", type=float, help="cfl, kd: the learning rate; 0.001 without it."),
            click.option("--batch-size", type=click.IntRange(min=2), help="cfl, kd: images per step; 64 without it."),
            click.option("--seed", type=click.IntRange(min=0), help="cfl, kd: of fresh weights and the images' order."),
            click.option(
                "-t",
                "--training",
                multiple=True,
                metavar="NAME=VALUE",
                help="cfl, kd: another setting of the training.",
            ),
        )
    ):
        command = option(command)
    return command


def require_no_student(options: dict[str, Any]) -> None:
    """Refuse options of amalgamation where networks are fused.

    Raises:
        InputError: one is given.
    """
    given = next((name for name in _OWN if options[name] not in (None, ())), None)
    if given is not None:
        raise InputError(
            f"--{given.replace('_', '-')} is for a student that learns: give --method cfl or kd; {options['method']} trains nothing"
        )


def amalgamate(
    directory: Path | None,
    options: dict[str, Any],
    opened: Callable[[Surroundings], list[SourceSection]],
    start: Callable[[Surroundings, str], SourceSection],
) -> None:
    """Carry out the command: ``opened`` gives the teachers with the classes that options or files name."""
    from kzoo.recipe import DataSection, Recipe, TargetSection
    from kzoo.running import run_recipe
    from kzoo.starting import method_parameters

    method = options["method"]
    odd = next((name for name in _FOREIGN if options[name] is not None), None)
    if odd is not None:
        raise InputError(f"--{odd.replace('_', '-')} is for fusing without training: method {method} has no use for it")
    parameters = dict(parameter(text) for text in options["more"])
    method_parameters(method, parameters)
    if options["student"] is None:
        raise InputError(f"method {method} makes a student learn: name its network (--student timm:resnet18)")
    if len(options["data"]) != 1:
        raise InputError(
            f"{len(options['data'])} --data are given: method {method} takes one task, whose images show what all teachers know"
        )
    if len(options["classes"]) == 1:
        raise InputError(f"1 --classes is given: method {method} takes one for each teacher, in order")
    settings = _settings(options)
    where = surroundings(directory, options["trust_code"])
    sources = [_with_own_classes(one, where) for one in opened(where)]
    if options["network"] is not None:
        sources = [one.model_copy(update={"network": options["network"]}) for one in sources]
    channels = _channels(sources[0], where, options)
    # The default of this option is meant for measuring, not for learning.
    given = click.get_current_context().get_parameter_source("images")
    images = options["images"] if given is not click.core.ParameterSource.DEFAULT else None
    target = TargetSection(
        model=options["student"],
        classes=None if options["student"].startswith("py:") else _outputs(sources),
        in_chans=None if options["student"].startswith("py:") else channels,
        img_size=options["image_size"] if options["student"].startswith("timm:") else None,
        seed=options["seed"] or 0,
    )
    data = DataSection(task=options["data"][0], train=images, size=options["image_size"], channels=channels)
    recipe = Recipe(
        sources=sources,
        start=None if options["start"] is None else start(where, options["start"]),
        target=target,
        method=method,
        parameters=parameters,
        data=_with_classes(data, sources),
        training=settings,
    )
    result = run_recipe(recipe, where, options["out"], options["force"])
    show(result.report, options["as_json"], False)
    if not options["as_json"] and result.metrics is not None:
        _show_metrics(result.metrics["amalgamation"])
    tell_loading(result)


def _settings(options: dict[str, Any]) -> Any:
    from kzoo.training.settings import read_settings

    values = {name: options[name] for name in ("epochs", "lr", "batch_size", "seed") if options[name] is not None}
    return read_settings({"epochs": _EPOCHS} | values | dict(parameter(text) for text in options["training"]))


def _with_own_classes(source: SourceSection, where: Surroundings) -> SourceSection:
    """A teacher with its classes: where neither options nor a config.json name them, what it was trained on tells."""
    data = None if source.classes is not None else _trained_on(source, where)
    if data is None:
        return source
    if data.classes is not None:
        return source.model_copy(update={"classes": list(data.classes)})
    # One image is enough to know the classes.
    few = {"train": 1, "test": 1, "fingerprint": None, "only": None, "validation": None, "split": None}
    return source.model_copy(update={"classes": list(where.data(data.model_copy(update=few)).classes)})


def _trained_on(source: SourceSection, where: Surroundings) -> DataSection | None:
    """The images that the recipe beside a teacher's weights names, on the disk or on the Hub; None where there is none."""
    from kzoo.layout import RECIPE
    from kzoo.recipe import moved, read_recipe

    if source.path.startswith("hf:"):
        return _published_images(source.path)
    shards = where.open(source.path, source.submodule).shards
    if not shards or not (shards[0].parent / RECIPE).is_file():
        return None
    return moved(read_recipe(shards[0].parent / RECIPE), shards[0].parent, where.base).data


def _published_images(path: str) -> DataSection | None:
    from kzoo.hub.names import parse_wanted
    from kzoo.hub.repositories import read_repository
    from kzoo.layout import RECIPE
    from kzoo.publish.lineage import published_recipe
    from kzoo.publish.trust import require_harmless

    repository = read_repository(parse_wanted(path).name)
    if RECIPE not in repository.files:
        return None
    recipe = published_recipe(repository)
    require_harmless(recipe, f"{path}/{RECIPE}")
    return recipe.data


def _channels(source: SourceSection, where: Surroundings, options: dict[str, Any]) -> int:
    """The channels of the first teacher's images."""
    from kzoo.trained_modules import trained_network

    trained = where.open(source.path, source.submodule)
    return trained_network(trained, where.zoo, options["network"], None, options["trust_code"]).options.in_chans or 3


def _outputs(sources: Sequence[SourceSection]) -> int | None:
    from kzoo.methods.fusion.classifiers import union_of_classes

    known = [one.classes for one in sources if one.classes is not None]
    return len(union_of_classes(known)) if len(known) == len(sources) else None


def _with_classes(data: Any, sources: Sequence[SourceSection]) -> Any:
    """Images of what the teachers know together, where the task has other classes too."""
    from kzoo.methods.fusion.classifiers import union_of_classes
    from kzoo.surroundings import load_data

    known = [one.classes for one in sources if one.classes is not None]
    if len(known) < len(sources):
        return data
    few = load_data(data.model_copy(update={"train": 1, "test": 1}), Path())
    union = union_of_classes(known)
    more = [name for name in few.classes if name not in union]
    if more and set(union) <= set(few.classes):
        shown = ", ".join(more[:_SHOWN]) + (" and more" if len(more) > _SHOWN else "")
        hint(f"Images of classes that no teacher knows are left out: {shown}")
    if not more or not set(union) <= set(few.classes):
        return data
    return data.model_copy(update={"classes": tuple(name for name in few.classes if name in union)})


def show_amalgamation(report: AmalgamationReport) -> None:
    """Print what was amalgamated for people."""
    for one in report.teachers:
        click.echo(f"{one.name}: {one.network}, {len(one.classes)} classes.")
    beside = f", beside {count(report.beside)} that only training needed" if report.beside else ""
    click.echo(f"The student knows {len(report.classes)} classes with {count(report.entries)} learned entries{beside}.")


def _show_metrics(found: dict[str, Any]) -> None:
    """Print how the student does beside its teachers."""
    from kzoo.cli.common import print_table

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{share:.1%}"

    rows = [
        (one["teacher"], str(one["images"]), percent(one["own"]), percent(one["teacher_own"])) for one in found["tasks"]
    ]
    print_table(rows, ("images of", "count", "student", "that teacher"), right=("count", "student", "that teacher"))
    click.echo(
        f"Over all classes: the student {percent(found['joint'])}, the teachers side by side "
        f"{percent(found['concatenated']['probability'])}, the one that knows {percent(found['oracle'])}."
    )

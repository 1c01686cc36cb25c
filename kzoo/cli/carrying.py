"""``kzoo transfer`` and ``kzoo run``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kzoo.cli.common import Progress, as_json, complete_network, hint, open_zoo, print_json, print_table
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.methods.surgery import PartReport
    from kzoo.recipe import Recipe, SourceSection
    from kzoo.running import Result
    from kzoo.starting import Report
    from kzoo.surroundings import Surroundings

_METHODS = ("dpiat", "by_name", "weight_selection", "random")
_OUT = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo transfer resnet34.safetensors timm:resnet18 --classes 10 --out start\n"
    "  kzoo transfer resnet34.safetensors timm:resnet50 --variant paper --out start\n"
    "  kzoo transfer resnet34.safetensors timm:resnet50 --plan plan.json\n"
    "  kzoo transfer resnet34.safetensors timm:resnet50 --from-plan plan.json --out start"
)
@click.argument("source", shell_complete=complete_network)
@click.argument("target", shell_complete=complete_network)
@click.option(
    "--method", type=click.Choice(_METHODS), default="dpiat", show_default=True, help="How weights are carried."
)
@click.option(
    "--variant",
    type=click.Choice(["full_state", "paper"]),
    help="dpiat: the paper's method, or with everything that a network holds (full_state, which is the default).",
)
@click.option("--standardization", type=click.Choice(["blocks", "flat"]), help="dpiat: match blocks, or single layers.")
@click.option("--matching", type=click.Choice(["dp", "flat", "random"]), help="dpiat: how layers are matched.")
@click.option("--operator", type=click.Choice(["clip", "full", "magnitude"]), help="dpiat: how weights are laid.")
@click.option(
    "-p", "--parameter", "more", multiple=True, metavar="NAME=VALUE", help="Another parameter, such as rescale=false."
)
@click.option("--classes", type=int, metavar="N", help="The target's number of classes.")
@click.option("--in-chans", type=int, metavar="N", help="The target's input channels.")
@click.option("--img-size", type=int, metavar="N", help="The target's image size.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the target's fresh weights.")
@click.option("--recalibrate", metavar="TASK", help="Measure batch normalisation's statistics on images of this task.")
@click.option("--images", type=click.IntRange(min=1), default=512, show_default=True, help="So many for --recalibrate.")
@click.option(
    "--image-size", type=click.IntRange(min=1), help="Of these images, in pixels; without it, the task's own."
)
@click.option(
    "--plan", type=_FILE, metavar="FILE", help="Write which layer receives from which into FILE, to be edited."
)
@click.option("--from-plan", type=_FILE, metavar="FILE", help="Carry out the plan in FILE.")
@click.option("--out", type=_OUT, metavar="DIR", help="The new folder for the model; not needed with --plan.")
@click.option("--force", is_flag=True, help="Replace DIR if it exists.")
@click.option("--trust-code", is_flag=True, help="Allow py:package.module:factory, which imports and runs code.")
@click.option("-q", "--quiet", is_flag=True, help="Do not list the layers.")
@as_json
@click.pass_obj
def transfer(directory: Path | None, /, source: str, target: str, out: Path | None, **options: Any) -> None:
    """Carry the weights of SOURCE into TARGET, and write TARGET as a model folder.

    SOURCE has weights: a safetensors file, a folder that holds one, local:NAME, a network of the Hub, which is fetched
    (hf:user/name, or a registry id such as timm/resnet18.a1_in1k), or py:package.module:factory. TARGET is timm:NAME,
    torchvision:NAME, a registry id or py:package.module:factory; it is initialised from --seed first.
    """
    from kzoo.files import require_new
    from kzoo.methods.plan import write_plan
    from kzoo.running import run_recipe
    from kzoo.starting import rehearse_recipe

    if out is None and options["plan"] is None:
        raise InputError("there is nothing to do: give --out DIR for the model, or --plan FILE for the plan")
    if options["plan"] is not None and options["from_plan"] is not None:
        raise InputError("--plan writes a plan and --from-plan reads one: give one of them")
    if out is not None:
        require_new(out, options["force"])
    where = surroundings(directory, options["trust_code"])
    recipe = _recipe(source, target, options, where)
    if options["plan"] is not None:
        plan, report = rehearse_recipe(recipe, where)
        write_plan(plan, options["plan"])
        hint(f"The plan is in {options['plan']}.")
        if out is None:
            show(report, options["as_json"], options["quiet"])
            return
    assert out is not None
    result = run_recipe(recipe, where, out, options["force"])
    show(result.report, options["as_json"], options["quiet"])
    tell_loading(result)


def surroundings(directory: Path | None, trust_code: bool, base: Path | None = None) -> Surroundings:
    """What a command's recipe is run in."""
    from functools import cache

    from kzoo.surroundings import Surroundings

    return Surroundings(base or Path(), cache(lambda: open_zoo(directory)), trust_code, Progress())


def _recipe(source: str, target: str, options: dict[str, Any], where: Surroundings) -> Recipe:
    """The recipe that the command's options amount to."""
    from kzoo.building import network_spec
    from kzoo.hashing import weights_sha256
    from kzoo.methods.plan import read_plan
    from kzoo.methods.transfers import read_parameters
    from kzoo.recipe import DataSection, PlanSection, Recipe, TargetSection
    from kzoo.sources import Options

    method = options["method"]
    names = ("variant", "standardization", "matching", "operator")
    parameters = {name: options[name] for name in names if options[name] is not None}
    parameters |= dict(parameter(text) for text in options["more"])
    read_parameters(method, parameters)
    sizes = {name: options[name] for name in ("classes", "in_chans", "img_size")}
    network_spec(target, where.zoo, Options(**sizes))
    origin = source_section(source, where)
    plan = options["from_plan"]
    if plan is not None:
        read_plan(plan)
    images = None
    if options["recalibrate"] is not None:
        images = DataSection(
            task=options["recalibrate"],
            train=options["images"],
            size=options["image_size"],
            channels=options["in_chans"] or 3,
        )
    return Recipe(
        sources=[origin],
        target=TargetSection(model=target, seed=options["seed"], **sizes),
        method=method,
        parameters=parameters,
        plan=None if plan is None else PlanSection(path=str(plan), sha256=weights_sha256([plan])),
        recalibrate=images,
    )


def source_section(source: str, where: Surroundings) -> SourceSection:
    """A source as a recipe names it: of the Hub at its commit, of a registry by its name; it is opened once."""
    from kzoo.recipe import SourceSection, is_no_path

    trained = where.open(source)
    if trained.pinned is not None:
        source = trained.pinned
    elif trained.model is not None:
        source = trained.model.architecture
    elif not is_no_path(source):
        source = str(Path(source).expanduser())
    where.opened[source, trained.submodule] = trained
    return SourceSection(path=source, sha256=trained.sha256, submodule=trained.submodule)


def parameter(text: str) -> tuple[str, Any]:
    """A parameter of a method, written as NAME=VALUE."""
    import yaml

    name, equals, value = text.partition("=")
    if name and equals:
        with suppress(ValueError, yaml.YAMLError):
            return name, yaml.safe_load(value)
    raise InputError(f"parameter {text!r:.80} is not NAME=VALUE, such as rescale=false")


def show(report: Report | None, as_json: bool, quiet: bool) -> None:
    """Print what a method did; nothing where there is no report."""
    if report is None:
        return
    if as_json:
        print_json(report.to_dict())
        return
    from kzoo.amalgamating import AmalgamationReport
    from kzoo.cli.amalgamating import show_amalgamation
    from kzoo.cli.fusing import show_fusion
    from kzoo.cli.growing import show_growth
    from kzoo.fusing import FusionReport
    from kzoo.methods.growth import GrowthReport

    if isinstance(report, GrowthReport):
        show_growth(report, quiet)
        return
    if isinstance(report, FusionReport):
        show_fusion(report)
        return
    if isinstance(report, AmalgamationReport):
        show_amalgamation(report)
        return
    if not quiet:
        print_table(_rows(report.parts), ("target", "from", "shape", "written", "what"), right=("written",))
        click.echo("")
    random = sum(part.source is None for part in report.parts)
    click.echo(
        f"{report.transferred_layers} of {len(report.parts)} layers received weights, {report.overwritten:.1%} of the learned "
        f"entries; {random} stay random."
    )
    if report.coverage is not None:
        full = "" if report.coverage_full is None else f", by full_state {report.coverage_full:.1%}"
        click.echo(
            f"DPIAT's own matching: similarity {report.similarity:.4f}; coverage by the paper's clip {report.coverage:.1%}{full}"
        )
    click.echo(f"optimiser state: {report.optimizer}")
    if report.remark is not None:
        hint(f"{report.remark[0].upper()}{report.remark[1:]}.")
    if report.warning is not None:
        uncertain = report.warning.startswith("uncertain: ")
        head = "Uncertain" if uncertain else "Likely worse than a random start"
        hint(f"{head}: {report.warning.removeprefix('uncertain: ')}.")


def _rows(parts: Sequence[PartReport]) -> Iterator[tuple[str, ...]]:
    """A row per part; neighbours that received nothing share one."""
    for idle, group in groupby(parts, lambda part: part.source is None):
        members = list(group)
        if idle and len(members) > 1:
            yield (
                f"{members[0].target} ... {members[-1].target}",
                "-",
                "-",
                "0%",
                f"{len(members)} layers stay as initialised",
            )
            continue
        for part in members:
            yield part.target, part.source or "-", " x ".join(part.axes) or "-", f"{_share(part):.0%}", part.note


def _share(part: PartReport) -> float:
    return part.overwritten / part.entries if part.entries else 0.0


def tell_loading(result: Result) -> None:
    """Tell how the model of a result is loaded."""
    network = result.network
    call = f'timm.create_model("local-dir:{result.folder}", pretrained=True)'
    if network.library != "timm" or network.edits:
        call = f"kzoo.load({str(result.folder)!r}{', trust_code=True' if network.library == 'py' else ''})"
    hint(f"Load it: {call}")


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo run start/recipe.yaml --out again\n"
    "  kzoo run finetune.yaml --out trained\n"
    "  kzoo run pipelines/dpiat --profile tiny --out small\n"
    "  kzoo run pipelines/dpiat --stage match\n"
    "  kzoo run pipelines/dpiat --scheduler tcp://10.0.0.7:8786"
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", type=_OUT, metavar="DIR", help="The new folder for the model; of a study, that of its results.")
@click.option("--force", is_flag=True, help="Replace DIR if it exists.")
@click.option("--trust-code", is_flag=True, help="Allow py:package.module:factory, which imports and runs code.")
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Only this stage of a study; may be repeated.")
@click.option("--profile", metavar="NAME", help="This profile of a study, rather than the one that params.yaml names.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="So many trainings of a study at once.")
@click.option(
    "--dry-run", is_flag=True, help="Of a study: build and try out all that the profile names, and train nothing."
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Trainings of a study on the workers of this dask cluster, tcp://HOST:PORT; or 'local': a cluster of N processes.",
)
@as_json
@click.pass_obj
def run(directory: Path | None, /, recipe: Path, out: Path | None, **options: Any) -> None:
    """Make what RECIPE describes: carry weights over, train, test, and write a model folder.

    Sources are looked for from the recipe's folder, and must have the sha256 that it names. A training that was
    interrupted goes on from the last epoch whose state was kept.

    RECIPE may also be a study, such as pipelines/dpiat or the params.yaml in it: its stages are carried out in their
    order. What is done is not done again after an interruption.
    """
    from kzoo.studies.params import find_study, is_study

    recipe = find_study(recipe)
    dry_run = options.pop("dry_run")
    study_options = {name: options.pop(name) for name in ("stages", "profile", "jobs", "scheduler")}
    if is_study(recipe):
        if options["force"] or options["trust_code"]:
            raise InputError(
                "--force and --trust-code are for recipes: a study replaces its own results, and runs no code"
            )
        if dry_run:
            idle = next((name for name in ("stages", "jobs", "scheduler") if study_options[name]), None)
            if idle is not None or out is not None:
                raise InputError("--dry-run tries out a whole profile and writes nothing: give --profile alone with it")
            _rehearse(recipe, study_options["profile"], options["as_json"])
        else:
            _run_study(recipe, out, as_json=options["as_json"], **study_options)
        return
    if dry_run:
        raise InputError(
            f"--dry-run is for studies, but {recipe} is none: 'kzoo transfer --plan FILE' writes what would be carried"
        )
    for name, value in study_options.items():
        if value:
            raise InputError(
                f"--{name.removesuffix('s') if name == 'stages' else name} is for studies, but {recipe} is none"
            )
    if out is None:
        raise InputError("Missing option '--out': name a new folder for the model")
    _run_recipe(directory, recipe, out, **options)


def _rehearse(path: Path, profile: str | None, as_json: bool) -> None:
    """Try out what a profile names, and fail where something cannot be used."""
    from kzoo.studies.params import read_study
    from kzoo.studies.rehearsal import rehearse

    study = read_study(path, profile)
    found = rehearse(study, Progress())
    problems = [one for one in found if one.problem is not None]
    if as_json:
        print_json({"profile": study.profile_name, "tried": [one.to_dict() for one in found]})
    else:
        print_table([(one.what, one.where, one.problem or one.told) for one in found], ("what", "where", "tried"))
    if problems:
        raise InputError(
            f"{len(problems)} of {len(found)} things that the profile {study.profile_name} names cannot be used; the first: "
            f"{problems[0].where}: {problems[0].problem}"
        )


def _run_study(
    path: Path,
    out: Path | None,
    stages: Sequence[str],
    profile: str | None,
    jobs: int | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    from kzoo.studies.params import read_study
    from kzoo.studies.running import run_stages

    study = read_study(path, profile)
    if out is None and profile not in (None, read_study(path).profile_name):
        raise InputError(
            f"the results in {path} are of the profile that its params.yaml names: give --out DIR for those of {profile}"
        )
    wanted = [study.stage(name) for name in stages] or list(study.stages)
    where = run_stages(study, wanted, out, jobs=jobs, scheduler=scheduler, progress=Progress(), say=hint)
    if as_json:
        print_json({"folder": str(where), "profile": study.profile_name, "stages": [stage.name for stage in wanted]})
        return
    click.echo(f"{', '.join(stage.name for stage in wanted)}: done, in {where}")


def _run_recipe(directory: Path | None, recipe: Path, out: Path, force: bool, trust_code: bool, as_json: bool) -> None:
    from kzoo.layout import TENSORS
    from kzoo.recipe import read_recipe

    wanted = read_recipe(recipe)
    if wanted.target.model == TENSORS:
        _run_tensors(directory, wanted, recipe.parent, out, force, as_json)
        return
    from kzoo.running import checkpoint_folder, run_recipe, writes

    try:
        result = run_recipe(wanted, surroundings(directory, trust_code, recipe.parent), out, force)
    except KeyboardInterrupt:
        if checkpoint_folder(out).exists():
            hint("\nThe training is kept up to an epoch that is not long ago: the same command goes on from there.")
        raise
    if not writes():
        return
    if as_json:
        report = None if result.report is None else result.report.to_dict()
        print_json({"folder": str(out), "recipe": result.recipe.digest, "report": report, "metrics": result.metrics})
        return
    show(result.report, False, quiet=True)
    if result.history is not None:
        _print_history(result.history)
    if result.metrics is not None:
        test = result.metrics["test"]
        click.echo(f"accuracy on {test['images']:,} test images: {test['accuracy']:.2%}")
    tell_loading(result)


def _run_tensors(directory: Path | None, recipe: Recipe, base: Path, out: Path, force: bool, as_json: bool) -> None:
    from kzoo.cli.fusing_files import show_tensors
    from kzoo.tensor_fusing import run_tensors

    show_tensors(run_tensors(recipe, base, lambda: open_zoo(directory), out, force, Progress()), as_json)


def _print_history(history: Any) -> None:
    speed = {timing.epoch: f"{timing.images_per_second:.0f}" for timing in history.timings}
    rows = [
        (
            epoch.epoch,
            f"{epoch.loss:.4f}",
            f"{epoch.accuracy:.2%}",
            f"{epoch.test_accuracy:.2%}",
            speed.get(epoch.epoch, "-"),
        )
        for epoch in history.epochs
    ]
    headers = ("epoch", "loss", "train", "test", "images/s")
    print_table(rows, headers, right=headers)

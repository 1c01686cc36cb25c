"""``kzoo fuse``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kzoo.cli.amalgamating import AMALGAMATING, amalgamate, amalgamation_options, require_no_student
from kzoo.cli.carrying import parameter, show, source_section, surroundings, tell_loading
from kzoo.cli.common import as_json, complete_network, count, print_json, print_table
from kzoo.cli.fusing_files import check_sources, fuse_unknown
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.fusing import FusionReport
    from kzoo.recipe import ComparisonSection, DataSection, SourceSection
    from kzoo.running import Result
    from kzoo.surroundings import Surroundings

_OUT = click.Path(path_type=Path)
_OWN = "own"
_METHODS = ("weight_sum", "nonessential", "regmean", "layerwise")


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo fuse a.safetensors b.safetensors --network timm:resnet18 --out fused\n"
    "  kzoo fuse one two three --method weight_sum --variant average --out fused\n"
    "  kzoo fuse one two --method nonessential --variant quadratic --data own --out fused\n"
    "  kzoo fuse one two --method regmean --data digits --data glyphs/digits --out fused\n"
    "  kzoo fuse cats birds --heads joined --classes tabby,siamese --classes owl,wren --out fused\n"
    "  kzoo fuse cats birds --method cfl --student timm:resnet18 --data imagefolder:pets --epochs 20 --out student\n"
    "  kzoo fuse --check hf:user/one hf:user/two"
)
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_network)
@click.option(
    "--method",
    type=click.Choice((*_METHODS, *AMALGAMATING)),
    default="weight_sum",
    show_default=True,
    help="How they are fused.",
)
@click.option(
    "--variant", help="weight_sum: average, sum, delta_sum, scaled_delta; nonessential: threshold, winner, ..."
)
@click.option(
    "--align",
    type=click.Choice(["none", "weights", "activations"]),
    help="Bring channels into the first network's order before, for networks that began differently.",
)
@click.option("--norms", type=click.Choice(["average", "fold"]), help="What becomes of batch normalisation.")
@click.option(
    "--heads",
    type=click.Choice(["shared", "joined"]),
    help="One classifier for the same classes, or the networks' own side by side.",
)
@click.option(
    "--classes", multiple=True, metavar="A,B,...", help="What outputs stand for: of all, or once for each network."
)
@click.option("--start", metavar="SOURCE", help="The weights that all of them were trained from.")
@click.option(
    "--data",
    multiple=True,
    metavar="TASK",
    help="Unlabelled images: for all, or one task for each network; own: what each was trained on, as its recipe says.",
)
@click.option("--images", type=click.IntRange(min=2), default=512, show_default=True, help="So many of them.")
@click.option("--image-size", type=click.IntRange(min=1), help="Of all images, in pixels; else the task's own.")
@click.option("--recalibrate", metavar="TASK", help="Measure batch normalisation's statistics on images of this task.")
@click.option(
    "--evaluate", metavar="TASK", help="Test it, its parents, ensembles, --start, RegMean and joint training on TASK."
)
@click.option(
    "--joint-epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --evaluate: train one network on all of TASK for so many epochs, as the ceiling.",
)
@click.option("-p", "--parameter", "more", multiple=True, metavar="NAME=VALUE", help="Another parameter of the method.")
@click.option("--network", metavar="NAME", help="The network that the weights belong to, where they do not say.")
@amalgamation_options
@click.option("--check", is_flag=True, help="Only tell whether they fit, from their headers; nothing is fetched.")
@click.option("--out", type=_OUT, metavar="DIR", help="The new folder for the model; not needed with --check.")
@click.option("--force", is_flag=True, help="Replace DIR if it exists.")
@click.option("--trust-code", is_flag=True, help="Allow py:package.module:factory, which imports and runs code.")
@as_json
@click.pass_obj
def fuse(directory: Path | None, /, sources: Sequence[str], **options: Any) -> None:
    """Make one network of the trained networks SOURCES, which are of one architecture, without training.

    With --method cfl or kd the sources are teachers of any architectures, each with its own --classes: a --student learns
    what they know together, over some --epochs, from images of --data, whose labels it never sees.

    Each is a safetensors file, a folder that holds one, local:NAME, or a network of the Hub (hf:user/name, or a registry
    id).

    Weights of a network that kzoo does not know are fused tensor by tensor (weight_sum; nonessential with
    -p importance=magnitude, or distance from --start), whatever their size.

    With --check only headers are read: do they fit, which tensors differ, how much would be fetched, and which license may
    the result carry. Exit code 0 if they fit, else 1. Its JSON: "fits"; "problem", the reason if not; "parents", of each
    "name", "tensors", "parameters", "dtypes" (tensors by type), "bytes", "fetched_bytes" (still to fetch), "license";
    "differing", of each "tensor" and "parents" (by name, "dtype" and "shape", or null); "bytes_to_fetch"; "license",
    with "license", "license_name", "license_link" (as on the Hub; null if none), "category", "blocked", "reasons",
    "duties", "ways_out".
    """
    if options["check"]:
        if options["method"] in AMALGAMATING:
            raise InputError(
                "--check compares networks that are to be fused entry by entry; teachers of --method cfl and kd need not fit each "
                "other: leave it out"
            )
        check_sources(directory, sources, options["as_json"])
        return
    if options["out"] is None:
        raise InputError(
            "Missing option '--out': name a new folder for the model, or give --check to see whether they fit"
        )
    from kzoo.files import require_new

    require_new(options["out"], options["force"])
    if options["method"] in AMALGAMATING:
        amalgamate(
            directory,
            options,
            lambda where: _with_classes(_opened(sources, where), where, options["classes"]),
            lambda where, start: _opened([start], where)[0],
        )
        return
    require_no_student(options)
    comparison = _comparison(options)
    parameters = {name: options[name] for name in ("variant", "align", "norms", "heads") if options[name] is not None}
    parameters |= dict(parameter(text) for text in options["more"])
    _refuse_idle(parameters, options)
    if fuse_unknown(directory, sources, parameters, options):
        return
    from kzoo.recipe import Recipe, TargetSection
    from kzoo.running import run_recipe
    from kzoo.trained_modules import trained_network

    where = surroundings(directory, options["trust_code"])
    origins = _with_classes(_opened(sources, where), where, options["classes"])
    first = where.open(origins[0].path, origins[0].submodule)
    spec = trained_network(first, where.zoo, options["network"], None, options["trust_code"])
    found = spec.options
    recipe = Recipe(
        sources=_with_images(origins, options, found.in_chans or 3),
        start=None if options["start"] is None else _opened([options["start"]], where)[0],
        target=TargetSection(
            model=str(spec),
            classes=found.classes if options["heads"] != "joined" else _outputs(origins) or found.classes,
            in_chans=found.in_chans,
            img_size=found.img_size,
            edits=[dict(edit) for edit in spec.edits],
        ),
        method=options["method"],
        parameters=parameters,
        recalibrate=_images(options["recalibrate"], options, found.in_chans or 3),
        data=_tested(options, found.in_chans or 3),
        comparison=comparison,
    )
    result = run_recipe(recipe, where, options["out"], options["force"])
    _show(result, options["as_json"])
    tell_loading(result)


def _refuse_idle(parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse images, or a start, that nothing would look at: somebody expects something of them."""
    from kzoo.methods.fusion.parameters import FUSION, FusionParameters
    from kzoo.methods.parameters import checked_parameters

    chosen = checked_parameters(options["method"], FUSION[options["method"]], parameters)
    assert isinstance(chosen, FusionParameters)
    uses = {"data": {"images", "fisher", "gram"}, "start": {"start"}}
    for name, needs in uses.items():
        if options[name] and not chosen.needs & needs and options["evaluate"] is None:
            raise InputError(
                f"method {options['method']} has no use for --{name} with these parameters: leave it out, or choose another method "
                "or variant (kzoo fuse --help)"
            )


def _opened(sources: Sequence[str], where: Surroundings) -> list[SourceSection]:
    from kzoo.weights import in_any_order

    with in_any_order():
        return [source_section(source, where) for source in sources]


def _with_classes(origins: Sequence[SourceSection], where: Surroundings, given: Sequence[str]) -> list[SourceSection]:
    """The sources, each with what its outputs stand for, as the options or the files beside its weights say."""
    from kzoo.model_folder import label_names

    if len(given) not in (0, 1, len(origins)):
        raise InputError(
            f"there are {len(origins)} networks and {len(given)} --classes: give one list for all, or one for each in order"
        )
    said = [text.split(",") for text in given] * (len(origins) if len(given) == 1 else 1)
    if not said:
        shards = [where.open(one.path, one.submodule).shards for one in origins]
        told = [label_names(files[0].parent) if files else None for files in shards]
        return [one.model_copy(update={"classes": names}) for one, names in zip(origins, told, strict=True)]
    return [one.model_copy(update={"classes": names}) for one, names in zip(origins, said, strict=True)]


def _outputs(origins: Sequence[SourceSection]) -> int | None:
    """The number of classes that all sources know together, where each says what it knows."""
    from kzoo.methods.fusion.classifiers import union_of_classes

    known = [one.classes for one in origins if one.classes is not None]
    return len(union_of_classes(known)) if len(known) == len(origins) else None


def _with_images(origins: Sequence[SourceSection], options: dict[str, Any], channels: int) -> list[SourceSection]:
    """The sources, each with its images."""
    tasks = options["data"]
    if len(tasks) not in (0, 1, len(origins)):
        raise InputError(
            f"there are {len(origins)} networks and {len(tasks)} --data: give one task for all, or one for each in order"
        )
    each = list(tasks) * (len(origins) if len(tasks) == 1 else 1) or [None] * len(origins)
    images = [
        _own_images(one, options) if task == _OWN else _images(task, options, channels)
        for one, task in zip(origins, each, strict=True)
    ]
    return [one.model_copy(update={"images": some}) for one, some in zip(origins, images, strict=True)]


def _own_images(origin: SourceSection, options: dict[str, Any]) -> DataSection:
    """What the recipe beside a source's weights trained it on, in as many images as the options say, at most.

    Raises:
        InputError: there is no such recipe, or it trained on nothing.
    """
    from kzoo.layout import RECIPE
    from kzoo.recipe import is_no_path, moved, read_recipe

    path = Path(origin.path)
    folder = path if path.is_dir() else path.parent
    if is_no_path(origin.path) or not (folder / RECIPE).is_file():
        raise InputError(
            f"{origin.path} has no recipe that says what it was trained on: name its images (--data TASK, once for each)"
        )
    data = moved(read_recipe(folder / RECIPE), folder, Path.cwd()).data
    if data is None:
        raise InputError(f"the recipe of {origin.path} trains on nothing: name its images (--data TASK, once for each)")
    count = min(data.train or options["images"], options["images"])
    return data.model_copy(update={"train": count, "fingerprint": None})


def _images(task: str | None, options: dict[str, Any], channels: int) -> DataSection | None:
    from kzoo.recipe import DataSection

    if task is None:
        return None
    return DataSection(task=task, train=options["images"], size=options["image_size"], channels=channels)


def _comparison(options: dict[str, Any]) -> ComparisonSection | None:
    """What is compared, with every setting of the joint training."""
    from kzoo.recipe import ComparisonSection
    from kzoo.training.settings import read_settings

    epochs = options["joint_epochs"]
    if options["evaluate"] is None:
        if epochs is not None:
            raise InputError("--joint-epochs is for a comparison: say on what, with --evaluate TASK")
        return None
    joint = None if epochs is None else read_settings({"epochs": epochs, "schedule": "cosine"})
    return ComparisonSection(joint=joint)


def _tested(options: dict[str, Any], channels: int) -> DataSection | None:
    """All images of the task that the networks are compared on."""
    from kzoo.recipe import DataSection

    if options["evaluate"] is None:
        return None
    return DataSection(task=options["evaluate"], size=options["image_size"], channels=channels)


def _show(result: Result, in_json: bool) -> None:
    """Print what was fused, and how it compares."""
    from kzoo.comparing import shown

    found = None if result.metrics is None else result.metrics["comparison"]
    if in_json and found is not None and result.report is not None:
        print_json(result.report.to_dict() | {"comparison": found})
        return
    show(result.report, in_json, False)
    if found is not None:
        click.echo(f"\nOn the {found['rows']['fused']['images']:,} test images:")
        print_table(list(shown(found)), ("", "accuracy"), right=("accuracy",))


def show_fusion(report: FusionReport) -> None:
    """Print what was fused for people."""
    for name, found in zip(report.parents[1:], report.alignments, strict=False):
        click.echo(
            f"{name}: its channels in the order of {report.parents[0]}'s; alike by {found['similarity']:.3f}, "
            f"{found['before']:.3f} before."
        )
    click.echo(f"{len(report.parents)} networks of {count(report.entries)} learned entries became one.")

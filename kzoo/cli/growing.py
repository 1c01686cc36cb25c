"""``kzoo widen`` and ``kzoo deepen``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kzoo.cli.carrying import parameter, show, source_section, surroundings, tell_loading
from kzoo.cli.common import as_json, complete_network, count, hint, print_table
from kzoo.errors import InputError

if TYPE_CHECKING:
    from kzoo.building import NetworkSpec
    from kzoo.methods.growth import GrowthReport
    from kzoo.recipe import DataSection
    from kzoo.weights import TrainedNetwork

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OUT = click.Path(path_type=Path)
_SHOWN = 3


def _growth_options(command: _Command) -> _Command:
    """Add the options that both commands have."""
    for option in reversed(
        (
            click.option(
                "-p",
                "--parameter",
                "more",
                multiple=True,
                metavar="NAME=VALUE",
                help="Another parameter of the method.",
            ),
            click.option(
                "--network", metavar="NAME", help="The network that the weights belong to, where SOURCE does not say."
            ),
            click.option(
                "--classes", type=int, metavar="N", help="Its number of classes; else as the weights have it."
            ),
            click.option(
                "--in-chans", type=int, metavar="N", help="Its input channels; else as the weights have them."
            ),
            click.option("--img-size", type=int, metavar="N", help="Its image size, where it is not the usual one."),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn."),
            click.option("--out", type=_OUT, required=True, metavar="DIR", help="The new folder for the model."),
            click.option("--force", is_flag=True, help="Replace DIR if it exists."),
            click.option(
                "--trust-code", is_flag=True, help="Allow py:package.module:factory, which imports and runs code."
            ),
            click.option("-q", "--quiet", is_flag=True, help="Do not list what grew."),
        )
    ):
        command = option(command)
    return command


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo widen resnet18.safetensors --to 1.5 --network timm:resnet18 --out wider\n"
    "  kzoo widen local:glyphs-resnet-1x12 --to 2 --out wider\n"
    "  kzoo widen local:glyphs-vgg-1x16 --layer features.0=24 --out wider\n"
    "  kzoo widen local:glyphs-vgg-1x16 --to 1.5 --method random_pad --out padded"
)
@click.argument("source", shell_complete=complete_network)
@click.option("--to", type=float, metavar="FACTOR", help="So many times wider, everything that can be.")
@click.option(
    "--layer", "layers", multiple=True, metavar="NAME=WIDTH", help="This layer so wide, and what is tied to it."
)
@click.option(
    "--method",
    type=click.Choice(["net2wider", "random_pad"]),
    default="net2wider",
    show_default=True,
    help="Keep the function, or fill up with random values (the paper's baseline).",
)
@click.option(
    "--division", type=click.Choice(["unequal", "equal"]), help="net2wider: how a weight is divided among copies."
)
@click.option("--noise", type=click.FloatRange(min=0), help="net2wider: noise on copies, of each tensor's deviation.")
@_growth_options
@as_json
@click.pass_obj
def widen(directory: Path | None, /, source: str, **options: Any) -> None:
    """Make the trained network SOURCE wider, with the same outputs, and write it as a model folder (Net2WiderNet).

    SOURCE is a safetensors file, a folder that holds one, local:NAME, a network of the Hub (hf:user/name, or a registry
    id), or py:package.module:factory.
    """
    if (options["to"] is None) == (not options["layers"]):
        raise InputError(
            "how wide the network becomes is not said: give --to FACTOR, or --layer NAME=WIDTH, one of the two"
        )
    widths = [_width(text) for text in options["layers"]]
    if len({name for name, _ in widths}) < len(widths):
        raise InputError("--layer names a layer twice: give each one width")
    to: Any = options["to"] if options["to"] is not None else dict(widths)
    given = {name: options[name] for name in ("division", "noise") if options[name] is not None}
    _grow(directory, source, {"to": to} | given, options)


def _width(text: str) -> tuple[str, int]:
    name, equals, value = text.rpartition("=")
    if not (name and equals and value.isdecimal()):
        raise InputError(f"--layer {text!r:.80} is not NAME=WIDTH, such as layer1.0.conv1=96")
    return name, int(value)


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo deepen resnet18.safetensors --network timm:resnet18 --out deeper\n"
    "  kzoo deepen local:glyphs-resnet-1x12 --at layer2 --at layer3 --out deeper\n"
    "  kzoo deepen local:glyphs-vgg-1x16 --at features.2 --data glyphs/upper --out deeper\n"
    "  kzoo deepen local:digits-vit-2x32 --at blocks.1.mlp.act --method dils --data digits --out deeper"
)
@click.argument("source", shell_complete=complete_network)
@click.option(
    "--at", multiple=True, metavar="NAME", help="A stage, a block or a layer; may be repeated.  [default: every stage]"
)
@click.option(
    "--method",
    type=click.Choice(["net2deeper", "dils"]),
    default="net2deeper",
    show_default=True,
    help="Layers that are the identity, or weights solved for on images (DILS, reconstructed).",
)
@click.option("--data", metavar="TASK", help="Unlabelled images to calibrate on, such as digits.")
@click.option("--images", type=click.IntRange(min=2), default=1024, show_default=True, help="So many of them.")
@click.option("--image-size", type=click.IntRange(min=1), help="Of these images, in pixels; else the task's own.")
@click.option("--kind", type=click.Choice(["auto", "identity", "residual"]), help="net2deeper: what is added.")
@click.option("--norm/--no-norm", default=None, help="net2deeper: whether an identity layer has batch normalisation.")
@click.option("--where", type=click.Choice(["after", "before"]), help="dils: on which side of the layer.")
@_growth_options
@as_json
@click.pass_obj
def deepen(directory: Path | None, /, source: str, at: Sequence[str], **options: Any) -> None:
    """Make the trained network SOURCE deeper, and write it as a model folder (Net2DeeperNet, or DILS).

    SOURCE is a safetensors file, a folder that holds one, local:NAME, a network of the Hub (hf:user/name, or a registry
    id), or py:package.module:factory. Net2DeeperNet keeps the outputs as they are.
    """
    if options["method"] == "dils" and not at:
        raise InputError("dils needs a place: give --at NAME, the layer that a new one comes after")
    given = {name: options[name] for name in ("kind", "norm", "where") if options[name] is not None}
    _grow(directory, source, ({"at": list(at)} if at else {}) | given, options)


def _grow(directory: Path | None, source: str, parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Make the recipe that the command's options amount to, and run it."""
    from kzoo.files import require_new
    from kzoo.recipe import Recipe, TargetSection
    from kzoo.running import run_recipe
    from kzoo.sources import Options
    from kzoo.starting import method_parameters
    from kzoo.trained_modules import trained_network

    require_new(options["out"], options["force"])
    more = dict(parameter(text) for text in options["more"])
    if twice := sorted(more.keys() & parameters.keys()):
        raise InputError(f"-p {twice[0]}=... says again what an option has said: give one of them")
    parameters |= {"seed": options["seed"]} | more
    method_parameters(options["method"], parameters)
    where = surroundings(directory, options["trust_code"])
    origin = source_section(source, where)
    trained = where.open(origin.path, origin.submodule)
    sizes = Options(options["classes"], options["in_chans"], options["img_size"])
    spec = trained_network(trained, where.zoo, options["network"], sizes, options["trust_code"])
    found = spec.options
    recipe = Recipe(
        sources=[origin],
        target=TargetSection(
            model=str(spec),
            classes=found.classes,
            in_chans=found.in_chans,
            img_size=found.img_size,
            edits=[dict(edit) for edit in spec.edits],
        ),
        method=options["method"],
        parameters=parameters,
        calibration=_calibration(options, spec, trained),
    )
    result = run_recipe(recipe, where, options["out"], options["force"])
    show(result.report, options["as_json"], options["quiet"])
    tell_loading(result)


def _calibration(options: dict[str, Any], spec: NetworkSpec, trained: TrainedNetwork) -> DataSection | None:
    from kzoo.recipe import DataSection

    if options.get("data") is None:
        return None
    shapes = (layer.shape for layer in trained.architecture.layers if layer.kind == "conv2d")
    channels = options["in_chans"] or next((shape[1] for shape in shapes), 3)
    return DataSection(
        task=options["data"],
        train=options["images"],
        size=options["image_size"] or _known_size(spec, trained),
        channels=channels if channels in (1, 3) else 3,
    )


def _known_size(spec: NetworkSpec, trained: TrainedNetwork) -> int | None:
    """Pixels of the images that a network was trained on, as far as its registry or the file beside it tells."""
    from kzoo.readers.files import read_weights_file

    told = trained.model.fields.get("input_size") if trained.model is not None else None
    if told is None and trained.shards:
        told = read_weights_file(trained.shards[0]).input_size
    return int(told[-1]) if told else spec.options.img_size


def show_growth(report: GrowthReport, quiet: bool) -> None:
    """Print what grew for people."""
    if not quiet and report.grown:
        rows = [(_few(each["tensors"]), each["old"], each["new"]) for each in report.grown]
        print_table(rows, ("channels of", "old", "new"), right=("old", "new"))
        click.echo("")
    if not quiet and report.added:
        print_table([(name,) for name in report.added], ("added",))
        click.echo("")
    for each in report.insertions if not quiet else ():
        click.echo(f"{each['name']}: what it hands on differs by {each['error']:.2%}{_identity(each)}{_lifted(each)}.")
    for each in report.left if not quiet else ():
        hint(f"{each.get('stage') or _few(each['tensors'])} stays as it is: {each['reason']}.")
    for remark in report.remarks:
        hint(f"{remark[0].upper()}{remark[1:]}.")
    click.echo(f"{count(report.before)} learned entries became {count(report.after)}.")
    if report.kept:
        click.echo(f"Its outputs are the same on the images tried, but for {report.difference:.0e} of the largest.")
    else:
        click.echo(
            f"Its outputs differ from the old ones by {report.difference:.1e} of the largest, on the images tried."
        )


def _identity(insertion: Mapping[str, Any]) -> str:
    error = insertion["identity_error"]
    return "" if error is None else f" (an identity layer's by {error:.2%})"


def _lifted(insertion: Mapping[str, Any]) -> str:
    return f"; the bias of {insertion['lifted']} was raised for that" if insertion["lifted"] is not None else ""


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

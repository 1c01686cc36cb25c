"""The ``kzoo`` command: the group of all commands, and errors turned into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import get_completion_class

import kzoo
from kzoo.cli.carrying import run as run_recipe
from kzoo.cli.carrying import transfer
from kzoo.cli.curves import curves
from kzoo.cli.fusing import fuse
from kzoo.cli.growing import deepen, widen
from kzoo.cli.hub import pull
from kzoo.cli.papers import report
from kzoo.cli.publishing import card, lineage, publish, rebuild
from kzoo.cli.ranking import compare, recommend
from kzoo.cli.registry import registry
from kzoo.cli.repro import repro
from kzoo.cli.studies import claims, environment
from kzoo.cli.zoo import add, index, list_models, show
from kzoo.errors import InputError, KzooError, KzooWarning

_SHELLS = ("bash", "fish", "zsh")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: kzoo recommend timm:resnet26d",
)
@click.option(
    "-C",
    "--registry",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Put this registry folder on top of the one that came with kzoo and of those in KZOO_REGISTRY.",
)
@click.version_option(kzoo.__version__, prog_name="kzoo")
@click.pass_context
def cli(context: click.Context, directory: Path | None) -> None:
    """Pick the best trained network to start from, and carry its knowledge over."""
    context.obj = directory


@cli.command(
    epilog='\b\nExamples:\n  eval "$(kzoo completion bash)"\n  kzoo completion fish > ~/.config/fish/completions/kzoo.fish'
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell: commands, options, model names."""
    maker = get_completion_class(shell)
    assert maker is not None  # click knows all three
    if shell == "bash":
        # bash ends a word at a colon unless told otherwise, and timm:resnet50 is one word.
        click.echo('COMP_WORDBREAKS="${COMP_WORDBREAKS//:}"')
    click.echo(maker(cli, {}, "kzoo", "_KZOO_COMPLETE").source())


for command in (
    recommend,
    compare,
    transfer,
    widen,
    deepen,
    fuse,
    run_recipe,
    curves,
    list_models,
    show,
    add,
    pull,
    index,
    registry,
    card,
    publish,
    rebuild,
    lineage,
    repro,
    report,
    claims,
    environment,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; exit codes are 0 done, 1 a check said no, 2 bad input, 3 network or disk failed."""
    sys.exit(run())


def run() -> int:
    """Run the command line and return its exit code."""
    warnings.showwarning = _warning_printer()
    warnings.simplefilter("always", KzooWarning)
    stdout = sys.stdout
    try:
        result = cli.main(prog_name="kzoo", standalone_mode=False)
        if sys.stdout is not None:  # a closed stdout is None
            sys.stdout.flush()
        return int(result or 0)
    except KzooError as error:
        return _fail(str(error), error.exit_code)
    except click.Abort:
        return _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return InputError.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), InputError.exit_code, error)
    except SystemExit:
        if sys.stdout is not stdout:
            # click has put another stdout in place because the reader (head, less) has enough: nothing has failed.
            return 0
        raise
    except BrokenPipeError:
        # The reader (head, less) has enough; keep Python from failing again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        return _fail(_missing(error), InputError.exit_code)
    except UnicodeError:
        return _fail("a name cannot be printed or written here: use names of printable characters", 2)
    except OSError as error:
        return _fail(f"{error.filename or 'the disk or network'}: {error.strerror or error}", 3)


#: The extra of kzoo that brings a module; what is in none is part of the light core.
_EXTRAS = {
    **dict.fromkeys(("psutil", "safetensors", "timm", "torch", "torchvision"), "torch"),
    **dict.fromkeys(("accelerate", "matplotlib", "PIL", "scipy", "sklearn"), "training"),
    **dict.fromkeys(("cryptography", "dask", "distributed"), "cluster"),
    "dvc": "pipelines",
    **dict.fromkeys(("huggingface_hub", "httpx", "httpx2"), "hub"),
    **dict.fromkeys(("boolean", "jinja2", "license_expression", "markdown_it"), "publish"),
}


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a module that is not here."""
    name = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(name)
    wanted = "." if extra is None else f".[{extra}]"
    return f"this needs {name or error}, which is not installed: pip install -c constraints.txt -e '{wanted}' in kzoo's folder"


def _warning_printer() -> Callable[..., None]:
    """Prints kzoo's own warnings as lines for people, each once; those of the libraries below it are not for them."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_where: object) -> None:
        if issubclass(category, KzooWarning) and str(message) not in said:
            said.add(str(message))
            click.echo(f"Note: {message}", err=True)

    return show


def _fail(sentence: str, code: int, error: click.ClickException | None = None) -> int:
    context = getattr(error, "ctx", None)
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    # A sentence is one line; if stderr fails too there is nobody left to tell.
    with suppress(OSError):
        click.echo(f"Error: {' '.join(sentence.split()).rstrip('.')}{hint}", err=True)
    return code

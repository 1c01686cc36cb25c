"""``kzoo card``, ``publish``, ``rebuild`` and ``lineage``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kzoo.cli.common import Progress, as_json, hint, open_zoo, print_json, print_table
from kzoo.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from kzoo.publish.facts import CardFacts, CardLicense
    from kzoo.publish.page import Choice as LicenseChoice
    from kzoo.publish.page import Page

_MOST_CARD = 10_000_000
_STDOUT = Path("-")
_PREVIEW = "preview.html"


_license_name = click.option("--license-name", metavar="NAME", help="What --license other is called.")
_license_link = click.option("--license-link", metavar="URL", help="Where the text of --license other is.")
_beside = click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A model from another start, tested on the same images, to put beside it; may be repeated.",
)


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo card trained\n"
    "  kzoo card trained --beside random --license apache-2.0 --out trained/README.md\n"
    "  kzoo card trained --repo user/name --license mit\n"
    "  kzoo card trained/README.md --check"
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repo", "repository", metavar="USER/NAME", help="Where it is going to be on the Hub, for links.")
@click.option("--license", metavar="ID", help="An id of the Hub, such as apache-2.0, or other.")
@_license_name
@_license_link
@_beside
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the card into FILE, and its picture beside it.",
)
@click.option("--check", is_flag=True, help="Only check the card that is there against the Hub's rules.")
@as_json
@click.pass_obj
def card(
    directory: Path | None,
    /,
    folder: Path,
    repository: str | None,
    license: str | None,
    license_name: str | None,
    license_link: str | None,
    beside: Sequence[Path],
    out: Path | None,
    check: bool,
    as_json: bool,
) -> None:
    """Print the card (README.md) of the model folder DIR, or write it.

    It tells what the model is, how it was made, what a test gave (with intervals, and beside other starts), what was not
    carried over, how to load it and how to make it again. Nothing is sent anywhere. With --check, DIR may also be a
    card.
    """
    from kzoo.publish.card import checked_card
    from kzoo.publish.facts import read_facts
    from kzoo.publish.page import Choice
    from kzoo.publish.picture import card_picture

    if check:
        _check(folder, as_json)
        return
    zoo = cache(lambda: open_zoo(directory))
    facts = read_facts(folder, repository, None, beside, zoo)
    facts = replace(facts, license=_license(facts, Choice(license, license_name, license_link)))
    written = {}
    if out not in (None, _STDOUT):
        assert out is not None
        picture = card_picture(folder, facts, zoo)
        facts = replace(facts, picture=picture[0] if picture is not None else None)
        if picture is not None:
            written[out.with_name(picture[0])] = picture[1]
        written[out] = checked_card(facts)
        _write(written)
    _show(facts, checked_card(facts), as_json, written)


def _license(facts: CardFacts, choice: LicenseChoice) -> CardLicense | None:
    """The license that `kzoo publish` would take, as far as it is known without asking the Hub; else what is chosen."""
    from kzoo.publish.facts import CardLicense
    from kzoo.publish.page import card_license, chosen_license

    try:
        return card_license(chosen_license(facts, choice))
    except CheckFailed as error:
        hint(f"Warning: {error}")
    if choice.license is None:
        return None
    return CardLicense(choice.license, choice.license_name, choice.license_link)


def _write(written: dict[Path, str]) -> None:
    from kzoo.files import replacing

    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def _show(facts: CardFacts, text: str, as_json: bool, written: dict[Path, str]) -> None:
    if as_json:
        print_json({"card": text, "facts": asdict(facts), "written": [str(path) for path in written]})
    elif not written:
        click.echo(text, nl=False)
    for path in written:
        hint(f"Written: {path}")
    if facts.license is None:
        hint("It names no license, so nobody may use the model: give --license ID.")


def _check(path: Path, as_json: bool) -> None:
    """Tell what is wrong with a card that is there.

    Raises:
        InputError: there is none.
        CheckFailed: something is.
    """
    from kzoo.layout import CARD
    from kzoo.publish.rules import card_faults
    from kzoo.readers.safetensors import read_bounded

    path = path / CARD if path.is_dir() else path
    try:
        text = read_bounded(path, _MOST_CARD).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    faults = card_faults(text)
    if as_json:
        print_json({"card": str(path), "faults": faults})
    for fault in faults if not as_json else ():
        click.echo(fault)
    if faults:
        raise CheckFailed(f"{path}: the Hub would not take this card as it is: correct what is said above")
    if not as_json:
        click.echo(f"{path}: the Hub takes this card, as far as its rules are known")


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo publish trained --repo user/name --dry-run\n"
    "  kzoo publish trained --repo user/name --beside random\n"
    "  kzoo publish trained --repo team/name --pr"
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repo", "repository", metavar="USER/NAME", required=True, help="Where on the Hub.")
@click.option("--dry-run", is_flag=True, help="Only write all of it, and a preview, into the folder --out.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="For --dry-run. Default: DIR-page.")
@click.option("--public", is_flag=True, help="Let everybody see it; without this a new repository is private.")
@click.option("--pr", "pull_request", is_flag=True, help="Propose it to a repository that exists, as a pull request.")
@click.option("--yes", is_flag=True, help="Replace files that are there without asking.")
@click.option("--license", metavar="ID", help="One that all sources allow. Default: the one that they ask for.")
@_license_name
@_license_link
@click.option(
    "--i-have-permission",
    "permission",
    metavar="TEXT",
    help="Who allows what the licenses do not; the card says it.",
)
@_beside
@click.option("--force", is_flag=True, help="Replace the folder of an earlier dry run.")
@as_json
@click.pass_obj
def publish(
    directory: Path | None,
    /,
    folder: Path,
    repository: str,
    dry_run: bool,
    out: Path | None,
    beside: Sequence[Path],
    force: bool,
    as_json: bool,
    public: bool,
    pull_request: bool,
    yes: bool,
    **choice: str | None,
) -> None:
    """Put the model folder DIR on the Hub: weights, card, recipe, environment, metrics and picture, in one commit.

    The license is the one that everything it was made from asks for; where there is none, nothing is published. A new
    repository is private. What is there is replaced only after a question. The same folder twice makes no second commit.
    """
    from kzoo.publish.page import Choice, read_page

    zoo = cache(lambda: open_zoo(directory))
    page = read_page(folder, repository, Choice(**choice), beside, zoo, _note if dry_run else None)
    for obstacle in page.facts.obstacles:
        hint(f"Warning: others cannot make this model again: {obstacle}")
    if page.facts.license is None:
        hint("Warning: it names no license, so nobody may use the model: give --license ID")
    if dry_run:
        out = out or folder.resolve().with_name(f"{folder.resolve().name}-page")
        _require_apart(folder, out)
        _dry_run(page, out, force, as_json)
        return
    from kzoo.publish.licensing import NOT_ADVICE
    from kzoo.publish.publishing import Options, found_at, publish

    if out is not None or force:
        raise InputError("--out and --force are for --dry-run: leave them out")
    published = publish(page, Options(public, pull_request, yes), _confirmed)
    if as_json:
        print_json(found_at(published) | {"license": page.license.license, "files": list(page.files)})
        return
    what = "proposed as a pull request" if published.pull_request else "published"
    click.echo(f"{published.pull_request or published.url}: {what if published.changed else 'nothing has changed'}")
    click.echo(
        f"commit {published.commit}, {'public' if published.public else 'private'}, license {page.license.license}"
    )
    hint(NOT_ADVICE)
    if not published.pull_request and not page.facts.obstacles:
        hint(f"Anybody who may see it can make it again: kzoo rebuild {published.repository}")


def _note(text: str) -> None:
    hint(f"Note: {text}")


def _confirmed(question: str) -> bool:
    """Ask a person; where there is none, the answer is a sentence.

    Raises:
        InputError: nobody is there to answer.
    """
    import sys

    if not sys.stdin.isatty():
        raise InputError(f"{question}: give --yes to do that, --pr to propose it, or another --repo")
    return click.confirm(f"{question}. Go on?", err=True)


def _require_apart(folder: Path, out: Path) -> None:
    """Refuse to write a page over a model folder, its own or another.

    Raises:
        InputError: it would.
    """
    one, other = folder.resolve(), out.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(f"{out} is the model folder itself, or in or around it: give another --out")
    if other.exists() and any(other.iterdir()) and not (other / _PREVIEW).is_file():
        raise InputError(f"{out} exists and holds no earlier dry run: give another --out")


def _dry_run(page: Page, out: Path, force: bool, as_json: bool) -> None:
    """Write what would be published, and a preview of the page, into a new folder."""
    import shutil

    from kzoo.files import new_folder
    from kzoo.layout import CARD
    from kzoo.publish.licensing import NOT_ADVICE
    from kzoo.publish.preview import preview_page

    card = page.files[CARD]
    assert isinstance(card, bytes)
    with new_folder(out, force) as folder:
        for name, content in page.files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                (folder / name).write_bytes(content)
        (folder / _PREVIEW).write_text(preview_page(card.decode(), page.facts.title), encoding="utf-8")
    license = page.license
    if as_json:
        told = {"license": license.license, "category": license.category, "reasons": license.reasons}
        print_json({"repository": page.facts.repository, "written": str(out), "files": list(page.files), **told})
        return
    size = sum((out / name).stat().st_size for name in page.files)
    click.echo(
        f"{page.facts.repository} would get {len(page.files)} files, {size / 1e6:,.1f} MB: {', '.join(page.files)}"
    )
    click.echo(f"license {license.license or 'none'}")
    for reason in license.reasons:
        click.echo(f"  {reason}")
    hint(NOT_ADVICE)
    hint(f"Look at {out / _PREVIEW}; nothing was sent")


@click.command(
    epilog="\b\nExamples:\n  kzoo rebuild user/name\n  kzoo rebuild user/name@COMMIT --out again\n  kzoo rebuild user/name --json"
)
@click.argument("model", metavar="USER/NAME[@REVISION]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Keep the result in this new folder.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Instead of the recipe's.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="How far accuracies of different classes of machines may lie apart.",
)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Where torchvision's data sets are, if the recipe needs one.",
)
@as_json
@click.pass_context
def rebuild(
    context: click.Context,
    /,
    model: str,
    out: Path | None,
    threads: int | None,
    tolerance: float,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Make a published model again from its page: its recipe, on its pinned sources; and compare the weights.

    Exit code 0 if they are the same bytes, or, on another class of machine, near enough; 1 if they are not. A recipe from
    the Hub is data: it can name no code, no command, and no place outside its page.
    """
    from kzoo.files import require_new
    from kzoo.hub.names import parse_name
    from kzoo.plots.text import counted
    from kzoo.publish.rebuilding import rebuild

    if out is not None:
        require_new(out, False)
    zoo = cache(lambda: open_zoo(context.obj))
    found = rebuild(parse_name(model), out, zoo, Progress(), hint, threads=threads, tolerance=tolerance, data=data_root)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(f"{found.repository} at {found.commit[:12]}: {_VERDICTS[found.verdict]}")
        click.echo(f"published {found.published}\nrebuilt   {found.rebuilt}")
        rows = [(one.name, _number(one.largest), _number(one.share)) for one in found.tensors[:20]]
        if rows:
            print_table(rows, ("tensor", "largest difference", "of the largest entry"), right=("largest difference",))
            hint(f"{counted(len(found.tensors), 'tensor')} differ{'s' * (len(found.tensors) == 1)}.")
        if found.accuracy is not None and found.verdict != "identical":
            click.echo(f"accuracy {found.accuracy[0]:.2%} published, {found.accuracy[1]:.2%} rebuilt")
    if found.verdict == "different":
        context.exit(CheckFailed.exit_code)


_VERDICTS = {
    "identical": "identical, byte for byte",
    "equivalent": "not the same bytes, as near as another class of machine allows",
    "different": "different",
}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


@click.command(
    epilog="\b\nExamples:\n"
    "  kzoo lineage user/name\n"
    "  kzoo lineage trained --mermaid\n"
    "  kzoo lineage user/name@COMMIT --svg lineage.svg"
)
@click.argument("model", metavar="DIR|USER/NAME[@REVISION]")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart, as GitHub and the Hub draw it.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it into FILE.")
@as_json
@click.pass_obj
def lineage(directory: Path | None, /, model: str, mermaid: bool, svg: Path | None, as_json: bool) -> None:
    """Show what a model was made from, across repositories, each parent at its commit; broken pins are flagged."""
    from kzoo.files import replacing
    from kzoo.plots.tree import tree_mermaid, tree_svg, tree_text
    from kzoo.publish.lineage import lineage

    found = lineage(model, cache(lambda: open_zoo(directory)))
    if svg is not None:
        with replacing(svg) as temporary:
            temporary.write_text(tree_svg(found.node, f"Lineage of {found.name}"), encoding="utf-8")
        hint(f"wrote {svg}")
    if as_json:
        print_json(found.to_dict())
    elif mermaid:
        click.echo(tree_mermaid(found.node), nl=False)
    elif svg is None:
        click.echo(tree_text(found.node), nl=False)
    wrong = sum(origin.problem is not None for origin in found.walk())
    if wrong:
        hint(f"{wrong} of them {'has a problem' if wrong == 1 else 'have problems'}, marked above.")

"""``kzoo card``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kzoo.cli.common import as_json, hint, open_zoo, print_json
from kzoo.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from kzoo.publish.facts import CardFacts, CardLicense

_MOST_CARD = 10_000_000
_STDOUT = Path("-")


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
@click.option("--license-name", metavar="NAME", help="What --license other is called.")
@click.option("--license-link", metavar="URL", help="Where the text of --license other is.")
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A model from another start, tested on the same images, to put beside it; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the card into FILE, and the picture of the matching beside it.",
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
    from kzoo.publish.facts import PICTURE, read_facts
    from kzoo.publish.picture import matching_picture

    if check:
        _check(folder, as_json)
        return
    zoo = cache(lambda: open_zoo(directory))
    facts = read_facts(folder, repository, _license(license, license_name, license_link), beside, zoo)
    written = {}
    if out not in (None, _STDOUT):
        assert out is not None
        picture = matching_picture(folder, facts, zoo)
        if picture is not None:
            facts = replace(facts, picture=PICTURE)
            written[out.with_name(PICTURE)] = picture
        written[out] = checked_card(facts)
        _write(written)
    _show(facts, checked_card(facts), as_json, written)


def _license(name: str | None, called: str | None, address: str | None) -> CardLicense | None:
    from kzoo.publish.facts import CardLicense

    if name is None:
        if called is not None or address is not None:
            raise InputError("--license-name and --license-link say what --license other is: give that with them")
        return None
    return CardLicense(name, called, address)


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

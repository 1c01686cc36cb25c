"""What licenses ask of a work made from others, as a table: their kind, and what such a work may be published under.

The table holds the Hub's ids and the common SPDX ids, in lower case. A license that is not in it has unknown terms.
Weights are taken as one work made from all their parents: nobody can tell the files of one parent from those of another,
so that also licenses that end at the border of a file, such as MPL-2.0, hold for the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Category = Literal[
    "permissive",
    "weak copyleft",
    "share-alike",
    "strong copyleft",
    "use-restricted",
    "non-commercial",
    "no derivatives",
    "unknown",
]
Gnu = Literal["no", "3", "2 and 3"]
#: From the one that allows most to the one of which nothing is known.
CATEGORIES: tuple[Category, ...] = get_args(Category)

# Where the terms are read; docs/licenses.md and the tests give the place for each combination.
_FSF = "https://www.gnu.org/licenses/license-list.html"
_FSF_MATRIX = "https://www.gnu.org/licenses/gpl-faq.html#AllCompatibility"
_CC = "https://creativecommons.org/faq/#if-i-derive-or-adapt-material-offered-under-a-creative-commons-license-which-cc-licenses-can-i-use"
_HUB = "https://huggingface.co/docs/hub/repositories-licenses"
_SPDX = "https://spdx.org/licenses/"
_VERSION = re.compile(r"-(?=\d)")


@dataclass(frozen=True)
class Terms:
    """What one license asks of a work that is made from a work under it.

    ``onward`` are other licenses that such a work may be published under; ``joins`` are those it may only be published
    under together with another work that is under them. ``demands`` orders permissive, and non-commercial, licenses:
    a work under one may go into a work under another that demands at least as much. ``gnu`` tells which GNU licenses a
    permissive one is known to be compatible with. With ``stackable`` a work may have any further terms as long as
    these are passed on. ``notice``, ``changes``: authors must be named, changes be told. ``results_free``: its text
    says that what is computed from data under it is free of duties. ``naming`` are sentences on what must be shown.
    ``source`` is where its terms are read.
    """

    id: str
    category: Category
    source: str
    demands: int = 0
    gnu: Gnu = "no"
    onward: frozenset[str] = frozenset()
    joins: frozenset[str] = frozenset()
    stackable: bool = False
    notice: bool = True
    changes: bool = True
    results_free: bool = False
    naming: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The license without its version."""
        return _VERSION.split(self.id)[0]

    @property
    def rank(self) -> int:
        """The place of the category among ``CATEGORIES``: the higher, the less is allowed."""
        return CATEGORIES.index(self.category)

    def may_become(self, target: Terms, beside: Iterable[str] = ()) -> bool:
        """Whether a work made from one under these terms may be published under ``target``.

        ``beside`` are the families of the licenses of the other works that go into it.
        """
        if self.category == "unknown":
            return True
        if self.category == "no derivatives":
            return False
        if target.id == self.id or target.id in self.onward:
            return True
        if target.id in self.joins:
            return target.family in beside
        if self.category == "permissive":
            return self._fits(target)
        # Attribution-NonCommercial goes into anything that is non-commercial too, and not of an older version.
        return (
            self.stackable and self.category == target.category == "non-commercial" and self.demands <= target.demands
        )

    def _fits(self, target: Terms) -> bool:
        if target.category == "permissive":
            return self.demands <= target.demands
        if target.id in _GNU_3:
            return self.gnu != "no"
        return self.gnu == "2 and 3" or target.id not in _GNU_2


# The GNU licenses with the rules of version 3, and those where version 2 is possible.
_GNU_3 = frozenset(f"{name}-3.0-{versions}" for name in ("gpl", "lgpl", "agpl") for versions in ("only", "or-later"))
_GNU_2 = frozenset({"gpl", "lgpl", "gpl-2.0-only", "gpl-2.0-or-later", "lgpl-2.1-only", "lgpl-2.1-or-later"})
#: Other spellings: the Hub's ids without "only", which are read as the narrower, and SPDX ids of what the Hub shortens.
ALIASES: Mapping[str, str] = MappingProxyType(
    {name: f"{name}-only" for name in ("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0")}
    | {
        "c-uda-1.0": "c-uda",
        "odbl-1.0": "odbl",
        "odc-by-1.0": "odc-by",
        "pddl-1.0": "pddl",
    }
)


def _permissive() -> Iterator[Terms]:
    """Licenses that ask for no more than notices, by how much they ask for and which GNU licenses they agree with."""
    rows: tuple[tuple[str, int, Gnu, str], ...] = (
        ("cc0-1.0 unlicense wtfpl", 0, "2 and 3", _FSF),
        ("0bsd mit-0 pddl", 0, "2 and 3", _SPDX),
        ("mit isc bsd-2-clause zlib ncsa bsl-1.0 x11", 1, "2 and 3", _FSF),
        ("postgresql", 1, "2 and 3", "https://fedoraproject.org/wiki/Licensing:Main"),
        ("bsd-3-clause bsd-3-clause-clear upl-1.0", 2, "2 and 3", _FSF),
        # The family may mean the one with four clauses.
        ("bsd bsd-4-clause", 3, "no", _FSF),
        ("apache-2.0", 4, "3", _FSF),
        ("apache-2.0 with llvm-exception", 4, "2 and 3", "https://llvm.org/docs/DeveloperPolicy.html"),
        ("ecl-2.0", 5, "3", _FSF),
        ("afl-3.0", 6, "no", _FSF),
        # Of these no steward says whether they agree with GNU licenses.
        ("bitstream-vera licenseref-scancode-bakoma-fonts-1995", 1, "no", "https://scancode-licensedb.aboutcode.org"),
        ("openmdw-1.0 openmdw-1.1", 2, "no", "https://openmdw.ai/faq"),
        ("apple-ascl", 2, "no", "https://scancode-licensedb.aboutcode.org/apple-sscl.html"),
        ("etalab-2.0", 5, "no", "https://github.com/etalab/licence-ouverte"),
        ("odc-by", 5, "no", "https://opendatacommons.org/licenses/by/1-0/"),
        ("cc-by-2.0", 20, "no", _CC),
        ("cc-by-2.5", 25, "no", _CC),
        ("cc-by-3.0", 30, "no", _CC),
        ("cc-by-4.0", 40, "2 and 3", _FSF),
    )
    for ids, demands, gnu, source in rows:
        for name in [ids] if " with " in ids else ids.split():
            yield Terms(name, "permissive", source, demands, gnu, notice=demands > 0, changes=demands > 3)
    for name, demands in (("cdla-permissive-1.0", 5), ("cdla-permissive-2.0", 1)):
        yield Terms(name, "permissive", "https://cdla.dev", demands, changes=demands > 3, results_free=True)


def _gnu() -> Iterator[Terms]:
    """The GNU licenses; who may go where is the FSF's table of all combinations, and section 13 of GPL and AGPL 3."""
    gpl2, gpl3 = {"gpl-2.0-only", "gpl-2.0-or-later"}, {"gpl-3.0-only", "gpl-3.0-or-later"}
    agpl = {"agpl-3.0-only", "agpl-3.0-or-later"}
    rows: tuple[tuple[str, Category, set[str], set[str]], ...] = (
        ("gpl-3.0-or-later", "strong copyleft", {"gpl-3.0-only"}, agpl),
        ("gpl-3.0-only", "strong copyleft", set(), {"agpl-3.0-only"}),
        ("gpl-2.0-or-later", "strong copyleft", {"gpl-2.0-only"} | gpl3, agpl),
        ("gpl-2.0-only", "strong copyleft", set(), set()),
        ("agpl-3.0-or-later", "strong copyleft", {"agpl-3.0-only"}, set()),
        ("agpl-3.0-only", "strong copyleft", set(), set()),
        ("lgpl-3.0-or-later", "weak copyleft", {"lgpl-3.0-only"} | gpl3, agpl),
        ("lgpl-3.0-only", "weak copyleft", {"gpl-3.0-only"}, {"agpl-3.0-only"}),
        (
            "lgpl-2.1-or-later",
            "weak copyleft",
            {"lgpl-2.1-only", "lgpl-3.0-only", "lgpl-3.0-or-later"} | gpl2 | gpl3,
            agpl,
        ),
        ("lgpl-2.1-only", "weak copyleft", gpl2 | gpl3, agpl),
        # Without a version nobody can say what they agree with.
        ("gpl", "strong copyleft", set(), set()),
        ("lgpl", "weak copyleft", set(), set()),
    )
    for name, category, onward, joins in rows:
        yield Terms(name, category, _FSF_MATRIX, onward=frozenset(onward), joins=frozenset(joins))


def _copyleft() -> Iterator[Terms]:
    """Other licenses that want works made from theirs published under them."""
    gnu2 = {"gpl-2.0-only", "gpl-2.0-or-later", "lgpl-2.1-only", "lgpl-2.1-or-later"}
    gnu3 = {"gpl-3.0-only", "gpl-3.0-or-later", "lgpl-3.0-only", "lgpl-3.0-or-later"}
    agpl = {"agpl-3.0-only", "agpl-3.0-or-later"}
    yield Terms("mpl-2.0", "weak copyleft", "https://www.mozilla.org/MPL/2.0/FAQ/", joins=frozenset(gnu2 | gnu3 | agpl))
    artistic = frozenset({"gpl-2.0-only", "gpl-2.0-or-later", "gpl-3.0-only", "gpl-3.0-or-later"})
    renamed = ("Give the changed work another name than the original's.",)
    yield Terms("artistic-2.0", "weak copyleft", _FSF, onward=artistic, naming=renamed)
    # The compatible licenses of the EUPL's appendix; its CC BY-SA is for works other than software, and whether weights
    # are such a work is not settled.
    eupl = "https://interoperable-europe.ec.europa.eu/collection/eupl/matrix-eupl-compatible-open-source-licences"
    versions = {"gpl-2.0-only", "gpl-3.0-only", "agpl-3.0-only", "lgpl-2.1-only", "lgpl-3.0-only"}
    yield Terms("eupl-1.2", "weak copyleft", eupl, joins=frozenset(versions | {"mpl-2.0", "epl-1.0", "osl-3.0"}))
    old = frozenset({"gpl-2.0-only", "epl-1.0", "osl-3.0"})
    yield Terms("eupl-1.1", "weak copyleft", eupl, onward=frozenset({"eupl-1.2"}), joins=old)
    yield Terms("epl-2.0", "weak copyleft", _FSF)
    yield Terms("epl-1.0", "weak copyleft", "https://www.eclipse.org/legal/epl-v10.html", onward=frozenset({"epl-2.0"}))
    for name in ("cddl-1.0", "cddl-1.1", "ms-pl", "ms-rl", "mpl-2.0-no-copyleft-exception"):
        yield Terms(name, "weak copyleft", _FSF)
    yield Terms("lppl-1.3c", "weak copyleft", _FSF, naming=renamed)
    yield Terms("osl-3.0", "strong copyleft", _FSF)
    for name in ("gfdl", "gfdl-1.2-only", "gfdl-1.3-only"):
        yield Terms(name, "share-alike", _FSF)
    reserved = ("Do not use the reserved font names.",)
    yield Terms("ofl-1.1", "share-alike", "https://openfontlicense.org/ofl-faq/", results_free=True, naming=reserved)
    yield Terms("lgpl-lr", "share-alike", "https://github.com/UnitexGramLab/LGPLLR")
    yield Terms("odbl", "share-alike", "https://opendatacommons.org/licenses/odbl/1-0/")
    yield Terms("cdla-sharing-1.0", "share-alike", "https://cdla.dev", results_free=True)


def _creative_commons() -> Iterator[Terms]:
    """The Creative Commons licenses with share-alike, non-commercial and no-derivatives: later versions may follow."""
    versions = ("2.0", "2.5", "3.0", "4.0")
    for place, version in enumerate(versions):
        demands, later = int(10 * float(version)), versions[place + 1 :]
        gpl = {"gpl-3.0-only"} if version == "4.0" else set()
        source = "https://creativecommons.org/compatiblelicenses" if gpl else _CC
        onward = frozenset({f"cc-by-sa-{number}" for number in later} | gpl)
        yield Terms(f"cc-by-sa-{version}", "share-alike", source, onward=onward)
        yield Terms(f"cc-by-nc-{version}", "non-commercial", _CC, demands, stackable=True)
        onward = frozenset(f"cc-by-nc-sa-{number}" for number in later)
        yield Terms(f"cc-by-nc-sa-{version}", "non-commercial", _CC, demands, onward=onward)
        yield Terms(f"cc-by-nd-{version}", "no derivatives", _CC)
        yield Terms(f"cc-by-nc-nd-{version}", "no derivatives", _CC)
    # The family goes from CC0 to no derivatives.
    yield Terms("cc", "unknown", _HUB)


def _research() -> Iterator[Terms]:
    """Licenses for research only; what is made from such a work has to be under the same one."""
    for name, source in (
        ("apple-amlr", "https://huggingface.co/apple/AIM/raw/main/LICENSE"),
        ("deepfloyd-if-license", "https://huggingface.co/spaces/DeepFloyd/deepfloyd-if-license"),
        (
            "fair-noncommercial-research-license",
            "https://raw.githubusercontent.com/facebookresearch/vggt-omega/master/LICENSE",
        ),
        # Terms of access to data, under names of our own.
        ("licenseref-imagenet-access", "https://www.image-net.org/download.php"),
        ("licenseref-fgvc-aircraft", "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"),
        ("polyform-noncommercial-1.0.0", "https://polyformproject.org/licenses/noncommercial/1.0.0"),
    ):
        yield Terms(name, "non-commercial", source, 90)
    # It allows to use and to distribute for research, and does not speak of changing.
    yield Terms("intel-research", "no derivatives", "https://huggingface.co/Intel/llava-gemma-7b/blob/main/LICENSE.md")
    # No text of it could be read.
    yield Terms("h-research", "unknown", _HUB)


def _use_restricted() -> Iterator[Terms]:
    """Licenses that forbid some uses and want that passed on."""
    rail = "https://huggingface.co/blog/open_rail"
    for name in (
        "openrail",
        "openrail++",
        "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m",
        "creativeml-openrail-m",
    ):
        yield Terms(name, "use-restricted", rail, stackable=True)
    notice = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    naming: tuple[str, ...] = (f"Carry the notice {notice!r}.",)
    yield Terms("gemma", "use-restricted", "https://ai.google.dev/gemma/terms", stackable=True, naming=naming)
    naming = ("Show 'Built with Llama', and begin the model's name with 'Llama'.",)
    for version in ("3.1", "3.2", "3.3", "4"):
        source = f"https://www.llama.com/llama{version.replace('.', '_')}/license/"
        yield Terms(f"llama{version}", "use-restricted", source, stackable=True, naming=naming)
    # These forbid to improve other models with theirs, so that they stand beside no other restricted model.
    naming = ("Show 'Built with Meta Llama 3', and begin the model's name with 'Llama 3'.",)
    yield Terms("llama3", "use-restricted", "https://www.llama.com/llama3/license/", naming=naming)
    naming = ("Carry the notice of copyright that the Llama 2 license asks for.",)
    yield Terms("llama2", "use-restricted", "https://ai.meta.com/llama/license/", naming=naming)
    naming = ("Carry the notice of copyright, and the words on xAI, that the license asks for.",)
    grok = "https://huggingface.co/xai-org/grok-2/blob/main/LICENSE"
    yield Terms("grok2-community", "use-restricted", grok, naming=naming)
    uda = "https://github.com/microsoft/Computational-Use-of-Data-Agreement"
    yield Terms("c-uda", "use-restricted", uda, changes=False, results_free=True)


def _table() -> dict[str, Terms]:
    rows = (*_permissive(), *_gnu(), *_copyleft(), *_creative_commons(), *_research(), *_use_restricted())
    table = {terms.id: terms for terms in rows}
    assert len(table) == len(rows)
    return table


#: All licenses whose terms are known, by id in lower case; of two that would do, the first is preferred.
TERMS: Mapping[str, Terms] = MappingProxyType(_table())
#: Those that ask for no more than notices; ``permissive`` in a filter means these.
PERMISSIVE_LICENSES = frozenset(name for name, terms in TERMS.items() if terms.category == "permissive")


def terms_of(license: str) -> Terms:
    """The terms of one license by its id, in upper or lower case; unknown terms where the table does not have it."""
    name = license.lower()
    return TERMS.get(ALIASES.get(name, name)) or Terms(name, "unknown", "")

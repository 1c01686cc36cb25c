from __future__ import annotations

import json
from pathlib import Path

import license_expression
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kzoo.catalog import load_registry
from kzoo.errors import InputError
from kzoo.license_terms import ALIASES, CATEGORIES, PERMISSIVE_LICENSES, TERMS, terms_of
from kzoo.licenses import HUB_LICENSES, OTHER, UNKNOWN, is_known_license
from kzoo.paths import registry_directory
from kzoo.publish.data_licenses import SETTLED, data_part
from kzoo.publish.licensing import CARD, NOT_ADVICE, JointLicense, Part, joint_license

FSF = "https://www.gnu.org/licenses/license-list.html"
MATRIX = "https://www.gnu.org/licenses/gpl-faq.html#AllCompatibility"
CC_FAQ = "https://creativecommons.org/faq/#if-i-derive-or-adapt-material-offered-under-a-creative-commons-license-which-cc-licenses-can-i-use"
CC_CHART = "https://wiki.creativecommons.org/wiki/Wiki/cc_license_compatibility"
CC_LIST = "https://creativecommons.org/compatiblelicenses"
EUPL = "https://interoperable-europe.ec.europa.eu/collection/eupl/matrix-eupl-compatible-open-source-licences"
MPL = "https://www.mozilla.org/MPL/2.0/FAQ/"
RAIL = "https://huggingface.co/blog/open_rail"
APACHE = "https://www.apache.org/licenses/LICENSE-2.0"
AMLR = "https://huggingface.co/apple/AIM/raw/main/LICENSE"
FAIR = "https://raw.githubusercontent.com/facebookresearch/vggt-omega/master/LICENSE"
GEMMA = "https://ai.google.dev/gemma/terms"
LLAMA3 = "https://www.llama.com/llama3/license/"
LLAMA31 = "https://www.llama.com/llama3_1/license/"
INTEL = "https://huggingface.co/Intel/llava-gemma-7b/blob/main/LICENSE.md"
GROK = "https://huggingface.co/xai-org/grok-2/blob/main/LICENSE"
LLVM = "https://llvm.org/docs/DeveloperPolicy.html"
OURS = "docs/licenses.md"

PERMISSIVE, WEAK, ALIKE, STRONG, USE, NC, ND, NOTHING = CATEGORIES

# Licenses of the parents, the card's license and license_name, the category, and where the verdict comes from; a license
# None means blocked. OURS: nothing is settled, and the page tells how it is decided.
TABLE = [
    # Permissive: the one that asks for most.
    ("mit", "mit", None, PERMISSIVE, FSF + "#Expat"),
    ("MIT; Apache-2.0", "apache-2.0", None, PERMISSIVE, APACHE),
    ("mit; bsd-3-clause", "bsd-3-clause", None, PERMISSIVE, FSF + "#ModifiedBSD"),
    ("cc0-1.0; isc", "isc", None, PERMISSIVE, FSF + "#CC0"),
    ("apache-2.0; cc-by-4.0", "cc-by-4.0", None, PERMISSIVE, APACHE),
    ("cc-by-3.0; cc-by-4.0", "cc-by-4.0", None, PERMISSIVE, CC_FAQ),
    ("0BSD", OTHER, "0BSD", PERMISSIVE, "https://spdx.org/licenses/0BSD.html"),
    # GNU licenses.
    ("mit; gpl-2.0", "gpl-2.0", None, STRONG, FSF + "#Expat"),
    ("apache-2.0; gpl-3.0", "gpl-3.0", None, STRONG, FSF + "#apache2"),
    ("apache-2.0; gpl-2.0", None, None, STRONG, FSF + "#apache2"),
    ("Apache-2.0 WITH LLVM-exception; gpl-2.0", "gpl-2.0", None, STRONG, LLVM),
    ("apache-2.0; GPL-2.0-or-later", "gpl-3.0", None, STRONG, FSF + "#apache2"),
    ("apache-2.0; lgpl-2.1", "gpl-3.0", None, STRONG, MATRIX),
    ("apache-2.0; lgpl-3.0", "lgpl-3.0", None, WEAK, FSF + "#apache2"),
    ("apache-2.0; gpl", None, None, STRONG, OURS),
    ("gpl-2.0; gpl-3.0", None, None, STRONG, MATRIX),
    ("GPL-2.0-or-later; gpl-3.0", "gpl-3.0", None, STRONG, MATRIX),
    ("GPL-2.0-or-later; gpl-2.0", "gpl-2.0", None, STRONG, MATRIX),
    ("agpl-3.0; gpl-3.0", "agpl-3.0", None, STRONG, FSF + "#AGPLv3.0"),
    ("agpl-3.0; gpl-2.0", None, None, STRONG, FSF + "#AGPLv3.0"),
    ("agpl-3.0; GPL-2.0-or-later", "agpl-3.0", None, STRONG, MATRIX),
    ("lgpl-2.1; gpl-2.0", "gpl-2.0", None, STRONG, MATRIX),
    ("lgpl-3.0; gpl-2.0", None, None, STRONG, MATRIX),
    ("lgpl-2.1; lgpl-3.0", "gpl-3.0", None, STRONG, MATRIX),
    ("ecl-2.0; gpl-2.0", None, None, STRONG, FSF + "#ECL2.0"),
    ("afl-3.0; gpl-3.0", None, None, STRONG, FSF + "#AcademicFreeLicense"),
    ("BSD-4-Clause; gpl-3.0", None, None, STRONG, FSF + "#OriginalBSD"),
    ("openmdw-1.1; gpl-3.0", None, None, STRONG, OURS),
    ("cc-by-4.0; gpl-2.0", "gpl-2.0", None, STRONG, FSF + "#ccby"),
    ("cc-by-3.0; gpl-3.0", None, None, STRONG, OURS),
    # Other copyleft.
    ("mpl-2.0; apache-2.0", "mpl-2.0", None, WEAK, MPL),
    ("mpl-2.0; gpl-2.0", "gpl-2.0", None, STRONG, FSF + "#MPL-2.0"),
    ("mpl-2.0; GPL-2.0-or-later; apache-2.0", "gpl-3.0", None, STRONG, MPL),
    ("mpl-2.0; cc-by-sa-4.0", None, None, ALIKE, MPL),
    ("epl-2.0; gpl-3.0", None, None, STRONG, FSF + "#EPL2"),
    ("EPL-2.0 OR GPL-2.0-or-later; gpl-3.0", "gpl-3.0", None, STRONG, FSF + "#EPL2"),
    ("epl-1.0; epl-2.0", "epl-2.0", None, WEAK, "https://www.eclipse.org/legal/epl-v10.html"),
    ("eupl-1.2; gpl-3.0", "gpl-3.0", None, STRONG, FSF + "#EUPL-1.2"),
    ("eupl-1.2; mpl-2.0", "mpl-2.0", None, WEAK, EUPL),
    ("eupl-1.1; eupl-1.2", "eupl-1.2", None, WEAK, EUPL),
    ("eupl-1.2; cc-by-sa-4.0", None, None, ALIKE, EUPL),
    ("eupl-1.1; gpl-3.0", None, None, STRONG, FSF + "#EUPL-1.1"),
    ("artistic-2.0; gpl-3.0", "gpl-3.0", None, STRONG, FSF + "#ArtisticLicense2"),
    ("osl-3.0; gpl-3.0", None, None, STRONG, FSF + "#OSL"),
    ("ms-pl; gpl-3.0", None, None, STRONG, FSF + "#ms-pl"),
    # Creative Commons.
    ("cc-by-sa-4.0; mit", "cc-by-sa-4.0", None, ALIKE, CC_FAQ),
    ("cc-by-sa-3.0; cc-by-sa-4.0", "cc-by-sa-4.0", None, ALIKE, CC_LIST),
    ("cc-by-sa-4.0; gpl-3.0", "gpl-3.0", None, STRONG, CC_LIST),
    ("cc-by-sa-4.0; GPL-3.0-or-later", "gpl-3.0", None, STRONG, CC_LIST),
    ("cc-by-sa-4.0; gpl-2.0", None, None, STRONG, CC_LIST),
    ("cc-by-sa-3.0; gpl-3.0", None, None, STRONG, CC_LIST),
    ("cc-by-sa-4.0; agpl-3.0", None, None, STRONG, CC_LIST),
    ("cc-by-nc-4.0; mit", "cc-by-nc-4.0", None, NC, CC_FAQ),
    ("cc-by-nc-4.0; cc-by-nc-3.0", "cc-by-nc-4.0", None, NC, CC_FAQ),
    ("cc-by-nc-4.0; cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0", None, NC, CC_CHART),
    ("cc-by-nc-4.0; cc-by-nc-sa-2.0", "cc-by-nc-sa-4.0", None, NC, CC_CHART),
    ("cc-by-nc-sa-4.0; cc-by-sa-4.0", None, None, NC, CC_CHART),
    ("cc-by-nc-4.0; cc-by-sa-4.0", None, None, NC, CC_CHART),
    ("cc-by-nc-4.0; gpl-3.0", None, None, NC, FSF + "#CC-BY-NC"),
    ("cc-by-nc-4.0; mpl-2.0", None, None, NC, OURS),
    ("cc-by-nd-4.0", None, None, ND, CC_FAQ),
    ("cc-by-nc-nd-4.0; mit", None, None, ND, CC_FAQ),
    # For research, or with restrictions of use.
    ("apple-amlr; mit", "apple-amlr", None, NC, AMLR),
    ("apple-amlr; cc-by-nc-4.0", "apple-amlr", None, NC, AMLR),
    ("apple-amlr; fair-noncommercial-research-license", None, None, NC, FAIR),
    ("intel-research", None, None, ND, INTEL),
    ("openrail; apache-2.0", "openrail", None, USE, RAIL),
    ("creativeml-openrail-m; gpl-3.0", None, None, USE, RAIL),
    ("creativeml-openrail-m; cc-by-sa-4.0", None, None, USE, RAIL),
    ("creativeml-openrail-m; cc-by-nc-4.0", OTHER, "cc-by-nc-4.0-and-creativeml-openrail-m", NC, RAIL),
    ("creativeml-openrail-m; bigcode-openrail-m", OTHER, "bigcode-openrail-m-and-creativeml-openrail-m", USE, RAIL),
    ("gemma; mit", "gemma", None, USE, GEMMA),
    ("gemma; llama3.1", OTHER, "gemma-and-llama3.1", USE, OURS),
    ("llama3.1; llama3.2; mit", OTHER, "llama3.1-and-llama3.2", USE, LLAMA31),
    ("llama3; llama2", None, None, USE, LLAMA3),
    ("llama3; apache-2.0", "llama3", None, USE, LLAMA3),
    ("llama3; cc-by-nc-4.0", None, None, NC, OURS),
    ("grok2-community; gemma", None, None, USE, GROK),
    # Unknown stays unknown, and hides no conflict.
    ("unknown", UNKNOWN, None, NOTHING, OURS),
    ("unknown; mit", UNKNOWN, None, NOTHING, OURS),
    ("unknown; gpl-3.0", UNKNOWN, None, NOTHING, OURS),
    ("unknown; gpl-2.0; gpl-3.0", None, None, NOTHING, MATRIX),
    ("unknown; cc-by-nd-4.0", None, None, NOTHING, CC_FAQ),
    ("NASA-1.3; mit", OTHER, "NASA-1.3", NOTHING, OURS),
    ("NASA-1.3; gpl-3.0", UNKNOWN, None, NOTHING, OURS),
    ("LicenseRef-house; unknown", UNKNOWN, None, NOTHING, OURS),
    ("cc", "cc", None, NOTHING, OURS),
    ("h-research; mit", "h-research", None, NOTHING, OURS),
    # Expressions.
    ("MIT OR GPL-2.0-only", "mit", None, PERMISSIVE, "https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/"),
    ("MIT OR GPL-2.0-only; gpl-2.0", "gpl-2.0", None, STRONG, FSF + "#Expat"),
    ("Apache-2.0 OR GPL-2.0-only; gpl-2.0", "gpl-2.0", None, STRONG, FSF + "#apache2"),
    ("MIT OR LicenseRef-house", "mit", None, PERMISSIVE, OURS),
    ("GPL-2.0-only AND Apache-2.0", None, None, STRONG, FSF + "#apache2"),
    ("GPL-2.0-only WITH Classpath-exception-2.0; mit", "gpl-2.0", None, STRONG, FSF + "#GPLv2"),
    ("GPL-2.0+; apache-2.0", "gpl-3.0", None, STRONG, FSF + "#apache2"),
    ("Apache-2.0+; mit", "apache-2.0", None, PERMISSIVE, APACHE),
    ("(MIT AND CC-BY-NC-4.0) OR GPL-3.0-only; apache-2.0", "gpl-3.0", None, STRONG, FSF + "#apache2"),
]  # fmt: skip


def models(licenses: str) -> list[Part]:
    return [Part(f"m{place}", "model", license) for place, license in enumerate(licenses.split("; "))]


@pytest.mark.parametrize(("licenses", "license", "name", "category", "source"), TABLE)
def test_combinations(licenses: str, license: str | None, name: str | None, category: str, source: str) -> None:
    assert source
    found = joint_license(models(licenses))
    assert (found.license, found.license_name, found.category) == (license, name, category)
    assert found.blocked is (license is None)
    assert (not found.ways_out) is not found.blocked
    assert (not found.duties) is (found.blocked or licenses == "0BSD")


def test_there_are_many_combinations_of_which_many_are_blocked() -> None:
    assert len({row[0] for row in TABLE}) == len(TABLE) >= 80
    assert sum(row[1] is None for row in TABLE) >= 30
    assert sum(row[4] == OURS for row in TABLE) <= len(TABLE) / 4


# ------------------------------------------------------------------------------------------------ the table of terms


def test_every_id_of_the_hub_has_terms() -> None:
    unclassified = {license for license in HUB_LICENSES if terms_of(license).category == "unknown"}
    # A family from CC0 to no derivatives, and one whose text could not be read.
    assert unclassified == {"cc", "h-research"} and unclassified <= set(TERMS)


def test_the_table_names_itself_only() -> None:
    for name, terms in TERMS.items():
        assert name == terms.id == name.lower()
        assert terms.onward | terms.joins <= set(TERMS) - {name}
        assert terms.source.startswith("https://")
        assert not (terms.category == "permissive" and (terms.onward or terms.joins))
    assert set(ALIASES).isdisjoint(TERMS) and set(ALIASES.values()) <= set(TERMS)


def test_onward_leads_no_further_than_it_says() -> None:
    # A work that may become A, and then B, may become B: as long as no other work has to stand beside it.
    for terms in TERMS.values():
        for step in terms.onward:
            # Creative Commons names version 4.0 of its license only.
            further = TERMS[step].onward - ({"gpl-3.0-only"} if terms.family == "cc-by-sa" else set())
            assert further <= terms.onward, (terms.id, step)


@pytest.mark.parametrize("license", ["nasa-1.3", "LicenseRef-house", "AGPL-1.0-only", "mitt"])
def test_a_license_that_is_not_in_the_table_is_not_guessed(license: str) -> None:
    assert terms_of(license).category == "unknown"


def test_the_categories_agree_with_scancodes() -> None:
    """An independent classification of the same licenses, which comes with license-expression."""
    index = Path(license_expression.__file__).parent / "data" / "scancode-licensedb-index.json"
    theirs = {}
    for row in json.loads(index.read_text()):
        for key in (row["spdx_license_key"], *row["other_spdx_license_keys"]):
            if key and not row["is_deprecated"]:
                theirs[key.lower()] = row["category"]
    agree = {
        "Permissive": {PERMISSIVE},
        "Public Domain": {PERMISSIVE},
        "Copyleft Limited": {WEAK, ALIKE},
        "Copyleft": {STRONG, WEAK, ALIKE},
        "Source-available": {NC, ND},
        "Free Restricted": {USE, NC, ND},
    }
    both = {license for license in TERMS if license in theirs and TERMS[license].category != "unknown"}
    assert len(both) >= 70
    differ = {license for license in both if TERMS[license].category not in agree.get(theirs[license], set())}
    # The FSF sees a copyleft in it.
    assert differ == {"ms-pl"}


def test_what_a_filter_takes_for_permissive() -> None:
    assert {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "unlicense"} <= PERMISSIVE_LICENSES
    assert PERMISSIVE_LICENSES.isdisjoint({"cc-by-nc-4.0", "gpl-3.0-only", "openrail", "cc", "ms-pl", UNKNOWN, OTHER})


def test_every_license_that_ships_can_be_joined() -> None:
    checkpoints = [
        c for family in load_registry(registry_directory()) for e in family.architectures for c in e.checkpoints
    ]
    found = {
        (c.license, joint_license([Part(c.id, "model", c.license, c.license_name, c.license_link)]).license)
        for c in checkpoints
    }
    assert all(license == joint for license, joint in found) and ("apache-2.0", "apache-2.0") in found


# ------------------------------------------------------------------------------------------------ properties

IDS = st.sampled_from([*sorted(TERMS), *sorted(HUB_LICENSES), UNKNOWN, "LicenseRef-house", "NASA-1.3"])
SPDX = st.sampled_from(
    ["MIT", "Apache-2.0", "GPL-2.0-only", "GPL-3.0-or-later", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "NASA-1.3"]
)
EXPRESSIONS = st.one_of(
    IDS.filter(is_known_license),
    st.just(UNKNOWN),
    st.builds("{} {} {}".format, SPDX, st.sampled_from(["AND", "OR"]), SPDX),
)
PARTS = st.lists(
    st.builds(Part, st.sampled_from(["a", "b", "c"]), st.sampled_from(["model", "data"]), EXPRESSIONS), max_size=4
)


def verdict(found: JointLicense) -> tuple[object, ...]:
    return found.license, found.license_name, found.category, found.blocked, found.permission


@settings(max_examples=150, deadline=None)
@given(PARTS, st.randoms())
def test_order_and_repetition_change_nothing(parts: list[Part], random: object) -> None:
    found = joint_license(parts)
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = joint_license(shuffled + parts)
    assert verdict(again) == verdict(found)
    assert set(again.reasons[: len(set(parts))]) == set(found.reasons[: len(set(parts))])
    assert joint_license(parts + parts) == found == joint_license(parts)


@settings(max_examples=150, deadline=None)
@given(PARTS, EXPRESSIONS)
def test_a_further_parent_never_makes_the_category_more_permissive(parts: list[Part], license: str) -> None:
    before, after = joint_license(parts), joint_license([*parts, Part("new", "model", license)])
    if not after.blocked:
        assert CATEGORIES.index(after.category) >= CATEGORIES.index(before.category)


@settings(max_examples=150, deadline=None)
@given(PARTS, st.sampled_from(sorted(PERMISSIVE_LICENSES - {"apache-2.0 with llvm-exception"})))
def test_a_permissive_parent_never_unblocks(parts: list[Part], license: str) -> None:
    if joint_license(parts).blocked:
        assert joint_license([*parts, Part("new", "model", license)]).blocked


@settings(max_examples=100, deadline=None)
@given(PARTS, IDS.filter(is_known_license))
def test_data_decide_nothing(parts: list[Part], license: str) -> None:
    found, more = joint_license(parts), joint_license([*parts, Part("more", "data", license)])
    assert verdict(more) == verdict(found)
    assert len(more.reasons) == len(found.reasons) + 1
    assert any(reason.startswith("more (data) brings ") for reason in more.reasons)


@settings(max_examples=100, deadline=None)
@given(PARTS, st.sampled_from([UNKNOWN, "LicenseRef-house", "cc"]))
def test_unknown_stays_unknown(parts: list[Part], license: str) -> None:
    found = joint_license([*parts, Part("dark", "model", license)])
    assert found.category == "unknown"
    assert found.license in (UNKNOWN, OTHER, "cc", None) and (found.license is None) is found.blocked
    assert found.blocked or "Find out what the license of dark allows before you publish." in found.duties


@settings(max_examples=100, deadline=None)
@given(PARTS, EXPRESSIONS)
def test_a_permission_unblocks_everything_and_says_why_it_was_needed(parts: list[Part], license: str) -> None:
    parts = [*parts, Part("new", "model", license)]
    plain, allowed = joint_license(parts), joint_license(parts, permission="the authors, by letter")
    assert not allowed.blocked and not allowed.ways_out and allowed.license is not None
    assert (allowed.permission, allowed.category, allowed.reasons) == (
        "the authors, by letter",
        plain.category,
        plain.reasons,
    )
    if plain.blocked:
        assert allowed.license == OTHER and str(allowed.license_name).endswith("-by-permission")
        assert plain.ways_out[-1].count("--i-have-permission TEXT") == 1
    else:
        assert verdict(allowed)[:4] == verdict(plain)[:4]


@settings(max_examples=100, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=3))
def test_the_joint_license_of_the_result_with_itself_is_the_result(licenses: list[str]) -> None:
    parts = [Part(f"m{place}", "model", license) for place, license in enumerate(licenses)]
    found = joint_license(parts)
    if found.license in HUB_LICENSES and found.license in TERMS | ALIASES:
        again = joint_license([*parts, Part("result", "model", str(found.license))])
        assert (again.license, again.blocked) == (found.license, False)


# ------------------------------------------------------------------------------------------------ what is said


def test_the_sentences_of_an_impossible_combination() -> None:
    parts = [
        Part("them/a", "model", "gpl-2.0"),
        Part("them/b", "model", "apache-2.0"),
        Part("them/c", "model", "mit"),
        Part("them/a", "model", "gpl-2.0"),
    ]
    found = joint_license(parts)
    assert found.reasons == (
        "them/a (model) brings gpl-2.0, strong copyleft: what is made from it stays under it.",
        "them/b (model) brings apache-2.0, permissive: it asks for notices only.",
        "them/c (model) brings mit, permissive: it asks for notices only.",
        "them/a (gpl-2.0) and them/b (apache-2.0) cannot be published as one model: what is made from gpl-2.0 stays under "
        "it; apache-2.0 is compatible with version 3 of the GNU licenses only.",
    )
    assert found.ways_out == (
        "Leave out one of these, or keep the model to yourself: them/a, them/b.",
        "Take another source: kzoo recommend TARGET --license permissive.",
        "Look up whether them/a may be used under later versions of the GPL too, which the Hub's id does not tell; then its "
        "license is GPL-2.0-or-later.",
        "Ask the owners of them/a, them/b; --i-have-permission TEXT then records who allowed it, in the card.",
    )
    assert found.duties == ()
    allowed = joint_license(parts, permission="b's authors, 3 May")
    assert (allowed.license, allowed.license_name, allowed.license_link) == (
        "other",
        "apache-2.0-and-gpl-2.0-and-mit-by-permission",
        CARD,
    )


def test_the_way_out_works() -> None:
    assert not joint_license(models("GPL-2.0-or-later; apache-2.0")).blocked


def test_a_parent_that_allows_nothing_is_named_alone() -> None:
    found = joint_license(models("mit; cc-by-nd-4.0; gpl-3.0"))
    assert found.reasons[-1] == (
        "m1 (cc-by-nd-4.0) cannot be published in a changed version: cc-by-nd-4.0 does not allow to publish changed versions."
    )
    assert found.ways_out[0] == "Leave out m1; nothing made from it may be published."


def test_three_that_only_together_have_no_license() -> None:
    parts = models("GPL-2.0-only OR GPL-3.0-only; GPL-3.0-only OR OSL-3.0; OSL-3.0 OR GPL-2.0-only")
    pairs = [joint_license([parts[place], parts[place - 1]]).license for place in range(3)]
    assert pairs == ["gpl-2.0", "gpl-3.0", "osl-3.0"]
    found = joint_license([*parts, Part("m3", "model", "mit")])
    assert found.blocked
    assert found.reasons[-1].startswith(
        "m0 (GPL-2.0-only OR GPL-3.0-only) and m1 (GPL-3.0-only OR OSL-3.0) and m2 (OSL-3.0 OR GPL-2.0-only) cannot be "
    )


def test_the_duties_of_copyleft_and_of_several_licenses() -> None:
    found = joint_license(models("cc-by-sa-4.0; GPL-2.0-or-later; apache-2.0"))
    assert found.license == "gpl-3.0"
    assert found.reasons[-1] == "All of them allow gpl-3.0 for what is made from them."
    assert found.duties == (
        "Name the authors of m0, and keep their notices and the text of cc-by-sa-4.0.",
        "Name the authors of m1, and keep their notices and the text of GPL-2.0-or-later.",
        "Name the authors of m2, and keep their notices and the text of apache-2.0.",
        "Say that the weights were changed, and how.",
        "Say that what is made from this model has to be under gpl-3.0 too.",
        "Publish with it what is needed to make it again (recipe and code); what the source of weights is, is not settled.",
    )


def test_the_duties_of_restricted_models() -> None:
    found = joint_license(models("llama3.1; gemma; cc-by-nc-4.0"))
    assert (found.license, found.license_name, found.license_link) == (
        "other",
        "cc-by-nc-4.0-and-gemma-and-llama3.1",
        CARD,
    )
    assert "Show 'Built with Llama', and begin the model's name with 'Llama'. (m0)" in found.duties
    assert any("Gemma is provided under and subject to" in duty for duty in found.duties)
    assert f"Pass on the restrictions of use of gemma: {GEMMA}" in found.duties
    assert "Say that commercial use is not allowed." in found.duties
    assert found.reasons[-1] == "No single license states all of this; the terms of all hold side by side."


def test_choices_and_exceptions_are_told() -> None:
    found = joint_license(models("MIT OR GPL-2.0-only; GPL-3.0-only WITH GCC-exception-3.1"))
    assert found.license == "gpl-3.0"
    assert found.reasons[0].endswith(" Of the choice that MIT OR GPL-2.0-only gives, MIT is taken.")
    assert found.reasons[1].endswith(" The exception GCC-exception-3.1 is not made use of.")


def test_another_license_keeps_its_name_and_link() -> None:
    part = Part("facebook/dinov3", "model", "other", "dinov3-license", "https://ai.meta.com/dinov3")
    expected = ("other", "dinov3-license", "https://ai.meta.com/dinov3")
    for parts in (
        [part],
        [part, Part("m", "model", "mit")],
        [part, Part("more", "model", "OTHER", "dinov3-license", "https://ai.meta.com/dinov3")],
    ):
        found = joint_license(parts)
        assert (found.license, found.license_name, found.license_link) == expected
        assert found.category == "unknown"
    house = joint_license([part, Part("m", "model", "other", "house", "LICENSE")])
    assert (house.license, house.license_name, house.license_link) == (UNKNOWN, None, None)
    spdx = joint_license(models("NASA-1.3"))
    assert spdx.license_link == "https://spdx.org/licenses/NASA-1.3.html"
    assert joint_license([Part("m", "model", "LicenseRef-house", license_link="https://h.ouse")]).license_link == (
        "https://h.ouse"
    )


def test_nothing_but_data_leaves_the_choice() -> None:
    found = joint_license([data_part("imagenet-1k")])
    assert (found.license, found.category, found.blocked) == (None, "permissive", False)
    assert found.reasons[-1] == "No trained parent goes into it: the license is yours to choose."
    assert joint_license([]).license is None


# ------------------------------------------------------------------------------------------------ data


def test_data_for_research_is_a_warning_in_the_card() -> None:
    found = joint_license([Part("timm/resnet18", "model", "apache-2.0"), data_part("imagenet-1k")])
    assert (found.license, found.category, found.blocked) == ("apache-2.0", "permissive", False)
    assert found.reasons[1] == (
        "imagenet-1k (data) brings LicenseRef-imagenet-access, non-commercial: it does not allow commercial use. Whether that "
        "reaches weights trained on the data is not settled, so it decides nothing here; the card tells it."
    )
    assert found.duties[-1] == "Say that the weights were changed, and how."
    assert found.duties[1] == (
        "Warn that the model was trained on imagenet-1k, under LicenseRef-imagenet-access: it does not allow commercial use; "
        "whether that reaches the weights is not settled."
    )


@pytest.mark.parametrize(
    ("license", "reason", "duty"),
    [
        ("cc-by-4.0", "it asks for notices only.", "Name d and its authors as the data (cc-by-4.0)."),
        ("cc0-1.0", "it asks for notices only.", None),
        ("cc-by-sa-4.0", "the card tells it.", "Name d and its authors as the data (cc-by-sa-4.0)."),
        ("c-uda", "It leaves what is made by use of the data free.", None),
        ("cdla-sharing-1.0", "It leaves what is made by use of the data free.", None),
        ("cc-by-nd-4.0", "the card tells it.", "not settled."),
        ("unknown", "the card tells it.", "Say that the model was trained on d, whose license is unknown."),
    ],
)
def test_what_data_bring(license: str, reason: str, duty: str | None) -> None:
    found = joint_license([Part("d", "data", license)])
    assert found.reasons[0].endswith(reason)
    assert len(found.duties) == (duty is not None)
    assert duty is None or found.duties[0].endswith(duty)


@pytest.mark.parametrize(
    ("name", "license", "category"),
    [
        ("digits", "CC-BY-4.0", "permissive"),
        ("glyphs", "Bitstream-Vera AND OFL-1.1 AND LicenseRef-scancode-bakoma-fonts-1995", "share-alike"),
        ("glyphs/upper", "Bitstream-Vera AND OFL-1.1 AND LicenseRef-scancode-bakoma-fonts-1995", "share-alike"),
        ("mnist", "CC-BY-SA-3.0", "share-alike"),
        ("fashion_mnist", "MIT", "permissive"),
        ("fgvc_aircraft", "LicenseRef-fgvc-aircraft", "non-commercial"),
        ("imagenet-22k", "LicenseRef-imagenet-access", "non-commercial"),
        ("cifar10", "unknown", "unknown"),
        ("flowers102", "unknown", "unknown"),
        ("imagefolder:pictures", "unknown", "unknown"),
    ],
)
def test_known_data_sets(name: str, license: str, category: str) -> None:
    part = data_part(name)
    assert (part.name, part.kind, part.license) == (name, "data", license)
    assert joint_license([Part(name, "model", license)]).category == category
    assert license == UNKNOWN or str(part.license_link).startswith("https://")


def test_the_fonts_of_glyphs_leave_pictures_free() -> None:
    (reason, *_) = joint_license([data_part("glyphs")]).reasons
    assert reason.endswith("It leaves what is made by use of the data free.")
    assert all(entry.source.startswith("https://") for entry in SETTLED.values())


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "license", ["mitt", "", "mit or", "(mit", "MIT AND gemma", "mit/apache", " mit", "GPL-2.0-only WITH nothing"]
)
def test_what_is_no_license_is_refused(license: str) -> None:
    with pytest.raises(InputError) as caught:
        joint_license([Part("them/a", "model", license)])
    assert str(caught.value) == (
        f"them/a: {license!r} is no license: expected an SPDX id or expression such as 'MIT OR Apache-2.0', an id of the Hub, "
        "'other' or 'unknown'; correct it where it stands, or write 'unknown'"
    )


def test_other_bad_input() -> None:
    with pytest.raises(InputError, match="is no kind of part: expected 'model' or 'data'"):
        Part("a", "code", "mit")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a part has no name"):
        Part(" ", "model", "mit")
    with pytest.raises(InputError, match="the permission is empty: expected who allowed what, and when"):
        joint_license([Part("a", "model", "mit")], permission=" ")


def test_it_says_that_it_is_no_advice() -> None:
    assert "not legal advice" in NOT_ADVICE

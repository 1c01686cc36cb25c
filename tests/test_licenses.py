from __future__ import annotations

import pytest

from kzoo.catalog import load_registry
from kzoo.licenses import HUB_LICENSES, OTHER, UNKNOWN, is_known_license
from kzoo.paths import registry_directory


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("apache-2.0", True),
        ("Apache-2.0", True),
        ("mit OR apache-2.0", True),
        ("(MIT AND cc-by-4.0) or gpl-2.0-only with Classpath-exception-2.0", True),
        ("LicenseRef-house", True),
        ("apple-amlr", True),
        ("Apple-AMLR", True),
        ("openrail++", True),
        ("openmdw-1.1", True),
        ("gemma", True),
        ("dinov3-license", False),
        ("mitt", False),
        ("", False),
        (" mit", False),
        ("mit  or isc", False),
        ("mit or", False),
        ("mit or gemma", False),
        ("(" * 100_000, False),
        ("mit or " * 50 + "mit", False),
        (OTHER, False),
        (UNKNOWN, False),
    ],
)
def test_known_licenses(text: str, known: bool) -> None:
    assert is_known_license(text) is known


def test_the_list_of_the_hub_is_whole() -> None:
    # The Hub's list has 83 ids with 'other' and 'unknown'.
    assert len(HUB_LICENSES) == 81
    assert all(is_known_license(license) for license in HUB_LICENSES)
    assert {OTHER, UNKNOWN}.isdisjoint(HUB_LICENSES)


def test_every_license_that_ships_is_valid() -> None:
    checkpoints = [
        c for family in load_registry(registry_directory()) for e in family.architectures for c in e.checkpoints
    ]
    others = [c for c in checkpoints if c.license == OTHER]
    assert all(c.license in (OTHER, UNKNOWN) or is_known_license(c.license) for c in checkpoints)
    assert all(c.license_name and str(c.license_link).startswith("https://") for c in others)
    assert {c.license_name for c in others} == {
        "cvnets-license",
        "dinov3-license",
        "fastvit-license",
        "mobileone-license",
        "nvidia-open-model-license",
        "qwen-community-1.0",
        "sapiens2-license",
        "seer-license",
    }
    # torchvision names the same weights' license by its address only; timm gives its id.
    assert {c.license for c in checkpoints if c.id.startswith("timm/") and ".swag_" in c.id} == {"cc-by-nc-4.0"}
    assert {c.license for c in checkpoints if "SWAG" in c.tag} == {"cc-by-nc-4.0"}


def test_the_readers_write_such_licenses() -> None:
    from kzoo.readers import timm as reader

    (checkpoint,) = reader.entry("mobileone_s0").checkpoints
    assert (checkpoint.license, checkpoint.license_name, checkpoint.license_link) == (
        "other",
        "mobileone-license",
        "https://huggingface.co/timm/mobileone_s0.apple_in1k",
    )

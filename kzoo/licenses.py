"""What counts as a license: SPDX ids and expressions, the Hub's ids, ``other`` with a name and a link, ``unknown``."""

from __future__ import annotations

from functools import lru_cache

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

#: The Hub's ids (huggingface.co/docs/hub/repositories-licenses) but OTHER and UNKNOWN.
HUB_LICENSES = frozenset(
    {
        "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
        "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
        "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m",
        "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2",
        "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community",
        "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3",
        "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by",
        "ofl-1.1", "openmdw-1.0", "openmdw-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense",
        "wtfpl", "zlib",
    }
)  # fmt: skip
#: A license that is on neither list; its name and the address of its text stand beside it.
OTHER = "other"
#: Nobody says under which license the weights are.
UNKNOWN = "unknown"
# The longest SPDX id has 36 characters.
_LONGEST = 200


@lru_cache
def is_known_license(text: str) -> bool:
    """Whether ``text`` is an SPDX id or expression or one of the Hub's ids, in upper or lower case."""
    if text.lower() in HUB_LICENSES:
        return True
    if len(text) > _LONGEST or text != " ".join(text.split()):
        return False
    try:
        return bool(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return False

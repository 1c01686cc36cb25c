"""The licenses of the data sets that kzoo trains on, or that weights in its registry were trained on.

Only what a source says is here; any other data set has the license ``unknown``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from kzoo.licenses import UNKNOWN
from kzoo.publish.licensing import Part


class DataLicense(NamedTuple):
    """The license of a data set, and where that is read."""

    license: str
    source: str


_IMAGENET = DataLicense("LicenseRef-imagenet-access", "https://www.image-net.org/download.php")
_FONTS = "https://github.com/matplotlib/matplotlib/tree/main/LICENSE"

#: Known licenses, by the names that kzoo's tasks and its registry use.
SETTLED: Mapping[str, DataLicense] = MappingProxyType(
    {
        "digits": DataLicense(
            "CC-BY-4.0", "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"
        ),
        # Drawn from the fonts DejaVu, STIX and Computer Modern; pictures made with a font are not the font.
        "glyphs": DataLicense("Bitstream-Vera AND OFL-1.1 AND LicenseRef-scancode-bakoma-fonts-1995", _FONTS),
        # Its card on the Hub says MIT; its authors are quoted with this one, which asks for more.
        "mnist": DataLicense("CC-BY-SA-3.0", "https://keras.io/api/datasets/mnist/"),
        "fashion_mnist": DataLicense("MIT", "https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE"),
        "fgvc_aircraft": DataLicense(
            "LicenseRef-fgvc-aircraft", "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
        ),
        "imagenet-1k": _IMAGENET,
        "imagenet-12k": _IMAGENET,
        "imagenet-21k": _IMAGENET,
        "imagenet-22k": _IMAGENET,
    }
)


def data_part(name: str) -> Part:
    """A data set by the name of a task (``glyphs/upper``, ``glyphs:abc``, ``mnist``) or of the registry (``imagenet-1k``)."""
    known = SETTLED.get(re.split("[/:]", name)[0])
    if known is None:
        return Part(name, "data", UNKNOWN)
    return Part(name, "data", known.license, license_link=known.source)

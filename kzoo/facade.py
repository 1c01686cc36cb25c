"""The functions of ``import kzoo``: each takes a torch module, an Architecture or any of the strings."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Union

from kzoo import matching, search
from kzoo.index import Index
from kzoo.layers import Architecture
from kzoo.paths import index_file
from kzoo.sources import Options, resolve

if TYPE_CHECKING:
    from torch import nn

Network = Union[str, Architecture, "nn.Module"]


def load_index(path: Path | None = None) -> Index:
    """An index, loaded once: ``path``, that of the folder in ``KZOO_REGISTRY``, or the one that came with kzoo.

    Raises:
        InputError: there is no such index, or it is damaged.
    """
    own = os.environ.get("KZOO_REGISTRY")
    return _load(path or (Path(own) / "index.npz" if own else index_file()))


@lru_cache(maxsize=4)
def _load(path: Path) -> Index:
    return Index(path)


def architecture(
    network: Network,
    *,
    classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    trust_code: bool = False,
    index: Path | None = None,
) -> Architecture:
    """The standardized architecture of a network (DPIAT, section 1.2).

    ``classes``, ``in_chans`` and ``img_size`` change the network that a string names; ``trust_code`` allows
    ``py:module:factory``, which runs code.

    Raises:
        InputError: the network is unknown or cannot be built so.

    >>> import kzoo
    >>> len(kzoo.architecture("torchvision:resnet18").items)
    14
    """
    return resolve(network, lambda: load_index(index), Options(classes, in_chans, img_size), trust_code)


def match(source: Network, target: Network, *, index: Path | None = None) -> matching.Matching:
    """Match the layers of ``source`` to those of ``target``: ``.value``, ``.pairs``, ``.directed``, ``.coverage``.

    Raises:
        InputError: a network is unknown, or has no layer that the measure can see.
    """
    return matching.match(architecture(source, index=index), architecture(target, index=index))


def similarity(
    source: Network, target: Network, measure: matching.Measure = "symmetric", *, index: Path | None = None
) -> float:
    """Similarity of two networks in [0, 1]: ``symmetric`` (the paper's), ``directed`` or ``reverse`` (section 2).

    Raises:
        InputError: a network is unknown, has no layer that the measure can see, or the measure is unknown.
    """
    return matching.similarity(architecture(source, index=index), architecture(target, index=index), measure)


def recommend(
    target: Network,
    k: int = 10,
    measure: matching.Measure = "symmetric",
    *,
    filters: search.Filters | None = None,
    all_weights: bool = False,
    index: Path | None = None,
) -> search.Recommendation:
    """The k best trained sources for ``target``, best first: exact over the whole index, no data, no weights.

    Raises:
        InputError: the target is unknown or has no layer that the measure can see, or k is not positive.
    """
    return search.search(load_index(index), architecture(target, index=index), k, measure, filters, all_weights)

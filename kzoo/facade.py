"""The functions of ``import kzoo``: each takes a torch module, an Architecture or any of the strings.

``registry`` puts one's own registry folder, or several, on top of those of ``KZOO_REGISTRY``; a `kzoo.zoo.Zoo` takes the
place of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

from kzoo import matching, search
from kzoo.layers import Architecture
from kzoo.refine import refined
from kzoo.sources import Options, resolve
from kzoo.sources import refine as refine_architecture
from kzoo.zoo import Zoo, load_zoo

if TYPE_CHECKING:
    from torch import nn

Network = Union[str, Path, Architecture, "nn.Module"]
Registry = Zoo | Path | str | Sequence[Path | str] | None


def open_zoo(registry: Registry = None) -> Zoo:
    """All models that a search sees, with one's own registries on top.

    Raises:
        InputError: a folder is missing or holds no registry, or the index is missing or damaged.
    """
    if isinstance(registry, Zoo):
        return registry
    folders = [registry] if isinstance(registry, (str, Path)) else registry or ()
    return load_zoo([Path(folder) for folder in folders])


def architecture(
    network: Network,
    *,
    classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    submodule: str | None = None,
    refine: bool = False,
    trust_code: bool = False,
    registry: Registry = None,
) -> Architecture:
    """The standardized architecture of a network (DPIAT, section 1.2).

    ``classes``, ``in_chans`` and ``img_size`` change the network that a string names, ``submodule`` takes a part of it.
    That of a file's header is approximate; ``refine`` looks for the known network that has its layers. ``trust_code``
    allows ``py:module:factory``, which runs code.

    Raises:
        InputError: the network is unknown, faulty or cannot be built so.

    >>> import kzoo
    >>> len(kzoo.architecture("torchvision:resnet18").items)
    14
    """
    options = Options(classes, in_chans, img_size, submodule)
    found = resolve(network, lambda: open_zoo(registry), options, trust_code)
    return refine_architecture(found, open_zoo(registry)) if refine else found


def match(
    source: Network, target: Network, measure: matching.Measure = "symmetric", *, registry: Registry = None
) -> matching.Matching:
    """Match the layers of ``source`` to those of ``target``: ``.value``, ``.pairs``, ``.directed``, ``.coverage``.

    With ``measure="extended"`` normalisations, embeddings and raw parameters are matched too.

    Raises:
        InputError: a network is unknown, or has no layer that the measure can see.
    """
    return matching.match(architecture(source, registry=registry), architecture(target, registry=registry), measure)


def similarity(
    source: Network, target: Network, measure: matching.Measure = "symmetric", *, registry: Registry = None
) -> float:
    """Similarity of two networks in [0, 1]: ``symmetric`` (the paper's), ``directed`` or ``reverse`` (section 2).

    ``extended`` is ours: the symmetric similarity over more kinds of layers.

    Raises:
        InputError: a network is unknown, has no layer that the measure can see, or the measure is unknown.
    """
    ours, theirs = architecture(source, registry=registry), architecture(target, registry=registry)
    return matching.similarity(ours, theirs, measure)


def recommend(
    target: Network,
    k: int = 10,
    measure: matching.Measure = "symmetric",
    *,
    filters: search.Filters | None = None,
    all_weights: bool = False,
    refine: bool = False,
    registry: Registry = None,
) -> search.Recommendation:
    """The k best trained sources for ``target``, best first: exact over the whole zoo, no data, no weights.

    ``refine`` replaces approximate architectures, of the target and of local models, by the known networks that have
    their layers.

    Raises:
        InputError: the target is unknown or has no layer that the measure can see, or k is not positive.
    """
    zoo = open_zoo(registry)
    zoo = refined(zoo) if refine else zoo
    wanted = architecture(target, refine=refine, registry=zoo)
    return search.search(zoo, wanted, k, measure, filters, all_weights)

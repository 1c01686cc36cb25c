"""``kzoo.fuse``: fuse networks that are in memory, or lie on the disk, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kzoo.carrying import remember
from kzoo.edits import copied
from kzoo.errors import InputError
from kzoo.facade import Registry, open_zoo
from kzoo.fusing import MEASURED, check_images, fusion_report
from kzoo.loading import load_values
from kzoo.methods.amalgamation.parameters import AMALGAMATION
from kzoo.methods.fusion.classifiers import output_layer, union_of_classes, widened
from kzoo.methods.fusion.methods import FUSION, FusionParameters, Parents
from kzoo.methods.fusion.methods import fuse as fuse_parents
from kzoo.methods.fusion.parents import check_classes, check_headers, check_parents, check_start, header_of
from kzoo.methods.probing import example_images
from kzoo.methods.transfers import checked_parameters
from kzoo.trained_modules import load_trained, trained_network
from kzoo.weights import in_any_order, open_trained

Network = nn.Module | str | Path


def fuse(
    networks: Sequence[Network],
    method: str = "weight_sum",
    *,
    start: Network | None = None,
    images: Tensor | Sequence[Tensor] | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    example: Tensor | None = None,
    student: str | nn.Module | None = None,
    training: Mapping[str, Any] | None = None,
    registry: Registry = None,
    **parameters: Any,
) -> nn.Module:
    """One network of several of one architecture, without training; or a student of several teachers. They stay as they are.

    ``networks`` are torch modules, safetensors files or folders that hold one, or models of a registry. ``method`` is
    ``weight_sum`` or ``nonessential`` (reconstructed from the abstract of arXiv 1809.09399), ``regmean`` (arXiv 2212.09849)
    or ``layerwise`` (kzoo's own); ``parameters`` are the method's (`kzoo.methods.fusion.methods`): ``variant="sum"``,
    ``align="weights"``, ``norms="fold"``, ``heads="joined"``. ``start`` is what all were trained from, ``images`` are
    unlabelled ones ready for the networks (N x C x H x W floats), for all or one collection for each; ``classes`` say what
    the outputs of each stand for, which ``heads="joined"`` needs. ``example`` is an input to trace with (2 x C x H x W).
    `kzoo.report` tells how alike aligned networks were, and what the outputs of the result stand for.

    With ``kd`` (plain distillation) or ``cfl`` (common feature learning, a reconstruction of arXiv 1906.10546) the networks are
    teachers of any architectures, each with its ``classes``. The ``student``, a module or a network's name, learns what
    they know together from ``images`` of all of it (N x C x H x W, uint8 or floats that are ready), and a trained copy is
    given back; ``training`` are settings (`kzoo.training.settings`): ``{"epochs": 20, "lr": 1e-3}``. See
    `kzoo.methods.amalgamation.parameters` for the methods' ``parameters``.

    Raises:
        InputError: the networks do not fit each other, or something that the method needs is missing.
    """
    if method in AMALGAMATION:
        if start is not None or example is not None:
            raise InputError(f"start and example are for fusing without training: method {method} has no use for them")
        # Only training needs what this imports.
        from kzoo.amalgamation_facade import amalgamate

        return amalgamate(networks, method, student, images, classes, training or {}, registry, parameters)
    if method not in FUSION:
        raise InputError(f"method {method!r:.80} does not fuse: expected {', '.join((*FUSION, *AMALGAMATION))}")
    if student is not None or training is not None:
        raise InputError(
            f"student and training are for a student that learns (method cfl or kd): {method} trains nothing"
        )
    chosen = checked_parameters(method, FUSION[method], parameters)
    assert isinstance(chosen, FusionParameters)
    if isinstance(networks, (nn.Module, str, Path)) or not isinstance(networks, Sequence):
        raise InputError(f"networks={type(networks).__name__} is no list: give two networks or more, as [one, two]")
    if len(networks) < 2:
        raise InputError(f"networks has {len(networks)}: expected two or more to fuse")
    like = next((one for one in networks if isinstance(one, nn.Module)), None)
    modules = [_module(one, like, registry) for one in networks]
    names = [_name(one, number) for number, one in enumerate(networks, start=1)]
    each = _images(images, len(modules))
    check_images(names, modules, each or [None] * len(modules))
    if example is None:
        example = each[0][:2] if each else example_images(modules[0])
    heads = _heads(chosen, names, modules, classes, example)
    check_parents(names, [module.state_dict() for module in modules], heads)
    began = None if start is None else _module(start, modules[0], registry).state_dict()
    if began is not None:
        check_start(began, modules[0].state_dict(), heads)
    measured = {
        kind: [measure(module, some) for module, some in zip(modules, each, strict=True)]
        for kind, measure in MEASURED.items()
        if kind in chosen.needs and each
    }
    parents = Parents(modules, example, began, measured.get("fisher"), measured.get("gram"), each or None)
    if heads:
        assert classes is not None
        parents = _side_by_side(parents, classes, heads)
    found = fuse_parents(method, chosen, parents)
    report = fusion_report(method, chosen, names, found, classes)
    remember(found.module, report.shares, report)
    return found.module


def _module(network: object, like: nn.Module | None, registry: Registry) -> nn.Module:
    """A network of its own; weights on the disk are put into a copy of ``like``, where there is one."""
    if isinstance(network, nn.Module):
        return copied(network).eval()
    if not isinstance(network, (str, Path)):
        raise InputError(
            f"a network is a torch module, a file or folder, or a model's name, not {type(network).__name__}: give one"
        )
    with in_any_order():
        trained = open_trained(network, lambda: open_zoo(registry))
    if like is None:
        return load_trained(trained, trained_network(trained, lambda: open_zoo(registry)), lambda: open_zoo(registry))
    check_headers(["the module", trained.name], [header_of(like.state_dict()), header_of(trained.tensors)])
    module = copied(like).eval()
    load_values(module, trained.tensors)
    return module


def _name(network: Network, number: int) -> str:
    return f"network {number}" if isinstance(network, nn.Module) else str(network)


def _images(images: Tensor | Sequence[Tensor] | None, count: int) -> list[Tensor]:
    """Images of each network; none at all where there are none."""
    if images is None:
        return []
    each = [images] * count if isinstance(images, Tensor) else list(images)
    if len(each) != count or not all(isinstance(some, Tensor) and some.ndim == 4 and len(some) for some in each):
        raise InputError(
            f"images of {len(each)} networks are given for {count}: expected a tensor N x C x H x W for all, or one for each"
        )
    return each


def _heads(
    parameters: FusionParameters,
    names: Sequence[str],
    modules: Sequence[nn.Module],
    classes: Sequence[Sequence[str]] | None,
    example: Tensor,
) -> tuple[str, ...]:
    """The tensors of the classifier, where classifiers are joined."""
    if classes is not None and len(classes) != len(modules):
        raise InputError(f"there are {len(modules)} networks and {len(classes)} lists of classes: give those of each")
    if parameters.heads == "shared":
        if classes is not None:
            check_classes(names, classes)
        return ()
    if classes is None:
        raise InputError("heads=joined needs to know what outputs stand for: give classes, a list for each network")
    layer = output_layer(modules[0], example)
    return tuple(f"{layer}.{part}" for part, _ in modules[0].get_submodule(layer).named_parameters(recurse=False))


def _side_by_side(parents: Parents, classes: Sequence[Sequence[str]], heads: Sequence[str]) -> Parents:
    """The same parents with the outputs of the union of classes."""
    union, layer = union_of_classes(classes), heads[0].rpartition(".")[0]
    for module, names in zip(parents.modules, classes, strict=True):
        widened(module, layer, names, union)
    return parents.joined(parents.modules, classes, heads)

"""The methods that fuse networks, by name: what each may be told, what it needs beside the parents, and how it is carried out.

``weight_sum`` and ``nonessential`` are those of arXiv 1809.09399, reconstructed from its abstract (`kzoo.methods.fusion.rules`);
``regmean`` is the baseline of arXiv 2212.09849, and ``layerwise`` is kzoo's own (`kzoo.methods.fusion.layerwise`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kzoo.edits import copied
from kzoo.errors import InputError
from kzoo.graph.program import first_names
from kzoo.loading import load_values
from kzoo.methods.fusion.alignment import Alignment, match_activations, match_weights
from kzoo.methods.fusion.classifiers import expanded_state, joined, union_of_classes
from kzoo.methods.fusion.importance import distance, magnitude, saliency
from kzoo.methods.fusion.inputs import null_space, permute_grams, pooled_grams, regmean
from kzoo.methods.fusion.layerwise import fuse_layerwise
from kzoo.methods.fusion.normalisation import fold_batchnorm, foldable
from kzoo.methods.fusion.parameters import FUSION as FUSION
from kzoo.methods.fusion.parameters import FusionParameters as FusionParameters
from kzoo.methods.fusion.parameters import LayerwiseParameters, NonessentialParameters, RegMeanParameters, SumParameters
from kzoo.methods.fusion.parents import check_fused
from kzoo.methods.fusion.permutations import Permutation, Symmetries, permute, symmetries
from kzoo.methods.fusion.roles import Role
from kzoo.methods.fusion.states import fuse_states, module_roles

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Parents:
    """The networks to fuse, of one architecture and in evaluation mode, and what is known beside them.

    ``start`` is the state dict that all were trained from; ``fisher`` and ``grams`` are one mapping for each parent, by
    parameter and by layer; ``images`` one collection for each, ready for the networks (N x C x H x W). ``example`` is an
    input to trace with. ``classes`` are what outputs stand for, and ``heads`` the tensors of the classifiers, where these
    are joined: all networks then have the outputs of the union of classes (`kzoo.methods.fusion.classifiers`).
    """

    modules: Sequence[nn.Module]
    example: Tensor
    start: State | None = None
    fisher: Sequence[State] | None = None
    grams: Sequence[State] | None = None
    images: Sequence[Tensor] | None = None
    classes: Sequence[Sequence[str]] | None = None
    heads: Sequence[str] = ()

    def joined(self, modules: Sequence[nn.Module], classes: Sequence[Sequence[str]], heads: Sequence[str]) -> Parents:
        """The same parents as ``modules`` that have the outputs of the union of classes, in the tensors ``heads``."""
        union, fisher, start = union_of_classes(classes), self.fisher, self.start
        if fisher is not None:
            pairs = zip(fisher, classes, strict=True)
            fisher = [expanded_state(one, heads, names, union) for one, names in pairs]
        if start is not None:
            # What the classifiers began with is of no use: each class keeps the rows of those that know it.
            wide = modules[0].state_dict()
            start = {**start, **{name: torch.zeros_like(wide[name]) for name in heads}}
        return replace(self, modules=modules, fisher=fisher, start=start, classes=classes, heads=heads)

    def require(self, needs: frozenset[str]) -> None:
        """Refuse to go on without what a method needs.

        Raises:
            InputError: something is missing.
        """
        known = {"start": self.start, "fisher": self.fisher, "gram": self.grams, "images": self.images}
        for name in sorted(needs):
            if known[name] is None:
                raise InputError(_MISSING[name])


_MISSING = {
    "start": "this needs the weights that all parents were trained from: give them (--start)",
    "fisher": "this needs to know how important each parent's weights are: give images of each (--data), or choose "
    "importance=magnitude, which needs none",
    "gram": "this needs products of each parent's inputs: give images of each (--data)",
    "images": "this needs unlabelled images of each parent: give them (--data)",
}


@dataclass(frozen=True)
class Fused:
    """The fused network; ``alignments`` tell how each parent but the first was aligned, by how alike weights are."""

    module: nn.Module
    alignments: tuple[Alignment, ...] = field(default=())


def fuse(method: str, parameters: FusionParameters, parents: Parents) -> Fused:
    """Fuse networks by one of `FUSION`; ``parameters`` are of that method's model. The parents stay as they are.

    Raises:
        InputError: something that the method needs is missing, or it cannot fuse these, with the reason.
    """
    parents.require(parameters.needs)
    roles = module_roles(parents.modules[0])
    if parameters.norms == "fold":
        parents, shifts = _folded(parents)
        # What is left in a folded normalisation is the bias of the layer before it.
        roles |= dict.fromkeys(shifts, Role.BIAS)
    alignments: tuple[Alignment, ...] = ()
    if parameters.align != "none":
        parents, alignments = _aligned(parents, parameters)
    made = copied(parents.modules[0]).eval()
    state = dict(_fused_state(method, parameters, parents, roles))
    if parents.classes is not None:
        states = [module.state_dict() for module in parents.modules]
        state |= {name: joined([one[name] for one in states], parents.classes) for name in parents.heads}
    first = first_names(made)
    # Of a tensor with several names each would be loaded, the last one for good.
    load_values(made, {name: state[first.get(name, name)] for name in state})
    for name, tensor in made.state_dict().items():
        check_fused(name, tensor)
    return Fused(made, alignments)


def _fused_state(method: str, parameters: FusionParameters, parents: Parents, roles: Mapping[str, Role]) -> State:
    states = [module.state_dict() for module in parents.modules]
    if isinstance(parameters, LayerwiseParameters):
        assert parents.images is not None
        return fuse_layerwise(parents.modules, parents.images, ridge=parameters.ridge)
    if isinstance(parameters, RegMeanParameters):
        assert parents.grams is not None
        grams = [pooled_grams(one, parents.modules[0]) for one in parents.grams]
        return regmean(states, grams, scale=parameters.scale, ridge=parameters.ridge, roles=roles)
    if isinstance(parameters, NonessentialParameters) and parameters.variant == "null_space":
        assert parents.grams is not None and parents.start is not None
        gram = pooled_grams(parents.grams[0], parents.modules[0])
        return null_space(states, parents.start, gram, energy=parameters.energy, roles=roles)
    if isinstance(parameters, NonessentialParameters):
        known = importances(parameters, states, parents.start, parents.fisher)
        return fuse_states(states, parameters.rule, importance=known, roles=roles)
    assert isinstance(parameters, SumParameters), method
    return fuse_states(states, parameters.rule, start=parents.start, roles=roles)


def importances(
    parameters: NonessentialParameters, states: Sequence[State], start: State | None, fisher: Sequence[State] | None
) -> list[dict[str, Tensor]]:
    """How important each weight is to each parent, as the parameters say."""
    if parameters.importance == "magnitude":
        return [magnitude(state) for state in states]
    if parameters.importance == "distance":
        assert start is not None
        return [distance(state, start) for state in states]
    assert fisher is not None
    if parameters.importance == "fisher":
        return [dict(one) for one in fisher]
    return [saliency(state, one) for state, one in zip(states, fisher, strict=True)]


def _folded(parents: Parents) -> tuple[Parents, list[str]]:
    """The same networks with batch normalisation folded into layers, and the names of the biases that are left in them.

    What was measured on the networks does not fit any more.
    """
    if parents.fisher is not None or parents.grams is not None or parents.start is not None:
        raise InputError(
            "importances, products of inputs and the common start are those of networks as they were: with norms=fold they "
            "do not fit; leave batch normalisation as it is (norms=average)"
        )
    first = parents.modules[0]
    pairs = foldable(first, parents.example)
    folded = [fold_batchnorm(module, keep_norms=True, pairs=pairs) for module in parents.modules]
    known = first.state_dict()
    return replace(parents, modules=folded), [name for _, norm in pairs if (name := f"{norm}.bias") in known]


def _aligned(parents: Parents, parameters: FusionParameters) -> tuple[Parents, tuple[Alignment, ...]]:
    """The parents with their channels in the order of the first one's, and all that belongs to them with them."""
    first = parents.modules[0]
    found = symmetries(first, parents.example)
    alignments = [_alignment(first, number, parents, parameters, found) for number in range(1, len(parents.modules))]
    moves: list[Permutation | None] = [None, *(one.permutation for one in alignments)]
    modules = [_moved(module, found, move) for module, move in zip(parents.modules, moves, strict=True)]
    fisher = grams = None
    if parents.fisher is not None:
        pairs = zip(parents.fisher, moves, strict=True)
        fisher = [one if move is None else permute(one, found, move) for one, move in pairs]
    if parents.grams is not None:
        pairs = zip(parents.grams, moves, strict=True)
        grams = [one if move is None else permute_grams(one, found, move) for one, move in pairs]
    return replace(parents, modules=modules, fisher=fisher, grams=grams), tuple(alignments)


def _alignment(
    first: nn.Module, number: int, parents: Parents, parameters: FusionParameters, found: Symmetries
) -> Alignment:
    other, choices = parents.modules[number], {"restarts": parameters.restarts, "seed": parameters.seed}
    if parameters.align == "weights":
        return match_weights(first.state_dict(), other.state_dict(), found, **choices)
    assert parents.images is not None
    # What both networks give for images of either: neither knows them better than the other.
    images = torch.cat([parents.images[0], parents.images[number]])
    return match_activations(first, other, found, images, **choices)


def _moved(module: nn.Module, found: Symmetries, move: Permutation | None) -> nn.Module:
    if move is None:
        return module
    moved = copied(module)
    load_values(moved, permute(module.state_dict(), found, move))
    return moved


def described(alignments: Sequence[Alignment]) -> list[dict[str, Any]]:
    """Alignments as JSON data, without the permutations."""
    return [{"similarity": one.similarity, "before": one.before, "start": one.start} for one in alignments]

"""State dicts fused by a rule: what each tensor is decides whether the rule, a mean or a formula is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.roles import LEARNED, Role, mean_beside, roles_of
from kzoo.methods.fusion.rules import Entries, Rule, mean, pooled_variance, threshold_of

State = Mapping[str, Tensor]


def fuse_states(
    parents: Sequence[State],
    rule: Rule,
    *,
    start: State | None = None,
    importance: Sequence[State] | None = None,
    roles: Mapping[str, Role] | None = None,
) -> dict[str, Tensor]:
    """The fused state dict, in the first parent's order and types.

    ``start`` is the state dict that all parents were trained from, ``importance`` one mapping for each parent with a tensor
    of the weight's shape for each learned tensor, ``roles`` says what tensors are where names do not tell. Check parents
    with `check_parents` before.

    Raises:
        InputError: the rule cannot fuse so many, or something that it needs is missing.
    """
    rule.check(len(parents), start is not None, importance is not None)
    first = parents[0]
    known = roles or state_roles(first)
    fused: dict[str, Tensor] = {}
    for name, old in first.items():
        versions = [parent[name] for parent in parents]
        if known[name] in LEARNED:
            entries = _entries(name, versions, rule, start, importance)
            new = rule.fuse(entries)
        else:
            beside = [parent[mean_beside(name)] for parent in parents] if known[name] is Role.VARIANCE else None
            new = fuse_unlearned(known[name], versions, beside)
        fused[name] = new.to(old.dtype)
    return fused


def state_roles(state: State) -> dict[str, Role]:
    """The roles of a state dict's tensors, told from names, shapes and types."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return roles_of(shapes, {name: tensor.dtype for name, tensor in state.items()})


def module_roles(module: nn.Module) -> dict[str, Role]:
    """The roles of a network's tensors; of a module it is known which ones are buffers."""
    state = module.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return roles_of(shapes, {name: tensor.dtype for name, tensor in state.items()}, state.keys() - learned)


def fuse_unlearned(role: Role, versions: Sequence[Tensor], means: Sequence[Tensor] | None = None) -> Tensor:
    """Entries of a tensor that every method treats alike; a running variance needs the running ``means`` beside it."""
    if role is Role.WHOLE:
        return versions[0].clone()
    if role is Role.VARIANCE:
        assert means is not None
        return pooled_variance(versions, means)
    return mean(versions)


def _entries(
    name: str, versions: Sequence[Tensor], rule: Rule, start: State | None, importance: Sequence[State] | None
) -> Entries:
    known = [_of(name, "an importance", one, versions[0]) for one in importance] if importance is not None else None
    if importance is not None and len(importance) != len(versions):
        raise InputError(
            f"there are {len(versions)} parents and {len(importance)} importances: give one of each parent"
        )
    began = _of(name, "the common start", start, versions[0]) if start is not None and rule.needs_start else None
    threshold = threshold_of(known[0], rule.quantile) if known and rule.quantile is not None else None
    return Entries(versions, began, known if rule.needs_importance else None, threshold)


def _of(name: str, what: str, state: State, like: Tensor) -> Tensor:
    if name not in state or state[name].shape != like.shape:
        there = f"is {tuple(state[name].shape)}" if name in state else "is missing"
        raise InputError(f"{name} {there} in {what}: expected {tuple(like.shape)}, as in the parents")
    return state[name]

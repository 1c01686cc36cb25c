"""What DPIAT is compared with: tensors of the same name and shape, weight selection, and nothing at all."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from kzoo.methods.plan import Step
from kzoo.methods.surgery import Body, Choices


class NoParameters(BaseModel):
    """A method without choices."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def by_name_steps(source: Body, target: Body, _parameters: NoParameters) -> list[Step]:
    """Every part that the source has under the same name in the same shape: what loading a state dict loosely does."""
    return [
        Step(target=name, source=name if name in source.parts and source.parts[name].shape == part.shape else None)
        for name, part in target.parts.items()
    ]


def weight_selection_steps(source: Body, target: Body, _parameters: NoParameters) -> list[Step]:
    """Every part that the source has under the same name and at least as large (weight selection, arXiv 2311.18823).

    Names give the paper's first-N choice of layers: block i takes from block i. Where a source is smaller on some axis,
    which the paper does not have, the part stays random.
    """
    return [Step(target=name, source=name if _at_least(source, target, name) else None) for name in target.parts]


def _at_least(source: Body, target: Body, name: str) -> bool:
    if name not in source.parts:
        return False
    theirs, ours = source.parts[name].shape, target.parts[name].shape
    return len(theirs) == len(ours) and all(a >= b for a, b in zip(theirs, ours, strict=True))


def random_steps(_source: Body, target: Body, _parameters: NoParameters) -> list[Step]:
    """Nothing is carried: the target as it was initialised."""
    return [Step(target=name) for name in target.parts]


def whole_choices(_parameters: NoParameters) -> Choices:
    """Everything of a part is carried as it is."""
    return Choices(statistics=True)


def selecting_choices(_parameters: NoParameters) -> Choices:
    """Entries at even distances, the same ones of every axis of that size: the uniform selection of the paper."""
    return Choices(operator="uniform", statistics=True, packed=True)

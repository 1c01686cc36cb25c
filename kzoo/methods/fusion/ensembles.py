"""Ensembles of the parents: what a fused network, which costs as much as one of them, is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.classifiers import union_of_classes

By = Literal["probability", "logit"]


class Ensemble(nn.Module):
    """The mean of several classifiers' probabilities, or of their logits, as one classifier.

    ``classes`` names each network's outputs where they know different ones: the outputs are then those of the union, in
    `classes`, and each is the mean over the networks that know the class. Outputs are log-probabilities of the ensemble
    (N x classes), so that losses and accuracies are as of any classifier.

    Raises:
        InputError: there is no network, an unknown way is named, or lists of classes are missing.
    """

    def __init__(
        self, modules: Sequence[nn.Module], by: By = "probability", classes: Sequence[Sequence[str]] | None = None
    ) -> None:
        super().__init__()
        if not modules:
            raise InputError("an ensemble needs networks: give one or more")
        if by not in get_args(By):
            raise InputError(f"an ensemble by {by!r:.80} is not known: expected {' or '.join(get_args(By))}")
        if classes is not None and len(classes) != len(modules):
            raise InputError(
                f"there are {len(modules)} networks and {len(classes)} lists of classes: give those of each"
            )
        self.parents = nn.ModuleList(modules)
        self.by = by
        self.classes = None if classes is None else union_of_classes(classes)
        self._places = [
            None if self.classes is None or classes is None else [self.classes.index(name) for name in classes[number]]
            for number in range(len(modules))
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities of the ensemble for each image: N x classes."""
        outputs = [parent(images) for parent in self.parents]
        outputs = [found.softmax(1) for found in outputs] if self.by == "probability" else outputs
        size = len(self.classes) if self.classes is not None else outputs[0].shape[1]
        total = outputs[0].new_zeros(len(images), size)
        known = outputs[0].new_zeros(size)
        for number, (found, chosen) in enumerate(zip(outputs, self._places, strict=True), start=1):
            places = torch.arange(size) if chosen is None else torch.tensor(chosen)
            if found.shape[1] != len(places):
                raise InputError(
                    f"network {number} has {found.shape[1]} outputs: expected {len(places)}; name its classes"
                )
            places = places.to(found.device)
            total.index_add_(1, places, found)
            known.index_add_(0, places, torch.ones_like(known[: len(places)]))
        values = total / known
        if self.by == "probability":
            values = values.clamp(min=torch.finfo(values.dtype).tiny).log()
        logs: Tensor = values.log_softmax(1)
        return logs

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.methods.fusion.classifiers import fuse_private, join_classifiers, union_of_classes
from kzoo.methods.fusion.ensembles import Ensemble
from kzoo.methods.fusion.rules import average
from kzoo.methods.fusion.states import fuse_states

CLASSES = (["a", "b"], ["c", "b", "d"])


def heads() -> list[dict[str, Tensor]]:
    return [
        {"weight": torch.tensor([[1.0, 1.0], [2.0, 2.0]]), "bias": torch.tensor([10.0, 20.0])},
        {"weight": torch.tensor([[3.0, 3.0], [4.0, 6.0], [5.0, 5.0]]), "bias": torch.tensor([30.0, 40.0, 50.0])},
    ]


def test_classifiers_are_joined_over_the_union_of_classes() -> None:
    assert union_of_classes(CLASSES) == ["a", "b", "c", "d"]
    found = join_classifiers(heads(), CLASSES)
    assert found["weight"].tolist() == [[1, 1], [3, 4], [3, 3], [5, 5]]
    assert found["bias"].tolist() == [10, 30, 30, 50]
    assert found["weight"].dtype == torch.float32


def test_private_classifiers_on_a_fused_trunk() -> None:
    parents = []
    for head in heads():
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, len(head["bias"])))
        module[1].load_state_dict(head)
        parents.append(module.state_dict())
    state, classes = fuse_private(parents, CLASSES, "1", lambda trunks: fuse_states(trunks, average()))
    assert classes == ["a", "b", "c", "d"] and list(state) == list(parents[0])
    torch.testing.assert_close(state["0.weight"], (parents[0]["0.weight"] + parents[1]["0.weight"]) / 2)
    assert state["1.bias"].tolist() == [10, 30, 30, 50]
    nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4)).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "classes", "said"),
    [
        ({}, (["a", "b"], ["c", "d"]), "the classifier of parent 2 has 3 outputs and 2 classes"),
        ({}, (["a", "a"], ["b", "c", "d"]), "parent 1 names the class 'a' twice"),
        ({}, (["a", "b"], []), "parent 2 has no classes"),
        ({}, (["a", "b"],), "there are 2 parents and 1 lists of classes"),
        ({"weight": torch.zeros(3, 5)}, CLASSES, "parent 2 takes (5,) with a bias, that of parent 1 (2,) with one"),
    ],
)
def test_classifiers_that_do_not_fit_are_refused(change: dict[str, Tensor], classes: object, said: str) -> None:
    first, second = heads()
    with pytest.raises(InputError, match=re.escape(said)):
        join_classifiers([first, second | change], classes)  # type: ignore[arg-type]


def test_an_unknown_classifier_is_refused() -> None:
    state = nn.Sequential(nn.Linear(3, 2)).state_dict()
    with pytest.raises(InputError, match="'fc' is not a layer with a weight and a bias"):
        fuse_private([state, state], CLASSES, "fc", lambda trunks: trunks[0])


class Fixed(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logits]))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_ensembles_of_one_classifier_by_hand() -> None:
    parents = [Fixed(2.0, 0.0, -1.0), Fixed(-1.0, 0.5, 3.0)]
    images, outputs = torch.zeros(2, 1), [parent.logits for parent in parents]
    by_probability = Ensemble(parents)(images)
    torch.testing.assert_close(by_probability.exp(), ((outputs[0].softmax(1) + outputs[1].softmax(1)) / 2).expand(2, 3))
    by_logit = Ensemble(parents, "logit")(images)
    torch.testing.assert_close(by_logit, ((outputs[0] + outputs[1]) / 2).log_softmax(1).expand(2, 3))


def test_ensembles_over_the_union_of_classes() -> None:
    parents = [Fixed(2.0, 0.0), Fixed(-1.0, 0.5, 3.0)]
    images = torch.zeros(1, 1)
    ensemble = Ensemble(parents, "logit", CLASSES)
    assert ensemble.classes == ["a", "b", "c", "d"]
    torch.testing.assert_close(ensemble(images), torch.tensor([[2.0, 0.25, -1.0, 3.0]]).log_softmax(1))
    first, second = (parent.logits[0].softmax(0) for parent in parents)
    expected = torch.stack([first[0], (first[1] + second[1]) / 2, second[0], second[2]])
    torch.testing.assert_close(Ensemble(parents, "probability", CLASSES)(images)[0].exp(), expected / expected.sum())


def test_ensembles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="needs networks"):
        Ensemble([])
    with pytest.raises(InputError, match="by 'vote' is not known"):
        Ensemble([Fixed(1.0)], "vote")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 networks and 2 lists"):
        Ensemble([Fixed(1.0)], classes=CLASSES)
    with pytest.raises(InputError, match="network 2 has 2 outputs: expected 1"):
        Ensemble([Fixed(1.0), Fixed(1.0, 2.0)])(torch.zeros(1, 1))

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import kzoo
from kzoo.errors import InputError
from kzoo.methods.fusion.classifiers import expanded, joined, union_of_classes
from kzoo.methods.fusion.ensembles import Ensemble

CLASSES = (["a", "b"], ["c", "b", "d"])


def networks() -> list[nn.Module]:
    """Two networks of two and three classes, whose classifiers are written out."""
    made = []
    for weight, bias in (
        ([[1.0, 1.0], [2.0, 2.0]], [10.0, 20.0]),
        ([[3.0, 3.0], [4.0, 6.0], [5.0, 5.0]], [30.0, 40.0, 50.0]),
    ):
        module = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, len(bias)))
        module[2].load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        made.append(module)
    return made


def test_classifiers_are_joined_over_the_union_of_classes() -> None:
    union = union_of_classes(CLASSES)
    assert union == ["a", "b", "c", "d"]
    heads = [module[2] for module in networks()]  # type: ignore[index]
    wide = [expanded(head.weight, names, union) for head, names in zip(heads, CLASSES, strict=True)]
    assert wide[0].tolist() == [[1, 1], [2, 2], [0, 0], [0, 0]]
    assert wide[1].tolist() == [[0, 0], [4, 6], [3, 3], [5, 5]]
    found = joined(wide, CLASSES)
    assert found.tolist() == [[1, 1], [3, 4], [3, 3], [5, 5]] and found.dtype == torch.float32


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((["a", "a"], ["b", "c", "d"]), "parent 1 names the class 'a' twice"),
        ((["a", "b"], []), "parent 2 has no classes"),
        ((["a", "b"], ["c", "d"]), "has 3 outputs, and 2 classes are named"),
        ((["a", "b"],), "there are 2 networks and 1 lists of classes"),
        (None, "give classes, a list for each network"),
    ],
)
def test_classes_that_do_not_fit_classifiers_are_refused(classes: object, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        kzoo.fuse(networks(), heads="joined", classes=classes, example=torch.zeros(2, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["weight_sum", "nonessential", "regmean", "layerwise"])
def test_private_classifiers_on_a_fused_trunk(method: str) -> None:
    parents, images = networks(), torch.randn(40, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    flat = [nn.Sequential(nn.Flatten(), *module) for module in parents]
    fused = kzoo.fuse(flat, method, heads="joined", classes=CLASSES, images=images)
    assert kzoo.report(fused).classes == ("a", "b", "c", "d")
    assert fused[3].weight.tolist() == [[1, 1], [3, 4], [3, 3], [5, 5]] and fused[3].out_features == 4
    assert fused[3].bias.tolist() == [10, 30, 30, 50]
    assert fused(images).shape == (40, 4) and flat[0][3].out_features == 2
    if method == "weight_sum":
        torch.testing.assert_close(fused[1].weight, (parents[0][0].weight + parents[1][0].weight) / 2)  # type: ignore[index]


def test_joined_classifiers_follow_the_order_that_alignment_gives_the_trunk() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 2))
    order = torch.randperm(9)
    two = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    with torch.no_grad():
        two[1].weight.copy_(one[1].weight[order])
        two[1].bias.copy_(one[1].bias[order])
    images = torch.randn(5, 3, 2, 2)
    fused = kzoo.fuse(
        [one, two], heads="joined", classes=[["a", "b"], ["c", "d", "e"]], align="weights", example=images
    )
    torch.testing.assert_close(fused(images), torch.cat([one(images), two(images)], dim=1))


def test_a_network_without_a_classifier_of_its_own_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * 2  # type: ignore[no-any-return]

    with pytest.raises(InputError, match="no single layer of Twice gives its outputs"):
        kzoo.fuse([Twice(), Twice()], heads="joined", classes=[["a", "b"], ["c", "d"]], example=torch.ones(2, 3))


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

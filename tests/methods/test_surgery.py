"""What cannot be carried is refused before anything changes; tied tensors, lone tensors, number formats."""

import pytest
import torch
from torch import nn

from kzoo.errors import InputError
from kzoo.methods.dpiat import DpiatParameters, choices, steps
from kzoo.methods.plan import Plan, Step, read_plan, write_plan
from kzoo.methods.surgery import Choices, module_body, operate, rehearse

CHOICES = choices(DpiatParameters())


class Tied(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, size)
        self.middle = nn.Linear(size, size)
        self.head = nn.Linear(size, 9, bias=False)
        self.head.weight = self.embed.weight


def carry(source, target, **parameters):
    chosen = DpiatParameters(**parameters)
    theirs, ours = module_body(source), module_body(target)
    return operate(steps(theirs, ours, chosen), theirs, ours, choices(chosen))


def two(*sizes):
    return [nn.Sequential(nn.Linear(size, size), nn.PReLU(size), nn.Linear(size, 3)) for size in sizes]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_nothing_changes(bad):
    source, target = two(4, 6)
    with torch.no_grad():
        source[2].weight[1, 1] = bad
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(InputError, match=r"2\.weight holds values that are not finite"):
        carry(source, target)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_large_finite_weights_whose_sum_overflows_are_carried():
    source, target = two(4, 4)
    with torch.no_grad():
        source[0].weight.fill_(3e38)
    carry(source, target)
    assert (target[0].weight == 3e38).all()


def test_quantised_weights_are_refused():
    source, target = two(4, 4)
    theirs, ours = module_body(source), module_body(target)
    theirs.tensors["0.weight"] = torch.zeros(4, 4, dtype=torch.int8)
    with pytest.raises(InputError, match=r"0\.weight has the type int8, so it is quantised"):
        operate(steps(theirs, ours, DpiatParameters()), theirs, ours, CHOICES)


@pytest.mark.parametrize("form", [torch.float16, torch.bfloat16])
def test_half_precision_is_carried_into_full_and_back(form):
    source, target = two(4, 4)
    expected = source[0].weight.detach().to(form)
    source[0].to(form)
    carry(source, target)
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, expected.float())
    assert torch.equal(target[2].weight, source[2].weight)
    back = two(4)[0].to(form)
    carry(target, back)
    assert torch.equal(back[0].weight, expected)


def test_values_too_large_for_float16_are_refused():
    source, target = two(4, 4)
    with torch.no_grad():
        source[0].weight[0, 0] = 70_000
    with pytest.raises(InputError, match=r"too large for the target's float16"):
        carry(source, target.half())


def test_tied_tensors_are_written_once_and_stay_tied():
    source, target = Tied(8), Tied(6)
    reports = carry(source, target, rescale=False)
    assert target.head.weight is target.embed.weight
    assert sum(part.entries for part in reports) == sum(p.numel() for p in target.parameters())
    assert torch.equal(target.embed.weight, source.embed.weight[:, 1:7])
    assert [part.note for part in reports if part.target == "head"] == ["shares its weight with another part"]


def test_a_parameter_of_a_layer_without_a_kind_is_carried_too():
    source, target = two(4, 6)
    carry(source, target)
    assert torch.equal(target[1].weight[1:5], source[1].weight)


def test_the_rehearsal_says_what_the_operation_does():
    source, target = two(4, 6)
    theirs, ours = module_body(source), module_body(target)
    plan = steps(theirs, ours, DpiatParameters())
    before = [parameter.clone() for parameter in target.parameters()]
    told = rehearse(plan, theirs, ours, CHOICES)
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters(), strict=True))
    assert told == operate(plan, theirs, ours, CHOICES)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step(target="9", source="0"), r"names '9', which is no part of the target; nearest: "),
        (Step(target="0", source="nine"), r"names 'nine', which is no part of the source"),
        (Step(target="0", source="1.weight"), r"pairs 1\.weight of shape \(4,\) with 0 of shape \(6, 6\)"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(step, said):
    source, target = two(4, 6)
    with pytest.raises(InputError, match=said):
        rehearse([step], module_body(source), module_body(target), CHOICES)


def test_an_edited_step_is_carried_out_as_it_stands():
    source, target = two(4, 4)
    operate([Step(target="2", source="0")], module_body(source), module_body(target), Choices())
    assert torch.equal(target[2].weight, source[0].weight[0:3])


def test_a_plan_comes_back_from_its_file(tmp_path):
    plan = Plan(
        source="a", target="b", method="dpiat", steps=(Step(target="x", source="ü", score=0.5), Step(target="y"))
    )
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "is not a JSON object"),
        ("{}", "is no plan: source: Field required"),
        ('{"source":"a","target":"b","method":"m","steps":[{"target":"x"},{"target":"x"}]}', "'x' twice"),
        ('{"source":"a","target":"b","method":"m","steps":[{"target":"x","sauce":"y"}]}', r"steps\.0\.sauce"),
        ('{"source":"a","target":"b","method":"m","steps":[{"target":"x","score":2}]}', r"steps\.0\.score"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path, text, said):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_plan(path)


class TiedWithBias(Tied):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.head = nn.Linear(size, 9)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("variant", ["paper", "full_state"])
def test_of_tied_parts_the_one_that_receives_is_written(variant):
    source, target = TiedWithBias(8), TiedWithBias(8)
    reports = carry(source, target, variant=variant)
    assert torch.equal(target.head.weight, source.head.weight)
    assert torch.equal(target.head.bias, source.head.bias)
    assert target.embed.weight is target.head.weight
    assert sum(part.overwritten for part in reports) == sum(p.numel() for p in target.parameters())


def test_half_precision_is_rescaled_in_the_targets_format():
    source, target = nn.Sequential(nn.Linear(64, 4)), nn.Sequential(nn.Linear(16, 4))
    with torch.no_grad():
        source[0].weight.fill_(60_000)
    carry(source.half(), target, head=False)
    assert (target[0].weight == 120_000).all()

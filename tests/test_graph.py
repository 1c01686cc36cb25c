from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch_pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kzoo.errors import InputError
from kzoo.graph import ChannelGraph, Fixed, Group, Product, Sum, channel_graph, groups_of, reasons_of
from kzoo.graph.axes import Axis, Solver, product, total
from kzoo.graph.sizes import leading, new_size, positions, sources
from tests.growing import Attention, Auxiliary, Branches, Flattened, Grouped, Inverted, Residual, Shared, image, linears


def graph_of(build: Callable[[], nn.Module], example: Tensor | None = None) -> ChannelGraph:
    torch.manual_seed(0)
    return channel_graph(build().double(), image() if example is None else example)


def tied(graph: ChannelGraph, *members: tuple[str, int]) -> None:
    """The members are exactly one tied set."""
    first, axis = members[0]
    (group,) = set(groups_of(graph.tensors[first][axis]))
    assert set(graph.members(group.index)) == set(members)


def test_two_linears_share_the_channels_between_them() -> None:
    graph = graph_of(linears, torch.randn(2, 3).double())
    tied(graph, ("0.weight", 0), ("0.bias", 0), ("2.weight", 1))
    assert list(reasons_of(graph.tensors["0.weight"][1])) == ["it is the network's input"]
    assert list(reasons_of(graph.tensors["2.weight"][0])) == ["it is the network's output"]
    assert [(share.tensor, share.axis) for share in graph.shares] == [("2.weight", 1)]


def test_a_residual_ties_what_is_added() -> None:
    graph = graph_of(Residual)
    trunk = [("stem.weight", 0), ("stem.bias", 0), ("inner.0.weight", 1), ("inner.3.weight", 0), ("inner.3.bias", 0)]
    tied(graph, *trunk, ("head.weight", 1))
    norm = [(f"inner.1.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")]
    tied(graph, ("inner.0.weight", 0), ("inner.0.bias", 0), *norm, ("inner.3.weight", 1))


def test_a_concatenation_is_a_sum() -> None:
    axis = graph_of(Branches).tensors["head.weight"][1]
    assert isinstance(axis, Sum)
    assert [part.size for part in axis.parts] == [3, 4, 5]


def test_flattened_channels_repeat_for_every_position() -> None:
    graph = graph_of(Flattened)
    axis = graph.tensors["first.weight"][1]
    assert axis == Product((graph.tensors["conv.weight"][0], Fixed(16)))


def test_a_depthwise_convolution_and_its_gate_follow() -> None:
    graph = graph_of(Inverted)
    (group,) = groups_of(graph.tensors["expand.weight"][0])
    assert {name for name, _ in graph.members(group.index)} > {"depthwise.weight", "excite.weight", "reduce.weight"}
    assert graph.tensors["depthwise.weight"][1] == Fixed(1)


def test_groups_of_a_convolution_are_a_factor() -> None:
    graph = graph_of(Grouped)
    inputs, outputs = graph.tensors["stem.weight"][0], graph.tensors["grouped.weight"][0]
    assert isinstance(inputs, Product) and isinstance(outputs, Product)
    assert [part.size for part in inputs.parts] == [4, 2]
    assert inputs.parts[0] == outputs.parts[0]
    assert graph.tensors["grouped.weight"][1] == inputs.parts[1]


@pytest.mark.parametrize("fused", [True, False])
def test_heads_are_a_factor_and_the_width_of_packed_ones_is_fixed(fused: bool) -> None:
    graph = graph_of(lambda: Attention(fused))
    axis = graph.tensors["qkv.weight"][0]
    assert isinstance(axis, Product)
    assert [(type(part), part.size) for part in axis.parts] == [(Fixed, 3), (Group, 2), (Fixed, 4)]
    assert graph.tensors["proj.weight"][1] == Product(axis.parts[1:])
    assert {name for name, _ in graph.members(next(groups_of(graph.tensors["norm.weight"][0])).index)} == {
        "embed.weight", "embed.bias", "position", "norm.weight", "norm.bias", "after.weight", "after.bias", "qkv.weight",
        "proj.weight", "proj.bias", "up.weight", "down.weight", "down.bias", "head.weight",
    }  # fmt: skip


def test_tied_weights_are_fixed() -> None:
    graph = graph_of(Shared, torch.tensor([[1, 2, 3]]))
    assert any("used in several ways" in reason for reason in reasons_of(graph.tensors["table.weight"][1]))


def test_parts_that_run_in_training_only_belong_to_it() -> None:
    graph = graph_of(Auxiliary)
    (group,) = groups_of(graph.tensors["side.0.weight"][1])
    assert ("stem.weight", 0) in graph.members(group.index)
    tied(graph, *[(f"side.{name}", 0) for name in SIDE], ("side.3.weight", 1))


SIDE = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")


@pytest.mark.parametrize("kind", ["strided", "uneven"])
def test_only_the_axis_that_is_cut_is_fixed(kind: str) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mix, self.last = nn.Conv2d(3, 4, 1), nn.Conv1d(4, 4, 1), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = self.mix(x.flatten(2)[..., ::2]) if kind == "strided" else x.flatten(1)[:, 3:131].unflatten(1, (4, 32))
            return self.last(x.mean(2))

    graph = graph_of(Halves)
    assert [group.size for group in graph.groups.values()] == ([4, 4] if kind == "strided" else [])


@pytest.mark.parametrize(
    "turned",
    [
        lambda x: x.transpose(1, 3),
        lambda x: x.swapaxes(1, 3),
        lambda x: x.swapdims(3, 1),
        lambda x: x.movedim(1, -1),
        lambda x: x.moveaxis(1, -1),
        lambda x: x.permute(0, 2, 3, 1),
    ],
)
def test_channels_go_where_axes_are_moved(turned: Callable[[Tensor], Tensor]) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(turned(self.first(x)))

    # As many channels as there are rows and columns: sizes tell nothing.
    tied(graph_of(Turned), ("first.weight", 0), ("first.bias", 0), ("last.weight", 1))


def test_a_zeroed_slice_keeps_its_channels() -> None:
    class Zeroed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 9), nn.Linear(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            bias = self.first.bias.clone()
            bias[2:5].zero_()
            return self.last(nn.functional.linear(x, self.first.weight, bias))

    axis = graph_of(Zeroed, torch.randn(2, 3).double()).tensors["first.weight"][0]
    assert isinstance(axis, Sum) and [type(part) for part in axis.parts] == [Group] * 3
    assert [part.size for part in axis.parts] == [2, 3, 4]


def test_a_lone_vector_makes_no_channels() -> None:
    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.layer = (
                nn.Parameter(torch.randn(4)),
                nn.Parameter(torch.randn(4)),
                nn.Linear(3, 5),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * (self.one * self.other).sum()

    graph = graph_of(Weighed, torch.randn(2, 3).double())
    assert not graph.groups
    assert list(reasons_of(graph.tensors["one"][0])) == ["no layer makes the channels of one"]


def test_a_layer_used_twice_ties_its_ends() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.again(torch.relu(self.again(self.first(x)))))

    graph = graph_of(Twice, torch.randn(2, 3).double())
    assert graph.tensors["again.weight"][0] == graph.tensors["again.weight"][1]


@pytest.mark.parametrize(
    "function",
    [lambda x: torch.fft.fft(x).real, lambda x: x.cumsum(1), lambda x: x.sort(1).values, lambda x: x.softmax(1)],
)
def test_what_an_operation_does_not_commute_with_is_fixed(function: Callable[[Tensor], Tensor]) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(function(self.first(x)))

    graph = graph_of(Odd, torch.randn(2, 3).double())
    assert not graph.groups
    assert list(reasons_of(graph.tensors["first.weight"][0]))


def test_control_flow_that_depends_on_values_is_refused() -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    with pytest.raises(InputError, match="cannot be traced"):
        graph_of(Dynamic, torch.randn(2, 3).double())


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="no parameters"):
        channel_graph(nn.ReLU(), torch.randn(2, 3))


@pytest.mark.parametrize("build", [Residual, Auxiliary])
def test_tracing_leaves_the_module_as_it_is(build: Callable[[], nn.Module]) -> None:
    module = build().train()
    module.head.eval()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    channel_graph(module, image().float())
    assert [name for name, part in module.named_modules() if not part.training] == ["head"]
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)


def pruning_sets(module: nn.Module, example: Tensor) -> dict[str, set[tuple[str, int]]]:
    """By the weight that makes channels, the weights of other layers tied to it, as torch-pruning sees them."""
    graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example)
    names = {part: name for name, part in module.named_modules() if isinstance(part, LAYERS)}
    found: dict[str, set[tuple[str, int]]] = {}
    for part, name in names.items():
        if isinstance(part, nn.Linear):
            prune = torch_pruning.prune_linear_out_channels
        elif isinstance(part, nn.Conv2d) and part.groups == 1:
            prune = torch_pruning.prune_conv_out_channels
        else:
            continue
        members = set()
        for dependency, _ in graph.get_pruning_group(part, prune, [0]):
            target = dependency.target.module
            if target in names:
                inside = dependency.handler.__name__.endswith("in_channels") and getattr(target, "groups", 1) == 1
                members.add((f"{names[target]}.weight", int(inside)))
        found[f"{name}.weight"] = members
    return found


# One network of each of twelve families, with the number of its weights whose channels are one tied set.
PRUNED = {
    "test_resnet": 15, "test_efficientnet": 15, "test_convnext": 22, "test_mambaout": 12, "test_vit": 19,
    "ese_vovnet19b_slim_dw": 26, "ghostnet_050": 41, "mobilenetv3_small_050": 42, "starnet_s050": 23, "repvgg_a0": 44,
    "dla46_c": 48, "skresnet18": 24,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
@pytest.mark.parametrize("name", PRUNED)
def test_tied_sets_are_those_of_torch_pruning(name: str) -> None:
    module = timm.create_model(name).eval()
    example = torch.randn(1, *module.default_cfg["input_size"]) if name == "test_vit" else torch.randn(1, 3, 64, 64)
    expected = pruning_sets(module, example)
    graph = channel_graph(module, example)
    layers = {f"{path}.weight" for path, part in module.named_modules() if isinstance(part, LAYERS)}
    whole = {weight: graph.tensors[weight][0] for weight in expected}
    known = {weight: axis.index for weight, axis in whole.items() if isinstance(axis, Group)}
    for weight, group in known.items():
        assert {member for member in graph.members(group) if member[0] in layers} == expected[weight], weight
    assert len(known) == PRUNED[name]


axis_trees = st.recursive(
    st.one_of(
        st.integers(1, 4).map(Fixed),
        st.tuples(st.integers(0, 5), st.just(0)).map(lambda pair: Group(pair[0], pair[0] + 2)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(product), st.lists(inner, min_size=2, max_size=3).map(total)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(axis_trees, st.integers(1, 3))
def test_entries_of_a_widened_axis_copy_old_ones_and_keep_the_first(axis: Axis, extra: int) -> None:
    sizes = {group.index: group.size + extra for group in groups_of(axis)}
    maps = {
        index: torch.cat([torch.arange(size - extra), torch.arange(extra) % (size - extra)])
        for index, size in sizes.items()
    }
    copied = sources(axis, maps)
    assert len(copied) == new_size(axis, sizes)
    assert set(copied.tolist()) == set(range(axis.size))
    for index in sizes:
        assert len(positions(axis, index, sizes)) == len(copied)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms())
def test_a_reshape_and_back_is_the_same_axis(sizes: list[int], random: object) -> None:
    solver = Solver()
    whole = 1
    for size in sizes:
        whole *= size
    axis = solver.group(whole)
    parts = solver.reshape([axis], sizes)
    assert parts is not None and [part.size for part in parts] == sizes
    assert solver.resolve(product(parts)) == solver.resolve(axis)


def test_parts_that_interleave_are_fixed() -> None:
    solver = Solver()
    slow, fast = solver.group(6), solver.group(4)
    solver.equal(product((slow, Fixed(4))), product((Fixed(4), slow)), "shuffled")
    assert list(reasons_of(solver.resolve(slow))) == ["shuffled"]
    assert solver.resolve(fast) == fast


def test_leading_parts() -> None:
    axis = product((Group(0, 4), Fixed(6)))
    assert leading(axis, 12) == product((Group(0, 4), Fixed(3)))
    assert leading(axis, 4) == Group(0, 4)
    assert leading(axis, 16) is None

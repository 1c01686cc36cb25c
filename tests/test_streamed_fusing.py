"""Networks fused file by file: the same bytes as in memory, whatever the types, shards and pieces."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kzoo import streamed_fusing
from kzoo.errors import InputError, WorldError
from kzoo.methods.fusion.importance import distance, magnitude, saliency
from kzoo.methods.fusion.parameters import FUSION
from kzoo.methods.fusion.roles import LEARNED
from kzoo.methods.fusion.rules import threshold_of
from kzoo.methods.fusion.states import fuse_states, state_roles
from kzoo.readers.files import read_weights_file
from kzoo.streamed_fusing import fuse_streamed, streamed_threshold

NAMES = ("one", "two", "three", "four")
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
METHODS = {
    "average": ("weight_sum", {}),
    "sum": ("weight_sum", {"variant": "sum"}),
    "delta_sum": ("weight_sum", {"variant": "delta_sum"}),
    "scaled_delta": ("weight_sum", {"variant": "scaled_delta", "scale": 0.3}),
    "quadratic": ("nonessential", {"weight": 0.7}),
    "tempered": ("nonessential", {"variant": "tempered", "power": 0.3, "importance": "saliency"}),
    "winner": ("nonessential", {"variant": "winner", "ratio": 0.9, "importance": "distance"}),
    "threshold": ("nonessential", {"variant": "threshold", "importance": "magnitude"}),
    "threshold of Fisher": ("nonessential", {"variant": "threshold", "quantile": 0.5}),
    "threshold of distance": ("nonessential", {"variant": "threshold", "importance": "distance"}),
}


def parameters(method):
    name, given = METHODS[method]
    return FUSION[name].model_validate(given)


def state(seed, dtype, shapes):
    """A state of one type with everything that has a role of its own."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = {f"layers.{number}.weight": drawn(*shape).to(dtype) for number, shape in enumerate(shapes)}
    tensors |= {"fc.weight": drawn(3, 5).to(dtype), "fc.bias": drawn(3).to(dtype)}
    tensors |= {"bn.weight": drawn(7).to(dtype), "bn.bias": drawn(7).to(dtype)}
    tensors |= {"bn.running_mean": drawn(7).to(dtype), "bn.running_var": drawn(7).abs().to(dtype)}
    return tensors | {"bn.num_batches_tracked": torch.tensor(seed), "mask": torch.tensor([True, False])}


def store(folder, tensors, shards=1):
    """Weights in a folder, in so many files."""
    folder.mkdir(parents=True)
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return read_weights_file(folder)
    files = {name: f"model-{1 + at % shards:05d}-of-{shards:05d}.safetensors" for at, name in enumerate(names)}
    for file in sorted(set(files.values())):
        part = {name: tensors[name] for name in names if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return read_weights_file(folder)


def in_memory(chosen, states, start, fisher):
    """What fusing in memory gives."""
    if "importance" not in type(chosen).model_fields:
        return fuse_states(states, chosen.rule, start=start)
    known = {
        "magnitude": lambda: [magnitude(one) for one in states],
        "distance": lambda: [distance(one, start) for one in states],
        "fisher": lambda: fisher,
        "saliency": lambda: [saliency(one, each) for one, each in zip(states, fisher, strict=True)],
    }[chosen.importance]()
    return fuse_states(states, chosen.rule, importance=known)


def loaded(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def learned(tensors):
    roles = state_roles(tensors)
    return [name for name in tensors if roles[name] in LEARNED]


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(sorted(METHODS)),
    dtype=st.sampled_from(TYPES),
    shapes=st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=3),
    count=st.integers(2, 4),
    shards=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    chunk=st.integers(1, 12).map(lambda number: 8 * number),
    block=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_the_bytes_are_those_of_fusing_in_memory(
    tmp_path_factory, method, dtype, shapes, count, shards, chunk, block, seed
):
    folder, chosen = tmp_path_factory.mktemp("streamed"), parameters(method)
    count = 2 if method.startswith("threshold") else count
    states = [state(seed + number, dtype, shapes) for number in range(count)]
    start = state(seed + 99, torch.float32, shapes)
    fisher = [
        {name: tensor.double().square() for name, tensor in state(seed + 50 + number, torch.float64, shapes).items()
         if name in learned(states[0])}
        for number in range(count)
    ]  # fmt: skip
    files = [store(folder / NAMES[number], one, shards[number]) for number, one in enumerate(states)]
    began = store(folder / "start", start)
    measured = [store(folder / f"fisher{number}", one) for number, one in enumerate(fisher)]
    (folder / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_fusing, "_BLOCK", block)
        found = fuse_streamed(
            chosen, NAMES[:count], files, folder / "out", start=began, importance=measured, chunk=chunk
        )
    expected = in_memory(chosen, states, start, fisher)
    assert [path.name for path in found.files] == [path.name for path in sorted(files[0].shards)]
    for path in found.files:
        names = load_file(path).keys()
        save_file({name: expected[name].contiguous() for name in names}, folder / "expected", metadata={"format": "pt"})
        assert path.read_bytes() == (folder / "expected").read_bytes()
    assert loaded(folder / "out").keys() == expected.keys()


@np.errstate(over="ignore", invalid="ignore")
def test_every_bit_of_narrow_types_is_read_and_rounded_as_torch_does():
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        values = bits.view(dtype)
        widened = streamed_fusing._widened(values.view(torch.uint8).numpy(), name, 0, 2**16)
        np.testing.assert_array_equal(widened, values.double().numpy())
    drawn = torch.randn(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = torch.cat([drawn * 10.0**power for power in (-300, -45, -40, -7, -3, 0, 3, 5, 38, 300)])
    # Ties of both, which go to the even one, and what is just beside them.
    ties = torch.cat([(1 + (2 * torch.arange(2000) + 1) * 2.0**-bits).double() for bits in (8, 9, 11, 12)])
    values = torch.cat([scaled, ties, ties * (1 + 2**-50), ties * (1 - 2**-50), torch.tensor([0.0, -0.0, math.inf])])
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float32, "F32")):
        out = np.zeros(len(values) * dtype.itemsize, np.uint8)
        streamed_fusing._narrow(values.numpy(), name, out, 0)
        assert torch.equal(torch.from_numpy(out), values.to(dtype).view(torch.uint8))


@np.errstate(over="ignore", invalid="ignore")
@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_the_mean_of_two_in_single_precision_is_that_in_double_to_the_last_bit(name):
    chance = np.random.default_rng(5)
    size, infinite = {"BF16": (2, 0x7F80), "F16": (2, 0x7C00), "F32": (4, 0x7F800000)}[name]
    kind = np.uint16 if size == 2 else np.uint32
    # Every pattern of bits, subnormals and opposites among them; pairs of like size round most.
    one, other = chance.integers(0, 2 ** (8 * size), (2, 200_000), dtype=kind)
    other[::2] = (
        one[::2]
        ^ chance.integers(0, 2**10, 100_000, dtype=kind)
        ^ chance.integers(0, 2, 100_000, dtype=kind) << (8 * size - 1)
    )
    small = chance.integers(0, 200, (2, 20_000), dtype=kind)
    one, other = np.concatenate([one, small[0]]), np.concatenate([other, small[1]])
    kept = ((one & infinite) != infinite) & ((other & infinite) != infinite)
    raws = [np.ascontiguousarray(each[kept]).view(np.uint8) for each in (one, other)]
    count = int(kept.sum())
    expected, found = np.zeros((2, count * size), np.uint8)
    streamed_fusing._narrow(sum(streamed_fusing._widened(raw, name, 0, count) for raw in raws) / 2, name, expected, 0)
    quick = 0
    for at in range(0, count, 4):
        middle = streamed_fusing._middle(*raws, name, at, min(at + 4, count))
        if middle is not None:
            quick += len(middle)
            streamed_fusing._store(middle, name, found, at)
        else:
            found[at * size : (at + 4) * size] = expected[at * size : (at + 4) * size]
    assert quick > 0.9 * count
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, 2.0]), min_size=1),
    quantile=st.floats(0, 1),
    most=st.integers(0, 5),
    block=st.integers(1, 7),
)  # fmt: skip
def test_a_counted_threshold_is_the_exact_one(values, quantile, most, block):
    array = np.array(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_fusing, "_MOST_WHOLE", most)
        blocks = range(0, len(array), block)
        found = streamed_threshold(lambda: (array[at : at + block] for at in blocks), len(array), quantile)
    assert found == threshold_of(array, quantile)


@pytest.fixture
def pair(tmp_path):
    """Two parents in two shards each, and the folder for the result."""
    (tmp_path / "out").mkdir()
    files = [store(tmp_path / name, state(seed, torch.float32, [(4, 4)]), 2) for seed, name in enumerate(NAMES[:2])]
    return files, tmp_path


def fuse(files, folder, method="average", **more):
    return fuse_streamed(parameters(method), NAMES[: len(files)], files, folder / "out", **more)


def test_progress_is_told_by_bytes(pair):
    files, folder = pair
    told = []
    fuse(files, folder, chunk=16, progress=lambda what, done: told.append((what, done)))
    assert told[-1] == ("writing", 1.0) and [done for _, done in told] == sorted(done for _, done in told)
    assert len(told) > 10


@pytest.mark.parametrize(("value", "said"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")])
def test_values_that_are_not_finite_are_named_with_file_and_tensor(pair, value, said):
    files, folder = pair
    broken = state(1, torch.float32, [(4, 4)])
    broken["layers.0.weight"][3, 3] = value
    files[1] = store(folder / "broken", broken, 2)
    with pytest.raises(InputError, match=rf"layers.0.weight of two \(in model-0000\d-of-00002.*\) holds .* {said}"):
        fuse(files, folder, chunk=16)


def test_a_sum_that_overflows_is_no_infinite_weight(tmp_path):
    (tmp_path / "out").mkdir()
    huge = [{"weight": torch.full((4, 1), 1.5e308, dtype=torch.float64), "n": torch.tensor(seed)} for seed in (0, 1)]
    fuse([store(tmp_path / name, one) for name, one in zip(NAMES, huge, strict=False)], tmp_path, "threshold")
    assert loaded(tmp_path / "out")["weight"].tolist() == [[1.5e308]] * 4


def test_what_differs_is_named_with_its_shard(pair):
    files, folder = pair
    other = state(1, torch.float32, [(4, 5)])
    files[1] = store(folder / "other", other, 2)
    with pytest.raises(InputError, match=r"layers.0.weight is 4x4 and 4x5.*one/model-0000\d.*other/model-0000\d"):
        fuse(files, folder)
    files[1] = store(folder / "mixed", state(1, torch.float16, [(4, 4)]))
    with pytest.raises(InputError, match=r"bn.bias is float32 in one and float16 in two.*is in .*and in"):
        fuse(files, folder)


def test_a_truncated_shard_is_named(pair):
    files, folder = pair
    shard = files[1].shards[1]
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(InputError, match=f"{shard.name}.*bytes of data, but"):
        read_weights_file(folder / "two")
    # It was whole when its header was read.
    with pytest.raises(WorldError, match=f"{shard.name} cannot be read.*ends inside"):
        fuse(files, folder)


def test_one_network_twice_is_refused(pair):
    files, folder = pair
    with pytest.raises(InputError, match="two and three have the same weights"):
        fuse([*files, store(folder / "again", loaded(folder / "two"))], folder)
    with pytest.raises(InputError, match="one network cannot be fused"):
        fuse(files[:1], folder)


def test_what_a_method_needs_is_missing_or_does_not_fit(pair):
    files, folder = pair
    with pytest.raises(InputError, match="delta_sum needs the weights"):
        fuse(files, folder, "delta_sum")
    start = state(5, torch.float32, [(4, 4)])
    del start["fc.bias"]
    with pytest.raises(InputError, match=r"fc\.bias is missing in the common start"):
        fuse(files, folder, "delta_sum", start=store(folder / "start", start))
    fisher = store(folder / "fisher", state(5, torch.float32, [(4, 5)]))
    with pytest.raises(InputError, match=r"layers.0.weight is \(4, 5\) in an importance"):
        fuse(files, folder, "quadratic", importance=[fisher, fisher])
    with pytest.raises(InputError, match="there are 2 parents and 1 importances"):
        fuse(files, folder, "quadratic", importance=[fisher])
    with pytest.raises(InputError, match="quadratic needs to know"):
        fuse(files, folder, "quadratic")
    with pytest.raises(InputError, match="fused file by file"):
        fuse_streamed(FUSION["weight_sum"](align="weights"), NAMES[:2], files, folder / "out")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, 2, dtype=torch.complex64), "complex numbers"),
        (torch.zeros(2, 2).to(torch.float8_e4m3fn), "so it is quantised"),
    ],
)
def test_types_that_cannot_be_fused_are_named(tmp_path, tensor, said):
    files = [store(tmp_path / name, {"weight": tensor}) for name in NAMES[:2]]
    with pytest.raises(InputError, match=said):
        fuse(files, tmp_path)


def test_torch_is_not_needed():
    code = "import sys, kzoo.streamed_fusing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Three networks of one architecture that kzoo knows, in three types, one in shards: timm's with batch normalisation."""
    import timm

    folder = tmp_path_factory.mktemp("networks")
    for dtype in TYPES[1:]:
        for number, name in enumerate(NAMES[:3]):
            with torch.random.fork_rng():
                torch.manual_seed(number)
                module = timm.create_model("test_resnet", num_classes=7).to(dtype)
            weights = module.state_dict()
            for key in (key for key in weights if key.endswith("running_var")):
                weights[key] = torch.rand(weights[key].shape).to(dtype) + 0.1
            store(folder / f"{dtype}-{name}".removeprefix("torch."), weights, 2 if name == "one" else 1)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("--variant", "sum"),
        ("--variant", "scaled_delta", "-p", "scale=0.3", "--start", "three"),
        ("--method", "nonessential", "-p", "importance=magnitude"),
        ("--method", "nonessential", "--variant", "threshold", "-p", "importance=distance", "--start", "three"),
    ],
)
def test_a_known_network_has_the_same_files_whether_it_was_in_memory_or_not(
    command, networks, tmp_path, monkeypatch, dtype, arguments
):
    from kzoo import fusing

    sources = [networks / f"{dtype}-{name}" for name in ("one", "two")]
    more = [networks / f"{dtype}-three" if each == "three" else each for each in arguments]
    called = []
    monkeypatch.setattr(fusing, "fuse_streamed", lambda *args, **named: called.append(fuse_streamed(*args, **named)))
    for name in ("streamed", "memory"):
        (tmp_path / name).mkdir()
        code, _, said = command(
            "fuse", *sources, *more, "--network", "timm:test_resnet", "--out", tmp_path / name / "out"
        )
        assert code == 0, said
        monkeypatch.setattr(fusing, "streams", lambda *_: False)
    assert len(called) == 1
    found = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()}
        for name in ("streamed", "memory")
    ]
    assert found[0].keys() == {"README.md", "config.json", "environment.yaml", "model.safetensors", "recipe.yaml"}
    assert found[0] == found[1]

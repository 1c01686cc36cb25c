"""What a transfer must leave in a target, written as plainly as possible; and networks filled with values that show it.

Source values are positive, target values negative, and they differ from tensor to tensor and from entry to entry. So an
entry tells where it comes from: positive ones were carried, negative ones are as they were, zeros are the border.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import timm
import torch
from torch import Tensor, nn

from kzoo.methods.parts import LEARNED, STATISTICS, Part
from kzoo.methods.surgery import Body, PartReport, module_body
from kzoo.methods.transfers import TransferReport, carry_out, make_plan, read_parameters
from kzoo.readers.module import without_weights
from kzoo.zoo import Zoo

#: A prime number of values, so that no axis of a weight is in step with them.
_VALUES = 1_000_003
_PACKED = ("qkv", "in_proj_weight", "to_qkv", "Wqkv")


def unfilled(name: str) -> nn.Module:
    """A timm network on the CPU, its weights in memory that nobody has written to.

    It is built on the meta device: some initialisers read what was drawn, and draw again until it suits them.
    """
    with without_weights():
        module: nn.Module = timm.create_model(name.removeprefix("timm:"))
    # By tensor, so that what two layers share stays one.
    ours: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for key, tensor in tensors.items():
                if tensor is not None:
                    if tensor not in ours:
                        empty = torch.empty_like(tensor, device="cpu")
                        ours[tensor] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
                    tensors[key] = ours[tensor]
    return module


def walk(zoo: Zoo, largest: int, pairs: int, seed: int) -> list[str]:
    """Networks of timm with at most ``largest`` parameters in random order; each is carried into the next one.

    Of every family (timm's modules) one is drawn, then a second one of each, and so on, so that a short walk sees as
    many families as it has steps.
    """
    shuffler = random.Random(seed)
    families: dict[str, list[str]] = {}
    for name, entry in zoo.entries.items():
        if entry.library == "timm" and entry.default.parameters <= largest:
            families.setdefault(entry.family, []).append(name)
    for names in families.values():
        shuffler.shuffle(names)
    drawn: list[str] = []
    while len(drawn) <= pairs:
        left = [names for names in families.values() if names]
        drawn += [names.pop() for names in shuffler.sample(left, min(len(left), pairs + 1 - len(drawn)))]
    return drawn


@cache
def _values(sign: int) -> Tensor:
    """Numbers in [1, 2) in no order, or their negatives; twice the same ones, so that one can start anywhere."""
    values = torch.from_numpy(1 + np.random.default_rng(0).random(_VALUES, dtype=np.float32))
    return torch.cat([values, values]) * sign


@torch.no_grad()
def _write(tensor: Tensor, key: str, sign: int) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.fill_(7 if sign > 0 else 3)
    flat, start = tensor.view(-1), zlib.crc32(key.encode()) % _VALUES
    for part in flat.split(_VALUES):
        part.copy_(_values(sign)[start : start + part.numel()])
    return tensor


def fill(module: nn.Module, sign: int) -> nn.Module:
    """Write the values of a source (``sign`` 1) or of a target (-1) into all of a module's state."""
    for key, tensor in _once(module.state_dict(keep_vars=True)).items():
        if _filled(key, tensor):
            _write(tensor.detach(), key, sign)
    return module


def _filled(key: str, tensor: Tensor) -> bool:
    """Tables of indices keep their values: timm's modules look at them."""
    return tensor.is_floating_point() or key.endswith("num_batches_tracked")


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor under the first of its names."""
    names: dict[int, str] = {}
    return {key: tensor for key, tensor in tensors.items() if names.setdefault(id(tensor), key) == key}


def plan_and_carry(
    source: Body, target: Body, method: str = "dpiat", rehearsal: bool = False, **parameters: object
) -> TransferReport:
    """A transfer between two networks, planned and carried out, or only rehearsed."""
    chosen = read_parameters(method, parameters)
    plan = make_plan(source, target, method, chosen, ("source", "target"))
    return carry_out(plan, source, target, chosen, rehearsal)


def assert_sums(told: TransferReport, target: Body, parameters: int) -> None:
    """A report speaks of every part once, and of every learned entry once."""
    assert [part.target for part in told.parts] == list(target.parts)
    assert sum(part.entries for part in told.parts) == parameters
    for part in told.parts:
        assert part.overwritten == sum(count for count, _ in part.tensors.values()) <= part.entries
        assert part.entries == sum(entries for _, entries in part.tensors.values())
        assert (part.source is None) == (part.overwritten == 0)
    assert told.overwritten == sum(part.overwritten for part in told.parts) / max(1, parameters)


def assert_carried(told: TransferReport, source: Body, module: nn.Module) -> None:
    """Every entry of the target, filled with -1, is what its report and the method say, of a source filled with 1."""
    target = module_body(module)
    assert_sums(told, target, sum(parameter.numel() for parameter in module.parameters()))
    owners: dict[int, tuple[PartReport, str, str]] = {}
    # What parts share is written by the first of them that receives.
    for report in sorted(told.parts, key=lambda part: part.source is None):
        for role, name in target.parts[report.target].tensors.items():
            owners.setdefault(id(target.tensors[name]), (report, role, name))
    for key, tensor in _once(target.tensors).items():
        now = tensor.detach()
        before = _write(torch.empty_like(now), key, -1) if _filled(key, now) else now
        report, role, name = owners.get(id(tensor), (None, "", ""))
        given = None if report is None else _given(told, report, role, source)
        if report is None or given is None:
            written = 0
            assert torch.equal(now, before), key
        elif role == "weight" and report.note.startswith(("positions interpolated", "input channels adapted")):
            # timm's functions made what was carried: it is counted only.
            written = int((now != before).sum())
        else:
            written = int((now > 0).sum())
            assert torch.equal(now, _expected(told, target.parts[report.target], report, role, before, given)), (
                key,
                report,
            )
        if report is not None and role in LEARNED:
            assert report.tensors[name] == (written, now.numel()), (key, report)
        assert not now.is_floating_point() or math.isfinite(now.sum().item()), key


def _is_full_state(told: TransferReport) -> bool:
    return told.method == "dpiat" and told.parameters["variant"] == "full_state"


def _given(told: TransferReport, report: PartReport, role: str, source: Body) -> Tensor | None:
    """The source's tensor for one of a part's, None where nothing is to be carried."""
    if report.source is None or (role in STATISTICS and told.method == "dpiat" and not _is_full_state(told)):
        return None
    key = source.parts[report.source].tensors.get(role)
    return None if key is None else source.tensors[key].detach()


def _expected(told: TransferReport, part: Part, report: PartReport, role: str, before: Tensor, given: Tensor) -> Tensor:
    """What a tensor of the target must be now."""
    assert report.source is not None
    assert report.source_shape is not None
    if not before.ndim:
        return given
    full_state, selecting = _is_full_state(told), told.method == "weight_selection"
    if role == "weight":
        ours, theirs = before.reshape(report.shape), given.reshape(report.source_shape)
    else:
        ours, theirs = before.reshape(-1), given.reshape(-1)
    pieces = 3 if (full_state or selecting) and _is_packed(report) else 1
    output = 1 if role == "weight" and report.kind.startswith("conv_transpose") else 0
    weighted = report.kind.startswith("conv") or report.kind == "linear"
    inputs = (
        [axis for axis in range(ours.ndim) if axis != output] if role == "weight" and weighted and full_state else []
    )
    result = []
    for piece, theirs_piece in zip(ours.chunk(pieces, output), theirs.chunk(pieces, output), strict=True):
        taken, place = _laid(theirs_piece, piece.shape, selecting)
        if any(taken.shape[axis] < piece.shape[axis] for axis in inputs):
            piece.narrow(output, place[output].start, taken.shape[output]).zero_()
        if not part.normalised and any(taken.shape[axis] < theirs.shape[axis] for axis in inputs):
            lost = math.prod(theirs.shape[axis] for axis in inputs) / math.prod(taken.shape[axis] for axis in inputs)
            taken = taken * math.sqrt(lost)
        piece[place] = taken
        result.append(piece)
    return torch.cat(result, output).view(before.shape)


def _is_packed(report: PartReport) -> bool:
    assert report.source is not None
    assert report.source_shape is not None
    sides = ((report.target, report.shape), (report.source, report.source_shape))
    return report.kind == "linear" and all(
        name.split(".")[-1] in _PACKED and shape[0] % 3 == 0 for name, shape in sides
    )


def _laid(theirs: Tensor, ours: Sequence[int], selecting: bool) -> tuple[Tensor, tuple[slice, ...]]:
    """What is taken of a tensor for one of another shape, and where it goes: the centre, or entries at even distances."""
    place = []
    for axis, (size, wanted) in enumerate(zip(tuple(theirs.shape), ours, strict=True)):
        count = min(size, wanted)
        first, start = (0, 0) if selecting else ((wanted - count) // 2, (size - count) // 2)
        indices = [index * size // count if selecting else start + index for index in range(count)]
        if count < size:
            theirs = theirs.index_select(axis, torch.tensor(indices))
        place.append(slice(first, first + count))
    return theirs, tuple(place)

"""DILS, the depth incremental learning strategy (Wang et al., Front. Neurorobot. 17:1337130, 2024): a reconstruction.

Only the abstract of that paper was at hand: a trained network is deepened step by step, and the parameters of the layers
that are inserted are obtained analytically, or by approximating with a network, so that the deeper network inherits what
the shallower one knows. Which layer, which equations and which settings the authors use is not known here. What follows is a
reconstruction from the abstract; its variants are switches, and none of its figures is the paper's.

With H the outputs of a layer (after its activation s) on the training images, a new layer comes either

* ``after`` it, and is to give H back: least squares from H to the inverse of s at H, exact for ReLU, then Gauss-Newton on
  the error itself. No layer of that width comes nearer, so where that is little better than an identity layer would be, the
  old layer's bias is raised until s is linear there (GELU, SiLU and others that are so for large values), and the new layer
  takes it back; or
* ``before`` it: the new layer is fixed (identity, random or truncated SVD), and the old layer's weights are solved anew, so
  that it gives the pre-activations that it gave. That needs no inverse, so it works for any activation.

Sums of products are streamed over batches in float64, convolutions as im2col, with a ridge relative to their trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kzoo.building import seeded
from kzoo.edits import ACTIVATIONS, Edit, InsertedLayer, copied, find_module, insert_edit, layer_inputs, layer_parts
from kzoo.errors import InputError
from kzoo.methods.activations import apply_activation, inverse, linear_from
from kzoo.methods.checking import relative_difference
from kzoo.methods.least_squares import (
    Features,
    layer_outputs,
    padding_of,
    refined,
    set_weights,
    solve_layer,
    target_rows,
)
from kzoo.methods.points import require_inner
from kzoo.methods.preserving import identity_kernel
from kzoo.methods.probing import Output, calls, chain_of, outputs_of, source_of, survey
from kzoo.training.evaluation import place

Where = Literal["after", "before"]
Method = Literal["analytic", "approximation"]
Projection = Literal["identity", "random", "svd"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Features of up to so many bytes are kept, others computed anew.
_HELD_BYTES = 512 << 20
#: An error of which nothing need be made smaller.
_EXACT = 1e-6


@dataclass(frozen=True)
class DilsOptions:
    """How a layer is inserted.

    ``ridge`` is relative to the mean of the Gram matrix's diagonal; 0 takes the solution of least norm.
    ``towards_identity`` lets the ridge pull towards the identity (before a layer, towards its weights) instead of zero, so
    that what the data say nothing about is handed on. ``clamp`` keeps outputs so far from the bounds of a bounded activation
    before they are inverted. ``refinements`` is how many Gauss-Newton steps at most make the error of the activations
    smaller, not that of their inverses. Where more than ``lift`` of an identity layer's error is left, the bias before an
    activation is raised to where that is linear (None: never); that hands everything on, but trains worse, see
    ``pipelines/dils``. ``projection`` is the fixed layer of ``before``, ``width`` its number of outputs
    (None: as many as inputs), ``scale`` that of random weights. ``epochs``, ``lr`` and ``batch`` are the approximation's,
    which starts from what ``start`` says.
    """

    method: Method = "analytic"
    ridge: float = 1e-6
    towards_identity: bool = True
    clamp: float = 1e-3
    refinements: int = 20
    lift: float | None = 0.6
    projection: Projection = "identity"
    width: int | None = None
    scale: float = 1.0
    start: Literal["analytic", "random", "identity"] = "analytic"
    epochs: int = 60
    lr: float = 1e-3
    batch: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Insertion:
    """A network with one more layer.

    ``error`` is the Frobenius norm of the change of the features that had to be kept, as a share of theirs, over the
    calibration images; ``identity_error`` that of a plain identity layer there (None where there is none). ``lifted`` is the
    layer of which the bias was raised, if one was.
    """

    module: nn.Module
    edits: list[Edit]
    name: str
    error: float
    identity_error: float | None
    lifted: str | None = None


def insert(
    module: nn.Module,
    at: str,
    calibration: Tensor,
    where: Where = "after",
    options: DilsOptions | None = None,
    activation: str | None = None,
) -> Insertion:
    """A copy of a network with a new layer after or before the named one (a reconstruction from the abstract, see above).

    ``calibration`` are images ready for the network (N x C x H x W floats). ``activation`` is that of the new layer; by
    default the one behind the named layer. After a layer, that layer's activation is the place; the new layer has the
    shape that hands features on: linear, or a convolution of stride 1.

    Raises:
        InputError: the name is unknown, the place has no activation, or options or images cannot be used.
    """
    options = options or DilsOptions()
    _check(options, where, calibration)
    find_module(module, at)
    work = copied(module)
    images = calibration.to(*place(work))
    # A new layer is drawn before it is solved for; that is nobody's seed.
    with one_thread(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        if where == "before":
            return _insert_before(work, at, images, options, activation)
        return _insert_after(work, at, images, options, activation)


def _check(options: DilsOptions, where: str, calibration: Tensor) -> None:
    for name, value, known in (
        ("where", where, ("after", "before")),
        ("method", options.method, ("analytic", "approximation")),
        ("projection", options.projection, ("identity", "random", "svd")),
        ("start", options.start, ("analytic", "random", "identity")),
    ):
        if value not in known:
            raise InputError(f"{name}={value!r:.80} is not possible: expected one of {', '.join(known)}")
    if not (0 <= options.ridge < math.inf) or not (0 < options.clamp < 0.5):
        raise InputError(
            f"ridge={options.ridge} and clamp={options.clamp} are not possible: expected 0 or more, and 0 to 0.5"
        )
    if options.lift is not None and not options.lift >= 0:
        raise InputError(f"lift={options.lift} is not possible: expected 0 or more, or None for never")
    if not isinstance(calibration, Tensor) or not calibration.is_floating_point() or len(calibration) < 1:
        raise InputError("calibration images are needed: give floats of N x C x H x W, prepared as in training")
    if not torch.isfinite(calibration).all():
        raise InputError("calibration images hold values that are not finite: give others")


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch inside, so that sums have one order and a solve gives the same bytes each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# Features of a network, batch by batch


def features(module: nn.Module, name: str, images: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What a module takes and gives, batch by batch, in evaluation mode, on the CPU: solves are in float64 there."""
    seen: list[tuple[Tensor, Tensor]] = []

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append((args[0].detach().clone(), args[0]))

    def after(_: nn.Module, __: Any, output: Tensor) -> None:
        seen[-1] = (seen[-1][0], output.detach().clone())

    part = module.get_submodule(name)
    handles = [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        for some in torch.split(images, batch):
            outputs_of(module, some)
            given, output = seen.pop()
            seen.clear()
            yield given.cpu(), output.cpu()
    finally:
        for handle in handles:
            handle.remove()


def _held(stream: Features) -> Features:
    """The same, kept in memory where it is small."""
    kept: list[tuple[Tensor, Tensor]] = []
    size = 0
    for given, wanted in stream():
        size += (given.numel() + wanted.numel()) * given.element_size()
        if size > _HELD_BYTES:
            return stream
        kept.append((given, wanted))
    return lambda: iter(kept)


# After a layer


def _insert_after(work: nn.Module, at: str, images: Tensor, options: DilsOptions, wanted: str | None) -> Insertion:
    where = _place_after(work, at, images[:2], wanted)
    point = where.point
    activation = wanted or point.activation or "identity"
    spec = _spec_after(point, where.source, activation)
    stream = _held(partial(_outputs, work, point.name, images, options.batch))
    layer, plain = _new_layer(spec, work), _new_layer(spec, work)
    set_weights(plain, _identity(plain), torch.zeros(layer_outputs(plain)))
    if options.method == "analytic" or options.start == "analytic":
        _solve_after(layer, activation, stream, options)
    elif options.start == "identity":
        layer.load_state_dict(plain.state_dict())
    if options.method == "approximation":
        _approximate(layer, activation, stream, options)
    error, identity_error = _error(layer, activation, stream), _error(plain, activation, stream)
    edit: Edit = {"edit": "insert", "after": point.name, "layer": spec}
    found = _inserted(copied(work), edit, layer, error, identity_error)
    if options.method == "analytic" and options.lift is not None and error > max(options.lift * identity_error, _EXACT):
        lifted = _lifted(work, found, where, plain, stream, images, options)
        return found if lifted is None else lifted
    return found


def _inserted(
    work: nn.Module, edit: Edit, layer: nn.Module, error: float, identity_error: float, lifted: str | None = None
) -> Insertion:
    name = str(insert_edit(work, edit))
    _fill(work, name, layer)
    return Insertion(work, [edit], name, error, identity_error, lifted)


def _lifted(
    work: nn.Module,
    plain: Insertion,
    where: _Place,
    layer: nn.Module,
    wanted: Features,
    images: Tensor,
    options: DilsOptions,
) -> Insertion | None:
    """The insertion with the old activation moved to its linear side; None where that cannot be, or is no better.

    ``layer`` is an identity layer, of which the bias becomes what takes the shift back.
    """
    activation = plain.edits[0]["layer"]["activation"]
    point, before = where.point, where.before
    start = linear_from(activation) if activation == point.activation else None
    bias = None if before is None else getattr(before.module, "bias", None)
    if before is None or before.count != 1 or start is None:
        return None
    if not isinstance(bias, Tensor) or len(bias) != layer_outputs(layer):
        return None
    lowest = torch.full((len(bias),), math.inf, dtype=torch.float64)
    for _, output in features(work, before.name, images, options.batch):
        lowest = torch.minimum(lowest, target_rows(layer, output).min(0).values)
    shift = (start - lowest).clamp(min=0)
    network = copied(work)
    raised = network.get_submodule(before.name).bias
    assert isinstance(raised, Tensor) and isinstance(layer.bias, Tensor)
    raised += shift.to(raised)
    layer.bias.copy_(-shift)
    now = _held(partial(_outputs, network, point.name, images, options.batch))

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for (given, _), (_, goal) in zip(now(), wanted(), strict=True):
            yield given, goal

    error = _error(layer, activation, stream)
    found = _inserted(network, plain.edits[0], layer, error, plain.identity_error or 0.0, before.name)
    # Something else may take what comes before the activation.
    some = images[: options.batch]
    outputs = outputs_of(work, some)
    changed, unlifted = (relative_difference(outputs, outputs_of(one.module, some)) for one in (found, plain))
    return found if error < plain.error and changed <= unlifted else None


@dataclass(frozen=True)
class _Place:
    """The module whose outputs a new layer takes, the layer that they come from, and the module right before, if there is one."""

    point: Output
    source: Output
    before: Output | None


def _place_after(work: nn.Module, at: str, probe: Tensor, wanted: str | None) -> _Place:
    found = survey(work, probe)
    chain = chain_of(at, found)
    point = chain[0]
    for number, output in enumerate(chain):
        if number and isinstance(output.module, (nn.Linear, *_CONVOLUTIONS)):
            break
        point = output
        if output.activation is not None:
            break
    require_inner(point, found)
    if point.activation is None and wanted is None:
        raise InputError(
            f"no activation comes right behind {at}: name a layer that has one (in a transformer its block's mlp.fc1), or give "
            "activation"
        )
    if point.activation is None:
        point = chain[0]
    if point.count != 1:
        raise InputError(f"{point.name} is run {point.count} times in one pass: name another layer")
    source = source_of(point, found)
    if source is None:
        raise InputError(f"no linear layer or convolution comes before {point.name}: name another layer")
    return _Place(point, source, next((one for one in found if one.tensor == point.taken), None))


def _spec_after(point: Output, source: Output, activation: str) -> Edit:
    part = source.module
    if isinstance(part, _CONVOLUTIONS):
        axes, channels = len(part.kernel_size), point.shape[1]
        kernel = part.kernel_size[0] if len(set(part.kernel_size)) == 1 and part.kernel_size[0] % 2 else 3
        # More than 3 x 3 would be thousands of unknowns for each output; on single positions only the middle counts.
        kernel = 1 if math.prod(point.shape[2:]) == 1 else min(kernel, 3)
        layer: Edit = {"kind": f"conv{axes}d", "inputs": channels, "outputs": channels, "kernel": kernel}
        if part.groups == part.in_channels and part.groups > 1:
            layer["groups"] = channels
    else:
        layer = {"kind": "linear", "inputs": point.shape[-1], "outputs": point.shape[-1]}
    return layer | {"bias": True, "activation": activation}


def _new_layer(spec: Mapping[str, Any], like: nn.Module) -> nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d:
    with seeded(0):
        layer = layer_parts(spec)["layer"].to(dtype=place(like)[1])
    assert isinstance(layer, (nn.Linear, *_CONVOLUTIONS))
    return layer


def _identity(layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Linear):
        return torch.eye(layer.out_features, layer.in_features, dtype=torch.float64)
    assert isinstance(layer, _CONVOLUTIONS)
    return identity_kernel(layer).double()


def _outputs(module: nn.Module, name: str, images: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The features that a layer behind a module takes, and that it is to give: the same."""
    for _, output in features(module, name, images, batch):
        yield output, output


def _solve_after(layer: nn.Module, activation: str, stream: Features, options: DilsOptions) -> None:
    """Least squares from features to what the activation makes them of; then Gauss-Newton, where that can help."""
    towards = _identity(layer).flatten(1) if options.towards_identity else None
    solution = solve_layer(
        layer, stream, lambda wanted: inverse(activation, wanted, options.clamp), options.ridge, towards
    )
    if activation not in ("identity", "relu", "relu6") and getattr(layer, "groups", 1) == 1:
        for _ in range(options.refinements):
            better = refined(layer, activation, stream, solution, options.ridge)
            if better is None:
                break
            solution = better
    set_weights(layer, *solution)


def _error(layer: nn.Module, activation: str, stream: Features) -> float:
    """The Frobenius norm of what a layer misses, as a share of what it was to give."""
    missed = total = 0.0
    for given, wanted in stream():
        missed += float((apply_activation(activation, layer(given)).double() - wanted.double()).square().sum())
        total += float(wanted.double().square().sum())
    return math.sqrt(missed / total) if total else math.sqrt(missed)


def _approximate(layer: nn.Module, activation: str, stream: Features, options: DilsOptions) -> None:
    """Network approximation: Adam on the mean squared error of the layer's outputs, everything else fixed.

    Batches are streamed in an order that the seed decides; the best epoch's weights are kept, the start's among them.
    """
    batches = [(given, wanted) for given, wanted in stream()]
    best, kept = _error(layer, activation, stream), {k: v.clone() for k, v in layer.state_dict().items()}
    optimizer = torch.optim.Adam(layer.parameters(), lr=options.lr)
    generator = torch.Generator().manual_seed(options.seed)
    given, wanted = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for epoch in range(options.epochs):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))
        for some in torch.split(torch.randperm(len(given), generator=generator), options.batch):
            with torch.enable_grad():
                loss = nn.functional.mse_loss(apply_activation(activation, layer(given[some])), wanted[some])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        error = _error(layer, activation, stream)
        if error < best:
            best, kept = error, {k: v.clone() for k, v in layer.state_dict().items()}
    layer.load_state_dict(kept)


def _fill(work: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a solved layer where the edit put a fresh one."""
    there = work.get_submodule(name)
    parts = list(there.children()) if isinstance(there, InsertedLayer) else [there]
    parts[0].to(place(work)[0], place(layer)[1])
    parts[0].load_state_dict(layer.state_dict())


# Before a layer


def _insert_before(work: nn.Module, at: str, images: Tensor, options: DilsOptions, wanted: str | None) -> Insertion:
    old = find_module(work, at)
    inputs = layer_inputs(old)
    if inputs is None:
        raise InputError(
            f"{at} is a {type(old).__name__}: a layer can come before a linear layer or a convolution only"
        )
    if (count := calls(work, [at], images[:2])[at].count) != 1:
        raise InputError(f"{at} is run {count} times in one pass, so that it cannot be solved anew: name another layer")
    owners = [name for name, part in work.named_modules() for value in part._parameters.values() if value is old.weight]
    if len(owners) > 1:
        raise InputError(
            f"the weight of {at} is tied to that of {owners[owners[0] == at]}, so that it cannot be solved anew: name another layer"
        )
    activation = wanted or _activation_near(work, at, images[:2])
    if activation not in ACTIVATIONS:
        raise InputError(f"activation {activation!r:.80} is not possible: expected one of {', '.join(ACTIVATIONS)}")
    width = options.width or inputs
    kind = "linear" if isinstance(old, nn.Linear) else f"conv{len(old.kernel_size)}d"  # type: ignore[arg-type]
    spec: Edit = {"kind": kind, "inputs": inputs, "outputs": width}
    spec |= ({} if kind == "linear" else {"kernel": 1}) | {"bias": True, "activation": activation}
    edit: Edit = {"edit": "insert", "before": at, "layer": spec}
    if getattr(old, "bias", None) is None:
        # Without an intercept a shift of the new layer's outputs could not be undone.
        edit["bias"] = True
    stream = _held(partial(features, copied(work), at, images, options.batch))
    # Zeros that a convolution puts around a map stay zeros where the rest is shifted: try both.
    padded = isinstance(old, _CONVOLUTIONS) and any(map(any, padding_of(old)))
    tried = [_new_layer(spec, work) for _ in range(2 if padded else 1)]
    for new, shifted in zip(tried, (True, False), strict=False):
        _project(new, old, activation, stream, options, shifted)
    name = str(insert_edit(work, edit))
    solved = [_solve_before(old, new, activation, stream, options) for new in tried]
    best = min(range(len(solved)), key=lambda number: solved[number][1])
    _fill(work, name, tried[best])
    old.load_state_dict(solved[best][0].state_dict())
    return Insertion(work, [edit], name, solved[best][1], None)


def _activation_near(work: nn.Module, at: str, probe: Tensor) -> str:
    """The activation behind a layer; else the first one in the network; else ReLU."""
    found = survey(work, probe)
    known = [output.activation for output in [*chain_of(at, found), *found] if output.activation is not None]
    return known[0] if known else "relu"


def _project(
    new: nn.Module, old: nn.Module, activation: str, stream: Features, options: DilsOptions, shifted: bool
) -> None:
    """The fixed new layer: identity, random or the leading directions of the old weight, shifted to where the activation is linear."""
    assert isinstance(new, (nn.Linear, *_CONVOLUTIONS))
    inputs, width = new.weight.shape[1], layer_outputs(new)
    if options.projection == "svd":
        flat = old.weight.movedim(1, -1).reshape(-1, inputs) if isinstance(old, _CONVOLUTIONS) else old.weight
        directions = torch.linalg.svd(flat.double().cpu(), full_matrices=True).Vh[:width]
        weight = nn.functional.pad(directions, (0, 0, 0, max(width - len(directions), 0)))
        if width > len(directions):
            weight[len(directions) :] = _random(width - len(directions), inputs, options)
    elif options.projection == "random" or width != inputs:
        weight = _random(width, inputs, options)
    else:
        weight = torch.eye(inputs, dtype=torch.float64)
    bias = torch.zeros(width, dtype=torch.float64)
    if options.projection == "random" or width != inputs:
        generator = torch.Generator().manual_seed(options.seed + 1)
        bias = torch.randn(width, generator=generator, dtype=torch.float64) * options.scale * 0.1
    elif shifted and (start := 0.0 if activation in ("relu", "relu6") else linear_from(activation)) is not None:
        lowest = torch.full((width,), math.inf, dtype=torch.float64)
        for given, _ in stream():
            rows = _pixels(new, given).double() @ weight.T
            lowest = torch.minimum(lowest, rows.min(0).values)
        bias = (start - lowest).clamp(min=0)
    set_weights(new, weight, bias)


def _random(outputs: int, inputs: int, options: DilsOptions) -> Tensor:
    generator = torch.Generator().manual_seed(options.seed)
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) * options.scale / math.sqrt(inputs)


def _pixels(new: nn.Module, given: Tensor) -> Tensor:
    return given.reshape(-1, given.shape[-1]) if isinstance(new, nn.Linear) else given.movedim(1, -1).flatten(0, -2)


def _solve_before(
    old: nn.Module, new: nn.Module, activation: str, stream: Features, options: DilsOptions
) -> tuple[nn.Module, float]:
    """The old layer with weights solved anew, for what the new layer gives it, and the error of its outputs."""
    assert isinstance(old, (nn.Linear, *_CONVOLUTIONS))

    def passed() -> Iterator[tuple[Tensor, Tensor]]:
        for given, wanted in stream():
            yield apply_activation(activation, new(given)), wanted

    groups = getattr(old, "groups", 1)
    same = old.weight.shape[1] * groups == layer_inputs(new)
    towards = old.weight.flatten(1) if same and options.towards_identity and options.projection == "identity" else None
    solved = copied(old).cpu()
    set_weights(
        solved, *solve_layer(solved, passed, lambda one: one, options.ridge, None if towards is None else towards.cpu())
    )
    return solved, _error(solved, "identity", passed)

"""DILS, the depth incremental learning strategy (Wang et al., Front. Neurorobot. 17:1337130, 2024): a reconstruction.

Only the abstract of that paper was at hand: a trained network is deepened step by step, and the parameters of the layers
that are inserted are obtained analytically, or by approximating with a network, so that the deeper network inherits what
the shallower one knows. Which layer, which equations and which settings the authors use is not known here. What follows is a
reconstruction from the abstract; its variants are switches, and none of its figures is the paper's.

With H the outputs of a layer (after its activation s) on the training images, a new layer comes either

* ``after`` it, and is to give H back: least squares from H to the inverse of s at H, exact for ReLU; or
* ``before`` it: the new layer is fixed (identity, random or truncated SVD), and the old layer's weights are solved anew, so
  that it gives the pre-activations that it gave. That needs no inverse, so it works for any activation.

Sums of products are streamed over batches in float64, convolutions as im2col, with a ridge relative to their trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kzoo.building import seeded
from kzoo.edits import ACTIVATIONS, Edit, InsertedLayer, copied, find_module, insert_edit, layer_inputs, layer_parts
from kzoo.errors import InputError
from kzoo.methods.preserving import identity_kernel
from kzoo.methods.probing import Output, chain_of, outputs_of, source_of, survey
from kzoo.training.evaluation import place

Where = Literal["after", "before"]
Method = Literal["analytic", "approximation"]
Projection = Literal["identity", "random", "svd"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MOST_UNKNOWNS = 20_000
#: Rows of a matrix of patches that are held at a time; features of up to so many bytes are kept, others computed anew.
_ROWS, _HELD_BYTES = 16_384, 512 << 20
#: Bisection halves an interval of 100 so often.
_HALVINGS = 60
# Where the activations that first fall and then rise are lowest: to the right of it they have an inverse.
_LOWEST = {"gelu": -0.7517915, "gelu_tanh": -0.7524614, "silu": -1.2784645, "mish": -1.1924320, "hardswish": -1.5}


@dataclass(frozen=True)
class DilsOptions:
    """How a layer is inserted.

    ``ridge`` is relative to the mean of the Gram matrix's diagonal; 0 takes the solution of least norm.
    ``towards_identity`` lets the ridge pull towards the identity (before a layer, towards its weights) instead of zero, so
    that what the data say nothing about is handed on. ``clamp`` keeps outputs so far from the bounds of a bounded activation
    before they are inverted. ``refinements`` is how many Gauss-Newton steps at most make the error of the activations
    smaller, not that of their inverses. ``projection`` is the fixed layer of ``before``, ``width`` its number of outputs
    (None: as many as inputs), ``scale`` that of random weights. ``epochs``, ``lr`` and ``batch`` are the approximation's,
    which starts from what ``start`` says.
    """

    method: Method = "analytic"
    ridge: float = 1e-6
    towards_identity: bool = True
    clamp: float = 1e-3
    refinements: int = 20
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
    calibration images; ``identity_error`` that of a plain identity layer there (None where there is none).
    """

    module: nn.Module
    edits: list[Edit]
    name: str
    error: float
    identity_error: float | None


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
    with one_thread(), torch.no_grad():
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


# Least squares from sums


class Sums:
    """What least squares with an intercept needs of rows X and targets T, streamed: counts, means, centred products."""

    def __init__(self, inputs: int, outputs: int) -> None:
        if inputs > _MOST_UNKNOWNS:
            raise InputError(
                f"a layer of {inputs:,} inputs is too large to solve for: expected {_MOST_UNKNOWNS:,} at most; give a smaller kernel, or "
                "method='approximation' with start='identity'"
            )
        self.count = 0
        self.mean, self.target_mean = (torch.zeros(size, dtype=torch.float64) for size in (inputs, outputs))
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64)

    def add(self, rows: Tensor, targets: Tensor) -> None:
        """Rows (n x inputs) and what is wanted of them (n x outputs)."""
        rows, targets = rows.double().cpu(), targets.double().cpu()
        count, total = len(rows), self.count + len(rows)
        mean, target_mean = rows.mean(0), targets.mean(0)
        centred, share = rows - mean, self.count * count / total
        # Two samples' products about their common mean (Chan et al.): no large numbers are subtracted.
        off, target_off = mean - self.mean, target_mean - self.target_mean
        self.gram += centred.T @ centred + share * torch.outer(off, off)
        self.cross += centred.T @ (targets - target_mean) + share * torch.outer(off, target_off)
        self.mean += off * (count / total)
        self.target_mean += target_off * (count / total)
        self.count = total

    def solve(self, ridge: float, towards: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weight (outputs x inputs) and bias that map rows to targets best.

        ``ridge`` times the mean of the Gram matrix's diagonal is what deviations from ``towards`` (zero) cost; with 0 it is the
        solution of least deviation. Directions in which the rows do not vary keep ``towards``.
        """
        base = torch.zeros_like(self.cross.T) if towards is None else towards.double()
        wanted = self.cross - self.gram @ base.T
        size = float(self.gram.diagonal().mean())
        if not size > 0:
            change = torch.zeros_like(wanted)
        elif ridge > 0:
            damped = self.gram + ridge * size * torch.eye(len(self.gram), dtype=torch.float64)
            factor, failed = torch.linalg.cholesky_ex(damped)
            change = self._truncated(wanted, ridge * size) if failed else torch.cholesky_solve(wanted, factor)
        else:
            change = self._truncated(wanted, 0.0)
        weight = base + change.T
        return weight, self.target_mean - weight @ self.mean

    def _truncated(self, wanted: Tensor, ridge: float) -> Tensor:
        values, vectors = torch.linalg.eigh(self.gram)
        kept = values > values.max() * len(values) * torch.finfo(torch.float64).eps
        inverse = torch.where(kept, 1 / torch.where(kept, values + ridge, 1.0), 0.0)
        found: Tensor = vectors @ (inverse[:, None] * (vectors.T @ wanted))
        return found


# Activations


def apply_activation(name: str, values: Tensor) -> Tensor:
    """The activation of that name (see `kzoo.edits.ACTIVATIONS`) at every value."""
    found: Tensor = ACTIVATIONS[name]()(values)
    return found


def inverse(name: str, outputs: Tensor, clamp: float) -> Tensor:
    """Pre-activations that give ``outputs``, as nearly as there are any; always finite.

    ReLU takes its outputs for its inputs. Bounded activations are clamped ``clamp`` away from their bounds. Those that first
    fall and then rise (GELU, SiLU, ...) are inverted where they rise.
    """
    outputs = outputs.double()
    if name in ("identity", "relu", "relu6"):
        return outputs
    if name == "sigmoid":
        return torch.logit(outputs.clamp(clamp, 1 - clamp))
    if name == "tanh":
        return torch.atanh(outputs.clamp(-1 + clamp, 1 - clamp))
    if name == "leaky_relu":
        slope = nn.LeakyReLU().negative_slope
        return torch.where(outputs < 0, outputs / slope, outputs)
    if name == "elu":
        return torch.where(outputs < 0, torch.log1p(outputs.clamp(min=-1 + clamp)), outputs)
    if name == "softplus":
        low = outputs.clamp(min=clamp)
        return low + torch.log(-torch.expm1(-low))
    return _bisected(name, outputs)


def _bisected(name: str, outputs: Tensor) -> Tensor:
    low = torch.full_like(outputs, _LOWEST[name])
    high = outputs.abs() + 3.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = apply_activation(name, middle) > outputs
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def slope(name: str, values: Tensor) -> Tensor:
    """The derivative of an activation at every value."""
    with torch.enable_grad():
        leaf = values.detach().double().requires_grad_()
        (found,) = torch.autograd.grad(apply_activation(name, leaf).sum(), leaf)
    return found


# Rows of layers


def rows_of(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer's weights are multiplied with, one row for each of its outputs: features, or patches (im2col).

    Of a convolution a row has in_channels x kernel entries, whatever its groups.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(layer, _CONVOLUTIONS)
    axes = len(layer.kernel_size)
    padding = [width for size in reversed(_padding(layer)) for width in (size, size)]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    patches = nn.functional.pad(inputs, padding, mode)
    for axis, (size, step, gap) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        patches = patches.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
    # N x C x positions x kernel -> rows of C x kernel
    order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    return patches.permute(order).reshape(-1, layer.in_channels * math.prod(layer.kernel_size))


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return (0,) * len(layer.kernel_size)
        return tuple((size - 1) * gap // 2 for size, gap in zip(layer.kernel_size, layer.dilation, strict=True))
    return tuple(layer.padding)


def _targets(layer: nn.Module, outputs: Tensor) -> Tensor:
    """A layer's outputs as rows, in the order of `rows_of`."""
    if isinstance(layer, nn.Linear):
        return outputs.reshape(-1, outputs.shape[-1])
    return outputs.movedim(1, -1).reshape(-1, outputs.shape[1])


def _set(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    assert isinstance(layer, (nn.Linear, *_CONVOLUTIONS)) and layer.bias is not None
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    layer.bias.copy_(bias)


# Features of a network, batch by batch

Features = Callable[[], Iterator[tuple[Tensor, Tensor]]]


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
    point, source = _place_after(work, at, images[:2], wanted)
    activation = wanted or point.activation or "identity"
    spec = _spec_after(point, source, activation)
    edit: Edit = {"edit": "insert", "after": point.name, "layer": spec}
    stream = _held(partial(_outputs, work, point.name, images, options.batch))
    layer = _new_layer(spec, work)
    if options.method == "analytic" or options.start == "analytic":
        _solve_after(layer, activation, stream, options)
    elif options.start == "identity":
        _set(layer, _identity(layer), torch.zeros(layer_outputs(layer)))
    if options.method == "approximation":
        _approximate(layer, activation, stream, options)
    error = _error(layer, activation, stream)
    plain = _new_layer(spec, work)
    _set(plain, _identity(plain), torch.zeros(layer_outputs(plain)))
    identity_error = _error(plain, activation, stream)
    name = str(insert_edit(work, edit))
    _fill(work, name, layer)
    return Insertion(work, [edit], name, error, identity_error)


def _place_after(work: nn.Module, at: str, probe: Tensor, wanted: str | None) -> tuple[Output, Output]:
    """The module whose outputs the new layer takes, and the layer that they come from."""
    found = survey(work, probe)
    chain = chain_of(at, found)
    point = chain[0]
    for number, output in enumerate(chain):
        if number and isinstance(output.module, (nn.Linear, *_CONVOLUTIONS)):
            break
        point = output
        if output.activation is not None:
            break
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
    return point, source


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


def layer_outputs(layer: nn.Module) -> int:
    """How many features or channels a linear layer or a convolution gives."""
    return layer.out_features if isinstance(layer, nn.Linear) else int(layer.out_channels)  # type: ignore[arg-type]


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
    """Least squares from features to what the activation makes them of; grouped convolutions group by group."""
    groups = getattr(layer, "groups", 1)
    towards = _identity(layer).flatten(1) if options.towards_identity else None
    solution = _solve(
        layer, groups, stream, lambda wanted: inverse(activation, wanted, options.clamp), options, towards
    )
    if activation not in ("identity", "relu", "relu6") and groups == 1:
        for _ in range(options.refinements):
            refined = _refined(layer, activation, stream, solution, options)
            if refined is None:
                break
            solution = refined
    _set(layer, *solution)


def _solve(
    layer: nn.Module,
    groups: int,
    stream: Features,
    target: Callable[[Tensor], Tensor],
    options: DilsOptions,
    towards: Tensor | None,
) -> tuple[Tensor, Tensor]:
    outputs = layer_outputs(layer) // groups
    sums: list[Sums] = []
    for given, wanted in stream():
        rows = rows_of(layer, given)
        targets = target(_targets(layer, wanted))
        size = rows.shape[1] // groups
        sums = sums or [Sums(size, outputs) for _ in range(groups)]
        for first in range(0, len(rows), _ROWS):
            part, goal = rows[first : first + _ROWS], targets[first : first + _ROWS]
            for group, one in enumerate(sums):
                one.add(part[:, group * size : (group + 1) * size], goal[:, group * outputs : (group + 1) * outputs])
    solved = [
        one.solve(options.ridge, None if towards is None else towards[group * outputs : (group + 1) * outputs])
        for group, one in enumerate(sums)
    ]
    return torch.cat([weight for weight, _ in solved]), torch.cat([bias for _, bias in solved])


#: A Gram matrix for each output takes outputs x inputs^2 products per row: rows are left out where it would be more.
_MOST_PRODUCTS = 2e9
#: So many times as many rows as unknowns are needed for that.
_FEWEST_ROWS = 4
#: A step that makes the error smaller by less is the last.
_WORTH = 0.99


def _refined(
    layer: nn.Module, activation: str, stream: Features, solution: tuple[Tensor, Tensor], options: DilsOptions
) -> tuple[Tensor, Tensor] | None:
    """One Gauss-Newton step from a solution, which makes the error of the activations smaller, not of their inverses.

    None where it would be too much work, or makes nothing better.
    """
    weight, bias = solution
    outputs, inputs = weight.shape
    count = sum(len(_targets(layer, wanted)) for _, wanted in stream())
    every = math.ceil(count * outputs * (inputs + 1) ** 2 / _MOST_PRODUCTS)
    if every > 1 and count // every < _FEWEST_ROWS * inputs:
        return None
    gram = torch.zeros(outputs, inputs + 1, inputs + 1, dtype=torch.float64)
    cross = torch.zeros(outputs, inputs + 1, dtype=torch.float64)
    for given, wanted in stream():
        rows = nn.functional.pad(rows_of(layer, given)[::every].double(), (0, 1), value=1.0)
        before = rows[:, :-1] @ weight.T + bias
        slopes = slope(activation, before)
        rest = _targets(layer, wanted)[::every].double() - apply_activation(activation, before)
        cross += (slopes * rest).T @ rows
        for output in range(outputs):
            scaled = rows * slopes[:, output, None]
            gram[output] += scaled.T @ scaled
    size = gram.diagonal(dim1=1, dim2=2).mean(1)
    damping = (options.ridge + 1e-9) * size + torch.finfo(torch.float64).tiny
    change = torch.linalg.solve(gram + damping[:, None, None] * torch.eye(inputs + 1, dtype=torch.float64), cross)
    return _best_step(layer, activation, stream, solution, change)


def _best_step(
    layer: nn.Module, activation: str, stream: Features, solution: tuple[Tensor, Tensor], change: Tensor
) -> tuple[Tensor, Tensor] | None:
    """As much of a step as makes the error smallest, of a few shares of it; None if none does."""
    weight, bias = solution
    if not torch.isfinite(change).all():
        return None
    tried = [(weight + share * change[:, :-1], bias + share * change[:, -1]) for share in (0.0, 0.25, 0.5, 1.0)]
    errors = [_error_of(layer, one, activation, stream) for one in tried]
    best = min(range(len(tried)), key=errors.__getitem__)
    return tried[best] if errors[best] < _WORTH * errors[0] else None


def _error_of(layer: nn.Module, solution: tuple[Tensor, Tensor], activation: str, stream: Features) -> float:
    weight, bias = solution
    missed = total = 0.0
    for given, wanted in stream():
        goal = _targets(layer, wanted).double()
        found = apply_activation(activation, rows_of(layer, given).double() @ weight.T + bias)
        missed += float((found - goal).square().sum())
        total += float(goal.square().sum())
    return math.sqrt(missed / total) if total else math.sqrt(missed)


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
    new = _new_layer(spec, work)
    _project(new, old, activation, stream, options)
    name = str(insert_edit(work, edit))
    _fill(work, name, new)
    error = _solve_before(old, new, activation, stream, options)
    return Insertion(work, [edit], name, error, None)


def _activation_near(work: nn.Module, at: str, probe: Tensor) -> str:
    """The activation behind a layer; else the first one in the network; else ReLU."""
    found = survey(work, probe)
    known = [output.activation for output in [*chain_of(at, found), *found] if output.activation is not None]
    return known[0] if known else "relu"


def _project(new: nn.Module, old: nn.Module, activation: str, stream: Features, options: DilsOptions) -> None:
    """The fixed new layer: identity, random or the leading directions of the old weight; ReLU is shifted to its linear side."""
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
    elif activation in ("relu", "relu6"):
        lowest = torch.full((width,), math.inf, dtype=torch.float64)
        for given, _ in stream():
            rows = _pixels(new, given).double() @ weight.T
            lowest = torch.minimum(lowest, rows.min(0).values)
        bias = (-lowest).clamp(min=0)
    _set(new, weight, bias)


def _random(outputs: int, inputs: int, options: DilsOptions) -> Tensor:
    generator = torch.Generator().manual_seed(options.seed)
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) * options.scale / math.sqrt(inputs)


def _pixels(new: nn.Module, given: Tensor) -> Tensor:
    return given.reshape(-1, given.shape[-1]) if isinstance(new, nn.Linear) else given.movedim(1, -1).flatten(0, -2)


def _solve_before(old: nn.Module, new: nn.Module, activation: str, stream: Features, options: DilsOptions) -> float:
    """Solve the old layer's weights anew, for what the new layer gives it; the error of its outputs."""
    assert isinstance(old, (nn.Linear, *_CONVOLUTIONS))

    def passed() -> Iterator[tuple[Tensor, Tensor]]:
        for given, wanted in stream():
            yield apply_activation(activation, new(given)), wanted

    groups = getattr(old, "groups", 1)
    same = old.weight.shape[1] * groups == layer_inputs(new)
    towards = old.weight.flatten(1) if same and options.towards_identity and options.projection == "identity" else None
    solved = copied(old).cpu()
    _set(solved, *_solve(solved, groups, passed, lambda one: one, options, None if towards is None else towards.cpu()))
    old.load_state_dict(solved.state_dict())
    return _error(solved, "identity", passed)

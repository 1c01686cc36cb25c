"""How important each weight is to what a network knows.

The Fisher information is exact: an expectation over labels by the network's own probabilities, of squared gradients of
single examples. The square of a batch's mean gradient is something else, and much smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from kzoo.errors import InputError
from kzoo.graph.program import first_names
from kzoo.training.evaluation import evaluation_mode, place

State = Mapping[str, Tensor]


def fisher(module: nn.Module, images: Tensor, *, chunk: int = 16) -> dict[str, Tensor]:
    """The diagonal of the Fisher information: for each parameter w, the mean over images of sum_c p(c) (d log p(c) / dw)^2.

    ``images`` are N x C x H x W, ready for the network, which is in evaluation mode meanwhile; ``chunk`` of them are worked
    on at once, with a gradient of each in memory. The result is float64, with the names and shapes of the parameters; a
    parameter that has several names has it under each.

    Raises:
        InputError: there are no images, the network gives no N x classes, or the result is not finite.
    """
    if not len(images):
        raise InputError("there are no images to measure importance on: expected one or more")
    device, dtype = place(module)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    buffers = {name: buffer.detach() for name, buffer in module.named_buffers()}
    first, places = first_names(module), _places(module)
    totals = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in parameters.items()}

    def log_probability(given: Mapping[str, Tensor], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        tensors = {**given, **buffers}
        named = {name: tensors[first[name]] for name in places}
        outputs = functional_call(module, named, (image[None],), tie_weights=False)
        found = outputs.double().log_softmax(-1)[0].index_select(0, label[None])[0]
        return found, found.detach()

    gradients = vmap(grad(log_probability, has_aux=True), in_dims=(None, 0, None), randomness="same")
    # The fused kernels of attention have no rule for vmap.
    with evaluation_mode(module), sdpa_kernel(SDPBackend.MATH):
        classes = _classes(module, images[:1].to(device, dtype))
        for some in torch.split(images, chunk):
            _add(totals, gradients, parameters, some.to(device, dtype), classes)
    found = {name: total / len(images) for name, total in totals.items()}
    if any(not torch.isfinite(one).all() for one in found.values()):
        raise InputError(
            "the importance of the weights is not finite: expected finite weights and images; look for NaN"
        )
    return {name: found[first[name]] for name, _ in module.named_parameters(remove_duplicate=False)}


def _places(module: nn.Module) -> list[str]:
    """Each place in a network that holds a tensor, by one name: torch would put none back where it has filled two."""
    return [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        for name, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    ]


def _add(
    totals: Mapping[str, Tensor],
    gradients: Callable[..., tuple[State, Tensor]],
    given: State,
    images: Tensor,
    classes: int,
) -> None:
    for label in range(classes):
        found, logs = gradients(given, images, torch.tensor(label, device=images.device))
        for name, gradient in found.items():
            shares = logs.exp().reshape(-1, *[1] * (gradient.ndim - 1))
            totals[name].add_((gradient.double().square() * shares).sum(0))


@torch.no_grad()
def _classes(module: nn.Module, image: Tensor) -> int:
    outputs = module(image)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise InputError("the network does not give one row of outputs for each image: expected a classifier")
    return int(outputs.shape[1])


def magnitude(state: State) -> dict[str, Tensor]:
    """The size of each weight, |w|: needs no data."""
    return {name: tensor.double().abs() for name, tensor in state.items() if tensor.is_floating_point()}


def distance(state: State, start: State) -> dict[str, Tensor]:
    """How far each weight came from where it started, |w - w0|: needs no data."""
    return {
        name: (tensor.double() - start[name].double()).abs()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def saliency(state: State, information: State) -> dict[str, Tensor]:
    """What leaving a weight out would cost, F w^2 (optimal brain damage), of the Fisher information F."""
    return {name: found.double() * state[name].double().square() for name, found in information.items()}

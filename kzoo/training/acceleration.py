"""Hugging Face accelerate for one training at a time: the device, several processes, mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from kzoo.errors import InputError

_MIXED = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}
#: What accelerate leaves on a module.
_TRACES = ("forward", "_original_forward", "_is_accelerate_prepared")


@contextmanager
def accelerated(precision: str) -> Iterator[Accelerator]:
    """An accelerator of its own for the block; accelerate's global state is afterwards as it was.

    Without this, the first training of a process would decide the precision of all others.

    Raises:
        InputError: fp16 is asked for on a device without it.
    """
    shared = [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]
    kept = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        accelerator = Accelerator(mixed_precision=_MIXED[precision])
        if precision == "fp16" and accelerator.scaler is None:
            raise InputError(f"training setting precision='fp16' needs a GPU, not {accelerator.device}: use bf16")
        yield accelerator
    finally:
        for state, before in zip(shared, kept, strict=True):
            state.clear()
            state.update(before)


@contextmanager
def prepared(module: nn.Module, accelerator: Accelerator) -> Iterator[nn.Module]:
    """The module as accelerate runs it: on the device, in mixed precision, over several processes.

    It is the same module, and afterwards as it was, but for where it is.
    """
    kept = {name: module.__dict__[name] for name in _TRACES if name in module.__dict__}
    try:
        model: nn.Module = accelerator.prepare_model(module)
        yield model
    finally:
        for name in _TRACES:
            module.__dict__.pop(name, None)
        module.__dict__.update(kept)

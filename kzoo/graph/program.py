"""A network as a list of operations on named tensors, from torch.export."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from kzoo.errors import InputError


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor, or several: its shape (None where it is no single tensor), and the parameter or buffer that it is."""

    shape: tuple[int, ...] | None
    name: str | None = None
    given: bool = False


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of an operator: ``arguments`` by name, values in them; ``module`` is the path of the module that called."""

    name: str
    arguments: Mapping[str, Any]
    result: Value
    module: str
    pointwise: bool = False

    @property
    def inputs(self) -> list[Value]:
        """The values among the arguments, in order."""
        return list(_values(self.arguments))

    def given(self, *names: str) -> list[Any]:
        """Arguments by name, None where there is none."""
        return [self.arguments.get(name) for name in names]


@dataclass
class Program:
    """The operations in order; ``tensors`` are the parameters and buffers by name, ``outputs`` what is returned."""

    operations: list[Operation] = field(default_factory=list)
    tensors: dict[str, Value] = field(default_factory=dict)
    outputs: list[Value] = field(default_factory=list)


def _values(argument: Any) -> Iterator[Value]:
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, Mapping):
        for item in argument.values():
            yield from _values(item)
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _values(item)


def traced(module: nn.Module, example: Sequence[Any]) -> Program:
    """The program of ``module`` in evaluation mode on ``example``; the module is left as it is.

    Where parameters are not used then, as those of auxiliary classifiers, what training mode runs is added to it.

    Raises:
        InputError: it cannot be traced, as with control flow that depends on values.
    """
    program = Program()
    _add_trace(program, module, example, training=False)
    used = {value for operation in program.operations for value in operation.inputs}
    learned = {name for name, _ in module.named_parameters()}
    if any(value not in used for name, value in program.tensors.items() if name in learned):
        # A network that cannot be traced in training mode keeps these parts as they are.
        with contextlib.suppress(InputError):
            _add_trace(program, module, example, training=True)
    return program


def _add_trace(program: Program, module: nn.Module, example: Sequence[Any], training: bool) -> None:
    modes = [(part, part.training) for part in module.modules()]
    held = [
        (part, name, dict(value))
        for part in module.modules()
        for name, value in vars(part).items()
        if name not in _TORCHS_OWN and _is_cache(value)
    ]
    module.train(training)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = _exported(module, example_copy(example))
    finally:
        for part, mode in modes:
            part.training = mode
        # Tracing leaves tensors without values in what networks remember of their last run.
        forget_caches(module)
        for part, name, value in held:
            getattr(part, name).update(value)
    signature = exported.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    _Reader(program).read(exported.graph_module, names, first_names(module))


def first_names(module: nn.Module) -> dict[str, str]:
    """By the name of a parameter or buffer, the first name of the same tensor."""
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors}


def _exported(module: nn.Module, example: tuple[Any, ...]) -> Any:
    try:
        with _silent():
            return torch.export.export(module, example, strict=False)
    except Exception as error:  # whatever a network's own code raises
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{type(module).__name__} cannot be traced ({reason:.200}): which channels belong together is read off a network "
            "whose operations do not depend on the values of its inputs; check the example input, or take a part of the network"
        ) from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what torch logs and prints of a network that it cannot trace: that is said in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Reader:
    """Adds the operations of an exported graph to a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values: dict[Node, Any] = {}

    def read(self, root: GraphModule, names: Mapping[str, str], first: Mapping[str, str]) -> None:
        for node in root.graph.nodes:
            if node.op == "placeholder":
                name = names.get(str(node.target))
                name = first.get(name, name) if name is not None else None
                known = self.program.tensors.get(name or "")
                value = known or Value(_shape(node.meta.get("val")), name, given=name is None)
                self.values[node] = value
                if name is not None:
                    self.program.tensors[name] = value
        self.program.outputs += _values(self.run(root))

    def run(self, root: GraphModule) -> Any:
        """Read the operations of a graph whose placeholders are known; what it returns."""
        result: Any = None
        for node in root.graph.nodes:
            if node.op == "output":
                result = self._known(node.args[0])
            elif node.op == "get_attr":
                found = getattr(root, str(node.target), None)
                self.values[node] = (
                    found if isinstance(found, GraphModule) else Value(_shape(found if found is not None else None))
                )
            elif node.op == "call_function":
                self.values[node] = self._call(node)
        return result

    def _known(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self.values[argument]
        if isinstance(argument, (list, tuple)):
            return [self._known(item) for item in argument]
        return argument

    def _call(self, node: Node) -> Any:
        arguments = [self._known(item) for item in node.args]
        if getattr(node.target, "__name__", "") == "getitem" and isinstance(arguments[0], (list, tuple)):
            return arguments[0][arguments[1]]
        inner = next((place for place, item in enumerate(arguments) if isinstance(item, GraphModule)), None)
        if inner is not None:
            body = arguments[inner]
            entries = [item for item in body.graph.nodes if item.op == "placeholder"]
            self.values.update(zip(entries, arguments[inner + 1 :], strict=True))
            return self.run(body)
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return self._record(node, str(getattr(node.target, "__name__", node.target)), {"arguments": arguments})
        named: dict[str, Any] = {item.name: item.default_value for item in schema.arguments if item.has_default_value()}
        named |= {item.name: value for item, value in zip(schema.arguments, arguments, strict=False)}
        named |= {key: self._known(value) for key, value in node.kwargs.items()}
        return self._record(node, schema.name.rpartition("::")[2], named)

    def _record(self, node: Node, name: str, arguments: Mapping[str, Any]) -> Any:
        found = node.meta.get("val")
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path = str(stack[-1][0]).partition("@")[0] if stack else ""
        pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
        result = Value(_shape(found))
        if found is None:  # an assertion
            return result
        self.program.operations.append(Operation(name.rstrip("_"), arguments, result, path, pointwise))
        if isinstance(found, (list, tuple)):
            # Each part of a result is a value of its own.
            parts = [Value(_shape(item)) for item in found]
            for place, part in enumerate(parts):
                taken = {"source": result, "place": place}
                self.program.operations.append(Operation("getitem", taken, part, path))
            return parts
        return result


def _shape(found: Any) -> tuple[int, ...] | None:
    return tuple(int(size) for size in found.shape) if isinstance(found, Tensor) else None


def _is_cache(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, Tensor) for item in value.values())


def forget_caches(module: nn.Module) -> None:
    """Empty what modules remember of their last run: plain dictionaries of tensors."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in _TORCHS_OWN and _is_cache(value):
                value.clear()


_TORCHS_OWN = frozenset({"_parameters", "_buffers", "_modules"})


def example_copy(example: Sequence[Any]) -> tuple[Any, ...]:
    """The example inputs as a network of its own may change them."""
    return tuple(copy.deepcopy(item) for item in example)

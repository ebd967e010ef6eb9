# SPDX-License-Identifier: Apache-2.0
"""Bounds of an ONNX file's time and memory, checked before a runtime loads it.

A file of some kilobytes can contain a loop that does not end, functions that call each other 2^29 times, or
an operator that fills gigabytes from two numbers; ONNX Runtime evaluates what depends on constants alone
while it loads. The files that imp-export writes have static shapes and no control flow, so control flow is
rejected, and the sizes of tensors are followed through the graph. An operator whose sizes are not known is
rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from imp_trt.artifacts.manifest import EXPORT_AGAIN
from imp_trt.backends.onnx_file import Function, Node, OnnxFile, parse
from imp_trt.backends.onnx_known import buffer_elements, known_outputs
from imp_trt.backends.onnx_operators import ALLOWED
from imp_trt.backends.onnx_shapes import ABSENT, UNKNOWN, Known, known_tensor
from imp_trt.backends.onnx_tensor import MAX_RANK, elements
from imp_trt.errors import ArtifactError

MAX_NODES = 200_000
"""Nodes after functions have been expanded; exported networks have some thousands."""

MAX_DEPTH = 16
"""Functions that call functions."""

MAX_CONSTANT = 1 << 26
"""Elements of a tensor that depends on constants alone; it is kept in memory as long as the network."""

MAX_CONSTANTS = 1 << 28
"""Elements of all of them."""

MAX_ACTIVATION = 1 << 30
"""Elements of any other tensor."""

_STANDARD = ("", "ai.onnx")

_Functions = Mapping[tuple[str, str, str], Function]


def check_bounds(payload: bytes, path: str) -> None:
    """ArtifactError unless loading and running the file takes bounded time and memory."""
    model = check_graph(payload, path)
    Sizes(_by_key(model), path).follow(model)


def check_graph(payload: bytes, path: str) -> OnnxFile:
    """ArtifactError if the file refers to others, or has control flow, sparse tensors or too many nodes.

    The sizes of its tensors are not checked: a builder of engines has limits of its own.
    """
    try:
        model = parse(payload)
    except (ValueError, OverflowError) as error:
        raise ArtifactError(
            f"artifact {path}: the check before loading rejects the graph",
            expected="a complete ONNX file with all of its tensors",
            got=error,
            fix=f"copy the file again, or {EXPORT_AGAIN}",
        ) from error
    _check_functions(model, path)
    _check_operators(model, path)
    _check_expansion(model, _by_key(model), path)
    return model


def _by_key(model: OnnxFile) -> _Functions:
    return {(f.domain, f.name, f.overload): f for f in model.functions}


def _check_functions(model: OnnxFile, path: str) -> None:
    """A function must not hide an operator or another function: runtimes differ in which one they run."""
    keys = set()
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if function.domain in _STANDARD or key in keys:
            got = f"the function {function.name[:80]!r} of domain {function.domain[:80]!r}"
            raise _invalid(path, "functions of other domains than ONNX's, each once", got)
        keys.add(key)


def _check_operators(model: OnnxFile, path: str) -> None:
    sparse = model.has_sparse
    for node in _all_nodes(model):
        sparse = sparse or node.has_sparse
        if node.has_subgraph:
            raise _invalid(path, "a graph without control flow", f"the operator {node.op[:80]}")
    if sparse:
        raise _invalid(path, "dense tensors", "a sparse tensor, which takes more memory than its file")


def _all_nodes(model: OnnxFile) -> Iterator[Node]:
    yield from model.nodes
    for function in model.functions:
        yield from function.nodes


def _check_expansion(model: OnnxFile, functions: _Functions, path: str) -> None:
    """Count the nodes with functions expanded, each function once."""
    counts: dict[tuple[str, str, str], int] = {}
    active: set[tuple[str, str, str]] = set()

    def count(nodes: list[Node], depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op, node.overload)
            if key not in functions:
                total += _weight(node)
                continue
            if key in active or depth >= MAX_DEPTH:
                raise _invalid(path, f"functions nested at most {MAX_DEPTH} deep", "recursion or more")
            if key not in counts:
                active.add(key)
                counts[key] = count(functions[key].nodes, depth + 1)
                active.discard(key)
            total += _weight(node) + counts[key]  # a call takes time even if nothing is in the function
        return total

    total = count(model.nodes, 0)
    if total > MAX_NODES:
        raise _invalid(path, f"at most {MAX_NODES:,} nodes", f"{total:,} with functions expanded")


def _weight(node: Node) -> int:
    """The nodes that a node counts as: one with thousands of inputs takes the time of several."""
    lists = sum(len(value) for value in node.attributes.values() if isinstance(value, list))
    return 1 + (len(node.inputs) + len(node.outputs) + len(node.attributes) + lists) // 64


class Sizes:
    """Follows shapes and small constants through a graph."""

    def __init__(self, functions: _Functions, path: str) -> None:
        self._functions, self._path = functions, path
        self._constants = 0

    def follow(self, model: OnnxFile) -> dict[str, Known]:
        """What is known of the tensors of the graph; ArtifactError if one is too large."""
        known = {name: Known(shape, constant=False) for name, shape in model.inputs.items()}
        known |= {tensor.name: known_tensor(tensor) for tensor in model.initializers}
        opened = [name for name, tensor in known.items() if tensor.shape is None]
        if opened:
            raise _invalid(self._path, "inputs with fixed shapes", f"{opened[0][:80]!r} without one")
        self._run(model.nodes, known, {})
        return known

    def _run(self, nodes: list[Node], known: dict[str, Known], arguments: Mapping[str, object]) -> None:
        for node in nodes:
            inputs = [known.get(name, UNKNOWN) if name else ABSENT for name in node.inputs]
            passed = {a: arguments[b] for a, b in node.references.items() if b in arguments}
            attributes = {**node.attributes, **passed}
            function = self._functions.get((node.domain, node.op, node.overload))
            outputs = (
                self._outputs(node, inputs, attributes)
                if function is None
                else self._call(function, inputs, {**function.defaults, **attributes})
            )
            for name, output in zip(node.outputs, outputs, strict=False):
                if name in known:
                    raise _invalid(self._path, "tensors that one node computes", f"{name[:80]!r} twice")
                if name:
                    known[name] = output

    def _call(self, function: Function, inputs: list[Known], attributes: Mapping[str, object]) -> list[Known]:
        inner = dict(zip(function.inputs, inputs, strict=False))
        self._run(function.nodes, inner, attributes)
        return [inner.get(name, UNKNOWN) for name in function.outputs]

    def _outputs(self, node: Node, inputs: list[Known], attributes: Mapping[str, object]) -> list[Known]:
        if node.domain not in _STANDARD or node.op not in ALLOWED:
            domain = "" if node.domain in _STANDARD else f" of domain {node.domain[:80]!r}"
            expected = "operators whose sizes are known before they run"
            raise _invalid(self._path, expected, f"the operator {node.op[:80]}{domain}")
        outputs = known_outputs(node.op, inputs, attributes, len(node.outputs))
        for output in outputs:
            self._check(node, output)
        buffer = buffer_elements(node.op, inputs, attributes)
        if buffer is None or buffer > MAX_ACTIVATION:
            got = "an unknown number" if buffer is None else f"{buffer:,}"
            expected = f"at most {MAX_ACTIVATION:,} elements in between"
            raise _invalid(self._path, expected, f"{got} in {node.op[:80]}")
        return outputs

    def _check(self, node: Node, output: Known) -> None:
        shape = output.shape
        count = output.most if shape is None else elements(shape)
        if count is None:
            raise _invalid(self._path, "static shapes", f"{node.op[:80]} of a size that is not known")
        if len(shape or ()) > MAX_RANK:
            got = f"{len(shape or ()):,}, the output of {node.op[:80]}"
            raise _invalid(self._path, f"tensors of at most {MAX_RANK} dimensions", got)
        limit = MAX_CONSTANT if output.constant else MAX_ACTIVATION
        self._constants += count if output.constant else 0
        if count > limit or self._constants > MAX_CONSTANTS:
            where = "a shape that is not known" if shape is None else list(shape)[:8]
            got = f"{count:,} in {where}, the output of {node.op[:80]}"
            raise _invalid(self._path, f"tensors of at most {limit:,} elements", got)


def _invalid(path: str, expected: str, got: object) -> ArtifactError:
    return ArtifactError(
        f"artifact {path}: the graph would take too much time or memory",
        expected=expected,
        got=got,
        fix=f"{EXPORT_AGAIN}, and load only files whose origin you know",
    )

"""From a path, bytes or a `ModelProto` to a checked `Model`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.inliner
import onnx.numpy_helper
import onnx.shape_inference

from nnaccel_core.errors import UnsupportedError
from nnaccel_frontend_onnx.bridge import aligned, ir_dtype
from nnaccel_frontend_onnx.errors import ModelError
from nnaccel_frontend_onnx.external import read_external
from nnaccel_frontend_onnx.legacy import modernize

#: Domains whose operators onnx itself defines.
STANDARD = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.preview")


@dataclass(frozen=True)
class Model:
    """A valid model, its initializers read.

    Attributes:
        proto: with functions inlined; name: of the graph, for people.
        initializers: by name, read-only and aligned.
        inputs: values that a call must bring; defaults: inputs that have an initializer and may be brought.
        types: what onnx's shape inference knows of each value, by name.
        versions: operator set version of each domain ("" for onnx's own).
    """

    proto: onnx.ModelProto
    name: str
    initializers: Mapping[str, np.ndarray[Any, Any]]
    inputs: tuple[onnx.ValueInfoProto, ...]
    defaults: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    types: Mapping[str, onnx.TypeProto]
    versions: Mapping[str, int]


def where(node: onnx.NodeProto, index: int | None = None) -> str:
    """The node for messages: its name, else its first output, and its operator."""
    name = node.name or next((o for o in node.output if o), "") or (f"number {index}" if index is not None else "unnamed")
    return f"node {name!r} ({node.domain + '.' if node.domain else ''}{node.op_type})"


def load(source: Any) -> Model:
    """Read and check a model.

    Args:
        source: a path, the bytes of a file, or a ``ModelProto`` (which is not changed).

    Raises:
        ModelError: it is no valid model, or its external data is missing or outside its folder.
        UnsupportedError: it uses operators of a domain that nobody here knows.
    """
    folder: Path | None = None
    if isinstance(source, onnx.ModelProto):
        proto, label = onnx.ModelProto(), "the ModelProto"
        proto.CopyFrom(source)
    else:
        if isinstance(source, (str, os.PathLike)):
            path = Path(os.fsdecode(source))
            folder, label = path.parent, str(path)
            try:
                raw = path.read_bytes()
            except OSError as e:
                raise ModelError(f"{label} can't be read: {e.strerror or e}") from e
        else:
            raw, label = bytes(source), "the model in memory"
        proto = _parse(raw, label)
    return _checked(proto, folder, label)


def _parse(raw: bytes, label: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(raw)
    except Exception as e:  # protobuf's DecodeError, of one of its several implementations
        raise ModelError(f"{label} is no ONNX model, or is truncated: {e}") from e
    if not proto.ByteSize() or not proto.HasField("graph"):
        raise ModelError(f"{label} is no ONNX model: it has no graph; was the file downloaded completely?")
    return proto


def _checked(proto: onnx.ModelProto, folder: Path | None, label: str) -> Model:
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    if not versions:
        raise ModelError(f"{label} names no operator set (opset_import is empty)")
    newest = onnx.defs.onnx_opset_version()
    if versions.get("", 1) > newest:
        raise UnsupportedError(
            f"{label} needs operator set {versions['']}; onnx {onnx.__version__}, which is installed, knows up to {newest}: "
            f"pip install -U onnx"
        )
    _check_text(proto.graph, label)
    modernize(proto)
    _check_order(proto, label)
    _check_domains(proto, versions, label)
    initializers = _initializers(proto.graph, folder, label)
    _check(proto, label)
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto)
        except Exception as e:
            raise ModelError(f"{label}: its local functions can't be inlined: {e}") from e
        versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    graph = proto.graph
    given = [v for v in graph.input if v.name not in initializers]
    defaults = [v for v in graph.input if v.name in initializers]
    return Model(
        proto, graph.name or "onnx", initializers, tuple(given), tuple(defaults), tuple(graph.output), _types(proto), versions
    )


def _check(proto: onnx.ModelProto, label: str) -> None:
    """onnx's own checker, on a copy without the weights' bytes."""
    slim = onnx.ModelProto()
    slim.CopyFrom(proto)
    for t in slim.graph.initializer:
        if t.data_location == onnx.TensorProto.EXTERNAL:  # read and checked already; the checker would look for a file
            t.ClearField("data_location")
            t.ClearField("external_data")
            t.raw_data = b""
            del t.dims[:]
            t.dims.append(0)
    for v in (*slim.graph.input, *slim.graph.output):
        if v.type.HasField("tensor_type") and not v.type.tensor_type.HasField("shape"):  # common, and harmless
            v.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(slim)
    except Exception as e:
        raise ModelError(f"{label} is no valid ONNX model: {_short(e)}") from e


def _short(e: Exception) -> str:
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return " ".join(lines)[:600] or type(e).__name__


def _types(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Types by shape inference; only the declared ones where it fails."""
    slim = onnx.ModelProto()
    slim.CopyFrom(proto)
    for t in slim.graph.initializer:
        if t.ByteSize() > 4096:  # values of large weights decide no shapes
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
                t.ClearField(field)
            t.ClearField("data_location")
    try:
        inferred = onnx.shape_inference.infer_shapes(slim, data_prop=True)
    except Exception:
        inferred = slim
    g = inferred.graph
    return {v.name: v.type for v in (*g.input, *g.value_info, *g.output)}


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among the attributes of a node."""
    for a in node.attribute:
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def outer_names(graph: onnx.GraphProto) -> list[str]:
    """Names that a subgraph reads from outside, in order of their first use."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        for name in (*node.input, *(n for g in subgraphs(node) for n in outer_names(g))):
            if name and name not in own:
                found[name] = None
        own.update(node.output)
    for v in graph.output:
        if v.name not in own:
            found[v.name] = None
    return list(found)


def _check_text(graph: onnx.GraphProto, label: str) -> None:
    """Names are text: protobuf lets any bytes through, and hands them out as bytes."""
    for k, n in enumerate(graph.node):
        texts = [n.op_type, n.domain, n.name, *n.input, *n.output, *(t for a in n.attribute for t in (a.name, a.ref_attr_name))]
        if not all(isinstance(t, str) for t in texts):
            raise ModelError(f"{label} is damaged: node number {k} has a name that is no text")
        for g in subgraphs(n):
            _check_text(g, label)
    values = [v.name for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)]
    if not all(isinstance(t, str) for t in (graph.name, *values)):
        raise ModelError(f"{label} is damaged: a value has a name that is no text")


def _check_order(proto: onnx.ModelProto, label: str) -> None:
    """Every value is made once, before it is read.

    Raises:
        ModelError: names the node, and tells a cycle from a missing value.
    """
    graph = proto.graph
    known = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    known |= {s.values.name for s in graph.sparse_initializer}
    made_by = {o: k for k, n in enumerate(graph.node) for o in n.output if o}
    for k, node in enumerate(graph.node):
        for name in (*node.input, *(n for g in subgraphs(node) for n in outer_names(g))):
            if not name or name in known:
                continue
            if name not in made_by:
                raise ModelError(
                    f"{label}: {where(node, k)} reads {name!r}, which is no input, no initializer and no result of any node"
                )
            maker = graph.node[made_by[name]]
            if made_by[name] == k or _reaches(graph, k, made_by[name], made_by):
                raise ModelError(f"{label}: {where(node, k)} and {where(maker, made_by[name])} form a cycle through {name!r}")
            raise ModelError(f"{label}: {where(node, k)} reads {name!r} before {where(maker, made_by[name])} makes it")
        for name in node.output:
            if name and name in known:
                raise ModelError(f"{label}: {where(node, k)} makes {name!r}, which exists already")
            known.add(name)
    for v in graph.output:
        if v.name not in known:
            raise ModelError(f"{label}: the output {v.name!r} is made by no node")


def _reaches(graph: onnx.GraphProto, start: int, goal: int, made_by: Mapping[str, int]) -> bool:
    """Whether the results of node ``start`` are needed by node ``goal``."""
    todo, seen = [goal], set()
    while todo:
        k = todo.pop()
        if k == start:
            return True
        if k in seen:
            continue
        seen.add(k)
        todo += [made_by[n] for n in graph.node[k].input if n in made_by]
    return False


def _check_domains(proto: onnx.ModelProto, versions: Mapping[str, int], label: str) -> None:
    local = {(f.domain, f.name) for f in proto.functions}

    def check(graph: onnx.GraphProto) -> None:
        for k, node in enumerate(graph.node):
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (node.domain, node.op_type) not in local:
                if domain not in STANDARD:
                    raise UnsupportedError(
                        f"{label}: {where(node, k)} is of the operator domain {domain!r}, which neither onnx nor we define; "
                        f"export the network with standard operators, or with a local function for this one"
                    )
                if domain in versions and not onnx.defs.has(node.op_type, versions[domain], domain):
                    raise UnsupportedError(
                        f"{label}: {where(node, k)}: operator set {versions[domain]} of {domain or 'onnx'!r} has no such operator"
                    )
            for g in subgraphs(node):
                check(g)

    check(proto.graph)


def _initializers(graph: onnx.GraphProto, folder: Path | None, label: str) -> dict[str, np.ndarray[Any, Any]]:
    """All initializers' values.

    Raises:
        ModelError: a name used twice, more or fewer bytes than the shape needs, external data that can't be read.
    """
    out: dict[str, np.ndarray[Any, Any]] = {}
    for t in graph.initializer:
        if not t.name or t.name in out:
            raise ModelError(f"{label}: {f'two initializers are called {t.name!r}' if t.name else 'an initializer has no name'}")
        out[t.name] = tensor_array(t, folder, f"{label}: initializer {t.name!r}")
    for s in graph.sparse_initializer:
        out[s.values.name] = sparse_array(s, f"{label}: initializer {s.values.name!r}")
    return out


def tensor_array(t: onnx.TensorProto, folder: Path | None, what: str) -> np.ndarray[Any, Any]:
    """A tensor's values, read-only, aligned.

    Raises:
        ModelError: as for `_initializers`.
    """
    if t.data_location == onnx.TensorProto.EXTERNAL:
        t = read_external(t, folder, what)
    if any(d < 0 for d in t.dims):
        raise ModelError(f"{what} has the shape {list(t.dims)}")
    _check_size(t, what)
    try:
        array: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(t)
    except Exception as e:
        raise ModelError(f"{what} of shape {list(t.dims)} can't be read: {_short(e)}") from e
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    if ir_dtype(array.dtype) is not None:
        copy = aligned(array.shape, array.dtype)
        copy[...] = array
        array = copy
    array.flags.writeable = False
    return array


def _check_size(t: onnx.TensorProto, what: str) -> None:
    """Whether there are values for the shape, before anything of its size is made."""
    count = 1
    for d in t.dims:
        count *= d
    values = max(
        len(t.float_data), len(t.int32_data), len(t.int64_data), len(t.double_data), len(t.uint64_data), len(t.string_data),
        8 * len(t.raw_data),
    )  # fmt: skip
    if count and count > 4 * values:  # two of the smallest elements share a byte, four an int32
        raise ModelError(f"{what} has the shape {list(t.dims)}, but values for at most {4 * values} of its {count} elements")


def sparse_array(s: onnx.SparseTensorProto, what: str) -> np.ndarray[Any, Any]:
    """A sparse tensor as a dense array."""
    values, indices = tensor_array(s.values, None, what), tensor_array(s.indices, None, what)
    dims = list(s.dims)
    size = 1
    for d in dims:
        size *= max(d, 0)
    if size > 1 << 28:
        raise ModelError(f"{what} is sparse, of shape {dims}: too large to be made dense")
    out = np.zeros(dims, values.dtype)
    try:
        if indices.ndim == 1:
            out.reshape(-1)[indices] = values
        else:
            out[tuple(indices.T)] = values
    except IndexError as e:
        raise ModelError(f"{what}: {e}") from e
    out.flags.writeable = False
    return out

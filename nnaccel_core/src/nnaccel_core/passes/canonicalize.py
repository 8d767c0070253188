"""Passes that make graphs smaller without changing what limits them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnaccel_core.ir import Graph, Node, Value
from nnaccel_core.ops.registry import lookup, rewriter

#: Constants larger than this many elements are not folded: the result would be stored instead of computed.
FOLD_LIMIT = 1 << 16


def attrs_key(attrs: Any) -> tuple[Any, ...]:
    """A hashable form of a node's attributes."""
    return tuple((k, (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v) for k, v in sorted(attrs.items()))


def _is_identity(node: Node) -> bool:
    if not node.inputs or len(node.outputs) != 1:
        return False
    x, y = node.inputs[0], node.output
    if node.op == "stop_gradient":
        return True
    if node.op in ("reshape", "expand"):
        return x.type.shape == y.type.shape
    if node.op == "cast":
        return x.dtype == y.dtype
    if node.op == "transpose":
        return bool(node.attrs["perm"] == tuple(range(x.type.rank)))
    if node.op == "slice":
        return all(s == 0 for s in node.attrs["starts"]) and x.shape == y.shape and all(p == 1 for p in node.attrs["steps"])
    if node.op == "pad":
        return not any(lo or hi for lo, hi in node.attrs["pads"])
    if node.op in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min"):
        return not node.attrs["axes"]
    if node.op == "concat":
        return len(node.inputs) == 1
    if node.op in ("max_pool", "avg_pool"):
        ones = all(k == 1 for k in node.attrs["kernel"]) and all(s == 1 for s in node.attrs["stride"])
        return ones and not any(map(any, node.attrs["padding"]))
    return False


def eliminate_identities(graph: Graph) -> Graph:
    """Drop ops that return their input: same-shape reshapes, full slices, casts to the own type, empty pads..."""
    r = rewriter(graph)
    for node in graph.nodes:
        if _is_identity(node):
            r.alias(node.output, r.get(node.inputs[0]))
        else:
            r.emit(node)
    return r.finish()


def merge_views(graph: Graph) -> Graph:
    """Reshape of reshape becomes one reshape; transpose of transpose one transpose."""
    r = rewriter(graph)
    made: dict[Value, Node] = {}
    for node in graph.nodes:
        source = made.get(r.get(node.inputs[0])) if node.inputs else None
        if source is not None and node.op == source.op == "reshape":
            r.alias(node.output, r.add("reshape", [source.inputs[0]], node.attrs, origin=node.origin, name=node.output.name))
        elif source is not None and node.op == source.op == "transpose":
            perm = tuple(source.attrs["perm"][a] for a in node.attrs["perm"])
            r.alias(node.output, r.add("transpose", [source.inputs[0]], {"perm": perm}, origin=node.origin))
        else:
            r.emit(node)
        last = r.nodes[-1]
        if last.op in ("reshape", "transpose"):
            made[last.output] = last
    return r.finish()


def fold_constants(graph: Graph) -> Graph:
    """Evaluate nodes whose inputs are all constants."""
    r = rewriter(graph)
    known: dict[Value, np.ndarray[Any, Any]] = {}
    for node in graph.nodes:
        inputs = [r.get(v) for v in node.inputs]
        if node.op == "constant":
            r.emit(node)
            known[node.output] = node.attrs["value"]
        elif (
            inputs
            and len(node.outputs) == 1
            and node.output.type.is_static
            and not any(type(a).__name__ == "Expr" for a in node.attrs.values())
            and all(v in known for v in inputs)
            and all(d.dtype != "bfloat16" for d in (*inputs, node.output))  # numpy has none
            and int(node.output.type.size) <= FOLD_LIMIT  # type: ignore[arg-type]
        ):
            (value,) = lookup(node.op).ref([known[v] for v in inputs], node.attrs)
            new = r.add(
                "constant",
                [],
                {"value": np.ascontiguousarray(value).reshape(np.shape(value))},
                origin=node.origin,
                name=node.output.name,
            )
            r.alias(node.output, new)
            known[new] = r.nodes[-1].attrs["value"]
        else:
            r.emit(node)
    return r.finish()


def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """Compute equal expressions once."""
    r = rewriter(graph)
    seen: dict[tuple[Any, ...], Node] = {}
    for node in graph.nodes:
        inputs = tuple(r.get(v) for v in node.inputs)
        key = (node.op, inputs, attrs_key(node.attrs))
        found = seen.get(key)
        if found is not None:
            for old, new in zip(node.outputs, found.outputs, strict=True):
                r.alias(old, new)
            continue
        seen[key] = r.emit(node)
    return r.finish()
